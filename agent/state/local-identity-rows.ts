/** Identities that this node gives for itself, between the compiler, which gives them, and the rows of the ipcache. */

import { localIdentityScope } from '../../mesh/wire/ids.ts';
import { parseIpPrefix } from '../../mesh/wire/ip.ts';
import type { AddressRows } from '../merge/address-rows.ts';
import type { PeerSets } from '../policy/peer-sets.ts';
import type { IpcacheState } from './ipcache-state.ts';

/** Hands identities to the rows. */
export interface LocalIdentityRows {
  /** `isReleased`: the compiler knows everything that it was told by the own cluster. */
  refresh(isReleased: boolean): void;
  /** Identities of rows that a previous process left and nobody has said again yet. */
  carried(): ReadonlySet<number>;
}

/**
 * Takes over the numbers that a previous process gave, as its rows have them, so that they mean the same as before.
 * `now`: monotonic milliseconds.
 */
export function createLocalIdentityRows(options: {
  readonly adopted: Pick<AddressRows, 'withLocalIdentity'>;
  readonly ipcache: IpcacheState;
  readonly peers: Pick<PeerSets, 'cidrs' | 'nodes'>;
  readonly now: number;
}): LocalIdentityRows {
  const { adopted, ipcache, peers, now } = options;
  for (const { prefix, identity } of adopted.withLocalIdentity()) {
    if (localIdentityScope(identity)?.scope === 'cidr') peers.cidrs.adopt(prefix, identity, now);
    // Which nodes they are is known when these are.
    else peers.nodes.local.reserve(identity);
  }
  return {
    refresh(isReleased) {
      for (const [prefix, identity] of peers.cidrs.takeChanges()) {
        ipcache.setOutside(parseIpPrefix(prefix), identity);
      }
      for (const [node, identity] of peers.nodes.takeChanges()) {
        ipcache.setNodeIdentity(node, identity);
      }
      if (isReleased) ipcache.releaseNodes();
    },
    carried() {
      const identities = new Set<number>();
      for (const { identity } of adopted.withLocalIdentity()) identities.add(identity);
      return identities;
    },
  };
}
