/** A simulated mesh: etcd filled as Cilium fills it, and real agents that read it into real eBPF maps. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { fetchStatus } from '../agent/api/client.ts';
import type { AgentStatus } from '../agent/api/status.ts';
import { openTestBpffs } from '../agent/datapath/testing/bpffs.ts';
import { openTestCgroup } from '../agent/datapath/testing/cgroup.ts';
import { openEtcd } from '../mesh/kvstore/etcd.ts';
import type { KvStore } from '../mesh/kvstore/kvstore.ts';
import { type ChildHandle, startChild } from '../mesh/runtime/child-process.ts';
import { systemClock } from '../mesh/runtime/clock.ts';
import { projectPath } from '../mesh/runtime/project-path.ts';
import { type EtcdServer, openEtcdServer } from '../mesh/testing/etcd-server.ts';
import { openTempDir } from '../mesh/testing/temp-dir.ts';
import { keysOfCluster, type MeshCluster, ownCluster, type PlannedKey } from './mesh-plan.ts';

const AGENT_MAIN = fileURLToPath(new URL('../agent/main.js', import.meta.url));
const KEYS_A_TRANSACTION = 100;
const WRITERS = 8;
/** Of `/proc/<pid>/stat`, on every Linux that Node runs on. */
const TICKS_PER_SECOND = 100;

/** What a process uses, from `/proc`. */
export interface ProcessUse {
  readonly residentBytes: number;
  /** The most it ever had. */
  readonly peakBytes: number;
  readonly cpuSeconds: number;
}

/** A running agent. Disposing ends it and leaves its maps. */
export interface BenchAgent extends AsyncDisposable {
  /** When it was started, by the monotonic clock. */
  readonly startedAt: number;
  readonly bpfRoot: string;
  use(): ProcessUse;
  status(): Promise<AgentStatus>;
  kill(): Promise<void>;
  /** Throws with its last lines when it has ended by itself. */
  check(): void;
}

/** etcd servers with the mesh in them. */
export interface MeshLab extends AsyncDisposable {
  /** Store that holds a cluster's keys. */
  storeOf(cluster: MeshCluster): KvStore;
  /** Folder below which the agent of that name keeps its maps. */
  bpfRootOf(name: string): string;
  /** CPU seconds of all etcds so far. */
  etcdCpu(): number;
  /** Starts an agent that reads these peers; `name` tells agents apart, and one started again finds its maps. */
  startAgent(options: {
    readonly name: string;
    readonly peers: readonly MeshCluster[];
    /** Flags of Node. */
    readonly nodeFlags?: readonly string[];
  }): Promise<BenchAgent>;
}

/** Starts etcd servers and writes the peers into them: all into one, or as many as `etcds` says, a share each. */
export async function openMeshLab(
  peers: readonly MeshCluster[],
  options: { readonly etcds: number; readonly signal: AbortSignal },
): Promise<MeshLab> {
  const { etcds, signal } = options;
  const stack: AsyncDisposable[] = [];
  const keep = <T extends AsyncDisposable>(item: T): T => {
    stack.unshift(item);
    return item;
  };
  const close = async (): Promise<void> => {
    for (const item of stack.splice(0)) await item[Symbol.asyncDispose]();
  };
  try {
    const dir = keep(await openTempDir('bench-mesh'));
    const servers: EtcdServer[] = [];
    const stores: KvStore[] = [];
    // With etcds of their own for the peers, there is one more for the agent's own cluster.
    for (let index = 0; index < (etcds === 1 ? 1 : etcds + 1); index += 1) {
      const server = keep(await openEtcdServer({ args: ['--quota-backend-bytes=8589934592'] }));
      servers.push(server);
      stores.push(keep(await openEtcd({ endpoints: [server.endpoint] })));
    }
    const max = peers[0]?.max ?? 255;
    const own = ownCluster(max);
    const at = <T>(items: readonly T[], cluster: MeshCluster): T => {
      const found = cluster === own ? items.at(-1) : items[(cluster.id - 2) % etcds];
      if (found === undefined) throw new Error(`cannot find the etcd of ${cluster.name}`);
      return found;
    };
    for (const cluster of [own, ...peers]) {
      await fillStore(at(stores, cluster), keysOfCluster(cluster));
    }
    const bpffs = keep(await openTestBpffs('bench'));
    const cgroup = keep(openTestCgroup());
    const configOf = (cluster: MeshCluster): string =>
      `endpoints:\n- ${at(servers, cluster).endpoint}\n`;
    writeFileSync(dir.file('own.yaml'), configOf(own));
    return {
      storeOf: (cluster) => at(stores, cluster),
      bpfRootOf: (name) => join(bpffs.path, name),
      etcdCpu: () => servers.reduce((sum, { pid }) => sum + processUse(pid).cpuSeconds, 0),
      async startAgent({ name, peers: read, nodeFlags = [] }) {
        const folder = dir.file(name);
        const bpfRoot = join(bpffs.path, name);
        for (const path of [folder, bpfRoot, join(folder, 'peers')]) {
          mkdirSync(path, { recursive: true });
        }
        for (const cluster of read) {
          writeFileSync(join(folder, 'peers', cluster.name), configOf(cluster));
        }
        const socketPath = join(folder, 'agent.sock');
        const startedAt = systemClock.monotonic();
        const child = startChild(
          process.execPath,
          [
            ...nodeFlags,
            AGENT_MAIN,
            'run',
            `--cluster-name=${own.name}`,
            `--cluster-id=${own.id}`,
            `--max-connected-clusters=${max}`,
            '--node-name=bench',
            '--node-ip=192.0.2.250',
            `--etcd-config=${dir.file('own.yaml')}`,
            `--clustermesh-config=${join(folder, 'peers')}`,
            `--state-dir=${join(folder, 'state')}`,
            `--socket-path=${socketPath}`,
            `--bpf-root=${bpfRoot}`,
            `--cgroup-root=${cgroup.path}`,
            `--object-dir=${projectPath('dist/bpf')}`,
            '--log-level=warn',
          ],
          { name: 'agent', signal },
        );
        return benchAgent(child, { startedAt, bpfRoot, socketPath });
      },
      [Symbol.asyncDispose]: close,
    };
  } catch (error) {
    await close();
    throw error;
  }
}

function benchAgent(
  child: ChildHandle,
  facts: { startedAt: number; bpfRoot: string; socketPath: string },
): BenchAgent {
  let ended = false;
  void child.exited.then(() => {
    ended = true;
  });
  return {
    startedAt: facts.startedAt,
    bpfRoot: facts.bpfRoot,
    use: () => processUse(child.pid),
    status: () => fetchStatus(facts.socketPath),
    async kill() {
      child.kill('SIGKILL');
      await child.exited;
    },
    check() {
      if (ended) throw new Error(`the agent ended: ${child.lastLines.join(' | ')}`);
    },
    [Symbol.asyncDispose]: async () => void (await child.stop()),
  };
}

/** Reads what a process uses. */
export function processUse(pid: number): ProcessUse {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  const status = readFileSync(`/proc/${pid}/status`, 'utf8');
  const kibibytes = (name: string): number =>
    Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(status)?.[1] ?? Number.NaN);
  return {
    residentBytes: kibibytes('VmRSS') * 1024,
    peakBytes: kibibytes('VmHWM') * 1024,
    cpuSeconds: (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND,
  };
}

/** Writes keys as fast as etcd takes them, in no order. */
export async function fillStore(store: KvStore, planned: Iterable<PlannedKey>): Promise<void> {
  const keys = planned[Symbol.iterator]();
  const write = async (): Promise<void> => {
    for (;;) {
      const then = [];
      for (let count = 0; count < KEYS_A_TRANSACTION; count += 1) {
        const next = keys.next();
        if (next.done === true) break;
        then.push({ kind: 'put' as const, ...next.value });
      }
      if (then.length === 0) return;
      await store.transact({ compare: [], then });
    }
  };
  await Promise.all(Array.from({ length: WRITERS }, write));
}
