{{- define "flowless.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "flowless.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "flowless.name" . -}}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "flowless.serviceAccount" -}}
{{- default (include "flowless.fullname" .) .Values.serviceAccount.name -}}
{{- end -}}

{{/* What a Deployment selects by: never changes. Takes the root and a component: (list . "server") */}}
{{- define "flowless.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "flowless.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "flowless.labels" -}}
{{- $root := index . 0 -}}
{{ include "flowless.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: trustlayer
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- with $root.Values.extraLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "flowless.image" -}}
{{- $image := .Values.image -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ default .Chart.AppVersion $image.tag }}
{{- end -}}
{{- end -}}

{{/* Whole seconds between SIGTERM and SIGKILL: as long as Flowless may take to end, and something for the process. */}}
{{- define "flowless.graceSeconds" -}}
{{- $mail := ternary (.Values.settings.smtp_timeout_seconds | default 10) 0 (ne .Values.mail.url "") -}}
{{- $sum := addf (.Values.settings.lame_duck_seconds | default 1) (.Values.settings.drain_seconds | default 10) $mail 10 -}}
{{- ceil $sum | int -}}
{{- end -}}

{{- define "flowless.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
# Mounted secrets belong to root and to this group, which is how the program reads them and others do not.
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "flowless.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
privileged: false
capabilities: {drop: [ALL]}
{{- end -}}

{{/* Everything that the pods of this chart have in common. */}}
{{- define "flowless.podSpec" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  {{- include "flowless.podSecurityContext" . | nindent 2 }}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}
