/** An apiserver, put together. */
import { type EtcdStore, openEtcd } from '../mesh/kvstore/etcd.ts';
import type { EtcdTls } from '../mesh/kvstore/etcd-endpoint.ts';
import type { KvStore } from '../mesh/kvstore/kvstore.ts';
import {
  createKvStatistics,
  type KvStatistics,
  measureStore,
} from '../mesh/kvstore/measured-store.ts';
import { connectionReader } from '../mesh/remote/connection.ts';
import { createLagBook, type LagBook } from '../mesh/remote/lag.ts';
import type { Clock } from '../mesh/runtime/clock.ts';
import { listenHealthServer } from '../mesh/runtime/health-server.ts';
import type { Logger } from '../mesh/runtime/log.ts';
import type { HostPort } from '../mesh/runtime/option-parsers.ts';
import type { ClusterId, ClusterName, MaxConnectedClusters } from '../mesh/wire/ids.ts';
import { type EmbeddedEtcd, openEmbeddedEtcd } from './etcd/embedded-etcd.ts';
import { type EtcdTlsFiles, followTlsFiles } from './etcd/follow-tls-files.ts';
import { claimManifests, type ManifestsClaim } from './etcd/manifests-claim.ts';
import { type Gate, listenGate } from './gate/gate.ts';
import type { TrustFiles } from './gate/trust.ts';
import {
  createKvstoremesh,
  type Kvstoremesh,
  type KvstoremeshOptions,
  startKvstoremesh,
} from './kvstoremesh/kvstoremesh.ts';
import { listenApiserverMetrics } from './metrics-server.ts';
import { checkManifests, checkServerFiles } from './preflight.ts';
import { type PublishedManifests, publishManifests } from './publish/publish-manifests.ts';
import type { PublisherStatus } from './publish/publisher.ts';
import { createNodeBook, type NodeBook } from './registry/node-book.ts';
import { listenRegistry, type Registry } from './registry/registry.ts';
import { createSessionBoard } from './registry/session-board.ts';

/** Which etcd holds what is published. */
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
      /** Where `tls` was read from: it is read again when they change. */
      readonly tlsFiles?: EtcdTlsFiles | undefined;
    };

/** An apiserver as its command line describes it. Times are in milliseconds where the name does not say otherwise. */
export interface ApiserverOptions {
  readonly cluster: { readonly name: ClusterName; readonly id: ClusterId };
  readonly maxConnectedClusters: MaxConnectedClusters;
  /** Directory of Kubernetes YAML. */
  readonly manifests: string;
  /** Certificate of gate and registry, and whom they believe. */
  readonly files: TrustFiles;
  readonly etcd: EtcdSettings;
  /** Mirrors the peers of a directory into the same etcd. Default: does not. */
  readonly kvstoremesh?:
    | Pick<KvstoremeshOptions, 'directory' | 'perClusterReadyTimeoutMs' | 'globalReadyTimeoutMs'>
    | undefined;
  readonly gateAddress: HostPort;
  readonly registryAddress: HostPort;
  readonly healthAddress: HostPort;
  /** Where metrics are served. Default: nowhere. */
  readonly metricsAddress?: HostPort | undefined;
  readonly leaseTtlSeconds: number;
  readonly heartbeatMs: number;
  readonly identityGraceMs: number;
  readonly nodeSessionGraceMs: number;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly signal: AbortSignal;
}

/** What has been started so far, for the health endpoint. */
interface Parts {
  etcd?: EmbeddedEtcd;
  published?: PublishedManifests;
  gate?: Gate;
  book?: NodeBook;
  registry?: Registry;
  mirror?: Kvstoremesh;
  readonly lag: LagBook;
  readonly kvStatistics: KvStatistics;
}

/**
 * Runs an apiserver until `signal` aborts: checks, health, etcd, everything published, and only then the gate and the
 * registry. Ending leaves every key where it is, on a lease that the next start takes over. Rejects with an error that
 * has a `code` and says what to do, when it cannot start.
 */
export async function runApiserver(options: ApiserverOptions): Promise<void> {
  const { logger, signal } = options;
  await checkManifests(options.manifests);
  await checkServerFiles(options.files);
  if (signal.aborted) return;
  const parts: Parts = { lag: createLagBook(options.clock), kvStatistics: createKvStatistics() };
  await using _health = await listenHealthServer(options.healthAddress, {
    flag: '--health-address',
    sources: {
      missing: () => missingParts(parts),
      status: () => describeParts(options, parts),
      pages:
        options.kvstoremesh === undefined
          ? {}
          : { '/cluster': () => parts.mirror?.describePeers() ?? [] },
    },
  });
  await using _metrics = await listenApiserverMetrics(options.metricsAddress, {
    cluster: options.cluster.name,
    maxConnectedClusters: options.maxConnectedClusters,
    missing: () => missingParts(parts),
    published: () => parts.published?.publisher.status,
    manifestProblems: () => parts.published?.problems.length ?? 0,
    gate: () => parts.gate?.status,
    etcd: () => parts.etcd?.state,
    mirror:
      options.kvstoremesh === undefined
        ? undefined
        : { mirror: () => parts.mirror, lag: parts.lag },
    kvStatistics: parts.kvStatistics,
    clock: options.clock,
    logger,
  });
  try {
    await runParts(options, parts);
  } catch (error) {
    // Asked to end while starting: what then fails is of no interest.
    if (!signal.aborted) throw error;
  }
  logger.info('apiserver has ended, what it published stays until its lease runs out');
}

async function runParts(options: ApiserverOptions, parts: Parts): Promise<void> {
  const { cluster, files, clock, logger, signal } = options;
  await using claim = await claimOwnManifests(options);
  await using etcd = await openStore(options, parts.kvStatistics);
  if (etcd.embedded !== undefined) parts.etcd = etcd.embedded;
  const { store } = etcd;
  await using published = publishManifests({
    store,
    leaseTtlSeconds: options.leaseTtlSeconds,
    cluster,
    maxConnectedClusters: options.maxConnectedClusters,
    directory: options.manifests,
    heartbeatMs: options.heartbeatMs,
    identityGraceMs: options.identityGraceMs,
    prepare: (publisher, ending) => {
      const book = createNodeBook({
        store,
        publish: publisher.setNodeFacts,
        findConflict: publisher.findNodeConflict,
        graceMs: options.nodeSessionGraceMs,
        replicas: {
          board: createSessionBoard({ store, clock, logger }),
          fence: () => publisher.fence,
        },
        clock,
        logger,
      });
      parts.book = book;
      return book.load(ending);
    },
    clock,
    logger,
    signal,
  });
  parts.published = published;
  await published.ready;
  const { book } = parts;
  if (book === undefined) throw new Error('the book of nodes is made before anything is published');

  await using gate = await listenGate({
    ...files,
    address: options.gateAddress,
    clusterName: cluster.name,
    upstream: etcd.upstream,
    clock,
    logger,
    signal,
  });
  parts.gate = gate;
  await using registry = await listenRegistry({
    address: options.registryAddress,
    files,
    clusterName: cluster.name,
    book,
    clock,
    logger,
    signal,
  });
  parts.registry = registry;
  const renewing = renewEtcdTls(options, [etcd.renewTls, gate.renewUpstreamTls]);
  logger.info(
    { cluster: cluster.name, gate: gate.address, registry: registry.address },
    'apiserver is ready',
  );
  if (options.kvstoremesh === undefined) {
    await Promise.all([published.ended, book.run(signal), renewing, claim.ended]);
    return;
  }
  const mirror = createKvstoremesh({
    ...options.kvstoremesh,
    store,
    own: { ...cluster, max: options.maxConnectedClusters },
    readConnection: connectionReader({ clock }),
    leaseTtlSeconds: options.leaseTtlSeconds,
    lag: parts.lag,
    clock,
    logger: logger.child({ part: 'kvstoremesh' }),
  });
  parts.mirror = mirror;
  await using mirroring = startKvstoremesh(mirror, signal);
  await Promise.all([published.ended, book.run(signal), mirroring.ended, renewing, claim.ended]);
}

/** With an etcd of its own no other apiserver may publish the same: replicas share one. */
async function claimOwnManifests(
  options: ApiserverOptions,
): Promise<Pick<ManifestsClaim, 'ended'> & AsyncDisposable> {
  const { etcd, cluster, clock, logger, signal } = options;
  if (etcd.kind === 'external') {
    return { ended: Promise.resolve(), [Symbol.asyncDispose]: () => Promise.resolve() };
  }
  const { dataDir } = etcd;
  const owner = { clusterName: cluster.name, dataDir, clock, logger, signal };
  return claimManifests(options.manifests, owner);
}

/** Shows etcd what its files hold now, whenever they change. */
async function renewEtcdTls(
  options: ApiserverOptions,
  users: readonly ((tls: EtcdTls) => void)[],
): Promise<void> {
  const { etcd, clock, logger, signal } = options;
  if (etcd.kind !== 'external' || etcd.tlsFiles === undefined) return;
  await followTlsFiles(etcd.tlsFiles, {
    use: (tls) => {
      for (const use of users) use(tls);
    },
    clock,
    logger,
    signal,
  });
}

/** The etcd, started or not, and a connection to it. */
async function openStore(
  options: ApiserverOptions,
  statistics: KvStatistics,
): Promise<
  AsyncDisposable & {
    readonly store: KvStore;
    readonly embedded: EmbeddedEtcd | undefined;
    readonly upstream: { readonly endpoints: readonly string[]; readonly tls: EtcdTls | undefined };
    readonly renewTls: (tls: EtcdTls) => void;
  }
> {
  const embedded = await startEtcd(options);
  const upstream =
    options.etcd.kind === 'external'
      ? { endpoints: options.etcd.endpoints, tls: options.etcd.tls }
      : embeddedUpstream(embedded);
  const { endpoints, tls } = upstream;
  let store: KvStore;
  let opened: EtcdStore;
  try {
    opened = await openEtcd({
      endpoints,
      clock: options.clock,
      ...(tls === undefined ? {} : { tls }),
    });
    store = measureStore(opened, { statistics, clock: options.clock });
  } catch (error) {
    await embedded?.[Symbol.asyncDispose]();
    throw error;
  }
  return {
    store,
    embedded,
    upstream,
    renewTls: opened.renewTls,
    async [Symbol.asyncDispose]() {
      await store[Symbol.asyncDispose]();
      await embedded?.[Symbol.asyncDispose]();
    },
  };
}

/** The name is given because TLS knows no addresses there: the certificate has both. */
function embeddedUpstream(embedded: EmbeddedEtcd | undefined): {
  readonly endpoints: readonly string[];
  readonly tls: EtcdTls | undefined;
} {
  if (embedded === undefined) return { endpoints: [], tls: undefined };
  return { endpoints: [embedded.endpoint], tls: { ...embedded.tls, serverName: 'localhost' } };
}

/** Starts the embedded etcd. While it starts, `signal` stops it; after that it ends last, when it is disposed of. */
async function startEtcd(options: ApiserverOptions): Promise<EmbeddedEtcd | undefined> {
  const { etcd, clock, logger, signal } = options;
  if (etcd.kind === 'external') return undefined;
  const { binary, dataDir, port } = etcd;
  const starting = new AbortController();
  const stop = (): void => starting.abort(signal.reason);
  signal.addEventListener('abort', stop, { once: true });
  try {
    return await openEmbeddedEtcd({
      binary,
      dataDir,
      port,
      clock,
      logger,
      signal: starting.signal,
    });
  } finally {
    signal.removeEventListener('abort', stop);
  }
}

/** How far publishing has come, and what to look at. */
function publishing(status: PublisherStatus | undefined): string {
  if (status === undefined) return 'etcd is being waited for; look at --etcd-endpoints, or the log';
  const error =
    status.lastError === undefined ? '' : `, the latest write failed: ${status.lastError}`;
  return `${status.pending} keys are to be written${error}; /status says more`;
}

/** What a reader would still miss. */
function missingParts(parts: Parts): string[] {
  const missing: string[] = [];
  const { etcd, published, gate, registry } = parts;
  if (etcd?.state.kind === 'restarting') {
    missing.push(`etcd is being started again, its last words: ${etcd.state.lastLine}`);
  }
  const status = published?.publisher.status;
  if (status?.ready !== true) missing.push(`not everything is published: ${publishing(status)}`);
  if (gate === undefined) missing.push('the gate is not open: it opens when all is published');
  if (registry === undefined) missing.push('the registry is not open: it opens after the gate');
  if (parts.mirror !== undefined) missing.push(...parts.mirror.missing);
  return missing;
}

function describeParts(options: ApiserverOptions, parts: Parts): unknown {
  return {
    cluster: options.cluster,
    missing: missingParts(parts),
    etcd: parts.etcd?.state,
    etcdUpkeep: parts.etcd?.maintenance,
    published: parts.published?.publisher.status,
    problems: parts.published?.problems,
    gate:
      parts.gate === undefined ? undefined : { address: parts.gate.address, ...parts.gate.status },
    registry: parts.registry?.address,
    nodes: parts.book?.report,
    kvstoremesh: parts.mirror?.describe(),
  };
}
