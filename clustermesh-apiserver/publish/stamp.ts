/** The publisher's own time, written beside its changes: readers tell by it how late they see them. */
import type { KvLease, KvOp } from '../../mesh/kvstore/kvstore.ts';
import type { Clock } from '../../mesh/runtime/clock.ts';
import { MESH_STAMP_KEY } from '../../mesh/wire/keys.ts';
import { encodeMeshStamp } from '../../mesh/wire/stamp.ts';

/** Milliseconds between two stamps at least: enough for quantiles, and one small key more a second for readers. */
const STAMP_INTERVAL_MS = 1000;

/** Makes stamps. */
export interface Stamper {
  /**
   * The operation that stamps a transaction of changes, undefined when there was one within the last second. It must
   * be part of that transaction: the stamp holds for the changes of its own revision.
   */
  next(): KvOp | undefined;
}

/** Makes a stamper whose stamps go with `lease`, as what they are about does. */
export function createStamper(options: {
  readonly lease: KvLease;
  readonly clock: Clock;
}): Stamper {
  const { lease, clock } = options;
  let latest = Number.NEGATIVE_INFINITY;
  // The stamp went with the lease: it comes back with what else did.
  lease.onLost(() => {
    latest = Number.NEGATIVE_INFINITY;
  });
  return {
    next() {
      const now = clock.monotonic();
      if (now - latest < STAMP_INTERVAL_MS) return undefined;
      latest = now;
      const value = encodeMeshStamp({ at: Math.floor(clock.now()) });
      return { kind: 'put', key: MESH_STAMP_KEY, value, lease };
    },
  };
}
