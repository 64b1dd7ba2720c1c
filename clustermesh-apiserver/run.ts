/** An apiserver put together: etcd, publisher, gate, registry, health. */
import { readFile, stat } from 'node:fs/promises';
import { openEtcd } from '../mesh/kvstore/etcd.ts';
import type { EtcdTls } from '../mesh/kvstore/etcd-endpoint.ts';
import { KvError, type KvLease, type KvStore } from '../mesh/kvstore/kvstore.ts';
import { createBackoff } from '../mesh/runtime/backoff.ts';
import { systemClock } from '../mesh/runtime/clock.ts';
import type { Logger } from '../mesh/runtime/log.ts';
import type { OptionValues } from '../mesh/runtime/options.ts';
import { parseClusterId } from '../mesh/wire/ids.ts';
import { type EmbeddedEtcd, openEmbeddedEtcd } from './etcd/embedded-etcd.ts';
import { listenGate } from './gate/gate.ts';
import { listenHealth } from './health.ts';
import type { APISERVER_OPTIONS } from './options.ts';
import { createPublisher } from './publish/publisher.ts';
import { type ManifestProblem, watchManifests } from './sources/manifests.ts';

/** Values of the command line. */
export type ApiserverOptions = OptionValues<typeof APISERVER_OPTIONS>;

/** What keeps an apiserver from starting although its options are well-formed. */
export class ApiserverError extends Error {
  readonly code: 'bad-option';
  readonly retryable = false;

  constructor(message: string, options: { cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'ApiserverError';
    this.code = 'bad-option';
  }
}

/**
 * Runs an apiserver until `signal` aborts. Everything that a user can get wrong is checked before etcd is started; ending
 * leaves what is published in etcd, whose lease the next start takes over.
 */
export async function runApiserver(
  values: ApiserverOptions,
  context: { readonly logger: Logger; readonly signal: AbortSignal },
): Promise<void> {
  const { logger, signal } = context;
  const max = values.maxConnectedClusters;
  if (values.clusterId > max) {
    throw new ApiserverError(
      `--cluster-id: ${values.clusterId} is above --max-connected-clusters=${max}`,
    );
  }
  const cluster = { name: values.clusterName, id: parseClusterId(values.clusterId, max) };
  await checkManifests(values.manifests);
  const external = await externalEtcd(values);

  await using embedded = external === undefined ? await startEtcd(values, context) : undefined;
  const upstream = external ?? { endpoints: [embedded?.endpoint ?? ''], tls: embedded?.tls };
  await using store = await openEtcd({
    endpoints: upstream.endpoints,
    ...(upstream.tls === undefined ? {} : { tls: upstream.tls }),
  });
  await using gate = await listenGate({
    address: values.gateAddress,
    certFile: values.tlsCertFile,
    keyFile: values.tlsKeyFile,
    ownCaFile: values.trustedCaFile,
    peerTrustDir: values.peerTrustDir,
    revokedFile: values.revokedFile,
    clusterName: cluster.name,
    upstream,
    signal,
    logger,
  });
  await using lease = await openLease(store, {
    ttlSeconds: values.kvstoreLeaseTtl / 1000,
    ...context,
  });
  const publisher = createPublisher({
    store,
    lease,
    cluster,
    maxConnectedClusters: max,
    heartbeatMs: values.heartbeatInterval,
    logger,
  });
  let problems: readonly ManifestProblem[] = [];
  await using health = await listenHealth(values.healthAddress, {
    notReady: () => [
      ...(publisher.status.ready ? [] : ['not everything is published yet']),
      ...(embedded?.state.kind === 'restarting'
        ? [`etcd is being started again: ${embedded.state.lastLine}`]
        : []),
      ...(publisher.status.lastError === undefined
        ? []
        : [`cannot write to etcd: ${publisher.status.lastError}`]),
    ],
    status: () => ({
      cluster,
      published: publisher.status,
      gate: gate.status,
      etcd: embedded?.state,
      problems,
    }),
  });
  logger.info(
    { gate: gate.address, health: health.address, etcd: upstream.endpoints, cluster },
    'apiserver is listening',
  );
  const manifests = watchManifests(values.manifests, {
    signal,
    onProblems: (found) => {
      reportProblems(found, problems, logger);
      problems = found;
    },
  });
  await publisher.run(manifests, signal);
  logger.info('apiserver ends, what it published stays until its lease does');
}

async function startEtcd(
  values: ApiserverOptions,
  context: { readonly logger: Logger; readonly signal: AbortSignal },
): Promise<EmbeddedEtcd> {
  return openEmbeddedEtcd({
    binary: values.etcdBinary,
    dataDir: values.dataDir,
    port: values.etcdPort,
    ...context,
  });
}

/** The etcd that others run, where one is given. */
async function externalEtcd(
  values: ApiserverOptions,
): Promise<{ endpoints: readonly string[]; tls: EtcdTls | undefined } | undefined> {
  if (values.etcdEndpoints.length === 0) return undefined;
  const { etcdCaFile, etcdCertFile, etcdKeyFile } = values;
  if (etcdCaFile === undefined && etcdCertFile === undefined && etcdKeyFile === undefined) {
    return { endpoints: values.etcdEndpoints, tls: undefined };
  }
  const [ca, cert, key] = await Promise.all([
    readOptionFile('--etcd-ca-file', etcdCaFile),
    readOptionFile('--etcd-cert-file', etcdCertFile),
    readOptionFile('--etcd-key-file', etcdKeyFile),
  ]);
  return { endpoints: values.etcdEndpoints, tls: { ca, cert, key } };
}

async function readOptionFile(flag: string, path: string | undefined): Promise<Buffer> {
  if (path === undefined) {
    throw new ApiserverError(
      `${flag} is missing: --etcd-ca-file, --etcd-cert-file and --etcd-key-file belong together`,
    );
  }
  try {
    return await readFile(path);
  } catch (cause) {
    throw new ApiserverError(
      `${flag}: cannot read ${path}: ${cause instanceof Error ? cause.message : String(cause)}`,
      {
        cause,
      },
    );
  }
}

/** A missing directory is a mistake of the command line; one that vanishes later is a passing state of a mount. */
async function checkManifests(directory: string): Promise<void> {
  const found = await stat(directory).catch((cause: unknown) => {
    throw new ApiserverError(
      `--manifests: cannot read ${directory}: ${cause instanceof Error ? cause.message : String(cause)}; make it, or name the folder with this cluster's YAML`,
      { cause },
    );
  });
  if (!found.isDirectory()) throw new ApiserverError(`--manifests: ${directory} is no directory`);
}

async function openLease(
  store: KvStore,
  options: { readonly ttlSeconds: number; readonly logger: Logger; readonly signal: AbortSignal },
): Promise<KvLease> {
  const backoff = createBackoff({ minMs: 100, maxMs: 5_000 });
  for (;;) {
    try {
      return await store.lease(options.ttlSeconds, { signal: options.signal });
    } catch (error) {
      if (options.signal.aborted || !(error instanceof KvError) || !error.retryable) throw error;
      options.logger.warn({ err: error }, 'cannot make a lease, will be retried');
      await systemClock.sleep(backoff.next(), options.signal);
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
