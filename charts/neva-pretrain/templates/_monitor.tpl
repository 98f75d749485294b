{{/* What neva-monitor must know of a job, whatever its kind. Takes (list root facts). */}}
{{- define "neva.jobAnnotations" -}}
{{- $root := index . 0 -}}{{- $f := index . 1 -}}
{{- $v := $root.Values -}}
neva-pretrain/model: {{ $f.modelName }}
neva-pretrain/gpus: {{ include "neva.text" $f.worldSize | quote }}
neva-pretrain/max-steps: {{ include "neva.text" $v.training.maxSteps | quote }}
neva-pretrain/global-batch-size: {{ include "neva.text" $v.training.globalBatchSize | quote }}
neva-pretrain/tokens-per-sample: {{ include "neva.text" $f.model.tokensPerSample | quote }}
neva-pretrain/results: {{ $f.resultsPath | toJson }}
{{- end -}}
