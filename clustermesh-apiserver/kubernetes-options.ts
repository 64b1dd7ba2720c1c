import {
  choiceParser,
  integerParser,
  parseBoolean,
  parseDuration,
  parseText,
} from '../mesh/runtime/option-parsers.ts';
import { defineOptions } from '../mesh/runtime/options.ts';
import { parseLabelFilter } from './convert/label-filter.ts';

/** Where a cluster's objects come from, as `--mode` says it. */
export const MODES = ['standalone', 'cilium', 'any-cni', 'auto'] as const;

/** Options of an apiserver that has to do with Kubernetes. Where Cilium has a flag for the same it has the same name. */
export const KUBERNETES_OPTIONS = defineOptions({
  mode: {
    flag: '--mode MODE',
    env: 'ISTHMUS_MODE',
    parse: choiceParser(MODES),
    help: "where this cluster's objects come from: standalone (--manifests), cilium (an API server, Cilium runs the cluster), any-cni (an API server, our agents run on its nodes), auto (an API server, cilium if it has Cilium's CustomResourceDefinitions, else any-cni). Without it: standalone if --manifests is given, else auto",
  },
  kubeconfig: {
    flag: '--kubeconfig FILE',
    env: 'ISTHMUS_KUBECONFIG',
    parse: parseText,
    help: 'kubeconfig of the API server; without it the service account of our own pod. It is read again when it changes, and so are the files it names',
  },
  kubernetesContext: {
    flag: '--kubernetes-context NAME',
    env: 'ISTHMUS_KUBERNETES_CONTEXT',
    parse: parseText,
    help: 'context of the kubeconfig; without it the current one',
  },
  labels: {
    flag: '--labels LIST',
    env: 'ISTHMUS_LABELS',
    parse: parseLabelFilter,
    help: "which labels of pods are part of their identities, as Cilium's --labels: [source:][!]expression, separated by spaces or commas, added to Cilium's defaults",
  },
  clustermeshDefaultGlobalNamespace: {
    flag: '--clustermesh-default-global-namespace',
    env: 'ISTHMUS_CLUSTERMESH_DEFAULT_GLOBAL_NAMESPACE',
    default: 'true',
    parse: parseBoolean,
    switch: true,
    help: 'whether namespaces are known to the mesh that have no annotation clustermesh.cilium.io/global',
  },
  clustermeshEnableEndpointSync: {
    flag: '--clustermesh-enable-endpoint-sync',
    env: 'ISTHMUS_CLUSTERMESH_ENABLE_ENDPOINT_SYNC',
    default: 'false',
    parse: parseBoolean,
    switch: true,
    help: "write peers' backends of global Services as EndpointSlices, for what reads those; needs --clustermesh-config. With Cilium its operator does it",
  },
  clustermeshEndpointUpdatesBatchPeriod: {
    flag: '--clustermesh-endpoint-updates-batch-period DURATION',
    env: 'ISTHMUS_CLUSTERMESH_ENDPOINT_UPDATES_BATCH_PERIOD',
    default: '500ms',
    parse: parseDuration,
    help: 'changes of backends within this time are written together',
  },
  clustermeshEndpointsPerSlice: {
    flag: '--clustermesh-endpoints-per-slice NUMBER',
    env: 'ISTHMUS_CLUSTERMESH_ENDPOINTS_PER_SLICE',
    default: '100',
    parse: integerParser(1, 1000),
    help: 'endpoints in an EndpointSlice that is written',
  },
  clustermeshConcurrentServiceEndpointSyncs: {
    flag: '--clustermesh-concurrent-service-endpoint-syncs NUMBER',
    env: 'ISTHMUS_CLUSTERMESH_CONCURRENT_SERVICE_ENDPOINT_SYNCS',
    default: '5',
    parse: integerParser(1, 100),
    help: 'Services whose EndpointSlices are written at a time',
  },
  clustermeshEnableMcsApi: {
    flag: '--clustermesh-enable-mcs-api',
    env: 'ISTHMUS_CLUSTERMESH_ENABLE_MCS_API',
    default: 'false',
    parse: parseBoolean,
    switch: true,
    help: 'publish ServiceExports of the Multi-Cluster Services API, and in mode any-cni make the imports of what peers export; that needs --clustermesh-config',
  },
  clustermeshMcsApiInstallCrds: {
    flag: '--clustermesh-mcs-api-install-crds',
    env: 'ISTHMUS_CLUSTERMESH_MCS_API_INSTALL_CRDS',
    default: 'true',
    parse: parseBoolean,
    switch: true,
    help: 'install the CustomResourceDefinitions of the Multi-Cluster Services API where they are missing or older',
  },
  clustermeshMcsApiEndpointSlices: {
    flag: '--clustermesh-mcs-api-endpoint-slices WHICH',
    env: 'ISTHMUS_CLUSTERMESH_MCS_API_ENDPOINT_SLICES',
    default: 'headless',
    parse: choiceParser(['headless', 'all']),
    help: "imports for which peers' backends are written as EndpointSlices: headless ones, as Cilium does, or all",
  },
  enablePolicyStatus: {
    flag: '--enable-policy-status',
    env: 'ISTHMUS_ENABLE_POLICY_STATUS',
    default: 'false',
    parse: parseBoolean,
    switch: true,
    help: 'in mode any-cni: write onto CiliumNetworkPolicies and CiliumClusterwideNetworkPolicies how they stand on the nodes, and Events about NetworkPolicies that are not enforced as written. With Cilium its operator does it',
  },
  enableMeshMachines: {
    flag: '--enable-mesh-machines',
    env: 'ISTHMUS_ENABLE_MESH_MACHINES',
    default: 'false',
    parse: parseBoolean,
    switch: true,
    help: 'in mode any-cni: show machines as objects of the kind MeshMachine, and do what is done to these: labels, removal',
  },
  meshMachinesInstallCrds: {
    flag: '--mesh-machines-install-crds',
    env: 'ISTHMUS_MESH_MACHINES_INSTALL_CRDS',
    default: 'true',
    parse: parseBoolean,
    switch: true,
    help: 'install the CustomResourceDefinition of MeshMachine where it is missing or older',
  },
  leaseNamespace: {
    flag: '--lease-namespace NAMESPACE',
    env: 'ISTHMUS_LEASE_NAMESPACE',
    parse: parseText,
    help: "namespace of the Lease by which replicas choose who writes to Kubernetes; without it our pod's own, or the context's",
  },
  leaderElectionLeaseDuration: {
    flag: '--leader-election-lease-duration DURATION',
    env: 'ISTHMUS_LEADER_ELECTION_LEASE_DURATION',
    default: '15s',
    parse: parseDuration,
    help: 'how long others wait for a leader that is silent',
  },
  leaderElectionRenewDeadline: {
    flag: '--leader-election-renew-deadline DURATION',
    env: 'ISTHMUS_LEADER_ELECTION_RENEW_DEADLINE',
    default: '10s',
    parse: parseDuration,
    help: 'how long a leader writes that cannot renew its Lease; less than the lease duration',
  },
  leaderElectionRetryPeriod: {
    flag: '--leader-election-retry-period DURATION',
    env: 'ISTHMUS_LEADER_ELECTION_RETRY_PERIOD',
    default: '2s',
    parse: parseDuration,
    help: 'between attempts to lead, and renewals',
  },
});
