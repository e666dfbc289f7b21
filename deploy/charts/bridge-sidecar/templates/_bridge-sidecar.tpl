{{/*
What a chart takes to put the sidecar into its pod. Each template takes the sidecar's values, which are those of
values.yaml beside this chart's templates under the name (or alias) of the dependency:

  labels                bridge-sidecar.podLabels
  securityContext       bridge-sidecar.podSecurityContext    of the pod
  initContainers        bridge-sidecar.container
  containers[].volumeMounts  bridge-sidecar.volumeMount      in each container that asks the sidecar
  volumes               bridge-sidecar.volumes
*/}}

{{/* What Flowless' network policy lets in. */}}
{{- define "bridge-sidecar.podLabels" -}}
trustlayer/client: "true"
{{- end -}}

{{/*
The group that the socket and the mounted secret belong to, and that every container of the pod has beside its own. A
pod that has an fsGroup already keeps it and leaves this out: any will do.
*/}}
{{- define "bridge-sidecar.podSecurityContext" -}}
fsGroup: 10003
fsGroupChangePolicy: OnRootMismatch
{{- end -}}

{{/* A native sidecar: started before the app, which waits for its startup probe, and stopped after it. */}}
{{- define "bridge-sidecar.container" -}}
{{- $ca := or .upstreamCa.configMap .upstreamCa.secret -}}
- name: bridge-sidecar
  image: {{ .image.repository }}{{ if .image.digest }}@{{ .image.digest }}{{ else }}:{{ .image.tag }}{{ end }}
  imagePullPolicy: {{ .image.pullPolicy }}
  restartPolicy: Always
  command: [bridge-sidecar, serve]
  env:
    - name: BRIDGE_SIDECAR_UPSTREAM
      value: {{ required "bridge-sidecar: upstream is Flowless' host:port" .upstream | quote }}
    {{- if $ca }}
    - name: BRIDGE_SIDECAR_UPSTREAM_CA_FILE
      value: /etc/bridge-sidecar/upstream-ca/ca.crt
    {{- end }}
    {{- if .insecureUpstream }}
    - name: BRIDGE_SIDECAR_INSECURE_UPSTREAM
      value: "true"
    {{- else if not $ca }}
    {{- fail "bridge-sidecar: set upstreamCa, or insecureUpstream where a mesh encrypts" }}
    {{- end }}
    {{- if .clientCertificateSecret }}
    - name: BRIDGE_SIDECAR_UPSTREAM_CERT_FILE
      value: /etc/bridge-sidecar/client-certificate/tls.crt
    - name: BRIDGE_SIDECAR_UPSTREAM_KEY_FILE
      value: /etc/bridge-sidecar/client-certificate/tls.key
    {{- end }}
    - name: BRIDGE_SIDECAR_BRIDGE_SECRET_FILE
      value: /etc/bridge-sidecar/secret/bridge-secret
    {{- if .configMap }}
    - name: BRIDGE_SIDECAR_CONFIG
      value: /etc/bridge-sidecar/config/bridge-sidecar.toml
    {{- end }}
    {{- if .metrics }}
    - name: BRIDGE_SIDECAR_METRICS_LISTEN
      value: 0.0.0.0:7691
    {{- end }}
    - name: BRIDGE_SIDECAR_LOG_FORMAT
      value: json
  {{- if .metrics }}
  ports:
    - {name: sidecar-metrics, containerPort: 7691}
  {{- end }}
  # On the socket, and not on a port: who reaches a port that asks for no credential can keep the kubelet out.
  startupProbe:
    exec: {command: [bridge-sidecar, healthcheck]}
    {{- toYaml .probes.startup | nindent 4 }}
  livenessProbe:
    exec: {command: [bridge-sidecar, healthcheck, --liveness]}
    {{- toYaml .probes.liveness | nindent 4 }}
  readinessProbe:
    exec: {command: [bridge-sidecar, healthcheck]}
    {{- toYaml .probes.readiness | nindent 4 }}
  resources:
    {{- toYaml .resources | nindent 4 }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 10002
    runAsGroup: 10002
    allowPrivilegeEscalation: false
    readOnlyRootFilesystem: true
    privileged: false
    capabilities: {drop: [ALL]}
    seccompProfile: {type: RuntimeDefault}
  volumeMounts:
    # The volume's root can be written to by everybody in the pod who mounts it so. The sidecar makes the directory
    # /run/bridge-sidecar in it, which only it can write to, and puts the socket there.
    - name: bridge-sidecar-run
      mountPath: /run
    - name: bridge-sidecar-secret
      mountPath: /etc/bridge-sidecar/secret
      readOnly: true
    {{- if $ca }}
    - name: bridge-sidecar-upstream-ca
      mountPath: /etc/bridge-sidecar/upstream-ca
      readOnly: true
    {{- end }}
    {{- if .clientCertificateSecret }}
    - name: bridge-sidecar-client-certificate
      mountPath: /etc/bridge-sidecar/client-certificate
      readOnly: true
    {{- end }}
    {{- if .configMap }}
    - name: bridge-sidecar-config
      mountPath: /etc/bridge-sidecar/config
      readOnly: true
    {{- end }}
{{- end -}}

{{/* The socket at unix:/run/bridge-sidecar/bridge.sock, for a container that asks the sidecar. */}}
{{- define "bridge-sidecar.volumeMount" -}}
- name: bridge-sidecar-run
  mountPath: /run/bridge-sidecar
  subPath: bridge-sidecar
  readOnly: true
{{- end -}}

{{- define "bridge-sidecar.volumes" -}}
- name: bridge-sidecar-run
  emptyDir: {medium: Memory, sizeLimit: 1Mi}
- name: bridge-sidecar-secret
  secret:
    secretName: {{ required "bridge-sidecar: bridgeSecret.name is the Secret with the bridge secret" .bridgeSecret.name }}
    defaultMode: 0440
    items: [{key: {{ .bridgeSecret.key | quote }}, path: bridge-secret}]
{{- if .upstreamCa.secret }}
- name: bridge-sidecar-upstream-ca
  secret:
    secretName: {{ .upstreamCa.secret }}
    defaultMode: 0440
    items: [{key: {{ .upstreamCa.key | quote }}, path: ca.crt}]
{{- else if .upstreamCa.configMap }}
- name: bridge-sidecar-upstream-ca
  configMap:
    name: {{ .upstreamCa.configMap }}
    items: [{key: {{ .upstreamCa.key | quote }}, path: ca.crt}]
{{- end }}
{{- with .clientCertificateSecret }}
- name: bridge-sidecar-client-certificate
  secret: {secretName: {{ . }}, defaultMode: 0440}
{{- end }}
{{- with .configMap }}
- name: bridge-sidecar-config
  configMap: {name: {{ . }}}
{{- end }}
{{- end -}}
