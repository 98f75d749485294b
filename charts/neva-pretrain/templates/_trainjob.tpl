{{/* What a TrainJob runs: one template for all nodes. Takes (list root facts configMapName). */}}
{{- define "neva.runtimeSpec" -}}
{{- $root := index . 0 -}}{{- $facts := index . 1 -}}{{- $configMap := index . 2 -}}
{{- $v := $root.Values -}}
mlPolicy:
  numNodes: {{ include "neva.text" $v.training.nodes }}
  torch:
    numProcPerNode: {{ include "neva.text" $v.training.gpusPerNode }}
{{- with ($v.scheduling | default dict).schedulingPolicy }}
podGroupPolicy:
  coscheduling:
    scheduleTimeoutSeconds: {{ include "neva.text" (.scheduleTimeoutSeconds | default 60) }}
{{- end }}
template:
  spec:
    replicatedJobs:
      - name: node
        template:
          metadata:
            labels:
              trainer.kubeflow.org/trainjob-ancestor-step: trainer
          spec:
            # 0: a Job by itself would start a failed pod six times anew, each time without its peers.
            backoffLimit: {{ if eq $v.restartPolicy "OnFailure" }}{{ include "neva.backoffLimit" $root }}{{ else }}0{{ end }}
            {{- $deadline := $v.runPolicy.activeDeadlineSeconds }}
            {{- if not (kindIs "invalid" $deadline) }}
            activeDeadlineSeconds: {{ include "neva.text" $deadline }}
            {{- end }}
            template:
              metadata:
                {{- include "neva.podMetadata" (list $root $facts "Node") | nindent 16 }}
              spec:
                restartPolicy: {{ $v.restartPolicy }}
                {{- include "neva.pod" (list $root $facts $configMap "Node") | nindent 16 }}
{{- end -}}
