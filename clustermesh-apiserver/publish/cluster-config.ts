/** What this cluster says of itself, and keeping others from saying something else. */
import type { KvStore } from '../../mesh/kvstore/kvstore.ts';
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import { encodeClusterConfig } from '../../mesh/wire/cluster-config.ts';
import type { ClusterId, ClusterName, MaxConnectedClusters } from '../../mesh/wire/ids.ts';
import { clusterConfigKey } from '../../mesh/wire/keys.ts';
import type { SyncStore } from './sync-store.ts';

/** Value of `cilium/cluster-config/<us>`: markers exist, and service exports are known, on or off. */
export function encodeOwnConfig(
  id: ClusterId,
  max: MaxConnectedClusters,
  options: { readonly serviceExports: boolean },
): string {
  return encodeClusterConfig({
    id,
    capabilities: {
      syncedCanaries: true,
      cached: false,
      maxConnectedClusters: max,
      serviceExportsEnabled: options.serviceExports,
      endpointSlicesExportMode: undefined,
    },
  });
}

/**
 * Writes the configuration and puts it back at once when somebody changes or deletes it, until `signal` aborts. Readers
 * refuse a cluster whose configuration is wrong, as Cilium's enforcer knows (`pkg/clustermesh/utils`).
 */
export async function enforceClusterConfig(
  cluster: { readonly name: ClusterName; readonly id: ClusterId },
  options: {
    readonly store: KvStore;
    readonly sync: Pick<SyncStore, 'upsert' | 'rewrite'>;
    readonly maxConnectedClusters: MaxConnectedClusters;
    /** Whether Services are exported by the Multi-Cluster Services API. */
    readonly serviceExports: boolean;
    readonly clock: Clock;
    readonly logger: Logger;
    readonly signal: AbortSignal;
  },
): Promise<void> {
  const { store, sync, clock, logger, signal } = options;
  const key = clusterConfigKey(cluster.name);
  const own = encodeOwnConfig(cluster.id, options.maxConnectedClusters, options);
  sync.upsert(key, own);
  let hasStood = false;
  for await (const event of store.watch({ key }, { signal })) {
    const found = event.kind === 'put' ? event.pair.value.toString('utf8') : undefined;
    if (event.kind === 'put' && found === own) {
      hasStood = true;
      continue;
    }
    if (event.kind !== 'put' && event.kind !== 'delete') continue;
    // What an earlier process left is simply replaced, without a word.
    if (hasStood)
      logger.warn({ key, found }, 'somebody changed our cluster configuration, it is put back');
    sync.rewrite(key);
    // Somebody who insists shall not keep us busy.
    if (hasStood) await clock.sleep(100, signal).catch(() => undefined);
  }
}
