/** A simulated mesh of many clusters, and one real agent that reads it into real eBPF maps. */
import { setTimeout as wait } from 'node:timers/promises';
import type { KvStore } from '../mesh/kvstore/kvstore.ts';
import { systemClock } from '../mesh/runtime/clock.ts';
import { type IpcacheView, ipcacheKey, openIpcacheView } from './kernel-maps.ts';
import { openMapProber, proberNow } from './map-prober.ts';
import { type BenchAgent, type MeshLab, openMeshLab } from './mesh-lab.ts';
import {
  endpointIp,
  identityAt,
  type MeshCluster,
  peerClusters,
  plannedEndpoint,
  rowsOf,
} from './mesh-plan.ts';
import { type BenchContext, percentile, rounded } from './result.ts';
import { parseSizes } from './sizes.ts';

const DEFAULTS = {
  peers: 250,
  nodes: 100,
  identities: 100,
  endpoints: 1000,
  /** Changes a second, for `seconds`; 0: none. */
  churn: 1000,
  seconds: 10,
  /** 1: all peers in one etcd, as a mirror keeps them; else each etcd holds one peer in its own layout. */
  etcds: 1,
  rounds: 1,
  /** How long an agent is left alone after its first sync, and before its memory is read. */
  settleSeconds: 15,
  /** Most endpoints of the smaller agent, against which memory for each endpoint is measured; 0: it is not. */
  fewEndpoints: 100_000,
};

type Sizes = Readonly<typeof DEFAULTS>;

const MEBIBYTE = 1024 * 1024;
const LOOK_EVERY_MS = 10;
const SYNC_TIMEOUT_MS = 300_000;
const WRITERS = 32;
/** CPU time of an agent at rest, in each second. */
const QUIET_CPU_SECONDS = 0.1;

/** Runs the benchmark. Options: `--peers N` and so on, see DEFAULTS. */
export async function benchMesh(context: BenchContext): Promise<void> {
  const sizes: Sizes = parseSizes(context.args, DEFAULTS);
  if (sizes.etcds > 1 && sizes.etcds !== sizes.peers) {
    throw new Error(
      '--etcds must be 1 or as many as --peers: an etcd of its own holds one cluster',
    );
  }
  const layout =
    sizes.etcds === 1 ? 'one etcd, cilium/cache' : `${sizes.etcds} etcds, cilium/state`;
  const peers = peerClusters(sizes, sizes.etcds === 1);
  const conditions = { ...sizes, layout, transport: 'plain HTTP/2 on loopback', data: 'tmpfs' };
  context.say(`writing ${peers.length} clusters into ${layout}`);
  await using lab = await openMeshLab(peers, { etcds: sizes.etcds, signal: context.signal });
  const few = Math.floor(sizes.fewEndpoints / sizes.endpoints);
  let small: SyncedMemory | undefined;
  if (few > 0 && few < peers.length) {
    context.say(`an agent with ${few} peers, for its memory`);
    small = await syncedMemory(lab, { name: 'few', peers: peers.slice(0, few), sizes });
  }
  for (let round = 1; round <= sizes.rounds; round += 1) {
    const name = `all-${round}`;
    await using agent = await lab.startAgent({ name, peers, nodeFlags: context.agentFlags ?? [] });
    const sync = await firstSync(agent, peers);
    reportSync(context, { sync, agent, peers, conditions: { ...conditions, round } });
    using view = sync.view;
    if (sizes.churn > 0) {
      // Lag is what a mesh in use sees, not one that is still being read for the first time.
      await untilQuiet(agent);
      await wait(sizes.settleSeconds * 1000);
      await churn(lab, {
        agent,
        view,
        peers,
        sizes,
        context,
        conditions: { ...conditions, round },
      });
    }
    await wait(sizes.settleSeconds * 1000);
    await reportMemory(context, { agent, peers, small, conditions: { ...conditions, round } });
  }
}

interface SyncedMemory {
  readonly rows: number;
  readonly residentBytes: number;
}

async function syncedMemory(
  lab: MeshLab,
  { name, peers, sizes }: { name: string; peers: readonly MeshCluster[]; sizes: Sizes },
): Promise<SyncedMemory> {
  await using agent = await lab.startAgent({ name, peers });
  using _view = (await firstSync(agent, peers)).view;
  await wait(sizes.settleSeconds * 1000);
  return { rows: rowsOf(peers), residentBytes: agent.use().residentBytes };
}

interface FirstSync {
  readonly view: IpcacheView;
  readonly milliseconds: number;
  /** Part of it until the agent's maps were there, before anything was read. */
  readonly startMilliseconds: number;
  readonly cpuSeconds: number;
}

/** Waits until every row of every peer is in the map: one row a peer is looked for, then all are counted. */
async function firstSync(agent: BenchAgent, peers: readonly MeshCluster[]): Promise<FirstSync> {
  const wanted = rowsOf(peers);
  const missing = new Set(peers);
  let view: IpcacheView | undefined;
  let startMilliseconds = 0;
  const deadline = agent.startedAt + SYNC_TIMEOUT_MS;
  for (;;) {
    agent.check();
    const now = systemClock.monotonic();
    if (view === undefined) {
      view = openIpcacheView(agent.bpfRoot);
      startMilliseconds = now - agent.startedAt;
    }
    for (const peer of missing) {
      const last = peer.sizes.endpoints - 1;
      if (view?.identityOf(endpointIp(peer, last)) !== identityAt(peer, last)) break;
      missing.delete(peer);
    }
    // This node's own address stands there, too.
    if (view !== undefined && missing.size === 0 && view.count() >= wanted) {
      const { cpuSeconds } = agent.use();
      return { view, milliseconds: now - agent.startedAt, startMilliseconds, cpuSeconds };
    }
    if (now > deadline) {
      throw new Error(`the agent has ${view?.count() ?? 0} of ${wanted} rows after 300 s`);
    }
    await wait(LOOK_EVERY_MS);
  }
}

/** Waits until the agent has done what follows a first sync: it uses less than a tenth of a core over a second. */
async function untilQuiet(agent: BenchAgent): Promise<void> {
  const deadline = systemClock.monotonic() + SYNC_TIMEOUT_MS;
  for (let used = Number.POSITIVE_INFINITY; used > QUIET_CPU_SECONDS; ) {
    if (systemClock.monotonic() > deadline) throw new Error('the agent never comes to rest');
    const before = agent.use().cpuSeconds;
    await wait(1000);
    agent.check();
    used = agent.use().cpuSeconds - before;
  }
}

function reportSync(
  context: BenchContext,
  run: {
    sync: FirstSync;
    agent: BenchAgent;
    peers: readonly MeshCluster[];
    conditions: Record<string, unknown>;
  },
): void {
  const { sync, agent, peers, conditions } = run;
  const seconds = rounded(sync.milliseconds / 1000);
  context.emit({
    bench: 'mesh',
    metric: 'first sync, from the start of the agent to kernel maps',
    value: seconds,
    unit: 's',
    budget: '6 s or less',
    met: seconds <= 6,
    conditions: {
      ...conditions,
      rows: rowsOf(peers),
      startSeconds: rounded(sync.startMilliseconds / 1000),
      cpuSeconds: sync.cpuSeconds,
    },
  });
  const peak = rounded(agent.use().peakBytes / MEBIBYTE);
  context.say(
    `first sync: ${seconds} s (${sync.cpuSeconds} s of CPU), ${peak} MiB at most until then`,
  );
}

async function reportMemory(
  context: BenchContext,
  run: {
    agent: BenchAgent;
    peers: readonly MeshCluster[];
    small: SyncedMemory | undefined;
    conditions: Record<string, unknown>;
  },
): Promise<void> {
  const { agent, peers, small, conditions } = run;
  const { residentBytes, peakBytes } = agent.use();
  const status = await agent.status();
  const problems = {
    notReady: status.clusters.filter(({ state }) => state.kind !== 'ready').length,
    refused: status.clusters.reduce(
      (sum, { refused }) => sum + Object.values(refused.byReason).reduce((a, b) => a + b, 0),
      0,
    ),
    failedConnections: status.clusters.reduce((sum, { failures }) => sum + failures, 0),
    failedWrites: status.tables.reduce((sum, { failed }) => sum + failed, 0),
    conflicts: status.conflicts.length,
  };
  const peak = rounded(peakBytes / MEBIBYTE);
  context.emit({
    bench: 'mesh',
    metric: 'resident memory of the agent, at most',
    value: peak,
    unit: 'MiB',
    budget: '500 MB or less',
    met: peakBytes <= 500e6,
    conditions: { ...conditions, settledMebibytes: rounded(residentBytes / MEBIBYTE) },
  });
  const errors = Object.values(problems).reduce((sum, count) => sum + count, 0);
  context.emit({
    bench: 'mesh',
    metric: 'errors',
    value: errors,
    unit: '1',
    conditions: { ...conditions, ...problems },
  });
  context.say(
    `memory: ${peak} MiB at most, ${rounded(residentBytes / MEBIBYTE)} MiB settled; errors: ${JSON.stringify(problems)}`,
  );
  if (small === undefined) return;
  const endpoints = peers.reduce((sum, { sizes }) => sum + sizes.endpoints, 0);
  const more = rowsOf(peers) - small.rows;
  const share = endpoints / rowsOf(peers);
  const each = rounded((residentBytes - small.residentBytes) / (more * share));
  context.emit({
    bench: 'mesh',
    metric: 'memory for each remote endpoint more, with its share of nodes and identities',
    value: each,
    unit: 'B',
    budget: '1 KiB or less beyond the first 100,000',
    met: each <= 1024,
    conditions: { ...conditions, fewRows: small.rows, fewBytes: small.residentBytes },
  });
  context.say(`${each} bytes for each endpoint more`);
}

async function churn(
  lab: MeshLab,
  run: {
    agent: BenchAgent;
    view: IpcacheView;
    peers: readonly MeshCluster[];
    sizes: Sizes;
    context: BenchContext;
    conditions: Record<string, unknown>;
  },
): Promise<void> {
  const { agent, view, peers, sizes, context, conditions } = run;
  const total = sizes.churn * sizes.seconds;
  await using prober = openMapProber(view.fd);
  // Its thread must run before anything is timed.
  await prober.answer();
  const before = { agent: agent.use().cpuSeconds, etcd: lab.etcdCpu() };
  const began = systemClock.monotonic();
  let sent = 0;
  const write = async (): Promise<void> => {
    while (sent < total) {
      const change = sent;
      sent += 1;
      const early = began + (change / sizes.churn) * 1000 - systemClock.monotonic();
      if (early > 0) await systemClock.sleep(early);
      const peer = peers[change % peers.length];
      if (peer === undefined) return;
      const turn = Math.floor(change / peers.length);
      const index = turn % sizes.endpoints;
      // Each endpoint gets the next identity whenever its turn comes.
      const identity = index + 1 + Math.floor(turn / sizes.endpoints);
      await putAndExpect(lab.storeOf(peer), peer, { index, identity, prober });
    }
  };
  await Promise.all(Array.from({ length: WRITERS }, write));
  const seconds = (systemClock.monotonic() - began) / 1000;
  const lags: number[] = [];
  const deadline = systemClock.monotonic() + 30_000;
  let waiting = total;
  while (waiting > 0 && systemClock.monotonic() < deadline) {
    const answer = await prober.answer();
    for (const lag of answer.lags) lags.push(lag);
    waiting = total - lags.length;
    await wait(20);
  }
  const cpu = {
    agentCpuSeconds: rounded(agent.use().cpuSeconds - before.agent),
    etcdCpuSeconds: rounded(lab.etcdCpu() - before.etcd),
    changesASecond: rounded(total / seconds),
    unseen: waiting,
  };
  for (const [metric, part, budget, limit] of [
    ['median lag, put to map', 0.5, 'median 3 ms at 1,000 changes/s', 3],
    ['p99 lag, put to map', 0.99, 'p99 15 ms at 1,000 changes/s', 15],
  ] as const) {
    const value = rounded(percentile(lags, part));
    const met = value <= limit && waiting === 0;
    context.emit({
      bench: 'mesh',
      metric,
      value,
      unit: 'ms',
      budget,
      met,
      conditions: { ...conditions, ...cpu },
    });
    context.say(`${metric}: ${value} ms (${JSON.stringify(cpu)})`);
  }
}

async function putAndExpect(
  store: KvStore,
  peer: MeshCluster,
  change: { index: number; identity: number; prober: ReturnType<typeof openMapProber> },
): Promise<void> {
  const { index, identity, prober } = change;
  const { key, value } = plannedEndpoint(peer, index, identity);
  prober.expect({
    key: ipcacheKey(endpointIp(peer, index)),
    identity: identityAt(peer, identity),
    at: proberNow(),
  });
  await store.put(key, value);
}
