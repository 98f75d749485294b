{{/* Sources that a volume of storage names, as a JSON list; null, "" and {} name none. */}}
{{- define "neva-pretrain.storageSources" -}}
{{- $sources := list -}}
{{- if .existingClaim }}{{ $sources = append $sources "existingClaim" }}{{ end -}}
{{- if .gpfs.nodePath }}{{ $sources = append $sources "gpfs.nodePath" }}{{ end -}}
{{- if .gpfs.csi }}{{ $sources = append $sources "gpfs.csi" }}{{ end -}}
{{- if .storageClassName }}{{ $sources = append $sources "storageClassName" }}{{ end -}}
{{- if .hostPath }}{{ $sources = append $sources "hostPath" }}{{ end -}}
{{- $sources | toJson -}}
{{- end -}}

{{/* A volume of storage as JSON: its mount, and no other source than the one that is named; where none is, the source
document's folder. Nothing has to be taken away first. Takes a dict: root, volume. */}}
{{- define "neva-pretrain.volume" -}}
{{- $root := .root -}}{{- $name := .volume -}}
{{- $volume := deepCopy (get $root.Values.storage $name) -}}
{{- if not (include "neva-pretrain.storageSources" $volume | fromJsonArray) -}}
  {{- include "neva-pretrain.loadRules" $root -}}
  {{- with get $root.nevaRules.defaultNodePaths $name -}}
    {{- $_ := set $volume.gpfs "nodePath" . -}}
  {{- end -}}
{{- end -}}
{{- $volume | toJson -}}
{{- end -}}

{{/* Which volumes of storage are one, as JSON by name: `claim` is the pods' claim, empty where there is none; `owner`
the volume that the claim and its volume are made for; `pod` the volume of the pods that is mounted. The kubelet
mounts a CSI handle and a claim once in a pod, and waits for a second volume of either for ever (N04). Takes the
root. */}}
{{- define "neva-pretrain.oneVolume" -}}
{{- include "neva-pretrain.once" (dict "root" . "define" "neva-pretrain.sharedVolumes" "argument" .) -}}
{{- end -}}

{{- define "neva-pretrain.sharedVolumes" -}}
{{- $shared := dict -}}{{- $handles := dict -}}{{- $claims := dict -}}
{{- range $name := list "datasets" "models" "results" "scratch" -}}
  {{- $volume := include "neva-pretrain.volume" (dict "root" $ "volume" $name) | fromJson -}}
  {{- $owner := $name -}}{{- $claim := "" -}}
  {{- $csi := $volume.gpfs.csi -}}
  {{- with $csi.volumeHandle -}}
    {{- $handle := printf "%s %s" ($csi.driver | default "spectrumscale.csi.ibm.com") . -}}
    {{- $owner = get $handles $handle | default $name -}}{{- $_ := set $handles $handle $owner -}}
  {{- end -}}
  {{- if and (include "neva-pretrain.storageSources" $volume | fromJsonArray) (not $volume.hostPath) -}}
    {{- $claim = $volume.existingClaim | default (printf "%s-%s" (include "neva-pretrain.fullname" $) $owner) -}}
  {{- end -}}
  {{- $source := $claim | default $name -}}
  {{- $pod := get $claims $source | default $name -}}{{- $_ := set $claims $source $pod -}}
  {{- $_ := set $shared $name (dict "claim" $claim "owner" $owner "pod" $pod) -}}
{{- end -}}
{{- $shared | toJson -}}
{{- end -}}

{{/* What a static CSI volume is beside its handle, as JSON. Takes a volume. */}}
{{- define "neva-pretrain.staticVolume" -}}
{{- dict
  "fsType" (.gpfs.csi.fsType | default "gpfs")
  "nodeLabel" (.gpfs.nodeLabel | default "")
  "size" (.size | default "1Ti" | include "neva-pretrain.text")
  "volumeAttributes" (include "neva-pretrain.stringMap" .gpfs.csi.volumeAttributes)
| toJson -}}
{{- end -}}

{{/* Name of a volume's claim. Takes a dict: root, volume. */}}
{{- define "neva-pretrain.claimName" -}}
{{- (get (include "neva-pretrain.oneVolume" .root | fromJson) .volume).claim -}}
{{- end -}}

{{/* Name of the pods' volume that a volume of storage is mounted from. Takes a dict: root, volume. */}}
{{- define "neva-pretrain.podVolume" -}}
{{- (get (include "neva-pretrain.oneVolume" .root | fromJson) .volume).pod -}}
{{- end -}}

{{/* Whether a volume is made for the claim of another one. Takes a dict: root, volume. */}}
{{- define "neva-pretrain.borrowed" -}}
{{- if ne (get (include "neva-pretrain.oneVolume" .root | fromJson) .volume).owner .volume }}true{{ end -}}
{{- end -}}

{{/* Name of a static PersistentVolume. Volumes are the cluster's: between dots, which no namespace and no full name
has, two releases never mean the same one. */}}
{{- define "neva-pretrain.persistentVolumeName" -}}
{{- $root := .root -}}{{- $volume := .volume -}}
{{- printf "%s.%s.%s" $root.Release.Namespace (include "neva-pretrain.fullname" $root) $volume -}}
{{- end -}}

{{/* Whether a volume is only read: datasets and models, unless readOnly is false or they are being prepared. */}}
{{- define "neva-pretrain.readOnly" -}}
{{- $root := .root -}}{{- $volume := .volume -}}
{{- if and (not $root.Values.prepare.enabled) (has $volume (list "datasets" "models")) -}}
  {{- if ne (get $root.Values.storage $volume).readOnly false -}}true{{- end -}}
{{- end -}}
{{- end -}}

{{/* Where a container sees a volume. Takes a dict: root, volume. */}}
{{- define "neva-pretrain.storageMount" -}}
{{- $volume := get .root.Values.storage .volume -}}
- name: {{ include "neva-pretrain.podVolume" . }}
  mountPath: {{ $volume.mountPath | quote }}
  {{- with $volume.subPath }}
  subPath: {{ . | toJson }}
  {{- end }}
{{- end -}}

{{/* A pod's volume. Takes a dict: root, volume. */}}
{{- define "neva-pretrain.storageVolume" -}}
{{- $volume := include "neva-pretrain.volume" . | fromJson -}}
{{- $claim := include "neva-pretrain.claimName" . -}}
- name: {{ include "neva-pretrain.podVolume" . }}
  {{- if $volume.hostPath }}
  hostPath:
    path: {{ $volume.hostPath | toJson }}
    # As in persistentvolume.yaml.
    type: Directory
  {{- else if $claim }}
  persistentVolumeClaim:
    claimName: {{ $claim | quote }}
    {{- if include "neva-pretrain.readOnlyClaim" . }}
    readOnly: true
    {{- end }}
  {{- else }}
  emptyDir: {}
  {{- end }}
{{- end -}}

{{/* Whether all that is mounted from a pod's volume is only read. Takes a dict: root, volume. */}}
{{- define "neva-pretrain.readOnlyClaim" -}}
{{- $root := .root -}}{{- $pod := include "neva-pretrain.podVolume" . -}}{{- $read := "true" -}}
{{- range $name := list "datasets" "models" "results" "scratch" -}}
  {{- $one := dict "root" $root "volume" $name -}}
  {{- if and (eq (include "neva-pretrain.podVolume" $one) $pod) (not (include "neva-pretrain.readOnly" $one)) -}}
    {{- $read = "" -}}
  {{- end -}}
{{- end -}}
{{- $read -}}
{{- end -}}

{{/* A kept volume stays what it is: Kubernetes changes no source, and a volume whose claim was deleted binds to no new
one. Both would leave the job's pods Pending. Like "neva-pretrain.refuseUpgrade" it only refuses. Takes a dict:
root, volume. */}}
{{- define "neva-pretrain.refuseOtherVolume" -}}
{{- $root := .root -}}{{- $name := .volume -}}
{{- $volume := include "neva-pretrain.volume" . | fromJson -}}{{- $gpfs := $volume.gpfs -}}
{{- $claim := include "neva-pretrain.claimName" . -}}{{- $static := include "neva-pretrain.persistentVolumeName" . -}}
{{- $class := printf "storageClassName %s" $volume.storageClassName -}}
{{- $wanted := $gpfs.nodePath | default $gpfs.csi.volumeHandle | default $class -}}
{{- $kept := lookup "v1" "PersistentVolumeClaim" $root.Release.Namespace $claim -}}
{{- $fix := printf "use kubectl delete pvc %s -n %s and kubectl delete pv %s first (%s), or another release name"
  $claim $root.Release.Namespace $static "the data stays" -}}
{{- $is := "" -}}
{{- if $kept -}}
  {{- $keptClass := dig "spec" "storageClassName" "" $kept -}}
  {{- $is = ternary (printf "volume %s" (dig "spec" "volumeName" "" $kept)) (printf "storageClassName %s" $keptClass)
    (eq $keptClass "") -}}
{{- end -}}
{{- /* Who makes no volume needs no rights on volumes. */ -}}
{{- if and (or $gpfs.nodePath $gpfs.csi) (or (not $kept) (eq (dig "spec" "volumeName" "" $kept) $static)) -}}
  {{- with lookup "v1" "PersistentVolume" "" $static -}}
    {{- $is = dig "spec" "hostPath" "path" (dig "spec" "csi" "volumeHandle" "" .) . -}}
    {{- if and (eq (dig "status" "phase" "" .) "Released") (not $kept) -}}
      {{- printf "\n\nERROR: storage.%s: got the kept volume %s, whose claim was deleted; %s; %s"
        $name $static "must be free for a new claim"
        (printf "use kubectl delete pv %s first (the data stays)" $static) | fail -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- if and $is (ne $is $wanted) -}}
  {{- printf "\n\nERROR: storage.%s: got %s; must match the kept claim %s (%s), since %s; %s"
    $name $wanted $claim $is "a volume cannot change its source" $fix | fail -}}
{{- end -}}
{{- end -}}
