{{/* "true" for what can be the name of a cluster. */}}
{{- define "clustermesh.isClusterName" -}}
{{- if regexMatch "^[a-z0-9]([-a-z0-9]{0,30}[a-z0-9])?$" . -}}true{{- end -}}
{{- end }}

{{/* Refuses what cannot work, in words, before anything is changed. It renders nothing. */}}
{{- define "clustermesh.validate" -}}
{{- $values := .Values -}}
{{- $mesh := .Values.clustermesh -}}
{{- $problems := list -}}

{{- if not (has $values.mode (list "any-cni" "cilium")) -}}
{{- $problems = append $problems (printf "mode is %q: set mode=any-cni where any CNI but Cilium runs the pod network (our agents then run on the nodes), or mode=cilium where Cilium does" $values.mode) -}}
{{- end -}}

{{- if eq $values.cluster.name "" -}}
{{- $problems = append $problems "cluster.name is missing: name this cluster, as no other in the mesh is named" -}}
{{- else if not (include "clustermesh.isClusterName" $values.cluster.name) -}}
{{- $problems = append $problems (printf "cluster.name is %q: expected 1 to 32 of a-z, 0-9 and \"-\", without \"-\" at either end" $values.cluster.name) -}}
{{- end -}}

{{- if and (eq $values.mode "any-cni") (eq .Release.Name "cilium") -}}
{{- $problems = append $problems "the release is named \"cilium\": Cilium's command line looks for its own release by that name, and `cilium clustermesh connect` in another cluster would change that cluster before it is refused here. Give this one another name, such as clustermesh" -}}
{{- end -}}

{{- $id := int $values.cluster.id -}}
{{- $max := int $mesh.maxConnectedClusters -}}
{{- if not (has $max (list 255 511)) -}}
{{- $problems = append $problems (printf "clustermesh.maxConnectedClusters is %d: expected 255 or 511, the same in every cluster" $max) -}}
{{- else if eq $id 0 -}}
{{- $problems = append $problems (printf "cluster.id is missing: give this cluster a number from 1 to %d that no other in the mesh has" $max) -}}
{{- else if or (lt $id 1) (gt $id 511) -}}
{{- $problems = append $problems (printf "cluster.id is %d: expected 1 to %d" $id $max) -}}
{{- else if gt $id $max -}}
{{- $problems = append $problems (printf "cluster.id is %d and clustermesh.maxConnectedClusters 255: an id above 255 needs maxConnectedClusters=511, in every cluster of the mesh" $id) -}}
{{- end -}}

{{- $server := $mesh.apiserver -}}
{{- if and (eq $server.kvstore.mode "external") (not $server.kvstore.endpoints) -}}
{{- $problems = append $problems "clustermesh.apiserver.kvstore.endpoints is empty: kvstore.mode=external needs the URLs of an etcd" -}}
{{- end -}}
{{- if and (eq $server.kvstore.mode "internal") $server.kvstore.endpoints -}}
{{- $problems = append $problems "clustermesh.apiserver.kvstore.endpoints is set, and kvstore.mode is internal: set kvstore.mode=external to use them, or leave them out" -}}
{{- end -}}
{{- if and (gt (int $server.replicas) 1) (eq $server.kvstore.mode "internal") -}}
{{- if eq $values.mode "any-cni" -}}
{{- $problems = append $problems (printf "clustermesh.apiserver.replicas is %d with an etcd each: in mode any-cni identities, machines and tokens are kept in etcd, and two of them would give the same labels other numbers. Let replicas share one etcd (kvstore.mode=external), or run one replica" (int $server.replicas)) -}}
{{- else if eq (include "clustermesh.isPersistent" .) "true" -}}
{{- $problems = append $problems (printf "clustermesh.apiserver.replicas is %d, and etcd.persistentVolume is one claim: set etcd.persistentVolume.enabled=false, since in mode cilium everything in etcd comes from Kubernetes" (int $server.replicas)) -}}
{{- end -}}
{{- end -}}

{{- if and (or $mesh.networks.pods $mesh.networks.nodes $mesh.networks.services $mesh.networks.machines) (not (and $mesh.networks.pods $mesh.networks.nodes)) -}}
{{- $problems = append $problems "clustermesh.networks: pods and nodes are given together, or none of the networks: peers take from this list what is on it, and nothing else" -}}
{{- end -}}
{{- if and (eq $server.tls.auto.method "certmanager") (not $server.tls.auto.certManagerIssuerRef) -}}
{{- $problems = append $problems "clustermesh.apiserver.tls.auto.certManagerIssuerRef is empty: method certmanager needs an issuer, such as {group: cert-manager.io, kind: ClusterIssuer, name: mesh-ca}" -}}
{{- end -}}
{{- if ne (empty $values.tls.ca.cert) (empty $values.tls.ca.key) -}}
{{- $problems = append $problems "tls.ca.cert and tls.ca.key belong together: give both, or neither" -}}
{{- end -}}

{{- if and (eq $values.mode "cilium") $values.agent.kubeProxyReplacement -}}
{{- $problems = append $problems "agent.kubeProxyReplacement is on, and mode is cilium: no agent runs there, Cilium's own one does this" -}}
{{- end -}}
{{- if and (eq $values.mode "cilium") $values.agent.cleanup -}}
{{- $problems = append $problems "agent.cleanup is on, and mode is cilium: no agent runs there" -}}
{{- end -}}
{{- if and (eq $values.mode "cilium") $mesh.enableEndpointSliceSynchronization -}}
{{- $problems = append $problems "clustermesh.enableEndpointSliceSynchronization is on, and mode is cilium: Cilium's operator does it, set the value in Cilium's own chart" -}}
{{- end -}}
{{- if and (eq $values.mode "cilium") $mesh.enablePolicyStatus -}}
{{- $problems = append $problems "clustermesh.enablePolicyStatus is on, and mode is cilium: Cilium's operator does it" -}}
{{- end -}}
{{- if and (eq $values.mode "cilium") $mesh.meshMachines.enabled -}}
{{- $problems = append $problems "clustermesh.meshMachines.enabled is on, and mode is cilium: machines cannot join a cluster that Cilium runs" -}}
{{- end -}}
{{- if and $values.agent.kubeProxyReplacement (eq $values.agent.services "global") -}}
{{- $problems = append $problems "agent.services=global leaves Services to kube-proxy, and agent.kubeProxyReplacement takes all of them: give one of them" -}}
{{- end -}}

{{- $names := dict -}}
{{- range $name, $peer := $mesh.config.clusters -}}
{{- $at := printf "clustermesh.config.clusters.%s" $name -}}
{{- if ne ($peer.enabled | toString) "false" -}}
{{- if not (include "clustermesh.isClusterName" $name) -}}
{{- $problems = append $problems (printf "%s: the name of a cluster is 1 to 32 of a-z, 0-9 and \"-\", without \"-\" at either end" $at) -}}
{{- end -}}
{{- if eq $name $values.cluster.name -}}
{{- $problems = append $problems (printf "%s: this cluster has that name; a cluster is no peer of itself. The same list of clusters for all of them works with enabled=false here" $at) -}}
{{- end -}}
{{- $peerId := int $peer.clusterId -}}
{{- if eq $peerId 0 -}}
{{- $problems = append $problems (printf "%s.clusterId is missing: `clustermesh peer export` on the peer's side prints what belongs here" $at) -}}
{{- else if eq $peerId $id -}}
{{- $problems = append $problems (printf "%s.clusterId is %d, which is this cluster's own: each cluster of a mesh has another one" $at $peerId) -}}
{{- else if gt $peerId $max -}}
{{- $problems = append $problems (printf "%s.clusterId is %d, and clustermesh.maxConnectedClusters %d" $at $peerId $max) -}}
{{- else if hasKey $names ($peerId | toString) -}}
{{- $problems = append $problems (printf "%s.clusterId is %d, and so is that of %s" $at $peerId (get $names ($peerId | toString))) -}}
{{- end -}}
{{- $_ := set $names ($peerId | toString) $name -}}
{{- with $peer.maxConnectedClusters -}}
{{- if ne (int .) $max -}}
{{- $problems = append $problems (printf "%s.maxConnectedClusters is %d, and here it is %d: it is the same in every cluster of a mesh" $at (int .) $max) -}}
{{- end -}}
{{- end -}}
{{- if not $peer.endpoints -}}
{{- $problems = append $problems (printf "%s.endpoints is missing: where the peer is read, such as [https://%s.%s:2379]" $at $name $mesh.config.domain) -}}
{{- end -}}
{{- if not $peer.ca -}}
{{- $problems = append $problems (printf "%s.ca is missing: the peer's authority as PEM" $at) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* Of clusters that can be asked: `helm template` sees none of this. */ -}}
{{- if and (eq $values.mode "cilium") (not $mesh.takeOver) -}}
{{- $release := .Release.Name -}}
{{- $namespace := .Release.Namespace -}}
{{- range (lookup "apps/v1" "Deployment" "" "").items -}}
{{- if eq .metadata.name "clustermesh-apiserver" -}}
{{- $owner := get (default dict .metadata.annotations) "meta.helm.sh/release-name" -}}
{{- $ownerNamespace := get (default dict .metadata.annotations) "meta.helm.sh/release-namespace" -}}
{{- if or (ne $owner $release) (ne $ownerNamespace $namespace) -}}
{{- $problems = append $problems (printf "a Deployment clustermesh-apiserver is in namespace %s already, of %s: two of them would publish this cluster. Disable that one first (with Cilium's chart: clustermesh.useAPIServer=false), or say clustermesh.takeOver=true" .metadata.namespace (ternary "no Helm release" (printf "Helm release %s" $owner) (eq $owner ""))) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- if $problems -}}
{{- fail (printf "\n\nThese values cannot work:\n  - %s\n" (join "\n  - " $problems)) -}}
{{- end -}}
{{- end }}
