{{/* What of the values breaks a level of the Pod Security Standard, as a JSON list; its pods are all of the release.
The twin of neva_pretrain/check/pod_security.py; tests hold both against the API server's admission. Takes the
root. */}}
{{- define "neva-pretrain.podSecurityBreaks" -}}
{{- $v := .Values -}}{{- $breaks := list -}}
{{- include "neva-pretrain.loadRules" . -}}
{{- $standard := .nevaRules.podSecurity -}}
{{- $facts := include "neva-pretrain.uncheckedFacts" . | fromJson -}}
{{- $trains := eq $facts.mode "train" -}}
{{- if $v.hostNetwork -}}
  {{- $breaks = append $breaks (dict "level" "baseline" "key" "hostNetwork" "got" "true"
    "rule" "be false" "fix" "use false") -}}
{{- end -}}
{{- range $name := list "datasets" "models" "results" "scratch" -}}
  {{- with (get $v.storage $name).hostPath -}}
    {{- $breaks = append $breaks (dict "level" "baseline" "key" (printf "storage.%s.hostPath" $name) "got" .
      "rule" "be empty" "fix" "use gpfs.nodePath, which pods mount through a claim") -}}
  {{- end -}}
{{- end -}}
{{- range $index, $volume := $v.extraVolumes -}}
  {{- range $kind, $_ := omit $volume "name" -}}
    {{- if kindIs "invalid" $_ -}}
    {{- else if eq $kind "hostPath" -}}
      {{- $breaks = append $breaks (dict "level" "baseline" "key" (printf "extraVolumes[%d]" $index) "got" $kind
        "rule" "not be a folder on the node" "fix" "use a claim") -}}
    {{- else if not (has $kind $standard.restrictedVolumes) -}}
      {{- $breaks = append $breaks (dict "level" "restricted" "key" (printf "extraVolumes[%d]" $index) "got" $kind
        "rule" (printf "be one of %s" (join ", " $standard.restrictedVolumes)) "fix" "use a claim") -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- range $name, $value := $v.podAnnotations -}}
  {{- $profile := ternary "" (include "neva-pretrain.text" $value) (kindIs "invalid" $value) -}}
  {{- $safe := regexMatch "^(localhost/.*|runtime/default)?$" $profile -}}
  {{- if and (hasPrefix "container.apparmor.security.beta.kubernetes.io/" $name) (not $safe) -}}
    {{- $breaks = append $breaks (dict "level" "baseline" "key" (printf "podAnnotations.%s" $name) "got" $profile
      "rule" "be runtime/default or localhost/..." "fix" "use runtime/default") -}}
  {{- end -}}
{{- end -}}
{{- range $where := list "podSecurityContext" "securityContext" -}}
  {{- $context := get $v $where -}}
  {{- range $profile := list "appArmorProfile" "seccompProfile" -}}
    {{- $type := (get $context $profile | default dict).type -}}
    {{- if and $type (not (has $type (list "RuntimeDefault" "Localhost"))) -}}
      {{- $breaks = append $breaks (dict "level" "baseline" "key" (printf "%s.%s.type" $where $profile) "got" $type
        "rule" "be RuntimeDefault or Localhost" "fix" "use RuntimeDefault") -}}
    {{- end -}}
  {{- end -}}
  {{- with $context.seLinuxOptions -}}
    {{- if and .type (not (has .type $standard.seLinuxTypes)) -}}
      {{- $breaks = append $breaks (dict "level" "baseline" "key" (printf "%s.seLinuxOptions.type" $where) "got" .type
        "rule" (printf "be one of %s" (join ", " $standard.seLinuxTypes)) "fix" "use seLinuxOptions.level alone") -}}
    {{- end -}}
    {{- range $part := list "user" "role" -}}
      {{- with get $context.seLinuxOptions $part -}}
        {{- $breaks = append $breaks (dict "level" "baseline" "key" (printf "%s.seLinuxOptions.%s" $where $part) "got" .
          "rule" "be unset" "fix" "use seLinuxOptions.level alone") -}}
      {{- end -}}
    {{- end -}}
  {{- end -}}
  {{- range $context.sysctls -}}
    {{- if not (has .name $standard.sysctls) -}}
      {{- $breaks = append $breaks (dict "level" "baseline" "key" (printf "%s.sysctls" $where) "got" .name
        "rule" "hold safe kernel parameters only" "fix" "remove it") -}}
    {{- end -}}
  {{- end -}}
  {{- if eq (toString $context.runAsUser) "0" -}}
    {{- $breaks = append $breaks (dict "level" "restricted" "key" (printf "%s.runAsUser" $where) "got" "0"
      "rule" "not be root" "fix" "use a non-root user of the image") -}}
  {{- end -}}
{{- end -}}
{{- $pod := $v.podSecurityContext -}}
{{- $context := $v.securityContext -}}
{{- if $context.privileged -}}
  {{- $breaks = append $breaks (dict "level" "baseline" "key" "securityContext.privileged" "got" "true"
    "rule" "be false" "fix" "use false") -}}
{{- end -}}
{{- $capabilities := $context.capabilities | default dict -}}
{{- if hasKey $capabilities "add" -}}
  {{- range $capabilities.add -}}
    {{- if not (has . $standard.capabilities) -}}
      {{- $breaks = append $breaks (dict "level" "baseline" "key" "securityContext.capabilities.add" "got" .
        "rule" "hold only what containers have by default" "fix" "remove it") -}}
    {{- else if not (has . $standard.restrictedCapabilities) -}}
      {{- $breaks = append $breaks (dict "level" "restricted" "key" "securityContext.capabilities.add" "got" .
        "rule" (printf "hold only %s" (join ", " $standard.restrictedCapabilities)) "fix" "remove it") -}}
    {{- end -}}
  {{- end -}}
{{- else if and $trains $facts.rdma.enabled -}}
  {{- $breaks = append $breaks (dict "level" "baseline" "key" "rdma.enabled" "got" "true"
    "rule" "be false, since RDMA adds the capability IPC_LOCK,"
    "fix" "use fabric tcp, or securityContext.capabilities.add [] where the runtime's memlock limit is unlimited") -}}
{{- end -}}
{{- if and (hasKey $capabilities "drop") (not (has "ALL" $capabilities.drop)) -}}
  {{- $breaks = append $breaks (dict "level" "restricted" "key" "securityContext.capabilities.drop"
    "got" (join ", " $capabilities.drop | default "nothing")
    "rule" "hold ALL" "fix" "use [ALL]") -}}
{{- end -}}
{{- if $context.allowPrivilegeEscalation -}}
  {{- $breaks = append $breaks (dict "level" "restricted" "key" "securityContext.allowPrivilegeEscalation" "got" "true"
    "rule" "be false" "fix" "use false") -}}
{{- end -}}
{{- $refused := eq (toString $pod.runAsNonRoot) "false" -}}
{{- $said := or (hasKey $pod "runAsNonRoot") (hasKey $context "runAsNonRoot") -}}
{{- if or $refused (not (ternary $context.runAsNonRoot $pod.runAsNonRoot (hasKey $context "runAsNonRoot"))) -}}
  {{- $breaks = append $breaks (dict "level" "restricted"
    "key" (printf "%s.runAsNonRoot" (ternary "podSecurityContext" "securityContext" $refused))
    "got" (ternary "false" "nothing" $said)
    "rule" "be true" "fix" "use true, and runAsUser of an image that runs as that user") -}}
{{- end -}}
{{- $operator := eq $v.job.kind "PyTorchJob" -}}
{{- if and $trains $operator (gt (int64 $v.training.nodes) 1) (not $v.podSecurity.operatorInitContainer) -}}
  {{- $breaks = append $breaks (dict "level" "restricted" "key" "podSecurity.operatorInitContainer" "got" "false"
    "rule" "be true"
    "fix" (printf "give the operator the init container from docs/reference/security.md, since %s"
      "its own has no security context, and use true")) -}}
{{- end -}}
{{- $breaks | toJson -}}
{{- end -}}

{{/* The level that all pods of the release meet, and what breaks the others, as a line. Takes the root. */}}
{{- define "neva-pretrain.podSecurityNote" -}}
{{- $broken := dict "baseline" list "restricted" list -}}
{{- range include "neva-pretrain.podSecurityBreaks" . | fromJsonArray -}}
  {{- $_ := set $broken .level (append (get $broken .level) .key | uniq) -}}
{{- end -}}
{{- $baseline := join ", " $broken.baseline -}}{{- $restricted := join ", " $broken.restricted -}}
Pod Security: {{ if $baseline -}}
meets privileged only; baseline is broken by {{ $baseline }}{{ with $restricted }}; restricted also by {{ . }}{{ end }}
{{- else if $restricted -}}
meets baseline; restricted is broken by {{ $restricted }}
{{- else -}}
meets restricted
{{- end -}}
{{- end -}}

{{/* Take the names of secrets.env out of a map of environment, in place: a name may stand once. Takes a dict: root,
env. */}}
{{- define "neva-pretrain.leaveToSecrets" -}}
{{- $env := .env -}}
{{- range $name, $secret := .root.Values.secrets.env }}{{ $_ := unset $env $name }}{{ end -}}
{{- end -}}

{{/* Environment from Secrets. Takes the root. */}}
{{- define "neva-pretrain.secretEnvironment" -}}
{{- range $name, $secret := .Values.secrets.env }}
{{ include "neva-pretrain.secretVariable" (dict "name" $name "secret" $secret) }}
{{- end }}
{{- end -}}
