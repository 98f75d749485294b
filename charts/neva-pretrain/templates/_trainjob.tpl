{{/* What a TrainJob runs: one template for all nodes. Takes a dict: root, facts, configMap (its name). */}}
{{- define "neva-pretrain.runtimeSpec" -}}
{{- $root := .root -}}{{- $facts := .facts -}}{{- $configMap := .configMap -}}
{{- $v := $root.Values -}}
mlPolicy:
  numNodes: {{ include "neva-pretrain.text" $v.training.nodes }}
  torch:
    numProcPerNode: {{ include "neva-pretrain.text" $v.training.gpusPerNode }}
{{- with $v.scheduling.schedulingPolicy }}
podGroupPolicy:
  coscheduling:
    scheduleTimeoutSeconds: {{ include "neva-pretrain.text" (.scheduleTimeoutSeconds | default 60) }}
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
            backoffLimit: {{ eq $v.restartPolicy "OnFailure" | ternary (include "neva-pretrain.backoffLimit" $root) 0 }}
            {{- $deadline := $v.runPolicy.activeDeadlineSeconds }}
            {{- if not (kindIs "invalid" $deadline) }}
            activeDeadlineSeconds: {{ include "neva-pretrain.text" $deadline }}
            {{- end }}
            template:
              metadata:
                {{- include "neva-pretrain.podMetadata" (dict "root" $root "facts" $facts "role" "Node") | nindent 16 }}
              spec:
                restartPolicy: {{ $v.restartPolicy }}
                {{- include "neva-pretrain.pod" (set . "role" "Node") | nindent 16 }}
{{- end -}}
