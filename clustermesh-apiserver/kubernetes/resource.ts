/** Kinds of objects of a Kubernetes API server, and where they are found. */

/** A kind of object. */
export interface KubernetesResource {
  /** API group; empty for the core group. */
  readonly group: string;
  /** API version within the group: `v1`, `v2alpha1`. */
  readonly version: string;
  /** Name in paths and in RBAC rules: `endpointslices`. */
  readonly plural: string;
  /** Name in objects: `EndpointSlice`. */
  readonly kind: string;
  /** Whether its objects live in namespaces. */
  readonly namespaced: boolean;
}

/** Path of a resource, of one object, or of a part of it. Without `namespace` a namespaced resource means all namespaces. */
export function resourcePath(
  resource: KubernetesResource,
  options: {
    readonly namespace?: string | undefined;
    readonly name?: string | undefined;
    readonly subresource?: string | undefined;
  } = {},
): string {
  const { group, version, plural, namespaced } = resource;
  const parts = group === '' ? ['api', version] : ['apis', group, version];
  if (namespaced && options.namespace !== undefined) parts.push('namespaces', options.namespace);
  parts.push(plural);
  if (options.name !== undefined) parts.push(options.name);
  if (options.subresource !== undefined) parts.push(options.subresource);
  return `/${parts.map(encodeURIComponent).join('/')}`;
}

/** Name of a resource as RBAC rules and CustomResourceDefinitions have it: `endpointslices.discovery.k8s.io`, `pods`. */
export function resourceName({ group, plural }: KubernetesResource): string {
  return group === '' ? plural : `${plural}.${group}`;
}

/** `apiVersion` of a resource's objects: `v1`, `discovery.k8s.io/v1`. */
export function apiVersionOf({ group, version }: KubernetesResource): string {
  return group === '' ? version : `${group}/${version}`;
}

const core = (plural: string, kind: string, namespaced: boolean): KubernetesResource => ({
  group: '',
  version: 'v1',
  plural,
  kind,
  namespaced,
});
const cilium = (plural: string, kind: string, namespaced: boolean): KubernetesResource => ({
  group: 'cilium.io',
  version: 'v2',
  plural,
  kind,
  namespaced,
});

/** Kinds that Isthmus reads or writes. */
export const RESOURCES = {
  nodes: core('nodes', 'Node', false),
  pods: core('pods', 'Pod', true),
  namespaces: core('namespaces', 'Namespace', false),
  services: core('services', 'Service', true),
  serviceAccounts: core('serviceaccounts', 'ServiceAccount', true),
  configMaps: core('configmaps', 'ConfigMap', true),
  secrets: core('secrets', 'Secret', true),
  endpointSlices: {
    group: 'discovery.k8s.io',
    version: 'v1',
    plural: 'endpointslices',
    kind: 'EndpointSlice',
    namespaced: true,
  },
  networkPolicies: {
    group: 'networking.k8s.io',
    version: 'v1',
    plural: 'networkpolicies',
    kind: 'NetworkPolicy',
    namespaced: true,
  },
  ciliumNodes: cilium('ciliumnodes', 'CiliumNode', false),
  ciliumIdentities: cilium('ciliumidentities', 'CiliumIdentity', false),
  ciliumEndpoints: cilium('ciliumendpoints', 'CiliumEndpoint', true),
  ciliumEndpointSlices: {
    ...cilium('ciliumendpointslices', 'CiliumEndpointSlice', false),
    version: 'v2alpha1',
  },
  ciliumNetworkPolicies: cilium('ciliumnetworkpolicies', 'CiliumNetworkPolicy', true),
  ciliumClusterwideNetworkPolicies: cilium(
    'ciliumclusterwidenetworkpolicies',
    'CiliumClusterwideNetworkPolicy',
    false,
  ),
  ciliumCidrGroups: cilium('ciliumcidrgroups', 'CiliumCIDRGroup', false),
  serviceExports: {
    group: 'multicluster.x-k8s.io',
    version: 'v1alpha1',
    plural: 'serviceexports',
    kind: 'ServiceExport',
    namespaced: true,
  },
  serviceImports: {
    group: 'multicluster.x-k8s.io',
    version: 'v1alpha1',
    plural: 'serviceimports',
    kind: 'ServiceImport',
    namespaced: true,
  },
  meshMachines: {
    group: 'isthmus.io',
    version: 'v1alpha1',
    plural: 'meshmachines',
    kind: 'MeshMachine',
    namespaced: true,
  },
  meshPeers: {
    group: 'isthmus.io',
    version: 'v1alpha1',
    plural: 'meshpeers',
    kind: 'MeshPeer',
    namespaced: false,
  },
  leases: {
    group: 'coordination.k8s.io',
    version: 'v1',
    plural: 'leases',
    kind: 'Lease',
    namespaced: true,
  },
  events: {
    group: 'events.k8s.io',
    version: 'v1',
    plural: 'events',
    kind: 'Event',
    namespaced: true,
  },
  tokenReviews: {
    group: 'authentication.k8s.io',
    version: 'v1',
    plural: 'tokenreviews',
    kind: 'TokenReview',
    namespaced: false,
  },
  customResourceDefinitions: {
    group: 'apiextensions.k8s.io',
    version: 'v1',
    plural: 'customresourcedefinitions',
    kind: 'CustomResourceDefinition',
    namespaced: false,
  },
} as const satisfies Readonly<Record<string, KubernetesResource>>;
