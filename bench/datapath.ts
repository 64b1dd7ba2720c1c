/**
 * Pod to pod across two clusters, beside the kernel's own routed VXLAN between the same nodes, and with a policy beside
 * without one. `rounds` alternating rounds each, and as many of the kernel against itself, which shows the noise.
 */
import { alternate, type Rounds, ratioOf } from './alternate.ts';
import { type DatapathLab, openDatapathLab, type Way } from './datapath-lab.ts';
import { type Load, type LoadKind, rateOf } from './netload.ts';
import { type BenchContext, median, rounded } from './result.ts';
import { parseSizes } from './sizes.ts';

const DEFAULTS = {
  rounds: 9,
  /** Milliseconds of a measurement. */
  time: 1000,
  threads: 2,
  /** 0: segmentation offloads of all interfaces as they are; 1: off. */
  offloadsOff: 0,
  /** Bytes of the datagrams of the UDP rounds. */
  datagram: 1400,
};

type Sizes = Readonly<typeof DEFAULTS>;

/** 0.97 counts as par: the noise of a benchmark on one machine. */
const PAR = 0.97;
const POLICY_BUDGET = 0.97;

const METRICS: readonly {
  readonly kind: LoadKind;
  readonly name: string;
  readonly unit: string;
}[] = [
  { kind: 'stream', name: 'TCP throughput', unit: 'bit/s' },
  { kind: 'rr', name: 'requests on open TCP connections', unit: '1/s' },
  { kind: 'crr', name: 'connect, request, response', unit: '1/s' },
  { kind: 'udp-send', name: 'UDP datagrams received', unit: '1/s' },
];

/** Runs the benchmark. Options: see DEFAULTS. */
export async function benchDatapath(context: BenchContext): Promise<void> {
  const sizes: Sizes = parseSizes(context.args, DEFAULTS);
  await using lab = await openDatapathLab({
    offloads: sizes.offloadsOff === 0,
    signal: context.signal,
  });
  for (const family of [4, 6] as const) {
    for (const metric of METRICS) {
      const rate = (way: Way) => async (): Promise<number> => {
        const load = { ...loadOf(metric.kind, sizes), target: lab.target(way, family) };
        return rateOf(load, await lab.measure(way, load));
      };
      const name = `${metric.name}, IPv${family}`;
      const beside = await alternate(sizes.rounds, { ours: rate('mesh'), peer: rate('kernel') });
      report(context, { ...metric, name, rounds: beside, sizes, family });
      if (family === 6) continue;
      const noise = await alternate(sizes.rounds, { ours: rate('kernel'), peer: rate('kernel') });
      reportNoise(context, { ...metric, name, rounds: noise, sizes });
      const guarded = await alternate(sizes.rounds, { ours: rate('guarded'), peer: rate('mesh') });
      reportPolicy(context, { ...metric, name, rounds: guarded, sizes });
    }
  }
  await reportProgramTime(context, lab, sizes);
}

function loadOf(kind: LoadKind, sizes: Sizes): Omit<Load, 'target'> {
  const size = kind === 'udp-send' ? { size: sizes.datagram } : {};
  return { kind, port: 7000, seconds: sizes.time / 1000, threads: sizes.threads, ...size };
}

interface Measured {
  readonly name: string;
  readonly unit: string;
  readonly rounds: Rounds;
  readonly sizes: Sizes;
}

function conditionsOf({ rounds, sizes }: Measured): Record<string, unknown> {
  const { low, high } = ratioOf(rounds);
  return {
    ...sizes,
    interval95: [rounded(low), rounded(high)],
    raw: rounds.ours.map(rounded),
    peerRaw: rounds.peers.map(rounded),
  };
}

function report(context: BenchContext, measured: Measured & { readonly family: 4 | 6 }): void {
  const { name, unit, rounds } = measured;
  const { ratio, low, high } = ratioOf(rounds);
  context.emit({
    bench: 'datapath',
    metric: name,
    value: rounded(median(rounds.ours)),
    unit,
    budget: "1.0 of the kernel's routed VXLAN or better (0.97 counts as par)",
    met: high >= PAR,
    peer: 'kernel VXLAN, routed, conntrack on, same MTU and offloads',
    peerValue: rounded(median(rounds.peers)),
    ratio: rounded(ratio),
    conditions: conditionsOf(measured),
  });
  context.say(`${name}: ${rounded(ratio)} (${rounded(low)} to ${rounded(high)}) of the kernel's`);
}

function reportNoise(context: BenchContext, measured: Measured): void {
  const { ratio, low, high } = ratioOf(measured.rounds);
  context.emit({
    bench: 'datapath',
    metric: `${measured.name}: the kernel's VXLAN against itself`,
    value: rounded(ratio),
    unit: 'ratio',
    conditions: conditionsOf(measured),
  });
  context.say(`  noise: ${rounded(ratio)} (${rounded(low)} to ${rounded(high)})`);
}

function reportPolicy(context: BenchContext, measured: Measured): void {
  const { ratio, low, high } = ratioOf(measured.rounds);
  context.emit({
    bench: 'datapath',
    metric: `${measured.name}: with a policy, against without`,
    value: rounded(ratio),
    unit: 'ratio',
    budget: 'policy on costs 3 % or less',
    met: high >= POLICY_BUDGET,
    conditions: conditionsOf(measured),
  });
  context.say(
    `  with a policy: ${rounded(ratio)} (${rounded(low)} to ${rounded(high)}) of without`,
  );
}

/** CPU time of the programs themselves, by the kernel's own statistics. */
async function reportProgramTime(
  context: BenchContext,
  lab: DatapathLab,
  sizes: Sizes,
): Promise<void> {
  for (const kind of ['rr', 'udp-send'] as const) {
    const load = { ...loadOf(kind, sizes), target: lab.target('mesh', 4) };
    for (const { program, node, runs, nanoseconds } of await lab.programTimes('mesh', load)) {
      if (runs < 1000) continue;
      // Nanoseconds a run are milliseconds for a million runs.
      const value = rounded(nanoseconds / runs / 1000);
      context.emit({
        bench: 'datapath',
        metric: `CPU time of ${program} on ${node} for a million packets, ${kind}`,
        value,
        unit: 's',
        conditions: { ...sizes, runs, note: 'the statistics themselves cost some 20 ns a run' },
      });
      context.say(`${program} on ${node}, ${kind}: ${value} s for a million packets`);
    }
  }
}
