{{/* What a TrainJob runs: one template for all nodes. Takes a dict: root, facts, configMap (its name). */}}
{{- define "neva-pretrain.runtimeSpec" -}}
{{- $root := .root -}}{{- $facts := .facts -}}{{- $configMap := .configMap -}}
{{- $v := $root.Values -}}
mlPolicy:
  numNodes: {{ include "neva-pretrain.text" $v.training.nodes }}
  # The TrainJob says how many processes: since Trainer 2.2 this has no field for it.
  torch: {}
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
            {{- if $v.restart.enabled }}
            # As ExitCode of a PyTorchJob: a pod that was lost, killed or evicted is created anew, as is one that never
            # started; one that ended by itself fails the job.
            backoffLimit: 2147483647
            podFailurePolicy:
              rules:
                - action: Ignore
                  onPodConditions:
                    - type: DisruptionTarget
                      status: "True"
                - action: Ignore
                  onExitCodes:
                    containerName: node
                    operator: In
                    values: {{ untilStep 128 256 1 | toJson }}
                - action: FailJob
                  onExitCodes:
                    containerName: node
                    operator: NotIn
                    values: [0]
            {{- else }}
            backoffLimit: 0
            {{- end }}
            {{- $deadline := $v.runPolicy.activeDeadlineSeconds }}
            {{- if not (kindIs "invalid" $deadline) }}
            activeDeadlineSeconds: {{ include "neva-pretrain.text" $deadline }}
            {{- end }}
            template:
              metadata:
                {{- include "neva-pretrain.podMetadata" (dict "root" $root "facts" $facts "role" "Node") | nindent 16 }}
              spec:
                restartPolicy: Never
                {{- include "neva-pretrain.pod" (set . "role" "Node") | nindent 16 }}
{{- end -}}
