import type { Brand } from './brand.ts';
import { excerpt, WireError } from './wire-error.ts';

/** Cluster id: 0 is "no mesh" and never travels; 1 to 255, or to 511 in a mesh of 511 clusters. */
export type ClusterId = Brand<number, 'ClusterId'>;
/** Cluster name: 1 to 32 characters of `[a-z0-9-]`, starting and ending with a letter or digit. */
export type ClusterName = Brand<string, 'ClusterName'>;
/** Security identity as it travels: 24 bits, cluster id in the high bits, reserved below 256. */
export type NumericIdentity = Brand<number, 'NumericIdentity'>;
/**
 * Identity that a node gives for itself and that never travels: its scope in the 8 bits above those of a NumericIdentity
 * (Cilium `pkg/identity/numericidentity.go`, IdentityScopeLocal and IdentityScopeRemoteNode).
 */
export type LocalIdentity = Brand<number, 'LocalIdentity'>;
/** Size of the mesh, fixed when it is installed. It decides how many bits of an identity name the cluster. */
export type MaxConnectedClusters = 255 | 511;

const CLUSTER_NAME = /^([a-z0-9][-a-z0-9]*)?[a-z0-9]$/;
const IDENTITY_BITS = 24;

/** First identity that an allocator may hand out; below are the reserved and well-known ones. */
export const MINIMUM_ALLOCATED_IDENTITY = 256;

/** Reserved identities of Cilium's `pkg/identity/numericidentity.go`. */
export const RESERVED_IDENTITIES = {
  unknown: 0,
  host: 1,
  world: 2,
  unmanaged: 3,
  health: 4,
  init: 5,
  'remote-node': 6,
  'kube-apiserver': 7,
  ingress: 8,
  'world-ipv4': 9,
  'world-ipv6': 10,
} as const;

/** Name of a reserved identity, as behind `reserved:` in labels. */
export type ReservedIdentityName = keyof typeof RESERVED_IDENTITIES;

/** Number of a reserved identity. */
export function reservedIdentity(name: ReservedIdentityName): NumericIdentity {
  return RESERVED_IDENTITIES[name] as NumericIdentity;
}

/** Name of a reserved identity, or undefined for any other number. */
export function reservedIdentityName(id: number): ReservedIdentityName | undefined {
  for (const [name, value] of Object.entries(RESERVED_IDENTITIES)) {
    if (value === id) return name as ReservedIdentityName;
  }
  return undefined;
}

/** Parses a cluster id of 1 to `max`. Throws WireError `bad-value`. */
export function parseClusterId(value: unknown, max: MaxConnectedClusters = 511): ClusterId {
  if (typeof value !== 'number' || !Number.isInteger(value) || value < 1 || value > max) {
    throw new WireError(
      'bad-value',
      `cannot parse cluster id ${excerpt(value)}: expected 1 to ${max}`,
    );
  }
  return value as ClusterId;
}

/** Parses a cluster name. Throws WireError `bad-value`; `default` is refused, as Cilium does for ids other than 0. */
export function parseClusterName(value: unknown): ClusterName {
  if (typeof value !== 'string' || value.length > 32 || !CLUSTER_NAME.test(value)) {
    throw new WireError(
      'bad-value',
      `cannot parse cluster name ${excerpt(value)}: expected 1 to 32 of a-z, 0-9 and "-", beginning and ending with a letter or digit`,
    );
  }
  if (value === 'default') {
    throw new WireError(
      'bad-value',
      'cannot use cluster name "default": it is reserved, choose another',
    );
  }
  return value as ClusterName;
}

/** Parses a mesh size. Throws WireError `bad-value` for anything but 255 and 511. */
export function parseMaxConnectedClusters(value: unknown): MaxConnectedClusters {
  if (value !== 255 && value !== 511) {
    throw new WireError(
      'bad-value',
      `cannot parse max connected clusters ${excerpt(value)}: expected 255 or 511`,
    );
  }
  return value;
}

/** Parses a numeric identity of 24 bits. Throws WireError `bad-value`. */
export function parseNumericIdentity(value: unknown): NumericIdentity {
  if (
    typeof value !== 'number' ||
    !Number.isInteger(value) ||
    value < 0 ||
    value >= 2 ** IDENTITY_BITS
  ) {
    throw new WireError(
      'bad-value',
      `cannot parse identity ${excerpt(value)}: expected an integer below 2^24`,
    );
  }
  return value as NumericIdentity;
}

/** Scopes of local identities: addresses outside the mesh, and nodes by their labels. */
export const LOCAL_SCOPES = { cidr: 1, node: 2 } as const;
/** One of LOCAL_SCOPES. */
export type LocalScope = keyof typeof LOCAL_SCOPES;

/** The local identity of a number of 1 to 2^24 - 1. Throws WireError `bad-value`. */
export function localIdentity(scope: LocalScope, number: number): LocalIdentity {
  return (LOCAL_SCOPES[scope] * 2 ** IDENTITY_BITS + parseNumericIdentity(number)) as LocalIdentity;
}

/** Scope and number of a local identity; undefined for any other one. */
export function localIdentityScope(
  identity: number,
): { readonly scope: LocalScope; readonly number: number } | undefined {
  const scope = Math.floor(identity / 2 ** IDENTITY_BITS);
  const number = identity % 2 ** IDENTITY_BITS;
  if (scope === LOCAL_SCOPES.cidr) return { scope: 'cidr', number };
  return scope === LOCAL_SCOPES.node ? { scope: 'node', number } : undefined;
}

/** Parses an identity of the kernel's maps: one of 24 bits, or a local one. Throws WireError `bad-value`. */
export function parseMapIdentity(value: number): NumericIdentity | LocalIdentity {
  return localIdentityScope(value) === undefined
    ? parseNumericIdentity(value)
    : (value as LocalIdentity);
}

/** How many low bits of an identity belong to the cluster itself: 16 in a mesh of 255, 15 in one of 511. */
export function clusterLocalIdentityBits(max: MaxConnectedClusters): number {
  return max === 511 ? 15 : 16;
}

/** Identity number `local` of cluster `cluster`. Throws WireError when `local` does not fit. */
export function makeIdentity(
  cluster: ClusterId,
  local: number,
  max: MaxConnectedClusters,
): NumericIdentity {
  const bits = clusterLocalIdentityBits(max);
  if (!Number.isInteger(local) || local < 0 || local >= 2 ** bits) {
    throw new WireError(
      'bad-value',
      `cannot make identity: local part ${local} does not fit ${bits} bits`,
    );
  }
  return (cluster * 2 ** bits + local) as NumericIdentity;
}

/** Cluster id encoded in an identity; 0 for reserved identities and those of a cluster outside a mesh. */
export function clusterIdOfIdentity(id: NumericIdentity, max: MaxConnectedClusters): number {
  return Math.floor(id / 2 ** clusterLocalIdentityBits(max));
}

/** Inclusive range of the identities of a cluster. */
export function identityRange(
  cluster: ClusterId,
  max: MaxConnectedClusters,
): { first: NumericIdentity; last: NumericIdentity } {
  const size = 2 ** clusterLocalIdentityBits(max);
  return {
    first: (cluster * size) as NumericIdentity,
    last: ((cluster + 1) * size - 1) as NumericIdentity,
  };
}
