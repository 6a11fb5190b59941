{{/* SPDX-License-Identifier: Apache-2.0 */}}

{{- define "sluice.labels" -}}
app.kubernetes.io/name: sluice
app.kubernetes.io/component: {{ . }}
{{- end }}

{{- define "sluice.image" -}}
image: {{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- end }}

{{/* Flags of both, the agent and the controller. */}}
{{- define "sluice.flags" -}}
{{- range .Values.loadBalancerClasses }}
- --load-balancer-class={{ . }}
{{- end }}
{{- range .Values.networkAnnotations }}
- --network-annotation={{ . }}
{{- end }}
{{- with .Values.logLevel }}
- --log-level={{ . }}
{{- end }}
{{- with .Values.logFormat }}
- --log-format={{ . }}
{{- end }}
{{- end }}

{{/* The directory of the host that the plugin is installed into or below. */}}
{{- define "sluice.cniMount" -}}
{{- if .Values.cni.containerdConfig -}}
{{- required "cni.containerdConfig needs cni.hostDir, a directory that holds it and the CNI directory" .Values.cni.hostDir -}}
{{- else -}}
{{- .Values.cni.binDir -}}
{{- end -}}
{{- end }}

{{/* Leases, roles and policies name this namespace, and so do the programs. */}}
{{- define "sluice.namespace" -}}
{{- if ne .Release.Namespace "sluice-system" -}}
{{- fail (printf "namespace %q: Sluice works in the namespace sluice-system: install with --namespace sluice-system" .Release.Namespace) -}}
{{- end -}}
sluice-system
{{- end }}
