{{/* Node choice. Takes the root. */}}
{{- define "neva-pretrain.scheduling" -}}
{{- $s := .Values.scheduling -}}
{{- with $s.nodeSelector }}
nodeSelector:
  {{- include "neva-pretrain.stringMap" . | trim | nindent 2 }}
{{- end }}
{{- $expressions := list -}}
{{- with $s.gpuType.values -}}
  {{- $expressions = append $expressions (dict "key" $s.gpuType.key "operator" "In" "values" .) -}}
{{- end -}}
{{- $expressions = concat $expressions ($s.nodeExpressions | default list) -}}
{{- /* By the node's name, which its host name label need not equal; the API takes one value in a requirement. */ -}}
{{- $fields := list -}}
{{- range $s.avoidNodes | default list | uniq -}}
  {{- $fields = append $fields (dict "key" "metadata.name" "operator" "NotIn" "values" (list .)) -}}
{{- end -}}
{{- $term := dict -}}
{{- if $expressions }}{{ $_ := set $term "matchExpressions" $expressions }}{{ end -}}
{{- if $fields }}{{ $_ := set $term "matchFields" $fields }}{{ end -}}
{{- with $term }}
affinity:
  nodeAffinity:
    requiredDuringSchedulingIgnoredDuringExecution:
      nodeSelectorTerms:
        - {{- toYaml . | nindent 10 }}
{{- end }}
{{- with $s.tolerations }}
tolerations:
  {{- include "neva-pretrain.yaml" . | nindent 2 }}
{{- end }}
{{- with $s.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- range . }}
  {{- $labels := include "neva-pretrain.selectorLabels" $ | fromYaml }}
  {{- $constraint := dict "labelSelector" (dict "matchLabels" $labels) | merge (deepCopy .) }}
  - {{- include "neva-pretrain.yaml" $constraint | nindent 4 }}
  {{- end }}
{{- end }}
{{- with $s.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with $s.schedulerName | default (ternary "kai-scheduler" "" (not (empty $s.kai.queue))) }}
schedulerName: {{ . | quote }}
{{- end }}
{{- end -}}

{{/* Labels of the job, by which queues find it; an empty queue leaves no label (A13). Takes the root. */}}
{{- define "neva-pretrain.queueLabels" -}}
{{- $s := .Values.scheduling -}}
{{- with $s.queue.name }}
kueue.x-k8s.io/queue-name: {{ . | quote }}
{{- end }}
{{- with $s.queue.priorityClass }}
kueue.x-k8s.io/priority-class: {{ . | quote }}
{{- end }}
{{- with $s.kai.queue }}
kai.scheduler/queue: {{ . | quote }}
{{- end }}
{{- end -}}

{{/* Annotations of the job's pods: against eviction, the fabric's, Multus' networks, Kueue's topology, the user's; the
last of a name wins. Master and workers are two pod sets to Kueue: their group lies in one domain. Takes a dict: root,
facts. */}}
{{- define "neva-pretrain.podAnnotations" -}}
{{- $root := .root -}}{{- $f := .facts -}}
{{- $annotations := dict -}}
{{- if not $root.Values.scheduling.evictable -}}
  {{- $_ := set $annotations "karpenter.sh/do-not-disrupt" "true" -}}
  {{- $_ := set $annotations "cluster-autoscaler.kubernetes.io/safe-to-evict" "false" -}}
{{- end -}}
{{- include "neva-pretrain.merge" (dict "into" $annotations "from" $f.fabric.annotations) -}}
{{- with $root.Values.rdma.networks -}}
  {{- $_ := set $annotations "k8s.v1.cni.cncf.io/networks" (join "," .) -}}
{{- end -}}
{{- $topology := $root.Values.scheduling.queue.topology -}}
{{- range $kind := list "required" "preferred" -}}
  {{- with get $topology $kind -}}
    {{- $_ := set $annotations (printf "kueue.x-k8s.io/podset-%s-topology" $kind) . -}}
    {{- /* A TrainJob and a job of one node are one pod set. */ -}}
    {{- if and (eq $root.Values.job.kind "PyTorchJob") (gt (int64 $f.workers) 0) -}}
      {{- $_ := set $annotations "kueue.x-k8s.io/podset-group-name" "job" -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- if $topology.unconstrained -}}
  {{- $_ := set $annotations "kueue.x-k8s.io/podset-unconstrained-topology" "true" -}}
{{- end -}}
{{- include "neva-pretrain.merge" (dict "into" $annotations "from" $root.Values.podAnnotations) -}}
{{- include "neva-pretrain.stringMap" $annotations -}}
{{- end -}}
