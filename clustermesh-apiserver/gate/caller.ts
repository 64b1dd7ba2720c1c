/** Who a caller is, by its certificate, and what it may read. Pure. */
import { type KeyRange, prefixRange, singleKey } from './key-range.ts';

/** Why a call or a connection is refused; the gate counts by these. */
export type RefusalReason =
  | 'no-certificate'
  | 'expired-certificate'
  | 'untrusted-certificate'
  | 'unknown-name'
  | 'revoked'
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
}

const OWN_NAMES = [
  ['node', /^node-.+$/],
  ['machine', /^machine-.+$/],
] as const;

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
    case 'admin':
      return [
        prefixRange('cilium/.heartbeat'),
        prefixRange('cilium/state/'),
        prefixRange('cilium/cache/'),
        prefixRange('cilium/cluster-config/'),
        prefixRange('cilium/synced/'),
        prefixRange('isthmus/mesh/'),
        prefixRange('isthmus/local/'),
      ];
    default:
      throw caller satisfies never;
  }
}
