{{/*
What the values name and the chart does not make, as a JSON list of maps: what, as kubectl takes it; whether it is the
cluster's; and whether it may be looked up. A lookup that is forbidden fails the install, so only what Helm reads anyway
is: Secrets, where it keeps its releases, and claims where the release has some of its own. The twin of
neva_pretrain/cluster/references.py. Takes the root.
*/}}
{{- define "neva-pretrain.references" -}}
{{- $v := .Values -}}{{- $s := $v.scheduling -}}{{- $queue := $s.queue -}}
{{- $f := include "neva-pretrain.facts" . | fromJson -}}
{{- $secrets := $v.image.pullSecrets | default list -}}
{{- $claims := list -}}{{- $others := list -}}{{- $clusters := list -}}
{{- $wandb := $v.wandb -}}{{- $keys := $v.secrets -}}
{{- if and (eq $f.mode "train") $wandb.enabled (eq (toString $wandb.mode) "online") -}}
  {{- $secrets = append $secrets $keys.wandb.name -}}
{{- end -}}
{{- if or $f.hfOnline (and (eq $f.mode "prepare") (include "neva-pretrain.prepareOnline" .)) -}}
  {{- $secrets = append $secrets $keys.huggingface.name -}}
{{- end -}}
{{- range $name, $secret := $keys.env -}}{{- $secrets = append $secrets $secret.name -}}{{- end -}}
{{- $own := false -}}
{{- range $name := list "datasets" "models" "results" "scratch" -}}
  {{- $volume := include "neva-pretrain.volume" (dict "root" $ "volume" $name) | fromJson -}}
  {{- if $volume.existingClaim -}}{{- $claims = append $claims $volume.existingClaim -}}
  {{- else if include "neva-pretrain.claimName" (dict "root" $ "volume" $name) -}}{{- $own = true -}}
  {{- end -}}
  {{- with $volume.storageClassName -}}{{- $clusters = append $clusters (printf "storageclass/%s" .) -}}{{- end -}}
{{- end -}}
{{- range $v.extraVolumes -}}
  {{- if kindIs "map" .persistentVolumeClaim -}}
    {{- $claims = append $claims .persistentVolumeClaim.claimName -}}
  {{- end -}}
  {{- if and (kindIs "map" .secret) (not .secret.optional) -}}
    {{- $secrets = append $secrets .secret.secretName -}}
  {{- end -}}
  {{- if and (kindIs "map" .configMap) (not .configMap.optional) -}}
    {{- $others = append $others (printf "configmap/%s" .configMap.name) -}}
  {{- end -}}
{{- end -}}
{{- $account := $v.serviceAccount -}}
{{- if and (not $account.create) $account.name -}}
  {{- $others = append $others (printf "serviceaccount/%s" $account.name) -}}
{{- end -}}
{{- with $queue.name -}}{{- $others = append $others (printf "localqueues.kueue.x-k8s.io/%s" .) -}}{{- end -}}
{{- with $queue.priorityClass -}}
  {{- $clusters = append $clusters (printf "workloadpriorityclasses.kueue.x-k8s.io/%s" .) -}}
{{- end -}}
{{- with $s.priorityClassName -}}{{- $clusters = append $clusters (printf "priorityclass/%s" .) -}}{{- end -}}
{{- $made := list -}}
{{- range $name, $one := include "neva-pretrain.oneVolume" . | fromJson -}}
  {{- $made = append $made (printf "%s-%s" (include "neva-pretrain.fullname" $) $name) -}}
{{- end -}}
{{- $found := list -}}
{{- range $secrets | compact | uniq -}}
  {{- $found = append $found (dict "kind" "Secret" "name" . "what" (printf "secret/%s" .) "lookup" true) -}}
{{- end -}}
{{- range $claims | compact | uniq -}}
  {{- if not (has . $made) -}}
    {{- $found = append $found (dict "kind" "PersistentVolumeClaim" "name" .
      "what" (printf "persistentvolumeclaim/%s" .) "lookup" $own) -}}
  {{- end -}}
{{- end -}}
{{- range $others -}}{{- $found = append $found (dict "what" . "lookup" false) -}}{{- end -}}
{{- range $clusters | uniq -}}{{- $found = append $found (dict "what" . "lookup" false "cluster" true) -}}{{- end -}}
{{- $found | toJson -}}
{{- end -}}

{{/* What must be there for the pods to start, and what is not, for NOTES.txt. Takes the root. */}}
{{- define "neva-pretrain.referenceNotes" -}}
{{- $here := list -}}{{- $clusters := list -}}{{- $missing := list -}}
{{- range include "neva-pretrain.references" . | fromJsonArray -}}
  {{- if .cluster -}}{{- $clusters = append $clusters .what -}}{{- else -}}{{- $here = append $here .what -}}{{- end -}}
  {{- if .lookup -}}
    {{- if not (lookup "v1" .kind $.Release.Namespace .name) -}}{{- $missing = append $missing .what -}}{{- end -}}
  {{- end -}}
{{- end -}}
{{- with $missing }}

WARNING: not in namespace {{ $.Release.Namespace }}, and pods do not start without: {{ join ", " . }}
(a dry run of the client finds nothing)
{{- end }}
{{- if or $here $clusters }}

Must be there before pods can start:
{{- with $here }}
  kubectl get -n {{ $.Release.Namespace }} {{ join " " . }}
{{- end }}
{{- with $clusters }}
  kubectl get {{ join " " . }}
{{- end }}
{{- end }}
{{- end -}}
