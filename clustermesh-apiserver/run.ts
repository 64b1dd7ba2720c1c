/** An apiserver put together: etcd, publisher, gate, registry, health. */
import { openEtcd } from '../mesh/kvstore/etcd.ts';
import type { EtcdTls } from '../mesh/kvstore/etcd-endpoint.ts';
import { KvError, type KvLease, type KvStore } from '../mesh/kvstore/kvstore.ts';
import { createBackoff } from '../mesh/runtime/backoff.ts';
import type { Clock } from '../mesh/runtime/clock.ts';
import type { Logger } from '../mesh/runtime/log.ts';
import type { HostPort } from '../mesh/runtime/option-parsers.ts';
import type { ClusterId, ClusterName, MaxConnectedClusters } from '../mesh/wire/ids.ts';
import { openEmbeddedEtcd } from './etcd/embedded-etcd.ts';
import { listenGate } from './gate/gate.ts';
import type { TrustFiles } from './gate/trust.ts';
import { listenHealth } from './health.ts';
import { checkManifests, checkServerFiles } from './preflight.ts';
import { createPublisher } from './publish/publisher.ts';
import { type ManifestProblem, watchManifests } from './sources/manifests.ts';

/** Where the cluster's etcd is: a child of ours, or run by others for us alone. */
export type EtcdSettings =
  | {
      readonly kind: 'embedded';
      readonly binary: string;
      readonly dataDir: string;
      readonly port: number;
    }
  | {
      readonly kind: 'external';
      readonly endpoints: readonly string[];
      readonly tls: EtcdTls | undefined;
    };

/** Everything that an apiserver runs on. */
export interface ApiserverOptions {
  readonly cluster: { readonly name: ClusterName; readonly id: ClusterId };
  readonly maxConnectedClusters: MaxConnectedClusters;
  readonly manifests: string;
  readonly files: TrustFiles;
  readonly etcd: EtcdSettings;
  readonly gateAddress: HostPort;
  readonly registryAddress: HostPort;
  readonly healthAddress: HostPort;
  readonly leaseTtlSeconds: number;
  readonly heartbeatMs: number;
  readonly identityGraceMs: number;
  readonly nodeSessionGraceMs: number;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly signal: AbortSignal;
}

/**
 * Runs an apiserver until `signal` aborts. What a user can get wrong is checked before anything is started; ending
 * leaves what is published in etcd, whose lease the next start takes over.
 */
export async function runApiserver(options: ApiserverOptions): Promise<void> {
  const { cluster, maxConnectedClusters, clock, logger, signal } = options;
  await checkManifests(options.manifests);
  await checkServerFiles(options.files);
  await using etcd = await startEtcd(options);
  await using store = await openEtcd(
    etcd.tls === undefined
      ? { endpoints: etcd.endpoints }
      : { endpoints: etcd.endpoints, tls: etcd.tls },
  );
  await using gate = await listenGate({
    ...options.files,
    address: options.gateAddress,
    clusterName: cluster.name,
    upstream: { endpoints: etcd.endpoints, tls: etcd.tls },
    clock,
    logger,
    signal,
  });
  await using lease = await openLease(store, options);
  const publisher = createPublisher({
    store,
    lease,
    cluster,
    maxConnectedClusters,
    heartbeatMs: options.heartbeatMs,
    identityGraceMs: options.identityGraceMs,
    clock,
    logger,
  });
  let problems: readonly ManifestProblem[] = [];
  await using health = await listenHealth(options.healthAddress, {
    missing: () => [
      ...(publisher.status.ready ? [] : ['not everything is published yet']),
      ...etcd.problems(),
      ...(publisher.status.lastError === undefined ? [] : [publisher.status.lastError]),
    ],
    status: () => ({ cluster, published: publisher.status, gate: gate.status, problems }),
  });
  logger.info(
    { gate: gate.address, health: health.address, etcd: etcd.endpoints, cluster },
    'apiserver is listening',
  );
  const manifests = watchManifests(options.manifests, {
    signal,
    clock,
    onProblems: (found) => {
      reportProblems(found, problems, logger);
      problems = found;
    },
  });
  await publisher.run(manifests, signal);
  logger.info('apiserver ends, what it published stays until its lease does');
}

/** The cluster's etcd, whoever runs it. */
interface OpenedEtcd extends AsyncDisposable {
  readonly endpoints: readonly string[];
  readonly tls: EtcdTls | undefined;
  readonly problems: () => readonly string[];
}

async function startEtcd(options: ApiserverOptions): Promise<OpenedEtcd> {
  const { etcd, logger, clock, signal } = options;
  if (etcd.kind === 'external') {
    return { ...etcd, problems: () => [], [Symbol.asyncDispose]: async () => undefined };
  }
  const child = await openEmbeddedEtcd({ ...etcd, logger, clock, signal });
  return {
    endpoints: [child.endpoint],
    tls: child.tls,
    problems: () =>
      child.state.kind === 'restarting'
        ? [`etcd is being started again: ${child.state.lastLine}`]
        : [],
    [Symbol.asyncDispose]: () => child[Symbol.asyncDispose](),
  };
}

async function openLease(store: KvStore, options: ApiserverOptions): Promise<KvLease> {
  const backoff = createBackoff({ minMs: 100, maxMs: 5_000 });
  for (;;) {
    try {
      return await store.lease(options.leaseTtlSeconds, { signal: options.signal });
    } catch (error) {
      if (options.signal.aborted || !(error instanceof KvError) || !error.retryable) throw error;
      options.logger.warn({ err: error }, 'cannot make a lease, will be retried');
      await options.clock.sleep(backoff.next(), options.signal);
    }
  }
}

/** Tells each problem once when it appears, and when all are gone. */
function reportProblems(
  found: readonly ManifestProblem[],
  known: readonly ManifestProblem[],
  logger: Logger,
): void {
  for (const { where, message } of found) {
    if (known.some((old) => old.where === where && old.message === message)) continue;
    logger.warn({ where, problem: message }, 'manifest cannot be used');
  }
  if (found.length === 0 && known.length > 0) logger.info('every manifest can be used again');
}
