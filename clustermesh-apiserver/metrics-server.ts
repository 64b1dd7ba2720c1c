/** The endpoint of the apiserver's programs for scrapers. */
import { type HealthSources, listenHealthServer } from '../mesh/runtime/health-server.ts';
import type { Logger } from '../mesh/runtime/log.ts';
import { createMetrics, type Metrics } from '../mesh/runtime/metrics.ts';
import type { HostPort } from '../mesh/runtime/option-parsers.ts';
import {
  addKvstoremeshMetrics,
  type KvstoremeshMetricsSources,
} from './kvstoremesh/kvstoremesh-metrics.ts';
import { type ApiserverMetricsSources, addApiserverMetrics } from './metrics.ts';

/** Listens with the apiserver's metrics where it is told to, or nowhere without an address. Throws HealthServerError. */
export function listenApiserverMetrics(
  address: HostPort | undefined,
  sources: ApiserverMetricsSources & {
    readonly logger: Logger;
    /** Undefined: no peers are mirrored. */
    readonly mirror: KvstoremeshMetricsSources | undefined;
  },
): Promise<AsyncDisposable> {
  return listenMetrics(address, {
    logger: sources.logger,
    missing: sources.missing,
    add: (metrics) => {
      addApiserverMetrics(metrics, sources);
      if (sources.mirror !== undefined) addKvstoremeshMetrics(metrics, sources.mirror);
    },
  });
}

/**
 * Listens with the metrics that `add` adds, and those of the process; without an address it does nothing. Throws
 * HealthServerError.
 */
export async function listenMetrics(
  address: HostPort | undefined,
  options: Pick<HealthSources, 'missing'> & {
    readonly logger: Logger;
    readonly add: (metrics: Metrics) => void;
  },
): Promise<AsyncDisposable> {
  if (address === undefined) return { [Symbol.asyncDispose]: async () => undefined };
  const { logger, missing, add } = options;
  const metrics = createMetrics({
    process: true,
    onError: (error) => logger.error({ err: error }, 'some metrics cannot be gathered'),
  });
  add(metrics);
  const server = await listenHealthServer(address, {
    flag: '--metrics-address',
    sources: { ...(missing === undefined ? {} : { missing }), metrics },
  });
  logger.info({ ...server.address }, 'metrics are served');
  return server;
}
