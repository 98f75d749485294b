{{/* Each volume has one source and a mount path of its own. */}}
{{- define "neva-pretrain.checkStorage" -}}
{{- include "neva-pretrain.loadRules" . -}}
{{- $system := .nevaRules.systemPaths -}}{{- $mounts := dict -}}
{{- range $name := list "datasets" "models" "results" "scratch" -}}
  {{- $volume := get $.Values.storage $name -}}{{- $key := print "storage." $name -}}
  {{- $sources := include "neva-pretrain.storageSources" $volume | fromJsonArray -}}
  {{- if gt (len $sources) 1 -}}
    {{- include "neva-pretrain.violation" (dict "key" $key "got" (join " and " $sources)
      "rule" "must have exactly one source" "fix" "remove the others") -}}
  {{- end -}}
  {{- if and $volume.gpfs.csi (not (hasKey $volume.gpfs.csi "volumeHandle")) -}}
    {{- include "neva-pretrain.violation" (dict "key" (print $key ".gpfs.csi.volumeHandle") "got" "nothing"
      "rule" "must be set with the rest of gpfs.csi" "fix" "use a handle as in docs/reference/storage.md") -}}
  {{- end -}}
  {{- $path := $volume.mountPath -}}
  {{- if hasKey $mounts $path -}}
    {{- include "neva-pretrain.violation" (dict "key" (print $key ".mountPath") "got" $path
      "rule" (printf "must differ from storage.%s.mountPath" (get $mounts $path)) "fix" "use another path") -}}
  {{- else if or (regexMatch "^/(dev|etc)/" $path) (has $path (append $system "/opt/NeMo")) -}}
    {{- include "neva-pretrain.violation" (dict "key" (print $key ".mountPath") "got" $path
      "rule" "must not hide what the container needs" "fix" (print "use a path such as /" $name)) -}}
  {{- end -}}
  {{- $_ := set $mounts $path $name -}}
{{- end -}}
{{- $shared := include "neva-pretrain.oneVolume" . | fromJson -}}
{{- range $name, $one := $shared -}}
  {{- if ne $one.owner $name -}}
    {{- $said := list -}}
    {{- range list $one.owner $name -}}
      {{- $volume := include "neva-pretrain.volume" (dict "root" $ "volume" .) | fromJson -}}
      {{- $said = append $said (include "neva-pretrain.staticVolume" $volume) -}}
    {{- end -}}
    {{- if ne (first $said) (last $said) -}}
      {{- include "neva-pretrain.violation" (dict "key" (print "storage." $name)
        "got" (printf "the volumeHandle of storage.%s, and %s" $one.owner
          "a different fsType, volumeAttributes, nodeLabel or size")
        "rule" "must have the same settings, since a CSI volume is mounted once per pod"
        "fix" "use the same settings, and separate the volumes by subPath") -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- range list "/etc/neva" "/dev/shm" -}}{{- $_ := set $mounts . "the chart" -}}{{- end -}}
{{- include "neva-pretrain.extraVolumeBreaks" (dict "root" . "shared" $shared) -}}
{{- include "neva-pretrain.extraMountBreaks" (dict "root" . "taken" (keys $mounts)) -}}
{{- end -}}

{{/* What extraVolumes break. Takes a dict: root, shared. */}}
{{- define "neva-pretrain.extraVolumeBreaks" -}}
{{- $needs := .root.nevaRules.volumeSources -}}
{{- $claims := dict -}}{{- $volumes := dict "config" true "shm" true -}}
{{- range $name, $one := .shared -}}{{- $_ := set $volumes $name true -}}{{- end -}}
{{- range $name := list "scratch" "results" "models" "datasets" -}}
  {{- $_ := set $claims (get $.shared $name).claim (printf "storage.%s" $name) -}}
{{- end -}}
{{- range $index, $volume := .root.Values.extraVolumes -}}
  {{- $key := printf "extraVolumes[%d]" $index -}}
  {{- if hasKey $volumes $volume.name -}}
    {{- include "neva-pretrain.violation" (dict "key" (print $key ".name") "got" $volume.name
      "rule" "must be unique among the volumes" "fix" "use another name") -}}
  {{- end -}}
  {{- $_ := set $volumes $volume.name true -}}
  {{- $sources := list -}}
  {{- range $source, $node := omit $volume "name" -}}
    {{- if not (kindIs "invalid" $node) -}}{{- $sources = append $sources $source -}}{{- end -}}
  {{- end -}}
  {{- if ne (len $sources) 1 -}}
    {{- include "neva-pretrain.violation" (dict "key" $key "got" (join " and " $sources | default "nothing")
      "rule" "must have exactly one source" "fix" "use one such as persistentVolumeClaim") -}}
  {{- end -}}
  {{- range $source := $sources -}}
    {{- range get $needs $source | default list -}}
      {{- if not (get (get $volume $source) .) -}}
        {{- include "neva-pretrain.violation" (dict "key" (printf "%s.%s.%s" $key $source .) "got" "nothing"
          "rule" "must be set with its source" "fix" (print "name its " .)) -}}
      {{- end -}}
    {{- end -}}
  {{- end -}}
  {{- $source := ternary $volume.persistentVolumeClaim dict (kindIs "map" $volume.persistentVolumeClaim) -}}
  {{- with $source.claimName -}}
    {{- if hasKey $claims (toString .) -}}
      {{- include "neva-pretrain.violation" (dict "key" $key "got" (printf "the claim %s" .)
        "rule" (printf "must not be that of %s, %s" (get $claims (toString .))
          "since the kubelet mounts a claim once per pod and waits forever for a second volume of it")
        "fix" "use its name and a subPath in extraVolumeMounts") -}}
    {{- else -}}{{- $_ := set $claims (toString .) $key -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- end -}}

{{/* What extraVolumeMounts break. Takes a dict: root, taken (paths). */}}
{{- define "neva-pretrain.extraMountBreaks" -}}
{{- $v := .root.Values -}}{{- $system := .root.nevaRules.systemPaths -}}
{{- $seen := dict -}}{{- $volumes := list "datasets" "models" "results" "scratch" "config" "shm" -}}
{{- range $v.extraVolumes -}}{{- $volumes = append $volumes .name -}}{{- end -}}
{{- range $index, $mount := $v.extraVolumeMounts -}}
  {{- $key := printf "extraVolumeMounts[%d]" $index -}}{{- $path := $mount.mountPath -}}
  {{- if not (has $mount.name $volumes) -}}
    {{- include "neva-pretrain.violation" (dict "key" (print $key ".name") "got" $mount.name
      "rule" "must be a volume of the pods" "fix" "use a name from extraVolumes or storage") -}}
  {{- end -}}
  {{- if has $path $.taken -}}
    {{- include "neva-pretrain.violation" (dict "key" (print $key ".mountPath") "got" $path
      "rule" "must not be one of the chart's mounts" "fix" "use another path") -}}
  {{- else if has $path $system -}}
    {{- include "neva-pretrain.violation" (dict "key" (print $key ".mountPath") "got" $path
      "rule" "must not hide what the container needs" "fix" "use a path of its own, or one below it") -}}
  {{- else if hasKey $seen $path -}}
    {{- include "neva-pretrain.violation" (dict "key" (print $key ".mountPath") "got" $path
      "rule" (print "must differ from that of " (get $seen $path)) "fix" "use another path") -}}
  {{- end -}}
  {{- if not (hasKey $seen $path) -}}{{- $_ := set $seen $path $key -}}{{- end -}}
  {{- if and $mount.subPath $mount.subPathExpr -}}
    {{- include "neva-pretrain.violation" (dict "key" (print $key ".subPathExpr") "got" $mount.subPathExpr
      "rule" "must not be set with subPath" "fix" "keep one") -}}
  {{- end -}}
  {{- $propagation := $mount.mountPropagation | default "None" -}}
  {{- if and (eq $propagation "Bidirectional") (not $v.securityContext.privileged) -}}
    {{- include "neva-pretrain.violation" (dict "key" (print $key ".mountPropagation") "got" $propagation
      "rule" "must come with securityContext.privileged, or the API refuses the pods" "fix" "use HostToContainer") -}}
  {{- end -}}
  {{- $recursive := $mount.recursiveReadOnly | default "Disabled" -}}
  {{- if and (ne $recursive "Disabled") (not (and $mount.readOnly (eq $propagation "None"))) -}}
    {{- include "neva-pretrain.violation" (dict "key" (print $key ".recursiveReadOnly") "got" $recursive
      "rule" "must come with readOnly true and without mountPropagation, or the API refuses the pods"
      "fix" "set readOnly, or remove it") -}}
  {{- end -}}
{{- end -}}
{{- end -}}

{{/* Whether a path of the values may lie elsewhere than below its folder. */}}
{{- define "neva-pretrain.leaves" -}}
{{- if or (hasPrefix "/" .) (has ".." (splitList "/" .)) }}true{{ end -}}
{{- end -}}

{{/* Paths that the training process reads lie on something that is mounted. */}}
{{- define "neva-pretrain.checkPaths" -}}
{{- $v := .Values -}}
{{- $f := include "neva-pretrain.uncheckedFacts" . | fromJson -}}
{{- $mounts := list -}}
{{- range $name := list "datasets" "models" "results" "scratch" -}}
  {{- $mounts = append $mounts (get $v.storage $name).mountPath -}}
{{- end -}}
{{- range $v.extraVolumeMounts -}}{{- $mounts = append $mounts .mountPath -}}{{- end -}}
{{- $paths := list (dict "key" "model.llmPath" "given" $v.model.llmPath) -}}
{{- range $key, $path := dict "checkpoint" $f.checkpointPath "tokenizer" $f.tokenizerPath -}}
  {{- $given := get $v.model $key | default "" -}}
  {{- if include "neva-pretrain.leaves" $given -}}
    {{- $paths = append $paths (dict "key" (print "model." $key) "given" $given "path" $path) -}}
  {{- end -}}
{{- end -}}
{{- if hasPrefix "/" $v.model.visionEncoderPath -}}
  {{- $paths = append $paths (dict "key" "model.visionEncoderPath" "given" $v.model.visionEncoderPath) -}}
{{- else if not $f.hfOnline -}}
  {{- include "neva-pretrain.violation" (dict "key" "model.visionEncoderPath" "got" $v.model.visionEncoderPath
    "rule" "must be an absolute path unless hf.online is true" "fix" "use the folder's path") -}}
{{- end -}}
{{- $paths = append $paths (dict "key" "data.path" "given" $v.data.path) -}}
{{- range $key, $path := dict "annotations" $f.annotationsPath "images" $f.imagesPath -}}
  {{- $given := get $v.data $key -}}
  {{- if include "neva-pretrain.leaves" $given -}}
    {{- $paths = append $paths (dict "key" (print "data." $key) "given" $given "path" $path) -}}
  {{- end -}}
{{- end -}}
{{- if $v.prepare.enabled -}}
  {{- range $name := list "tokenizer" "vision" "llm" "dataset" -}}
    {{- $step := get $v.prepare $name -}}
    {{- if and $step.enabled (hasPrefix "/" $step.source) -}}
      {{- $paths = append $paths (dict "key" (printf "prepare.%s.source" $name) "given" $step.source) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- range $paths -}}
  {{- $path := clean (.path | default .given) -}}{{- $found := false -}}
  {{- range $mounts -}}
    {{- if or (eq $path .) (hasPrefix (print . "/") $path) -}}{{- $found = true -}}{{- end -}}
  {{- end -}}
  {{- if not $found -}}
    {{- include "neva-pretrain.violation" (dict "key" .key "got" .given
      "rule" (printf "must lie below a mounted path (%s)" (join ", " $mounts))
      "fix" "use one of these, or mount it") -}}
  {{- end -}}
{{- end -}}
{{- range $f.readOnlyMounts -}}
  {{- if or (eq $f.hfHome .) (hasPrefix (print . "/") $f.hfHome) -}}
    {{- include "neva-pretrain.violation" (dict "key" "hf.home" "got" $f.hfHome
      "rule" (printf "must not lie below the read-only mount %s, since the hub's cache is always written" .)
      "fix" (printf "use a path below %s" $v.storage.scratch.mountPath)) -}}
  {{- end -}}
{{- end -}}
{{- end -}}
