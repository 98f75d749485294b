{{- define "neva.tensorboardName" -}}
{{- include "neva.fullname" . }}-tensorboard
{{- end -}}

{{- define "neva.tensorboardSelector" -}}
{{ include "neva.selectorLabels" . }}
app.kubernetes.io/component: tensorboard
{{- end -}}

{{/* Where the results volume is, so training's nodes; without what is only for a job of GPUs. Takes the root. */}}
{{- define "neva.tensorboardFrame" -}}
{{- omit (include "neva.podFrame" . | fromYaml) "hostNetwork" "dnsPolicy" "priorityClassName" "schedulerName" "topologySpreadConstraints" | include "neva.yaml" -}}
{{- end -}}
