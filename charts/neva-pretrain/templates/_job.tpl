{{/* Metadata of the job, whatever its kind. Takes (list root facts name). */}}
{{- define "neva-pretrain.jobMetadata" -}}
{{- $root := index . 0 -}}{{- $facts := index . 1 -}}
name: {{ index . 2 }}
namespace: {{ $root.Release.Namespace | quote }}
labels:
  {{- include "neva-pretrain.workloadLabels" $root | nindent 2 }}
annotations:
  {{- include "neva-pretrain.jobAnnotations" (list $root $facts) | nindent 2 }}
{{- end -}}

{{/* Metadata of the job's pods. Takes (list root facts role); Node is a pod of a TrainJob, master or worker. */}}
{{- define "neva-pretrain.podMetadata" -}}
{{- $root := index . 0 -}}{{- $facts := index . 1 -}}{{- $more := ternary dict $root.Values.workerLabels (eq (index . 2) "Master") -}}
labels:
  {{- include "neva-pretrain.podLabels" (list $root $more) | trim | nindent 2 }}
{{- with include "neva-pretrain.podAnnotations" (list $root $facts) | trim }}
annotations:
  {{- . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Restarts before the job fails, of a restartPolicy that has them. Takes the root. */}}
{{- define "neva-pretrain.backoffLimit" -}}
{{- $backoff := .Values.runPolicy.backoffLimit -}}
{{- include "neva-pretrain.text" (ternary 3 $backoff (kindIs "invalid" $backoff)) -}}
{{- end -}}

{{/* The pod of rank 0, for kubectl: a PyTorchJob's by its name; a TrainJob's, whose name ends in random letters, by the
index of its node. Takes (list root job). */}}
{{- define "neva-pretrain.firstPod" -}}
{{- $job := index . 1 -}}
{{- if eq (index . 0).Values.job.kind "TrainJob" -}}
-l jobset.sigs.k8s.io/jobset-name={{ $job }},batch.kubernetes.io/job-completion-index=0
{{- else -}}
{{ $job }}-master-0
{{- end -}}
{{- end -}}

{{/* The same for kubectl logs: by a label it would show ten lines, and by default of another container. */}}
{{- define "neva-pretrain.firstPodLogs" -}}
{{- include "neva-pretrain.firstPod" . -}}
{{- if eq (index . 0).Values.job.kind "TrainJob" }} -c node --tail=-1{{ end -}}
{{- end -}}

{{/* The same for commands that take no label. */}}
{{- define "neva-pretrain.firstPodName" -}}
{{- if eq (index . 0).Values.job.kind "TrainJob" -}}
$(kubectl get pod -o name -n {{ (index . 0).Release.Namespace }} {{ include "neva-pretrain.firstPod" . }})
{{- else -}}
{{ include "neva-pretrain.firstPod" . }}
{{- end -}}
{{- end -}}
