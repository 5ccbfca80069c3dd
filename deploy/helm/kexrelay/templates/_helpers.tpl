{{- define "kexrelay.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "kexrelay.selectorLabels" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: relay
{{- end -}}

{{- define "kexrelay.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ default .Chart.AppVersion .Values.image.tag | trunc 63 | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "kexrelay.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}
{{- end -}}

{{- define "kexrelay.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{ default (include "kexrelay.fullname" .) .Values.serviceAccount.name }}
{{- else -}}
{{ default "default" .Values.serviceAccount.name }}
{{- end -}}
{{- end -}}

{{/* Seconds of a duration like 1h2m30s; the schema lets no other through. */}}
{{- define "kexrelay.seconds" -}}
{{- $sum := 0 -}}
{{- range $unit, $seconds := dict "h" 3600 "m" 60 "s" 1 -}}
{{- with regexFind (printf "[0-9]+%s" $unit) $ -}}
{{- $sum = add $sum (mul (trimSuffix $unit . | atoi) $seconds) -}}
{{- end -}}
{{- end -}}
{{- $sum -}}
{{- end -}}

{{/* How long a stop may take: a request that is being answered, and what follows it. */}}
{{- define "kexrelay.grace" -}}
{{- $request := include "kexrelay.seconds" (index .Values.config.kex "request-timeout" | default "30s") | int -}}
{{- $shutdown := include "kexrelay.seconds" (index .Values.config "shutdown-timeout" | default "35s") | int -}}
{{- if le $shutdown $request -}}
{{- fail (printf "config.shutdown-timeout (%ds) must be longer than config.kex.request-timeout (%ds): a stop could cut off a request" $shutdown $request) -}}
{{- end -}}
{{- $least := add $request $shutdown -}}
{{- if kindIs "invalid" .Values.terminationGracePeriodSeconds -}}
{{- add $least 5 -}}
{{- else -}}
{{- $grace := int .Values.terminationGracePeriodSeconds -}}
{{- if le $grace (int $least) -}}
{{- fail (printf "terminationGracePeriodSeconds (%d) must be more than config.kex.request-timeout and config.shutdown-timeout together (%d): what is being sent would be killed" $grace $least) -}}
{{- end -}}
{{- $grace -}}
{{- end -}}
{{- end -}}

{{/* The ports of a list of URLs. */}}
{{- define "kexrelay.ports" -}}
{{- $ports := list -}}
{{- range . -}}
{{- $text := . | trim -}}
{{- if not (contains "://" $text) -}}{{- $text = printf "nats://%s" $text -}}{{- end -}}
{{- $url := urlParse $text -}}
{{- $port := regexFind ":[0-9]+$" $url.host | trimPrefix ":" -}}
{{- if not $port -}}
{{- $port = get (dict "nats" "4222" "tls" "4222" "ws" "80" "wss" "443" "http" "80" "https" "443") $url.scheme -}}
{{- end -}}
{{- $ports = append $ports $port -}}
{{- end -}}
{{- $ports | uniq | sortAlpha | join "," -}}
{{- end -}}

{{- define "kexrelay.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
# Secrets are readable for the group.
fsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "kexrelay.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* Environment, mounts and volumes of a connection to NATS. It gets {auth, tls}. */}}
{{- define "kexrelay.nats.env" -}}
{{- if .auth.creds }}
- name: NATS_CREDS
  value: /run/secrets/nats/creds
{{- end }}
{{- if .auth.nkey }}
- name: NATS_NKEY
  value: /run/secrets/nats/nkey
{{- end }}
{{- with .auth.user }}
- name: NATS_USER
  valueFrom:
    secretKeyRef: {name: {{ .secret | quote }}, key: {{ .userKey | default "user" | quote }}}
- name: NATS_PASSWORD
  valueFrom:
    secretKeyRef: {name: {{ .secret | quote }}, key: {{ .passwordKey | default "password" | quote }}}
{{- end }}
{{- if .tls.client }}
- name: NATS_CERT
  value: /run/secrets/nats-client/tls.crt
- name: NATS_KEY
  value: /run/secrets/nats-client/tls.key
{{- end }}
{{- if .tls.ca }}
- name: NATS_CA
  value: /run/secrets/nats-ca/ca.crt
{{- end }}
{{- end -}}

{{- define "kexrelay.nats.mounts" -}}
{{- if or .auth.creds .auth.nkey }}
- {name: nats, mountPath: /run/secrets/nats, readOnly: true}
{{- end }}
{{- if .tls.client }}
- {name: nats-client, mountPath: /run/secrets/nats-client, readOnly: true}
{{- end }}
{{- if .tls.ca }}
- {name: nats-ca, mountPath: /run/secrets/nats-ca, readOnly: true}
{{- end }}
{{- end -}}

{{- define "kexrelay.nats.volumes" -}}
{{- with .auth.creds }}
- name: nats
  secret:
    secretName: {{ .secret | quote }}
    defaultMode: 0440
    items: [{key: {{ .key | default "creds" | quote }}, path: creds}]
{{- end }}
{{- with .auth.nkey }}
- name: nats
  secret:
    secretName: {{ .secret | quote }}
    defaultMode: 0440
    items: [{key: {{ .key | default "nkey" | quote }}, path: nkey}]
{{- end }}
{{- with .tls.client }}
- name: nats-client
  secret:
    secretName: {{ .secret | quote }}
    defaultMode: 0440
    items:
      - {key: {{ .certKey | default "tls.crt" | quote }}, path: tls.crt}
      - {key: {{ .keyKey | default "tls.key" | quote }}, path: tls.key}
{{- end }}
{{- with .tls.ca }}
{{- include "kexrelay.ca" (dict "name" "nats-ca" "from" .) }}
{{- end }}
{{- end -}}

{{- define "kexrelay.ca" }}
- name: {{ .name }}
  {{- if .from.configMap }}
  configMap:
    name: {{ .from.configMap | quote }}
  {{- else }}
  secret:
    secretName: {{ .from.secret | quote }}
    defaultMode: 0440
  {{- end }}
    items: [{key: {{ .from.key | default "ca.crt" | quote }}, path: ca.crt}]
{{- end }}

{{/* How NACK connects, and that it deletes nothing: an uninstalled chart must not take updates with it. */}}
{{- define "kexrelay.nack.connection" -}}
preventDelete: true
{{- if .topology.nackAccount }}
account: {{ .topology.nackAccount | quote }}
{{- else }}
servers:
{{- range splitList "," .nats.url }}
  - {{ . | trim | quote }}
{{- end }}
{{- end }}
{{- with index .nats "js-domain" }}
jsDomain: {{ . | quote }}
{{- end }}
{{- end -}}

{{/* Bytes of a size like 20GiB; -1 for unlimited. The schema lets no other through. */}}
{{- define "kexrelay.bytes" -}}
{{- if eq . "unlimited" -}}
-1
{{- else -}}
{{- $units := dict "KiB" 1024 "MiB" 1048576 "GiB" 1073741824 "TiB" 1099511627776 -}}
{{- $unit := regexFind "[A-Za-z]+$" . -}}
{{- mul (trimSuffix $unit . | atoi) (get $units $unit) -}}
{{- end -}}
{{- end -}}
