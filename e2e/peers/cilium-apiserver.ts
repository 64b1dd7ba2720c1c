/** Cilium's real `clustermesh-apiserver clustermesh` as a process of a test: from an API server into an etcd of the test's. */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { type ChildHandle, startChild } from '../../mesh/runtime/child-process.ts';
import { findFreePort } from '../../mesh/testing/free-port.ts';
import type { TempDir } from '../../mesh/testing/temp-dir.ts';
import { untilReady } from '../../mesh/testing/until-ready.ts';

const run = promisify(execFile);
const READY_TIMEOUT_MS = 300_000;

/** A running one. Disposing stops it; what it wrote stays until its lease runs out. */
export interface CiliumApiserver extends AsyncDisposable {
  readonly pid: number;
  /** Resolves when it says that everything has been written once. */
  readonly ready: Promise<void>;
  /** Ends it at once, as a crash does. */
  kill(): Promise<void>;
  /** Rejects with its last lines when it has ended by itself. */
  check(): void;
}

/** Starts one; resolves before it is ready. */
export async function startCiliumApiserver(
  binary: string,
  options: {
    readonly cluster: { readonly name: string; readonly id: number };
    readonly kubeconfig: string;
    /** URL, without TLS, of the etcd that it writes. */
    readonly etcdEndpoint?: string;
    /** Or: an etcd client file. */
    readonly etcdConfigFile?: string;
    /** Reads CiliumEndpointSlices in place of CiliumEndpoints. Default false. */
    readonly endpointSlices?: boolean;
    /** Default true. */
    readonly serviceExports?: boolean;
    /** For what it leaves about. */
    readonly dir: TempDir;
    readonly signal: AbortSignal;
  },
): Promise<CiliumApiserver> {
  const { cluster, dir, signal, endpointSlices = false, serviceExports = true } = options;
  const healthPort = await findFreePort();
  // Cilium's chart gives 20 a second; what is measured and compared are not its limits.
  const rates = 'etcd.bootstrapQps=100000,etcd.qps=100000,etcd.maxInflight=1000';
  const place =
    options.etcdConfigFile === undefined
      ? `etcd.address=${options.etcdEndpoint}`
      : `etcd.config=${options.etcdConfigFile}`;
  const flags = [
    `--cluster-name=${cluster.name}`,
    `--cluster-id=${cluster.id}`,
    `--k8s-kubeconfig-path=${options.kubeconfig}`,
    '--k8s-client-qps=10000',
    '--k8s-client-burst=10000',
    `--kvstore-opt=${place},${rates}`,
    `--enable-cilium-endpoint-slice=${endpointSlices}`,
    `--clustermesh-enable-mcs-api=${serviceExports}`,
    '--clustermesh-mcs-api-install-crds=false',
    `--health-port=${healthPort}`,
    `--shell-sock-path=${dir.file(`cilium-${healthPort}.sock`)}`,
    '--enable-gops=false',
    '--log-opt=level=warn',
  ];
  const known = await knownFlags(binary, flags);
  const child: ChildHandle = startChild(binary, ['clustermesh', ...known], {
    signal,
    name: 'cilium-apiserver',
    onLine: () => undefined,
  });
  let ended = false;
  void child.exited.then(() => {
    ended = true;
  });
  const isReady = async (): Promise<void> => {
    const answer = await fetch(`http://127.0.0.1:${healthPort}/readyz`);
    await answer.body?.cancel();
    if (!answer.ok) throw new Error(`/readyz answers ${answer.status}`);
  };
  const ready = untilReady(child, isReady, {
    what: "Cilium's clustermesh-apiserver",
    timeoutMs: READY_TIMEOUT_MS,
  });
  // Whoever does not wait for it is told by check().
  ready.catch(() => undefined);
  return {
    pid: child.pid,
    ready,
    async kill() {
      child.kill('SIGKILL');
      await child.exited;
    },
    check: () => {
      if (ended) throw new Error(`it ended: ${child.lastLines.join(' | ')}`);
    },
    [Symbol.asyncDispose]: () => child[Symbol.asyncDispose](),
  };
}

/** Flags that this version has. */
async function knownFlags(binary: string, flags: readonly string[]): Promise<string[]> {
  const { stdout } = await run(binary, ['clustermesh', '--help']);
  return flags.filter((flag) => stdout.includes(` ${flag.split('=')[0]} `));
}
