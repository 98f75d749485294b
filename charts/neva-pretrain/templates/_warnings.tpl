{{/*
What is allowed and likely a mistake, as a JSON list of sentences for the notes, in the order and words of
generator/neva_pretrain/check/advice.py; a property test holds the two equal. Takes the root.
*/}}
{{- define "neva-pretrain.warnings" -}}
{{- $said := list -}}
{{- $v := .Values -}}
{{- $f := include "neva-pretrain.facts" . | fromJson -}}
{{- $rdma := $v.rdma -}}
{{- if and (eq $f.mode "train") $f.rdma.enabled (gt (int64 $v.training.nodes) 1) -}}
  {{- $attached := or $rdma.networks (get $v.podAnnotations "k8s.v1.cni.cncf.io/networks") -}}
  {{- if and (eq $v.fabric "roce") (not $v.hostNetwork) (not $attached) -}}
    {{- $said = append $said (printf "rdma.networks: none with fabric roce; %s: %s"
      "RoCE v2 runs over IP, and a pod without the rails' interfaces fails at its first connection"
      "name their networks (Multus), or use hostNetwork") -}}
  {{- end -}}
  {{- if and (eq $v.fabric "efa") (not $rdma.count) (not $rdma.resources) -}}
    {{- $said = append $said (printf "rdma.count: %s, as a p5.48xlarge has; %s: set it for other instances"
      (include "neva-pretrain.text" (first (values $f.rdma.resources)))
      "pods that request more than their node has stay Pending") -}}
  {{- end -}}
{{- end -}}
{{- include "neva-pretrain.loadRules" . -}}
{{- range .nevaRules.warnings -}}
  {{- if include "neva-pretrain.holds" (dict "condition" .when "values" $v) -}}
    {{- $said = append $said (printf "%s: %s" .key (include "neva-pretrain.filled" (dict "text" .text "values" $v))) -}}
  {{- end -}}
{{- end -}}
{{- $said | toJson -}}
{{- end -}}
