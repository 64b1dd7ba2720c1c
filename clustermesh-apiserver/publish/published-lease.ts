/** The lease on which everything published hangs: it belongs to the cluster, and is handed from one process to the next. */
import type { KvLease, KvStore } from '../../mesh/kvstore/kvstore.ts';
import { REGISTRY_PREFIX } from '../../mesh/wire/keys.ts';

/** A key on the lease itself, by which a successor finds it: it is there exactly as long as the lease. */
export const PUBLISHED_LEASE_KEY = `${REGISTRY_PREFIX}lease`;
/** Its value; the lease is the one that the key hangs on. */
export const PUBLISHED_LEASE_VALUE = JSON.stringify({ schema: 1 });

/**
 * Takes over the lease of the publisher before, or makes one if there is none left or its time to live was another. With the
 * same lease nothing that stands has to be written again. Rejects with KvError.
 */
export async function openPublishedLease(
  store: KvStore,
  ttlSeconds: number,
  options: { readonly signal: AbortSignal },
): Promise<KvLease> {
  const left = await store.get(PUBLISHED_LEASE_KEY, options);
  const adopt = left === undefined || left.lease === 0n ? undefined : left.lease;
  return store.lease(ttlSeconds, { ...options, adopt });
}
