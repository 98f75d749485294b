{{/* The one pod body, the same for Master and Worker. Takes (list root facts configMapName). */}}
{{- define "neva.pod" -}}
{{- $root := index . 0 -}}{{- $f := index . 1 -}}{{- $configMap := index . 2 -}}
{{- $v := $root.Values -}}
serviceAccountName: {{ include "neva.serviceAccountName" $root | quote }}
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
  {{- include "neva.yaml" . | nindent 2 }}
{{- end }}
{{- if $v.hostNetwork }}
hostNetwork: true
dnsPolicy: ClusterFirstWithHostNet
{{- end }}
{{- include "neva.scheduling" $root }}
containers:
  # The operator looks for a container of this name (A16).
  - name: pytorch
    image: {{ include "neva.image" $root | quote }}
    imagePullPolicy: {{ $v.image.pullPolicy | default "IfNotPresent" }}
    command: ["/bin/bash", "/etc/neva/launch.sh"]
    env:
      {{- include "neva.environment" (list $root $f) | trim | nindent 6 }}
    ports:
      - name: pytorchjob-port
        containerPort: {{ $v.rendezvous.port }}
    resources:
      {{- $resources := dict "cpu" $v.resources.cpu "memory" $v.resources.memory $v.resources.gpuResourceName (include "neva.text" $v.training.gpusPerNode) }}
      {{- if $f.rdma.enabled }}{{ $_ := set $resources $f.rdma.resourceName (include "neva.text" $f.rdma.count) }}{{ end }}
      limits:
        {{- toYaml $resources | nindent 8 }}
      requests:
        {{- toYaml $resources | nindent 8 }}
    securityContext:
      {{- include "neva.securityContext" (list $root $f) | nindent 6 }}
    volumeMounts:
      - name: config
        mountPath: /etc/neva
        readOnly: true
      - name: shm
        mountPath: /dev/shm
      {{- range $name := list "datasets" "models" "results" "scratch" }}
      {{- $volume := get $v.storage $name }}
      - name: {{ $name }}
        mountPath: {{ $volume.mountPath | quote }}
        {{- with $volume.subPath }}
        subPath: {{ . | toJson }}
        {{- end }}
        {{- if include "neva.readOnly" (list $root $name) }}
        readOnly: true
        {{- end }}
      {{- end }}
      {{- with $v.extraVolumeMounts }}
      {{- include "neva.yaml" . | nindent 6 }}
      {{- end }}
volumes:
  - name: config
    configMap:
      name: {{ $configMap }}
      defaultMode: 0555
  # NCCL and the DataLoader need more than the container runtime's 64 MiB (C01).
  - name: shm
    emptyDir:
      medium: Memory
      {{- with $v.resources.shmSize }}
      sizeLimit: {{ . | quote }}
      {{- end }}
  {{- range $name := list "datasets" "models" "results" "scratch" }}
  {{- $volume := get $v.storage $name }}
  - name: {{ $name }}
    {{- if include "neva.storageSources" $volume | fromJsonArray }}
    persistentVolumeClaim:
      claimName: {{ include "neva.claimName" (list $root $name) | quote }}
      {{- if include "neva.readOnly" (list $root $name) }}
      readOnly: true
      {{- end }}
    {{- else }}
    emptyDir: {}
    {{- end }}
  {{- end }}
  {{- with $v.extraVolumes }}
  {{- include "neva.yaml" . | nindent 2 }}
  {{- end }}
{{- end -}}

{{/* Free-form YAML of the user. */}}
{{- define "neva.yaml" -}}
{{- $tree := dict "x" . | deepCopy -}}
{{- include "neva.integers" $tree -}}
{{- toYaml $tree.x -}}
{{- end -}}

{{/* Environment: the chart's own, the fabric's, the user's; the last of a name wins. */}}
{{- define "neva.environment" -}}
{{- $root := index . 0 -}}{{- $f := index . 1 -}}
{{- $v := $root.Values -}}
{{- $scratch := $v.storage.scratch.mountPath -}}
{{- $env := dict
  "HF_HOME" $f.hfHome
  "NEVA_CONFIG_DIR" "/etc/neva"
  "NEVA_ENTRYPOINT" $v.image.entrypoint
  "NEVA_GPUS_PER_NODE" $v.training.gpusPerNode
  "NEVA_NODES" $v.training.nodes
  "NEVA_RDMA" (ternary "1" "0" $f.rdma.enabled)
  "NEVA_RESULTS_DIR" $f.resultsPath
  "NEVA_WAIT_SECONDS" $v.rendezvous.waitSeconds
  "NEVA_WORK_DIR" (printf "%s/work" $scratch)
  "NVTE_FUSED_ATTN" (ternary "1" "0" (eq $v.training.kernels "fused"))
  "PET_RDZV_CONF" (printf "timeout=%s" (include "neva.text" $v.rendezvous.timeoutSeconds))
  "TMPDIR" (printf "%s/tmp" $scratch)
  "TRANSFORMERS_OFFLINE" (ternary "0" "1" $f.hfOnline)
-}}
{{- if not $f.hfOnline }}{{ $_ := set $env "HF_HUB_OFFLINE" "1" }}{{ end -}}
{{- include "neva.merge" (list $env $f.fabric.env) -}}
{{- include "neva.merge" (list $env ($v.env | default dict)) -}}
{{- range $name, $value := $env }}{{ if not (kindIs "invalid" $value) }}
{{ include "neva.env" (list $name $value) }}
{{- end }}{{ end }}
- name: NODE_NAME
  valueFrom:
    fieldRef:
      fieldPath: spec.nodeName
- name: POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
{{- end -}}

{{/* Least privilege; IPC_LOCK only to pin memory for RDMA. */}}
{{- define "neva.securityContext" -}}
{{- $root := index . 0 -}}{{- $f := index . 1 -}}
{{- $context := dict
  "allowPrivilegeEscalation" false
  "capabilities" (dict "drop" (list "ALL"))
  "seccompProfile" (dict "type" "RuntimeDefault") -}}
{{- if $f.rdma.enabled }}{{ $_ := set $context.capabilities "add" (list "IPC_LOCK") }}{{ end -}}
{{- include "neva.merge" (list $context (deepCopy ($root.Values.securityContext | default dict))) -}}
{{- include "neva.yaml" $context -}}
{{- end -}}

{{/* Node choice. Takes the root. */}}
{{- define "neva.scheduling" -}}
{{- $s := .Values.scheduling | default dict -}}
{{- with $s.nodeSelector }}
nodeSelector:
  {{- include "neva.stringMap" . | trim | nindent 2 }}
{{- end }}
{{- $expressions := list -}}
{{- with $s.gpuType }}{{ if .values }}{{ $expressions = append $expressions (dict "key" .key "operator" "In" "values" .values) }}{{ end }}{{ end -}}
{{- with $s.avoidNodes }}{{ $expressions = append $expressions (dict "key" "kubernetes.io/hostname" "operator" "NotIn" "values" .) }}{{ end -}}
{{- $expressions = concat $expressions ($s.nodeExpressions | default list) -}}
{{- with $expressions }}
affinity:
  nodeAffinity:
    requiredDuringSchedulingIgnoredDuringExecution:
      nodeSelectorTerms:
        - matchExpressions:
            {{- toYaml . | nindent 12 }}
{{- end }}
{{- with $s.tolerations }}
tolerations:
  {{- include "neva.yaml" . | nindent 2 }}
{{- end }}
{{- with $s.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- range . }}
  {{- $constraint := dict "labelSelector" (dict "matchLabels" (include "neva.selectorLabels" $ | fromYaml)) | merge (deepCopy .) }}
  - {{- include "neva.yaml" $constraint | nindent 4 }}
  {{- end }}
{{- end }}
{{- with $s.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with $s.schedulerName }}
schedulerName: {{ . | quote }}
{{- end }}
{{- end -}}
