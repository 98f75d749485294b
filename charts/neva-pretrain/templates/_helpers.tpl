{{/* Name for app.kubernetes.io/name. */}}
{{- define "neva-pretrain.name" -}}
{{- .Values.nameOverride | default .Chart.Name -}}
{{- end -}}

{{/* First part of all names: one release is one run, so its name is enough. */}}
{{- define "neva-pretrain.fullname" -}}
{{- .Values.fullnameOverride | default .Release.Name -}}
{{- end -}}

{{- define "neva-pretrain.chart" -}}
{{- printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "neva-pretrain.selectorLabels" -}}
app.kubernetes.io/name: {{ include "neva-pretrain.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{/* Labels of every pod of the release: KAI reads its queue from pods. Takes a dict: root, more. */}}
{{- define "neva-pretrain.podLabels" -}}
{{- $root := .root -}}
{{- $labels := include "neva-pretrain.selectorLabels" $root | fromYaml -}}
{{- include "neva-pretrain.merge" (dict "into" $labels "from" $root.Values.podLabels) -}}
{{- include "neva-pretrain.merge" (dict "into" $labels "from" (.more | default dict)) -}}
{{- with $root.Values.scheduling.kai.queue -}}{{- $_ := set $labels "kai.scheduler/queue" . -}}{{- end -}}
{{- include "neva-pretrain.stringMap" $labels -}}
{{- end -}}

{{/* Labels of every object that runs pods, by which queues find it: of the job, not of the pods that it makes (A13),
and of a pod by itself. Takes the root. */}}
{{- define "neva-pretrain.workloadLabels" -}}
{{- include "neva-pretrain.labelsWith" (dict "root" . "more" (include "neva-pretrain.queueLabels" . | fromYaml)) -}}
{{- end -}}

{{/* Labels of an object: the chart's and more, of which the last of a name wins. Takes a dict: root, more. */}}
{{- define "neva-pretrain.labelsWith" -}}
{{- $labels := include "neva-pretrain.labels" .root | fromYaml -}}
{{- include "neva-pretrain.merge" (dict "into" $labels "from" (.more | default dict)) -}}
{{- include "neva-pretrain.stringMap" $labels | trim -}}
{{- end -}}

{{- define "neva-pretrain.labels" -}}
helm.sh/chart: {{ include "neva-pretrain.chart" . }}
{{ include "neva-pretrain.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ include "neva-pretrain.stringMap" . }}
{{- end }}
{{- end -}}

{{- define "neva-pretrain.serviceAccountName" -}}
{{- $sa := .Values.serviceAccount -}}
{{- $own := ternary (include "neva-pretrain.fullname" .) "default" ($sa.create | default false) -}}
{{- $sa.name | default $own -}}
{{- end -}}

{{- define "neva-pretrain.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag }}{{ end }}
{{- end -}}
{{- end -}}

{{/* A scalar as text: true, 3, 0.5. Helm parses integers as floats; they stay integers whatever their size. */}}
{{- define "neva-pretrain.text" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) -}}{{ printf "%.0f" . }}{{- else -}}{{ toString . }}{{- end -}}
{{- end -}}

{{/* A map whose values must be strings in the API (labels, annotations): null drops the key. */}}
{{- define "neva-pretrain.stringMap" -}}
{{- range $k, $v := . }}{{ if not (kindIs "invalid" $v) }}
{{ $k | quote }}: {{ include "neva-pretrain.text" $v | quote }}
{{- end }}{{ end }}
{{- end -}}

{{/* Labels that select something: the user's, or the chart's where there are none. In values.yaml the chart's would
stay beside the user's, since Helm merges maps (N05). Takes a dict: given, default. */}}
{{- define "neva-pretrain.instead" -}}
{{- include "neva-pretrain.stringMap" (.given | default .default) | trim | default "{}" -}}
{{- end -}}

{{/* One environment variable, delivered byte for byte: the kubelet reads $(NAME) and $$, so each $ is doubled. */}}
{{- define "neva-pretrain.env" -}}
- name: {{ .name }}
  value: {{ include "neva-pretrain.text" .value | replace "$" "$$" | toJson }}
{{- end -}}

{{/* One environment variable out of a Secret. Takes a dict: name, secret (its name and key). */}}
{{- define "neva-pretrain.secretVariable" -}}
{{- $secret := .secret -}}
- name: {{ .name }}
  valueFrom:
    secretKeyRef:
      name: {{ $secret.name | quote }}
      key: {{ $secret.key | quote }}
{{- end -}}

{{/* Bytes of a Kubernetes quantity, as a float. */}}
{{- define "neva-pretrain.bytes" -}}
{{- $units := dict "" 1 "m" 1e-3 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "E" 1e18
  "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 "Pi" 1125899906842624 "Ei" 1152921504606846976 -}}
{{- $number := regexFind "^[0-9.]+" . -}}
{{- mulf (float64 $number) (get $units (trimPrefix $number .)) -}}
{{- end -}}

{{/* Whole floats of a parsed tree become integers in place: toYaml writes 4294967296 and not 4.294967296e+09. */}}
{{- define "neva-pretrain.integers" -}}
{{- range $k, $v := . -}}
  {{- if kindIs "map" $v -}}{{- include "neva-pretrain.integers" $v -}}
  {{- else if kindIs "slice" $v -}}
    {{- $list := list -}}
    {{- range $v -}}
      {{- if kindIs "map" . -}}{{- include "neva-pretrain.integers" . -}}{{- end -}}
      {{- if and (kindIs "float64" .) (eq (floor .) .) -}}{{- $list = append $list (int64 .) -}}
      {{- else -}}{{- $list = append $list . -}}
      {{- end -}}
    {{- end -}}
    {{- $_ := set $ $k $list -}}
  {{- else if and (kindIs "float64" $v) (eq (floor $v) $v) -}}{{- $_ := set $ $k (int64 $v) -}}
  {{- end -}}
{{- end -}}
{{- end -}}

{{/* Merge the second map into the first, deeply, in place; unlike mergeOverwrite it lets false, 0 and null win. */}}
{{- define "neva-pretrain.merge" -}}
{{- $into := .into -}}
{{- range $k, $v := .from -}}
  {{- if and (kindIs "map" $v) (kindIs "map" (get $into $k)) -}}
    {{- include "neva-pretrain.merge" (dict "into" (get $into $k) "from" $v) -}}
  {{- else -}}{{- $_ := set $into $k $v -}}
  {{- end -}}
{{- end -}}
{{- end -}}

{{/* The kind of job that a release makes. Takes a dict: root, facts. */}}
{{- define "neva-pretrain.ownKind" -}}
{{- ternary "Job" .root.Values.job.kind (eq .facts.mode "prepare") -}}
{{- end -}}

{{/* A cluster that is seen to have the other kind of job alone is told so, in the words of check --cluster; helm
template sees none of both. Takes the root. */}}
{{- define "neva-pretrain.refuseOtherKind" -}}
{{- $kinds := dict
  "PyTorchJob" (dict "api" "kubeflow.org/v1" "brought" "the Kubeflow training operator 1.9 or newer")
  "TrainJob" (dict "api" "trainer.kubeflow.org/v1alpha1" "brought" "Kubeflow Trainer 2") -}}
{{- $has := list -}}
{{- range $kind, $one := $kinds -}}
  {{- if $.Capabilities.APIVersions.Has (printf "%s/%s" $one.api $kind) }}{{ $has = append $has $kind }}{{ end -}}
{{- end -}}
{{- $kind := .Values.job.kind -}}
{{- if and $has (not (has $kind $has)) -}}
  {{- printf "\n\nERROR: job.kind: got %s; %s; use %s, which it has, or install %s" $kind
    "must be a kind of job that the cluster has" (first $has) (get $kinds $kind).brought | fail -}}
{{- end -}}
{{- end -}}

{{/* Name of the ConfigMap that says that a release has a job of a kind. Each kind has its own: an upgrade that fails
half way leaves the old one. Takes a dict: root, kind. */}}
{{- define "neva-pretrain.kindRecord" -}}
{{- printf "%s-%s" (include "neva-pretrain.fullname" .root) (lower .kind) -}}
{{- end -}}

{{/* The kinds of job that a release may have, as a JSON list of maps: api and kind. A lookup fails on a kind that this
user has no rights on, so an upgrade asks for its own kind and those that the release has recorded; of a release by an
older chart, which recorded none, for all that the cluster has. Takes a dict: root, facts. */}}
{{- define "neva-pretrain.releasedKinds" -}}
{{- $root := .root -}}{{- $own := include "neva-pretrain.ownKind" . -}}
{{- $found := list -}}{{- $here := list -}}{{- $recorded := false -}}
{{- range list
    (dict "api" "kubeflow.org/v1" "kind" "PyTorchJob")
    (dict "api" "trainer.kubeflow.org/v1alpha1" "kind" "TrainJob")
    (dict "api" "batch/v1" "kind" "Job") -}}
{{- if $root.Capabilities.APIVersions.Has (printf "%s/%s" .api .kind) -}}
  {{- $here = append $here . -}}
  {{- $record := include "neva-pretrain.kindRecord" (dict "root" $root "kind" .kind) -}}
  {{- $old := and $root.Release.IsUpgrade (lookup "v1" "ConfigMap" $root.Release.Namespace $record) -}}
  {{- if $old -}}{{- $recorded = true -}}{{- end -}}
  {{- if or $old (eq .kind $own) -}}{{- $found = append $found . -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- ternary $found $here (or $recorded (not $root.Release.IsUpgrade)) | toJson -}}
{{- end -}}

{{/* An upgrade that would replace a job that still runs is refused: the user says when to stop it; and one that would
leave a failed job as it is: it would start nothing, and say nothing. lookup is empty in helm template, so the output
never depends on it. Takes a dict: root, facts, name. */}}
{{- define "neva-pretrain.refuseUpgrade" -}}
{{- $root := .root -}}{{- $name := .name -}}
{{- range include "neva-pretrain.releasedKinds" . | fromJsonArray -}}
{{- $kind := .kind -}}
{{- range (lookup .api .kind $root.Release.Namespace "").items -}}
  {{- $ours := eq (dig "metadata" "labels" "app.kubernetes.io/instance" "" .) $root.Release.Name -}}
  {{- if and $ours (not (dig "metadata" "annotations" "helm.sh/hook" "" .)) -}}
    {{- $end := dict -}}
    {{- range dig "status" "conditions" list . -}}
      {{- if and (has .type (list "Succeeded" "Failed" "Complete")) (eq .status "True") -}}{{- $end = . -}}{{- end -}}
    {{- end -}}
    {{- $rule := "" -}}{{- $fix := "" -}}
    {{- $delete := printf "kubectl delete %s %s -n %s" (lower $kind) .metadata.name $root.Release.Namespace -}}
    {{- if and (ne .metadata.name $name) (not $end) -}}
      {{- $rule = printf "must not replace the job %s, which has not ended" .metadata.name -}}
      {{- $fix = printf "%s first (its values, installed again, go on where it stopped)" $delete -}}
    {{- else if and (eq .metadata.name $name) (eq ($end.type | default "") "Failed") -}}
      {{- $why := printf "%s: %s" ($end.reason | default "Failed") ($end.message | default "no message") -}}
      {{- $rule = printf "must change, since that job has failed (%s) and %s"
        (regexReplaceAll "[^ -~]+" $why " " | trunc 200) "an upgrade that changes nothing starts nothing" -}}
      {{- $fix = printf "--set run.attempt=%d (the same results folder, from its newest whole checkpoint), or %s first"
        (add1 (int64 ($root.Values.run.attempt | default 1))) $delete -}}
    {{- end -}}
    {{- if $rule -}}
      {{- printf "\n\nERROR: release %s: got values that make the job %s; %s; use %s"
        $root.Release.Name $name $rule $fix | fail -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
