{{/* The one pod body of the job. Takes a dict: root, facts, configMap, role; role is Master, Worker or Node (a pod
that learns its rank only when it runs). */}}
{{- define "neva-pretrain.pod" -}}
{{- $root := .root -}}{{- $f := .facts -}}{{- $configMap := .configMap -}}{{- $role := .role -}}
{{- $v := $root.Values -}}
{{- $body := include "neva-pretrain.trainingContainer" (dict "root" $root "facts" $f "role" $role) -}}
{{- $exporter := and (ne $role "Worker") $root.Values.monitoring.exporter.enabled -}}
{{ include "neva-pretrain.podFrame" $root }}
terminationGracePeriodSeconds: {{ include "neva-pretrain.text" $v.terminationGracePeriodSeconds }}
{{- /* No init container that can fail: the operator would create its pod anew for ever. */}}
{{- if $exporter }}
initContainers:
  {{- include "neva-pretrain.exporter" (dict "root" $root "facts" $f "job" $configMap) | nindent 2 }}
{{- end }}
containers:
  # The operator looks for a container pytorch, Trainer for node, to which it adds its port.
  - name: {{ ternary "node" "pytorch" (eq $role "Node") }}
    command: ["/bin/bash", "/etc/neva/launch.sh"]
    {{- $body | trim | nindent 4 }}
    ports:
      {{- if ne $role "Node" }}
      - name: pytorchjob-port
        containerPort: {{ include "neva-pretrain.text" $v.rendezvous.port }}
      {{- end }}
      {{- if ne $role "Worker" }}
      - name: restart
        containerPort: {{ include "neva-pretrain.restartPort" $root }}
      {{- end }}
    {{- if $v.restart.enabled }}
    # A supervisor that hangs cannot restart anything; it ends with a code that recreates the pod.
    livenessProbe:
      exec:
        # -I -S: what the image adds to Python's start takes long on a busy node.
        command: ["python3", "-I", "-S", "/etc/neva/neva_pod/supervisor/alive.py"]
      periodSeconds: 30
      timeoutSeconds: 20
      failureThreshold: 3
      # It hears no SIGTERM: the pod's grace period would only keep the other nodes waiting.
      terminationGracePeriodSeconds: 10
    {{- end }}
volumes:
  {{- include "neva-pretrain.volumes" (dict "root" $root "configMap" $configMap) | trim | nindent 2 }}
  {{- if include "neva-pretrain.trainJobStatus" $root }}
  {{- include "neva-pretrain.statusVolume" (dict "root" $root "job" $configMap) | nindent 2 }}
  {{- end }}
{{- end -}}

{{/* Port of the master's supervisor. Takes the root. */}}
{{- define "neva-pretrain.restartPort" -}}
{{- add1 (int64 .Values.rendezvous.port) -}}
{{- end -}}

{{/* Fields of every pod of the chart. Takes the root. */}}
{{- define "neva-pretrain.podFrame" -}}
{{- $v := .Values -}}
serviceAccountName: {{ include "neva-pretrain.serviceAccountName" . | quote }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with $v.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
{{- with $v.podSecurityContext }}
securityContext:
  {{- include "neva-pretrain.yaml" . | nindent 2 }}
{{- end }}
{{- if $v.hostNetwork }}
hostNetwork: true
dnsPolicy: ClusterFirstWithHostNet
{{- end }}
{{- include "neva-pretrain.scheduling" . }}
{{- end -}}

{{/* Container of a node's work: all its GPUs, RDMA devices and mounts. Takes a dict: root, facts, role. */}}
{{- define "neva-pretrain.trainingContainer" -}}
{{- $root := .root -}}{{- $f := .facts -}}
{{- $v := $root.Values -}}
{{- $resources := dict
  "cpu" $v.resources.cpu "memory" $v.resources.memory $v.resources.gpuResourceName $v.training.gpusPerNode -}}
{{- if $f.rdma.enabled -}}
  {{- range $name, $count := $f.rdma.resources }}{{ $_ := set $resources $name $count }}{{ end -}}
{{- end }}
{{ include "neva-pretrain.container" (dict "root" $root "rdma" $f.rdma.enabled "resources" $resources) }}
env:
  {{- include "neva-pretrain.environment" (dict "root" $root "facts" $f "role" .role) | trim | nindent 2 }}
  {{- if ne .role "Worker" }}
  {{- with include "neva-pretrain.wandbEnvironment" $root | trim }}
  {{- . | nindent 2 }}
  {{- end }}
  {{- end }}
volumeMounts:
  {{- include "neva-pretrain.mounts" $root | trim | nindent 2 }}
{{- end -}}

{{/* Image, resources and privileges of a container of the NeMo image. Takes a dict: root, rdma, resources. */}}
{{- define "neva-pretrain.container" -}}
{{- $root := .root -}}{{- $rdma := .rdma -}}{{- $resources := .resources -}}
image: {{ include "neva-pretrain.image" $root | quote }}
imagePullPolicy: {{ $root.Values.image.pullPolicy | default "IfNotPresent" }}
resources:
  {{- include "neva-pretrain.equalResources" $resources | nindent 2 }}
securityContext:
  {{- include "neva-pretrain.securityContext" (dict "root" $root "rdma" $rdma) | nindent 2 }}
{{- end -}}

{{/* Requests equal limits, so that the pod stays Guaranteed. Takes a map. */}}
{{- define "neva-pretrain.equalResources" -}}
{{- $amounts := dict -}}
{{- range $name, $amount := . -}}{{- $_ := set $amounts $name (include "neva-pretrain.text" $amount) -}}{{- end -}}
limits:
  {{- toYaml $amounts | nindent 2 }}
requests:
  {{- toYaml $amounts | nindent 2 }}
{{- end -}}

{{/* Mounts of the training container, and of whatever must see what it sees. Takes the root. */}}
{{- define "neva-pretrain.mounts" -}}
{{- $root := . -}}
- name: config
  mountPath: /etc/neva
  readOnly: true
- name: shm
  mountPath: /dev/shm
{{- range $name := list "datasets" "models" "results" "scratch" }}
{{ include "neva-pretrain.storageMount" (dict "root" $root "volume" $name) }}
  {{- if include "neva-pretrain.readOnly" (dict "root" $root "volume" $name) }}
  readOnly: true
  # File systems mounted below this one too, where kernel and runtime can; an API server without the field drops it.
  recursiveReadOnly: IfPossible
  {{- end }}
{{- end }}
{{- range $root.Values.extraVolumeMounts }}
{{- $name := .name }}
{{- if has $name (list "datasets" "models" "results" "scratch") }}
{{- $name = include "neva-pretrain.podVolume" (dict "root" $root "volume" $name) }}
{{- end }}
{{ list (merge (dict "name" $name) .) | include "neva-pretrain.yaml" }}
{{- end }}
{{- end -}}

{{/* Volumes of the mounts above, the user's too. Takes a dict: root, configMap (its name). */}}
{{- define "neva-pretrain.volumes" -}}
{{- $root := .root -}}{{- $configMap := .configMap -}}
{{ include "neva-pretrain.configVolume" (dict "root" $root "configMap" $configMap) }}
# NCCL and the DataLoader need more than the container runtime's 64 MiB.
- name: shm
  emptyDir:
    medium: Memory
    {{- with $root.Values.resources.shmSize }}
    sizeLimit: {{ include "neva-pretrain.text" . | quote }}
    {{- end }}
{{- range $name := list "datasets" "models" "results" "scratch" }}
{{- if eq (include "neva-pretrain.podVolume" (dict "root" $root "volume" $name)) $name }}
{{ include "neva-pretrain.storageVolume" (dict "root" $root "volume" $name) | trim }}
{{- end }}
{{- end }}
{{- with $root.Values.extraVolumes }}
{{ include "neva-pretrain.yaml" . }}
{{- end }}
{{- end -}}

{{/* Free-form YAML of the user. */}}
{{- define "neva-pretrain.yaml" -}}
{{- $tree := dict "x" . | deepCopy -}}
{{- include "neva-pretrain.integers" $tree -}}
{{- toYaml $tree.x -}}
{{- end -}}

{{/* Environment: the chart's own, the fabric's, the user's; the last of a name wins. Takes a dict: root, facts,
role. */}}
{{- define "neva-pretrain.environment" -}}
{{- $root := .root -}}{{- $f := .facts -}}
{{- $v := $root.Values -}}
{{- $env := include "neva-pretrain.ownEnvironment" (dict "root" $root "facts" $f "online" $f.hfOnline) | fromJson -}}
{{- include "neva-pretrain.merge" (dict "into" $env "from" (dict
  "NEVA_CONFIG_DIR" "/etc/neva"
  "NEVA_ENTRYPOINT" $v.image.entrypoint
  "NEVA_GPUS_PER_NODE" $v.training.gpusPerNode
  "NEVA_NODES" $v.training.nodes
  "NEVA_RDMA" (ternary "1" "0" $f.rdma.enabled)
  "NEVA_RESULTS_DIR" $f.resultsPath
  "NEVA_WAIT_SECONDS" $v.rendezvous.waitSeconds
  "NEVA_WORK_DIR" (printf "%s/work" $v.storage.scratch.mountPath)
  "NVTE_FUSED_ATTN" (ternary "0" "1" (eq $v.training.kernels "reference"))
  "PET_RDZV_CONF" (printf "timeout=%s" (include "neva-pretrain.text" $v.rendezvous.timeoutSeconds)))) -}}
{{- /* Trainer's port is always 29500. */ -}}
{{- if eq $v.job.kind "TrainJob" }}{{ $_ := set $env "NEVA_MASTER_PORT" $v.rendezvous.port }}{{ end -}}
{{- if $v.preflight.enabled -}}
  {{- $_ := set $env "NEVA_PREFLIGHT" (get (dict "Master" "full" "Worker" "quick" "Node" "auto") .role) -}}
{{- end -}}
{{- include "neva-pretrain.merge" (dict "into" $env "from" $f.fabric.env) -}}
{{- include "neva-pretrain.merge" (dict "into" $env "from" $v.env) -}}
{{- include "neva-pretrain.leaveToSecrets" (dict "root" $root "env" $env) -}}
{{- include "neva-pretrain.envList" (dict "root" $root "env" $env "online" $f.hfOnline) }}
{{- include "neva-pretrain.secretEnvironment" $root }}
{{- range $name, $path := dict "NODE_NAME" "spec.nodeName"
  "POD_NAME" "metadata.name" "POD_NAMESPACE" "metadata.namespace" "POD_UID" "metadata.uid" }}
- name: {{ $name }}
  valueFrom:
    fieldRef:
      fieldPath: {{ $path }}
{{- end }}
{{- end -}}

{{/* Who a process is and where its libraries may write, as JSON: a user that the image does not know has no name and /
as its home, and getpass.getuser() of torch's inductor raises (N06). Takes a writable folder. */}}
{{- define "neva-pretrain.userEnvironment" -}}
{{- $home := printf "%s/home" . -}}{{- $cache := printf "%s/.cache" $home -}}
{{- dict
  "HOME" $home
  "LOGNAME" "neva"
  "MPLCONFIGDIR" (printf "%s/matplotlib" $cache)
  "NUMBA_CACHE_DIR" (printf "%s/numba" $cache)
  "TORCHINDUCTOR_CACHE_DIR" (printf "%s/torchinductor" $cache)
  "TRITON_CACHE_DIR" (printf "%s/triton" $cache)
  "USER" "neva"
  "XDG_CACHE_HOME" $cache
  "XDG_CONFIG_HOME" (printf "%s/.config" $home)
  "XDG_DATA_HOME" (printf "%s/.local/share" $home)
| toJson -}}
{{- end -}}

{{/* Environment of every process of the NeMo image: its user, and where Hugging Face libraries and temporary files may
write, as JSON. Takes a dict: root, facts, online. */}}
{{- define "neva-pretrain.ownEnvironment" -}}
{{- $root := .root -}}{{- $f := .facts -}}{{- $online := .online -}}
{{- $scratch := $root.Values.storage.scratch.mountPath -}}
{{- $env := include "neva-pretrain.userEnvironment" $scratch | fromJson -}}
{{- include "neva-pretrain.merge" (dict "into" $env "from" (dict
  "HF_HOME" $f.hfHome
  "TMPDIR" (printf "%s/tmp" $scratch)
  "TRANSFORMERS_OFFLINE" (ternary "0" "1" $online))) -}}
{{- if not $online }}{{ $_ := set $env "HF_HUB_OFFLINE" "1" }}{{ end -}}
{{- if and $online $root.Values.hf.endpoint }}{{ $_ := set $env "HF_ENDPOINT" $root.Values.hf.endpoint }}{{ end -}}
{{- $env | toJson -}}
{{- end -}}

{{/* A map as a list of env; null leaves a name out. The hub's token comes from its Secret, and only where the hub is
used. Takes a dict: root, env, online. */}}
{{- define "neva-pretrain.envList" -}}
{{- $root := .root -}}
{{- range $name, $value := .env }}{{ if not (kindIs "invalid" $value) }}
{{ include "neva-pretrain.env" (dict "name" $name "value" $value) }}
{{- end }}{{ end }}
{{- if .online }}{{ with $root.Values.secrets.huggingface }}{{ if .name }}
{{ include "neva-pretrain.secretVariable" (dict "name" "HF_TOKEN" "secret" .) }}
{{- end }}{{ end }}{{ end }}
{{- end -}}

{{/* Privileges of a container that needs none, as JSON. */}}
{{- define "neva-pretrain.leastPrivilege" -}}
{{- dict
  "allowPrivilegeEscalation" false
  "capabilities" (dict "drop" (list "ALL"))
  "seccompProfile" (dict "type" "RuntimeDefault")
| toJson -}}
{{- end -}}

{{/* Least privilege; IPC_LOCK only to pin memory for RDMA. The API takes no privileged container without escalation.
Takes a dict: root, rdma. */}}
{{- define "neva-pretrain.securityContext" -}}
{{- $root := .root -}}
{{- $context := include "neva-pretrain.leastPrivilege" . | fromJson -}}
{{- if $root.Values.securityContext.privileged }}{{ $_ := unset $context "allowPrivilegeEscalation" }}{{ end -}}
{{- if .rdma }}{{ $_ := set $context.capabilities "add" (list "IPC_LOCK") }}{{ end -}}
{{- include "neva-pretrain.merge" (dict "into" $context "from" $root.Values.securityContext) -}}
{{- include "neva-pretrain.yaml" $context -}}
{{- end -}}
