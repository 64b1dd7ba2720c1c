/** Cilium's key layout in etcd (`pkg/kvstore`, `pkg/clustermesh/{store,types}`), and our own keys beside it. */
import {
  type ClusterName,
  type NumericIdentity,
  parseClusterName,
  parseNumericIdentity,
} from './ids.ts';
import { type IpAddress, type IpPrefix, parseIpPrefix, splitPrefix } from './ip.ts';
import { WireError } from './wire-error.ts';

/** Rewritten by the publisher once a minute; a sign of its life. */
export const HEARTBEAT_KEY = 'cilium/.heartbeat';
/** Configurations of clusters by name. */
export const CLUSTER_CONFIG_PREFIX = 'cilium/cluster-config/';
/** Markers of all clusters: the cluster, then the prefix that has been written. */
export const SYNCED_PREFIX = 'cilium/synced/';
/** Every Service of the own cluster, for its own agents alone. */
export const LOCAL_SERVICES_PREFIX = 'isthmus/local/services/';
/** Every policy of the own cluster, for its own agents alone. */
export const LOCAL_POLICIES_PREFIX = 'isthmus/local/policies/';
/** What peers may use beyond Cilium's format. */
export const MESH_PREFIX = 'isthmus/mesh/';
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

/** Key of a global service at its source. */
export function serviceKey(cluster: ClusterName, namespace: string, name: string): string {
  return `${servicesPrefix(cluster)}${namespace}/${name}`;
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

/** A key taken apart. `cluster` is undefined where the key does not say it (addresses and identities at their source). */
export type ParsedKey =
  | {
      readonly kind: 'node';
      readonly cluster: ClusterName;
      readonly name: string;
      readonly cached: boolean;
    }
  | {
      readonly kind: 'ip';
      readonly cluster: ClusterName | undefined;
      readonly prefix: IpPrefix;
      readonly isCidr: boolean;
      readonly cached: boolean;
    }
  | {
      readonly kind: 'identity';
      readonly cluster: ClusterName | undefined;
      readonly id: NumericIdentity;
      readonly cached: boolean;
    }
  | { readonly kind: 'identity-reference'; readonly labels: string; readonly suffix: string }
  | {
      readonly kind: 'service' | 'service-export' | 'endpoint-slice';
      readonly cluster: ClusterName;
      readonly namespace: string;
      readonly name: string;
      readonly cached: boolean;
    }
  | { readonly kind: 'cluster-config'; readonly cluster: ClusterName }
  | { readonly kind: 'synced'; readonly cluster: ClusterName; readonly prefix: string }
  | { readonly kind: 'heartbeat' }
  | { readonly kind: 'local-service'; readonly namespace: string; readonly name: string }
  | {
      readonly kind: 'local-policy';
      readonly policyKind: string;
      readonly namespace: string;
      readonly name: string;
    }
  /** Locks, promises of old versions and the like: Cilium's, and nothing a reader needs. */
  | { readonly kind: 'internal' };

/** Takes a key apart. Throws WireError `bad-key`, naming the key and what was expected. */
export function parseKey(key: string): ParsedKey {
  const parts = key.split('/');
  if (parts[0] === 'cilium') return parseCiliumKey(key, parts);
  if (parts[0] === 'isthmus' && parts[1] === 'local') return parseLocalKey(key, parts);
  throw badKey(key, 'expected it to begin with cilium/ or isthmus/local/');
}

function parseCiliumKey(key: string, parts: readonly string[]): ParsedKey {
  const [, area = '', ...rest] = parts;
  switch (area) {
    case '.heartbeat':
      expectParts(key, rest, 0);
      return { kind: 'heartbeat' };
    case 'cluster-config':
      expectParts(key, rest, 1);
      return { kind: 'cluster-config', cluster: clusterIn(key, rest[0]) };
    case 'synced':
      if (rest.length < 2 || rest.includes(''))
        throw badKey(key, `${parts.length} parts, expected cilium/synced/<cluster>/<prefix>`);
      return { kind: 'synced', cluster: clusterIn(key, rest[0]), prefix: rest.slice(1).join('/') };
    case 'state':
    case 'cache':
      return parsePublishedKey(key, rest, area === 'cache');
    case '.initlock':
    case '.has-cluster-config':
    case 'kvstoremesh-lock':
      return { kind: 'internal' };
    default:
      throw badKey(key, `unknown area ${JSON.stringify(area)}`);
  }
}

function parsePublishedKey(key: string, parts: readonly string[], cached: boolean): ParsedKey {
  const [segment = '', version = '', ...rest] = parts;
  if (version !== 'v1') throw badKey(key, `version ${JSON.stringify(version)}, expected v1`);
  switch (segment) {
    case 'nodes':
      expectParts(key, rest, 2);
      return { kind: 'node', cluster: clusterIn(key, rest[0]), name: rest[1] ?? '', cached };
    case 'ip':
      return parseIpKey(key, rest, cached);
    case 'identities':
      return parseIdentityKey(key, rest, cached);
    case 'services':
    case 'serviceexports':
    case 'endpointslices':
      expectParts(key, rest, 3);
      return {
        kind: OBJECT_KINDS[segment],
        cluster: clusterIn(key, rest[0]),
        namespace: rest[1] ?? '',
        name: rest[2] ?? '',
        cached,
      };
    case 'noderegister':
      return { kind: 'internal' };
    default:
      throw badKey(key, `unknown kind ${JSON.stringify(segment)}`);
  }
}

const OBJECT_KINDS = {
  services: 'service',
  serviceexports: 'service-export',
  endpointslices: 'endpoint-slice',
} as const;

function parseIpKey(key: string, parts: readonly string[], cached: boolean): ParsedKey {
  const [space = '', address = '', length] = parts;
  if (parts.length < 2 || parts.length > 3)
    throw badKey(key, 'expected <cluster or default>/<address> or …/<length>');
  if (!cached && space !== 'default')
    throw badKey(key, `address space ${JSON.stringify(space)}, expected default`);
  const cluster = cached ? clusterIn(key, space) : undefined;
  try {
    const prefix = parseIpPrefix(length === undefined ? address : `${address}/${length}`);
    return { kind: 'ip', cluster, prefix, isCidr: length !== undefined, cached };
  } catch (cause) {
    throw badKey(key, cause instanceof Error ? cause.message : String(cause), cause);
  }
}

function parseIdentityKey(key: string, parts: readonly string[], cached: boolean): ParsedKey {
  const cluster = cached ? clusterIn(key, parts[0]) : undefined;
  const [branch, ...rest] = cached ? parts.slice(1) : parts;
  if (branch === 'value' && !cached && rest.length >= 2) {
    // Labels may hold slashes, as those of namespaces do; the node behind them does not.
    return {
      kind: 'identity-reference',
      labels: rest.slice(0, -1).join('/'),
      suffix: rest.at(-1) ?? '',
    };
  }
  if (branch === 'locks' && !cached) return { kind: 'internal' };
  const [id = ''] = rest;
  if (branch !== 'id' || rest.length !== 1) throw badKey(key, 'expected id/<number>');
  if (!/^(0|[1-9]\d{0,8})$/.test(id))
    throw badKey(key, `identity ${JSON.stringify(id)}, expected a decimal number`);
  try {
    return { kind: 'identity', cluster, id: parseNumericIdentity(Number(id)), cached };
  } catch (cause) {
    throw badKey(key, cause instanceof Error ? cause.message : String(cause), cause);
  }
}

function parseLocalKey(key: string, parts: readonly string[]): ParsedKey {
  const [, , area, ...rest] = parts;
  if (area === 'services') {
    expectParts(key, rest, 2);
    return { kind: 'local-service', namespace: rest[0] ?? '', name: rest[1] ?? '' };
  }
  if (area === 'policies') {
    expectParts(key, rest, 3);
    const [policyKind = '', namespace = '', name = ''] = rest;
    return {
      kind: 'local-policy',
      policyKind,
      namespace: namespace === '_' ? '' : namespace,
      name,
    };
  }
  throw badKey(key, `unknown area ${JSON.stringify(area)}`);
}

function clusterIn(key: string, part: string | undefined): ClusterName {
  try {
    return parseClusterName(part);
  } catch (cause) {
    throw badKey(key, cause instanceof Error ? cause.message : String(cause), cause);
  }
}

/** Throws unless the rest of a key has `count` parts, none of them empty. */
function expectParts(key: string, rest: readonly string[], count: number): void {
  if (rest.length === count && rest.every((part) => part !== '')) return;
  const all = key.split('/').length;
  const complaint =
    rest.length === count ? 'an empty part' : `${all} parts, expected ${all - rest.length + count}`;
  throw badKey(key, complaint);
}

function badKey(key: string, complaint: string, cause?: unknown): WireError {
  return new WireError('bad-key', `cannot parse key ${key}: ${complaint}`, { key, cause });
}

/** The address of a prefix that is a whole address, as keys of addresses spell it. */
export function keyTextOfPrefix(prefix: IpPrefix, isCidr: boolean): string {
  return isCidr ? prefix : splitPrefix(prefix).address;
}
