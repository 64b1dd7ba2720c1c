/** Cilium's key layout in etcd (`pkg/kvstore`, `pkg/clustermesh/{store,types}`), and our own keys beside it. */
import type { ClusterName, NumericIdentity } from './ids.ts';
import { type IpAddress, type IpPrefix, splitPrefix } from './ip.ts';

/** Rewritten by the publisher once a minute; a sign of its life. */
export const HEARTBEAT_KEY = 'cilium/.heartbeat';
/** Configurations of clusters by name. */
export const CLUSTER_CONFIG_PREFIX = 'cilium/cluster-config/';
/** Markers of all clusters: the cluster, then the prefix that has been written. */
export const SYNCED_PREFIX = 'cilium/synced/';
/** What is for the own cluster's agents alone: no peer may read it. */
const LOCAL_PREFIX = 'isthmus/local/';
/** Every Service of the own cluster, for its own agents alone. */
export const LOCAL_SERVICES_PREFIX = 'isthmus/local/services/';
/** Every policy of the own cluster, for its own agents alone. */
export const LOCAL_POLICIES_PREFIX = 'isthmus/local/policies/';
/** Addresses of the own cluster that only its own agents may know: those of namespaces that are not global. */
export const LOCAL_IPS_PREFIX = 'isthmus/local/ip/';
/** Identities of the own cluster that only its own agents may know, by number. */
export const LOCAL_IDENTITIES_PREFIX = 'isthmus/local/identities/';
/** Digests of what is for the own agents alone: a peer is not even told how much there is of it. */
export const LOCAL_DIGEST_PREFIX = 'isthmus/local/digest/';
/** What peers may use beyond Cilium's format. */
export const MESH_PREFIX = 'isthmus/mesh/';
/** Digests of what was published, each under the prefix that it is of. */
export const MESH_DIGEST_PREFIX = `${MESH_PREFIX}digest/`;
/** Rewritten by the publisher while there are changes, so that readers can tell how late they see them. */
export const MESH_STAMP_KEY = `${MESH_PREFIX}stamp`;
/** What a mirror says of the peers that it mirrors, by name. */
export const MESH_PEER_PREFIX = `${MESH_PREFIX}peer/`;
/** What has no other source than this etcd; for the apiserver alone. */
export const REGISTRY_PREFIX = 'isthmus/registry/';

/** Kinds that a cluster publishes under a prefix with a synced marker. */
export type PublishedKind =
  | 'nodes'
  | 'ips'
  | 'identities'
  | 'services'
  | 'serviceexports'
  | 'endpointslices';

/** Name of a kind inside keys. */
const KIND_SEGMENT: Readonly<Record<PublishedKind, string>> = {
  nodes: 'nodes',
  ips: 'ip',
  identities: 'identities',
  services: 'services',
  serviceexports: 'serviceexports',
  endpointslices: 'endpointslices',
};

/** `cached` selects the layout of a mirror (`cilium/cache`, where every key names its cluster) instead of the source's. */
export interface LayoutOptions {
  readonly cached?: boolean;
}

/** Prefix of a kind as synced markers name it: without the cluster, without a trailing slash. */
export function canaryPrefix(kind: PublishedKind, options: LayoutOptions = {}): string {
  return `cilium/${options.cached ? 'cache' : 'state'}/${KIND_SEGMENT[kind]}/v1`;
}

/** Marker prefixes of the kinds in a source's own layout. */
export const CANARY_PREFIXES: Readonly<Record<PublishedKind, string>> = {
  nodes: canaryPrefix('nodes'),
  ips: canaryPrefix('ips'),
  identities: canaryPrefix('identities'),
  services: canaryPrefix('services'),
  serviceexports: canaryPrefix('serviceexports'),
  endpointslices: canaryPrefix('endpointslices'),
};

/** Nodes of a cluster, to be watched. */
export function nodesPrefix(cluster: ClusterName, options: LayoutOptions = {}): string {
  return `${canaryPrefix('nodes', options)}/${cluster}/`;
}

/** Addresses of a cluster. A source keeps them under the literal `default`, a mirror under the cluster's name. */
export function ipsPrefix(cluster: ClusterName, options: LayoutOptions = {}): string {
  return `${canaryPrefix('ips', options)}/${options.cached ? cluster : 'default'}/`;
}

/** Identities of a cluster, numbers only (`value/` is a reference count of Cilium's own). */
export function identitiesPrefix(cluster: ClusterName, options: LayoutOptions = {}): string {
  return `${canaryPrefix('identities', options)}/${options.cached ? `${cluster}/` : ''}id/`;
}

/** Global services of a cluster, to be watched. */
export function servicesPrefix(cluster: ClusterName, options: LayoutOptions = {}): string {
  return `${canaryPrefix('services', options)}/${cluster}/`;
}

/** Services that a cluster exports by the Multi-Cluster Services API. */
export function serviceExportsPrefix(cluster: ClusterName, options: LayoutOptions = {}): string {
  return `${canaryPrefix('serviceexports', options)}/${cluster}/`;
}

/** Markers of a cluster, to be watched. */
export function syncedPrefix(cluster: ClusterName): string {
  return `${SYNCED_PREFIX}${cluster}/`;
}

/** Key of a node at its source. */
export function nodeKey(cluster: ClusterName, name: string): string {
  return nodesPrefix(cluster) + name;
}

/** Key of an address, or of a prefix that is shorter than an address. */
export function ipKey(ip: IpAddress | IpPrefix): string {
  return `${CANARY_PREFIXES.ips}/default/${ip}`;
}

/** Key of an identity's labels at its source. */
export function identityKey(id: NumericIdentity): string {
  return `${CANARY_PREFIXES.identities}/id/${id}`;
}

/** Key of an address that only the own agents may know. Its value has the form of any other address. */
export function localIpKey(ip: IpAddress | IpPrefix): string {
  return LOCAL_IPS_PREFIX + ip;
}

/** Key of the labels of an identity that only the own agents may know. Its value has the form of any other identity. */
export function localIdentityKey(id: NumericIdentity): string {
  return LOCAL_IDENTITIES_PREFIX + String(id);
}

/** Key of a global service at its source. */
export function serviceKey(cluster: ClusterName, namespace: string, name: string): string {
  return `${servicesPrefix(cluster)}${namespace}/${name}`;
}

/** Key of an exported Service at its source. */
export function serviceExportKey(cluster: ClusterName, namespace: string, name: string): string {
  return `${serviceExportsPrefix(cluster)}${namespace}/${name}`;
}

/** Key of a cluster's configuration, the same at its source and in a mirror. */
export function clusterConfigKey(cluster: ClusterName): string {
  return CLUSTER_CONFIG_PREFIX + cluster;
}

/** Key of the marker which says that all of `prefix` has been written, for instance `cilium/state/nodes/v1`. */
export function syncedKey(cluster: ClusterName, prefix: string): string {
  return syncedPrefix(cluster) + prefix;
}

/** Key of a Service for the own cluster's agents. */
export function localServiceKey(namespace: string, name: string): string {
  return `${LOCAL_SERVICES_PREFIX}${namespace}/${name}`;
}

/** A policy without a namespace is kept under `_`, which no namespace can be called. */
export function localPolicyKey(kind: string, namespace: string, name: string): string {
  return `${LOCAL_POLICIES_PREFIX}${kind}/${namespace === '' ? '_' : namespace}/${name}`;
}

/** Key of the digest of what was published under a prefix, which may be given with its trailing slash or without. */
export function meshDigestKey(prefix: string): string {
  const name = prefix.endsWith('/') ? prefix.slice(0, -1) : prefix;
  return (name.startsWith(LOCAL_PREFIX) ? LOCAL_DIGEST_PREFIX : MESH_DIGEST_PREFIX) + name;
}

/** Key of a mirror's report of a peer. */
export function meshPeerKey(cluster: ClusterName): string {
  return MESH_PEER_PREFIX + cluster;
}

/** The address of a prefix that is a whole address, as keys of addresses spell it. */
export function keyTextOfPrefix(prefix: IpPrefix, isCidr: boolean): string {
  return isCidr ? prefix : splitPrefix(prefix).address;
}
