{{/* The NeMo image asks the container runtime for all GPUs; a pod that requested none must not see others'. */}}
{{- define "neva-pretrain.noGpu" -}}
{"NVIDIA_VISIBLE_DEVICES": "void"}
{{- end -}}

{{/* Whether prepare downloads from the hub: a source that is no folder. Takes the root. */}}
{{- define "neva-pretrain.prepareOnline" -}}
{{- $p := .Values.prepare -}}
{{- $online := and $p.vision.enabled (not (hasPrefix "/" $p.vision.source)) -}}
{{- range $step := list "tokenizer" "llm" "dataset" -}}
  {{- with get $p $step -}}
    {{- if and .enabled .source (not (hasPrefix "/" .source)) -}}{{- $online = true -}}{{- end -}}
  {{- end -}}
{{- end -}}
{{- ternary "true" "" $online -}}
{{- end -}}

{{/* The pod that makes a run's inputs: no GPU, datasets and models writable. Takes a dict: root, facts, configMap. */}}
{{- define "neva-pretrain.preparePod" -}}
{{- $root := .root -}}{{- $f := .facts -}}{{- $configMap := .configMap -}}
{{- $v := $root.Values -}}{{- $p := $v.prepare -}}
{{- $online := include "neva-pretrain.prepareOnline" $root | not | not -}}
{{- $env := include "neva-pretrain.ownEnvironment" (dict "root" $root "facts" $f "online" $online) | fromJson -}}
{{- include "neva-pretrain.merge" (dict "into" $env "from" (include "neva-pretrain.noGpu" . | fromJson)) -}}
{{- include "neva-pretrain.merge" (dict "into" $env "from" $v.env) -}}
{{- include "neva-pretrain.leaveToSecrets" (dict "root" $root "env" $env) -}}
{{ include "neva-pretrain.podFrame" $root }}
restartPolicy: Never
containers:
  - name: prepare
    command: ["python3", "-m", "neva_pod.prepare", "--settings", "settings.json"]
    workingDir: /etc/neva
    {{- include "neva-pretrain.container" (dict "root" $root "rdma" false "resources" $p.resources) | nindent 4 }}
    env:
      {{- include "neva-pretrain.envList" (dict "root" $root "env" $env "online" $online) | trim | nindent 6 }}
      {{- include "neva-pretrain.secretEnvironment" $root | nindent 6 }}
    volumeMounts:
      {{- include "neva-pretrain.mounts" $root | trim | nindent 6 }}
volumes:
  {{- include "neva-pretrain.volumes" (dict "root" $root "configMap" $configMap) | trim | nindent 2 }}
{{- end -}}
