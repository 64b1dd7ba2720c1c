{{/* Labels of every object. */}}
{{- define "clustermesh.labels" -}}
app.kubernetes.io/part-of: isthmus
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Labels by which the apiserver's pods are found; k8s-app is what Cilium's tools look for. Never changed: a Deployment's selector cannot be. */}}
{{- define "clustermesh.apiserver.selector" -}}
app.kubernetes.io/name: clustermesh-apiserver
k8s-app: clustermesh-apiserver
{{- end }}

{{/* The same of the agents. */}}
{{- define "clustermesh.agent.selector" -}}
app.kubernetes.io/name: clustermesh-agent
k8s-app: clustermesh-agent
{{- end }}

{{- define "clustermesh.image" -}}
{{- $image := .Values.image -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ $image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{/* Image, pull policy and what no container of ours needs. */}}
{{- define "clustermesh.container" -}}
image: {{ include "clustermesh.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
terminationMessagePolicy: FallbackToLogsOnError
{{- end }}

{{/* Rights of a container that needs none. */}}
{{- define "clustermesh.restricted" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{/* The user of the apiserver, and of the Jobs. */}}
{{- define "clustermesh.podSecurity" -}}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- end }}

{{/* Name of the apiserver inside the cluster. */}}
{{- define "clustermesh.serviceName" -}}
clustermesh-apiserver.{{ .Release.Namespace }}.svc
{{- end }}

{{/* "true" where the etcd's data has a claim. */}}
{{- define "clustermesh.isPersistent" -}}
{{- $volume := .Values.clustermesh.apiserver.etcd.persistentVolume -}}
{{- $wish := $volume.enabled | toString -}}
{{- if ne .Values.clustermesh.apiserver.kvstore.mode "internal" -}}
{{- else if eq $wish "auto" -}}
{{- if eq .Values.mode "any-cni" -}}
{{- if or $volume.storageClassName $volume.existingClaim (eq (include "clustermesh.hasStorage" .) "true") -}}true{{- end -}}
{{- end -}}
{{- else if eq $wish "true" -}}true
{{- end -}}
{{- end }}

{{/*
"true" unless the cluster is known to have no volume for a claim that names no class: no class is its default, and no claim of ours is
there. Who only renders (`helm template`) cannot ask: then there is one.
*/}}
{{- define "clustermesh.hasStorage" -}}
{{- $isAsked := lookup "v1" "Namespace" "" "kube-system" -}}
{{- $has := not $isAsked -}}
{{- if $isAsked -}}
{{- if lookup "v1" "PersistentVolumeClaim" .Release.Namespace "clustermesh-apiserver-etcd" }}{{ $has = true }}{{ end -}}
{{- range (lookup "storage.k8s.io/v1" "StorageClass" "" "").items -}}
{{- if eq (get (default dict .metadata.annotations) "storageclass.kubernetes.io/is-default-class") "true" }}{{ $has = true }}{{ end -}}
{{- end -}}
{{- end -}}
{{- if $has -}}true{{- end -}}
{{- end }}

{{/* Common name that this cluster shows to peers which Cilium runs. */}}
{{- define "clustermesh.remoteName" -}}
{{- if eq .Values.clustermesh.apiserver.tls.authMode "cluster" -}}
remote-{{ .Values.cluster.name }}
{{- else -}}
remote
{{- end -}}
{{- end }}

{{/* DNS names of the server's certificate, as JSON. */}}
{{- define "clustermesh.serverDnsNames" -}}
{{- $domain := .Values.clustermesh.config.domain -}}
{{- $names := list "clustermesh-apiserver.cilium.io" (printf "*.%s" $domain) (printf "%s.%s" .Values.cluster.name $domain) (include "clustermesh.serviceName" .) "localhost" -}}
{{- concat $names .Values.clustermesh.apiserver.tls.server.extraDnsNames | uniq | toJson -}}
{{- end }}

{{/* Addresses of the server's certificate, as JSON. */}}
{{- define "clustermesh.serverIpAddresses" -}}
{{- $addresses := list "127.0.0.1" "::1" -}}
{{- with .Values.clustermesh.apiserver.service.clusterIP }}{{ if ne . "None" }}{{ $addresses = append $addresses . }}{{ end }}{{ end -}}
{{- concat $addresses .Values.clustermesh.apiserver.tls.server.extraIpAddresses | uniq | toJson -}}
{{- end }}

{{/* Peers that are wanted, by name, as JSON: `enabled` is left out. */}}
{{- define "clustermesh.peers" -}}
{{- $peers := dict -}}
{{- range $name, $peer := .Values.clustermesh.config.clusters -}}
{{- if ne ($peer.enabled | toString) "false" -}}
{{- $_ := set $peers $name (omit $peer "enabled") -}}
{{- end -}}
{{- end -}}
{{- $peers | toJson -}}
{{- end }}
