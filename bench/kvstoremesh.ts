/** `bench -- kvstoremesh`: our mirror and Cilium's kvstoremesh on the same source etcd, in alternating rounds. */
import { systemClock } from '../mesh/runtime/clock.ts';
import { ipsPrefix, SYNCED_PREFIX } from '../mesh/wire/keys.ts';
import {
  type BenchMirror,
  CILIUM_FLAGS,
  type Contender,
  type KvstoremeshLab,
  markersOf,
  openKvstoremeshLab,
} from './kvstoremesh-lab.ts';
import { type MeshCluster, peerClusters, plannedEndpoint } from './mesh-plan.ts';
import { type BenchContext, median, percentile, rounded } from './result.ts';
import { parseSizes } from './sizes.ts';

const DEFAULTS = {
  /** Above 1, all peers stand in one etcd as a mirror keeps them. */
  peers: 1,
  nodes: 250,
  identities: 500,
  endpoints: 50_000,
  services: 1000,
  rounds: 5,
  /** Changes a second, for `seconds`; 0: none. */
  churn: 1000,
  seconds: 5,
  /** A second, calmer run. */
  calmChurn: 100,
};

type Sizes = Readonly<typeof DEFAULTS>;

const MEBIBYTE = 1024 * 1024;
const TIMEOUT_MS = 300_000;
const WRITERS = 32;
const CILIUM = 'cilium-1.20';

/** What one mirror did in one round. */
interface Round {
  readonly firstSeconds: number;
  readonly firstCpuSeconds: number;
  readonly residentMebibytes: number;
  readonly peakMebibytes: number;
  readonly busy: Lag | undefined;
  readonly calm: Lag | undefined;
}

interface Lag {
  readonly p50: number;
  readonly p99: number;
  readonly cpuSecondsPerThousand: number;
}

/** Runs the benchmark. Options: `--endpoints N` and so on, see DEFAULTS. */
export async function benchKvstoremesh(context: BenchContext): Promise<void> {
  const sizes: Sizes = parseSizes(context.args, DEFAULTS);
  const peers = peerClusters(sizes, sizes.peers > 1);
  context.say(`filling the source with ${sizes.peers} x ${sizes.endpoints} addresses`);
  await using lab = await openKvstoremeshLab(peers, {
    services: sizes.services,
    cilium: CILIUM,
    signal: context.signal,
  });
  const contenders: Contender[] = lab.cilium.kind === 'found' ? ['isthmus', 'cilium'] : ['isthmus'];
  if (lab.cilium.kind === 'missing') context.say(`only our own mirror runs: ${lab.cilium.reason}`);
  const rounds: Record<Contender, Round[]> = { isthmus: [], cilium: [] };
  let runs = 0;
  for (let round = 0; round < sizes.rounds; round += 1) {
    const order = round % 2 === 0 ? contenders : [...contenders].reverse();
    for (const contender of order) {
      runs += 1;
      const result = await runRound(lab, { contender, peers, sizes, context, run: runs });
      rounds[contender].push(result);
      context.say(`round ${round + 1}, ${contender}: ${JSON.stringify(result)}`);
    }
  }
  report(rounds, sizes, context);
}

async function runRound(
  lab: KvstoremeshLab,
  options: {
    contender: Contender;
    peers: readonly MeshCluster[];
    sizes: Sizes;
    context: BenchContext;
    /** Number of the run, another each time. */
    run: number;
  },
): Promise<Round> {
  const { contender, peers, sizes, context, run } = options;
  const nodeFlags = contender === 'isthmus' ? (context.agentFlags ?? []) : [];
  await using mirror = await lab.start(contender, { nodeFlags });
  const firstSeconds = await untilMarked(mirror, peers, context.signal);
  const first = mirror.use();
  await checkCounts(mirror, peers, sizes);
  const measure = async (churn: number, salt: number): Promise<Lag | undefined> =>
    churn === 0 ? undefined : measureLag(lab, mirror, { ...options, churn, salt: run * 2 + salt });
  const busy = await measure(sizes.churn, 0);
  const calm = await measure(sizes.calmChurn, 1);
  const last = mirror.use();
  return {
    firstSeconds: rounded(firstSeconds),
    firstCpuSeconds: first.cpuSeconds,
    residentMebibytes: rounded(last.residentBytes / MEBIBYTE),
    peakMebibytes: rounded(last.peakBytes / MEBIBYTE),
    busy,
    calm,
  };
}

/** Seconds from the start of the process until every marker stands. */
async function untilMarked(
  mirror: BenchMirror,
  peers: readonly MeshCluster[],
  outer: AbortSignal,
): Promise<number> {
  const missing = new Set(markersOf(peers));
  const ending = new AbortController();
  const signal = AbortSignal.any([outer, ending.signal, AbortSignal.timeout(TIMEOUT_MS)]);
  for await (const event of mirror.store.watch({ prefix: SYNCED_PREFIX }, { signal })) {
    mirror.check();
    if (event.kind === 'put') missing.delete(event.pair.key);
    if (missing.size === 0) {
      const seconds = (systemClock.monotonic() - mirror.startedAt) / 1000;
      ending.abort();
      return seconds;
    }
  }
  mirror.check();
  throw new Error(`the mirror was not complete in time: ${[...missing].join(', ')} are missing`);
}

/** A marker that came too early would be no mirror. */
async function checkCounts(
  mirror: BenchMirror,
  peers: readonly MeshCluster[],
  sizes: Sizes,
): Promise<void> {
  for (const { name } of peers) {
    const prefix = ipsPrefix(name, { cached: true });
    const { pairs } = await mirror.store.list(prefix);
    if (pairs.length !== sizes.endpoints) {
      throw new Error(`the marker stands, and ${pairs.length} of ${sizes.endpoints} addresses`);
    }
  }
}

async function measureLag(
  lab: KvstoremeshLab,
  mirror: BenchMirror,
  run: {
    peers: readonly MeshCluster[];
    sizes: Sizes;
    context: BenchContext;
    churn: number;
    salt: number;
  },
): Promise<Lag> {
  const { peers, sizes, context, churn, salt } = run;
  const [peer] = peers;
  if (peer === undefined) throw new Error('there is no peer');
  const total = churn * sizes.seconds;
  const prefix = ipsPrefix(peer.name, { cached: true });
  const sent = new Map<string, number>();
  const lags: number[] = [];
  const ending = new AbortController();
  let isListed = false;
  const watching = (async () => {
    const signal = AbortSignal.any([context.signal, ending.signal]);
    for await (const event of mirror.store.watch({ prefix }, { signal })) {
      if (event.kind === 'synced') isListed = true;
      if (event.kind !== 'put' || !isListed) continue;
      const at = sent.get(event.pair.key.slice(prefix.length));
      if (at !== undefined) lags.push(systemClock.monotonic() - at);
    }
  })();
  const deadline = systemClock.monotonic() + TIMEOUT_MS;
  const wait = async (isDone: () => boolean): Promise<void> => {
    while (!isDone()) {
      mirror.check();
      if (systemClock.monotonic() > deadline) throw new Error('changes did not come through');
      await systemClock.sleep(5, context.signal);
    }
  };
  await wait(() => isListed);
  const before = mirror.use().cpuSeconds;
  const began = systemClock.monotonic();
  let next = 0;
  const write = async (): Promise<void> => {
    while (next < total) {
      const index = next;
      next += 1;
      const early = began + (index / churn) * 1000 - systemClock.monotonic();
      if (early > 0) await systemClock.sleep(early);
      const endpoint = index % sizes.endpoints;
      // Another identity than in any run before it: a value that does not change is no change.
      const { key, value } = plannedEndpoint(peer, endpoint, endpoint + salt + 1);
      sent.set(key.slice(ipsPrefix(peer.name, peer).length), systemClock.monotonic());
      await lab.source.put(key, value);
    }
  };
  await Promise.all(Array.from({ length: WRITERS }, write));
  await wait(() => lags.length >= total);
  const cpu = mirror.use().cpuSeconds - before;
  ending.abort();
  await watching;
  return {
    p50: rounded(median(lags)),
    p99: rounded(percentile(lags, 0.99)),
    cpuSecondsPerThousand: rounded((cpu * 1000) / total),
  };
}

function report(rounds: Record<Contender, Round[]>, sizes: Sizes, context: BenchContext): void {
  const emit = (
    metric: string,
    unit: string,
    pick: (round: Round) => number | undefined,
    budget?: string,
  ): void => {
    const ours = rounds.isthmus.flatMap((round) => pick(round) ?? []);
    const theirs = rounds.cilium.flatMap((round) => pick(round) ?? []);
    if (ours.length === 0) return;
    const value = median(ours);
    const hasPeer = theirs.length > 0;
    const ratio = rounded(value / median(theirs));
    context.emit({
      bench: 'kvstoremesh',
      metric,
      value,
      unit,
      ...(budget === undefined ? {} : { budget }),
      ...(budget === undefined || !hasPeer ? {} : { met: ratio < 1 }),
      ...(hasPeer ? { peer: `${CILIUM} kvstoremesh`, peerValue: median(theirs), ratio } : {}),
      conditions: {
        ...sizes,
        layout: sizes.peers > 1 ? 'cilium/cache, one etcd' : 'cilium/state',
        ciliumFlags: CILIUM_FLAGS,
        isthmus: ours,
        cilium: theirs,
      },
    });
    context.say(
      `${metric}: ${value} ${unit}${hasPeer ? `, Cilium ${median(theirs)}: ${ratio} x` : ''}`,
    );
  };
  const AHEAD = "ahead of Cilium's";
  const busy = `${sizes.churn} changes/s`;
  const calm = `${sizes.calmChurn} changes/s`;
  emit('first complete mirror', 's', (round) => round.firstSeconds, AHEAD);
  emit('CPU of the first mirror', 's', (round) => round.firstCpuSeconds);
  emit(`lag p50 at ${busy}`, 'ms', ({ busy }) => busy?.p50, AHEAD);
  emit(`lag p99 at ${busy}`, 'ms', ({ busy }) => busy?.p99, AHEAD);
  emit(`CPU for 1000 changes at ${busy}`, 's', ({ busy }) => busy?.cpuSecondsPerThousand);
  emit(`lag p50 at ${calm}`, 'ms', ({ calm }) => calm?.p50, AHEAD);
  emit(`lag p99 at ${calm}`, 'ms', ({ calm }) => calm?.p99, AHEAD);
  emit(`CPU for 1000 changes at ${calm}`, 's', ({ calm }) => calm?.cpuSecondsPerThousand);
  emit('resident memory', 'MiB', (round) => round.residentMebibytes);
  emit('most resident memory', 'MiB', (round) => round.peakMebibytes);
}
