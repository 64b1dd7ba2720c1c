/** When a mirror is ready, by Cilium's rule (`pkg/clustermesh/kvstoremesh`). */
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { ClusterName } from '../../mesh/wire/ids.ts';

/** A peer as readiness sees it. */
export interface ReadinessPeer {
  readonly name: ClusterName;
  /** Its configuration was read once. */
  readonly isConnected: boolean;
  readonly isMirrored: boolean;
}

/** Readiness of a mirror. It is about the first copy only: a peer that breaks later must not stop the others from being read. */
export interface Readiness {
  /** Peers that are waited for; empty when it is ready, and from then on. `peers` undefined: they are not known yet. */
  waitingFor(peers: readonly ReadinessPeer[] | undefined): readonly string[];
}

/** Makes the readiness of a mirror that begins now. */
export function createReadiness(options: {
  readonly perClusterTimeoutMs: number;
  readonly globalTimeoutMs: number;
  readonly clock: Clock;
}): Readiness {
  const { perClusterTimeoutMs, globalTimeoutMs, clock } = options;
  const began = clock.monotonic();
  const connected = new Set<ClusterName>();
  let isReady = false;
  return {
    waitingFor(peers) {
      const elapsed = clock.monotonic() - began;
      if (isReady || elapsed >= globalTimeoutMs) {
        isReady = true;
        return [];
      }
      if (peers === undefined) return ['the directory of peers was not read yet'];
      const waiting: string[] = [];
      for (const { name, isConnected, isMirrored } of peers) {
        if (isConnected) connected.add(name);
        if (isMirrored) continue;
        if (connected.has(name) || elapsed < perClusterTimeoutMs) {
          waiting.push(`peer ${name} is not in the local etcd yet`);
        }
      }
      isReady = waiting.length === 0;
      return waiting;
    },
  };
}
