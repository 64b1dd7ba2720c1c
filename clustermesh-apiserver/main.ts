#!/usr/bin/env node
import { systemClock } from '../mesh/runtime/clock.ts';
import { checkClusterId } from '../mesh/runtime/cluster-options.ts';
import { firstFailure } from '../mesh/runtime/first-failure.ts';
import { createLogger, logLevelSteps } from '../mesh/runtime/log.ts';
import { OptionsError, type OptionValues, parseOptions } from '../mesh/runtime/options.ts';
import { packageVersion } from '../mesh/runtime/package-version.ts';
import { parseClusterId } from '../mesh/wire/ids.ts';
import { enrollmentSettings } from './enrollment-options.ts';
import { etcdTlsPaths, readEtcdTlsFiles } from './etcd-tls-files.ts';
import { collectGarbage, setUpGarbageCollection } from './garbage.ts';
import { KVSTOREMESH_OPTIONS } from './kvstoremesh/options.ts';
import { runKvstoremesh } from './kvstoremesh/run.ts';
import type { EtcdSettings } from './open-store.ts';
import { APISERVER_OPTIONS } from './options.ts';
import { peeringSettings, withPeering } from './peering-options.ts';
import { type ApiserverOptions, runApiserver } from './run.ts';
import { controllersSettings, sourceSettings } from './source-settings.ts';

const NAME = 'clustermesh-apiserver';
const EXIT_PROBLEM = 1;

const DESCRIPTION = `Publishes this cluster for its agents and its peers: reads it from Kubernetes' API server or from a
directory of YAML, keeps an etcd in Cilium's layout, and lets readers in through a gate that knows who may read what.`;

const MIRROR_DESCRIPTION = `Mirrors every peer into this cluster's own etcd, in the layout of Cilium's kvstoremesh, so that its
agents read one etcd alone.`;

type Values = OptionValues<typeof APISERVER_OPTIONS>;

async function main(argv: readonly string[], env: NodeJS.ProcessEnv): Promise<void> {
  if (argv[0] === 'kvstoremesh') return mainOfMirror(argv.slice(1), env);
  if (argv[0] === '--version') {
    process.stdout.write(`${NAME} ${packageVersion()}\n`);
    return;
  }
  setUpGarbageCollection();
  const parsed = parseOptions(APISERVER_OPTIONS, argv, env, {
    name: NAME,
    description: DESCRIPTION,
  });
  const peering = peeringSettings(parsed);
  const values = withPeering(parsed, peering);
  const max = values.maxConnectedClusters;
  checkClusterId(values);
  const logger = createLogger(NAME, { level: values.logLevel });
  process.on('SIGUSR2', logLevelSteps(logger, values.logLevel));
  const ending = new AbortController();
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => ending.abort());
  await runApiserver({
    onPublished: collectGarbage,
    cluster: { name: values.clusterName, id: parseClusterId(values.clusterId, max) },
    maxConnectedClusters: max,
    ...sourceSettings(values),
    controllers: controllersSettings(values),
    conversion: {
      globalNamespacesByDefault: values.clustermeshDefaultGlobalNamespace,
      ...(values.labels === undefined ? {} : { labelFilter: values.labels }),
    },
    files: {
      certFile: values.tlsCertFile,
      keyFile: values.tlsKeyFile,
      ownCaFile: values.trustedCaFile,
      peerTrustDir: values.peerTrustDir,
      revokedFile: values.revokedFile,
    },
    etcd: await etcdSettings(values),
    kvstoremesh: mirrorSettings(values),
    clustermeshConfig: values.clustermeshConfig,
    peering,
    gateAddress: values.gateAddress,
    registryAddress: values.registryAddress,
    healthAddress: values.healthAddress,
    metricsAddress: values.metricsAddress,
    leaseTtlSeconds: Math.ceil(values.kvstoreLeaseTtl / 1000),
    heartbeatMs: values.heartbeatInterval,
    identityGraceMs: values.identityGrace,
    nodeSessionGraceMs: values.nodeSessionGrace,
    vmSessionGraceMs: values.vmSessionGrace,
    enrollment: enrollmentSettings(values),
    clock: systemClock,
    logger,
    signal: ending.signal,
  });
}

async function etcdSettings(values: Values): Promise<EtcdSettings> {
  if (values.etcdEndpoints.length === 0) {
    if (values.etcdExclusive) {
      throw new OptionsError('usage', '--etcd-exclusive needs --etcd-endpoints');
    }
    return {
      kind: 'embedded',
      binary: values.etcdBinary,
      dataDir: values.dataDir,
      port: values.etcdPort,
    };
  }
  return {
    kind: 'external',
    endpoints: values.etcdEndpoints,
    isShared: !values.etcdExclusive,
    tls: await readEtcdTlsFiles(values),
    tlsFiles: etcdTlsPaths(values),
  };
}

/** What `--kvstoremesh` needs; undefined without it. */
function mirrorSettings(values: Values): ApiserverOptions['kvstoremesh'] {
  if (!values.kvstoremesh) return undefined;
  if (values.clustermeshConfig === undefined) {
    throw new OptionsError(
      'usage',
      "--kvstoremesh needs --clustermesh-config, the directory of the peers' files",
    );
  }
  return {
    directory: values.clustermeshConfig,
    perClusterReadyTimeoutMs: values.perClusterReadyTimeout,
    globalReadyTimeoutMs: values.globalReadyTimeout,
  };
}

/** `clustermesh-apiserver kvstoremesh`. */
async function mainOfMirror(argv: readonly string[], env: NodeJS.ProcessEnv): Promise<void> {
  const name = `${NAME} kvstoremesh`;
  const values = parseOptions(KVSTOREMESH_OPTIONS, argv, env, {
    name,
    description: MIRROR_DESCRIPTION,
  });
  const max = values.maxConnectedClusters;
  checkClusterId(values);
  const ending = new AbortController();
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => ending.abort());
  const logger = createLogger('kvstoremesh', { level: values.logLevel });
  process.on('SIGUSR2', logLevelSteps(logger, values.logLevel));
  await runKvstoremesh({
    own: { name: values.clusterName, id: parseClusterId(values.clusterId, max), max },
    directory: values.clustermeshConfig,
    etcd: { endpoints: values.etcdEndpoints, tls: await readEtcdTlsFiles(values) },
    leaseTtlSeconds: Math.ceil(values.kvstoreLeaseTtl / 1000),
    perClusterReadyTimeoutMs: values.perClusterReadyTimeout,
    globalReadyTimeoutMs: values.globalReadyTimeout,
    healthAddress: values.healthAddress,
    metricsAddress: values.metricsAddress,
    clock: systemClock,
    logger,
    signal: ending.signal,
  });
}

/** What went wrong, as text for people, and the exit code. */
function explain(error: unknown): { readonly text: string; readonly exitCode: number } {
  const text = error instanceof Error ? error.message : String(error);
  if (error instanceof OptionsError) return { text, exitCode: error.exitCode };
  const hasCode = error instanceof Error && 'code' in error && typeof error.code === 'string';
  // Without a code of ours it is a fault of the program: whoever mends it needs to know where.
  const stack = error instanceof Error ? error.stack : undefined;
  return { text: hasCode ? text : (stack ?? text), exitCode: EXIT_PROBLEM };
}

try {
  await main(process.argv.slice(2), process.env);
} catch (error) {
  const { text, exitCode } = explain(firstFailure(error));
  if (exitCode === 0) process.stdout.write(`${text.trimEnd()}\n`);
  else for (const line of text.split('\n')) process.stderr.write(`${NAME}: ${line}\n`);
  process.exitCode = exitCode;
}
