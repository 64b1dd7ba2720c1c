{{/* The pod of the Job and of the CronJob that make certificates. */}}
{{- define "clustermesh.pki.pod" }}
{{- $auto := .Values.clustermesh.apiserver.tls.auto }}
metadata:
  labels:
    {{- include "clustermesh.labels" . | nindent 4 }}
    app.kubernetes.io/name: clustermesh-pki
spec:
  serviceAccountName: clustermesh-pki
  restartPolicy: OnFailure
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets: {{ toJson . }}
  {{- end }}
  {{- include "clustermesh.podSecurity" . | nindent 2 }}
  containers:
    - name: pki
      {{- include "clustermesh.container" . | nindent 6 }}
      command: [clustermesh]
      args:
        - pki
        - kubernetes
        - --namespace={{ .Release.Namespace }}
        - --cluster-name={{ .Values.cluster.name }}
        - --ca-secret={{ .Values.tls.ca.secretName }}
        - --validity-days={{ $auto.certValidityDuration }}
        {{- if eq $auto.method "cronJob" }}
        - --ca-validity-days={{ .Values.tls.ca.certValidityDuration }}
        - --remote-name={{ include "clustermesh.remoteName" . }}
        {{- range include "clustermesh.serverDnsNames" . | fromJsonArray }}
        - {{ printf "--dns=%s" . | quote }}
        {{- end }}
        {{- range include "clustermesh.serverIpAddresses" . | fromJsonArray }}
        - --ip={{ . }}
        {{- end }}
        {{- else }}
        - --only=enrollment
        {{- end }}
      {{- include "clustermesh.restricted" . | nindent 6 }}
      resources:
        requests: {cpu: 10m, memory: 64Mi}
      volumeMounts:
        - {name: tmp, mountPath: /tmp}
  volumes:
    - name: tmp
      emptyDir: {}
  {{- with .Values.clustermesh.apiserver.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.clustermesh.apiserver.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
