{{/*
The authority of method helm, once for all templates: of the values, else of the Secret that is there, else a new one. Sets
.clustermeshCa, and .clustermeshCaIsOurs: whether the Secret belongs to this release.
*/}}
{{- define "clustermesh.ca.setup" -}}
{{- include "clustermesh.validate" . -}}
{{- if not (hasKey . "clustermeshCa") -}}
{{- $wish := .Values.tls.ca -}}
{{- $secret := lookup "v1" "Secret" .Release.Namespace $wish.secretName -}}
{{- $owner := get (dig "metadata" "annotations" dict ($secret | default dict)) "meta.helm.sh/release-name" -}}
{{- $isOurs := or (not $secret) (eq $owner .Release.Name) -}}
{{- $_ := set . "clustermeshCaIsOurs" $isOurs -}}
{{- if and $wish.cert $isOurs -}}
{{- $_ := set . "clustermeshCa" (buildCustomCert $wish.cert $wish.key) -}}
{{- else if $secret -}}
{{- if not (and (get $secret.data "ca.crt") (get $secret.data "ca.key")) -}}
{{- fail (printf "\n\nThe Secret %s lacks ca.crt or ca.key: the authority of this cluster is kept there. Give another name by tls.ca.secretName, or use clustermesh.apiserver.tls.auto.method certmanager" $wish.secretName) -}}
{{- end -}}
{{- $_ := set . "clustermeshCa" (buildCustomCert (get $secret.data "ca.crt") (get $secret.data "ca.key")) -}}
{{- else -}}
{{- $_ := set . "clustermeshCa" (genCA "Cilium CA" (int $wish.certValidityDuration)) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/*
A Secret with a certificate of method helm. Arguments: the context, name, commonName, dnsNames, ipAddresses. What is there is kept
while the authority and all names are the same and a third of its life is left.
*/}}
{{- define "clustermesh.tls.secret" -}}
{{- $context := .context -}}
{{- include "clustermesh.ca.setup" $context -}}
{{- $ca := $context.clustermeshCa -}}
{{- $days := int $context.Values.clustermesh.apiserver.tls.auto.certValidityDuration -}}
{{- $made := toJson (list .commonName .dnsNames .ipAddresses ($ca.Cert | sha256sum)) | sha256sum -}}
{{- $now := now | unixEpoch | int64 -}}
{{- $notAfter := add $now (mul $days 86400) -}}
{{- $old := lookup "v1" "Secret" $context.Release.Namespace .name | default dict -}}
{{- $notes := dig "metadata" "annotations" dict $old -}}
{{- $crt := "" -}}
{{- $key := "" -}}
{{- $end := get $notes "isthmus.io/not-after" | default "0" | int64 -}}
{{- if and (eq (get $notes "isthmus.io/made-of") $made) (gt $end (add $now (div (mul $days 86400) 3) | int64)) -}}
{{- $crt = get $old.data "tls.crt" -}}
{{- $key = get $old.data "tls.key" -}}
{{- $notAfter = $end -}}
{{- else -}}
{{- $certificate := genSignedCert .commonName .ipAddresses .dnsNames $days $ca -}}
{{- $crt = b64enc $certificate.Cert -}}
{{- $key = b64enc $certificate.Key -}}
{{- end -}}
apiVersion: v1
kind: Secret
metadata:
  name: {{ .name }}
  namespace: {{ $context.Release.Namespace }}
  labels:
    {{- include "clustermesh.labels" $context | nindent 4 }}
  annotations:
    isthmus.io/made-of: {{ $made | quote }}
    isthmus.io/not-after: {{ $notAfter | toString | quote }}
type: kubernetes.io/tls
data:
  ca.crt: {{ b64enc $ca.Cert }}
  tls.crt: {{ $crt }}
  tls.key: {{ $key }}
{{- end }}
