{{/* What pods are made of. Each takes what _helpers.tpl describes. */}}

{{/* Without what changes with each version of the chart, as pods are replaced where this does. */}}
{{- define "handfast.podMetadata" -}}
{{- $values := include "handfast.values" . | fromYaml -}}
labels:
  {{- include "handfast.selector" . | nindent 2 }}
  app.kubernetes.io/part-of: handfast
  {{- with $values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with $values.podAnnotations }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* What all pods have in their spec, but for the containers. */}}
{{- define "handfast.pod" -}}
{{- with .root.Values.serviceAccountName -}}
serviceAccountName: {{ . | quote }}
{{ end -}}
automountServiceAccountToken: false
# Services of this namespace would be told by variables that may look like settings.
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  # Files of secrets belong to this group, which alone may read them.
  fsGroup: 65532
  seccompProfile: {type: RuntimeDefault}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- $values := include "handfast.values" . | fromYaml }}
{{- range $key := list "priorityClassName" "nodeSelector" "tolerations" "affinity" }}
{{- with index $values $key }}
{{ $key }}: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
volumes: {{- include "handfast.volumes" . | nindent 2 }}
{{- end }}

{{/* What all containers have, but for their arguments and variables. */}}
{{- define "handfast.container" -}}
{{- with .root.Values -}}
{{- $image := .image -}}
image: {{ $image.repository }}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ $image.tag | default $.root.Chart.AppVersion }}{{ end }}
imagePullPolicy: {{ $image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- with .extraEnvFrom }}
envFrom: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
volumeMounts: {{- include "handfast.volumeMounts" . | nindent 2 }}
resources: {{- (include "handfast.values" . | fromYaml).resources | toYaml | nindent 2 }}
{{- end }}

{{/* Whole secrets, so that what is renewed is seen without a restart. */}}
{{- define "handfast.volumes" -}}
{{- $root := .root -}}
- name: database
  secret:
    secretName: {{ $root.Values.databaseCa.secret | quote }}
    optional: true
    items: [{key: {{ $root.Values.databaseCa.key | quote }}, path: ca.crt}]
{{- if and (not $root.Values.open) (ne .server "migrate") }}
- name: certificate
  secret:
    secretName: {{ (index $root.Values .server | default $root.Values.users).certificate.secret | quote }}
    # Others may not read the key, or the server refuses it.
    defaultMode: 0440
    items: [{key: tls.crt, path: tls.crt}, {key: tls.key, path: tls.key}]
- name: ca
  secret:
    secretName: {{ $root.Values.tls.ca.secret | quote }}
    defaultMode: 0440
    items: [{key: {{ $root.Values.tls.ca.key | quote }}, path: ca.crt}]
{{- if ne $root.Values.authentication.mode "off" }}
- name: authentication
  configMap:
    name: {{ include "handfast.name" (dict "root" $root "server" "authentication") }}
{{- end }}
{{- end }}
{{- with $root.Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "handfast.volumeMounts" -}}
{{- $root := .root -}}
- {name: database, mountPath: /etc/handfast/database, readOnly: true}
{{- if and (not $root.Values.open) (ne .server "migrate") }}
- {name: certificate, mountPath: /etc/handfast/certificate, readOnly: true}
- {name: ca, mountPath: /etc/handfast/ca, readOnly: true}
{{- if ne $root.Values.authentication.mode "off" }}
- {name: authentication, mountPath: /etc/handfast/authentication, readOnly: true}
{{- end }}
{{- end }}
{{- with $root.Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "handfast.databaseVariable" -}}
HANDFAST_{{ ternary "TRANSACTIONS" (upper .server) (eq .server "accounts") }}_DATABASE_URL
{{- end }}

{{/* The variables of a server, but for its secret. */}}
{{- define "handfast.variables" -}}
{{- $root := .root }}
{{- $prefix := printf "HANDFAST_%s" (upper .server) }}
{{- $variables := dict "HANDFAST_GRACE" ($root.Values.gracePeriodSeconds | toString) }}
{{- range list "users" "preferences" "accounts" }}
{{- $host := include "handfast.host" (dict "root" $root "server" .) }}
{{- $_ := set $variables (printf "HANDFAST_%s_ADDRESS" (upper .)) (printf "%s:50051" $host) }}
{{- end }}
{{- with include "handfast.participants" . }}
{{- $_ := set $variables "HANDFAST_PARTICIPANTS" . }}
{{- end }}
{{- if $root.Values.open }}
{{- $_ := set $variables "HANDFAST_ALLOW_PLAINTEXT_BEYOND_LOOPBACK" "true" }}
{{- $_ := set $variables "HANDFAST_ALLOW_ANONYMOUS_BEYOND_LOOPBACK" "true" }}
{{- else }}
{{- $_ := set $variables (printf "%s_TLS_CERTIFICATE" $prefix) "/etc/handfast/certificate/tls.crt" }}
{{- $_ := set $variables (printf "%s_TLS_KEY" $prefix) "/etc/handfast/certificate/tls.key" }}
{{- $_ := set $variables "HANDFAST_TLS_CLIENT_CA" "/etc/handfast/ca/ca.crt" }}
{{- $_ := set $variables "HANDFAST_PEER_CA" "/etc/handfast/ca/ca.crt" }}
{{- $authentication := $root.Values.authentication }}
{{- $_ := set $variables "HANDFAST_AUTHENTICATION" $authentication.mode }}
{{- if ne $authentication.mode "off" }}
{{- $_ := set $variables "HANDFAST_CERTIFICATE_GRANTS" "/etc/handfast/authentication/grants.toml" }}
{{- with $authentication.tokens }}
{{- if .keys }}
{{- $_ := set $variables "HANDFAST_TOKEN_KEYS" .keys }}
{{- $_ := set $variables "HANDFAST_TOKEN_ISSUER" .issuer }}
{{- $_ := set $variables "HANDFAST_TOKEN_AUDIENCE" .audience }}
{{- $_ := set $variables "HANDFAST_REVOKED_TOKENS" "/etc/handfast/authentication/revoked.txt" }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- mergeOverwrite $variables (include "handfast.env" . | fromYaml) | toYaml }}
{{- end }}

{{/* The variables that are given as values, without those that the chart itself has to know. */}}
{{- define "handfast.env" -}}
{{- $env := (include "handfast.values" . | fromYaml).env }}
{{- range $name, $_ := $env }}
{{- if regexMatch "_DATABASE_URL(_FILE)?$" $name }}
{{- fail (printf "env must not have %s: users.database and so on say which secret has the URL" $name) }}
{{- else if hasSuffix "_LISTEN" $name }}
{{- fail (printf "env must not have %s: Services and probes know the ports of the image" $name) }}
{{- else if eq $name "HANDFAST_GRACE" }}
{{- fail "env must not have HANDFAST_GRACE: gracePeriodSeconds says it to Kubernetes, too" }}
{{- end }}
{{- end }}
{{- toYaml $env }}
{{- end }}

{{/* As servers are told of them: credits=credits:50061,… */}}
{{- define "handfast.participants" -}}
{{- $pairs := list }}
{{- range $name, $address := .root.Values.participants }}
{{- if has $name (list "users" "preferences" "accounts" "transactions" "coordinator" "up" "branches" "callers" "self") }}
{{- fail (printf "participants must have names that the suite has no other use for, not %s" $name) }}
{{- else if gt (regexFind "[0-9]+$" $address | int) 65535 }}
{{- fail (printf "participants.%s must have a port, not %s" $name $address) }}
{{- end }}
{{- $pairs = append $pairs (printf "%s=%s" $name $address) }}
{{- end }}
{{- join "," $pairs -}}
{{- end }}
