{{/* A policy admits what the release downloads, and the way to Weights & Biases; the API takes its rules. */}}
{{- define "neva-pretrain.checkNetwork" -}}
{{- $v := .Values -}}{{- $why := list -}}
{{- if $v.prepare.enabled -}}
  {{- if include "neva-pretrain.prepareOnline" . -}}{{- $why = append $why "prepare downloads" -}}{{- end -}}
{{- else -}}
  {{- if $v.hf.online -}}{{- $why = append $why "hf.online is true" -}}{{- end -}}
  {{- if and $v.wandb.enabled (eq (toString $v.wandb.mode) "online") -}}
    {{- $why = append $why "wandb.mode is online" -}}
  {{- end -}}
{{- end -}}
{{- if and $v.networkPolicy.enabled $why (not $v.networkPolicy.egress) -}}
  {{- include "neva-pretrain.violation" (dict "key" "networkPolicy.egress" "got" "nothing"
    "rule" (printf "must allow internet hosts, since %s" (join " and " $why))
    "fix" "use a rule such as internet: {ports: [{port: 443}]}") -}}
{{- end -}}
{{- range $direction, $side := dict "egress" "to" "ingress" "from" -}}
  {{- range $name, $rule := get $v.networkPolicy $direction -}}
    {{- $key := printf "networkPolicy.%s.%s" $direction $name -}}
    {{- range $index, $peer := get ($rule | default dict) $side | default list -}}
      {{- include "neva-pretrain.peerBreaks" (dict "key" (printf "%s.%s[%d]" $key $side $index) "peer" $peer) -}}
    {{- end -}}
    {{- range $index, $port := ($rule | default dict).ports -}}
      {{- include "neva-pretrain.portBreaks" (dict "key" (printf "%s.ports[%d]" $key $index) "port" $port) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- end -}}

{{/* What the API would refuse of a peer. Takes a dict: key, peer. */}}
{{- define "neva-pretrain.peerBreaks" -}}
{{- $peer := .peer -}}{{- $given := list -}}
{{- range $kind, $value := $peer -}}
  {{- if not (kindIs "invalid" $value) -}}{{- $given = append $given $kind -}}{{- end -}}
{{- end -}}
{{- if not $given -}}
  {{- include "neva-pretrain.violation" (dict "key" .key "got" "nothing"
    "rule" "must be an ipBlock, a namespaceSelector or a podSelector"
    "fix" "use one, such as podSelector: {} for all pods") -}}
{{- end -}}
{{- if and (has "ipBlock" $given) (gt (len $given) 1) -}}
  {{- include "neva-pretrain.violation" (dict "key" .key "got" (join " and " $given)
    "rule" "must be an ipBlock or selectors, not both" "fix" "use two peers") -}}
{{- end -}}
{{- if and (has "ipBlock" $given) (not (get ($peer.ipBlock | default dict) "cidr")) -}}
  {{- include "neva-pretrain.violation" (dict "key" (print .key ".ipBlock.cidr") "got" "nothing"
    "rule" "must be set" "fix" "use one such as 10.0.0.0/8") -}}
{{- end -}}
{{- range $kind := list "namespaceSelector" "podSelector" -}}
  {{- range $index, $expression := (get $peer $kind | default dict).matchExpressions -}}
    {{- $key := printf "%s.%s.matchExpressions[%d]" $.key $kind $index -}}
    {{- $operator := $expression.operator | default "nothing" -}}{{- $values := $expression.values | default list -}}
    {{- range list "key" "operator" -}}
      {{- if not (get $expression .) -}}
        {{- include "neva-pretrain.violation" (dict "key" (printf "%s.%s" $key .) "got" "nothing"
          "rule" "must be set" "fix" "use a label, and In, NotIn or Exists") -}}
      {{- end -}}
    {{- end -}}
    {{- if and (has $operator (list "In" "NotIn")) (not $values) -}}
      {{- include "neva-pretrain.violation" (dict "key" (print $key ".values") "got" "nothing"
        "rule" (printf "must not be empty with operator %s" $operator) "fix" "use values of the label") -}}
    {{- end -}}
    {{- if and (has $operator (list "Exists" "DoesNotExist")) $values -}}
      {{- include "neva-pretrain.violation" (dict "key" (print $key ".values") "got" (join ", " $values)
        "rule" (printf "must not be set with operator %s" $operator) "fix" "remove it") -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- end -}}

{{/* What the API would refuse of a port. Takes a dict: key, port. */}}
{{- define "neva-pretrain.portBreaks" -}}
{{- $port := .port.port -}}{{- $end := .port.endPort -}}{{- $named := kindIs "string" $port -}}
{{- if and $named (regexMatch "^[0-9]+$" (toString $port)) -}}
  {{- include "neva-pretrain.violation" (dict "key" (print .key ".port") "got" $port
    "rule" "must be a number without quotes, or a name with a letter" "fix" (print "use " $port)) -}}
{{- else if not (kindIs "invalid" $end) -}}
  {{- if or $named (kindIs "invalid" $port) (gt (int64 ($port | default 0)) (int64 $end)) -}}
    {{- $got := "nothing" -}}
    {{- if not (kindIs "invalid" $port) -}}{{- $got = include "neva-pretrain.text" $port -}}{{- end -}}
    {{- include "neva-pretrain.violation" (dict "key" (print .key ".port") "got" $got
      "rule" (printf "must be a number up to endPort (%s)" (include "neva-pretrain.text" $end))
      "fix" "use the first port of the range") -}}
  {{- end -}}
{{- end -}}
{{- end -}}
