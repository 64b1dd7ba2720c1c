/** Our clustermesh-apiserver as a process of a test, on an etcd of the test's. */
import { mkdir, rename, rm, writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { type ChildHandle, startChild } from '../../mesh/runtime/child-process.ts';
import { systemClock } from '../../mesh/runtime/clock.ts';
import { findFreePort } from '../../mesh/testing/free-port.ts';
import type { TempDir } from '../../mesh/testing/temp-dir.ts';
import { type CertificateAuthority, createCa, issueCertificate } from '../../pki/ca.ts';
import { type SecretFiles, writePrivateFile, writeSecret } from '../../pki/layout.ts';
import { serverLeaf } from '../../pki/names.ts';

const MAIN = fileURLToPath(new URL('../../clustermesh-apiserver/main.js', import.meta.url));
const READY_TIMEOUT_MS = 60_000;

/** It, with the authority of its cluster. Disposing ends it. */
export interface OurApiserver extends AsyncDisposable {
  readonly ca: CertificateAuthority;
  /** Port of the gate; stays the same over restarts. */
  readonly gatePort: number;
  /** The same of the registry. */
  readonly registryPort: number;
  /** Starts it and does not wait. */
  launch(): ChildHandle;
  /** Starts it; resolves when it is ready. */
  start(): Promise<void>;
  /** Ends it in order. */
  stop(): Promise<void>;
  /** Ends it at once, as a crash does. */
  kill(): Promise<void>;
  /** Its process; 0 before the first start. */
  readonly pid: number;
  /** Throws with its last lines when it does not run. */
  check(): void;
  /** Writes a file of Kubernetes YAML whole; without text it removes the file. */
  manifest(name: string, text: string | undefined): Promise<void>;
  /** Believes a peer's authority from the next start on. */
  trust(peer: string, ca: Pick<CertificateAuthority, 'root'>): Promise<void>;
}

/** Prepares it; it does not run yet. */
export async function prepareOurApiserver(options: {
  readonly cluster: { readonly name: string; readonly id: number };
  /** URL, without TLS, of its etcd. */
  readonly etcdEndpoint: string;
  /** Flags that say where the cluster's objects are. Default: the folder that `manifest` writes to. */
  readonly source?: readonly string[];
  /** Flags of Node, to profile it. */
  readonly nodeFlags?: readonly string[];
  readonly dir: TempDir;
  readonly signal: AbortSignal;
}): Promise<OurApiserver> {
  const { cluster, dir, signal } = options;
  const ca = await createCa({ commonName: `CA of ${cluster.name}` });
  const server = await writeSecret(dir.path, 'server', {
    ca: ca.root,
    pair: await issueCertificate(ca, serverLeaf(cluster.name)),
  });
  await mkdir(dir.file('manifests'));
  await mkdir(dir.file('peer-trust'));
  const [gatePort, registryPort, healthPort] = [
    await findFreePort(),
    await findFreePort(),
    await findFreePort(),
  ];
  const args = [
    ...identityFlags(cluster, server),
    ...(options.source ?? [`--manifests=${dir.file('manifests')}`]),
    `--peer-trust-dir=${dir.file('peer-trust')}`,
    `--etcd-endpoints=${options.etcdEndpoint}`,
    `--gate-address=127.0.0.1:${gatePort}`,
    `--registry-address=127.0.0.1:${registryPort}`,
    `--health-address=127.0.0.1:${healthPort}`,
    '--log-level=warn',
  ];
  let child: ChildHandle | undefined;
  let ended = false;
  const stop = async (): Promise<void> => {
    await child?.stop();
  };
  const launch = (): ChildHandle => {
    const started = startChild(process.execPath, [...(options.nodeFlags ?? []), MAIN, ...args], {
      signal,
      name: 'apiserver',
      onLine: () => undefined,
    });
    child = started;
    ended = false;
    void started.exited.then(() => {
      ended = child === started;
    });
    return started;
  };
  return {
    ca,
    gatePort,
    registryPort,
    stop,
    async kill() {
      child?.kill('SIGKILL');
      await child?.exited;
    },
    get pid() {
      return child?.pid ?? 0;
    },
    check: () => {
      if (ended) throw new Error(`it ended: ${child?.lastLines.join(' | ')}`);
    },
    launch,
    async start() {
      for (let attempt = 1; ; attempt += 1) {
        try {
          return await waitUntilReady(launch(), `http://127.0.0.1:${healthPort}/readyz`);
        } catch (error) {
          // While it was away, somebody may have been given one of its ports to call from; one that only is slow is not helped.
          const isTaken = ended;
          await stop();
          if (attempt === 3 || !isTaken) throw error;
        }
      }
    },
    async manifest(name, text) {
      const path = dir.file('manifests', name);
      if (text === undefined) return rm(path);
      const temporary = dir.file('manifests', `.${name}`);
      await writeFile(temporary, text);
      return rename(temporary, path);
    },
    trust: (peer, authority) =>
      writePrivateFile(dir.file('peer-trust', `${peer}.crt`), authority.root),
    [Symbol.asyncDispose]: stop,
  };
}

/** Starts our `clustermesh-apiserver kvstoremesh`; resolves when it says that every peer is mirrored. Disposing stops it. */
export async function startOurKvstoremesh(options: {
  readonly cluster: { readonly name: string; readonly id: number };
  readonly peersDir: string;
  /** URL, without TLS, of the etcd that it mirrors into. */
  readonly localEndpoint: string;
  readonly signal: AbortSignal;
}): Promise<ChildHandle> {
  const { cluster, peersDir, localEndpoint, signal } = options;
  const healthPort = await findFreePort();
  const args = [
    'kvstoremesh',
    `--cluster-name=${cluster.name}`,
    `--cluster-id=${cluster.id}`,
    `--clustermesh-config=${peersDir}`,
    `--etcd-endpoints=${localEndpoint}`,
    `--health-address=127.0.0.1:${healthPort}`,
    '--log-level=warn',
  ];
  const child = startChild(process.execPath, [MAIN, ...args], {
    signal,
    name: 'kvstoremesh',
    onLine: () => undefined,
  });
  await waitUntilReady(child, `http://127.0.0.1:${healthPort}/readyz`);
  return child;
}

function identityFlags(
  cluster: { readonly name: string; readonly id: number },
  server: SecretFiles,
): string[] {
  return [
    `--cluster-name=${cluster.name}`,
    `--cluster-id=${cluster.id}`,
    `--tls-cert-file=${server.certificate}`,
    `--tls-key-file=${server.privateKey}`,
    `--trusted-ca-file=${server.ca}`,
  ];
}

async function waitUntilReady(child: ChildHandle, url: string): Promise<void> {
  const deadline = systemClock.monotonic() + READY_TIMEOUT_MS;
  let ended = false;
  void child.exited.then(() => {
    ended = true;
  });
  for (;;) {
    const answer = await fetch(url).catch(() => undefined);
    await answer?.body?.cancel();
    if (answer?.ok) return;
    if (ended || systemClock.monotonic() > deadline) {
      throw new Error(`it is not ready: ${child.lastLines.join(' | ')}`);
    }
    await systemClock.sleep(20);
  }
}
