/** An etcd as Cilium's own clustermesh-apiserver has it: prepared by its `etcdinit`, with its users and roles, over TLS. */
import { execFile } from 'node:child_process';
import { mkdir, writeFile } from 'node:fs/promises';
import { promisify } from 'node:util';
import { stringify } from 'yaml';
import { type ChildHandle, startChild } from '../../mesh/runtime/child-process.ts';
import { systemClock } from '../../mesh/runtime/clock.ts';
import { findFreePort } from '../../mesh/testing/free-port.ts';
import type { TempDir } from '../../mesh/testing/temp-dir.ts';
import { untilReady } from '../../mesh/testing/until-ready.ts';
import { type CertificateAuthority, createCa, issueCertificate } from '../../pki/ca.ts';
import { type SecretFiles, writeSecret } from '../../pki/layout.ts';
import { adminLeaf, serverLeaf } from '../../pki/names.ts';

const run = promisify(execFile);
const ETCD = '/usr/bin/etcd';
/** As Cilium's chart names the member. */
const MEMBER = 'clustermesh-apiserver';
const READY_TIMEOUT_MS = 60_000;

/** It, running. Disposing kills it. */
export interface CiliumEtcd extends AsyncDisposable {
  readonly endpoint: string;
  /** etcd client file of the user that may write everything, `admin-<cluster>`. */
  readonly adminFile: string;
  /** Makes the user `remote-<peer>` as Cilium's apiserver does for each peer that it is told of. */
  addPeerUser(peer: string): Promise<void>;
  /** Runs etcdctl as the administrator; resolves to what it printed. */
  etcdctl(...args: readonly string[]): Promise<string>;
  kill(): Promise<void>;
  /** Starts it again on the same data and port. */
  start(): Promise<void>;
}

/** Prepares and starts one with an authority of its own; needs root, see `startCiliumEtcd`. */
export async function openCiliumEtcd(
  binary: string,
  options: { readonly cluster: string; readonly dir: TempDir; readonly signal: AbortSignal },
): Promise<CiliumEtcd & { readonly ca: CertificateAuthority }> {
  const { cluster, dir } = options;
  const ca = await createCa({ commonName: `CA of ${cluster}` });
  const [server, admin] = await Promise.all([
    writeSecret(dir.path, `${cluster}-server`, {
      ca: ca.root,
      pair: await issueCertificate(ca, serverLeaf(cluster)),
    }),
    writeSecret(dir.path, `${cluster}-admin`, {
      ca: ca.root,
      pair: await issueCertificate(ca, adminLeaf(cluster)),
    }),
  ]);
  return { ...(await startCiliumEtcd(binary, { ...options, server, admin })), ca };
}

/**
 * Prepares and starts one with certificates that are there: of the server, and of `admin-<cluster>`. `etcdinit` always uses port
 * 2379 of localhost, so it runs in a network namespace of its own, which needs root.
 */
export async function startCiliumEtcd(
  binary: string,
  options: {
    readonly cluster: string;
    readonly dir: TempDir;
    readonly server: SecretFiles;
    readonly admin: SecretFiles;
    readonly signal: AbortSignal;
  },
): Promise<CiliumEtcd> {
  const { cluster, dir, server, admin, signal } = options;
  const dataDir = dir.file(`${cluster}-etcd`);
  await mkdir(dataDir, { mode: 0o700 });
  await initialise(binary, { cluster, dataDir });
  const endpoint = `https://127.0.0.1:${await findFreePort()}`;
  const etcdctl = async (...args: readonly string[]): Promise<string> => {
    const flags = [
      `--cacert=${admin.ca}`,
      `--cert=${admin.certificate}`,
      `--key=${admin.privateKey}`,
    ];
    const env = { ETCDCTL_API: '3', PATH: '/usr/bin:/bin' };
    return (await run('etcdctl', [`--endpoints=${endpoint}`, ...flags, ...args], { env })).stdout;
  };
  let child: ChildHandle | undefined;
  const start = async (): Promise<void> => {
    child = startChild(ETCD, serverFlags({ endpoint, dataDir, server }), {
      signal,
      name: 'cilium-etcd',
      onLine: () => undefined,
    });
    await untilReady(child, () => etcdctl('get', 'any', '--command-timeout=1s'), {
      what: "Cilium's etcd",
      timeoutMs: READY_TIMEOUT_MS,
    });
  };
  const kill = async (): Promise<void> => {
    child?.kill('SIGKILL');
    await child?.exited;
  };
  await start();
  return {
    endpoint,
    adminFile: await writeClientFile(dir, `${cluster}-admin.yaml`, { endpoint, files: admin }),
    async addPeerUser(peer) {
      await etcdctl('user', 'add', `remote-${peer}`, '--no-password');
      await etcdctl('user', 'grant-role', `remote-${peer}`, 'remote');
    },
    etcdctl,
    kill,
    start,
    [Symbol.asyncDispose]: kill,
  };
}

async function initialise(
  binary: string,
  { cluster, dataDir }: { cluster: string; dataDir: string },
): Promise<void> {
  const inside = 'ip link set lo up && exec "$@"';
  const flags = [
    `--cluster-name=${cluster}`,
    `--etcd-data-dir=${dataDir}`,
    `--etcd-cluster-name=${MEMBER}`,
    `--etcd-initial-cluster-token=${cluster}-${systemClock.now()}`,
    '--timeout=30s',
  ];
  await run('unshare', ['--net', '--', 'sh', '-c', inside, 'sh', binary, 'etcdinit', ...flags], {
    maxBuffer: 16 * 1024 * 1024,
  });
}

function serverFlags(options: {
  readonly endpoint: string;
  readonly dataDir: string;
  readonly server: SecretFiles;
}): string[] {
  const { endpoint, dataDir, server } = options;
  return [
    `--name=${MEMBER}`,
    `--data-dir=${dataDir}`,
    `--listen-client-urls=${endpoint}`,
    `--advertise-client-urls=${endpoint}`,
    // The only member never talks to others.
    '--listen-peer-urls=http://127.0.0.1:0',
    '--client-cert-auth',
    `--trusted-ca-file=${server.ca}`,
    `--cert-file=${server.certificate}`,
    `--key-file=${server.privateKey}`,
    '--logger=zap',
    '--log-level=warn',
  ];
}

async function writeClientFile(
  dir: TempDir,
  name: string,
  { endpoint, files }: { endpoint: string; files: SecretFiles },
): Promise<string> {
  const path = dir.file(name);
  const content = {
    endpoints: [endpoint],
    'trusted-ca-file': files.ca,
    'cert-file': files.certificate,
    'key-file': files.privateKey,
  };
  await writeFile(path, stringify(content));
  return path;
}
