{{/* Required values, keys of earlier versions and the format of texts, which all other rules rely on. */}}
{{- define "neva-pretrain.checkFormats" -}}
{{- include "neva-pretrain.loadRules" . -}}
{{- $rules := .nevaRules -}}{{- $values := .Values -}}
{{- $entries := include "neva-pretrain.entries" . | fromJsonArray | compact -}}
{{- $at := dict -}}
{{- range $entries -}}{{- $_ := set $at .path . -}}{{- end -}}
{{- $mayBeNull := concat $rules.optional.sections $rules.optional.lists -}}
{{- $missing := dict -}}
{{- range $section, $keys := $rules.required -}}
  {{- range splitList " " $keys -}}
    {{- $path := ternary . (print $section "." .) (empty $section) -}}
    {{- $places := list (get $at $path) -}}
    {{- if not (hasKey $at $path) -}}
      {{- $places = include "neva-pretrain.select" (dict "tree" $values "path" $path) | fromJsonArray | compact -}}
    {{- end -}}
    {{- range $places -}}
      {{- if and (eq .kind "invalid") (not (has .path $mayBeNull)) -}}{{- $_ := set $missing .path true -}}{{- end -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- $default := "leave the default, or set it (with helm upgrade: --reset-then-reuse-values)" -}}
{{- range $path, $_ := $missing -}}
  {{- include "neva-pretrain.violation" (dict "key" $path "got" "nothing" "rule" "must be set"
    "fix" (ternary "add it" $default (contains "[" $path))) -}}
{{- end -}}
{{- range $path, $renamed := $rules.renamed -}}
  {{- range include "neva-pretrain.select" (dict "tree" $values "path" $path) | fromJsonArray | compact -}}
    {{- if ne .kind "invalid" -}}
      {{- include "neva-pretrain.violation" (dict "key" $path
        "got" (dict "value" .text "path" .path "rules" $rules.secrets
          | include "neva-pretrain.show" | default "nothing")
        "rule" (printf "must not be set, since %s has replaced it" $renamed.now) "fix" $renamed.fix) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- range $format := $rules.formats -}}
  {{- $found := list -}}{{- $texts := list -}}
  {{- range $path := splitList " " $format.keys -}}
    {{- $places := list (get $at $path) -}}
    {{- if not (hasKey $at $path) -}}
      {{- $places = include "neva-pretrain.select" (dict "tree" $values "path" $path) | fromJsonArray | compact -}}
    {{- end -}}
    {{- range $places -}}
      {{- if not (has .kind (list "invalid" "map" "slice")) -}}
        {{- $found = append $found . -}}{{- $texts = append $texts .text -}}
      {{- end -}}
    {{- end -}}
  {{- end -}}
  {{- /* All texts at once first, one a line: each expression is compiled anew for each match. */ -}}
  {{- $lines := join "\n" $texts -}}
  {{- $right := eq (splitList "\n" $lines | len) (len $texts) -}}
  {{- if and $right $format.pattern -}}
    {{- $right = eq (regexFindAll (print "(?m)" $format.pattern) $lines -1 | len) (len $texts) -}}
  {{- end -}}
  {{- if and $right $format.never -}}{{- $right = not (regexMatch (print "(?m)" $format.never) $lines) -}}{{- end -}}
  {{- range ternary list $found $right -}}
    {{- $right := or (not $format.pattern) (regexMatch $format.pattern .text) -}}
    {{- if and $right $format.never -}}{{- $right = not (regexMatch $format.never .text) -}}{{- end -}}
    {{- if not $right -}}
      {{- include "neva-pretrain.violation" (dict "key" (include "neva-pretrain.oneLine" .path)
        "got" (dict "value" .text "path" .path "rules" $rules.secrets
          | include "neva-pretrain.show" | default "nothing") "rule" $format.rule "fix" $format.fix) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- $texts := list -}}
{{- range $entries -}}{{- if or .text .name -}}{{- $texts = append $texts (print .name .text) -}}{{- end -}}{{- end -}}
{{- if regexMatch $rules.unprintable (join "" $texts) -}}
  {{- range $entries -}}
    {{- if regexMatch $rules.unprintable (print .name .text) -}}
      {{- include "neva-pretrain.violation" (dict "key" (include "neva-pretrain.oneLine" .path)
        "got" (dict "value" .text "path" .path "rules" $rules.secrets
          | include "neva-pretrain.show" | default "a key")
        "rule" "must be printable characters, keys included" "fix" "remove other characters") -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- end -}}
