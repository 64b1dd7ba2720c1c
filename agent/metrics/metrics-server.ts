/** The agent's endpoint for scrapers and probes. */
import { addKvMetrics } from '../../mesh/kvstore/kv-metrics.ts';
import type { KvStatistics } from '../../mesh/kvstore/measured-store.ts';
import type { LagBook } from '../../mesh/remote/lag.ts';
import type { MeshStatus } from '../../mesh/remote/mesh.ts';
import { addMeshMetrics } from '../../mesh/remote/mesh-metrics.ts';
import { listenHealthServer } from '../../mesh/runtime/health-server.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import { createMetrics } from '../../mesh/runtime/metrics.ts';
import type { HostPort } from '../../mesh/runtime/option-parsers.ts';
import { addConntrackMetrics } from '../datapath/conntrack-metrics.ts';
import type { Datapath } from '../datapath/desired.ts';
import { type AgentMetricsSources, addAgentMetrics } from './agent-metrics.ts';

/** What the endpoint answers from. */
export interface AgentEndpointSources
  extends Omit<AgentMetricsSources, 'clusterNames' | 'datapath'> {
  readonly datapath: AgentMetricsSources['datapath'] & Pick<Datapath, 'upkeep'>;
  readonly mesh: () => MeshStatus;
  readonly lag: LagBook;
  /** Undefined: calls to etcd are not counted. */
  readonly kvStatistics: KvStatistics | undefined;
  readonly logger: Logger;
}

/** Listens where it is told to, or nowhere without an address. Throws HealthServerError. */
export async function listenAgentMetrics(
  address: HostPort | undefined,
  sources: AgentEndpointSources,
): Promise<AsyncDisposable> {
  if (address === undefined) return { [Symbol.asyncDispose]: async () => undefined };
  const { logger, mesh, lag, readiness } = sources;
  const metrics = createMetrics({
    process: true,
    onError: (error) => logger.error({ err: error }, 'some metrics cannot be gathered'),
  });
  // Made once a scrape: with hundreds of peers it is most of the work.
  let clusters: MeshStatus['clusters'] = [];
  metrics.onCollect(() => {
    clusters = mesh().clusters;
  });
  addMeshMetrics(metrics, { clusters: () => clusters, lag }, { process: 'agent' });
  if (sources.kvStatistics !== undefined) {
    addKvMetrics(metrics, sources.kvStatistics, { prefix: 'cilium_' });
  }
  addAgentMetrics(metrics, {
    ...sources,
    clusterNames: () =>
      new Map(
        clusters.flatMap(({ clusterId, name }) =>
          clusterId === undefined ? [] : [[clusterId, name]],
        ),
      ),
  });
  if (sources.datapath.upkeep !== undefined) addConntrackMetrics(metrics, sources.datapath.upkeep);
  const server = await listenHealthServer(address, {
    flag: '--metrics-address',
    sources: { missing: () => readiness.missing(), metrics },
  });
  logger.info({ ...server.address }, 'metrics are served');
  return server;
}
