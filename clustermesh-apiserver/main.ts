#!/usr/bin/env node
import { readFile } from 'node:fs/promises';
import { systemClock } from '../mesh/runtime/clock.ts';
import { checkClusterId } from '../mesh/runtime/cluster-options.ts';
import { createLogger } from '../mesh/runtime/log.ts';
import { OptionsError, type OptionValues, parseOptions } from '../mesh/runtime/options.ts';
import { parseClusterId } from '../mesh/wire/ids.ts';
import { APISERVER_OPTIONS } from './options.ts';
import { type EtcdSettings, runApiserver } from './run.ts';

const NAME = 'clustermesh-apiserver';
const EXIT_PROBLEM = 1;

const DESCRIPTION = `Publishes this cluster for its agents and its peers: reads Kubernetes YAML, keeps an etcd in Cilium's
layout, and lets readers in through a gate that knows who may read what.`;

type Values = OptionValues<typeof APISERVER_OPTIONS>;

async function main(argv: readonly string[], env: NodeJS.ProcessEnv): Promise<void> {
  const values = parseOptions(APISERVER_OPTIONS, argv, env, {
    name: NAME,
    description: DESCRIPTION,
  });
  const max = values.maxConnectedClusters;
  checkClusterId(values);
  const logger = createLogger(NAME, { level: values.logLevel });
  const ending = new AbortController();
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => ending.abort());
  await runApiserver({
    cluster: { name: values.clusterName, id: parseClusterId(values.clusterId, max) },
    maxConnectedClusters: max,
    manifests: values.manifests,
    files: {
      certFile: values.tlsCertFile,
      keyFile: values.tlsKeyFile,
      ownCaFile: values.trustedCaFile,
      peerTrustDir: values.peerTrustDir,
      revokedFile: values.revokedFile,
    },
    etcd: await etcdSettings(values),
    gateAddress: values.gateAddress,
    registryAddress: values.registryAddress,
    healthAddress: values.healthAddress,
    leaseTtlSeconds: Math.ceil(values.kvstoreLeaseTtl / 1000),
    heartbeatMs: values.heartbeatInterval,
    identityGraceMs: values.identityGrace,
    nodeSessionGraceMs: values.nodeSessionGrace,
    clock: systemClock,
    logger,
    signal: ending.signal,
  });
}

async function etcdSettings(values: Values): Promise<EtcdSettings> {
  if (values.etcdEndpoints.length === 0) {
    return {
      kind: 'embedded',
      binary: values.etcdBinary,
      dataDir: values.dataDir,
      port: values.etcdPort,
    };
  }
  const { etcdCaFile: ca, etcdCertFile: cert, etcdKeyFile: key } = values;
  const endpoints = values.etcdEndpoints;
  if (ca === undefined && cert === undefined && key === undefined) {
    return { kind: 'external', endpoints, tls: undefined };
  }
  if (ca === undefined || cert === undefined || key === undefined) {
    throw new OptionsError(
      'usage',
      '--etcd-ca-file, --etcd-cert-file and --etcd-key-file belong together: give all three or none',
    );
  }
  return {
    kind: 'external',
    endpoints,
    tls: {
      ca: await readOptionFile('--etcd-ca-file', ca),
      cert: await readOptionFile('--etcd-cert-file', cert),
      key: await readOptionFile('--etcd-key-file', key),
    },
  };
}

async function readOptionFile(flag: string, path: string): Promise<Buffer> {
  try {
    return await readFile(path);
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new OptionsError('usage', `${flag}: cannot read ${path}: ${why}`, { cause });
  }
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
  const { text, exitCode } = explain(error);
  if (exitCode === 0) process.stdout.write(`${text.trimEnd()}\n`);
  else for (const line of text.split('\n')) process.stderr.write(`${NAME}: ${line}\n`);
  process.exitCode = exitCode;
}
