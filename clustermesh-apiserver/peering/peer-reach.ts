/** Whether the nodes of a peer can be reached from ours, as ours have seen it. Pure. */
import { type IpAddress, ipFamily } from '../../mesh/wire/ip.ts';
import { decodeNode, nodeAddresses } from '../../mesh/wire/node.ts';
import { WireError } from '../../mesh/wire/wire-error.ts';
import type { ReachSight } from '../registry/node-prober.ts';
import type { PeerFinding } from './peer-plan.ts';

/** Nodes that are looked at, of as many as there are. */
const MOST_NODES = 8;
/** Nodes that a sentence names. */
const MOST_NAMED = 3;

/** A peer with what was found out of the way to its nodes. */
export interface ReachOfPeer {
  readonly peer: string;
  readonly own: string;
  /** An address of each node that was looked at; none: none is known. */
  readonly addresses: readonly string[];
  /** Undefined: no node of ours could look. */
  readonly sights: readonly ReachSight[] | undefined;
}

/** An address of each of some nodes, by which other nodes send to it; of two families the first. */
export function addressesOfNodes(
  pairs: readonly { readonly key: string; readonly value: Buffer }[],
): readonly IpAddress[] {
  const found = new Set<IpAddress>();
  for (const { key, value } of pairs) {
    if (found.size === MOST_NODES) break;
    try {
      const internal = nodeAddresses(decodeNode(value, key)).filter(
        ({ type }) => type === 'InternalIP',
      );
      const first = internal.find(({ ip }) => ipFamily(ip) === 4) ?? internal[0];
      if (first !== undefined) found.add(first.ip);
    } catch (error) {
      // One node that cannot be read is the mirror's to tell of.
      if (!(error instanceof WireError)) throw error;
    }
  }
  return [...found];
}

/** What keeps packets from the peer's nodes. One node that can be reached is enough to take the peer. */
export function findReachFaults({ peer, own, addresses, sights }: ReachOfPeer): PeerFinding[] {
  if (addresses.length === 0) return [];
  const found = (severity: PeerFinding['severity'], cause: string): PeerFinding[] => [
    { id: 'peer-nodes-unreachable', severity, cause },
  ];
  if (sights === undefined || sights.length === 0) {
    return found(
      'warning',
      `whether the nodes of ${peer} can be reached is not known: no agent of ${own} has a session with this registry`,
    );
  }
  const bad = addresses.flatMap((address) => {
    const seen = sights.filter((sight) => sight.address === address);
    const faults = seen.filter(({ problem }) => problem !== '');
    const [first] = faults;
    // What one of our nodes reaches is up, and on the way from the others something else is wrong.
    return first === undefined ? [] : [{ address, first, isForAll: faults.length === seen.length }];
  });
  if (bad.length === 0) return [];
  const named = bad
    .slice(0, MOST_NAMED)
    .map(({ address, first }) => `${address} from ${first.from}: ${first.problem}`);
  const more = bad.length > named.length ? `; and ${bad.length - named.length} more` : '';
  const isAll = bad.length === addresses.length && bad.every(({ isForAll }) => isForAll);
  const which = isAll ? 'none' : `${bad.length} of ${addresses.length}`;
  return found(
    isAll ? 'refusal' : 'warning',
    `nodes of ${own} look for those of ${peer}, and ${which} ${isAll ? 'is' : 'are not'} reached: ${named.join('; ')}${more}`,
  );
}
