{{/* Metadata of the job, whatever its kind. Takes a dict: root, facts, name. */}}
{{- define "neva-pretrain.jobMetadata" -}}
{{- $root := .root -}}{{- $facts := .facts -}}
name: {{ .name }}
namespace: {{ $root.Release.Namespace | quote }}
labels:
  {{- include "neva-pretrain.workloadLabels" $root | nindent 2 }}
annotations:
  {{- include "neva-pretrain.jobAnnotations" (dict "root" $root "facts" $facts) | nindent 2 }}
{{- end -}}

{{/* Metadata of the job's pods. Takes a dict: root, facts, role; Node is a pod of a TrainJob, master or worker. */}}
{{- define "neva-pretrain.podMetadata" -}}
{{- $root := .root -}}{{- $facts := .facts -}}
{{- $more := ternary dict $root.Values.workerLabels (eq .role "Master") -}}
labels:
  {{- include "neva-pretrain.podLabels" (dict "root" $root "more" $more) | trim | nindent 2 }}
{{- with include "neva-pretrain.podAnnotations" (dict "root" $root "facts" $facts) | trim }}
annotations:
  {{- . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Label of the job's pods, which says its name. Takes the root. */}}
{{- define "neva-pretrain.jobLabel" -}}
{{- ternary "jobset.sigs.k8s.io/jobset-name" "training.kubeflow.org/job-name" (eq .Values.job.kind "TrainJob") -}}
{{- end -}}

{{/* The pod of rank 0, for kubectl: a PyTorchJob's by its name; a TrainJob's, whose name ends in random letters, by the
index of its node. Takes a dict: root, job. */}}
{{- define "neva-pretrain.firstPod" -}}
{{- $job := .job -}}
{{- if eq .root.Values.job.kind "TrainJob" -}}
-l jobset.sigs.k8s.io/jobset-name={{ $job }},batch.kubernetes.io/job-completion-index=0
{{- else -}}
{{ $job }}-master-0
{{- end -}}
{{- end -}}

{{/* The same for kubectl logs: by a label it would show ten lines, and by default of another container. */}}
{{- define "neva-pretrain.firstPodLogs" -}}
{{- include "neva-pretrain.firstPod" . -}}
{{- if eq .root.Values.job.kind "TrainJob" }} -c node --tail=-1{{ end -}}
{{- end -}}

{{/* The same for commands that take no label. */}}
{{- define "neva-pretrain.firstPodName" -}}
{{- if eq .root.Values.job.kind "TrainJob" -}}
$(kubectl get pod -o name -n {{ .root.Release.Namespace }} {{ include "neva-pretrain.firstPod" . }})
{{- else -}}
{{ include "neva-pretrain.firstPod" . }}
{{- end -}}
{{- end -}}
