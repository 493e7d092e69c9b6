{{/* What is told of a server: a dict with the keys `root`, which is the chart's own context, and `server`, its name. */}}

{{/* The name of its Deployment, its Service and so on; the longest suffix has 12 characters, and a name 63. */}}
{{- define "handfast.name" -}}
{{ .root.Release.Name | trunc 50 | trimSuffix "-" }}-{{ .server }}
{{- end }}

{{- define "handfast.host" -}}
{{ include "handfast.name" . }}.{{ .root.Release.Namespace }}.svc.{{ .root.Values.clusterDomain }}
{{- end }}

{{/* Its values: those of all servers, and its own over them. */}}
{{- define "handfast.values" -}}
{{ mergeOverwrite (deepCopy .root.Values.server) (deepCopy (index .root.Values .server)) | toYaml }}
{{- end }}

{{/* Prometheus takes app.kubernetes.io/name for the job, and the rules find servers by it. */}}
{{- define "handfast.selector" -}}
app.kubernetes.io/name: handfast-{{ .server }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- end }}

{{- define "handfast.labels" -}}
{{ include "handfast.selector" . }}
{{ include "handfast.suiteLabels" .root }}
{{- end }}

{{/* Of what belongs to no single server. */}}
{{- define "handfast.suiteLabels" -}}
app.kubernetes.io/part-of: handfast
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "handfast.image" -}}
{{ .Values.image.repository }}
{{- if .Values.image.digest }}@{{ .Values.image.digest }}{{ else }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}

{{- define "handfast.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
# Files of secrets belong to this group, which alone may read them.
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "handfast.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "handfast.databaseVariable" -}}
HANDFAST_{{ ternary "TRANSACTIONS" (upper .server) (eq .server "accounts") }}_DATABASE_URL
{{- end }}

{{/* The variables of a server, but for its secret. */}}
{{- define "handfast.variables" -}}
{{- $values := include "handfast.values" . | fromYaml }}
{{- $root := .root }}
{{- $prefix := printf "HANDFAST_%s" (upper .server) }}
{{- $variables := dict "HANDFAST_GRACE" ($root.Values.gracePeriodSeconds | toString) }}
{{- range list "users" "preferences" "accounts" }}
{{- $host := include "handfast.host" (dict "root" $root "server" .) }}
{{- $_ := set $variables (printf "HANDFAST_%s_ADDRESS" (upper .)) (printf "%s:50051" $host) }}
{{- end }}
{{- with $root.Values.participants }}
{{- $pairs := list }}
{{- range $name, $address := . }}
{{- if has $name (list "users" "preferences" "accounts") }}
{{- fail (printf "participants must name no server of the suite, not %s" $name) }}
{{- else if not (regexMatch "^[a-z][a-z0-9]*(_[a-z0-9]+)*$" $name) }}
{{- fail (printf "participants must have names in lower-case letters, digits and single underscores, not %s" $name) }}
{{- end }}
{{- $pairs = append $pairs (printf "%s=%s" $name $address) }}
{{- end }}
{{- $_ := set $variables "HANDFAST_PARTICIPANTS" (join "," $pairs) }}
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
{{- range $name, $_ := $values.env }}
{{- if hasSuffix "_DATABASE_URL" $name }}
{{- fail (printf "env must not have the secret %s: %s.database names where it is" $name $.server) }}
{{- else if eq $name "HANDFAST_GRACE" }}
{{- fail "env must not have HANDFAST_GRACE: gracePeriodSeconds says it to Kubernetes, too" }}
{{- end }}
{{- end }}
{{- mergeOverwrite $variables $values.env | toYaml }}
{{- end }}
