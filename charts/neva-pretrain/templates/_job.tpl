{{/* Metadata of the job, whatever its kind. Takes (list root facts name). */}}
{{- define "neva.jobMetadata" -}}
{{- $root := index . 0 -}}{{- $facts := index . 1 -}}
name: {{ index . 2 }}
namespace: {{ $root.Release.Namespace | quote }}
labels:
  {{- include "neva.labels" $root | nindent 2 }}
  {{- with include "neva.queueLabels" $root | trim }}
  {{- . | nindent 2 }}
  {{- end }}
annotations:
  neva-pretrain/model: {{ $facts.modelName }}
  neva-pretrain/gpus: {{ include "neva.text" $facts.worldSize | quote }}
  neva-pretrain/max-steps: {{ include "neva.text" $root.Values.training.maxSteps | quote }}
  neva-pretrain/global-batch-size: {{ include "neva.text" $root.Values.training.globalBatchSize | quote }}
  neva-pretrain/tokens-per-sample: {{ include "neva.text" $facts.model.tokensPerSample | quote }}
  neva-pretrain/results: {{ $facts.resultsPath | toJson }}
{{- end -}}

{{/* Metadata of the job's pods. Takes (list root facts role); Node is a pod of a TrainJob, master or worker. */}}
{{- define "neva.podMetadata" -}}
{{- $root := index . 0 -}}{{- $facts := index . 1 -}}{{- $more := ternary dict $root.Values.workerLabels (eq (index . 2) "Master") -}}
labels:
  {{- include "neva.podLabels" (list $root $more) | trim | nindent 2 }}
{{- with include "neva.podAnnotations" (list $root $facts) | trim }}
annotations:
  {{- . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Restarts before the job fails, of a restartPolicy that has them. Takes the root. */}}
{{- define "neva.backoffLimit" -}}
{{- $backoff := .Values.runPolicy.backoffLimit -}}
{{- include "neva.text" (ternary 3 $backoff (kindIs "invalid" $backoff)) -}}
{{- end -}}
