/** Cilium's real `clustermesh-apiserver kvstoremesh` as a process of a test. */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { type ChildHandle, startChild } from '../../mesh/runtime/child-process.ts';
import { findFreePort } from '../../mesh/testing/free-port.ts';
import type { TempDir } from '../../mesh/testing/temp-dir.ts';

const run = promisify(execFile);

/** A running one. Disposing stops it; what it mirrored stays. */
export interface CiliumKvstoremesh extends AsyncDisposable {
  readonly pid: number;
  /** All that it wrote to its log. */
  readonly lines: readonly string[];
}

/** Starts it for a cluster; `peersDir` has an etcd client file for each peer, and `dir` is for what it leaves about. */
export async function startCiliumKvstoremesh(
  binary: string,
  options: {
    readonly cluster: { readonly name: string; readonly id: number };
    readonly maxClusters?: 255 | 511;
    readonly peersDir: string;
    /** URL, without TLS, of the etcd that it mirrors into. */
    readonly localEndpoint: string;
    readonly dir: TempDir;
    readonly signal: AbortSignal;
  },
): Promise<CiliumKvstoremesh> {
  const { cluster, maxClusters = 255, peersDir, localEndpoint, dir, signal } = options;
  const healthPort = await findFreePort();
  const apiPort = await findFreePort();
  // Rates as Cilium's chart sets them for mirrors, but for the one after the first synchronisation.
  const rates = 'etcd.bootstrapQps=10000,etcd.qps=1000,etcd.maxInflight=10';
  const lines: string[] = [];
  const flags = [
    `--cluster-name=${cluster.name}`,
    `--cluster-id=${cluster.id}`,
    `--max-connected-clusters=${maxClusters}`,
    `--clustermesh-config=${peersDir}`,
    `--kvstore-opt=etcd.address=${localEndpoint},${rates}`,
    `--health-port=${healthPort}`,
    `--api-serve-addr=127.0.0.1:${apiPort}`,
    `--shell-sock-path=${dir.file(`${cluster.name}.shell.sock`)}`,
    '--enable-gops=false',
  ];
  const child: ChildHandle = startChild(binary, ['kvstoremesh', ...(await known(binary, flags))], {
    signal,
    name: 'cilium-kvstoremesh',
    onLine: (line) => lines.push(line),
  });
  return {
    pid: child.pid,
    lines,
    [Symbol.asyncDispose]: () => child[Symbol.asyncDispose](),
  };
}

/** Flags that this version has: older ones leave nothing about that a flag could move. */
async function known(binary: string, flags: readonly string[]): Promise<string[]> {
  const { stdout } = await run(binary, ['kvstoremesh', '--help']);
  return flags.filter((flag) => stdout.includes(` ${flag.split('=')[0]} `));
}
