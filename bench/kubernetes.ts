/** `bench -- kubernetes`: from a Kubernetes API server to etcd, beside Cilium's clustermesh-apiserver on the same one. */
import {
  ciliumEndpointObject,
  type GeneratedIdentity,
  type GeneratedPod,
  podIpv4,
  podObject,
} from '../e2e/peers/generated-objects.ts';
import { systemClock } from '../mesh/runtime/clock.ts';
import { SYNCED_PREFIX } from '../mesh/wire/keys.ts';
import { storedObject } from './kube-storage.ts';
import {
  CILIUM,
  type KubernetesLab,
  openKubernetesLab,
  PLACE,
  type Publisher,
  type RunningPublisher,
} from './kubernetes-lab.ts';
import { type BenchContext, median, percentile, rounded } from './result.ts';
import { parseSizes } from './sizes.ts';

const DEFAULTS = {
  nodes: 500,
  namespaces: 50,
  identities: 500,
  pods: 5000,
  services: 500,
  endpoints: 10_000,
  /** Pods that change in a second, for `seconds`. */
  churn: 500,
  seconds: 10,
  rounds: 1,
  /** 0: not from Cilium's objects. */
  ciliumMode: 1,
  /** 1: also from Pods and Nodes alone, which are written as well. */
  anyCni: 1,
  /** 0: without Cilium. */
  cilium: 1,
};

type Sizes = Readonly<typeof DEFAULTS>;

const MEBIBYTE = 1024 * 1024;
const TIMEOUT_MS = 600_000;
const WRITERS = 32;
/** CPU time of a publisher at rest, in each second. */
const QUIET_CPU_SECONDS = 0.1;
/** What is left of the first publication is cleared away by V8 within this time, when nothing else happens. */
const REST_MS = 15_000;
const IPS = 'cilium/state/ip/v1/default/';
const MARKED = ['nodes', 'ip', 'identities', 'services', 'serviceexports'];

/** What one publisher did in one round. */
interface Round {
  readonly coldSeconds: number;
  readonly coldCpuSeconds: number;
  readonly peakMebibytes: number;
  readonly residentMebibytes: number;
  /** From the API server's storage to the key in etcd, in milliseconds. */
  readonly lag: { readonly p50: number; readonly p99: number };
  /** Share of the changed keys that waited 100 ms or less for their write, and the bound below which 99 of 100 waited. */
  readonly queue: { readonly within100Ms: number; readonly p99AtMostMs: number } | undefined;
  readonly reachedPerSecond: number;
  readonly cpuMillisecondsPerChange: number;
  /** Of kube-apiserver, for comparison. */
  readonly apiserverCpuMillisecondsPerChange: number;
}

/** Runs the benchmark. Options: `--pods N` and so on, see DEFAULTS. */
export async function benchKubernetes(context: BenchContext): Promise<void> {
  const sizes: Sizes = parseSizes(context.args, DEFAULTS);
  await using lab = await openKubernetesLab(sizes, { ...context, pods: sizes.anyCni === 1 });
  const publishers: Publisher[] = sizes.ciliumMode === 1 ? ['isthmus'] : [];
  if (sizes.anyCni === 1) publishers.push('isthmus-any-cni');
  if (sizes.cilium === 1 && lab.cilium.kind === 'found') publishers.push('cilium');
  if (lab.cilium.kind === 'missing') context.say(`without Cilium: ${lab.cilium.reason}`);
  const rounds: Record<Publisher, Round[]> = { isthmus: [], 'isthmus-any-cni': [], cilium: [] };
  for (let round = 0; round < sizes.rounds; round += 1) {
    for (const publisher of round % 2 === 0 ? publishers : [...publishers].reverse()) {
      const result = await runRound(lab, { publisher, sizes, context });
      rounds[publisher].push(result);
      context.say(`round ${round + 1}, ${publisher}: ${JSON.stringify(result)}`);
    }
  }
  report(rounds, sizes, context);
}

interface RoundOptions {
  readonly publisher: Publisher;
  readonly sizes: Sizes;
  readonly context: BenchContext;
}

async function runRound(lab: KubernetesLab, options: RoundOptions): Promise<Round> {
  const { publisher, context } = options;
  const nodeFlags = publisher === 'cilium' ? [] : (context.agentFlags ?? []);
  await using running = await lab.start(publisher, nodeFlags);
  const coldSeconds = await untilMarked(running, context.signal);
  const cold = running.use();
  await checkCounts(running, lab, publisher);
  // What is sustained is measured at rest, not while the first publication's garbage is being cleared away.
  await untilQuiet(running, context.signal);
  await systemClock.sleep(REST_MS, context.signal);
  const before = await running.queueTimes?.();
  const { lags, seconds, cpu, apiserverCpu } = await churn(lab, running, options);
  const after = await running.queueTimes?.();
  const last = running.use();
  return {
    coldSeconds: rounded(coldSeconds),
    coldCpuSeconds: cold.cpuSeconds,
    peakMebibytes: rounded(last.peakBytes / MEBIBYTE),
    residentMebibytes: rounded(last.residentBytes / MEBIBYTE),
    lag: { p50: rounded(median(lags)), p99: rounded(percentile(lags, 0.99)) },
    queue: before === undefined || after === undefined ? undefined : queueOf(before, after),
    reachedPerSecond: rounded(lags.length / seconds),
    cpuMillisecondsPerChange: rounded((cpu * 1000) / lags.length),
    apiserverCpuMillisecondsPerChange: rounded((apiserverCpu * 1000) / lags.length),
  };
}

/** Waits until the publisher uses less than a tenth of a core over a second. */
async function untilQuiet(running: RunningPublisher, signal: AbortSignal): Promise<void> {
  const deadline = systemClock.monotonic() + TIMEOUT_MS;
  for (let used = Number.POSITIVE_INFINITY; used > QUIET_CPU_SECONDS; ) {
    if (systemClock.monotonic() > deadline) throw new Error('the publisher never comes to rest');
    const before = running.use().cpuSeconds;
    await systemClock.sleep(1000, signal);
    running.check();
    used = running.use().cpuSeconds - before;
  }
}

/** What happened between two looks at the publisher's own histogram. */
function queueOf(
  before: ReadonlyMap<number, number>,
  after: ReadonlyMap<number, number>,
): NonNullable<Round['queue']> {
  const upTo = (bound: number): number => (after.get(bound) ?? 0) - (before.get(bound) ?? 0);
  const all = upTo(Number.POSITIVE_INFINITY);
  const p99 = [...after.keys()].sort((a, b) => a - b).find((bound) => upTo(bound) >= 0.99 * all);
  return {
    within100Ms: rounded(upTo(0.1) / all),
    p99AtMostMs: rounded((p99 ?? Number.POSITIVE_INFINITY) * 1000),
  };
}

/** Seconds from the start of the process until every marker stands. */
async function untilMarked(running: RunningPublisher, outer: AbortSignal): Promise<number> {
  const missing = new Set(
    MARKED.map((kind) => `${SYNCED_PREFIX}${PLACE.cluster}/cilium/state/${kind}/v1`),
  );
  const deadline = systemClock.monotonic() + TIMEOUT_MS;
  while (missing.size > 0) {
    running.check();
    const { pairs } = await running.store.list(SYNCED_PREFIX, { signal: outer });
    for (const { key } of pairs) missing.delete(key);
    if (systemClock.monotonic() > deadline) {
      throw new Error(`it was not complete in time: ${[...missing].join(', ')} are missing`);
    }
    if (missing.size > 0) await systemClock.sleep(20, outer);
  }
  return (systemClock.monotonic() - running.startedAt) / 1000;
}

/** A marker that came too early would be no achievement. */
async function checkCounts(
  { store }: RunningPublisher,
  lab: KubernetesLab,
  publisher: Publisher,
): Promise<void> {
  const expected = lab.generated
    .pods()
    .reduce((sum, { node }) => sum + (node.dualStack ? 2 : 1), 0);
  const { count } = await store.count(IPS);
  const services = (await store.count(`cilium/state/services/v1/${PLACE.cluster}/`)).count;
  if (count < expected || services === 0) {
    throw new Error(
      `${publisher} has set its markers with ${count} addresses of ${expected} and ${services} services`,
    );
  }
}

/** Gives pods other labels at an even pace, and measures from the API server's storage to the key in etcd. */
async function churn(
  lab: KubernetesLab,
  running: RunningPublisher,
  { publisher, sizes, context }: RoundOptions,
): Promise<{ lags: number[]; seconds: number; cpu: number; apiserverCpu: number }> {
  const total = sizes.churn * sizes.seconds;
  const answered = new Map<string, number>();
  const seen = new Map<string, number>();
  const lags: number[] = [];
  const meet = (ip: string, here: Map<string, number>, there: Map<string, number>): void => {
    const other = there.get(ip);
    const now = systemClock.monotonic();
    if (other === undefined) {
      here.set(ip, now);
      return;
    }
    there.delete(ip);
    // What is in etcd before we have read the storage's answer has not waited at all.
    lags.push(here === seen ? now - other : 0);
  };
  const ending = new AbortController();
  const signal = AbortSignal.any([context.signal, ending.signal]);
  let isListed = false;
  const expected = new Set<string>();
  const watching = (async () => {
    for await (const event of running.store.watch({ prefix: IPS }, { signal })) {
      if (event.kind === 'synced') isListed = true;
      if (event.kind !== 'put' || !isListed) continue;
      const ip = event.pair.key.slice(IPS.length);
      if (expected.delete(ip)) meet(ip, seen, answered);
    }
  })();
  const deadline = systemClock.monotonic() + TIMEOUT_MS;
  const wait = async (isDone: () => boolean): Promise<void> => {
    while (!isDone()) {
      running.check();
      if (systemClock.monotonic() > deadline) {
        throw new Error(`${lags.length} of ${total} changes came through`);
      }
      await systemClock.sleep(5, context.signal);
    }
  };
  await wait(() => isListed);
  const change = changesOf(lab, { publisher, total });
  const before = { own: running.use().cpuSeconds, apiserver: lab.apiserverCpu() };
  const began = systemClock.monotonic();
  let next = 0;
  const write = async (): Promise<void> => {
    while (next < total) {
      const index = next;
      next += 1;
      const early = began + (index / sizes.churn) * 1000 - systemClock.monotonic();
      if (early > 0) await systemClock.sleep(early, context.signal);
      const { ip, send } = change(index);
      // The same pod is not changed again before its last change was seen.
      await wait(() => !expected.has(ip));
      expected.add(ip);
      await send();
      meet(ip, answered, seen);
    }
  };
  await Promise.all(Array.from({ length: WRITERS }, write));
  const seconds = (systemClock.monotonic() - began) / 1000;
  await wait(() => lags.length >= total);
  const cpu = running.use().cpuSeconds - before.own;
  const apiserverCpu = lab.apiserverCpu() - before.apiserver;
  ending.abort();
  await watching;
  return { lags, seconds, cpu, apiserverCpu };
}

/** Change number `index`: a pod gets the labels, and so the identity, of another one of its namespace. */
function changesOf(
  { storage, generated }: KubernetesLab,
  { publisher, total }: { readonly publisher: Publisher; readonly total: number },
): (index: number) => { ip: string; send: () => Promise<unknown> } {
  const byNamespace = new Map<string, GeneratedIdentity[]>();
  for (const identity of generated.identities()) {
    const known = byNamespace.get(identity.namespace) ?? [];
    byNamespace.set(identity.namespace, [...known, identity]);
  }
  const pods = generated
    .pods()
    .filter(({ namespace }) => (byNamespace.get(namespace)?.length ?? 0) > 1);
  const isAnyCni = publisher === 'isthmus-any-cni';
  const kind = isAnyCni ? 'Pod' : 'CiliumEndpoint';
  const turn = turns.get(kind) ?? 1;
  turns.set(kind, turn + Math.ceil(total / pods.length));
  return (index) => {
    const pod = pods[index % pods.length] as GeneratedPod;
    const all = byNamespace.get(pod.namespace) ?? [];
    const steps = turn + Math.floor(index / pods.length);
    const other = all[(all.indexOf(pod.identity) + (steps % all.length)) % all.length];
    const changed = { ...pod, identity: other ?? pod.identity };
    const object = isAnyCni ? podObject(changed) : ciliumEndpointObject(changed);
    const { key, value } = storedObject(object);
    return { ip: podIpv4(pod), send: () => storage.put(key, value) };
  };
}

/** By kind of object, how far its identities have been shifted: further each time. */
const turns = new Map<string, number>();

function report(rounds: Record<Publisher, Round[]>, sizes: Sizes, context: BenchContext): void {
  const emit = (
    metric: string,
    unit: string,
    pick: (round: Round) => number,
    budget?: { readonly words: string; readonly most?: number },
  ): void => {
    const theirs = rounds.cilium.map(pick);
    for (const publisher of ['isthmus', 'isthmus-any-cni'] as const) {
      const ours = rounds[publisher].map(pick);
      if (ours.length === 0) continue;
      const value = median(ours);
      const hasPeer = theirs.length > 0 && !theirs.some(Number.isNaN);
      const mode = publisher === 'isthmus' ? 'mode cilium' : 'mode any-cni';
      context.emit({
        bench: 'kubernetes',
        metric: `${metric}, ${mode}`,
        value,
        unit,
        ...(budget === undefined ? {} : { budget: budget.words }),
        ...(budget?.most === undefined ? {} : { met: value <= budget.most }),
        ...(hasPeer
          ? {
              peer: `${CILIUM} clustermesh-apiserver`,
              peerValue: median(theirs),
              ratio: rounded(value / median(theirs)),
            }
          : {}),
        conditions: { ...sizes, ours, theirs, rounds: rounds[publisher] },
      });
      context.say(
        `${metric}, ${mode}: ${value} ${unit}${hasPeer ? `, Cilium ${median(theirs)}` : ''}`,
      );
    }
  };
  const isFull = sizes.pods >= 50_000;
  const full = (words: string, most: number): { words: string; most?: number } => ({
    words: `${words}, with 5,000 nodes, 50,000 pods, 5,000 services, 100,000 endpoints`,
    ...(isFull ? { most } : {}),
  });
  emit('cold start until every marker stands', 's', (round) => round.coldSeconds, full('60 s', 60));
  emit('CPU of the cold start', 's', (round) => round.coldCpuSeconds);
  emit('most memory', 'MiB', (round) => round.peakMebibytes, full('700 MB', 667));
  emit('memory at the end', 'MiB', (round) => round.residentMebibytes);
  emit('pod changes reached', '1/s', (round) => round.reachedPerSecond);
  emit('storage to key, p50', 'ms', (round) => round.lag.p50);
  emit('storage to key, p99', 'ms', (round) => round.lag.p99);
  emit(
    'queue time p99, at most',
    'ms',
    (round) => round.queue?.p99AtMostMs ?? Number.NaN,
    full('100 ms at 500 changes/s', 100),
  );
  emit('CPU for a change', 'ms', (round) => round.cpuMillisecondsPerChange);
}
