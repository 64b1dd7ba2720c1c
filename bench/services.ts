/**
 * New connections to one of many services: by our socket hooks, by kube-proxy's rules in iptables (legacy and nft), and
 * through a TCP gateway, in alternating rounds.
 */
import { alternate, type Rounds, ratioOf } from './alternate.ts';
import type { Load } from './netload.ts';
import { type BenchContext, median, rounded } from './result.ts';
import {
  loadIptables,
  openServicesLab,
  type Route,
  SERVICE_BASE,
  type ServicesLab,
} from './services-lab.ts';
import { parseSizes } from './sizes.ts';

const DEFAULTS = {
  rounds: 9,
  /** Milliseconds of a measurement. */
  time: 700,
  threads: 2,
  /** Most services; a thirtieth, a third of it and one are measured, too. */
  services: 30_000,
};

type Sizes = Readonly<typeof DEFAULTS>;

const FLAT = 0.97;
const PORT = 80;

/** Runs the benchmark. Options: see DEFAULTS. */
export async function benchServices(context: BenchContext): Promise<void> {
  const sizes: Sizes = parseSizes(context.args, DEFAULTS);
  const counts = [1, Math.ceil(sizes.services / 30), Math.ceil(sizes.services / 3), sizes.services];
  await using lab = await openServicesLab(context.signal);
  await using one = await lab.openMesh(1);
  for (const services of counts) {
    await using mesh = await lab.openMesh(services);
    context.say(
      `${services} services in the kernel's maps after ${rounded(mesh.loadedInMs / 1000)} s`,
    );
    const rate = (route: Route, count = services) => connectRate(lab, { route, count, sizes });
    const flat = await alternate(sizes.rounds, {
      ours: rate(mesh.route),
      peer: rate(one.route, 1),
    });
    reportFlat(context, { services, rounds: flat, sizes });
    for (const backend of ['legacy', 'nft'] as const) {
      await loadIptables(lab.iptables(backend), { backend, services, signal: context.signal });
      const rounds = await alternate(sizes.rounds, {
        ours: rate(mesh.route),
        peer: rate(lab.iptables(backend)),
      });
      reportPeer(context, {
        metric: `new connections to one of ${services} services, beside iptables-${backend}`,
        budget: 'ahead of iptables at every size',
        peer: `iptables-${backend}, rules in the shape of kube-proxy's`,
        rounds,
        sizes,
      });
    }
  }
  await besideGateway(context, { lab, one: one.route, sizes });
}

function connectRate(
  lab: ServicesLab,
  { route, count, sizes }: { route: Route; count: number; sizes: Sizes },
) {
  const load: Load = {
    kind: 'connect',
    target: `${SERVICE_BASE}+${count}`,
    port: PORT,
    seconds: sizes.time / 1000,
    threads: sizes.threads,
  };
  return () => lab.rate(route, load);
}

async function besideGateway(
  context: BenchContext,
  { lab, one, sizes }: { lab: ServicesLab; one: Route; sizes: Sizes },
): Promise<void> {
  const gateway = await lab.openGateway();
  if (gateway === undefined) {
    context.say('no gateway to compare with: haproxy is not installed (apt-get install haproxy)');
    return;
  }
  await using opened = gateway;
  for (const kind of ['crr', 'rr', 'stream'] as const) {
    const load = { kind, seconds: sizes.time / 1000, threads: sizes.threads };
    const rounds = await alternate(sizes.rounds, {
      ours: () => lab.rate(one, { ...load, target: SERVICE_BASE, port: PORT }),
      peer: () => lab.rate(opened.route, { ...load, target: opened.address, port: PORT }),
    });
    reportPeer(context, {
      metric: `${kind} to a service, beside a gateway`,
      budget: 'ahead of a gateway',
      peer: 'haproxy in TCP mode between client and server',
      rounds,
      sizes,
    });
  }
}

function reportFlat(
  context: BenchContext,
  { services, rounds, sizes }: { services: number; rounds: Rounds; sizes: Sizes },
): void {
  const { ratio, low, high } = ratioOf(rounds);
  context.emit({
    bench: 'services',
    metric: `new connections to one of ${services} services, against a single one`,
    value: rounded(median(rounds.ours)),
    unit: '1/s',
    budget: 'flat within 3 %',
    met: high >= FLAT,
    peer: 'ourselves with one service',
    peerValue: rounded(median(rounds.peers)),
    ratio: rounded(ratio),
    conditions: conditionsOf(rounds, sizes),
  });
  context.say(
    `${services} services: ${rounded(ratio)} (${rounded(low)} to ${rounded(high)}) of the rate with one`,
  );
}

function reportPeer(
  context: BenchContext,
  measured: { metric: string; budget: string; peer: string; rounds: Rounds; sizes: Sizes },
): void {
  const { metric, budget, peer, rounds, sizes } = measured;
  const { ratio, low, high } = ratioOf(rounds);
  context.emit({
    bench: 'services',
    metric,
    value: rounded(median(rounds.ours)),
    unit: '1/s',
    budget,
    met: low > 1,
    peer,
    peerValue: rounded(median(rounds.peers)),
    ratio: rounded(ratio),
    conditions: conditionsOf(rounds, sizes),
  });
  context.say(`${metric}: ${rounded(ratio)} times (${rounded(low)} to ${rounded(high)})`);
}

function conditionsOf(rounds: Rounds, sizes: Sizes): Record<string, unknown> {
  const { low, high } = ratioOf(rounds);
  return {
    ...sizes,
    interval95: [rounded(low), rounded(high)],
    raw: rounds.ours.map(rounded),
    peerRaw: rounds.peers.map(rounded),
  };
}
