{{/* The Hydra config of neva_pretrain.py: base, the model's own keys, what follows from the values, values.config.
Takes a dict: root, facts. */}}
{{- define "neva-pretrain.hydra" -}}
{{- $root := .root -}}{{- $f := .facts -}}
{{- $v := $root.Values -}}{{- $t := $v.training -}}{{- $a := $f.architecture -}}
{{- $fused := ne $t.kernels "reference" -}}
{{- $huggingface := eq $f.model.tokenizer.library "huggingface" -}}
{{- $resume := $v.checkpoint.resume -}}
{{- $wandb := $v.wandb -}}
{{- $logger := dict "name" $f.runId -}}
{{- with $wandb.project -}}{{- $_ := set $logger "project" . -}}{{- end -}}
{{- if $wandb.enabled -}}
  {{- /* A restart is a run of its own there: the id groups them. */ -}}
  {{- $_ := set $logger "group" $f.runId -}}{{- $_ := set $logger "save_dir" $f.resultsPath -}}
  {{- with $wandb.entity -}}{{- $_ := set $logger "entity" . -}}{{- end -}}
{{- end -}}
{{- $derived := dict
  "trainer" (dict
    "devices" $t.gpusPerNode "num_nodes" $t.nodes "precision" $t.precision "max_steps" $t.maxSteps
    "log_every_n_steps" $t.logEveryNSteps)
  "exp_manager" (dict
    "explicit_log_dir" $f.logDir
    "create_wandb_logger" ($wandb.enabled | default false)
    "wandb_logger_kwargs" $logger
    "resume_if_exists" (ne $resume "never")
    "resume_ignore_no_checkpoint" (ne $resume "require")
    "create_checkpoint_callback" $v.checkpoint.enabled
    "checkpoint_callback_params" (dict
      "save_top_k" $v.checkpoint.saveTopK "every_n_train_steps" $v.checkpoint.everyNSteps
      "model_parallel_size" $f.modelParallelSize))
  "model" (dict
    "precision" $t.precision "micro_batch_size" $t.microBatchSize "global_batch_size" $t.globalBatchSize
    "tensor_model_parallel_size" $t.tensorParallelSize "pipeline_model_parallel_size" $t.pipelineParallelSize
    "mm_cfg" (dict
      "llm" (dict "from_pretrained" $f.checkpointPath "model_type" $f.model.modelType)
      "vision_encoder" (dict
        "from_pretrained" $v.model.visionEncoderPath "patch_dim" $f.vision.patchSize
        "crop_size" (list $f.vision.imageSize $f.vision.imageSize) "hidden_size" $f.vision.hiddenSize
        "class_token_length" $f.vision.classTokens)
      "mm_mlp_adapter_type" $f.model.projector)
    "encoder_seq_length" $a.encoderSeqLength
    "max_position_embeddings" (($f.hydra.model | default dict).max_position_embeddings | default $a.encoderSeqLength)
    "num_layers" $a.numLayers "hidden_size" $a.hiddenSize "ffn_hidden_size" $a.ffnHiddenSize
    "num_attention_heads" $a.numAttentionHeads "num_query_groups" $a.numQueryGroups
    "sequence_parallel" $t.sequenceParallel
    "bias_activation_fusion" $fused "apply_rope_fusion" $fused
    "seed" $t.seed
    "tokenizer" (dict "library" $f.model.tokenizer.library
      "type" (ternary $f.tokenizerPath nil $huggingface) "model" (ternary nil $f.tokenizerPath $huggingface))
    "data" (dict "num_workers" $v.data.workers "data_path" $f.annotationsPath "image_folder" $f.imagesPath)
    "optim" (dict "lr" $t.learningRate "sched" (dict "warmup_steps" $t.warmupSteps "min_lr" $t.minLearningRate)))
-}}
{{- $config := $root.Files.Get "files/neva_pretrain.yaml" | fromYaml -}}
{{- include "neva-pretrain.merge" (dict "into" $config "from" (deepCopy $f.hydra)) -}}
{{- include "neva-pretrain.merge" (dict "into" $config "from" $derived) -}}
{{- if eq $t.kernels "fp8" -}}
  {{- /* As in NVIDIA's FP8 presets: gradients in e5m2, the scale from the largest of 1024 steps. */ -}}
  {{- include "neva-pretrain.merge" (dict "into" $config.model "from" (dict
    "fp8" true "fp8_hybrid" true "fp8_amax_history_len" 1024 "fp8_amax_compute_algo" "max")) -}}
{{- end -}}
{{- if ne $t.recompute "none" -}}
  {{- $_ := set $config.model "activations_checkpoint_granularity" $t.recompute -}}
  {{- if eq $t.recompute "full" -}}
    {{- $_ := set $config.model "activations_checkpoint_method" "uniform" -}}
    {{- $_ := set $config.model "activations_checkpoint_num_layers" 1 -}}
  {{- end -}}
{{- end -}}
{{- if gt (int64 $a.numExperts) 1 -}}
  {{- $_ := set $config.model "num_moe_experts" $a.numExperts -}}
  {{- $_ := set $config.model "moe_router_topk" $a.expertsPerToken -}}
{{- end -}}
{{- with $a.rotaryBase -}}{{- $_ := set $config.model "rotary_base" . -}}{{- end -}}
{{- include "neva-pretrain.merge" (dict "into" $config "from" (deepCopy $v.config)) -}}
{{- include "neva-pretrain.integers" $config -}}
{{- toYaml $config -}}
{{- end -}}

{{/* What the run's config says under rules.yaml's llmConfig: {key: {run, default}}, as JSON. Takes a dict: root,
facts. */}}
{{- define "neva-pretrain.llm" -}}
{{- $root := .root -}}
{{- $hydra := include "neva-pretrain.once" (dict "root" $root "define" "neva-pretrain.hydra" "argument" .) -}}
{{- $model := ($hydra | fromYaml).model -}}
{{- include "neva-pretrain.loadRules" $root -}}
{{- $facts := deepCopy $root.nevaRules.llmConfig -}}
{{- range $key, $fact := $facts -}}
  {{- if hasKey $model $key -}}{{- $_ := set $fact "run" (get $model $key) -}}
  {{- else if hasKey $fact "default" -}}{{- $_ := set $fact "run" $fact.default -}}
  {{- end -}}
{{- end -}}
{{- toJson $facts -}}
{{- end -}}

{{/* How the run's config reads samples, as JSON. Takes a dict: root, facts. */}}
{{- define "neva-pretrain.samples" -}}
{{- $root := .root -}}
{{- $hydra := include "neva-pretrain.once" (dict "root" $root "define" "neva-pretrain.hydra" "argument" .) -}}
{{- $data := ($hydra | fromYaml).model.data -}}
{{- dict "template" $data.conv_template "mediaType" $data.media_type "imageFirst" $data.sep_image_conv_front
  "loader" $data.dataloader_type | toJson -}}
{{- end -}}

{{/* What preflight, prepare and the run record read. Takes a dict: root, facts. */}}
{{- define "neva-pretrain.settings" -}}
{{- $root := .root -}}{{- $f := .facts -}}
{{- $v := $root.Values -}}
{{- include "neva-pretrain.loadRules" $root -}}
{{- $settings := dict
  "run" (dict "id" $f.runId "release" $root.Release.Name "namespace" $root.Release.Namespace
    "attempt" ($v.run.attempt | default 1))
  "chart" (dict "version" $root.Chart.Version "appVersion" $root.Chart.AppVersion)
  "image" (include "neva-pretrain.image" $root)
  "model" (dict
    "name" $f.modelName "modelType" $f.model.modelType "checkpointPath" $f.checkpointPath
    "checkpointFormat" $v.model.checkpointFormat "tokenizerPath" $f.tokenizerPath
    "tokenizerLibrary" $f.model.tokenizer.library "extraTokens" $f.model.tokenizer.extraTokens
    "visionEncoderPath" $v.model.visionEncoderPath "projector" $f.model.projector
    "tokensPerSample" $f.model.tokensPerSample)
  "architecture" $f.architecture
  "llm" (include "neva-pretrain.llm" . | fromJson)
  "samples" (include "neva-pretrain.samples" . | fromJson)
  "vision" $f.vision
  "training" $v.training
  "derived" (dict
    "worldSize" $f.worldSize "dataParallelSize" $f.dataParallelSize "accumulationSteps" $f.accumulationSteps
    "paddedVocabSize" $f.paddedVocabSize)
  "data" (dict "annotations" $f.annotationsPath "images" $f.imagesPath "workers" $v.data.workers)
  "results" (dict "path" $f.resultsPath "logDir" $f.logDir "checkpointsDir" (printf "%s/checkpoints" $f.logDir))
  "readOnly" $f.readOnlyMounts
  "rdma" $f.rdma.enabled
  "hf" (dict "online" $f.hfOnline "home" $f.hfHome)
  "resume" $v.checkpoint.resume
  "checkpoint" (dict "enabled" $v.checkpoint.enabled "everyNSteps" $v.checkpoint.everyNSteps)
  "preflight" (omit $v.preflight "enabled" "resources")
  "plan" $root.Values.monitoring.plan
  "rendezvous" (dict
    "timeoutSeconds" $v.rendezvous.timeoutSeconds "ncclTimeoutSeconds" $root.nevaRules.ncclTimeoutSeconds)
  "restart" (merge (dict
    "port" (include "neva-pretrain.restartPort" $root | int64)
    "graceSeconds" $v.terminationGracePeriodSeconds) $v.restart)
-}}
{{- if $v.prepare.enabled -}}
  {{- $prepare := dict -}}
  {{- range $step := list "tokenizer" "vision" "llm" "dataset" -}}
    {{- $_ := set $prepare $step (deepCopy (get $v.prepare $step)) -}}
  {{- end -}}
  {{- $_ := set $prepare.vision "source" ($v.prepare.vision.source | default $f.vision.path) -}}
  {{- $_ := set $settings "prepare" $prepare -}}
{{- end -}}
{{- $settings = deepCopy $settings -}}
{{- include "neva-pretrain.integers" $settings -}}
{{- toPrettyJson $settings -}}
{{- end -}}

{{/* One of the job's ConfigMaps: there are two, since kubectl apply keeps a copy of an object in an annotation of at
most 256 KiB. Takes a dict: root, name, data. */}}
{{- define "neva-pretrain.configMap" -}}
{{- $root := .root -}}
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ .name }}
  namespace: {{ $root.Release.Namespace | quote }}
  labels:
    {{- include "neva-pretrain.labels" $root | nindent 4 }}
immutable: true
data:
  {{- .data | nindent 2 }}
{{- end -}}

{{/* Data of the job's ConfigMaps, as JSON: {end of the name: data}. Takes a dict: root, facts. */}}
{{- define "neva-pretrain.configData" -}}
{{- $root := .root -}}
{{- $data := dict "" (include "neva-pretrain.ownData" .) -}}
{{- range $end, $files := include "neva-pretrain.modeFiles" $root | fromJson -}}
  {{- $_ := set $data $end (include "neva-pretrain.filesData" (dict "root" $root "files" $files) | trim) -}}
{{- end -}}
{{- toJson $data -}}
{{- end -}}

{{/* Data of the one with the job's name: what the mode of the release runs and reads. Takes a dict: root, facts. */}}
{{- define "neva-pretrain.ownData" -}}
{{- $root := .root -}}{{- $f := .facts -}}
{{- if ne $f.mode "prepare" -}}
neva_pretrain.yaml: |
  {{- include "neva-pretrain.once" (dict "root" $root "define" "neva-pretrain.hydra" "argument" .) | nindent 2 }}
{{ end -}}
settings.json: |
  {{- include "neva-pretrain.settings" . | nindent 2 }}
{{ include "neva-pretrain.filesData" (dict "root" $root "files" (include "neva-pretrain.jobFiles" $root | fromJson)) }}
{{- end -}}

{{/* Volume of the job's ConfigMaps, one folder. Takes a dict: root, configMap (its name). */}}
{{- define "neva-pretrain.configVolume" -}}
{{- $root := .root -}}
{{- $own := include "neva-pretrain.jobFiles" $root | fromJson }}
- name: config
  projected:
    defaultMode: 0555
    sources:
      - configMap:
          name: {{ .configMap }}
          items:
            {{- $trains := list "neva_pretrain.yaml" "settings.json" }}
            {{- range ternary (list "settings.json") $trains $root.Values.prepare.enabled }}
            - key: {{ . }}
              path: {{ . }}
            {{- end }}
            {{- include "neva-pretrain.filesItems" $own | trim | nindent 12 }}
      {{- range $end, $files := include "neva-pretrain.modeFiles" $root | fromJson }}
      - configMap:
          name: {{ print $.configMap $end }}
          items:
            {{- include "neva-pretrain.filesItems" $files | trim | nindent 12 }}
      {{- end }}
{{- end -}}

{{/* Files that both modes run, and the launch script, as neva-pretrain.podFiles has them. Takes the root. */}}
{{- define "neva-pretrain.jobFiles" -}}
{{- $names := list "__init__" "findings" "inputs" "preflight" "progress" "settings" -}}
{{- $files := include "neva-pretrain.podFiles" (dict "root" . "names" $names) | fromJson -}}
{{- if not .Values.prepare.enabled -}}{{- $_ := set $files "launch.sh" "files/launch.sh" -}}{{- end -}}
{{- toJson $files -}}
{{- end -}}

{{/* Files that one mode alone runs, in a ConfigMap of their own since kubectl apply takes 256 KiB, as JSON {end of its
name: files}: prepare, or the supervisor, what it reads logs with, and the exporter. Takes the root. */}}
{{- define "neva-pretrain.modeFiles" -}}
{{- $names := ternary (list "prepare") (list "monitor" "supervisor") .Values.prepare.enabled -}}
{{- $files := include "neva-pretrain.podFiles" (dict "root" . "names" $names) | fromJson -}}
{{- dict (ternary "-prepare" "-supervisor" .Values.prepare.enabled) $files | toJson -}}
{{- end -}}

{{/* Modules and packages of neva_pod, the Python package that pods run, as JSON: {key: file of the chart}. A key of a
ConfigMap has no "/"; the volume's items give the paths back. Takes a dict: root, names. */}}
{{- define "neva-pretrain.podFiles" -}}
{{- $root := .root -}}{{- $files := dict -}}
{{- range $name := .names -}}
  {{- range $pattern := list "%s.py" "%s/**.py" -}}
    {{- range $path, $_ := $root.Files.Glob (printf $pattern $name | printf "files/neva_pod/%s") -}}
      {{- $_ := set $files (trimPrefix "files/" $path | replace "/" ".") $path -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- toJson $files -}}
{{- end -}}

{{/* Files of the chart as data of a ConfigMap. Takes a dict: root, files ({key: file}). */}}
{{- define "neva-pretrain.filesData" -}}
{{- $root := .root -}}
{{- range $key, $path := .files }}
{{ $key }}: |
  {{- $root.Files.Get $path | replace "\r" "" | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The same as items of its volume. Takes {key: file}. */}}
{{- define "neva-pretrain.filesItems" -}}
{{- range $key, $path := . }}
- key: {{ $key }}
  path: {{ trimPrefix "files/" $path }}
{{- end }}
{{- end -}}
