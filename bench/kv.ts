/** `bench -- kv`: what the gate before etcd costs, and what it saves etcd. Direct etcd and etcdctl are measured in the same run. */
import { execFile } from 'node:child_process';
import {
  decodeWatchResponse,
  encodeWatchCreate,
} from '../clustermesh-apiserver/gate/etcd-messages.ts';
import { openRawClient } from '../clustermesh-apiserver/gate/testing/raw-client.ts';
import { openEtcd } from '../mesh/kvstore/etcd.ts';
import type { KvStore } from '../mesh/kvstore/kvstore.ts';
import { systemClock } from '../mesh/runtime/clock.ts';
import { type KvLab, type KvTarget, openKvLab } from './kv-lab.ts';
import { type BenchContext, median, percentile, rounded } from './result.ts';

const PREFIX = 'cilium/state/ip/v1/default/';
const RANGE_END = 'cilium/state/ip/v1/default0';
const WRITERS = 32;
const PAUSE_MS = 5;

interface Sizes {
  readonly keys: number;
  readonly rounds: number;
  readonly watchers: number;
  readonly changesPerSecond: number;
  readonly seconds: number;
}

const DEFAULTS: Sizes = {
  keys: 50_000,
  rounds: 9,
  watchers: 20,
  changesPerSecond: 300,
  seconds: 3,
};

/** Runs the benchmark. Options: `--keys=N --rounds=N --watchers=N --changesPerSecond=N --seconds=N`. */
export async function benchKv(context: BenchContext): Promise<void> {
  const sizes = parseSizes(context.args);
  context.say(`starting etcd and a gate, writing ${sizes.keys} keys`);
  await using lab = await openKvLab(context.signal);
  await using writer = await openEtcd({ endpoints: [lab.direct.endpoint], tls: lab.direct.tls });
  await fill(writer, sizes.keys);
  await benchList(lab, sizes, context);
  await benchEtcdctl(lab, sizes, context);
  await benchLatency(lab, { writer, sizes, context });
  await benchFanOut(lab, { writer, sizes, context });
}

function parseSizes(args: readonly string[]): Sizes {
  const sizes: Record<string, number> = { ...DEFAULTS };
  for (const arg of args) {
    const [, name = '', value] = /^--(\w+)=(\d+)$/.exec(arg) ?? [];
    if (!Object.hasOwn(sizes, name)) {
      const known = Object.keys(DEFAULTS).map((key) => `--${key}=N`);
      throw new Error(`cannot understand ${arg}: expected one of ${known.join(' ')}`);
    }
    sizes[name] = Number(value);
  }
  return { ...DEFAULTS, ...sizes };
}

function entry(index: number): { key: string; value: string } {
  const ip = `10.${(index >> 16) & 255}.${(index >> 8) & 255}.${index & 255}`;
  const value = `{"IP":"${ip}","Mask":null,"HostIP":"192.0.2.${index % 250}","ID":${65_536 + (index % 500)},"Key":0,"Metadata":"","K8sNamespace":"demo","K8sPodName":"web-${index}"}`;
  return { key: PREFIX + ip, value };
}

async function fill(store: KvStore, count: number): Promise<void> {
  const perTransaction = 100;
  for (let from = 0; from < count; from += perTransaction) {
    const then = Array.from({ length: Math.min(perTransaction, count - from) }, (_, index) => ({
      kind: 'put' as const,
      ...entry(from + index),
    }));
    await store.transact({ compare: [], then });
  }
}

async function timed(work: () => Promise<unknown>): Promise<number> {
  const began = systemClock.monotonic();
  await work();
  return systemClock.monotonic() - began;
}

/** Runs both in turn, changing who is first, after one round that does not count. */
async function alternate(
  rounds: number,
  measure: (target: 'direct' | 'gate') => Promise<number>,
): Promise<{ direct: number[]; gate: number[] }> {
  const times = { direct: [] as number[], gate: [] as number[] };
  for (let round = -1; round < rounds; round += 1) {
    const order = round % 2 === 0 ? (['direct', 'gate'] as const) : (['gate', 'direct'] as const);
    for (const name of order) {
      const time = await measure(name);
      if (round >= 0) times[name].push(rounded(time));
    }
  }
  return times;
}

async function benchList(lab: KvLab, sizes: Sizes, context: BenchContext): Promise<void> {
  const stores = {
    direct: await openEtcd({ endpoints: [lab.direct.endpoint], tls: lab.direct.tls }),
    gate: await openEtcd({ endpoints: [lab.gate.endpoint], tls: lab.gate.tls }),
  };
  try {
    const times = await alternate(sizes.rounds, (name) =>
      timed(async () => {
        const { pairs } = await stores[name].list(PREFIX, { signal: context.signal });
        if (pairs.length < sizes.keys) throw new Error(`${name} listed ${pairs.length} keys`);
      }),
    );
    report(context, { metric: 'list by our client', unit: 'ms', ...times, sizes });
  } finally {
    await stores.direct[Symbol.asyncDispose]();
    await stores.gate[Symbol.asyncDispose]();
  }
}

async function benchEtcdctl(lab: KvLab, sizes: Sizes, context: BenchContext): Promise<void> {
  const times = await alternate(sizes.rounds, (name) =>
    timed(() => etcdctl(lab[name], 'get', '--prefix', PREFIX)),
  );
  report(context, { metric: 'list by etcdctl', unit: 'ms', ...times, sizes });
}

function etcdctl(target: KvTarget, ...args: string[]): Promise<void> {
  return new Promise((resolve, reject) => {
    const options = { env: { ETCDCTL_API: '3', PATH: '/usr/bin:/bin' }, maxBuffer: 1 << 30 };
    execFile('etcdctl', [...target.flags, ...args], options, (error) =>
      error === null ? resolve() : reject(error),
    );
  });
}

/** A watcher on a connection of its own that hands on bytes. */
function openWatcher(target: KvTarget, onAnswer: (bytes: Buffer) => void): { close(): void } {
  const client = openRawClient(target.endpoint, target.tls);
  client.watchBytes(
    encodeWatchCreate({
      key: Buffer.from(PREFIX),
      rangeEnd: Buffer.from(RANGE_END),
      startRevision: 0,
      prevKv: false,
    }),
    onAnswer,
  );
  return { close: () => client[Symbol.dispose]() };
}

async function benchLatency(
  lab: KvLab,
  { writer, sizes, context }: { writer: KvStore; sizes: Sizes; context: BenchContext },
): Promise<void> {
  const changes = 200;
  const tails = { direct: [] as number[], gate: [] as number[] };
  const times = await alternate(sizes.rounds, async (name) => {
    let told = (): void => undefined;
    let created = (): void => undefined;
    const ready = new Promise<void>((resolve) => {
      created = resolve;
    });
    const watcher = openWatcher(lab[name], (bytes) => {
      const { created: isCreated, events } = decodeWatchResponse(bytes);
      if (isCreated) created();
      else if (events.length > 0) told();
    });
    await ready;
    const latencies: number[] = [];
    for (let change = 0; change < changes; change += 1) {
      // Changes that come one by one: the gate hands on at once what comes after a pause.
      await systemClock.sleep(PAUSE_MS, context.signal);
      const began = systemClock.monotonic();
      const seen = new Promise<void>((resolve) => {
        told = resolve;
      });
      await writer.put(`${PREFIX}10.255.255.1`, `${change}`);
      await seen;
      latencies.push(systemClock.monotonic() - began);
    }
    watcher.close();
    tails[name].push(rounded(percentile(latencies, 0.99)));
    return median(latencies);
  });
  const p99 = { direct: median(tails.direct), gate: median(tails.gate) };
  report(context, {
    metric: 'put until told, one watcher',
    unit: 'ms',
    ...times,
    sizes,
    more: { p99 },
  });
}

async function benchFanOut(
  lab: KvLab,
  { writer, sizes, context }: { writer: KvStore; sizes: Sizes; context: BenchContext },
): Promise<void> {
  const gateCpu: number[] = [];
  const { direct: target } = lab;
  const alone = { target, writer, context, sizes: { ...sizes, watchers: 0 } };
  const idle: number[] = [];
  for (let round = 0; round < 3; round += 1) idle.push((await fanOutRound(lab, alone)).etcdCpu);
  const times = await alternate(Math.min(sizes.rounds, 5), async (name) => {
    const round = await fanOutRound(lab, { target: lab[name], writer, sizes, context });
    if (name === 'gate') gateCpu.push(rounded(round.gateCpu));
    // Without what the writes cost, which are the same for both.
    return Math.max(0, round.etcdCpu - median(idle));
  });
  report(context, {
    metric: `etcd's CPU for telling 1000 changes to ${sizes.watchers} watchers`,
    unit: 's',
    ...times,
    sizes,
    more: { gateCpuSeconds: gateCpu, writesAloneSeconds: idle.map(rounded) },
  });
}

async function fanOutRound(
  lab: KvLab,
  run: { target: KvTarget; writer: KvStore; sizes: Sizes; context: BenchContext },
): Promise<{ etcdCpu: number; gateCpu: number }> {
  const { target, writer, sizes, context } = run;
  let created = 0;
  const told = new Array<number>(sizes.watchers).fill(0);
  const watchers = told.map((_, index) =>
    openWatcher(target, (bytes) => {
      const response = decodeWatchResponse(bytes);
      if (response.created) created += 1;
      told[index] = (told[index] ?? 0) + response.events.length;
    }),
  );
  const wait = async (isDone: () => boolean): Promise<void> => {
    while (!isDone()) await systemClock.sleep(5, context.signal);
  };
  await wait(() => created === sizes.watchers);
  const before = { etcd: await lab.etcdCpu(), gate: await lab.gateCpu() };
  const total = sizes.changesPerSecond * sizes.seconds;
  const began = systemClock.monotonic();
  let sent = 0;
  const write = async (): Promise<void> => {
    while (sent < total) {
      const index = sent;
      sent += 1;
      const due = began + (index / sizes.changesPerSecond) * 1000;
      const early = due - systemClock.monotonic();
      if (early > 0) await systemClock.sleep(early);
      await writer.put(entry(index % sizes.keys).key, `${index}`);
    }
  };
  await Promise.all(Array.from({ length: WRITERS }, write));
  await wait(() => told.every((count) => count >= total));
  for (const watcher of watchers) watcher.close();
  const perThousand = 1000 / total;
  return {
    etcdCpu: ((await lab.etcdCpu()) - before.etcd) * perThousand,
    gateCpu: ((await lab.gateCpu()) - before.gate) * perThousand,
  };
}

function report(
  context: BenchContext,
  result: {
    metric: string;
    unit: string;
    direct: readonly number[];
    gate: readonly number[];
    sizes: Sizes;
    more?: Record<string, unknown>;
  },
): void {
  const { metric, unit, direct, gate, sizes, more } = result;
  const [value, peerValue] = [median(gate), median(direct)];
  const ratio = rounded(value / peerValue);
  context.emit({
    bench: 'kv',
    metric,
    value,
    unit,
    peer: 'direct etcd',
    peerValue,
    ratio,
    conditions: { ...sizes, ...more, gate, direct },
  });
  context.say(
    `${metric}: ${value} ${unit} through the gate, ${peerValue} ${unit} direct: ${ratio} x`,
  );
}
