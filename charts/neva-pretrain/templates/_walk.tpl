{{/* All that lies in a tree, level by level, as a JSON list: path, name (an item of a list has the list's), kind and,
of a scalar, its text. 32 levels: what lies deeper is one entry of kind "deep". Takes a dict: tree, path. */}}
{{- define "neva-pretrain.walk" -}}
{{- $level := list (dict "path" .path "name" "" "node" .tree) -}}
[{{- range $depth := until 33 -}}
  {{- if not $level -}}{{- break -}}{{- end -}}
  {{- $next := list -}}
  {{- range $at := $level -}}
    {{- if eq $depth 32 -}}
      {{- dict "path" $at.path "name" $at.name "kind" "deep" "text" "" | toJson -}},
      {{- continue -}}
    {{- end -}}
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
        {{- $text := ternary "" (include "neva-pretrain.text" $node) (eq $kind "invalid") -}}
        {{- dict "path" $path "name" $name "kind" $kind "text" $text | toJson -}},
      {{- end -}}
    {{- end -}}
  {{- end -}}
  {{- $level = $next -}}
{{- end -}}
null]
{{- end -}}

{{/* The walk of all values as given but global, which is other charts' too. Takes the root. */}}
{{- define "neva-pretrain.entries" -}}
{{- include "neva-pretrain.once" (dict "root" . "define" "neva-pretrain.allEntries" "argument" .) -}}
{{- end -}}

{{- define "neva-pretrain.allEntries" -}}
{{- include "neva-pretrain.walk" (dict "tree" (omit .Values "global") "path" "") -}}
{{- end -}}

{{/* A name as the rules compare it: in upper case, _ before each hump, without its ending. Takes a dict: name, and as
rules `secrets` of rules.yaml. */}}
{{- define "neva-pretrain.secretWord" -}}
{{- $upper := regexReplaceAll "([a-z0-9])([A-Z])" .name "${1}_${2}" | upper -}}
{{- regexReplaceAll .rules.endings $upper "" -}}
{{- end -}}

{{/* Whether a scalar is a secret by its name; without a text, whether the name says so of any value. Takes a dict:
name, text, and as rules `secrets` of rules.yaml. */}}
{{- define "neva-pretrain.secretName" -}}
{{- $rules := .rules -}}{{- $text := .text -}}
{{- $word := include "neva-pretrain.secretWord" . -}}
{{- if not (regexMatch $rules.harmlessNames $word) -}}
  {{- range $rules.names -}}
    {{- if regexMatch .name $word -}}
      {{- if not $text -}}{{- if not .pattern -}}true{{- end -}}
      {{- else if and .pattern (not (regexMatch .pattern $text)) -}}
      {{- else if and .never (regexMatch .never $text) -}}
      {{- else -}}true{{- end -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- end -}}

{{/* A value in a sentence: on one line, and not too long; a secret, and all of `secrets`, as "a value". Takes a dict:
value, its path, and as rules `secrets` of rules.yaml. */}}
{{- define "neva-pretrain.show" -}}
{{- $value := .value -}}
{{- if kindIs "map" $value -}}{{- ternary "a map" "{}" (not (empty $value)) -}}
{{- else if kindIs "slice" $value -}}{{- ternary "a list" "[]" (not (empty $value)) -}}
{{- else if kindIs "invalid" $value -}}null
{{- else -}}
  {{- $text := include "neva-pretrain.text" $value -}}
  {{- if and $text (or (regexMatch "^secrets([.[]|$)" .path) (regexMatch (join "|" .rules.values) $text)) -}}a value
  {{- else -}}{{- include "neva-pretrain.oneLine" $text -}}
  {{- end -}}
{{- end -}}
{{- end -}}

{{/* A text on one line, and not too long. */}}
{{- define "neva-pretrain.oneLine" -}}
{{- $spaces := `\x{a0}\x{1680}\x{2000}-\x{200a}\x{202f}\x{205f}\x{3000}` -}}
{{- $hidden := printf `[\p{Cc}\p{Cf}\p{Co}\p{Cs}\p{Zl}\p{Zp}%s\x{fffe}\x{ffff}]` $spaces -}}
{{- regexReplaceAll $hidden . "?" | regexFind "^.{0,80}" -}}
{{- end -}}

{{/* Places of a path, as a JSON list of path, kind and text: * is each value of a map, [] each item of a list, @ each
key of a map. A section that is missing is itself the place, of kind invalid. Takes a dict: tree, path. */}}
{{- define "neva-pretrain.select" -}}
{{- $keys := splitList "." .path -}}{{- $end := sub (len $keys) 1 | int -}}
{{- $level := list (dict "path" "" "node" .tree) -}}
[{{- range $at, $key := $keys -}}
  {{- $next := list -}}
  {{- range $parent := $level -}}
    {{- $prefix := ternary (print $parent.path ".") "" (not (empty $parent.path)) -}}
    {{- if eq $key "[]" -}}
      {{- if kindIs "slice" $parent.node -}}
        {{- range $index, $node := $parent.node -}}
          {{- $next = append $next (dict "path" (printf "%s[%d]" $parent.path $index) "node" $node) -}}
        {{- end -}}
      {{- end -}}
    {{- else if kindIs "map" $parent.node -}}
      {{- if eq $key "@" -}}
        {{- range $name, $_ := $parent.node -}}
          {{- $next = append $next (dict "path" (print $prefix $name) "node" $name) -}}
        {{- end -}}
      {{- else if eq $key "*" -}}
        {{- range $name, $node := $parent.node -}}
          {{- if not (kindIs "invalid" $node) -}}
            {{- $next = append $next (dict "path" (print $prefix $name) "node" $node) -}}
          {{- end -}}
        {{- end -}}
      {{- else -}}
        {{- $node := index $parent.node $key -}}
        {{- if and (kindIs "invalid" $node) (lt $at $end) -}}
          {{- dict "path" (print $prefix $key) "kind" "invalid" "text" "" | toJson -}},
        {{- else -}}
          {{- $next = append $next (dict "path" (print $prefix $key) "node" $node) -}}
        {{- end -}}
      {{- end -}}
    {{- end -}}
  {{- end -}}
  {{- $level = $next -}}
{{- end -}}
{{- range $level -}}
  {{- $kind := kindOf .node -}}
  {{- $text := ternary "" (include "neva-pretrain.text" .node) (has $kind (list "invalid" "map" "slice")) -}}
  {{- dict "path" .path "kind" $kind "text" $text | toJson -}},
{{- end -}}
null]
{{- end -}}
