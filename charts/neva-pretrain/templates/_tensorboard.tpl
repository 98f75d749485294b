{{- define "neva-pretrain.tensorboardName" -}}
{{- include "neva-pretrain.fullname" . }}-tensorboard
{{- end -}}

{{- define "neva-pretrain.tensorboardSelector" -}}
{{ include "neva-pretrain.selectorLabels" . }}
app.kubernetes.io/component: tensorboard
{{- end -}}

{{/* Where the results volume is, so training's nodes; without what is only for a job of GPUs. Takes the root. */}}
{{- define "neva-pretrain.readerFrame" -}}
{{- $frame := include "neva-pretrain.podFrame" . | fromYaml -}}
{{- omit $frame "hostNetwork" "dnsPolicy" "priorityClassName" "schedulerName" "topologySpreadConstraints"
  | include "neva-pretrain.yaml" -}}
{{- end -}}
