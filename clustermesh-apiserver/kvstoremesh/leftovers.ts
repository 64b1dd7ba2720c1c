/** Peers that an earlier mirror left in the local etcd. */
import type { KvStore } from '../../mesh/kvstore/kvstore.ts';
import { decodeClusterConfig } from '../../mesh/wire/cluster-config.ts';
import type { ClusterName } from '../../mesh/wire/ids.ts';
import { parseClusterName } from '../../mesh/wire/ids.ts';
import { CLUSTER_CONFIG_PREFIX, MESH_PEER_PREFIX, SYNCED_PREFIX } from '../../mesh/wire/keys.ts';
import { WireError } from '../../mesh/wire/wire-error.ts';

const CACHED_MARKER = '/cilium/cache/';

/** What a mirror finds when it begins to lead. */
export interface Leftovers {
  /** Peers of which there is a configuration, a marker or a report, one of which is deleted last. */
  readonly peers: ReadonlySet<ClusterName>;
  /** Lease on which their configurations hang; undefined when there is none. */
  readonly lease: bigint | undefined;
}

/** Looks for peers. The own cluster's keys, and those of any cluster that is not cached, are nobody's leftovers. */
export async function findLeftovers(
  store: KvStore,
  options: { readonly ownName: ClusterName; readonly signal: AbortSignal },
): Promise<Leftovers> {
  const { signal } = options;
  const peers = new Set<ClusterName>();
  let lease: bigint | undefined;
  const take = (text: string): ClusterName | undefined => {
    const name = nameIn(text);
    if (name === undefined || name === options.ownName) return undefined;
    peers.add(name);
    return name;
  };

  for (const { key, value, lease: holder } of (await store.list(CLUSTER_CONFIG_PREFIX, { signal }))
    .pairs) {
    if (!isCached(value, key)) continue;
    if (take(key.slice(CLUSTER_CONFIG_PREFIX.length)) !== undefined && holder !== 0n)
      lease ??= holder;
  }
  for (const { key } of (await store.list(SYNCED_PREFIX, { signal })).pairs) {
    const at = key.indexOf(CACHED_MARKER);
    if (at !== -1) take(key.slice(SYNCED_PREFIX.length, at));
  }
  for (const { key } of (await store.list(MESH_PEER_PREFIX, { signal })).pairs) {
    take(key.slice(MESH_PEER_PREFIX.length));
  }
  return { peers, lease };
}

function isCached(value: Buffer, key: string): boolean {
  try {
    return decodeClusterConfig(value, key).capabilities.cached;
  } catch (error) {
    if (error instanceof WireError) return false;
    throw error;
  }
}

function nameIn(text: string): ClusterName | undefined {
  try {
    return parseClusterName(text);
  } catch (error) {
    if (error instanceof WireError) return undefined;
    throw error;
  }
}
