/** Names that the Multi-Cluster Services API gives to labels and annotations, and those that Cilium adds. */

/** Label: name of the multi-cluster service that an EndpointSlice or derived Service belongs to. */
export const MCS_SERVICE_NAME_LABEL = 'multicluster.kubernetes.io/service-name';
/** Label: cluster that an EndpointSlice's endpoints are of. */
export const SOURCE_CLUSTER_LABEL = 'multicluster.kubernetes.io/source-cluster';
/** Annotation of a ServiceImport: name of its derived Service. */
export const DERIVED_SERVICE_ANNOTATION = 'multicluster.kubernetes.io/derived-service';
/** Annotation of imports and derived Services: families that are usable here, as `IPv4,IPv6`; Cilium's agents read it. */
export const SUPPORTED_IP_FAMILIES_ANNOTATION = 'clustermesh.cilium.io/supported-ip-families';
/** Annotation: the Service is merged with those of the same name elsewhere. */
export const GLOBAL_SERVICE_ANNOTATION = 'service.cilium.io/global';
/** Annotation: whether peers' backends are written as EndpointSlices too. */
export const SYNC_SLICES_ANNOTATION = 'service.cilium.io/global-sync-endpoint-slices';
/** Label: Service that an EndpointSlice belongs to. */
export const SERVICE_NAME_LABEL = 'kubernetes.io/service-name';
/** Label: who writes an EndpointSlice. */
export const MANAGED_BY_LABEL = 'endpointslice.kubernetes.io/managed-by';
/** Value of `managed-by` of slices that mirror those of an exported Service; Cilium's own, so that its parts know them. */
export const LOCAL_MIRROR_MANAGER = 'endpointslice-local-mcsapi-controller.cilium.io';
/** Values of `managed-by` of slices that hold peers' backends. */
export const MESH_SLICE_MANAGERS: readonly string[] = [
  'endpointslice-mesh-controller.cilium.io',
  'endpointslice-mesh-controller.isthmus.io',
];
/** Label of a mirrored slice: the slice it mirrors. */
export const LOCAL_SLICE_LABEL = 'service.cilium.io/local-endpointslice';
/** Group of the API. */
export const MCS_GROUP = 'multicluster.x-k8s.io';
