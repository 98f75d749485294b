{{/*
The rules of files/rules.yaml on values: the twin of generator/neva_pretrain/check/engine.py; a property test holds the
two equal. Yields violations, as all checks do. Takes the root.
*/}}
{{- define "neva-pretrain.checkRules" -}}
{{- include "neva-pretrain.loadRules" . -}}
{{- $values := .Values -}}
{{- range .nevaRules.rules -}}
  {{- if include "neva-pretrain.holds" (dict "condition" .when "values" $values) -}}
    {{- $got := (include "neva-pretrain.at" (dict "path" .key "values" $values) | fromJson).text | default "nothing" -}}
    {{- $rule := include "neva-pretrain.filled" (dict "text" .rule "values" $values) -}}
    {{- $fix := include "neva-pretrain.filled" (dict "text" .fix "values" $values) -}}
    {{- include "neva-pretrain.violation" (dict "key" .key "got" $got "rule" $rule "fix" $fix) -}}
  {{- end -}}
{{- end -}}
{{- end -}}

{{/* One broken rule: the sentence as an item of a JSON list. Takes a dict: key, got, rule, fix. */}}
{{- define "neva-pretrain.violation" -}}
{{- printf "%s: got %s; %s; %s" .key (include "neva-pretrain.text" .got) .rule .fix | toJson -}},
{{- end -}}

{{/* Whether a condition, all of a list, or one of `any` holds. Takes a dict: condition, values. */}}
{{- define "neva-pretrain.holds" -}}
{{- $values := .values -}}{{- $holds := false -}}
{{- if kindIs "slice" .condition -}}
  {{- $holds = true -}}
  {{- range .condition -}}
    {{- if not (include "neva-pretrain.holds" (dict "condition" . "values" $values)) -}}
      {{- $holds = false -}}{{- break -}}
    {{- end -}}
  {{- end -}}
{{- else if kindIs "map" .condition -}}
  {{- range .condition.any -}}
    {{- if include "neva-pretrain.holds" (dict "condition" . "values" $values) -}}
      {{- $holds = true -}}{{- break -}}
    {{- end -}}
  {{- end -}}
{{- else -}}
  {{- $words := splitn " " 3 .condition -}}{{- $operator := $words._1 -}}
  {{- $value := include "neva-pretrain.at" (dict "path" $words._0 "values" $values) | fromJson -}}
  {{- $operand := include "neva-pretrain.filled" (dict "text" ($words._2 | default "") "values" $values) -}}
  {{- if eq $operator "set" -}}{{- $holds = $value.set -}}
  {{- else if eq $operator "unset" -}}{{- $holds = not $value.set -}}
  {{- else if eq $operator "given" -}}{{- $holds = $value.given -}}
  {{- else if eq $operator "is" -}}{{- $holds = eq $value.text $operand -}}
  {{- else if eq $operator "not" -}}{{- $holds = ne $value.text $operand -}}
  {{- else if eq $operator "gt" -}}{{- $holds = and $value.given (gt (float64 $value.text) (float64 $operand)) -}}
  {{- else if eq $operator "lt" -}}{{- $holds = and $value.given (lt (float64 $value.text) (float64 $operand)) -}}
  {{- else if eq $operator "matches" -}}{{- $holds = regexMatch $operand $value.text -}}
  {{- else -}}{{- printf "files/rules.yaml: no operator %s" $operator | fail -}}
  {{- end -}}
{{- end -}}
{{- ternary "true" "" $holds -}}
{{- end -}}

{{/* The value of a path, as JSON: whether it is set and given, and its text; of a map the keys, of a list the items.
Takes a dict: path, values. */}}
{{- define "neva-pretrain.at" -}}
{{- $value := .values -}}
{{- range splitList "." .path -}}
  {{- if kindIs "map" $value -}}{{- $value = index $value . -}}{{- else -}}{{- $value = index dict . -}}{{- end -}}
{{- end -}}
{{- $text := "" -}}
{{- if kindIs "map" $value -}}{{- $text = keys $value | sortAlpha | join ", " -}}
{{- else if kindIs "slice" $value -}}{{- $text = join ", " $value -}}
{{- else if not (kindIs "invalid" $value) -}}{{- $text = include "neva-pretrain.text" $value -}}
{{- end -}}
{{- dict "set" (not (empty $value)) "given" (not (kindIs "invalid" $value)) "text" $text | toJson -}}
{{- end -}}

{{/* A text with the values that its {path}s stand for. Takes a dict: text, values. */}}
{{- define "neva-pretrain.filled" -}}
{{- $values := .values -}}{{- $place := "\\{[A-Za-z.]+\\}" -}}
{{- $paths := regexFindAll $place .text -1 -}}
{{- range $index, $text := regexSplit $place .text -1 -}}
  {{- if $index -}}
    {{- $path := index $paths (sub $index 1 | int) | trimAll "{}" -}}
    {{- (include "neva-pretrain.at" (dict "path" $path "values" $values) | fromJson).text -}}
  {{- end -}}
  {{- $text -}}
{{- end -}}
{{- end -}}
