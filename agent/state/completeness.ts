import type { MeshKind } from '../../mesh/remote/cluster-sink.ts';
import type { ClusterName } from '../../mesh/wire/ids.ts';

/**
 * Who has said everything since this process began. Rows that a previous process left are pruned only when nobody who
 * could still want them is outstanding; one peer that never completes keeps its own rows and nobody else's.
 */
export interface Completeness {
  /** Names of all configured peers. Until it is called once, any row of a peer could be wanted. */
  setPeers(peers: ReadonlyMap<ClusterName, number | undefined>): void;
  synced(clusterId: number, kind: MeshKind): void;
  /** The cluster said goodbye: it has to sync anew should it come back. */
  removed(clusterId: number): void;
  isSynced(clusterId: number, kind: MeshKind): boolean;
  /** Whether every configured peer has said everything of those kinds. */
  arePeersSynced(kinds: readonly MeshKind[]): boolean;
  /** Whether rows of that cluster may still be asked for by somebody who has not synced those kinds. */
  isOutstanding(clusterId: number, kinds: readonly MeshKind[]): boolean;
}

/** Makes a record in which nobody has spoken. */
export function createCompleteness(ownClusterId: number): Completeness {
  const synced = new Map<number, Set<MeshKind>>();
  /** Ids of the configured peers, undefined among them for one that is not known yet. */
  let peers: ReadonlySet<number | undefined> | undefined;

  const isSynced = (clusterId: number, kind: MeshKind): boolean =>
    synced.get(clusterId)?.has(kind) ?? false;

  return {
    setPeers(configured) {
      peers = new Set(configured.values());
    },
    synced(clusterId, kind) {
      const kinds = synced.get(clusterId) ?? new Set();
      synced.set(clusterId, kinds.add(kind));
    },
    removed(clusterId) {
      synced.delete(clusterId);
    },
    isSynced,
    arePeersSynced: (kinds) =>
      peers !== undefined &&
      [...peers.values()].every(
        (id) => id !== undefined && kinds.every((kind) => isSynced(id, kind)),
      ),
    isOutstanding(clusterId, kinds) {
      // Rows without a cluster are this node's own; the own cluster is what completes them.
      const origin = clusterId === 0 ? ownClusterId : clusterId;
      if (kinds.every((kind) => isSynced(origin, kind))) return false;
      if (origin === ownClusterId || peers === undefined) return true;
      // A peer that has never been reached may be any cluster that no other peer is.
      return peers.has(origin) || peers.has(undefined);
    },
  };
}
