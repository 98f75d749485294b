{{/* Sources that a volume of storage names, as a JSON list; null, "" and {} name none. */}}
{{- define "neva.storageSources" -}}
{{- $sources := list -}}
{{- if .existingClaim }}{{ $sources = append $sources "existingClaim" }}{{ end -}}
{{- if (.gpfs | default dict).nodePath }}{{ $sources = append $sources "gpfs.nodePath" }}{{ end -}}
{{- if include "neva.withoutNulls" (.gpfs | default dict).csi | fromJson }}{{ $sources = append $sources "gpfs.csi" }}{{ end -}}
{{- if .storageClassName }}{{ $sources = append $sources "storageClassName" }}{{ end -}}
{{- if .hostPath }}{{ $sources = append $sources "hostPath" }}{{ end -}}
{{- $sources | toJson -}}
{{- end -}}

{{/* A volume of storage as JSON: its mount, and no other source than the one that is named; where none is, the source
document's folder. Nothing has to be taken away first. Takes (list root volume). */}}
{{- define "neva.volume" -}}
{{- $root := index . 0 -}}{{- $name := index . 1 -}}
{{- $volume := deepCopy (get $root.Values.storage $name) -}}
{{- if not (include "neva.storageSources" $volume | fromJsonArray) -}}
  {{- with get ($root.Files.Get "files/rules.yaml" | fromYaml).defaultNodePaths $name -}}
    {{- $gpfs := $volume.gpfs | default dict -}}
    {{- $_ := set $gpfs "nodePath" . -}}{{- $_ := set $volume "gpfs" $gpfs -}}
  {{- end -}}
{{- end -}}
{{- $gpfs := $volume.gpfs | default dict -}}
{{- if not (include "neva.withoutNulls" $gpfs.csi | fromJson) -}}{{- $gpfs = omit $gpfs "csi" -}}{{- end -}}
{{- set $volume "gpfs" $gpfs | toJson -}}
{{- end -}}

{{/* Name of the claim that the chart makes of a volume, and of its static PersistentVolume. Volumes are the cluster's:
between dots, which no namespace and no full name has, two releases never mean the same one. */}}
{{- define "neva.claimName" -}}
{{- $root := index . 0 -}}{{- $volume := index . 1 -}}
{{- (include "neva.volume" . | fromJson).existingClaim | default (printf "%s-%s" (include "neva.fullname" $root) $volume) -}}
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

{{/* Where a container sees a volume. Takes (list root volume). */}}
{{- define "neva.storageMount" -}}
{{- $volume := get (index . 0).Values.storage (index . 1) -}}
- name: {{ index . 1 }}
  mountPath: {{ $volume.mountPath | quote }}
  {{- with $volume.subPath }}
  subPath: {{ . | toJson }}
  {{- end }}
{{- end -}}

{{/* What a pod's volume is. Takes (list root volume). */}}
{{- define "neva.volumeSource" -}}
{{- $volume := include "neva.volume" . | fromJson -}}
{{- if $volume.hostPath }}
hostPath:
  path: {{ $volume.hostPath | toJson }}
  # As in persistentvolume.yaml (G02).
  type: Directory
{{- else if include "neva.storageSources" $volume | fromJsonArray }}
persistentVolumeClaim:
  claimName: {{ include "neva.claimName" . | quote }}
  {{- if include "neva.readOnly" . }}
  readOnly: true
  {{- end }}
{{- else }}
emptyDir: {}
{{- end }}
{{- end -}}

{{/* A kept volume stays what it is: Kubernetes changes no source, and a volume whose claim was deleted binds to no new
one. Both would leave the job's pods Pending. Like "neva.refuseRunningJob" it only refuses. Takes (list root volume). */}}
{{- define "neva.refuseOtherVolume" -}}
{{- $root := index . 0 -}}{{- $name := index . 1 -}}
{{- $volume := include "neva.volume" . | fromJson -}}{{- $gpfs := $volume.gpfs -}}
{{- $claim := include "neva.claimName" . -}}{{- $static := include "neva.persistentVolumeName" . -}}
{{- $wanted := $gpfs.nodePath | default ($gpfs.csi | default dict).volumeHandle | default (printf "storageClassName %s" $volume.storageClassName) -}}
{{- $kept := lookup "v1" "PersistentVolumeClaim" $root.Release.Namespace $claim -}}
{{- $fix := printf "use kubectl delete pvc %s -n %s and kubectl delete pv %s first (the data stays), or another release name" $claim $root.Release.Namespace $static -}}
{{- $is := "" -}}
{{- if $kept -}}
  {{- $is = printf "storageClassName %s" (dig "spec" "storageClassName" "" $kept) -}}
{{- end -}}
{{- if or (not $kept) (eq (dig "spec" "volumeName" "" $kept) $static) -}}
  {{- with lookup "v1" "PersistentVolume" "" $static -}}
    {{- $is = dig "spec" "hostPath" "path" (dig "spec" "csi" "volumeHandle" "" .) . -}}
    {{- if and (eq (dig "status" "phase" "" .) "Released") (not $kept) (or $gpfs.nodePath $gpfs.csi) -}}
      {{- printf "\n\nERROR: storage.%s: got the kept volume %s, whose claim was deleted; must be free for a new claim; use kubectl delete pv %s first (the data stays)" $name $static $static | fail -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- if and $is (ne $is $wanted) -}}
  {{- printf "\n\nERROR: storage.%s: got %s; must stay what the kept claim %s is for (%s), since a volume cannot change its source; %s" $name $wanted $claim $is $fix | fail -}}
{{- end -}}
{{- end -}}
