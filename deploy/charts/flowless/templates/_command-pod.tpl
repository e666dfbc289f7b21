{{/*
The spec of a pod that runs one command and ends. Takes the root, the command's arguments, settings and volumes by the
names of their templates, and resources.
*/}}
{{- define "flowless.commandPod" -}}
{{- $root := index . 0 -}}
{{ include "flowless.podSpec" $root }}
restartPolicy: Never
containers:
  - name: flowless
    image: {{ include "flowless.image" $root }}
    imagePullPolicy: {{ $root.Values.image.pullPolicy }}
    command: {{ prepend (index . 1) "flowless" | toJson }}
    env:
      {{- include "flowless.env" (list $root (index . 2)) | nindent 6 }}
    resources:
      {{- toYaml (index . 4) | nindent 6 }}
    securityContext:
      {{- include "flowless.securityContext" $root | nindent 6 }}
    {{- with include "flowless.mounts" (list $root (index . 3)) }}
    volumeMounts:
      {{- . | nindent 6 }}
    {{- end }}
{{- with include (index . 3) $root }}
volumes:
  {{- . | nindent 2 }}
{{- end }}
{{- end -}}
