/** An agent with many endpoints is killed and started again: how long until its maps are known to be right. */
import { setTimeout as wait } from 'node:timers/promises';
import { systemClock } from '../mesh/runtime/clock.ts';
import { ipcacheKey, openIpcacheView } from './kernel-maps.ts';
import { guardRows } from './map-guard.ts';
import { type BenchAgent, type MeshLab, openMeshLab } from './mesh-lab.ts';
import {
  endpointIp,
  identityAt,
  type MeshCluster,
  peerClusters,
  plannedEndpoint,
} from './mesh-plan.ts';
import { type BenchContext, rounded } from './result.ts';
import { parseSizes } from './sizes.ts';

const DEFAULTS = {
  peers: 250,
  nodes: 100,
  identities: 100,
  endpoints: 1000,
  /** Endpoints that go, and that move to another identity, while no agent runs. */
  changed: 100,
  rounds: 3,
};

/** Rows that nothing changes and that are looked for all the time. */
const GUARDED = 2000;
/** Each look makes the agent describe itself, which is not for free. */
const LOOK_EVERY_MS = 250;
const TIMEOUT_MS = 300_000;

/** Runs the benchmark. Options: see DEFAULTS. */
export async function benchRestart(context: BenchContext): Promise<void> {
  const sizes = parseSizes(context.args, DEFAULTS);
  const peers = peerClusters(sizes, true);
  context.say(`writing ${peers.length} clusters into one etcd`);
  await using lab = await openMeshLab(peers, { etcds: 1, signal: context.signal });
  const name = 'restarted';
  {
    const agent = await lab.startAgent({ name, peers });
    await untilRight(agent, peers);
    await agent.kill();
  }
  for (let round = 1; round <= sizes.rounds; round += 1) {
    const bpfRoot = lab.bpfRootOf(name);
    using view = openIpcacheView(bpfRoot);
    if (view === undefined) throw new Error(`cannot find the maps of the agent in ${bpfRoot}`);
    const wanted = await changeSome(lab, peers, { changed: sizes.changed, round });
    await using guard = await guardRows(view.fd, guardedRows(peers));
    const agent = await lab.startAgent({ name, peers, nodeFlags: context.agentFlags ?? [] });
    await untilRight(agent, peers);
    const seconds = rounded((systemClock.monotonic() - agent.startedAt) / 1000);
    const { cpuSeconds, peakBytes } = agent.use();
    const { looks, misses } = await guard.answer();
    const wrong = wanted.filter(({ ip, identity }) => view.identityOf(ip) !== identity).length;
    await agent.kill();
    const conditions = {
      ...sizes,
      round,
      cpuSeconds,
      peakBytes,
      rowsWrongAfterwards: wrong,
      looksMeanwhile: looks,
      missesMeanwhile: misses,
    };
    context.emit({
      bench: 'restart',
      metric: 'from the start of the agent until its maps are known to be right',
      value: seconds,
      unit: 's',
      budget: '10 s or less with 250,000 endpoints, nothing lost',
      met: seconds <= 10 && misses === 0 && wrong === 0,
      conditions,
    });
    context.emit({
      bench: 'restart',
      metric: 'rows missing while the agent was down and came back',
      value: misses,
      unit: '1',
      budget: '0',
      met: misses === 0,
      conditions,
    });
    context.say(
      `right after ${seconds} s (${cpuSeconds} s of CPU); ${misses} of ${looks} looks missed a row, ${wrong} rows wrong afterwards`,
    );
  }
}

/** The agent says that it has compared everything: nothing of the one before is left over, nothing is outstanding. */
async function untilRight(agent: BenchAgent, peers: readonly MeshCluster[]): Promise<void> {
  const deadline = systemClock.monotonic() + TIMEOUT_MS;
  for (;;) {
    agent.check();
    const status = await agent.status().catch(() => undefined);
    const ready = status?.clusters.filter(({ state }) => state.kind === 'ready').length ?? 0;
    const left = status?.tables.reduce(
      (sum, { pending, failed, adopted }) => sum + pending + failed + adopted,
      0,
    );
    if (ready === peers.length + 1 && left === 0) return;
    if (systemClock.monotonic() > deadline) {
      throw new Error(
        `${ready} of ${peers.length + 1} clusters are ready after 300 s, ${left} rows outstanding`,
      );
    }
    await wait(LOOK_EVERY_MS);
  }
}

interface WantedRow {
  readonly ip: ReturnType<typeof endpointIp>;
  readonly identity: number | undefined;
}

/** Takes endpoints away and gives others another identity. Those of earlier rounds come back. */
async function changeSome(
  lab: MeshLab,
  peers: readonly MeshCluster[],
  { changed, round }: { changed: number; round: number },
): Promise<WantedRow[]> {
  const wanted: WantedRow[] = [];
  for (let number = 0; number < changed; number += 1) {
    const peer = peers[number % peers.length];
    if (peer === undefined) break;
    const index = Math.floor(number / peers.length);
    const [gone, moved, back] = [
      4 * index + (round % 2),
      4 * index + 2,
      4 * index + ((round + 1) % 2),
    ];
    const store = lab.storeOf(peer);
    await store.delete(plannedEndpoint(peer, gone, gone).key);
    for (const [at, identity] of [
      [moved, moved + round],
      [back, back],
    ] as const) {
      const { key, value } = plannedEndpoint(peer, at, identity);
      await store.put(key, value);
      wanted.push({ ip: endpointIp(peer, at), identity: identityAt(peer, identity) });
    }
    wanted.push({ ip: endpointIp(peer, gone), identity: undefined });
  }
  return wanted;
}

/** Rows from the end of each cluster, which `changeSome` leaves alone. */
function guardedRows(peers: readonly MeshCluster[]) {
  return Array.from({ length: GUARDED }, (_, number) => {
    const peer = peers[number % peers.length];
    if (peer === undefined) throw new Error('there are no peers');
    const index =
      peer.sizes.endpoints -
      1 -
      (Math.floor(number / peers.length) % Math.ceil(peer.sizes.endpoints / 4));
    return { key: ipcacheKey(endpointIp(peer, index)), identity: identityAt(peer, index) };
  });
}
