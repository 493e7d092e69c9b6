{{/* What is told of a server: a dict with the keys `root`, which is the chart's own context, and `server`, its name. */}}

{{/* The name of its Deployment, its Service and so on: 15 characters at the most after what is left of the release's. */}}
{{- define "handfast.name" -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" .root.Release.Name) }}
{{- fail (printf "the release must have a name of small letters, digits and -, with a letter first, not %s" .root.Release.Name) }}
{{- end -}}
{{ .root.Release.Name | trunc 48 | trimSuffix "-" }}-{{ .server }}
{{- end }}

{{- define "handfast.host" -}}
{{ include "handfast.name" . }}.{{ .root.Release.Namespace }}.svc.{{ .root.Values.clusterDomain }}
{{- end }}

{{/* What Prometheus calls this release, among others. */}}
{{- define "handfast.suite" -}}
{{ .Release.Namespace }}/{{ .Release.Name }}
{{- end }}

{{/* Its values: those of all servers, and its own over them. The Job of migrations, `migrate`, has such values, too, and
     so has the Pod that tests the release, `test`, which are those of the Job. */}}
{{- define "handfast.values" -}}
{{- $own := index .root.Values (eq .server "test" | ternary "migrate" .server) }}
{{- $values := mergeOverwrite (deepCopy .root.Values.server) (deepCopy $own) }}
{{- /* Its own choice of machines takes the place of that of all, so that it may have less of it. */}}
{{- range $key := list "nodeSelector" "affinity" }}
{{- if hasKey $own $key }}
{{- $_ := set $values $key (index $own $key) }}
{{- end }}
{{- end }}
{{- toYaml $values }}
{{- end }}

{{- define "handfast.metadata" -}}
name: {{ include "handfast.name" . }}
namespace: {{ .root.Release.Namespace | quote }}
labels: {{- include "handfast.labels" . | nindent 2 }}
{{- end }}

{{/* Prometheus takes app.kubernetes.io/name for the job, and the rules find servers by it. */}}
{{- define "handfast.selector" -}}
app.kubernetes.io/name: handfast-{{ .server }}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
{{- end }}

{{- define "handfast.labels" -}}
{{ include "handfast.selector" . }}
app.kubernetes.io/part-of: handfast
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version | replace "+" "_" }}
{{- end }}
