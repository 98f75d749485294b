{{/* Who sets a name, or what to say in its place; empty where it is free. Takes a dict: root, name, and as kind
reservedEnv or reservedLabel. */}}
{{- define "neva-pretrain.reserved" -}}
{{- include "neva-pretrain.loadRules" .root -}}
{{- $owner := get (get .root.nevaRules .kind) .name -}}
{{- range $prefix, $reason := get .root.nevaRules (print .kind "Prefixes") -}}
  {{- if hasPrefix $prefix $.name -}}{{- $owner = $reason -}}{{- end -}}
{{- end -}}
{{- $owner -}}
{{- end -}}

{{/* The environment that the operator and the chart own is not set a second time. */}}
{{- define "neva-pretrain.checkEnvironment" -}}
{{- include "neva-pretrain.loadRules" . -}}
{{- $secrets := .nevaRules.secrets -}}
{{- range $name, $value := .Values.env -}}
  {{- $owner := include "neva-pretrain.reserved" (dict "root" $ "name" $name "kind" "reservedEnv") -}}
  {{- if and $owner (not (kindIs "invalid" $value)) -}}
    {{- $secret := include "neva-pretrain.secretName" (dict "rules" $secrets "name" $name "text" "") -}}
    {{- include "neva-pretrain.violation" (dict "key" (print "env." $name)
      "got" (ternary (dict "value" $value "path" "" "rules" $secrets | include "neva-pretrain.show") "a value"
        (empty $secret))
      "rule" "must not be set here" "fix" $owner) -}}
  {{- else if kindIs "bool" $value -}}
    {{- include "neva-pretrain.violation" (dict "key" (print "env." $name) "got" $value
      "rule" "must be text or a number, since YAML reads words such as on, off, yes and no as booleans"
      "fix" (printf "quote what is meant, such as \"%t\"" $value)) -}}
  {{- end -}}
{{- end -}}
{{- range $name, $secret := .Values.secrets.env -}}
  {{- $owner := include "neva-pretrain.reserved" (dict "root" $ "name" $name "kind" "reservedEnv") -}}
  {{- if hasKey $.Values.env $name -}}{{- $owner = "remove it here or in env" -}}{{- end -}}
  {{- if $owner -}}
    {{- include "neva-pretrain.violation" (dict "key" (print "secrets.env." $name) "got" $secret.name
      "rule" "must not be set here" "fix" $owner) -}}
  {{- end -}}
{{- end -}}
{{- end -}}

{{/* Secrets come by reference: everyone who reads the job, the release or the file would see them. `global` is other
charts' too. */}}
{{- define "neva-pretrain.checkSecrets" -}}
{{- include "neva-pretrain.loadRules" . -}}
{{- $rules := .nevaRules.secrets -}}{{- $values := join "|" $rules.values -}}
{{- $entries := include "neva-pretrain.entries" . | fromJsonArray | compact -}}
{{- /* All texts and names at once first, one a line: each expression is compiled anew for each match. */ -}}
{{- $texts := list -}}{{- $named := dict -}}
{{- range $entries -}}
  {{- if or .text (eq .kind "deep") -}}
    {{- $texts = append $texts .text -}}{{- $_ := set $named .name true -}}
  {{- end -}}
{{- end -}}
{{- $looks := regexMatch (printf "(?m:%s)" $values) (join "\n" $texts) -}}
{{- $names := keys $named -}}
{{- $upper := regexReplaceAll "([a-z0-9])([A-Z])" (join "\n" $names) "${1}_${2}" | upper -}}
{{- $lines := regexReplaceAll (printf "(?m:%s)" $rules.endings) $upper "" -}}
{{- $words := splitList "\n" $lines -}}
{{- if eq (len $words) (len $names) -}}
  {{- $kinds := list -}}{{- range $rules.names -}}{{- $kinds = append $kinds .name -}}{{- end -}}
  {{- $found := regexFindAll (printf "(?m:^.*(?:%s).*$)" (join "|" $kinds)) $lines -1 | join "\n" | splitList "\n" -}}
  {{- range $at, $name := $names -}}{{- $_ := set $named $name (has (index $words $at) $found) -}}{{- end -}}
{{- end -}}
{{- range $entries -}}
  {{- if eq .kind "deep" -}}
    {{- include "neva-pretrain.violation" (dict "key" .path "got" "a tree"
      "rule" "must be at most 32 levels deep" "fix" "flatten it") -}}
  {{- else if and .text (ne .kind "bool") -}}
    {{- $secret := and $looks (regexMatch $values .text) -}}
    {{- if and (get $named .name) (not $secret) (not (regexMatch $rules.harmlessValues .text)) -}}
      {{- $secret = not (empty (include "neva-pretrain.secretName" (dict "rules" $rules "name" .name "text" .text))) -}}
    {{- end -}}
    {{- $env := hasPrefix "env." .path -}}
    {{- if and $secret $env -}}
      {{- $secret = not (include "neva-pretrain.reserved" (dict "root" $ "name" .name "kind" "reservedEnv")) -}}
    {{- end -}}
    {{- if $secret -}}
      {{- $instead := printf "use secrets.env.%s with the name and key of a Secret" .name -}}
      {{- include "neva-pretrain.violation" (dict "key" .path "got" "a value"
        "rule" "must not hold a secret, which everyone who reads the job would see"
        "fix" (ternary $instead "use an existing Secret, through secrets.env" $env)) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- end -}}

{{/* `config` says only what no value says, in the config's own keys. */}}
{{- define "neva-pretrain.checkConfig" -}}
{{- include "neva-pretrain.loadRules" . -}}
{{- $config := .Values.config -}}
{{- range include "neva-pretrain.walk" (dict "tree" $config "path" "config") | fromJsonArray | compact -}}
  {{- if and (regexMatch "^[+~]|[.]" .name) (hasSuffix (print "." .name) .path) -}}
    {{- include "neva-pretrain.violation" (dict "key" (trimSuffix (print "." .name) .path)
      "got" (printf "the key %s" .name)
      "rule" "must have plain keys, since only a command line reads dots, + and ~" "fix" "use nested maps") -}}
  {{- end -}}
{{- end -}}
{{- $owned := .nevaRules.ownedConfig -}}
{{- $sections := dict -}}
{{- range $path, $_ := $owned -}}
  {{- $section := list -}}
  {{- range initial (splitList "." $path) -}}
    {{- $section = append $section . -}}{{- $_ := set $sections (join "." $section) true -}}
  {{- end -}}
{{- end -}}
{{- range $path, $_ := $sections -}}
  {{- $node := $config -}}{{- $keys := splitList "." $path -}}
  {{- range initial $keys -}}{{- if kindIs "map" $node -}}{{- $node = get $node . -}}{{- end -}}{{- end -}}
  {{- if kindIs "map" $node -}}
    {{- if and (hasKey $node (last $keys)) (not (kindIs "map" (get $node (last $keys)))) -}}
      {{- include "neva-pretrain.violation" (dict "key" (print "config." $path)
        "got" (dict "value" (get $node (last $keys)) "path" "" "rules" $.nevaRules.secrets
          | include "neva-pretrain.show")
        "rule" "must be a map, or it would replace the whole section" "fix" "name its keys") -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- range $path, $owner := $owned -}}
  {{- $node := $config -}}{{- $set := true -}}
  {{- range splitList "." $path -}}
    {{- if and $set (kindIs "map" $node) -}}
      {{- if hasKey $node . -}}{{- $node = get $node . -}}{{- else -}}{{- $set = false -}}{{- end -}}
    {{- else -}}{{- $set = false -}}
    {{- end -}}
  {{- end -}}
  {{- if $set -}}
    {{- include "neva-pretrain.violation" (dict "key" (print "config." $path)
      "got" (include "neva-pretrain.show" (dict "value" $node "path" "" "rules" $.nevaRules.secrets))
      "rule" "must not be set here, since a value owns it" "fix" (print "use " $owner)) -}}
  {{- end -}}
{{- end -}}
{{- $manager := ternary $config.exp_manager dict (kindIs "map" $config.exp_manager) -}}
{{- $callback := ternary $manager.checkpoint_callback_params dict (kindIs "map" $manager.checkpoint_callback_params) -}}
{{- $trainer := ternary $config.trainer dict (kindIs "map" $config.trainer) -}}
{{- if and (hasPrefix "val" (toString $callback.monitor)) (eq (float64 $trainer.limit_val_batches) 0.0) -}}
  {{- include "neva-pretrain.violation" (dict "key" "config.exp_manager.checkpoint_callback_params.monitor"
    "got" $callback.monitor
    "rule" "must not be a validation metric while no validation runs, or nothing is saved"
    "fix" "use step or reduced_train_loss") -}}
{{- end -}}
{{- $model := ternary $config.model dict (kindIs "map" $config.model) -}}
{{- $engine := get $model "transformer_engine" -}}
{{- if and (eq $.Values.training.kernels "fp8") (hasKey $model "transformer_engine") (ne (toString $engine) "true") -}}
  {{- include "neva-pretrain.violation" (dict "key" "config.model.transformer_engine"
    "got" (dict "value" $engine "path" "" "rules" .nevaRules.secrets | include "neva-pretrain.show")
    "rule" "must be true with training.kernels fp8, which is TransformerEngine's" "fix" "leave it out") -}}
{{- end -}}
{{- $bar := $trainer.enable_progress_bar -}}
{{- if and (not (kindIs "invalid" $bar)) (ne (toString $bar) "true") -}}
  {{- include "neva-pretrain.violation" (dict "key" "config.trainer.enable_progress_bar"
    "got" (dict "value" $bar "path" "" "rules" .nevaRules.secrets | include "neva-pretrain.show")
    "rule" "must be true, since the steps that the bar shows tell a hang from training"
    "fix" "leave it out") -}}
{{- end -}}
{{- end -}}
