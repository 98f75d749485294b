{{/* A path of the values: an absolute one is itself, any other lies below its folder. Takes a dict: folder, path. */}}
{{- define "neva-pretrain.below" -}}
{{- if hasPrefix "/" .path }}{{ .path }}{{ else }}{{ trimSuffix "/" .folder }}/{{ .path }}{{ end -}}
{{- end -}}

{{/*
All that follows from the values, as JSON. generator/neva_pretrain/facts.py derives the same; a property test holds the
two equal. "neva-pretrain.facts" has checked them; only _validate-*.tpl reads the unchecked ones.
*/}}
{{- define "neva-pretrain.facts" -}}
{{- include "neva-pretrain.once" (dict "root" . "define" "neva-pretrain.validatedFacts" "argument" .) -}}
{{- end -}}

{{- define "neva-pretrain.validatedFacts" -}}
{{- include "neva-pretrain.validate" . -}}
{{- include "neva-pretrain.uncheckedFacts" . -}}
{{- end -}}

{{- define "neva-pretrain.uncheckedFacts" -}}
{{- include "neva-pretrain.once" (dict "root" . "define" "neva-pretrain.derivedFacts" "argument" .) -}}
{{- end -}}

{{/* What a define yields, remembered for the rest of this render: all templates of a chart share one root. For defines
that are a function of the root alone. Takes a dict: root, define, argument. */}}
{{- define "neva-pretrain.once" -}}
{{- $root := .root -}}{{- $name := .define -}}
{{- if not (hasKey $root $name) -}}{{- $_ := set $root $name (include $name .argument) -}}{{- end -}}
{{- get $root $name -}}
{{- end -}}

{{/* Parses files/rules.yaml, once a render, into the root's nevaRules; nobody changes it. Takes the root. */}}
{{- define "neva-pretrain.loadRules" -}}
{{- if not (hasKey . "nevaRules") -}}
  {{- $_ := set . "nevaRules" (.Files.Get "files/rules.yaml" | fromYaml) -}}
{{- end -}}
{{- end -}}

{{- define "neva-pretrain.derivedFacts" -}}
{{- $v := .Values -}}
{{- $t := $v.training -}}
{{- $catalog := .Files.Get "files/models.yaml" | fromYaml -}}
{{- $model := get $catalog.models ($v.model.name | replace "-" "_") -}}
{{- $known := not (empty $model) -}}
{{- $model = $model | default (get $catalog.models "llama2_7b_chat") -}}
{{- $arch := deepCopy $model.architecture -}}
{{- include "neva-pretrain.merge" (dict "into" $arch "from" $v.model.architecture) -}}
{{- $vision := get $catalog.visionEncoders $model.visionEncoder -}}
{{- $nodes := int64 $t.nodes -}}
{{- $world := mul $nodes $t.gpusPerNode -}}
{{- $modelParallel := mul $t.tensorParallelSize $t.pipelineParallelSize -}}
{{- $dataParallel := max 1 (div $world $modelParallel) -}}
{{- $perStep := mul $t.microBatchSize $dataParallel -}}
{{- $checkpoint := $v.model.checkpoint | default $model.checkpoint.name -}}
{{- $tokenizer := $v.model.tokenizer | default $model.checkpoint.tokenizer -}}
{{- $runId := $v.run.id | default (include "neva-pretrain.fullname" .) -}}
{{- $resultsPath := printf "%s/%s" $v.storage.results.mountPath $runId -}}
{{- $rdma := $v.rdma -}}
{{- $wantsRdma := and (ne (toString $rdma.enabled) "false")
  (or $rdma.enabled $rdma.resourceName $rdma.count $rdma.resources $rdma.networks) -}}
{{- $fabricName := $v.fabric | default (ternary "ib" "tcp" (not (empty $wantsRdma))) -}}
{{- $fabric := get (.Files.Get "files/fabrics.yaml" | fromYaml).fabrics $fabricName -}}
{{- $device := $rdma.resourceName | default $fabric.rdma.resourceName -}}
{{- $devices := $rdma.resources | default (dict $device ($rdma.count | default $fabric.rdma.count)) -}}
{{- $rdmaOn := ternary $fabric.rdma.enabled $rdma.enabled (kindIs "invalid" $rdma.enabled) -}}
{{- $scratch := $v.storage.scratch.mountPath -}}
{{- $vocab := mul 128 $t.tensorParallelSize -}}
{{- $readOnlyMounts := list -}}
{{- range $name := list "datasets" "models" -}}
  {{- if include "neva-pretrain.readOnly" (dict "root" $ "volume" $name) -}}
    {{- $readOnlyMounts = append $readOnlyMounts (get $v.storage $name).mountPath -}}
  {{- end -}}
{{- end -}}
{{- dict
  "mode" (ternary "prepare" "train" ($v.prepare.enabled | default false))
  "known" $known
  "modelName" ($v.model.name | replace "-" "_")
  "model" (omit $model "hydra" "architecture")
  "hydra" $model.hydra
  "architecture" $arch
  "vision" $vision
  "paddedVocabSize" (mul (div (add $arch.vocabSize (sub $vocab 1)) $vocab) $vocab)
  "worldSize" $world
  "modelParallelSize" $modelParallel
  "dataParallelSize" $dataParallel
  "accumulationSteps" (div $t.globalBatchSize $perStep)
  "samples" (mul $t.maxSteps $t.globalBatchSize)
  "workers" (sub $nodes 1)
  "checkpointPath" (include "neva-pretrain.below" (dict "folder" $v.model.llmPath "path" $checkpoint))
  "tokenizerPath" (include "neva-pretrain.below" (dict "folder" $v.model.llmPath "path" $tokenizer))
  "annotationsPath" (include "neva-pretrain.below" (dict "folder" $v.data.path "path" $v.data.annotations))
  "imagesPath" (include "neva-pretrain.below" (dict "folder" $v.data.path "path" $v.data.images))
  "runId" $runId
  "resultsPath" $resultsPath
  "logDir" (printf "%s/results" $resultsPath)
  "fabricName" $fabricName
  "fabric" $fabric
  "rdma" (dict "enabled" $rdmaOn "resources" $devices)
  "hfHome" ($v.hf.home | default (printf "%s/huggingface" $scratch))
  "readOnlyMounts" $readOnlyMounts
  "hfOnline" ($v.hf.online | default false)
| toJson -}}
{{- end -}}

{{/* The parts of the release that a running pod reads; their hash names the job, so that a change is a new job and
never a silent edit of a running one. Takes a dict: root, facts. */}}
{{- define "neva-pretrain.hash" -}}
{{- $root := .root -}}{{- $f := .facts -}}
{{- $data := include "neva-pretrain.once" (dict "root" $root "define" "neva-pretrain.configData" "argument" .) -}}
{{- $pod := dict "root" $root "facts" $f "configMap" "config" -}}
{{- $parts := list $data -}}
{{- if eq $f.mode "prepare" -}}
  {{- $parts = append $parts (include "neva-pretrain.preparePod" $pod) -}}
{{- else if eq $root.Values.job.kind "TrainJob" -}}
  {{- $parts = append $parts (include "neva-pretrain.runtimeSpec" $pod) -}}
{{- else -}}
  {{- $parts = concat $parts (list
    (include "neva-pretrain.pod" (set $pod "role" "Master")) $f.workers
    (include "neva-pretrain.text" $root.Values.rendezvous.port)
    ($root.Values.workerLabels | toJson) $root.Values.restart.enabled) -}}
{{- end -}}
{{- $parts | toJson | sha256sum | trunc 8 -}}
{{- end -}}

{{/* Name of the job: full name, run id when it says more (or prepare), hash. Takes a dict: root, facts. */}}
{{- define "neva-pretrain.jobName" -}}
{{- include "neva-pretrain.once" (dict "root" .root "define" "neva-pretrain.hashedName" "argument" .) -}}
{{- end -}}

{{- define "neva-pretrain.hashedName" -}}
{{- $root := .root -}}{{- $f := .facts -}}
{{- $full := include "neva-pretrain.fullname" $root -}}
{{- $middle := ternary "prepare" $f.runId (eq $f.mode "prepare") -}}
{{- if ne $middle $full }}{{ $full }}-{{ $middle }}{{ else }}{{ $full }}{{ end }}-{{ include "neva-pretrain.hash" . -}}
{{- end -}}
