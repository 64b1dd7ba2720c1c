import type { ClusterName } from '../wire/ids.ts';

/** Which cluster holds which id. The first to be accepted keeps it for as long as it is a peer. */
export interface ClusterIds {
  holderOf(id: number): ClusterName | undefined;
  take(id: number, name: ClusterName): void;
  /** Frees an id, if that cluster holds it, and tells those who wait for one. */
  release(id: number, name: ClusterName): void;
  /** Calls back after each release, until the returned function is called. */
  onRelease(callback: () => void): () => void;
}

/** Makes a record in which the own cluster holds its id. */
export function createClusterIds(own: {
  readonly id: number;
  readonly name: ClusterName;
}): ClusterIds {
  const holders = new Map<number, ClusterName>([[own.id, own.name]]);
  const waiting = new Set<() => void>();
  return {
    holderOf: (id) => holders.get(id),
    take(id, name) {
      holders.set(id, name);
    },
    release(id, name) {
      if (holders.get(id) !== name) return;
      holders.delete(id);
      for (const callback of [...waiting]) callback();
    },
    onRelease(callback) {
      waiting.add(callback);
      return () => waiting.delete(callback);
    },
  };
}
