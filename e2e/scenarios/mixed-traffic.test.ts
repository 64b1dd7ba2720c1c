import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { test } from 'tap';
import type { Lab } from '../lab/lab.ts';
import type { MixedReport, MixedTargets, Target } from '../lab/mixed-client/main.ts';
import { labSkipReason } from '../lab/preflight.ts';
import type { PodInput } from '../lab/topology.ts';
import { exampleTopology, mapsOf, openMesh, waitUntilReady } from './mesh.ts';

const skip = labSkipReason(process.env);
const CLIENT = fileURLToPath(new URL('../lab/mixed-client/main.js', import.meta.url));
const SHORT_S = 25;
const LONG_S = 60;
/** How long, in seconds: of the environment, for a run of ten minutes. */
const DURATION_S =
  Number(process.env.ISTHMUS_MIXED_SECONDS) ||
  (process.env.ISTHMUS_LONG === 'true' ? LONG_S : SHORT_S);
const CONNECTIONS_A_SECOND = 200;
const TEMPORARY = 'web-temporary';
/** Reasons that count packets which went nowhere. */
const isDrop = (reason: string): boolean =>
  !['forwarded', 'forwarded-overlay', 'passed-to-stack', 'service-translated'].includes(reason);

function targetsOf(lab: Lab): MixedTargets {
  const both = (name: string, address: (family: 4 | 6) => string, port: number): Target[] =>
    ([4, 6] as const).map((family) => ({
      name: `${name}${family}`,
      address: address(family),
      port,
    }));
  const service = (family: 4 | 6): string => lab.clusterIp('alpha', 'web', family);
  const pod = (family: 4 | 6): string => lab.pod('web-beta').ip(family);
  // Behind a policy that lets nobody else in.
  const vault = (family: 4 | 6): string => lab.pod('vault').ip(family);
  return {
    rate: CONNECTIONS_A_SECOND,
    connections: [
      ...both('service', service, 80),
      ...both('pod', pod, 8080),
      ...both('vault', vault, 8080),
    ],
    streams: [
      ...both('service', service, 80),
      ...both('pod', pod, 8080),
      ...both('vault', vault, 8080),
    ],
    datagrams: [...both('pod', pod, 5353)],
  };
}

/** Something that happens to the mesh. */
interface Disturbance {
  readonly what: string;
  act(): Promise<void>;
}

/** What is done to the mesh while traffic runs, one thing after the other, until the time is over. */
function disturbances(lab: Lab): Disturbance[] {
  const nodes = ['alpha-1', 'beta-1', 'beta-2', 'alpha-2'];
  let round = 0;
  const nextNode = (): string => nodes[round++ % nodes.length] ?? 'alpha-1';
  const temporary: PodInput = {
    name: TEMPORARY,
    node: 'beta-2',
    namespace: 'shop',
    labels: { app: 'web' },
    role: 'server',
    ports: [
      { name: 'http', port: 8080 },
      { name: 'dns', port: 5353, protocol: 'UDP' },
    ],
  };
  const restart = async (node: string): Promise<void> => lab.agent(node).restart();
  const kill = async (node: string): Promise<void> => {
    await lab.agent(node).kill();
    await lab.agent(node).start();
  };
  return [
    {
      what: 'a backend comes',
      async act() {
        const { ips } = await lab.addPod(temporary);
        await untilBackends(lab, ips, 'are known');
      },
    },
    { what: 'an agent is killed', act: () => kill(nextNode()) },
    { what: 'an agent is restarted', act: () => restart(nextNode()) },
    { what: 'an agent is upgraded', act: () => upgrade(lab, nextNode()) },
    {
      what: 'a backend goes',
      // Without a word before: its address lives longer than its place, and its process until what it answers is answered.
      async act() {
        const { name, ips } = lab.pod(TEMPORARY);
        await lab.withdrawPod(name);
        await untilBackends(lab, ips, 'are forgotten');
        await wait(1000);
        await lab.removePod(name);
      },
    },
    { what: 'etcd of beta is killed', act: () => lab.apiserver('beta').killEtcd() },
    { what: "the client's agent is upgraded", act: () => upgrade(lab, 'alpha-1') },
    { what: 'etcd of alpha is killed', act: () => lab.apiserver('alpha').killEtcd() },
  ];
}

/** Waits until the client's node has, or has no more, the addresses of the backend that comes and goes. */
async function untilBackends(
  lab: Lab,
  addresses: readonly string[],
  state: 'are known' | 'are forgotten',
): Promise<void> {
  await lab.waitFor(
    `backends ${addresses.join(', ')} ${state}`,
    async () => {
      const rows = await lab.agent('alpha-1').map('services');
      const backends = JSON.stringify(rows.map((row) => row.backends));
      return addresses.every(
        (address) => backends.includes(`"${address}"`) === (state === 'are known'),
      );
    },
    { timeoutMs: 60_000 },
  );
}

/**
 * A new release with other maps: the agent finds a folder without one of its maps, makes another folder beside it, and
 * replaces all programs at once.
 */
async function upgrade(lab: Lab, node: string): Promise<void> {
  const agent = lab.agent(node);
  await agent.stop();
  rmSync(join(lab.node(node).bpfRoot, 'isthmus/maps/mesh_fragments'), { force: true });
  await agent.start();
}

/** Packets by reason, of a node. */
async function countsOf(lab: Lab, node: string): Promise<Map<string, number>> {
  const counts = new Map<string, number>();
  for (const { reason, packets } of await lab.agent(node).metrics()) {
    counts.set(reason, (counts.get(reason) ?? 0) + packets);
  }
  return counts;
}

function sum(all: readonly ReadonlyMap<string, number>[], wanted: (reason: string) => boolean) {
  return all
    .flatMap((counts) => [...counts])
    .reduce((total, [reason, packets]) => (wanted(reason) ? total + packets : total), 0);
}

test('promises 3 and 5: mixed traffic while agents are restarted, killed and upgraded', {
  skip,
  timeout: (DURATION_S + 240) * 1000,
}, async (t) => {
  await using lab = await openMesh(await exampleTopology());
  const nodes = lab.plan.nodes.map(({ name }) => name);
  const before = await Promise.all(nodes.map((node) => countsOf(lab, node)));

  await using client = lab.spawn('client', [
    process.execPath,
    CLIENT,
    JSON.stringify(targetsOf(lab)),
  ]);
  await lab.waitFor('every stream to run', () => client.output().includes('streams run'), {
    timeoutMs: 30_000,
  });
  const ends = Date.now() + DURATION_S * 1000;
  const acts = disturbances(lab);
  const history: string[] = [];
  let acted = 0;
  // A whole round at least, so that each kind of disturbance is met.
  while (Date.now() < ends || acted < acts.length) {
    const next = acts[acted % acts.length];
    const begun = Date.now();
    await next?.act();
    history.push(`${next?.what} from ${begun} to ${Date.now()}`);
    acted += 1;
    await wait(500);
  }
  for (const node of nodes) await waitUntilReady(lab, node);
  await wait(1000);
  client.kill('SIGTERM');
  await client.exited;
  const report = reportOf(client.output());
  const after = await Promise.all(nodes.map((node) => countsOf(lab, node)));

  const drops = nodes.flatMap((node, index) =>
    [...(after[index] ?? [])]
      .map(([reason, packets]) => ({ reason, more: packets - (before[index]?.get(reason) ?? 0) }))
      .filter(({ reason, more }) => more > 0 && isDrop(reason))
      .map(({ reason, more }) => `${node}: ${reason} ${more} times`),
  );
  let answered = 0;
  for (const [name, count] of Object.entries(report.connections)) {
    // With what went on meanwhile, where some did.
    const found = count.failures.length === 0 ? [] : [...count.failures, ...history, ...drops];
    t.same(found, [], `${name}: no connection failed of ${count.begun}`);
    t.equal(count.answered, count.begun);
    t.ok(count.answered > DURATION_S, `${name}: there were some`);
    answered += count.answered;
  }
  const backends = Object.keys(report.connections.service4?.byPod ?? {});
  for (const name of ['web-alpha', 'web-beta', TEMPORARY]) {
    t.ok(backends.includes(name), `${name} had its share`);
  }
  for (const [name, stream] of Object.entries(report.streams)) {
    t.equal(stream.failure, undefined, `stream to ${name}: neither reset nor closed`);
    t.ok(stream.longestGapMs < 10_000, `stream to ${name}: longest gap ${stream.longestGapMs} ms`);
    t.ok(stream.bytes > 0);
  }
  for (const [name, { sent, answered: back }] of Object.entries(report.datagrams)) {
    t.ok(back >= sent * 0.99, `datagrams to ${name}: ${back} of ${sent} answered`);
  }

  nodes.forEach((node, index) => {
    for (const [reason, packets] of before[index] ?? []) {
      t.ok((after[index]?.get(reason) ?? 0) >= packets, `${node}: ${reason} went on counting`);
    }
  });
  const refused = (reason: string): boolean => reason === 'service-no-backend';
  t.equal(sum(after, refused), sum(before, refused), 'there always was a backend');
  const overlay = sum(after, (reason) => reason === 'forwarded-overlay');
  const arrived = sum(after, (reason) => reason === 'forwarded' || isDrop(reason));
  t.ok(overlay > answered, `${overlay} packets went from node to node`);
  t.ok(arrived >= overlay, `each of them was delivered or dropped for a reason (${arrived})`);
  t.ok((await mapsOf(lab, 'alpha-1')).length > 0);
  t.comment(`${answered} connections, ${acted} disturbances in ${DURATION_S} s`);
});

function reportOf(output: string): MixedReport {
  const line = output.trim().split('\n').at(-1) ?? '';
  const report: MixedReport = JSON.parse(line);
  return report;
}
