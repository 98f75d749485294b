{{/* What neva-monitor must know of a job, whatever its kind. Takes a dict: root, facts. */}}
{{- define "neva-pretrain.jobAnnotations" -}}
{{- $root := .root -}}{{- $f := .facts -}}
{{- $v := $root.Values -}}
neva-pretrain/model: {{ $f.modelName }}
neva-pretrain/image: {{ include "neva-pretrain.image" $root | quote }}
neva-pretrain/gpus: {{ include "neva-pretrain.text" $f.worldSize | quote }}
neva-pretrain/max-steps: {{ include "neva-pretrain.text" $v.training.maxSteps | quote }}
neva-pretrain/global-batch-size: {{ include "neva-pretrain.text" $v.training.globalBatchSize | quote }}
neva-pretrain/tokens-per-sample: {{ include "neva-pretrain.text" $f.model.tokensPerSample | quote }}
neva-pretrain/architecture: {{ $f.architecture | toJson | quote }}
neva-pretrain/plan: {{ $v.monitoring.plan | toJson | quote }}
neva-pretrain/results: {{ $f.resultsPath | toJson }}
neva-pretrain/training: {{ $v.training | toJson | quote }}
neva-pretrain/checkpoint: {{ pick $v.checkpoint "enabled" "everyNSteps" | toJson | quote }}
# Other values make another job; Argo CD deletes this one only once a person confirms it.
argocd.argoproj.io/sync-options: Prune=confirm
{{- end -}}

{{/* The exporter beside the master: a native sidecar, which is stopped when training ends and never keeps the pod
alive. There is no readiness probe: an unready pod has no name in the master's headless Service, and the workers need
that name. The nodes of a TrainJob have one template: there it is silent on all but the first. Takes a dict: root,
facts, job (its name). */}}
{{- define "neva-pretrain.exporter" -}}
{{- $root := .root -}}{{- $f := .facts -}}
{{- $v := $root.Values -}}{{- $exporter := $root.Values.monitoring.exporter -}}
{{- $plan := $root.Values.monitoring.plan -}}
{{- $reports := include "neva-pretrain.trainJobStatus" $root -}}
{{- $flags := list
  (list "--log" (printf "%s/logs/node-00000.log" $f.resultsPath))
  (list "--listen" (printf ":%s" (include "neva-pretrain.text" $exporter.port)))
  (list "--name" $f.runId)
  (list "--model" $f.modelName)
  (list "--max-steps" $v.training.maxSteps)
  (list "--global-batch-size" $v.training.globalBatchSize)
  (list "--gpus" $f.worldSize)
  (list "--tokens-per-sample" $f.model.tokensPerSample)
  (list "--vocab-size" $f.architecture.vocabSize)
  (list "--checkpoint-every" (ternary $v.checkpoint.everyNSteps 0 $v.checkpoint.enabled)) -}}
{{- with $plan.stepSeconds }}{{ $flags = append $flags (list "--planned-step-seconds" .) }}{{ end -}}
{{- with $plan.flopsPerSample }}{{ $flags = append $flags (list "--flops-per-sample" .) }}{{ end -}}
{{- include "neva-pretrain.loadRules" $root -}}
{{- $peak := get $root.nevaRules.peakTflops ($v.training.gpu | default "") -}}
{{- with $plan.peakTflops | default $peak }}{{ $flags = append $flags (list "--peak-flops" (mulf . 1e12)) }}{{ end -}}
- name: exporter
  image: {{ include "neva-pretrain.image" $root | quote }}
  imagePullPolicy: {{ $v.image.pullPolicy | default "IfNotPresent" }}
  restartPolicy: Always
  command: ["python3", "-m", "neva_pod.monitor.exporter"]
  workingDir: /etc/neva
  args:
    {{- range $flags }}
    - {{ printf "%s=%s" (first .) (include "neva-pretrain.text" (last .)) | quote }}
    {{- end }}
  env:
    - name: NVIDIA_VISIBLE_DEVICES
      value: {{ (include "neva-pretrain.noGpu" . | fromJson).NVIDIA_VISIBLE_DEVICES }}
    {{- if $reports }}
    {{- include "neva-pretrain.statusEnvironment" (dict "root" $root "job" .job) | trim | nindent 4 }}
    {{- end }}
  ports:
    - name: metrics
      containerPort: {{ include "neva-pretrain.text" $exporter.port }}
  livenessProbe:
    httpGet:
      path: /healthz
      port: metrics
    # Slow to judge: each restart is a moment without the master's name.
    periodSeconds: 30
    timeoutSeconds: 10
    failureThreshold: 10
  resources:
    {{- include "neva-pretrain.equalResources" $exporter.resources | nindent 4 }}
  securityContext:
    {{- include "neva-pretrain.readerSecurityContext" $root | nindent 4 }}
  volumeMounts:
    - name: config
      mountPath: /etc/neva
      readOnly: true
    {{- include "neva-pretrain.resultsMount" $root | nindent 4 }}
    {{- if $reports }}
    - name: kubeflow-trainer-token
      mountPath: {{ include "neva-pretrain.statusFolder" . }}
      readOnly: true
    {{- end }}
{{- end -}}

{{/* Privileges of what only reads results: training's user, and nothing else of it. Takes the root. */}}
{{- define "neva-pretrain.readerSecurityContext" -}}
{{- $context := include "neva-pretrain.leastPrivilege" . | fromJson -}}
{{- $_ := set $context "readOnlyRootFilesystem" true -}}
{{- $own := pick .Values.securityContext "runAsUser" "runAsGroup" "runAsNonRoot" "seLinuxOptions" -}}
{{- include "neva-pretrain.merge" (dict "into" $context "from" $own) -}}
{{- include "neva-pretrain.yaml" $context -}}
{{- end -}}

{{/* The results volume where training sees it, read-only. Takes the root. */}}
{{- define "neva-pretrain.resultsMount" -}}
{{- include "neva-pretrain.storageMount" (dict "root" . "volume" "results") }}
  readOnly: true
{{- end -}}

{{/* Environment of Weights & Biases on the node of rank 0, the only one that logs. Takes the root. */}}
{{- define "neva-pretrain.wandbEnvironment" -}}
{{- $v := .Values -}}
{{- $wandb := $v.wandb -}}
{{- if $wandb.enabled }}
{{- $own := printf "%s/wandb" $v.storage.scratch.mountPath -}}
{{- range $name, $value := dict
  "WANDB_CACHE_DIR" $own "WANDB_CONFIG_DIR" $own "WANDB_DATA_DIR" $own "WANDB_MODE" $wandb.mode }}
{{ include "neva-pretrain.env" (dict "name" $name "value" $value) }}
{{- end }}
{{- $secret := $v.secrets.wandb }}
{{- if and (eq $wandb.mode "online") $secret.name }}
{{ include "neva-pretrain.secretVariable" (dict "name" "WANDB_API_KEY" "secret" $secret) }}
{{- end }}
{{- end }}
{{- end -}}

{{/* How to look at a run, for NOTES.txt. Takes a dict: root, facts, job. */}}
{{- define "neva-pretrain.monitorNotes" -}}
{{- $root := .root -}}{{- $f := .facts -}}{{- $job := .job -}}
{{- $v := $root.Values -}}{{- $ns := $root.Release.Namespace -}}
{{- with $v.tensorboard }}{{ if .enabled }}
{{- $port := include "neva-pretrain.text" .port }}

TensorBoard, http://localhost:{{ $port }} while this runs:
  kubectl port-forward service/{{ include "neva-pretrain.tensorboardName" $root }} {{ $port }} -n {{ $ns }}
{{- end }}{{ end }}
{{- $exporter := $root.Values.monitoring.exporter }}
{{- if $exporter.enabled }}
{{- $port := include "neva-pretrain.text" $exporter.port }}
{{- $pod := include "neva-pretrain.firstPodName" (dict "root" $root "job" $job) }}

Metrics:
  kubectl port-forward {{ $pod }} {{ $port }} -n {{ $ns }} &
  curl -s http://localhost:{{ $port }}/metrics
{{- end }}
{{- if include "neva-pretrain.trainJobStatus" $root }}

Progress, where Trainer's feature gate TrainJobStatus is on:
  kubectl get trainjob {{ $job }} -n {{ $ns }} -o jsonpath='{.status.trainerStatus}'
{{- end }}
{{- range $key, $kind := dict "podMonitor" "PodMonitor" "prometheusRule" "PrometheusRule" }}
{{- if (get $v.monitoring $key).enabled }}
  kubectl get {{ lower $kind }} {{ include "neva-pretrain.fullname" $root }} -n {{ $ns }}
{{- end }}
{{- end }}
{{- if $root.Values.monitoring.dashboard.enabled }}

Grafana: dashboard "NeVa pretraining", from:
  kubectl get configmap {{ include "neva-pretrain.fullname" $root }}-dashboard -n {{ $ns }}
{{- end }}
{{- with $v.wandb }}{{ if .enabled }}
{{- if eq .mode "online" }}

Weights & Biases: project {{ .project }}, group {{ $f.runId }}; the address of the run is in the master's log:
  kubectl logs {{ include "neva-pretrain.firstPodLogs" (dict "root" $root "job" $job) }} -n {{ $ns }} | grep wandb:
{{- else }}
{{- $results := include "neva-pretrain.volume" (dict "root" $root "volume" "results") | fromJson }}
{{- $node := $results.gpfs.nodePath }}
{{- $plain := and (not (empty $node)) (empty $results.subPath) }}
{{- $folder := ternary (printf "%s/%s" $node $f.runId) $f.resultsPath $plain }}

Weights & Biases, from where the results and the internet are:
  wandb sync {{ $folder }}/wandb/offline-run-*
{{- end }}
{{- end }}{{ end }}
{{- end -}}
