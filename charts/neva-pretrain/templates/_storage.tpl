{{/* Sources that a volume of storage names, as a JSON list. */}}
{{- define "neva.storageSources" -}}
{{- $sources := list -}}
{{- if .existingClaim }}{{ $sources = append $sources "existingClaim" }}{{ end -}}
{{- if (.gpfs | default dict).nodePath }}{{ $sources = append $sources "gpfs.nodePath" }}{{ end -}}
{{- if (.gpfs | default dict).csi }}{{ $sources = append $sources "gpfs.csi" }}{{ end -}}
{{- if .storageClassName }}{{ $sources = append $sources "storageClassName" }}{{ end -}}
{{- if .hostPath }}{{ $sources = append $sources "hostPath" }}{{ end -}}
{{- $sources | toJson -}}
{{- end -}}

{{/* Name of the claim that the chart makes of a volume, and of its static PersistentVolume. Volumes are the cluster's:
between dots, which no namespace and no full name has, two releases never mean the same one. */}}
{{- define "neva.claimName" -}}
{{- $root := index . 0 -}}{{- $volume := index . 1 -}}
{{- (get $root.Values.storage $volume).existingClaim | default (printf "%s-%s" (include "neva.fullname" $root) $volume) -}}
{{- end -}}

{{- define "neva.persistentVolumeName" -}}
{{- $root := index . 0 -}}{{- $volume := index . 1 -}}
{{- printf "%s.%s.%s" $root.Release.Namespace (include "neva.fullname" $root) $volume -}}
{{- end -}}

{{/* Whether a volume is only read: datasets and models, unless readOnly is false or they are being prepared. */}}
{{- define "neva.readOnly" -}}
{{- $root := index . 0 -}}{{- $volume := index . 1 -}}
{{- if and (not $root.Values.prepare.enabled) (has $volume (list "datasets" "models")) (ne (get $root.Values.storage $volume).readOnly false) }}true{{ end -}}
{{- end -}}
