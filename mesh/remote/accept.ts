import type { KvPair } from '../kvstore/kvstore.ts';
import { decodeLabels } from '../wire/identity.ts';
import { parseNumericIdentity } from '../wire/ids.ts';
import { type IpAddress, ipFamily, parseIpPrefix, splitPrefix } from '../wire/ip.ts';
import { decodeIpIdentity } from '../wire/ip-identity.ts';
import { decodeLocalPolicy } from '../wire/local-policy.ts';
import { decodeLocalService } from '../wire/local-service.ts';
import { decodeNode, nodeAddresses } from '../wire/node.ts';
import { type ParsedKey, parseKey } from '../wire/parse-key.ts';
import { decodeClusterService } from '../wire/service.ts';
import {
  identityAsSeenFromHere,
  type PeerIdentity,
  type RejectionReason,
  validateClusterService,
  validateIdentity,
  validateIpIdentity,
  validateNode,
} from '../wire/validate.ts';
import { WireError, type WireErrorCode } from '../wire/wire-error.ts';
import type { ClusterChange, MeshKind } from './cluster-sink.ts';

/** Why a value of a cluster is not used: its form, what it claims, or an address that nobody may claim. */
export type AcceptReason = RejectionReason | WireErrorCode | 'address-not-allowed' | 'host-ip-ours';

/** A value looked at: the change it makes, or why it makes none. */
export type Acceptance =
  | { readonly kind: 'accepted'; readonly change: ClusterChange }
  | { readonly kind: 'refused'; readonly reason: AcceptReason; readonly message: string };

/** Who the value is from, and which underlay addresses are this node's own. */
export interface AcceptContext extends PeerIdentity {
  readonly own: boolean;
  readonly nodeIps: readonly IpAddress[];
}

/** Decodes and checks one pair of a kind. Never throws for what the value says. */
export function acceptPair(kind: MeshKind, pair: KvPair, context: AcceptContext): Acceptance {
  try {
    const key = parseKey(pair.key);
    switch (kind) {
      case 'nodes':
        return acceptNode(key, pair, context);
      case 'identities':
      case 'local-identities':
        return acceptIdentity(key, pair, context);
      case 'ips':
      case 'local-ips':
        return acceptIp(key, pair, context);
      case 'services':
        return acceptService(key, pair, context);
      case 'serviceexports':
        return acceptOpaque(key, pair, { kind: 'service-export', context });
      case 'endpointslices':
        return acceptOpaque(key, pair, { kind: 'endpoint-slice', context });
      case 'local-services':
        return acceptLocalService(key, pair);
      case 'local-policies':
        return acceptLocalPolicy(key, pair);
      default:
        return kind satisfies never;
    }
  } catch (error) {
    if (!(error instanceof WireError)) throw error;
    return refuse(error.code, error.message);
  }
}

/** Name under which a change is held within its kind. */
export function changeName(change: ClusterChange): string {
  switch (change.kind) {
    case 'identity':
      return String(change.id);
    case 'ip':
      return change.prefix;
    default:
      return change.name;
  }
}

/** The change that takes back what is held under a name. */
export function retraction(kind: MeshKind, name: string): ClusterChange {
  switch (kind) {
    case 'nodes':
      return { kind: 'node', name, value: undefined };
    case 'identities':
    case 'local-identities':
      return { kind: 'identity', id: parseNumericIdentity(Number(name)), value: undefined };
    case 'ips':
    case 'local-ips':
      return { kind: 'ip', prefix: parseIpPrefix(name), value: undefined };
    case 'services':
      return { kind: 'service', name, value: undefined };
    case 'serviceexports':
      return { kind: 'service-export', name, value: undefined };
    case 'endpointslices':
      return { kind: 'endpoint-slice', name, value: undefined };
    case 'local-services':
      return { kind: 'local-service', name, value: undefined };
    case 'local-policies':
      return { kind: 'local-policy', name, value: undefined };
    default:
      return kind satisfies never;
  }
}

/** Name under which the value of a key would be held; undefined for a key that could never have been accepted. */
export function nameOfKey(key: string): string | undefined {
  let parsed: ParsedKey;
  try {
    parsed = parseKey(key);
  } catch (error) {
    if (error instanceof WireError) return undefined;
    throw error;
  }
  switch (parsed.kind) {
    case 'node':
      return parsed.name;
    case 'identity':
      return String(parsed.id);
    case 'ip':
      return parsed.prefix;
    case 'service':
    case 'service-export':
    case 'endpoint-slice':
    case 'local-service':
      return `${parsed.namespace}/${parsed.name}`;
    case 'local-policy':
      return `${parsed.policyKind}/${parsed.namespace}/${parsed.name}`;
    default:
      return undefined;
  }
}

function acceptNode(key: ParsedKey, pair: KvPair, context: AcceptContext): Acceptance {
  if (key.kind !== 'node') return unexpected(pair);
  const node = decodeNode(pair.value, pair.key);
  const rejection = validateNode(node, key, context);
  if (rejection !== undefined) return refuse(rejection.reason, rejection.message);
  const bad = nodeAddresses(node).find(({ ip }) => isForbidden(ip));
  if (bad !== undefined) {
    return refuse('address-not-allowed', `node ${node.name}: nobody may claim address ${bad.ip}`);
  }
  return { kind: 'accepted', change: { kind: 'node', name: node.name, value: node } };
}

function acceptIdentity(key: ParsedKey, pair: KvPair, context: AcceptContext): Acceptance {
  if (key.kind !== 'identity') return unexpected(pair);
  const labels = decodeLabels(pair.value, pair.key);
  const rejection = validateIdentity(key.id, labels, context);
  if (rejection !== undefined) return refuse(rejection.reason, rejection.message);
  return { kind: 'accepted', change: { kind: 'identity', id: key.id, value: labels } };
}

function acceptIp(key: ParsedKey, pair: KvPair, context: AcceptContext): Acceptance {
  if (key.kind !== 'ip') return unexpected(pair);
  const entry = decodeIpIdentity(pair.value, pair.key);
  const rejection = validateIpIdentity(entry, key, context);
  if (rejection !== undefined) return refuse(rejection.reason, rejection.message);
  const { address, length } = splitPrefix(entry.prefix);
  if (length === 0 || isForbidden(address)) {
    return refuse('address-not-allowed', `address ${entry.prefix}: nobody may claim it`);
  }
  if (entry.hostIp !== null && !context.own && context.nodeIps.includes(entry.hostIp)) {
    return refuse('host-ip-ours', `address ${entry.prefix}: its host ${entry.hostIp} is this node`);
  }
  const identity = identityAsSeenFromHere(entry.identity);
  return {
    kind: 'accepted',
    change: {
      kind: 'ip',
      prefix: entry.prefix,
      value: identity === entry.identity ? entry : { ...entry, identity },
    },
  };
}

function acceptService(key: ParsedKey, pair: KvPair, context: AcceptContext): Acceptance {
  if (key.kind !== 'service') return unexpected(pair);
  const value = decodeClusterService(pair.value, pair.key);
  const rejection = validateClusterService(value, key, context);
  if (rejection !== undefined) return refuse(rejection.reason, rejection.message);
  const name = `${key.namespace}/${key.name}`;
  return { kind: 'accepted', change: { kind: 'service', name, value } };
}

/** A value that is only handed on: its key alone is checked. */
function acceptOpaque(
  key: ParsedKey,
  pair: KvPair,
  { kind, context }: { kind: 'service-export' | 'endpoint-slice'; context: AcceptContext },
): Acceptance {
  if (key.kind !== kind) return unexpected(pair);
  if (key.cluster !== context.name) return mismatch(pair);
  return { kind: 'accepted', change: { kind, name: `${key.namespace}/${key.name}`, value: pair } };
}

function acceptLocalService(key: ParsedKey, pair: KvPair): Acceptance {
  if (key.kind !== 'local-service') return unexpected(pair);
  const value = decodeLocalService(pair.value, pair.key);
  if (value.namespace !== key.namespace || value.name !== key.name) return mismatch(pair);
  const name = `${key.namespace}/${key.name}`;
  return { kind: 'accepted', change: { kind: 'local-service', name, value } };
}

function acceptLocalPolicy(key: ParsedKey, pair: KvPair): Acceptance {
  if (key.kind !== 'local-policy') return unexpected(pair);
  const value = decodeLocalPolicy(pair.value, pair.key);
  if (
    value.kind !== key.policyKind ||
    value.namespace !== key.namespace ||
    value.name !== key.name
  ) {
    return mismatch(pair);
  }
  const name = `${key.policyKind}/${key.namespace}/${key.name}`;
  return { kind: 'accepted', change: { kind: 'local-policy', name, value } };
}

/**
 * Whether an address is of a network that no node or pod lives in (0/8, loopback, link-local, multicast, reserved): a
 * claim to it would take traffic that is not the mesh's. Read from the canonical text, since it runs for each address.
 */
function isForbidden(address: IpAddress): boolean {
  if (ipFamily(address) === 6) {
    return /^(f[ef]|::1?$)/.test(address) && !/^fe[0-7c-f]/.test(address);
  }
  const first = Number(address.slice(0, address.indexOf('.')));
  return first === 0 || first === 127 || first >= 224 || address.startsWith('169.254.');
}

function unexpected(pair: KvPair): Acceptance {
  return refuse('bad-key', `key ${pair.key} is of another kind than its prefix`);
}

function mismatch(pair: KvPair): Acceptance {
  return refuse('key-mismatch', `value of ${pair.key} names another object`);
}

function refuse(reason: AcceptReason, message: string): Acceptance {
  return { kind: 'refused', reason, message };
}
