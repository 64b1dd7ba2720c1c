/** Taking keys apart: the other direction of `keys.ts`. */
import {
  type ClusterName,
  type NumericIdentity,
  parseClusterName,
  parseNumericIdentity,
} from './ids.ts';
import { type IpPrefix, makePrefix, parseIpPrefix, parseIpv4 } from './ip.ts';
import { keyTextOfPrefix } from './keys.ts';
import { WireError } from './wire-error.ts';

/** Key of an object that has a namespace. */
interface ObjectKey<K extends string> {
  readonly kind: K;
  readonly cluster: ClusterName;
  readonly namespace: string;
  readonly name: string;
  readonly cached: boolean;
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
  | ObjectKey<'service'>
  | ObjectKey<'service-export'>
  | ObjectKey<'endpoint-slice'>
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
  | { readonly kind: 'mesh-digest'; readonly prefix: string }
  | { readonly kind: 'mesh-stamp' }
  | { readonly kind: 'mesh-peer'; readonly cluster: ClusterName }
  /** Locks, promises of old versions, the apiserver's registry and the like: nothing a reader needs. */
  | { readonly kind: 'internal' };

/** A key of one kind. */
export type KeyOf<K extends ParsedKey['kind']> = Extract<ParsedKey, { readonly kind: K }>;

/** Takes a key apart. Throws WireError `bad-key`, naming the key and what was expected. */
export function parseKey(key: string): ParsedKey {
  const usual = parseUsualIpKey(key);
  if (usual !== undefined) return usual;
  const parts = key.split('/');
  if (parts[0] === 'cilium') return parseCiliumKey(key, parts);
  if (parts[0] === 'isthmus' && parts[1] === 'local') return parseLocalKey(key, parts);
  if (parts[0] === 'isthmus' && parts[1] === 'mesh') return parseMeshKey(key, parts);
  if (parts[0] === 'isthmus' && parts[1] === 'registry') {
    if (parts.length < 3 || parts.includes('')) throw badKey(key, 'an empty part');
    return { kind: 'internal' };
  }
  throw badKey(
    key,
    'expected it to begin with cilium/, isthmus/local/, isthmus/mesh/ or isthmus/registry/',
  );
}

/** What a key was meant to be, by how it begins: for messages about keys that do not parse. */
export function kindOfKey(key: string): ParsedKey['kind'] | undefined {
  return BEGINNINGS.find(([beginning]) => beginning.test(key))?.[1];
}

const BEGINNINGS: readonly (readonly [RegExp, ParsedKey['kind']])[] = [
  [/^cilium\/(state|cache)\/nodes\//, 'node'],
  [/^cilium\/(state|cache)\/ip\//, 'ip'],
  [/^cilium\/state\/identities\/v1\/value\//, 'identity-reference'],
  [/^cilium\/(state|cache)\/identities\//, 'identity'],
  [/^cilium\/(state|cache)\/services\//, 'service'],
  [/^cilium\/(state|cache)\/serviceexports\//, 'service-export'],
  [/^cilium\/(state|cache)\/endpointslices\//, 'endpoint-slice'],
  [/^cilium\/cluster-config\//, 'cluster-config'],
  [/^cilium\/synced\//, 'synced'],
  [/^isthmus\/local\/services\//, 'local-service'],
  [/^isthmus\/local\/policies\//, 'local-policy'],
  [/^isthmus\/local\/ip\//, 'ip'],
  [/^isthmus\/local\/identities\//, 'identity'],
  [/^isthmus\/local\/digest\//, 'mesh-digest'],
  [/^isthmus\/mesh\/digest\//, 'mesh-digest'],
  [/^isthmus\/mesh\/peer\//, 'mesh-peer'],
];

const SOURCE_IPS = 'cilium/state/ip/v1/default/';
const MIRRORED_IPS = 'cilium/cache/ip/v1/';
/** The cluster that the latest mirrored address was of: a list names the same one over and over. */
let latestCluster: ClusterName | undefined;

/** Keys of whole IPv4 addresses, of which there are more than of all others; undefined for any other key. */
function parseUsualIpKey(key: string): KeyOf<'ip'> | undefined {
  let cluster: ClusterName | undefined;
  let start = SOURCE_IPS.length;
  if (key.startsWith(MIRRORED_IPS)) {
    start = key.indexOf('/', MIRRORED_IPS.length) + 1;
    if (start === 0) return undefined;
    const name = key.slice(MIRRORED_IPS.length, start - 1);
    if (name !== latestCluster) latestCluster = clusterIn(key, name);
    cluster = latestCluster;
  } else if (!key.startsWith(SOURCE_IPS)) return undefined;
  const address = parseIpv4(key.slice(start));
  if (address === undefined) return undefined;
  const prefix = makePrefix(address, 32);
  return { kind: 'ip', cluster, prefix, isCidr: false, cached: cluster !== undefined };
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
  const text = length === undefined ? address : `${address}/${length}`;
  let prefix: IpPrefix;
  try {
    prefix = parseIpPrefix(text);
  } catch (cause) {
    throw badKey(key, cause instanceof Error ? cause.message : String(cause), cause);
  }
  // Two spellings of one address would be two keys that overwrite each other at every reader.
  const canonical = keyTextOfPrefix(prefix, length !== undefined);
  if (canonical !== text) throw badKey(key, `address ${text}, expected it written ${canonical}`);
  return { kind: 'ip', cluster, prefix, isCidr: length !== undefined, cached };
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
  // Beside where they stand they are like every other of this cluster's.
  if (area === 'ip') return parseIpKey(key, ['default', ...rest], false);
  if (area === 'identities') return parseIdentityKey(key, ['id', ...rest], false);
  if (area === 'digest') return parseDigestKey(key, rest);
  throw badKey(key, `unknown area ${JSON.stringify(area)}`);
}

function parseDigestKey(key: string, parts: readonly string[]): ParsedKey {
  if (parts.length > 0 && !parts.includes('')) {
    return { kind: 'mesh-digest', prefix: parts.join('/') };
  }
  const [root, area] = key.split('/');
  throw badKey(key, `expected ${root}/${area}/digest/<prefix>`);
}

function parseMeshKey(key: string, parts: readonly string[]): ParsedKey {
  const [, , area, ...rest] = parts;
  switch (area) {
    case 'digest':
      return parseDigestKey(key, rest);
    case 'stamp':
      expectParts(key, rest, 0);
      return { kind: 'mesh-stamp' };
    case 'peer':
      expectParts(key, rest, 1);
      return { kind: 'mesh-peer', cluster: clusterIn(key, rest[0]) };
    default:
      throw badKey(key, `unknown area ${JSON.stringify(area)}`);
  }
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
