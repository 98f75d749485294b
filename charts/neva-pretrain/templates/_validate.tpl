{{/*
All rules between values, in the order and the words of generator/neva_pretrain/check/rules.py; a property test holds the two
equal. Every broken rule is collected, and helm fails once. What one value alone can tell is in values.schema.json.
A sentence is: key, value, rule, fix.
*/}}
{{- define "neva-pretrain.validate" -}}
{{- $errors := include "neva-pretrain.violations" . | fromJsonArray -}}
{{- if $errors -}}
  {{- $lines := list -}}
  {{- range $errors -}}{{- $lines = append $lines (printf "ERROR: %s" .) -}}{{- end -}}
  {{- printf "\n\n%s\n" (join "\n" $lines) | fail -}}
{{- end -}}
{{- end -}}

{{- define "neva-pretrain.violations" -}}
{{- $errors := include "neva-pretrain.checkFormats" . | fromJsonArray -}}
{{- if $errors -}}
  {{- $errors = concat $errors (include "neva-pretrain.checkSecrets" . | fromJsonArray) -}}
{{- else -}}
{{- $errors = concat
  (include "neva-pretrain.checkNames" . | fromJsonArray)
  (include "neva-pretrain.checkTraining" . | fromJsonArray)
  (include "neva-pretrain.checkCheckpoint" . | fromJsonArray)
  (include "neva-pretrain.checkStorage" . | fromJsonArray)
  (include "neva-pretrain.checkPaths" . | fromJsonArray)
  (include "neva-pretrain.checkPrepare" . | fromJsonArray)
  (include "neva-pretrain.checkPods" . | fromJsonArray)
  (include "neva-pretrain.checkPlacement" . | fromJsonArray)
  (include "neva-pretrain.checkQueues" . | fromJsonArray)
  (include "neva-pretrain.checkKind" . | fromJsonArray)
  (include "neva-pretrain.checkMonitoring" . | fromJsonArray)
  (include "neva-pretrain.checkEnvironment" . | fromJsonArray)
  (include "neva-pretrain.checkSecrets" . | fromJsonArray)
  (include "neva-pretrain.checkSecurity" . | fromJsonArray)
  (include "neva-pretrain.checkNetwork" . | fromJsonArray)
  (include "neva-pretrain.checkConfig" . | fromJsonArray) -}}
{{- $errors = include "neva-pretrain.withoutFollowers" (list . $errors) | fromJsonArray -}}
{{- end -}}
{{- include "neva-pretrain.scrubbed" (list . $errors) -}}
{{- end -}}

{{/* Sentences of rules, without those whose advice follows from another broken value. Takes (list root sentences). */}}
{{- define "neva-pretrain.withoutFollowers" -}}
{{- include "neva-pretrain.loadRules" (index . 0) -}}
{{- $follows := (index . 0).nevaRules.follows -}}
{{- $broken := list -}}{{- $kept := list -}}
{{- range index . 1 -}}{{- $broken = append $broken (splitList ": got " . | first) -}}{{- end -}}
{{- range $sentence := index . 1 -}}
  {{- $leads := get $follows (splitList ": got " $sentence | first) | default list -}}
  {{- $leader := false -}}
  {{- range $leads -}}{{- if has . $broken -}}{{- $leader = true -}}{{- end -}}{{- end -}}
  {{- if not $leader -}}{{- $kept = append $kept $sentence -}}{{- end -}}
{{- end -}}
{{- $kept | toJson -}}
{{- end -}}

{{/* Sentences without secrets. Takes (list root sentences). */}}
{{- define "neva-pretrain.scrubbed" -}}
{{- include "neva-pretrain.loadRules" (index . 0) -}}
{{- $secrets := (index . 0).nevaRules.secrets.values -}}
{{- $look := printf "(?:%s)[^ ;,]*" (join "|" $secrets) -}}
{{- $said := list -}}
{{- range index . 1 -}}{{- $said = append $said (regexReplaceAll $look . "***") -}}{{- end -}}
{{- $said | toJson -}}
{{- end -}}

{{/* "256 or 512": the values nearest to n for which a rule holds, from a list in ascending order. */}}
{{- define "neva-pretrain.nearest" -}}
{{- $n := int64 (index . 0) -}}{{- $below := "" -}}{{- $above := "" -}}
{{- range index . 1 -}}
  {{- if lt (int64 .) $n -}}{{- $below = include "neva-pretrain.text" . -}}{{- end -}}
  {{- if and (gt (int64 .) $n) (not $above) -}}{{- $above = include "neva-pretrain.text" . -}}{{- end -}}
{{- end -}}
use {{ compact (list $below $above) | join " or " }}
{{- end -}}

{{/* The multiples of m on both sides of n. */}}
{{- define "neva-pretrain.nearestMultiple" -}}
{{- $n := int64 (index . 0) -}}{{- $m := int64 (index . 1) -}}
{{- $below := mul (div $n $m) $m -}}
{{- include "neva-pretrain.nearest" (list $n (without (list $below (add $below $m)) (int64 0))) -}}
{{- end -}}

{{/* Greatest common divisor of a list of positive numbers below 2^31; Euclid needs 44 steps for two of them. */}}
{{- define "neva-pretrain.gcd" -}}
{{- $a := int64 (first .) -}}
{{- range rest . -}}
  {{- $b := int64 . -}}
  {{- range until 44 -}}{{- if $b -}}{{- $rest := mod $a $b -}}{{- $a = $b -}}{{- $b = $rest -}}{{- end -}}{{- end -}}
{{- end -}}
{{- $a -}}
{{- end -}}

{{/* "use 4 or 8": the numbers nearest to n, up to a limit, that divide all of a list. They come in pairs around the square
root, which is at most 1024: the schema admits no number above 2^20 here. Takes (list n limit numbers). */}}
{{- define "neva-pretrain.nearestDivisors" -}}
{{- $n := int64 (index . 0) -}}{{- $limit := int64 (index . 1) -}}
{{- $common := int64 (include "neva-pretrain.gcd" (index . 2)) -}}
{{- $below := 0 -}}{{- $above := 0 -}}
{{- range $d := untilStep 1 1025 1 -}}
  {{- if gt (mul $d $d) $common -}}{{- break -}}{{- end -}}
  {{- if not (mod $common $d) -}}
    {{- range list (int64 $d) (div $common $d) -}}
      {{- if and (lt . $n) (le . $limit) (gt . (int64 $below)) -}}{{- $below = . -}}{{- end -}}
      {{- if and (gt . $n) (le . $limit) (or (not $above) (lt . (int64 $above))) -}}{{- $above = . -}}{{- end -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- include "neva-pretrain.nearest" (list $n (without (list $below $above) 0)) -}}
{{- end -}}

{{/* What must be there, and what a text must look like: on the others the rest could not be judged. */}}
{{- define "neva-pretrain.checkFormats" -}}
{{- $errors := list -}}{{- $values := .Values -}}
{{- include "neva-pretrain.loadRules" . -}}
{{- $rules := .nevaRules -}}
{{- $entries := include "neva-pretrain.once" (list . "neva-pretrain.entries" .) | fromJsonArray | compact -}}
{{- $at := dict -}}
{{- range $entries -}}{{- $_ := set $at .path . -}}{{- end -}}
{{- $missing := dict -}}
{{- range $section, $keys := $rules.required -}}
  {{- range splitList " " $keys -}}
    {{- $path := ternary . (print $section "." .) (empty $section) -}}
    {{- $places := list (get $at $path) -}}
    {{- if not (hasKey $at $path) -}}{{- $places = include "neva-pretrain.select" (list $values $path) | fromJsonArray | compact -}}{{- end -}}
    {{- range $places -}}
      {{- if and (eq .kind "invalid") (not (has .path $rules.mayBeNull)) -}}{{- $_ := set $missing .path true -}}{{- end -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- range $path, $_ := $missing -}}
  {{- $fix := "leave the default, or set it" -}}
  {{- if not (contains "." $path) -}}{{- $fix = print $fix " (with helm upgrade: --reset-then-reuse-values)" -}}{{- end -}}
  {{- $errors = append $errors (printf "%s: got nothing; must be set; %s" $path $fix) -}}
{{- end -}}
{{- range $format := $rules.formats -}}
  {{- range $path := splitList " " $format.keys -}}
    {{- $places := list (get $at $path) -}}
    {{- if not (hasKey $at $path) -}}{{- $places = include "neva-pretrain.select" (list $values $path) | fromJsonArray | compact -}}{{- end -}}
    {{- range $places -}}
      {{- if not (has .kind (list "invalid" "map" "slice")) -}}
        {{- $right := or (not $format.pattern) (regexMatch $format.pattern .text) -}}
        {{- if and $right $format.never -}}{{- $right = not (regexMatch $format.never .text) -}}{{- end -}}
        {{- if not $right -}}
          {{- $errors = append $errors (printf "%s: got %s; %s; %s" (include "neva-pretrain.show" .path) (include "neva-pretrain.show" .text | default "nothing") $format.rule $format.fix) -}}
        {{- end -}}
      {{- end -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- $texts := list -}}
{{- range $entries -}}{{- if or .text .name -}}{{- $texts = append $texts (print .name .text) -}}{{- end -}}{{- end -}}
{{- if regexMatch $rules.unprintable (join "" $texts) -}}
  {{- range $entries -}}
    {{- if regexMatch $rules.unprintable (print .name .text) -}}
      {{- $errors = append $errors (printf "%s: got %s; must be printable characters, in keys too; remove the others" (include "neva-pretrain.show" .path) (include "neva-pretrain.show" .text | default "a key")) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- $errors | toJson -}}
{{- end -}}

{{- define "neva-pretrain.checkNames" -}}
{{- $errors := list -}}
{{- $full := include "neva-pretrain.fullname" . -}}
{{- $id := (.Values.run | default dict).id | default "" -}}
{{- include "neva-pretrain.loadRules" . -}}
{{- $limit := int (get .nevaRules.maxNameLength .Values.job.kind) -}}
{{- $label := "^[a-z]([-a-z0-9]*[a-z0-9])?$" -}}
{{- if not (regexMatch $label $full) -}}
  {{- $errors = append $errors (printf "fullnameOverride: got %s; must be a DNS-1035 label (lower case letters, digits and -, a letter first), or the release name must be; use a name such as neva-7b" $full) -}}
{{- end -}}
{{- if and $id (not (regexMatch "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$" $id)) -}}
  {{- $errors = append $errors (printf "run.id: got %s; must be lower case letters, digits and -; use an id such as lr-2e-3" $id) -}}
{{- end -}}
{{- $length := len $full -}}
{{- if and $id (ne $id $full) -}}{{- $length = add $length 1 (len $id) -}}{{- end -}}
{{- if gt (int $length) $limit -}}
  {{- $errors = append $errors (printf "run.id: got %d characters of full name and id; must be at most %d, so that the last pod's name has at most 63; use a shorter fullnameOverride or run.id" $length $limit) -}}
{{- end -}}
{{- $errors | toJson -}}
{{- end -}}

{{/* NeMo builds the gate by the activation's name; the plan, and prepare's memory, go by gatedMlp. Takes (list root facts). */}}
{{- define "neva-pretrain.activationErrors" -}}
{{- $root := index . 0 -}}{{- $f := index . 1 -}}
{{- include "neva-pretrain.loadRules" $root -}}
{{- $known := $root.nevaRules.activations -}}
{{- $activation := ($root.Files.Get "files/neva_pretrain.yaml" | fromYaml).model.activation -}}
{{- range list $f.hydra $root.Values.config -}}
  {{- if kindIs "map" . -}}{{- if kindIs "map" .model -}}{{- if hasKey .model "activation" -}}{{- $activation = .model.activation -}}{{- end -}}{{- end -}}{{- end -}}
{{- end -}}
{{- $gated := $f.architecture.gatedMlp -}}
{{- $right := get $known (ternary "gated" "plain" $gated) -}}
{{- $errors := list -}}
{{- if has $activation (get $known (ternary "plain" "gated" $gated)) -}}
  {{- $errors = append $errors (printf "model.architecture.gatedMlp: got %v; must be %v with the activation %s of the config; use %v, or set config.model.activation to one of %s" $gated (not $gated) $activation (not $gated) (join ", " $right)) -}}
{{- else if not (has $activation $right) -}}
  {{- $errors = append $errors (printf "config.model.activation: got %s; must be an activation that NeMo knows; use one of %s" (include "neva-pretrain.show" $activation) (join ", " $right)) -}}
{{- else if and (eq $root.Values.training.kernels "fused") (not (has $activation $known.fused)) -}}
  {{- $errors = append $errors (printf "training.kernels: got fused; must be reference with the activation %s, which Megatron Core does not fuse; use reference" $activation) -}}
{{- end -}}
{{- toJson $errors -}}
{{- end -}}

{{- define "neva-pretrain.checkTraining" -}}
{{- $errors := list -}}
{{- $t := .Values.training -}}
{{- $f := include "neva-pretrain.uncheckedFacts" . | fromJson -}}
{{- $a := $f.architecture -}}
{{- $tp := int64 $t.tensorParallelSize -}}{{- $pp := int64 $t.pipelineParallelSize -}}
{{- $perNode := int64 $t.gpusPerNode -}}{{- $nodes := int64 $t.nodes -}}
{{- $broken := list -}}
{{- if not $f.known -}}
  {{- $names := list -}}
  {{- range $name := splitList "\n" (.Files.Get "files/models.yaml") -}}
    {{- if regexMatch "^  [a-z0-9_]+:$" $name -}}{{- $names = append $names ($name | trim | trimSuffix ":") -}}{{- end -}}
  {{- end -}}
  {{- $errors = append $errors (printf "model.name: got %s; must be a model of the catalog; use one of %s" .Values.model.name (join ", " $names)) -}}
{{- else -}}
  {{- $heads := int64 $a.numAttentionHeads -}}
  {{- if mod (int64 $a.hiddenSize) $heads -}}
    {{- $errors = append $errors (printf "model.architecture.numAttentionHeads: got %d; must divide hiddenSize (%d); %s" $heads (int64 $a.hiddenSize) (include "neva-pretrain.nearestDivisors" (list $heads $a.hiddenSize (list $a.hiddenSize)))) -}}
  {{- end -}}
  {{- if mod $heads (int64 $a.numQueryGroups) -}}
    {{- $errors = append $errors (printf "model.architecture.numQueryGroups: got %d; must divide numAttentionHeads (%d); %s" (int64 $a.numQueryGroups) $heads (include "neva-pretrain.nearestDivisors" (list $a.numQueryGroups $heads (list $heads)))) -}}
  {{- end -}}
  {{- $parts := list (list "training.gpusPerNode" $perNode) (list "attention heads" $a.numAttentionHeads) (list "query groups" $a.numQueryGroups) (list "ffn hidden size" $a.ffnHiddenSize) -}}
  {{- $sizes := list -}}
  {{- range $parts -}}
    {{- $sizes = append $sizes (index . 1) -}}
    {{- if mod (int64 (index . 1)) $tp -}}{{- $broken = append $broken (printf "%s (%d)" (index . 0) (int64 (index . 1))) -}}{{- end -}}
  {{- end -}}
  {{- if $broken -}}
    {{- $errors = append $errors (printf "training.tensorParallelSize: got %d; must divide %s; %s" $tp (join ", " $broken) (include "neva-pretrain.nearestDivisors" (list $tp $perNode $sizes))) -}}
  {{- end -}}
  {{- if mod (int64 $a.numLayers) $pp -}}
    {{- $errors = append $errors (printf "training.pipelineParallelSize: got %d; must divide the layers (%d); %s" $pp (int64 $a.numLayers) (include "neva-pretrain.nearestDivisors" (list $pp $a.numLayers (list $a.numLayers)))) -}}
  {{- end -}}
  {{- $errors = concat $errors (include "neva-pretrain.activationErrors" (list . $f) | fromJsonArray) -}}
{{- end -}}
{{- $world := mul $nodes $perNode -}}{{- $parallel := mul $tp $pp -}}
{{- /* Sizes inside a node are tensorParallelSize's to mend; only a size beyond it says something about nodes. */ -}}
{{- if and $broken (le $tp $perNode) -}}
{{- else if mod $world $parallel -}}
  {{- $step := div $parallel (int64 (include "neva-pretrain.gcd" (list $parallel $perNode))) -}}
  {{- $errors = append $errors (printf "training.nodes: got %d (%d GPUs); must make nodes x gpusPerNode a multiple of tensor x pipeline parallel size (%d x %d = %d); %s" $nodes $world $tp $pp $parallel (ternary (include "neva-pretrain.nearestMultiple" (list $nodes $step)) "use another tensorParallelSize first" (empty $broken))) -}}
{{- else -}}
  {{- $dp := div $world $parallel -}}{{- $multiple := mul $t.microBatchSize $dp -}}
  {{- if mod (int64 $t.globalBatchSize) $multiple -}}
    {{- $errors = append $errors (printf "training.globalBatchSize: got %d; must be a multiple of microBatchSize x data parallel size (%d x %d = %d); %s" (int64 $t.globalBatchSize) (int64 $t.microBatchSize) $dp $multiple (include "neva-pretrain.nearestMultiple" (list $t.globalBatchSize $multiple))) -}}
  {{- end -}}
{{- end -}}
{{- if and $t.sequenceParallel (eq $tp 1) -}}
  {{- $errors = append $errors "training.sequenceParallel: got true; must be false when tensorParallelSize is 1; use false" -}}
{{- end -}}
{{- if ge (int64 $t.warmupSteps) (int64 $t.maxSteps) -}}
  {{- $errors = append $errors (printf "training.warmupSteps: got %d; must be less than maxSteps (%d); use %d or fewer" (int64 $t.warmupSteps) (int64 $t.maxSteps) (sub (int64 $t.maxSteps) 1)) -}}
{{- end -}}
{{- if gt (float64 $t.minLearningRate) (float64 $t.learningRate) -}}
  {{- $errors = append $errors (printf "training.minLearningRate: got %s; must be at most learningRate (%s); use %s" (include "neva-pretrain.text" $t.minLearningRate) (include "neva-pretrain.text" $t.learningRate) (include "neva-pretrain.text" $t.learningRate)) -}}
{{- end -}}
{{- if and (gt $nodes 1) (eq .Values.fabric "none") -}}
  {{- $errors = append $errors (printf "fabric: got none; must name the network of %d nodes; use ib, roce, efa or tcp" $nodes) -}}
{{- end -}}
{{- $errors | toJson -}}
{{- end -}}

{{- define "neva-pretrain.checkCheckpoint" -}}
{{- $errors := list -}}
{{- $t := .Values.training -}}{{- $c := .Values.checkpoint -}}
{{- $f := include "neva-pretrain.uncheckedFacts" . | fromJson -}}
{{- if and $c.enabled (gt (int64 $c.everyNSteps) (int64 $t.maxSteps)) -}}
  {{- $errors = append $errors (printf "checkpoint.everyNSteps: got %d; must be at most training.maxSteps (%d), or nothing would be saved before the end; use %d or fewer" (int64 $c.everyNSteps) (int64 $t.maxSteps) (int64 $t.maxSteps)) -}}
{{- end -}}
{{- $p := $f.model.preset -}}
{{- if and $f.known (eq .Values.model.checkpointFormat "legacy") (or (ne (int64 $t.tensorParallelSize) (int64 $p.tensorParallelSize)) (ne (int64 $t.pipelineParallelSize) (int64 $p.pipelineParallelSize))) -}}
  {{- $errors = append $errors (printf "model.checkpointFormat: got legacy; must not be legacy at tensor x pipeline parallel size %d x %d, since legacy files are split for %d x %d; use distributed, or the preset's sizes" (int64 $t.tensorParallelSize) (int64 $t.pipelineParallelSize) (int64 $p.tensorParallelSize) (int64 $p.pipelineParallelSize)) -}}
{{- end -}}
{{- $errors | toJson -}}
{{- end -}}

{{- define "neva-pretrain.checkStorage" -}}
{{- $errors := list -}}
{{- $seen := dict -}}
{{- range $name := list "datasets" "models" "results" "scratch" -}}
  {{- $volume := get $.Values.storage $name -}}
  {{- $sources := include "neva-pretrain.storageSources" $volume | fromJsonArray -}}
  {{- if gt (len $sources) 1 -}}
    {{- $errors = append $errors (printf "storage.%s: got %s; must have exactly one source; remove the others" $name (join " and " $sources)) -}}
  {{- end -}}
  {{- $csi := include "neva-pretrain.withoutNulls" ($volume.gpfs | default dict).csi | fromJson -}}
  {{- if and $csi (not (hasKey $csi "volumeHandle")) -}}
    {{- $errors = append $errors (printf "storage.%s.gpfs.csi.volumeHandle: got nothing; must be set beside the rest of gpfs.csi; use a handle as in docs/storage.md" $name) -}}
  {{- end -}}
  {{- $path := $volume.mountPath -}}
  {{- if hasKey $seen $path -}}
    {{- $errors = append $errors (printf "storage.%s.mountPath: got %s; must differ from storage.%s.mountPath; use another path" $name $path (get $seen $path)) -}}
  {{- else if or (hasPrefix "/dev/" $path) (hasPrefix "/etc/" $path) (has $path (list "/dev" "/etc" "/opt" "/usr" "/proc" "/sys")) -}}
    {{- $errors = append $errors (printf "storage.%s.mountPath: got %s; must not hide what the container needs; use a path such as /%s" $name $path $name) -}}
  {{- end -}}
  {{- $_ := set $seen $path $name -}}
{{- end -}}
{{- $shared := include "neva-pretrain.oneVolume" . | fromJson -}}
{{- range $name, $one := $shared -}}
  {{- if ne $one.owner $name -}}
    {{- $said := list -}}
    {{- range list $one.owner $name -}}
      {{- $volume := include "neva-pretrain.volume" (list $ .) | fromJson -}}
      {{- $said = append $said (include "neva-pretrain.staticVolume" $volume) -}}
    {{- end -}}
    {{- if ne (first $said) (last $said) -}}
      {{- $errors = append $errors (printf "storage.%s: got the volumeHandle of storage.%s, and another fsType, volumeAttributes, nodeLabel or size; must be alike, since a CSI volume is mounted once in a pod; use the same, and tell the volumes apart by subPath" $name $one.owner) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- range list "/etc/neva" "/dev/shm" -}}{{- $_ := set $seen . "the chart" -}}{{- end -}}
{{- $claims := dict -}}{{- $volumes := dict "config" true "shm" true -}}
{{- range $name := list "scratch" "results" "models" "datasets" -}}
  {{- $_ := set $claims (get $shared $name).claim (printf "storage.%s" $name) -}}{{- $_ := set $volumes $name true -}}
{{- end -}}
{{- range $index, $volume := .Values.extraVolumes -}}
  {{- if hasKey $volumes $volume.name -}}
    {{- $errors = append $errors (printf "extraVolumes[%d].name: got %s; must be no other volume's; use another name" $index $volume.name) -}}
  {{- end -}}
  {{- $_ := set $volumes $volume.name true -}}
  {{- $source := ternary $volume.persistentVolumeClaim dict (kindIs "map" $volume.persistentVolumeClaim) -}}
  {{- with $source.claimName -}}
    {{- if hasKey $claims (toString .) -}}
      {{- $errors = append $errors (printf "extraVolumes[%d]: got the claim %s; must not be that of %s, since the kubelet mounts a claim once in a pod and waits for a second volume of it for ever; use its name and a subPath in extraVolumeMounts" $index . (get $claims (toString .))) -}}
    {{- else -}}{{- $_ := set $claims (toString .) (printf "extraVolumes[%d]" $index) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- range $index, $mount := .Values.extraVolumeMounts -}}
  {{- if not (hasKey $volumes $mount.name) -}}
    {{- $errors = append $errors (printf "extraVolumeMounts[%d].name: got %s; must be a volume of the pods; use a name of extraVolumes or storage" $index $mount.name) -}}
  {{- end -}}
  {{- if hasKey $seen $mount.mountPath -}}
    {{- $errors = append $errors (printf "extraVolumeMounts[%d].mountPath: got %s; must not be a mount of the chart; use another path" $index $mount.mountPath) -}}
  {{- end -}}
{{- end -}}
{{- $errors | toJson -}}
{{- end -}}

{{/* Whether a path of the values may lie elsewhere than below its folder. */}}
{{- define "neva-pretrain.leaves" -}}
{{- if or (hasPrefix "/" .) (has ".." (splitList "/" .)) }}true{{ end -}}
{{- end -}}

{{/* Paths that the training process reads must lie on something that is mounted. */}}
{{- define "neva-pretrain.checkPaths" -}}
{{- $errors := list -}}
{{- $v := .Values -}}
{{- $f := include "neva-pretrain.uncheckedFacts" . | fromJson -}}
{{- $mounts := list -}}{{- $readOnly := list -}}
{{- range $name := list "datasets" "models" "results" "scratch" -}}
  {{- $path := (get $v.storage $name).mountPath -}}
  {{- $mounts = append $mounts $path -}}
  {{- if include "neva-pretrain.readOnly" (list $ $name) -}}{{- $readOnly = append $readOnly $path -}}{{- end -}}
{{- end -}}
{{- range $v.extraVolumeMounts -}}{{- $mounts = append $mounts .mountPath -}}{{- end -}}
{{- $paths := list (list "model.llmPath" $v.model.llmPath $v.model.llmPath) -}}
{{- range $key, $path := dict "checkpoint" $f.checkpointPath "tokenizer" $f.tokenizerPath -}}
  {{- $given := get $v.model $key | default "" -}}
  {{- if include "neva-pretrain.leaves" $given -}}
    {{- $paths = append $paths (list (printf "model.%s" $key) $given $path) -}}
  {{- end -}}
{{- end -}}
{{- if hasPrefix "/" $v.model.visionEncoderPath -}}
  {{- $paths = append $paths (list "model.visionEncoderPath" $v.model.visionEncoderPath $v.model.visionEncoderPath) -}}
{{- else if not $f.hfOnline -}}
  {{- $errors = append $errors (printf "model.visionEncoderPath: got %s; must be an absolute path unless hf.online is true; use the folder's path" $v.model.visionEncoderPath) -}}
{{- end -}}
{{- $paths = append $paths (list "data.path" $v.data.path $v.data.path) -}}
{{- range $key, $path := dict "annotations" $f.annotationsPath "images" $f.imagesPath -}}
  {{- $given := get $v.data $key -}}
  {{- if include "neva-pretrain.leaves" $given -}}
    {{- $paths = append $paths (list (printf "data.%s" $key) $given $path) -}}
  {{- end -}}
{{- end -}}
{{- if $v.prepare.enabled -}}
  {{- range $step := list "tokenizer" "vision" "llm" "dataset" -}}
    {{- with get $v.prepare $step -}}
      {{- if and .enabled (hasPrefix "/" .source) -}}{{- $paths = append $paths (list (printf "prepare.%s.source" $step) .source .source) -}}{{- end -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- range $paths -}}
  {{- $key := index . 0 -}}{{- $given := index . 1 -}}{{- $path := clean (index . 2) -}}{{- $found := false -}}
  {{- range $mounts -}}{{- if or (eq $path .) (hasPrefix (printf "%s/" .) $path) -}}{{- $found = true -}}{{- end -}}{{- end -}}
  {{- if not $found -}}
    {{- $errors = append $errors (printf "%s: got %s; must lie below a mounted path (%s); use one of these, or mount it" $key $given (join ", " $mounts)) -}}
  {{- end -}}
{{- end -}}
{{- range $readOnly -}}
  {{- if or (eq $f.hfHome .) (hasPrefix (printf "%s/" .) $f.hfHome) -}}
    {{- $errors = append $errors (printf "hf.home: got %s; must not lie below the read-only mount %s, since the hub always writes; use a path below %s" $f.hfHome . $v.storage.scratch.mountPath) -}}
  {{- end -}}
{{- end -}}
{{- $errors | toJson -}}
{{- end -}}

{{- define "neva-pretrain.checkPrepare" -}}
{{- $errors := list -}}
{{- $p := .Values.prepare -}}
{{- if $p.enabled -}}
  {{- if and (or $p.llm.enabled (and $p.tokenizer.enabled (not $p.tokenizer.source))) (not $p.llm.source) -}}
    {{- $errors = append $errors "prepare.llm.source: got nothing; must name the language model to prepare; use its folder on a mounted path, or its hub id, or switch the steps llm and tokenizer off" -}}
  {{- end -}}
  {{- if and $p.dataset.enabled (not $p.dataset.source) -}}
    {{- $errors = append $errors "prepare.dataset.source: got nothing; must name the dataset to prepare; use its folder on a mounted path, or its hub id, or switch the step dataset off" -}}
  {{- end -}}
{{- end -}}
{{- $errors | toJson -}}
{{- end -}}

{{- define "neva-pretrain.checkPods" -}}
{{- $errors := list -}}
{{- $v := .Values -}}
{{- $rdma := (include "neva-pretrain.uncheckedFacts" . | fromJson).rdma -}}
{{- $given := $v.rdma | default dict -}}
{{- include "neva-pretrain.loadRules" . -}}
{{- if regexMatch .nevaRules.fractionalGpu $v.resources.gpuResourceName -}}
  {{- $errors = append $errors (printf "resources.gpuResourceName: got %s; must be whole GPUs, since each training process needs one of its own and all its peers; use nvidia.com/gpu" $v.resources.gpuResourceName) -}}
{{- end -}}
{{- if and $given.resources (or $given.resourceName $given.count) -}}
  {{- $errors = append $errors (printf "rdma.resources: got %s; must stand alone, without rdma.resourceName and rdma.count; use one or the other" (keys $given.resources | sortAlpha | join ", ")) -}}
{{- end -}}
{{- if and $rdma.enabled (hasKey $rdma.resources $v.resources.gpuResourceName) -}}
  {{- $errors = append $errors (printf "rdma.%s: got %s; must not be resources.gpuResourceName, whose count training.gpusPerNode is; use the resource of the RDMA devices" (ternary "resources" "resourceName" (not (empty $given.resources))) $v.resources.gpuResourceName) -}}
{{- end -}}
{{- if and $rdma.enabled (hasKey $rdma.resources "") -}}
  {{- $errors = append $errors (printf "rdma.resourceName: got nothing; must name the RDMA devices, since fabric %s has none; use the resource that the nodes offer, or set rdma.enabled to false" $v.fabric) -}}
{{- end -}}
{{- if and $rdma.enabled (ne (values $rdma.resources | compact | len) (len $rdma.resources)) -}}
  {{- $errors = append $errors (printf "rdma.count: got nothing; must be at least 1, since fabric %s has no devices; use the devices of a pod, or set rdma.enabled to false" $v.fabric) -}}
{{- end -}}
{{- range $key := list "commonLabels" "podLabels" "workerLabels" -}}
  {{- range $name, $value := get $v $key | default dict -}}
    {{- $owner := include "neva-pretrain.reserved" (list $ $name "reservedLabels" "reservedLabelPrefixes") -}}
    {{- if and $owner (not (kindIs "invalid" $value)) -}}
      {{- $errors = append $errors (printf "%s.%s: got %s; must not be set here; %s" $key $name (include "neva-pretrain.text" $value) $owner) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- $nodes := int64 $v.training.nodes -}}
{{- with $v.resources.shmSize -}}
  {{- $shm := include "neva-pretrain.text" . -}}{{- $memory := include "neva-pretrain.text" $v.resources.memory -}}
  {{- if gt (float64 (include "neva-pretrain.bytes" $shm)) (float64 (include "neva-pretrain.bytes" $memory)) -}}
    {{- $errors = append $errors (printf "resources.shmSize: got %s; must be at most resources.memory (%s), which it counts against; use less" $shm $memory) -}}
  {{- end -}}
{{- end -}}
{{- $backoff := $v.runPolicy.backoffLimit -}}
{{- if and (eq $v.restartPolicy "Never") (not (kindIs "invalid" $backoff)) -}}
  {{- if gt (int64 $backoff) 0 -}}
    {{- $errors = append $errors (printf "runPolicy.backoffLimit: got %d; must not be set when restartPolicy is Never, since the operator only counts restarts of containers; use restartPolicy OnFailure" (int64 $backoff)) -}}
  {{- end -}}
{{- end -}}
{{- include "neva-pretrain.loadRules" . -}}
{{- $nccl := int64 .nevaRules.ncclTimeoutSeconds -}}
{{- if and (eq $v.restartPolicy "OnFailure") (gt $nodes 1) (lt (int64 $v.rendezvous.timeoutSeconds) $nccl) -}}
  {{- $errors = append $errors (printf "rendezvous.timeoutSeconds: got %d; must be at least %d with restartPolicy OnFailure, since nodes that lost a peer only come back when NCCL times out; use %d" (int64 $v.rendezvous.timeoutSeconds) $nccl $nccl) -}}
{{- end -}}
{{- with (($v.scheduling | default dict).schedulingPolicy | default dict).minAvailable -}}
  {{- if ne (int64 .) $nodes -}}
    {{- $errors = append $errors (printf "scheduling.schedulingPolicy.minAvailable: got %d; must equal training.nodes (%d), or half a job could hold its GPUs; use %d" (int64 .) $nodes $nodes) -}}
  {{- end -}}
{{- end -}}
{{- $networks := ($v.rdma | default dict).networks -}}
{{- if and $v.hostNetwork $networks -}}
  {{- $errors = append $errors (printf "rdma.networks: got %s; must be empty with hostNetwork, since Multus attaches nothing to a pod on the node's network; use one of both" (join ", " $networks)) -}}
{{- end -}}
{{- if and $v.hostNetwork (eq (int64 $v.rendezvous.port) 23456) -}}
  {{- $errors = append $errors "rendezvous.port: got 23456; must be chosen for this job with hostNetwork, since all jobs of a node share its ports; use another port below 32768" -}}
{{- end -}}
{{- $errors | toJson -}}
{{- end -}}

{{/* What the API would refuse of the pods once the job is made. */}}
{{- define "neva-pretrain.checkPlacement" -}}
{{- $errors := list -}}
{{- $s := .Values.scheduling | default dict -}}
{{- range $index, $taint := $s.tolerations -}}
  {{- $key := printf "scheduling.tolerations[%d]" $index -}}
  {{- if and (eq ($taint.operator | default "Equal") "Exists") $taint.value -}}
    {{- $errors = append $errors (printf "%s.value: got %s; must be left out with operator Exists, which takes any value; remove it, or use Equal" $key $taint.value) -}}
  {{- end -}}
  {{- if and (ne ($taint.operator | default "Equal") "Exists") (not $taint.key) -}}
    {{- $errors = append $errors (printf "%s.key: got nothing; must be set with operator Equal; use a taint's key, or operator Exists" $key) -}}
  {{- end -}}
  {{- if and (hasKey $taint "tolerationSeconds") (ne ($taint.effect | default "") "NoExecute") -}}
    {{- $errors = append $errors (printf "%s.tolerationSeconds: got %s; must come with effect NoExecute, which alone evicts; use NoExecute, or remove it" $key (include "neva-pretrain.text" $taint.tolerationSeconds)) -}}
  {{- end -}}
{{- end -}}
{{- range $index, $expression := $s.nodeExpressions -}}
  {{- $key := printf "scheduling.nodeExpressions[%d].values" $index -}}
  {{- $values := $expression.values | default list -}}
  {{- $got := join ", " $values | default "nothing" -}}
  {{- if has $expression.operator (list "Exists" "DoesNotExist") -}}
    {{- if $values -}}
      {{- $errors = append $errors (printf "%s: got %s; must be left out with operator %s; remove it" $key $got $expression.operator) -}}
    {{- end -}}
  {{- else if has $expression.operator (list "Gt" "Lt") -}}
    {{- if not (regexMatch "^[0-9]{1,18}$" $got) -}}
      {{- $errors = append $errors (printf "%s: got %s; must be one whole number with operator %s; use one such as \"8\"" $key $got $expression.operator) -}}
    {{- end -}}
  {{- else if not $values -}}
    {{- $errors = append $errors (printf "%s: got nothing; must hold a value with operator %s; use those of the label" $key $expression.operator) -}}
  {{- end -}}
{{- end -}}
{{- $seen := dict -}}
{{- range $index, $spread := $s.topologySpreadConstraints -}}
  {{- $key := printf "scheduling.topologySpreadConstraints[%d]" $index -}}
  {{- if and (hasKey $spread "minDomains") (ne $spread.whenUnsatisfiable "DoNotSchedule") -}}
    {{- $errors = append $errors (printf "%s.minDomains: got %s; must come with whenUnsatisfiable DoNotSchedule; remove it" $key (include "neva-pretrain.text" $spread.minDomains)) -}}
  {{- end -}}
  {{- $pair := printf "%s %s" $spread.topologyKey $spread.whenUnsatisfiable -}}
  {{- if hasKey $seen $pair -}}
    {{- $errors = append $errors (printf "%s.topologyKey: got %s; must be another than that of %s with %s; keep one" $key $spread.topologyKey (get $seen $pair) $spread.whenUnsatisfiable) -}}
  {{- end -}}
  {{- $_ := set $seen $pair $key -}}
{{- end -}}
{{- $errors | toJson -}}
{{- end -}}

{{- define "neva-pretrain.checkQueues" -}}
{{- $errors := list -}}
{{- $s := .Values.scheduling | default dict -}}
{{- $q := $s.queue | default dict -}}
{{- $topology := $q.topology | default dict -}}
{{- $kai := ($s.kai | default dict).queue -}}
{{- $wishes := list (list "priorityClass" $q.priorityClass) -}}{{- $levels := list -}}
{{- range $key := list "required" "preferred" "unconstrained" -}}
  {{- with get $topology $key -}}
    {{- $wishes = append $wishes (list (printf "topology.%s" $key) (toString .)) -}}{{- $levels = append $levels $key -}}
  {{- end -}}
{{- end -}}
{{- range $wish := $wishes -}}
  {{- if and (index $wish 1) (not $q.name) -}}
    {{- $errors = append $errors (printf "scheduling.queue.%s: got %s; must come with scheduling.queue.name, since Kueue alone reads it; name the LocalQueue" (index $wish 0) (index $wish 1)) -}}
  {{- end -}}
{{- end -}}
{{- if gt (len $levels) 1 -}}
  {{- $errors = append $errors (printf "scheduling.queue.topology: got %s; must be one of them, or Kueue refuses the job; keep one" (join " and " $levels)) -}}
{{- end -}}
{{- if and $q.name $kai -}}
  {{- $errors = append $errors (printf "scheduling.kai.queue: got %s; must not be set beside scheduling.queue.name; set one of both" $kai) -}}
{{- end -}}
{{- if and $kai $s.schedulerName (ne $s.schedulerName "kai-scheduler") -}}
  {{- $errors = append $errors (printf "scheduling.schedulerName: got %s; must be kai-scheduler with scheduling.kai.queue, or its pods stay Pending; leave it empty" $s.schedulerName) -}}
{{- end -}}
{{- $suspend := .Values.runPolicy.suspend -}}
{{- if and $q.name (not (kindIs "invalid" $suspend)) -}}
  {{- $errors = append $errors (printf "runPolicy.suspend: got %s; must not be set with scheduling.queue.name, since Kueue suspends and resumes the job; leave it unset" (include "neva-pretrain.text" $suspend)) -}}
{{- end -}}
{{- $errors | toJson -}}
{{- end -}}

{{/* What a TrainJob has no counterpart for. */}}
{{- define "neva-pretrain.checkKind" -}}
{{- $errors := list -}}
{{- $v := .Values -}}
{{- if eq $v.job.kind "TrainJob" -}}
  {{- $s := $v.scheduling | default dict -}}{{- $policy := $s.schedulingPolicy | default dict -}}
  {{- if ne $v.runPolicy.cleanPodPolicy "Running" -}}
    {{- $errors = append $errors (printf "runPolicy.cleanPodPolicy: got %s; must be Running with job.kind TrainJob, since its pods that still run are deleted when it fails, and no others; use Running" $v.runPolicy.cleanPodPolicy) -}}
  {{- end -}}
  {{- $ttl := $v.runPolicy.ttlSecondsAfterFinished -}}
  {{- if not (kindIs "invalid" $ttl) -}}
    {{- $errors = append $errors (printf "runPolicy.ttlSecondsAfterFinished: got %s; must not be set with job.kind TrainJob, since Trainer would make the deleted pods anew and train again; leave it out" (include "neva-pretrain.text" $ttl)) -}}
  {{- end -}}
  {{- range $key := list "queue" "priorityClass" -}}
    {{- if get $policy $key -}}
      {{- $errors = append $errors (printf "scheduling.schedulingPolicy.%s: got %s; must not be set with job.kind TrainJob, since Trainer's pod group has none; use %s" $key (get $policy $key) (get (dict "queue" "scheduling.queue or scheduling.kai" "priorityClass" "scheduling.priorityClassName") $key)) -}}
    {{- end -}}
  {{- end -}}
  {{- if and $policy (not $s.schedulerName) (not ($s.kai | default dict).queue) -}}
    {{- $errors = append $errors "scheduling.schedulerName: got nothing; must name the gang scheduler with job.kind TrainJob and a schedulingPolicy, since Trainer makes the pod group only; use scheduler-plugins-scheduler" -}}
  {{- end -}}
{{- end -}}
{{- $errors | toJson -}}
{{- end -}}

{{/* What watches the run finds something to watch, and takes nothing from it. */}}
{{- define "neva-pretrain.checkMonitoring" -}}
{{- $errors := list -}}
{{- $v := .Values -}}
{{- $exporter := include "neva-pretrain.monitoring" (list . "exporter") | fromJson -}}
{{- if $exporter.enabled -}}
  {{- $port := int64 $exporter.port -}}
  {{- if eq $port (int64 $v.rendezvous.port) -}}
    {{- $errors = append $errors (printf "monitoring.exporter.port: got %d; must differ from rendezvous.port; use another port below 32768" $port) -}}
  {{- else if and $v.hostNetwork (eq $port 9400) -}}
    {{- $errors = append $errors "monitoring.exporter.port: got 9400; must be chosen for this job with hostNetwork, since all jobs of a node share its ports; use another port below 32768" -}}
  {{- end -}}
{{- else if (include "neva-pretrain.monitoring" (list . "podMonitor") | fromJson).enabled -}}
  {{- $errors = append $errors "monitoring.podMonitor.enabled: got true; must be false without monitoring.exporter.enabled, since there is nothing to scrape; set monitoring.exporter.enabled" -}}
{{- end -}}
{{- $manager := ($v.config | default dict).exp_manager -}}
{{- if and ($v.tensorboard | default dict).enabled (kindIs "map" $manager) -}}
  {{- if and (hasKey $manager "create_tensorboard_logger") (not $manager.create_tensorboard_logger) -}}
    {{- $errors = append $errors (printf "config.exp_manager.create_tensorboard_logger: got %s; must be true with tensorboard.enabled, or there is nothing to show; remove it" (include "neva-pretrain.text" $manager.create_tensorboard_logger)) -}}
  {{- end -}}
{{- end -}}
{{- $name := regexReplaceAll "(:[^:/@]*)?(@.*)?$" (($v.tensorboard | default dict).image | default "") "" -}}
{{- if gt (len $name) 255 -}}
  {{- $errors = append $errors (printf "tensorboard.image: got %d characters before the tag; must be at most 255; use a shorter name" (len $name)) -}}
{{- end -}}
{{- $wandb := $v.wandb | default dict -}}
{{- if and $wandb.enabled (eq (toString $wandb.mode) "online") (not (($v.secrets | default dict).wandb | default dict).name) -}}
  {{- $errors = append $errors "secrets.wandb.name: got nothing; must name the Secret with the API key, since wandb.mode is online; use an existing Secret, or wandb.mode offline" -}}
{{- end -}}
{{- $errors | toJson -}}
{{- end -}}

{{/* Who sets a name, or what to say in its place; empty where it is free. Takes (list root name names prefixes). */}}
{{- define "neva-pretrain.reserved" -}}
{{- $name := index . 1 -}}
{{- include "neva-pretrain.loadRules" (index . 0) -}}
{{- $rules := (index . 0).nevaRules -}}
{{- $owner := get (get $rules (index . 2)) $name -}}
{{- range $prefix, $reason := get $rules (index . 3) -}}{{- if hasPrefix $prefix $name -}}{{- $owner = $reason -}}{{- end -}}{{- end -}}
{{- $owner -}}
{{- end -}}

{{- define "neva-pretrain.checkEnvironment" -}}
{{- $errors := list -}}
{{- include "neva-pretrain.loadRules" . -}}
{{- $secrets := .nevaRules.secrets -}}
{{- range $name, $value := .Values.env -}}
  {{- $owner := include "neva-pretrain.reserved" (list $ $name "reservedEnv" "reservedEnvPrefixes") -}}
  {{- if and $owner (not (kindIs "invalid" $value)) -}}
    {{- $shown := ternary "a value" (include "neva-pretrain.show" $value) (not (empty (include "neva-pretrain.secretName" (list $secrets $name)))) -}}
    {{- $errors = append $errors (printf "env.%s: got %s; must not be set here; %s" $name $shown $owner) -}}
  {{- else if kindIs "bool" $value -}}
    {{- $errors = append $errors (printf "env.%s: got %t; must be text or a number, since YAML reads words such as on, off, yes and no as booleans; quote what is meant, such as \"%t\"" $name $value $value) -}}
  {{- end -}}
{{- end -}}
{{- range $name, $secret := (.Values.secrets | default dict).env -}}
  {{- $owner := include "neva-pretrain.reserved" (list $ $name "reservedEnv" "reservedEnvPrefixes") -}}
  {{- if and $secret (hasKey ($.Values.env | default dict) $name) -}}{{- $owner = printf "remove it here or in env" -}}{{- end -}}
  {{- if and $secret $owner -}}
    {{- $errors = append $errors (printf "secrets.env.%s: got %s; must not be set here; %s" $name $secret.name $owner) -}}
  {{- end -}}
{{- end -}}
{{- $errors | toJson -}}
{{- end -}}

{{/* Secrets come by reference: everyone who reads the job, the release or the file would see them. `global` is other
charts' too. */}}
{{- define "neva-pretrain.checkSecrets" -}}
{{- $errors := list -}}
{{- include "neva-pretrain.loadRules" . -}}
{{- $rules := .nevaRules.secrets -}}
{{- $secrets := join "|" $rules.values -}}
{{- $entries := include "neva-pretrain.once" (list . "neva-pretrain.entries" .) | fromJsonArray | compact -}}
{{- /* All texts and names at once first: each expression is compiled anew for each match. */ -}}
{{- $texts := list -}}{{- $names := list -}}
{{- range $entries -}}
  {{- if or .text (eq .kind "deep") -}}{{- $texts = append $texts .text -}}{{- $names = append $names .name -}}{{- end -}}
{{- end -}}
{{- $looks := regexMatch $secrets (join "\n" $texts) -}}
{{- $named := regexMatch (print "(?m)" $rules.names) (regexReplaceAll "([a-z0-9])([A-Z])" (join "\n" $names) "${1}_${2}" | upper) -}}
{{- range $entries -}}
  {{- if eq .kind "deep" -}}
    {{- $errors = append $errors (printf "%s: got a tree; must be at most 32 levels deep; flatten it" .path) -}}
  {{- else if and .text (ne .kind "bool") -}}
    {{- $secret := and $looks (regexMatch $secrets .text) -}}
    {{- if and $named (not $secret) -}}
      {{- $secret = and (include "neva-pretrain.secretName" (list $rules .name)) (not (regexMatch $rules.harmlessValues .text)) -}}
    {{- end -}}
    {{- $reserved := and $secret (hasPrefix "env." .path) (include "neva-pretrain.reserved" (list $ .name "reservedEnv" "reservedEnvPrefixes")) -}}
    {{- if and $secret (not $reserved) -}}
      {{- $fix := "use an existing Secret, by secrets.env" -}}
      {{- if hasPrefix "env." .path -}}{{- $fix = printf "use secrets.env.%s with name and key of a Secret" .name -}}{{- end -}}
      {{- $errors = append $errors (printf "%s: got a value; must not hold a secret, which everyone who reads the job would see; %s" .path $fix) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- $errors | toJson -}}
{{- end -}}

{{/* What the namespace would reject once the job is made, and the pods never come. */}}
{{- define "neva-pretrain.checkSecurity" -}}
{{- $errors := list -}}
{{- $enforced := (.Values.podSecurity | default dict).enforce -}}
{{- if $enforced -}}
  {{- range include "neva-pretrain.podSecurityBreaks" . | fromJsonArray -}}
    {{- if or (eq $enforced "restricted") (eq .level "baseline") -}}
      {{- $errors = append $errors (printf "%s: got %s; must %s where podSecurity.enforce is %s; %s" .key .got .rule $enforced .fix) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- $errors | toJson -}}
{{- end -}}

{{- define "neva-pretrain.checkNetwork" -}}
{{- $errors := list -}}
{{- $v := .Values -}}{{- $policy := $v.networkPolicy | default dict -}}
{{- if $policy.enabled -}}
  {{- if $v.hostNetwork -}}
    {{- $errors = append $errors "networkPolicy.enabled: got true; must be false with hostNetwork, since policies do not see the node's network; use false" -}}
  {{- end -}}
  {{- $why := list -}}
  {{- if $v.prepare.enabled -}}
    {{- if include "neva-pretrain.prepareOnline" . -}}{{- $why = append $why "prepare downloads" -}}{{- end -}}
  {{- else -}}
    {{- if ($v.hf | default dict).online -}}{{- $why = append $why "hf.online is true" -}}{{- end -}}
    {{- $wandb := get $v "wandb" | default dict -}}
    {{- if and $wandb.enabled (eq (toString $wandb.mode) "online") -}}{{- $why = append $why "wandb.mode is online" -}}{{- end -}}
  {{- end -}}
  {{- if and $why (not (include "neva-pretrain.withoutNulls" $policy.egress | fromJson)) -}}
    {{- $errors = append $errors (printf "networkPolicy.egress: got nothing; must admit hosts of the internet, since %s; use a rule such as internet: {ports: [{port: 443}]}" (join " and " $why)) -}}
  {{- end -}}
  {{- if and (not $v.prepare.enabled) ((get $v "monitoring" | default dict).podMonitor | default dict).enabled (not (include "neva-pretrain.withoutNulls" $policy.ingress | fromJson)) -}}
    {{- $errors = append $errors "networkPolicy.ingress: got nothing; must admit Prometheus, since monitoring.podMonitor.enabled is true; use a rule such as prometheus: {from: [{namespaceSelector: {}}]}" -}}
  {{- end -}}
{{- end -}}
{{- $errors | toJson -}}
{{- end -}}

{{/* values.config may say anything that no value says, in the config's own keys. */}}
{{- define "neva-pretrain.checkConfig" -}}
{{- $errors := list -}}
{{- $config := .Values.config | default dict -}}
{{- range include "neva-pretrain.walk" (list $config "config") | fromJsonArray | compact -}}
  {{- if and (regexMatch "^[+~]|[.]" .name) (hasSuffix (print "." .name) .path) -}}
    {{- $errors = append $errors (printf "%s: got the key %s; must have plain keys, since only a command line reads dots, + and ~; use nested maps" (trimSuffix (print "." .name) .path) .name) -}}
  {{- end -}}
{{- end -}}
{{- include "neva-pretrain.loadRules" . -}}
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
    {{- if hasKey $node (last $keys) -}}
      {{- $value := get $node (last $keys) -}}
      {{- if not (kindIs "map" $value) -}}
        {{- $errors = append $errors (printf "config.%s: got %s; must be a map, or it would replace the whole section; name its keys" $path (include "neva-pretrain.show" $value)) -}}
      {{- end -}}
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
    {{- $errors = append $errors (printf "config.%s: got %s; must not be set here, since a value owns it; use %s" $path (include "neva-pretrain.show" $node) $owner) -}}
  {{- end -}}
{{- end -}}
{{- $manager := ternary $config.exp_manager dict (kindIs "map" $config.exp_manager) -}}
{{- $callback := ternary $manager.checkpoint_callback_params dict (kindIs "map" $manager.checkpoint_callback_params) -}}
{{- $trainer := ternary $config.trainer dict (kindIs "map" $config.trainer) -}}
{{- $validation := $trainer.limit_val_batches -}}
{{- if and (hasPrefix "val" (toString $callback.monitor)) (or (kindIs "invalid" $validation) (eq (float64 $validation) 0.0)) -}}
  {{- $errors = append $errors (printf "config.exp_manager.checkpoint_callback_params.monitor: got %s; must not be a validation metric while no validation runs, or nothing is saved; use step or reduced_train_loss" $callback.monitor) -}}
{{- end -}}
{{- $errors | toJson -}}
{{- end -}}
