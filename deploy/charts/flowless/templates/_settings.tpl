{{/*
How values become settings: names of variables and the files that some of them name. No variable holds a secret.
*/}}

{{/* A value as pydantic reads it from a variable: texts as they are, everything else as JSON. */}}
{{- define "flowless.settingText" -}}
{{- if kindIs "string" . -}}{{ . }}{{- else -}}{{ toJson . }}{{- end -}}
{{- end -}}

{{- define "flowless.isNamed" -}}
{{- if or .configMap .secret -}}yes{{- end -}}
{{- end -}}

{{/* Settings that every command needs: where the database is, and the files that are read before anything is done. */}}
{{- define "flowless.databaseSettings" -}}
{{- $v := .Values -}}
{{- $url := $v.database.url -}}
{{- if include "flowless.isNamed" $v.database.ca -}}
{{- $url = printf "%s%ssslrootcert=/etc/flowless/database-ca/ca.crt" $url (ternary "&" "?" (contains "?" $url)) -}}
{{- end -}}
FLOWLESS_DATABASE_URL: {{ $url | quote }}
{{- if $v.database.passwordSecret.name }}
FLOWLESS_DATABASE_PASSWORD_FILE: /etc/flowless/secrets/database-password
{{- end }}
{{- range tuple "log_level" "log_format" "busy_timeout_seconds" "database_pool_size" }}
{{- if hasKey $v.settings . }}
FLOWLESS_{{ upper . }}: {{ include "flowless.settingText" (get $v.settings .) | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Settings of the server, and of commands that are run beside it. */}}
{{- define "flowless.serverSettings" -}}
{{- $v := .Values -}}
{{ include "flowless.databaseSettings" . }}
FLOWLESS_LISTEN: 0.0.0.0:7600
FLOWLESS_HEALTH_LISTEN: 0.0.0.0:7680
{{- if $v.metrics.enabled }}
FLOWLESS_METRICS_LISTEN: 0.0.0.0:7690
{{- end }}
{{- if $v.tls.insecure }}
FLOWLESS_INSECURE_LISTEN: "true"
{{- else }}
FLOWLESS_TLS_CERT_FILE: /etc/flowless/tls/tls.crt
FLOWLESS_TLS_KEY_FILE: /etc/flowless/tls/tls.key
{{- if include "flowless.isNamed" $v.tls.clientCa }}
FLOWLESS_TLS_CLIENT_CA_FILE: /etc/flowless/client-ca/ca.crt
{{- if $v.tls.mtlsPort }}
FLOWLESS_MTLS_LISTEN: 0.0.0.0:{{ $v.tls.mtlsPort }}
{{- end }}
{{- end }}
{{- end }}
{{- if $v.redis.url }}
FLOWLESS_REDIS_URL: {{ $v.redis.url | quote }}
FLOWLESS_REDIS_KEY_FILE: /etc/flowless/secrets/redis-keys
{{- if $v.redis.passwordSecret.name }}
FLOWLESS_REDIS_PASSWORD_FILE: /etc/flowless/secrets/redis-password
{{- end }}
{{- end }}
{{- if $v.signingKeySecret.name }}
FLOWLESS_SIGNING_KEY_FILE: /etc/flowless/secrets/signing-keys
{{- end }}
{{- if $v.pepperSecret.name }}
FLOWLESS_PEPPER_FILE: /etc/flowless/secrets/pepper
{{- end }}
{{- if $v.mail.url }}
FLOWLESS_SMTP_URL: {{ $v.mail.url | quote }}
FLOWLESS_MAIL_FROM: {{ $v.mail.from | quote }}
FLOWLESS_LINK_URLS: {{ toJson $v.mail.linkUrls | quote }}
{{- if $v.mail.passwordSecret.name }}
FLOWLESS_SMTP_PASSWORD_FILE: /etc/flowless/secrets/smtp-password
{{- end }}
{{- if include "flowless.isNamed" $v.mail.ca }}
FLOWLESS_SMTP_CA_FILE: /etc/flowless/mail-ca/ca.crt
{{- end }}
{{- if $v.mail.templatesConfigMap }}
FLOWLESS_MAIL_TEMPLATES_DIR: /etc/flowless/mail-templates
{{- end }}
{{- end }}
{{- if $v.commonPasswords.configMap }}
FLOWLESS_COMMON_PASSWORDS_FILE: /etc/flowless/common-passwords/common-passwords
{{- end }}
{{- if $v.housekeeping.cronJob }}
FLOWLESS_HOUSEKEEPING_INTERVAL_SECONDS: "0"
{{- end }}
{{- range $name, $value := omit $v.settings "log_level" "log_format" "busy_timeout_seconds" "database_pool_size" }}
FLOWLESS_{{ upper $name }}: {{ include "flowless.settingText" $value | quote }}
{{- end }}
{{- end -}}

{{/* Variables as Kubernetes wants them. Takes the root and the name of the template that gives them. */}}
{{- define "flowless.env" -}}
{{- $root := index . 0 -}}
{{- range $name, $value := include (index . 1) $root | fromYaml }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- if include "flowless.isNamed" $root.Values.systemCas }}
- name: SSL_CERT_FILE
  value: /etc/flowless/system-cas/ca.crt
{{- end }}
{{- range $name, $value := $root.Values.extraEnv }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end -}}

{{/* Secrets in one directory: replaced as a whole, and never mounted with subPath, which would not see a new one. */}}
{{- define "flowless.secrets" -}}
{{- $v := .Values -}}
{{- $files := list (list $v.database.passwordSecret "database-password") -}}
{{- if $v.redis.url -}}
{{- $files = concat $files (list (list $v.redis.passwordSecret "redis-password") (list $v.redis.sealingKeySecret "redis-keys")) -}}
{{- end -}}
{{- if $v.mail.url -}}
{{- $files = append $files (list $v.mail.passwordSecret "smtp-password") -}}
{{- end -}}
{{- $files = concat $files (list (list $v.signingKeySecret "signing-keys") (list $v.pepperSecret "pepper")) -}}
{{- range $files -}}
{{- $secret := index . 0 -}}
{{- if $secret.name }}
- secret:
    name: {{ $secret.name }}
    items: [{key: {{ $secret.key | quote }}, path: {{ index . 1 }}}]
{{- end -}}
{{- end -}}
{{- end -}}

{{/* A directory with the one file ca.crt out of a ConfigMap or a Secret. */}}
{{- define "flowless.caVolume" -}}
{{- $ca := index . 1 -}}
{{- if $ca.secret -}}
- name: {{ index . 0 }}
  secret:
    secretName: {{ $ca.secret }}
    defaultMode: 0440
    items: [{key: {{ $ca.key | quote }}, path: ca.crt}]
{{- else if $ca.configMap -}}
- name: {{ index . 0 }}
  configMap:
    name: {{ $ca.configMap }}
    items: [{key: {{ $ca.key | quote }}, path: ca.crt}]
{{- end -}}
{{- end -}}

{{/* Volumes of the server as a list; `flowless.mounts` mounts each where its settings look. */}}
{{- define "flowless.volumes" -}}
{{- $v := .Values -}}
{{- with include "flowless.secrets" . }}
- name: secrets
  projected:
    defaultMode: 0440
    sources:
      {{- . | nindent 6 }}
{{- end }}
{{- if not $v.tls.insecure }}
- name: tls
  secret:
    secretName: {{ include "flowless.tlsSecret" . }}
    defaultMode: 0440
{{- with include "flowless.caVolume" (list "client-ca" $v.tls.clientCa) }}
{{ . }}
{{- end }}
{{- end }}
{{- with include "flowless.caVolume" (list "database-ca" $v.database.ca) }}
{{ . }}
{{- end }}
{{- with include "flowless.caVolume" (list "system-cas" $v.systemCas) }}
{{ . }}
{{- end }}
{{- if $v.mail.url }}
{{- with include "flowless.caVolume" (list "mail-ca" $v.mail.ca) }}
{{ . }}
{{- end }}
{{- with $v.mail.templatesConfigMap }}
- name: mail-templates
  configMap: {name: {{ . }}}
{{- end }}
{{- end }}
{{- with $v.commonPasswords }}
{{- if .configMap }}
- name: common-passwords
  configMap:
    name: {{ .configMap }}
    items: [{key: {{ .key | quote }}, path: common-passwords}]
{{- end }}
{{- end }}
{{- end -}}

{{/* Volumes of the migration: nothing that an install has yet to make. */}}
{{- define "flowless.databaseVolumes" -}}
{{- $v := .Values -}}
{{- with $v.database.passwordSecret }}
{{- if .name }}
- name: secrets
  projected:
    defaultMode: 0440
    sources:
      - secret:
          name: {{ .name }}
          items: [{key: {{ .key | quote }}, path: database-password}]
{{- end }}
{{- end }}
{{- with include "flowless.caVolume" (list "database-ca" $v.database.ca) }}
{{ . }}
{{- end }}
{{- with include "flowless.caVolume" (list "system-cas" $v.systemCas) }}
{{ . }}
{{- end }}
{{- end -}}

{{/* One mount for each volume of the template that is named. */}}
{{- define "flowless.mounts" -}}
{{- range include (index . 1) (index . 0) | fromYamlArray }}
- name: {{ .name }}
  mountPath: /etc/flowless/{{ .name }}
  readOnly: true
{{- end }}
{{- end -}}

{{- define "flowless.tlsSecret" -}}
{{- if .Values.tls.certManager.enabled -}}{{ include "flowless.fullname" . }}-tls{{- else -}}{{ .Values.tls.secret }}{{- end -}}
{{- end -}}
