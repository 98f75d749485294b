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

{{/* Whether the exporter shows the run in the TrainJob's status. Takes the root. */}}
{{- define "neva-pretrain.trainJobStatus" -}}
{{- $m := .Values.monitoring -}}
{{- if and (eq .Values.job.kind "TrainJob") $m.exporter.enabled $m.trainJobStatus.enabled }}true{{ end -}}
{{- end -}}

{{/* What Trainer gives a training container to report with, for the exporter: to init containers, which a sidecar is
one of, it gives nothing. The names are Trainer's own, and its volume of this name takes the place of this one. The
token is good for this TrainJob's progress and nothing else. Takes a dict: root, job (its name). */}}
{{- define "neva-pretrain.statusEnvironment" -}}
{{- $root := .root -}}
{{- $folder := include "neva-pretrain.statusFolder" . -}}
{{- $server := $root.Values.monitoring.trainJobStatus.server -}}
{{- range $name, $value := dict
  "URL" (printf "%s/apis/%s" $server (include "neva-pretrain.statusResource" .))
  "CA_CERT" (print $folder "/ca.crt")
  "TOKEN" (print $folder "/token") }}
{{ include "neva-pretrain.env" (dict "name" (print "KUBEFLOW_TRAINER_SERVER_" $name) "value" $value) }}
{{- end }}
{{- end -}}

{{- define "neva-pretrain.statusFolder" -}}
/var/run/secrets/kubeflow/trainer
{{- end -}}

{{/* The volume at that folder. Its ConfigMap is Trainer's, which makes it with the feature gate TrainJobStatus only.
Takes a dict: root, job. */}}
{{- define "neva-pretrain.statusVolume" -}}
- name: kubeflow-trainer-token
  projected:
    sources:
      - serviceAccountToken:
          audience: {{ include "neva-pretrain.statusResource" . }}
          expirationSeconds: 3600
          path: token
      - configMap:
          name: {{ .job }}-tls-config
          optional: true
          items:
            - key: ca.crt
              path: ca.crt
{{- end -}}

{{/* Path of the TrainJob's status, which names the token's audience, too. Takes a dict: root, job. */}}
{{- define "neva-pretrain.statusResource" -}}
trainer.kubeflow.org/v1alpha1/namespaces/{{ .root.Release.Namespace }}/trainjobs/{{ .job }}/status
{{- end -}}
