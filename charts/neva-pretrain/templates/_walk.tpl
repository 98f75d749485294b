{{/* All that lies in a tree, level by level, as a JSON list: path, name (an item of a list has the list's), kind and, of a
scalar, its text. 32 levels: what lies deeper is one entry of kind "deep". Takes (list tree path). */}}
{{- define "neva.walk" -}}
{{- $level := list (dict "path" (index . 1) "name" "" "node" (index . 0)) -}}
[{{- range $depth := until 33 -}}
  {{- if not $level -}}{{- break -}}{{- end -}}
  {{- $next := list -}}
  {{- range $at := $level -}}
    {{- if eq $depth 32 -}}{{- dict "path" $at.path "name" $at.name "kind" "deep" "text" "" | toJson -}},{{- continue -}}{{- end -}}
    {{- $prefix := ternary (print $at.path ".") "" (not (empty $at.path)) -}}
    {{- $listed := kindIs "slice" $at.node -}}
    {{- range $key, $node := $at.node -}}
      {{- $path := ternary (printf "%s[%v]" $at.path $key) (print $prefix $key) $listed -}}
      {{- $name := ternary $at.name (toString $key) $listed -}}
      {{- $kind := kindOf $node -}}
      {{- if or (eq $kind "map") (eq $kind "slice") -}}
        {{- $next = append $next (dict "path" $path "name" $name "node" $node) -}}
        {{- dict "path" $path "name" $name "kind" $kind "text" "" | toJson -}},
      {{- else -}}
        {{- dict "path" $path "name" $name "kind" $kind "text" (ternary "" (include "neva.text" $node) (eq $kind "invalid")) | toJson -}},
      {{- end -}}
    {{- end -}}
  {{- end -}}
  {{- $level = $next -}}
{{- end -}}
null]
{{- end -}}

{{/* Whether a name says that its value is a secret. Takes (list rules name), the rules being `secrets` of files/rules.yaml. */}}
{{- define "neva.secretName" -}}
{{- $rules := index . 0 -}}
{{- $name := regexReplaceAll "([a-z0-9])([A-Z])" (index . 1) "${1}_${2}" | upper -}}
{{- if and (regexMatch $rules.names $name) (not (regexMatch $rules.harmlessNames $name)) -}}true{{- end -}}
{{- end -}}

{{/* A value in a sentence: on one line, and not too long. */}}
{{- define "neva.show" -}}
{{- if kindIs "map" . -}}a map
{{- else if kindIs "slice" . -}}a list
{{- else if kindIs "invalid" . -}}null
{{- else -}}{{- regexReplaceAll "[\\x00-\\x1f\\x7f-\\x9f]" (include "neva.text" .) "?" | regexFind "^.{0,80}" -}}
{{- end -}}
{{- end -}}
