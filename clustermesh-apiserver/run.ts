/** An apiserver, put together. */
import { openEtcd } from '../mesh/kvstore/etcd.ts';
import type { EtcdTls } from '../mesh/kvstore/etcd-endpoint.ts';
import type { KvStore } from '../mesh/kvstore/kvstore.ts';
import type { Clock } from '../mesh/runtime/clock.ts';
import type { Logger } from '../mesh/runtime/log.ts';
import type { HostPort } from '../mesh/runtime/option-parsers.ts';
import type { ClusterId, ClusterName, MaxConnectedClusters } from '../mesh/wire/ids.ts';
import { type EmbeddedEtcd, openEmbeddedEtcd } from './etcd/embedded-etcd.ts';
import { type Gate, listenGate } from './gate/gate.ts';
import type { TrustFiles } from './gate/trust.ts';
import { listenHealth } from './health.ts';
import { checkManifests, checkServerFiles } from './preflight.ts';
import { type PublishedManifests, publishManifests } from './publish/publish-manifests.ts';
import { untilAnswered } from './publish/until-answered.ts';
import { createNodeBook, type NodeBook } from './registry/node-book.ts';
import { listenRegistry, type Registry } from './registry/registry.ts';

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

/** What has been started so far, for the health endpoint. */
interface Parts {
  etcd?: EmbeddedEtcd;
  published?: PublishedManifests;
  gate?: Gate;
  book?: NodeBook;
  registry?: Registry;
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
  const parts: Parts = {};
  await using _health = await listenHealth(options.healthAddress, {
    missing: () => missingParts(parts),
    status: () => describeParts(options, parts),
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
  await using etcd = await openStore(options);
  if (etcd.embedded !== undefined) parts.etcd = etcd.embedded;
  const { store } = etcd;
  await using lease = await untilAnswered(() => store.lease(options.leaseTtlSeconds, { signal }), {
    clock,
    logger,
    signal,
  });
  await using published = publishManifests({
    store,
    lease,
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
  logger.info(
    { cluster: cluster.name, gate: gate.address, registry: registry.address },
    'apiserver is ready',
  );
  await Promise.all([published.ended, book.run(signal)]);
}

/** The etcd, started or not, and a connection to it. */
async function openStore(options: ApiserverOptions): Promise<
  AsyncDisposable & {
    readonly store: KvStore;
    readonly embedded: EmbeddedEtcd | undefined;
    readonly upstream: { readonly endpoints: readonly string[]; readonly tls: EtcdTls | undefined };
  }
> {
  const embedded = await startEtcd(options);
  const upstream =
    options.etcd.kind === 'external'
      ? { endpoints: options.etcd.endpoints, tls: options.etcd.tls }
      : embeddedUpstream(embedded);
  const { endpoints, tls } = upstream;
  let store: KvStore;
  try {
    store = await openEtcd({
      endpoints,
      clock: options.clock,
      ...(tls === undefined ? {} : { tls }),
    });
  } catch (error) {
    await embedded?.[Symbol.asyncDispose]();
    throw error;
  }
  return {
    store,
    embedded,
    upstream,
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

/** What a reader would still miss. */
function missingParts(parts: Parts): string[] {
  const missing: string[] = [];
  if (parts.etcd?.state.kind === 'restarting') missing.push('etcd is being started again');
  if (parts.published?.publisher.status.ready !== true) missing.push('not everything is published');
  if (parts.gate === undefined) missing.push('the gate is not open');
  if (parts.registry === undefined) missing.push('the registry is not open');
  return missing;
}

function describeParts(options: ApiserverOptions, parts: Parts): unknown {
  return {
    cluster: options.cluster,
    missing: missingParts(parts),
    etcd: parts.etcd?.state,
    published: parts.published?.publisher.status,
    problems: parts.published?.problems,
    gate:
      parts.gate === undefined ? undefined : { address: parts.gate.address, ...parts.gate.status },
    registry: parts.registry?.address,
    nodes: parts.book?.report,
  };
}
