/** Etcds of peers, and mirrors of them into an etcd of their own: ours and Cilium's, each a process of its own. */
import { mkdir, writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { findPeer } from '../e2e/peers/peer-binary.ts';
import { openEtcd } from '../mesh/kvstore/etcd.ts';
import type { KvStore } from '../mesh/kvstore/kvstore.ts';
import { type ChildHandle, startChild } from '../mesh/runtime/child-process.ts';
import { systemClock } from '../mesh/runtime/clock.ts';
import { type EtcdServer, openEtcdServer } from '../mesh/testing/etcd-server.ts';
import { openTempDir } from '../mesh/testing/temp-dir.ts';
import { type ClusterName, parseClusterId } from '../mesh/wire/ids.ts';
import { parseIpAddress } from '../mesh/wire/ip.ts';
import { serviceKey, servicesPrefix } from '../mesh/wire/keys.ts';
import { encodeClusterService } from '../mesh/wire/service.ts';
import { type ProcessUse, processUse } from './mesh-lab.ts';
import { endpointIp, keysOfCluster, type MeshCluster, type PlannedKey } from './mesh-plan.ts';

const OURS = fileURLToPath(new URL('../clustermesh-apiserver/main.js', import.meta.url));
const WRITERS = 8;
const KEYS_A_TRANSACTION = 100;

/** Who mirrors. */
export type Contender = 'isthmus' | 'cilium';

/** Cilium's client, freed of the limits that it has by default; its reads take pages as large as ours. */
export const CILIUM_FLAGS = [
  '--kvstore-opt=etcd.qps=100000',
  '--kvstore-opt=etcd.bootstrapQps=100000',
  '--kvstore-opt=etcd.maxInflight=1000',
  '--kvstore-opt=etcd.limit=10000',
] as const;

/** A mirror that runs, with the etcd that it fills. Disposing ends both. */
export interface BenchMirror extends AsyncDisposable {
  /** When its process was started, by the monotonic clock. */
  readonly startedAt: number;
  readonly local: EtcdServer;
  readonly store: KvStore;
  use(): ProcessUse;
  /** Throws with its last lines when it has ended by itself. */
  check(): void;
}

/** The peers' etcd. */
export interface KvstoremeshLab extends AsyncDisposable {
  readonly source: KvStore;
  /** Where Cilium's program is, or why it is not there. */
  readonly cilium: ReturnType<typeof findPeer>;
  start(contender: Contender, options?: { nodeFlags?: readonly string[] }): Promise<BenchMirror>;
}

/** Starts the source and fills it with these peers. */
export async function openKvstoremeshLab(
  peers: readonly MeshCluster[],
  options: { readonly services: number; readonly cilium: string; readonly signal: AbortSignal },
): Promise<KvstoremeshLab> {
  const { signal } = options;
  const dir = await openTempDir('bench-kvstoremesh');
  const server = await openEtcdServer();
  const source = await openEtcd({ endpoints: [server.endpoint] });
  for (const peer of peers) await fill(source, allKeys(peer, options.services));
  await mkdir(dir.file('peers'));
  for (const { name } of peers) {
    await writeFile(dir.file(`peers/${name}`), `endpoints:\n- ${server.endpoint}\n`);
  }
  const cilium = findPeer(`${options.cilium}/clustermesh-apiserver`);

  return {
    source,
    cilium,
    async start(contender, { nodeFlags = [] } = {}) {
      const local = await openEtcdServer();
      const store = await openEtcd({ endpoints: [local.endpoint] });
      const [command, args] =
        contender === 'isthmus'
          ? [process.execPath, [...nodeFlags, OURS, ...ourArguments(dir.file('peers'), local)]]
          : [ciliumPath(cilium), ciliumArguments(dir.file('peers'), local, dir.file('shell.sock'))];
      const startedAt = systemClock.monotonic();
      const child = startChild(command, args, { name: contender, signal, cwd: dir.path });
      let ended = false;
      void child.exited.then(() => {
        ended = true;
      });
      return {
        startedAt,
        local,
        store,
        use: () => processUse(child.pid),
        check: () => {
          if (ended) throw new Error(`${contender} ended: ${child.lastLines.join(' | ')}`);
        },
        [Symbol.asyncDispose]: () => end(child, store, local),
      };
    },
    async [Symbol.asyncDispose]() {
      await source[Symbol.asyncDispose]();
      await server[Symbol.asyncDispose]();
      await dir[Symbol.asyncDispose]();
    },
  };
}

async function end(child: ChildHandle, store: KvStore, local: EtcdServer): Promise<void> {
  await child.stop();
  await store[Symbol.asyncDispose]();
  await local[Symbol.asyncDispose]();
}

function ourArguments(peers: string, local: EtcdServer): string[] {
  return [
    'kvstoremesh',
    '--cluster-name=own',
    '--cluster-id=1',
    `--clustermesh-config=${peers}`,
    `--etcd-endpoints=${local.endpoint}`,
    '--health-address=127.0.0.1:0',
    '--log-level=warn',
  ];
}

function ciliumPath(found: ReturnType<typeof findPeer>): string {
  if (found.kind === 'found') return found.path;
  throw new Error(found.reason);
}

function ciliumArguments(peers: string, local: EtcdServer, socket: string): string[] {
  return [
    'kvstoremesh',
    '--cluster-name=own',
    '--cluster-id=1',
    `--clustermesh-config=${peers}`,
    `--kvstore-opt=etcd.address=${local.endpoint}`,
    ...CILIUM_FLAGS,
    '--enable-gops=false',
    `--shell-sock-path=${socket}`,
  ];
}

function* allKeys(peer: MeshCluster, services: number): Generator<PlannedKey> {
  for (let index = 0; index < services; index += 1) yield plannedService(peer, index);
  yield* keysOfCluster(peer);
}

/** A global service with four backends. */
function plannedService(peer: MeshCluster, index: number): PlannedKey {
  const { name, id, sizes, cached } = peer;
  const service = `svc-${index}`;
  const namespace = `team-${index % 20}`;
  const backends = [0, 1, 2, 3].map((backend) => {
    const ip = endpointIp(peer, (index * 4 + backend) % sizes.endpoints);
    return [ip, new Map([['http', { protocol: 'TCP' as const, port: 8080 }]])] as const;
  });
  const frontend = parseIpAddress(`10.96.${(index >> 8) & 255}.${index & 255}`);
  const key = serviceKey(name, namespace, service);
  return {
    key: cached ? `${servicesPrefix(name, { cached })}${namespace}/${service}` : key,
    value: encodeClusterService({
      cluster: name,
      namespace,
      name: service,
      frontends: new Map([[frontend, new Map([['http', { protocol: 'TCP', port: 80 }]])]]),
      backends: new Map(backends),
      hostnames: undefined,
      zones: undefined,
      labels: {},
      selector: { app: service },
      includeExternal: true,
      shared: true,
      clusterId: parseClusterId(id, peer.max),
    }),
  };
}

async function fill(store: KvStore, keys: Generator<PlannedKey>): Promise<void> {
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

/** Markers that a complete mirror has at least. */
export function markersOf(peers: readonly { readonly name: ClusterName }[]): string[] {
  const kinds = ['nodes', 'identities', 'ip', 'services'];
  return peers.flatMap(({ name }) =>
    kinds.map((kind) => `cilium/synced/${name}/cilium/cache/${kind}/v1`),
  );
}
