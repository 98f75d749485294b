{{/* Parallelism divides the machine and the model; batches divide into micro batches; the schedule fits the run. */}}
{{- define "neva-pretrain.checkTraining" -}}
{{- $t := .Values.training -}}
{{- $f := include "neva-pretrain.uncheckedFacts" . | fromJson -}}
{{- $tp := int64 $t.tensorParallelSize -}}{{- $pp := int64 $t.pipelineParallelSize -}}
{{- $perNode := int64 $t.gpusPerNode -}}{{- $nodes := int64 $t.nodes -}}
{{- $sizes := dict "training" $t "architecture" $f.architecture -}}
{{- $parts := list -}}
{{- if $f.known -}}
  {{- $parts = include "neva-pretrain.undivided" $sizes | fromJsonArray -}}
  {{- include "neva-pretrain.architectureBreaks" (set $sizes "undivided" $parts) -}}
  {{- include "neva-pretrain.activationBreaks" (dict "root" . "facts" $f) -}}
  {{- include "neva-pretrain.fp8Breaks" $sizes -}}
  {{- include "neva-pretrain.lengthBreaks" (dict "facts" $f) -}}
{{- else -}}
  {{- $names := list -}}
  {{- range $name := splitList "\n" (.Files.Get "files/models.yaml") -}}
    {{- if regexMatch "^  [a-z0-9_]+:$" $name -}}
      {{- $names = append $names ($name | trim | trimSuffix ":") -}}
    {{- end -}}
  {{- end -}}
  {{- include "neva-pretrain.violation" (dict "key" "model.name" "got" .Values.model.name
    "rule" "must be a model in the catalog" "fix" (printf "use one of %s" (join ", " $names))) -}}
{{- end -}}
{{- $world := mul $nodes $perNode -}}{{- $parallel := mul $tp $pp -}}
{{- /* Sizes inside a node are tensorParallelSize's to mend; only a size beyond it says something about nodes. */ -}}
{{- if and $parts (le $tp $perNode) -}}
{{- else if mod $world $parallel -}}
  {{- $step := div $parallel (int64 (include "neva-pretrain.gcd" (list $parallel $perNode))) -}}
  {{- $nearest := include "neva-pretrain.nearestMultiple" (dict "n" $nodes "of" $step) -}}
  {{- include "neva-pretrain.violation" (dict "key" "training.nodes" "got" (printf "%d (%d GPUs)" $nodes $world)
    "rule" (printf "must make nodes x gpusPerNode a multiple of tensor x pipeline parallel size (%d x %d = %d)"
      $tp $pp $parallel)
    "fix" (ternary $nearest "use another tensorParallelSize first" (empty $parts))) -}}
{{- else -}}
  {{- $dp := div $world $parallel -}}{{- $multiple := mul $t.microBatchSize $dp -}}
  {{- if mod (int64 $t.globalBatchSize) $multiple -}}
    {{- include "neva-pretrain.violation" (dict "key" "training.globalBatchSize" "got" $t.globalBatchSize
      "rule" (printf "must be a multiple of microBatchSize x data parallel size (%d x %d = %d)"
        (int64 $t.microBatchSize) $dp $multiple)
      "fix" (include "neva-pretrain.nearestMultiple" (dict "n" $t.globalBatchSize "of" $multiple))) -}}
  {{- end -}}
{{- end -}}
{{- if ge (int64 $t.warmupSteps) (int64 $t.maxSteps) -}}
  {{- include "neva-pretrain.violation" (dict "key" "training.warmupSteps" "got" $t.warmupSteps
    "rule" (printf "must be less than maxSteps (%d)" (int64 $t.maxSteps))
    "fix" (printf "use %d or fewer" (sub $t.maxSteps 1))) -}}
{{- end -}}
{{- end -}}

{{/* Sizes that the tensor parallel size does not divide, as a JSON list. Takes a dict: training, architecture. */}}
{{- define "neva-pretrain.undivided" -}}
{{- $tp := int64 .training.tensorParallelSize -}}{{- $a := .architecture -}}{{- $broken := list -}}
{{- range list
    (dict "name" "training.gpusPerNode" "size" .training.gpusPerNode)
    (dict "name" "attention heads" "size" $a.numAttentionHeads)
    (dict "name" "query groups" "size" $a.numQueryGroups)
    (dict "name" "ffn hidden size" "size" $a.ffnHiddenSize) -}}
  {{- if mod .size $tp -}}{{- $broken = append $broken (printf "%s (%d)" .name (int64 .size)) -}}{{- end -}}
{{- end -}}
{{- $broken | toJson -}}
{{- end -}}

{{/* Whether the parallel sizes divide the model, and its own sizes each other. Takes a dict: training, architecture,
undivided. */}}
{{- define "neva-pretrain.architectureBreaks" -}}
{{- $a := .architecture -}}{{- $heads := int64 $a.numAttentionHeads -}}
{{- if mod $a.hiddenSize $heads -}}
  {{- include "neva-pretrain.violation" (dict "key" "model.architecture.numAttentionHeads" "got" $heads
    "rule" (printf "must divide hiddenSize (%d)" (int64 $a.hiddenSize))
    "fix" (include "neva-pretrain.nearestDivisors"
      (dict "n" $heads "limit" $a.hiddenSize "all" (list $a.hiddenSize)))) -}}
{{- end -}}
{{- if mod $heads $a.numQueryGroups -}}
  {{- include "neva-pretrain.violation" (dict "key" "model.architecture.numQueryGroups" "got" $a.numQueryGroups
    "rule" (printf "must divide numAttentionHeads (%d)" $heads)
    "fix" (include "neva-pretrain.nearestDivisors" (dict "n" $a.numQueryGroups "limit" $heads "all" (list $heads)))) -}}
{{- end -}}
{{- with .undivided -}}
  {{- $sizes := list $.training.gpusPerNode $a.numAttentionHeads $a.numQueryGroups $a.ffnHiddenSize -}}
  {{- include "neva-pretrain.violation" (dict "key" "training.tensorParallelSize" "got" $.training.tensorParallelSize
    "rule" (printf "must divide %s" (join ", " .))
    "fix" (include "neva-pretrain.nearestDivisors"
      (dict "n" $.training.tensorParallelSize "limit" $.training.gpusPerNode "all" $sizes))) -}}
{{- end -}}
{{- if mod $a.numLayers $.training.pipelineParallelSize -}}
  {{- include "neva-pretrain.violation" (dict "key" "training.pipelineParallelSize"
    "got" $.training.pipelineParallelSize
    "rule" (printf "must divide the layers (%d)" (int64 $a.numLayers))
    "fix" (include "neva-pretrain.nearestDivisors"
      (dict "n" $.training.pipelineParallelSize "limit" $a.numLayers "all" (list $a.numLayers)))) -}}
{{- end -}}
{{- end -}}

{{/* NeMo builds the gate by the activation's name; the plan and prepare go by gatedMlp. Takes a dict: root,
facts. */}}
{{- define "neva-pretrain.activationBreaks" -}}
{{- include "neva-pretrain.loadRules" .root -}}
{{- $known := .root.nevaRules.activations -}}
{{- $activation := (.root.Files.Get "files/neva_pretrain.yaml" | fromYaml).model.activation -}}
{{- range list .facts.hydra .root.Values.config -}}
  {{- if kindIs "map" . -}}{{- if kindIs "map" .model -}}
    {{- if hasKey .model "activation" -}}{{- $activation = .model.activation -}}{{- end -}}
  {{- end -}}{{- end -}}
{{- end -}}
{{- $gated := .facts.architecture.gatedMlp -}}
{{- $right := get $known (ternary "gated" "plain" $gated) -}}
{{- if has $activation (get $known (ternary "plain" "gated" $gated)) -}}
  {{- include "neva-pretrain.violation" (dict "key" "model.architecture.gatedMlp" "got" $gated
    "rule" (printf "must be %v with the activation %s of the config" (not $gated) $activation)
    "fix" (printf "use %v, or set config.model.activation to one of %s" (not $gated) (join ", " $right))) -}}
{{- else if not (has $activation $right) -}}
  {{- include "neva-pretrain.violation" (dict "key" "config.model.activation"
    "got" (include "neva-pretrain.show" (dict "value" $activation "path" "" "rules" .root.nevaRules.secrets))
    "rule" "must be an activation that NeMo knows" "fix" (printf "use one of %s" (join ", " $right))) -}}
{{- else if and (ne .root.Values.training.kernels "reference") (not (has $activation $known.fused)) -}}
  {{- include "neva-pretrain.violation" (dict "key" "training.kernels" "got" .root.Values.training.kernels
    "rule" (printf "must be reference with the activation %s, which Megatron Core does not fuse" $activation)
    "fix" "use reference") -}}
{{- end -}}
{{- end -}}

{{/* TransformerEngine multiplies FP8 matrices whose sides are multiples of 16; FP8 experts were never run.
Takes a dict: training, architecture, undivided. */}}
{{- define "neva-pretrain.fp8Breaks" -}}
{{- $a := .architecture -}}{{- $tp := int64 .training.tensorParallelSize -}}{{- $odd := list -}}
{{- $keys := mul (div $a.hiddenSize $a.numAttentionHeads) $a.numQueryGroups -}}
{{- range list
    (dict "name" "hidden size" "size" $a.hiddenSize)
    (dict "name" "key and value size" "size" $keys)
    (dict "name" "ffn hidden size" "size" $a.ffnHiddenSize) -}}
  {{- $side := div .size $tp -}}
  {{- if mod $side 16 -}}{{- $odd = append $odd (printf "%s / tensorParallelSize (%d)" .name $side) -}}{{- end -}}
{{- end -}}
{{- if or (ne .training.kernels "fp8") .undivided -}}
{{- else if gt (int64 $a.numExperts) 1 -}}
  {{- include "neva-pretrain.violation" (dict "key" "training.kernels" "got" "fp8"
    "rule" "must be reference or fused with experts" "fix" "use fused") -}}
{{- else if $odd -}}
  {{- include "neva-pretrain.violation" (dict "key" "training.kernels" "got" "fp8"
    "rule" (printf "must be reference or fused, since FP8 needs multiples of 16, not %s" (join ", " $odd))
    "fix" "use fused") -}}
{{- end -}}
{{- end -}}

{{/* NeMo cuts samples off at encoder_seq_length: an image without its last token is not seen, its caption is gone.
Takes a dict: facts. */}}
{{- define "neva-pretrain.lengthBreaks" -}}
{{- $longest := int64 .facts.architecture.encoderSeqLength -}}
{{- $side := div .facts.vision.imageSize .facts.vision.patchSize -}}
{{- if eq .facts.model.projector "mlp_downsample" -}}{{- $side = div (add $side 1) 2 -}}{{- end -}}
{{- if le $longest (mul $side $side) -}}
  {{- include "neva-pretrain.violation" (dict "key" "model.architecture.encoderSeqLength" "got" $longest
    "rule" (printf "must be more than %d, the tokens of one image" (mul $side $side))
    "fix" "leave it out to use the model's own") -}}
{{- end -}}
{{- end -}}

{{/* The checkpoint to load exists at this parallelism. */}}
{{- define "neva-pretrain.checkCheckpoint" -}}
{{- $t := .Values.training -}}
{{- $f := include "neva-pretrain.uncheckedFacts" . | fromJson -}}
{{- $sizes := printf "%d x %d" (int64 $t.tensorParallelSize) (int64 $t.pipelineParallelSize) -}}
{{- $preset := $f.model.preset -}}
{{- $split := printf "%d x %d" (int64 $preset.tensorParallelSize) (int64 $preset.pipelineParallelSize) -}}
{{- if and $f.known (eq .Values.model.checkpointFormat "legacy") (ne $sizes $split) -}}
  {{- include "neva-pretrain.violation" (dict "key" "model.checkpointFormat" "got" "legacy"
    "rule" (printf "must not be legacy at tensor x pipeline parallel size %s, since legacy files are split for %s"
      $sizes $split)
    "fix" "use distributed, or the preset's sizes") -}}
{{- end -}}
{{- end -}}

{{/* "use 256 or 512": those nearest to n of values in ascending order. Takes a dict: n, values. */}}
{{- define "neva-pretrain.nearest" -}}
{{- $n := int64 .n -}}{{- $below := "" -}}{{- $above := "" -}}
{{- range .values -}}
  {{- if lt (int64 .) $n -}}{{- $below = include "neva-pretrain.text" . -}}{{- end -}}
  {{- if and (gt (int64 .) $n) (not $above) -}}{{- $above = include "neva-pretrain.text" . -}}{{- end -}}
{{- end -}}
use {{ compact (list $below $above) | join " or " }}
{{- end -}}

{{/* The multiples of a number on both sides of n. Takes a dict: n, of. */}}
{{- define "neva-pretrain.nearestMultiple" -}}
{{- $n := int64 .n -}}{{- $of := int64 .of -}}
{{- $below := mul (div $n $of) $of -}}
{{- include "neva-pretrain.nearest" (dict "n" $n "values" (without (list $below (add $below $of)) (int64 0))) -}}
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

{{/* "use 4 or 8": the numbers nearest to n, up to a limit, that divide all of a list. They come in pairs around the
square root, which is at most 1024: the schema admits no number above 2^20 here. Takes a dict: n, limit, all. */}}
{{- define "neva-pretrain.nearestDivisors" -}}
{{- $n := int64 .n -}}{{- $limit := int64 .limit -}}
{{- $common := int64 (include "neva-pretrain.gcd" .all) -}}
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
{{- include "neva-pretrain.nearest" (dict "n" $n "values" (without (list $below $above) 0)) -}}
{{- end -}}
