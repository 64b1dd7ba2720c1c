import type { KvStore } from '../kvstore/kvstore.ts';
import { decodeClusterConfig } from '../wire/cluster-config.ts';
import type { ClusterName } from '../wire/ids.ts';
import { clusterConfigKey } from '../wire/keys.ts';
import type { PeerContext } from './peer.ts';
import { PeerError } from './peer-error.ts';

/**
 * Rejects with PeerError `own-store` when a peer's endpoints lead to the store that the context names as our own: a mirror
 * would mirror itself. etcds that were started with the same flags have the same id, so the id alone is no proof.
 */
export async function refuseOwnStore(
  store: KvStore,
  name: ClusterName,
  context: Pick<PeerContext, 'own' | 'ownStoreId'> & { readonly signal: AbortSignal },
): Promise<void> {
  const ownStoreId = context.ownStoreId?.();
  if (name === context.own.name || ownStoreId === undefined || store.clusterId !== ownStoreId) {
    return;
  }
  if (await isOwnStore(store, context, context.signal)) {
    throw new PeerError('own-store', leadsToOurselves(name));
  }
}

/** Whether a store that does not know a peer is our own: it publishes us under our id, and not as somebody's mirror. */
export async function isOwnStore(
  store: KvStore,
  context: Pick<PeerContext, 'own'>,
  signal: AbortSignal,
): Promise<boolean> {
  const key = clusterConfigKey(context.own.name);
  try {
    const pair = await store.get(key, { signal });
    if (pair === undefined) return false;
    const config = decodeClusterConfig(pair.value, key);
    return config.id === context.own.id && !config.capabilities.cached;
  } catch {
    // Whoever does not let us read that key, or writes nonsense there, is not our own cluster.
    return false;
  }
}

/** One line about endpoints that lead to ourselves: what, and what to do. */
export function leadsToOurselves(name: ClusterName): string {
  return `the endpoints of cluster ${name} lead to our own etcd: put the address of its clustermesh-apiserver there`;
}
