/** `clustermesh-apiserver kvstoremesh`: a mirror as a process of its own. */
import { openEtcd } from '../../mesh/kvstore/etcd.ts';
import type { EtcdTls } from '../../mesh/kvstore/etcd-endpoint.ts';
import { addKvMetrics } from '../../mesh/kvstore/kv-metrics.ts';
import { createKvStatistics, measureStore } from '../../mesh/kvstore/measured-store.ts';
import { connectionReader } from '../../mesh/remote/connection.ts';
import { createLagBook } from '../../mesh/remote/lag.ts';
import { listenHealthServer } from '../../mesh/runtime/health-server.ts';
import type { HostPort } from '../../mesh/runtime/option-parsers.ts';
import { listenMetrics } from '../metrics-server.ts';
import { createKvstoremesh, type KvstoremeshOptions } from './kvstoremesh.ts';
import { addKvstoremeshMetrics, addReadyMetrics } from './kvstoremesh-metrics.ts';

/** A mirror as its command line describes it. */
export interface KvstoremeshProcessOptions
  extends Omit<KvstoremeshOptions, 'store' | 'lag' | 'readConnection'> {
  readonly etcd: { readonly endpoints: readonly string[]; readonly tls: EtcdTls | undefined };
  readonly healthAddress: HostPort;
  /** Undefined: no metrics. */
  readonly metricsAddress: HostPort | undefined;
  readonly signal: AbortSignal;
}

/**
 * Runs a mirror until `signal` aborts. Ending leaves every key where it is, on a lease that the next start takes over. Rejects
 * with an error that has a `code` and says what to do, when it cannot start.
 */
export async function runKvstoremesh(options: KvstoremeshProcessOptions): Promise<void> {
  const { etcd, clock, logger, signal } = options;
  const statistics = createKvStatistics();
  await using etcdStore = await openEtcd({
    endpoints: etcd.endpoints,
    clock,
    ...(etcd.tls === undefined ? {} : { tls: etcd.tls }),
  });
  const store = measureStore(etcdStore, { statistics, clock });
  const lag = createLagBook(clock);
  const mirror = createKvstoremesh({
    ...options,
    store,
    lag,
    readConnection: connectionReader({ clock, statistics }),
  });
  await using _health = await listenHealthServer(options.healthAddress, {
    flag: '--health-address',
    sources: {
      missing: () => mirror.missing,
      status: () => mirror.describe(),
      pages: {
        '/cluster': () => mirror.describePeers(),
        // Where Cilium's own kvstoremesh answers.
        '/v1/cluster': () => mirror.describePeers(),
      },
    },
  });
  await using _metrics = await listenMetrics(options.metricsAddress, {
    logger,
    missing: () => mirror.missing,
    add: (metrics) => {
      addKvstoremeshMetrics(metrics, { mirror: () => mirror, lag });
      addKvMetrics(metrics, statistics, { prefix: 'cilium_kvstoremesh_' });
      addReadyMetrics(metrics, { missing: () => mirror.missing, clock });
    },
  });
  await mirror.run(signal);
  logger.info('mirror has ended, what it wrote stays until its lease runs out');
}
