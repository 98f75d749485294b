{{/* Names become host names of pods: DNS-1035 labels, 63 characters with the longest suffix. */}}
{{- define "neva-pretrain.checkNames" -}}
{{- include "neva-pretrain.loadRules" . -}}
{{- $full := include "neva-pretrain.fullname" . -}}
{{- $id := .Values.run.id | default "" -}}
{{- $limit := int (get .nevaRules.maxNameLength .Values.job.kind) -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $full) -}}
  {{- include "neva-pretrain.violation" (dict "key" "fullnameOverride" "got" $full
    "rule" (printf "must be a DNS-1035 label (%s), or the release name must be one"
      "lower case letters, digits and -, a letter first")
    "fix" "use a name such as neva-7b") -}}
{{- end -}}
{{- if and $id (not (regexMatch "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$" $id)) -}}
  {{- include "neva-pretrain.violation" (dict "key" "run.id" "got" $id
    "rule" "must be lower case letters, digits and -" "fix" "use an id such as lr-2e-3") -}}
{{- end -}}
{{- $length := len $full -}}
{{- if and $id (ne $id $full) -}}{{- $length = add $length 1 (len $id) -}}{{- end -}}
{{- if gt (int $length) $limit -}}
  {{- include "neva-pretrain.violation" (dict "key" "run.id"
    "got" (printf "%d characters of full name and id" $length)
    "rule" (printf "must be at most %d, so that the last pod's name has at most 63" $limit)
    "fix" "use a shorter fullnameOverride or run.id") -}}
{{- end -}}
{{- $named := ternary "fullnameOverride" "run.id" (and (eq $id "") (not (empty .Values.fullnameOverride))) -}}
{{- $parts := dict $named ($id | default $full) "storage.results.mountPath" .Values.storage.results.mountPath -}}
{{- range $word := .nevaRules.checkpointPathWords -}}
  {{- $rule := printf "must not contain %s, which NeMo looks for in the whole path of a checkpoint" $word -}}
  {{- range $key, $got := $parts -}}
    {{- if contains $word $got -}}
      {{- include "neva-pretrain.violation" (dict "key" $key "got" $got "rule" $rule "fix" "use another name") -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- end -}}

{{/* Pods get what they ask for, and restart together or not at all. */}}
{{- define "neva-pretrain.checkPods" -}}
{{- include "neva-pretrain.loadRules" . -}}
{{- $v := .Values -}}{{- $gpu := $v.resources.gpuResourceName -}}
{{- $whole := "must be whole GPUs, since each training process needs its own GPU and access to its peers" -}}
{{- if regexMatch .nevaRules.fractionalGpu $gpu -}}
  {{- include "neva-pretrain.violation" (dict "key" "resources.gpuResourceName" "got" $gpu
    "rule" $whole "fix" "use nvidia.com/gpu") -}}
{{- end -}}
{{- $label := "nvidia.com/gpu.product" -}}{{- $products := list -}}
{{- if eq ($v.scheduling.gpuType.key | default "") $label -}}
  {{- range $index, $value := $v.scheduling.gpuType.values -}}
    {{- $products = append $products (dict "key" (printf "gpuType.values[%d]" $index) "got" $value) -}}
  {{- end -}}
{{- end -}}
{{- with get $v.scheduling.nodeSelector $label -}}
  {{- $said := include "neva-pretrain.text" . -}}
  {{- $products = append $products (dict "key" (print "nodeSelector." $label) "got" $said) -}}
{{- end -}}
{{- range $products -}}
  {{- if regexMatch $.nevaRules.fractionalProduct .got -}}
    {{- include "neva-pretrain.violation" (dict "key" (print "scheduling." .key) "got" .got
      "rule" $whole "fix" "use the label of nodes with whole GPUs") -}}
  {{- end -}}
{{- end -}}
{{- include "neva-pretrain.rdmaBreaks" . -}}
{{- range $key := list "commonLabels" "podLabels" "workerLabels" -}}
  {{- range $name, $value := get $v $key -}}
    {{- $owner := include "neva-pretrain.reserved" (dict "root" $ "name" $name "kind" "reservedLabel") -}}
    {{- if and $owner (not (kindIs "invalid" $value)) -}}
      {{- include "neva-pretrain.violation" (dict "key" (printf "%s.%s" $key $name) "got" $value
        "rule" "must not be set here" "fix" $owner) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- range $key, $least := .nevaRules.leastResources -}}
  {{- $amount := (include "neva-pretrain.at" (dict "path" $key "values" $v) | fromJson).text -}}
  {{- $gpus := ternary (int64 $v.training.gpusPerNode) (int64 1) (eq $key "resources.memory") -}}
  {{- $bytes := mulf (float64 (include "neva-pretrain.bytes" $least)) $gpus -}}
  {{- if and $amount (lt (float64 (include "neva-pretrain.bytes" $amount)) $bytes) -}}
    {{- $each := ternary (printf " for each of %d GPUs" $gpus) "" (gt $gpus 1) -}}
    {{- include "neva-pretrain.violation" (dict "key" $key "got" $amount
      "rule" (printf "must be at least %s%s, or nothing runs" $least $each)
      "fix" (ternary "use more" "use more, with a unit such as Gi" (hasSuffix "cpu" $key))) -}}
  {{- end -}}
{{- end -}}
{{- with $v.resources.shmSize -}}
  {{- $shm := include "neva-pretrain.text" . -}}{{- $memory := include "neva-pretrain.text" $v.resources.memory -}}
  {{- if gt (float64 (include "neva-pretrain.bytes" $shm)) (float64 (include "neva-pretrain.bytes" $memory)) -}}
    {{- include "neva-pretrain.violation" (dict "key" "resources.shmSize" "got" $shm
      "rule" (printf "must be at most resources.memory (%s), which it counts against" $memory) "fix" "use less") -}}
  {{- end -}}
{{- end -}}
{{- $nccl := int64 .nevaRules.ncclTimeoutSeconds -}}{{- $timeout := int64 $v.rendezvous.timeoutSeconds -}}
{{- $stall := int64 $v.restart.stallSeconds -}}
{{- if ge $stall $nccl -}}
  {{- include "neva-pretrain.violation" (dict "key" "restart.stallSeconds" "got" $stall
    "rule" (printf "must be less than %d, so that a hang is seen before NCCL gives up on a lost peer" $nccl)
    "fix" "use 120") -}}
{{- end -}}
{{- if and $v.restart.enabled (gt (int64 $v.training.nodes) 1) (lt $timeout $nccl) -}}
  {{- include "neva-pretrain.violation" (dict "key" "rendezvous.timeoutSeconds" "got" $timeout
    "rule" (printf "must be at least %d with restart.enabled, %s" $nccl
      "so that torchrun gives up on a lost node after NCCL")
    "fix" (printf "use %d" $nccl)) -}}
{{- end -}}
{{- end -}}

{{/* RDMA devices have a name and a number of their own. Takes the root. */}}
{{- define "neva-pretrain.rdmaBreaks" -}}
{{- $v := .Values -}}{{- $f := include "neva-pretrain.uncheckedFacts" . | fromJson -}}{{- $rdma := $f.rdma -}}
{{- if and $rdma.enabled (hasKey $rdma.resources $v.resources.gpuResourceName) -}}
  {{- include "neva-pretrain.violation" (dict
    "key" (print "rdma." (ternary "resourceName" "resources" (empty $v.rdma.resources)))
    "got" $v.resources.gpuResourceName
    "rule" "must not be resources.gpuResourceName, whose count is training.gpusPerNode"
    "fix" "use the resource of the RDMA devices") -}}
{{- end -}}
{{- if and $rdma.enabled (hasKey $rdma.resources "") -}}
  {{- include "neva-pretrain.violation" (dict "key" "rdma.resourceName" "got" "nothing"
    "rule" (printf "must name the RDMA devices, since fabric %s has no default" $f.fabricName)
    "fix" "use the resource that the nodes offer, or set rdma.enabled to false") -}}
{{- end -}}
{{- if and $rdma.enabled (ne (values $rdma.resources | compact | len) (len $rdma.resources)) -}}
  {{- include "neva-pretrain.violation" (dict "key" "rdma.count" "got" "nothing"
    "rule" (printf "must be at least 1, since fabric %s has no default" $f.fabricName)
    "fix" "use the number of devices per pod, or set rdma.enabled to false") -}}
{{- end -}}
{{- $interfaces := dict -}}
{{- range $v.rdma.networks -}}
  {{- $interface := (splitn "@" 2 .)._1 -}}
  {{- if and $interface (hasKey $interfaces $interface) -}}
    {{- include "neva-pretrain.violation" (dict "key" "rdma.networks" "got" .
      "rule" "must have an interface of its own" "fix" "use another name after @, or none") -}}
  {{- end -}}
  {{- $_ := set $interfaces ($interface | default "") true -}}
{{- end -}}
{{- end -}}

{{/* What the API would refuse of the pods once the job is made, Kueue of the job, and labels that no node has. */}}
{{- define "neva-pretrain.checkPlacement" -}}
{{- $s := .Values.scheduling -}}
{{- range $index, $taint := $s.tolerations -}}
  {{- $key := printf "scheduling.tolerations[%d]" $index -}}
  {{- $exists := eq ($taint.operator | default "Equal") "Exists" -}}
  {{- if and $exists $taint.value -}}
    {{- include "neva-pretrain.violation" (dict "key" (print $key ".value") "got" $taint.value
      "rule" "must not be set with operator Exists, which matches any value" "fix" "remove it, or use Equal") -}}
  {{- end -}}
  {{- if not (or $exists $taint.key) -}}
    {{- include "neva-pretrain.violation" (dict "key" (print $key ".key") "got" "nothing"
      "rule" "must be set with operator Equal" "fix" "use a taint's key, or operator Exists") -}}
  {{- end -}}
  {{- if and (hasKey $taint "tolerationSeconds") (ne ($taint.effect | default "") "NoExecute") -}}
    {{- include "neva-pretrain.violation" (dict "key" (print $key ".tolerationSeconds") "got" $taint.tolerationSeconds
      "rule" "must come with effect NoExecute, the only one that evicts" "fix" "use NoExecute, or remove it") -}}
  {{- end -}}
{{- end -}}
{{- range $index, $expression := $s.nodeExpressions -}}
  {{- $key := printf "scheduling.nodeExpressions[%d].values" $index -}}{{- $operator := $expression.operator -}}
  {{- $values := $expression.values | default list -}}{{- $got := join ", " $values | default "nothing" -}}
  {{- if has $operator (list "Exists" "DoesNotExist") -}}
    {{- if $values -}}
      {{- include "neva-pretrain.violation" (dict "key" $key "got" $got
        "rule" (printf "must not be set with operator %s" $operator) "fix" "remove it") -}}
    {{- end -}}
  {{- else if has $operator (list "Gt" "Lt") -}}
    {{- if not (regexMatch "^[0-9]{1,18}$" $got) -}}
      {{- include "neva-pretrain.violation" (dict "key" $key "got" $got
        "rule" (printf "must be one whole number with operator %s" $operator) "fix" "use one such as \"8\"") -}}
    {{- end -}}
  {{- else if not $values -}}
    {{- include "neva-pretrain.violation" (dict "key" $key "got" "nothing"
      "rule" (printf "must not be empty with operator %s" $operator) "fix" "use values of the label") -}}
  {{- end -}}
{{- end -}}
{{- include "neva-pretrain.labelBreaks" $s -}}
{{- $seen := dict -}}
{{- range $index, $spread := $s.topologySpreadConstraints -}}
  {{- $key := printf "scheduling.topologySpreadConstraints[%d]" $index -}}
  {{- if and (hasKey $spread "minDomains") (ne $spread.whenUnsatisfiable "DoNotSchedule") -}}
    {{- include "neva-pretrain.violation" (dict "key" (print $key ".minDomains") "got" $spread.minDomains
      "rule" "must come with whenUnsatisfiable DoNotSchedule" "fix" "remove it") -}}
  {{- end -}}
  {{- $pair := printf "%s %s" $spread.topologyKey $spread.whenUnsatisfiable -}}
  {{- with get $seen $pair -}}
    {{- include "neva-pretrain.violation" (dict "key" (print $key ".topologyKey") "got" $spread.topologyKey
      "rule" (printf "must differ from that of %s with %s" . $spread.whenUnsatisfiable) "fix" "keep one") -}}
  {{- end -}}
  {{- $_ := set $seen $pair $key -}}
{{- end -}}
{{- $levels := list -}}
{{- range list "required" "preferred" "unconstrained" -}}
  {{- if get $s.queue.topology . -}}{{- $levels = append $levels . -}}{{- end -}}
{{- end -}}
{{- if gt (len $levels) 1 -}}
  {{- include "neva-pretrain.violation" (dict "key" "scheduling.queue.topology" "got" (join " and " $levels)
    "rule" "must be only one of them, or Kueue refuses the job" "fix" "keep one") -}}
{{- end -}}
{{- end -}}

{{/* Labels that no node has together. Takes scheduling. */}}
{{- define "neva-pretrain.labelBreaks" -}}
{{- $asked := dict -}}
{{- if and .gpuType.key .gpuType.values -}}{{- $_ := set $asked .gpuType.key .gpuType.values -}}{{- end -}}
{{- $left := "must leave a node, and the rest of scheduling asks for" -}}{{- $fix := "change one of them" -}}
{{- range $name, $value := .nodeSelector -}}
  {{- $value = include "neva-pretrain.text" $value -}}
  {{- if and (hasKey $asked $name) (not (has $value (get $asked $name))) -}}
    {{- include "neva-pretrain.violation" (dict "key" (print "scheduling.nodeSelector." $name) "got" $value
      "rule" (printf "%s %s" $left (get $asked $name | join ", ")) "fix" $fix) -}}
  {{- end -}}
  {{- $_ := set $asked $name (list $value) -}}
{{- end -}}
{{- range $index, $expression := .nodeExpressions -}}
  {{- $name := $expression.key -}}{{- $operator := $expression.operator -}}
  {{- $given := $expression.values | default list -}}
  {{- $before := get $asked $name | default (ternary $given list (eq $operator "In")) -}}
  {{- $kept := list -}}
  {{- range $before -}}
    {{- $named := has . $given -}}
    {{- $out := or (eq $operator "DoesNotExist") (and (eq $operator "In") (not $named))
      (and (eq $operator "NotIn") $named) -}}
    {{- if not $out -}}{{- $kept = append $kept . -}}{{- end -}}
  {{- end -}}
  {{- if and $before (not $kept) -}}
    {{- include "neva-pretrain.violation" (dict "key" (printf "scheduling.nodeExpressions[%d]" $index)
      "got" (printf "%s %s" $operator (join ", " $given) | trim)
      "rule" (printf "%s %s" $left (join ", " $before)) "fix" $fix) -}}
  {{- end -}}
  {{- $_ := set $asked $name ($kept | default $before) -}}
{{- end -}}
{{- end -}}

{{/* The exporter has a port of its own; what TensorBoard shows is written, and its image has a name clients take. */}}
{{- define "neva-pretrain.checkMonitoring" -}}
{{- $exporter := .Values.monitoring.exporter -}}{{- $first := int64 .Values.rendezvous.port -}}
{{- if and $exporter.enabled (has (int64 $exporter.port) (list $first (add1 $first))) -}}
  {{- include "neva-pretrain.violation" (dict "key" "monitoring.exporter.port" "got" $exporter.port
    "rule" (printf "must differ from rendezvous.port (%d) and the next port, which the supervisors use" $first)
    "fix" "use another port below 32768") -}}
{{- end -}}
{{- $board := .Values.tensorboard -}}{{- $manager := .Values.config.exp_manager -}}
{{- if and $board.enabled (kindIs "map" $manager) -}}
  {{- if and (hasKey $manager "create_tensorboard_logger") (not $manager.create_tensorboard_logger) -}}
    {{- include "neva-pretrain.violation" (dict "key" "config.exp_manager.create_tensorboard_logger"
      "got" (include "neva-pretrain.text" $manager.create_tensorboard_logger)
      "rule" "must be true with tensorboard.enabled, or there is nothing to show" "fix" "remove it") -}}
  {{- end -}}
{{- end -}}
{{- $name := regexReplaceAll "(:[^:/@]*)?(@.*)?$" ($board.image | default "") "" -}}
{{- if gt (len $name) 255 -}}
  {{- include "neva-pretrain.violation" (dict "key" "tensorboard.image"
    "got" (printf "%d characters before the tag" (len $name))
    "rule" "must be at most 255" "fix" "use a shorter name") -}}
{{- end -}}
{{- end -}}

{{/* A profile of the node is named, and no other is; the chart's seccompProfile is RuntimeDefault. */}}
{{- define "neva-pretrain.checkProfiles" -}}
{{- range $where := list "podSecurityContext" "securityContext" -}}
  {{- range $profile := list "appArmorProfile" "seccompProfile" -}}
    {{- $key := printf "%s.%s" $where $profile -}}
    {{- $given := get (get $.Values $where) $profile -}}
    {{- if kindIs "map" $given -}}
      {{- $type := $given.type | default (ternary "RuntimeDefault" "" (eq $key "securityContext.seccompProfile")) -}}
      {{- if not $type -}}
        {{- include "neva-pretrain.violation" (dict "key" (print $key ".type") "got" "nothing"
          "rule" "must be set with the profile" "fix" "use RuntimeDefault") -}}
      {{- else if and (eq $type "Localhost") (not $given.localhostProfile) -}}
        {{- include "neva-pretrain.violation" (dict "key" (print $key ".localhostProfile") "got" "nothing"
          "rule" "must be set with type Localhost" "fix" "use a profile that the nodes have") -}}
      {{- else if and (ne $type "Localhost") (hasKey $given "localhostProfile") -}}
        {{- include "neva-pretrain.violation" (dict "key" (print $key ".localhostProfile")
          "got" ($given.localhostProfile | default "nothing")
          "rule" (printf "must come with type Localhost, not %s" $type) "fix" "remove it, or use Localhost") -}}
      {{- end -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- end -}}

{{/* No pod of the release is what the namespace rejects: the job would be made, and its pods never come. */}}
{{- define "neva-pretrain.checkSecurity" -}}
{{- $enforced := .Values.podSecurity.enforce -}}
{{- if $enforced -}}
  {{- range include "neva-pretrain.podSecurityBreaks" . | fromJsonArray -}}
    {{- if or (eq $enforced "restricted") (eq .level "baseline") -}}
      {{- include "neva-pretrain.violation" (dict "key" .key "got" .got
        "rule" (printf "must %s where podSecurity.enforce is %s" .rule $enforced) "fix" .fix) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- end -}}
