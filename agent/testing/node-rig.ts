import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import type { Test } from 'tap';
import type { KvStore } from '../../mesh/kvstore/kvstore.ts';
import type { PeerConnection } from '../../mesh/remote/peer.ts';
import {
  type PublishedCluster,
  publishCluster,
} from '../../mesh/remote/testing/published-cluster.ts';
import { until } from '../../mesh/remote/testing/until.ts';
import { createBell } from '../../mesh/runtime/bell.ts';
import { systemClock } from '../../mesh/runtime/clock.ts';
import { createLogger } from '../../mesh/runtime/log.ts';
import { openTempDir, type TempDir } from '../../mesh/testing/temp-dir.ts';
import { parseClusterId } from '../../mesh/wire/ids.ts';
import { parseIpAddress } from '../../mesh/wire/ip.ts';
import { callAgent, fetchStatus } from '../api/client.ts';
import type { AgentStatus } from '../api/status.ts';
import type { Datapath } from '../datapath/desired.ts';
import type { ContainerInterface, Interfaces, VethPair } from '../endpoints/interfaces.ts';
import { type AgentOptions, runAgent } from '../run.ts';
import { createMemoryDatapath, type MemoryDatapath } from '../state/memory-datapath.ts';

/** An agent of node `n1` (192.0.2.1) of cluster alpha (1), on a datapath and stores in memory, with real files and socket. */
export interface NodeRig<Kernel extends Datapath = MemoryDatapath> {
  readonly dir: TempDir;
  readonly datapath: Kernel;
  readonly alpha: PublishedCluster;
  /** Veths that exist, by the container's network namespace; a test adds and removes them. */
  readonly veths: Map<string, VethPair>;
  /** Containers' interfaces that can be found without the runtime; a test adds and removes them, their veths, too. */
  readonly containers: ContainerInterface[];
  readonly socketPath: string;
  /** Has the kernel say that links changed. */
  changeLinks(): void;
  /** Starts an agent; ends the one before. */
  start(): Promise<void>;
  stop(): Promise<void>;
  /** Writes a cluster's file among the peers; `connect` makes the agent's connections where its store is not in memory. */
  addPeer(cluster: PublishedCluster): Promise<void>;
  addPeer(
    cluster: PublishedCluster<KvStore>,
    connect: (signal: AbortSignal) => Promise<KvStore>,
  ): Promise<void>;
  removePeer(name: string): Promise<void>;
  status(): Promise<AgentStatus>;
  /** State of a cluster, `absent` when the agent knows none of that name. */
  stateOf(name: string): Promise<string>;
  ready(name: string): Promise<void>;
  cni(request: Record<string, unknown>): Promise<{ status: number; body: string }>;
  /** ADD of a pod with one address, over a veth made for it. */
  addPod(container: string, ip: string): Promise<{ status: number; body: string }>;
}

/** What a test may set about the agent. */
export interface NodeRigOptions {
  readonly registry?: AgentOptions['registry'];
  /** Default: every Service is translated by its cluster addresses. */
  readonly decideServices?: AgentOptions['decideServices'];
  /** Default: silence is noticed after an hour, and no node answers a probe. */
  readonly withdrawal?: Partial<AgentOptions['withdrawal']>;
  /** Default: metrics are served nowhere. */
  readonly metricsAddress?: AgentOptions['metricsAddress'];
  /** Default: the kernel is compared with what is wanted each five minutes. */
  readonly auditIntervalMs?: number;
  /** Entries of the policy map that one endpoint may have. */
  readonly policyMapMax?: number;
  /** Default: a node. */
  readonly hostEndpoint?: AgentOptions['hostEndpoint'];
  /** Whose node it is, and its address. Default: alpha's, 1, 192.0.2.1. */
  readonly place?: { readonly cluster: string; readonly id: number; readonly ip: string };
}

/** Makes a rig with an empty, unpublished cluster alpha. All is gone at the end of the test. */
export async function openNodeRig(
  t: Pick<Test, 'teardown'>,
  options?: NodeRigOptions,
): Promise<NodeRig>;
export async function openNodeRig<Kernel extends Datapath>(
  t: Pick<Test, 'teardown'>,
  options: NodeRigOptions & { datapath: Kernel },
): Promise<NodeRig<Kernel>>;
export async function openNodeRig(
  t: Pick<Test, 'teardown'>,
  options: NodeRigOptions & { datapath?: Datapath } = {},
): Promise<NodeRig<Datapath>> {
  const dir = await openTempDir('agent');
  const peersDir = dir.file('peers');
  await mkdir(peersDir);
  const datapath = options.datapath ?? createMemoryDatapath();
  const place = options.place ?? { cluster: 'alpha', id: 1, ip: '192.0.2.1' };
  const alpha = publishCluster(place.cluster, place.id);
  const clusters = new Map<string, (signal: AbortSignal) => Promise<KvStore>>([
    [place.cluster, async () => alpha.store.connect()],
  ]);
  const veths = new Map<string, VethPair>();
  const socketPath = dir.file('agent.sock');
  let running: { stopping: AbortController; ended: Promise<void> } | undefined;
  let nextIfindex = 100;

  await writeFile(dir.file('own.yaml'), `endpoints: ${place.cluster}\n`);
  const readConnection = async (path: string): Promise<PeerConnection> => {
    const text = await readFile(path, 'utf8');
    const name = /^endpoints: (\w+)/.exec(text)?.[1] ?? '';
    const connect = clusters.get(name);
    if (connect === undefined) throw new Error(`${path} names no cluster`);
    return {
      fingerprint: text,
      endpoints: [`memory:${name}`],
      open: connect,
    };
  };
  const links = createBell();
  const containers: ContainerInterface[] = [];
  const interfaces: Interfaces = {
    containers: async (known) => containers.filter(({ ifindex }) => !known.has(ifindex)),
    async *changes(signal) {
      signal.addEventListener('abort', links.ring, { once: true });
      while (!signal.aborted) {
        links.clear();
        yield 'changed';
        await links.wait(2 ** 31 - 1, systemClock);
      }
    },
    findVeth: async (netns, ifName) => {
      const pair = veths.get(netns);
      if (pair === undefined)
        throw new Error(`interface ${ifName} in ${netns} is not one end of a veth pair`);
      return pair;
    },
    indexes: async () =>
      new Map([...veths.values()].map((pair) => [pair.hostInterface, pair.ifindex])),
  };

  const stop = async (): Promise<void> => {
    running?.stopping.abort();
    await running?.ended;
    running = undefined;
  };
  t.teardown(async () => {
    await stop();
    await dir[Symbol.asyncDispose]();
  });

  const rig: NodeRig<Datapath> = {
    dir,
    datapath,
    alpha,
    veths,
    containers,
    changeLinks: links.ring,
    socketPath,
    stop,
    async start() {
      await stop();
      const stopping = new AbortController();
      const ended = runAgent({
        own: { name: alpha.name, id: parseClusterId(place.id), max: 255 },
        nodeName: 'n1',
        nodeIps: [parseIpAddress(place.ip)],
        hostEndpoint: options.hostEndpoint,
        etcdConfig: dir.file('own.yaml'),
        clustermeshConfig: peersDir,
        stateDir: dir.file('state'),
        socketPath,
        policyDefaultLocalCluster: true,
        policyMapMax: options.policyMapMax,
        version: '0',
        openDatapath: async () => datapath,
        interfaces,
        readConnection,
        registry: options.registry,
        decideServices: options.decideServices,
        metricsAddress: options.metricsAddress,
        ...(options.auditIntervalMs === undefined
          ? {}
          : { auditIntervalMs: options.auditIntervalMs }),
        withdrawal: {
          mode: 'auto',
          ttlMs: 120_000,
          // Stores in memory give no sign of life by themselves.
          staleAfterMs: 3_600_000,
          probe: async () => 'silent',
          ...options.withdrawal,
        },
        clock: systemClock,
        logger: createLogger('test', { level: 'silent' }),
        signal: stopping.signal,
      });
      running = { stopping, ended };
      await Promise.race([
        ended,
        until(
          'the socket answers',
          async () =>
            (await callAgent(socketPath, { path: '/healthz' }).catch(() => undefined)) !==
            undefined,
        ),
      ]);
    },
    async addPeer(
      cluster: PublishedCluster | PublishedCluster<KvStore>,
      connect?: (signal: AbortSignal) => Promise<KvStore>,
    ) {
      const { store } = cluster;
      clusters.set(
        cluster.name,
        connect ?? (async () => ('connect' in store ? store.connect() : store)),
      );
      await writeFile(`${peersDir}/${cluster.name}`, `endpoints: ${cluster.name}\n`);
    },
    removePeer: (name) => rm(`${peersDir}/${name}`),
    status: () => fetchStatus(socketPath),
    async stateOf(name) {
      const { clusters: all } = await fetchStatus(socketPath);
      return all.find((cluster) => cluster.name === name)?.state.kind ?? 'absent';
    },
    ready: (name) => until(`${name} is ready`, async () => (await rig.stateOf(name)) === 'ready'),
    cni: (request) =>
      callAgent(socketPath, { path: '/v1/cni', method: 'POST', body: JSON.stringify(request) }),
    addPod(container, ip) {
      nextIfindex += 1;
      const netns = `/run/netns/${container}`;
      if (!veths.has(netns)) {
        veths.set(netns, {
          hostInterface: `veth${container}`,
          ifindex: nextIfindex,
          mac: '02:00:00:00:00:01',
        });
      }
      return rig.cni(addRequest(container, ip));
    },
  };
  return rig;
}

/** Body of a CNI request about a pod as `ptp` made it. */
export function addRequest(
  container: string,
  ip: string,
  command = 'ADD',
): Record<string, unknown> {
  return {
    command,
    containerId: container,
    netns: `/run/netns/${container}`,
    ifName: 'eth0',
    args: `IgnoreUnknown=1;K8S_POD_NAMESPACE=demo;K8S_POD_NAME=${container}`,
    path: '/opt/cni/bin',
    config: {
      cniVersion: '1.0.0',
      name: 'lab',
      type: 'clustermesh-cni',
      prevResult: {
        cniVersion: '1.0.0',
        interfaces: [
          { name: `veth${container}`, mac: '02:00:00:00:00:02' },
          { name: 'eth0', mac: '02:00:00:00:00:01', sandbox: `/run/netns/${container}` },
        ],
        ips: [{ interface: 1, address: `${ip}/24`, gateway: '10.1.0.1' }],
        dns: {},
      },
    },
  };
}
