{{/*
What values break, in the order and the words of generator/neva_pretrain/check/rules.py; a property test holds the two
equal. Every broken rule is collected, and helm fails once. What one value alone can tell is in values.schema.json. The
rules are in files/rules.yaml, what needs more than its conditions in the defines "neva-pretrain.check...", which yield
violations and take the root.
*/}}
{{- define "neva-pretrain.validate" -}}
{{- $errors := include "neva-pretrain.violations" . | fromJsonArray -}}
{{- if $errors -}}
  {{- $lines := list -}}
  {{- range $errors -}}{{- $lines = append $lines (printf "ERROR: %s" .) -}}{{- end -}}
  {{- printf "\n\n%s\n" (join "\n" $lines) | fail -}}
{{- end -}}
{{- end -}}

{{/* All sentences, as a JSON list; afterwards .Values are complete where there are none. Takes the root. */}}
{{- define "neva-pretrain.violations" -}}
{{- $errors := include "neva-pretrain.found" (dict "root" . "checks" (list "checkFormats")) | fromJsonArray -}}
{{- if $errors -}}
  {{- $secrets := include "neva-pretrain.found" (dict "root" . "checks" (list "checkSecrets")) | fromJsonArray -}}
  {{- $errors = concat $errors $secrets -}}
{{- else -}}
  {{- include "neva-pretrain.completeValues" . -}}
  {{- $checks := list "checkRules" "checkNames" "checkTraining" "checkCheckpoint" "checkStorage" "checkPaths"
    "checkPods" "checkPlacement" "checkMonitoring" "checkEnvironment" "checkSecrets" "checkProfiles" "checkSecurity"
    "checkNetwork" "checkConfig" -}}
  {{- $errors = include "neva-pretrain.found" (dict "root" . "checks" $checks) | fromJsonArray -}}
  {{- $errors = include "neva-pretrain.withoutFollowers" (dict "root" . "sentences" $errors) | fromJsonArray -}}
{{- end -}}
{{- include "neva-pretrain.scrubbed" (dict "root" . "sentences" $errors) -}}
{{- end -}}

{{/* What checks yield, as a JSON list. Takes a dict: root, checks. */}}
{{- define "neva-pretrain.found" -}}
{{- $root := .root -}}{{- $found := "" -}}
{{- range .checks -}}{{- $found = print $found (include (print "neva-pretrain." .) $root) -}}{{- end -}}
[{{ $found | trim | trimSuffix "," }}]
{{- end -}}

{{/* Sentences without those whose advice follows from another broken value. Takes a dict: root, sentences. */}}
{{- define "neva-pretrain.withoutFollowers" -}}
{{- include "neva-pretrain.loadRules" .root -}}
{{- $follows := .root.nevaRules.follows -}}
{{- $broken := list -}}{{- $kept := list -}}
{{- range .sentences -}}{{- $broken = append $broken (splitList ": got " . | first) -}}{{- end -}}
{{- range $sentence := .sentences -}}
  {{- $leads := get $follows (splitList ": got " $sentence | first) | default list -}}
  {{- $leader := false -}}
  {{- range $leads -}}{{- if has . $broken -}}{{- $leader = true -}}{{- end -}}{{- end -}}
  {{- if not $leader -}}{{- $kept = append $kept $sentence -}}{{- end -}}
{{- end -}}
{{- $kept | toJson -}}
{{- end -}}

{{/* Sentences without secrets. Takes a dict: root, sentences. */}}
{{- define "neva-pretrain.scrubbed" -}}
{{- include "neva-pretrain.loadRules" .root -}}
{{- $look := printf "(?:%s)[^ ;,]*" (join "|" .root.nevaRules.secrets.values) -}}
{{- $said := list -}}
{{- range .sentences -}}{{- $said = append $said (regexReplaceAll $look . "***") -}}{{- end -}}
{{- $said | toJson -}}
{{- end -}}

{{/* Give .Values their shape, once all that must be there is: null is dropped, and what may be missing is an empty map.
All else reads these. Takes the root. */}}
{{- define "neva-pretrain.completeValues" -}}
{{- include "neva-pretrain.loadRules" . -}}
{{- $values := deepCopy .Values -}}
{{- $free := .nevaRules.freeMaps -}}
{{- range $name, $value := $values -}}
  {{- if kindIs "invalid" $value -}}{{- $_ := unset $values $name -}}
  {{- else if and (kindIs "map" $value) (not (has $name $free)) -}}{{- include "neva-pretrain.dropNulls" $value -}}
  {{- end -}}
{{- end -}}
{{- range .nevaRules.optional.sections -}}
  {{- $section := $values -}}{{- $keys := splitList "." . -}}
  {{- range initial $keys -}}{{- $section = get $section . -}}{{- end -}}
  {{- if not (kindIs "map" (get $section (last $keys))) -}}{{- $_ := set $section (last $keys) dict -}}{{- end -}}
{{- end -}}
{{- $_ := set . "Values" $values -}}
{{- end -}}

{{/* Drop the keys of a map that are null, at any depth, in place: Helm drops only those that have a default. */}}
{{- define "neva-pretrain.dropNulls" -}}
{{- range $key, $value := . -}}
  {{- if kindIs "map" $value -}}{{- include "neva-pretrain.dropNulls" $value -}}
  {{- else if kindIs "invalid" $value -}}{{- $_ := unset $ $key -}}
  {{- end -}}
{{- end -}}
{{- end -}}
