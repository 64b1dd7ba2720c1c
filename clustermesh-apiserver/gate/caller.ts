/** Who a caller is, by its certificate, and what it may read. Pure. */
import {
  LOCAL_DIGEST_PREFIX,
  LOCAL_IDENTITIES_PREFIX,
  LOCAL_IPS_PREFIX,
  LOCAL_POLICIES_PREFIX,
  LOCAL_SERVICES_PREFIX,
} from '../../mesh/wire/keys.ts';
import { type KeyRange, prefixRange, singleKey } from './key-range.ts';

/** Why a call or a connection is refused; the gate counts by these. */
export type RefusalReason =
  | 'no-certificate'
  | 'expired-certificate'
  | 'not-yet-valid-certificate'
  | 'untrusted-certificate'
  | 'unknown-name'
  | 'name-beyond-enrollment'
  | 'revoked'
  | 'unknown-machine'
  | 'unknown-node'
  | 'former-node'
  | 'unknown-peer'
  | 'outside-range'
  | 'forbidden-method'
  | 'malformed'
  | 'too-many-connections'
  | 'too-many-streams'
  | 'too-many-watches'
  | 'too-many-calls'
  | 'too-slow';

/**
 * A caller. `name` is the common name of its certificate. For `remote` the peers are those whose CA vouches for it: several
 * when they share a CA and the name tells them not apart; none when our own CA issued a nameless `remote`.
 */
export type Caller =
  | { readonly kind: 'node' | 'machine' | 'admin' | 'local'; readonly name: string }
  | { readonly kind: 'remote'; readonly name: string; readonly peers: readonly string[] };

/** Where a certificate's chain ends: at our own CA, at those of peers, or at both when they are the same. */
export interface ChainEnds {
  readonly own: boolean;
  readonly peers: readonly string[];
  /** The chain passes through an enrollment authority, which may name machines, nodes and peers alone. */
  readonly enrolled: boolean;
}

const OWN_NAMES = [
  ['node', /^node-.+$/],
  ['machine', /^machine-.+$/],
] as const;

/** What an enrollment authority may vouch for: with its key somebody becomes a machine, and neither administrator nor server. */
const ENROLLED_NAME = /^(node|machine|remote)-.+$/;

/** What our own agents read of the mesh: their own cluster, and the peers as its mirror has them. */
const OWN_AGENTS: readonly KeyRange[] = [
  prefixRange('cilium/.heartbeat'),
  prefixRange('cilium/state/'),
  prefixRange('cilium/cache/'),
  prefixRange('cilium/cluster-config/'),
  prefixRange('cilium/synced/'),
  prefixRange('isthmus/mesh/'),
];
/** What they read of what is for the own cluster alone. What is kept for others of it is none of theirs. */
const LOCAL_PARTS: readonly string[] = [
  LOCAL_SERVICES_PREFIX,
  LOCAL_POLICIES_PREFIX,
  LOCAL_IPS_PREFIX,
  LOCAL_IDENTITIES_PREFIX,
  LOCAL_DIGEST_PREFIX,
];

/** Whether the authorities of a chain may give this name at all. */
export function mayBeNamed(commonName: string, ends: ChainEnds): boolean {
  return !ends.enrolled || ENROLLED_NAME.test(commonName);
}

/**
 * Decides who shows a certificate. Only our own CA makes nodes, machines, `admin-<us>` and `local-<us>`; a peer's CA makes that
 * peer alone: `remote` or `remote-<that peer>`. Undefined is a stranger.
 */
export function identifyCaller(
  commonName: string,
  ends: ChainEnds,
  options: { readonly clusterName: string },
): Caller | undefined {
  const { clusterName } = options;
  if (!mayBeNamed(commonName, ends)) return undefined;
  if (ends.own) {
    for (const [kind, pattern] of OWN_NAMES) {
      if (pattern.test(commonName)) return { kind, name: commonName };
    }
    if (commonName === `admin-${clusterName}`) return { kind: 'admin', name: commonName };
    if (commonName === `local-${clusterName}`) return { kind: 'local', name: commonName };
    if (commonName === 'remote') return { kind: 'remote', name: commonName, peers: ends.peers };
    const peer = /^remote-(.+)$/.exec(commonName)?.[1];
    return peer === undefined ? undefined : { kind: 'remote', name: commonName, peers: [peer] };
  }
  const peers =
    commonName === 'remote'
      ? ends.peers
      : ends.peers.filter((peer) => commonName === `remote-${peer}`);
  return peers.length === 0 ? undefined : { kind: 'remote', name: commonName, peers };
}

/**
 * What a caller may read. The ranges of `remote` and `local` are those of the roles that Cilium's clustermesh-apiserver makes
 * (`etcdinit`), with our `isthmus/mesh/`.
 */
export function readableRanges(
  caller: Caller,
  options: { readonly clusterName: string },
): readonly KeyRange[] {
  const { clusterName } = options;
  switch (caller.kind) {
    case 'remote':
      return [
        prefixRange('cilium/.heartbeat'),
        prefixRange('cilium/state/'),
        singleKey(`cilium/cluster-config/${clusterName}`),
        prefixRange(`cilium/synced/${clusterName}/`),
        prefixRange('isthmus/mesh/'),
      ];
    case 'local':
      return [
        prefixRange('cilium/.heartbeat'),
        prefixRange('cilium/cache/'),
        prefixRange('cilium/cluster-config/'),
        prefixRange('cilium/synced/'),
        prefixRange('isthmus/mesh/'),
      ];
    case 'node':
    case 'machine':
      return [...OWN_AGENTS, ...LOCAL_PARTS.map(prefixRange)];
    case 'admin':
      return [...OWN_AGENTS, prefixRange('isthmus/local/')];
    default:
      throw caller satisfies never;
  }
}
