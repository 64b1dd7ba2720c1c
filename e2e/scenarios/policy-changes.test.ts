/** Promise 4, with packets: policies, identities, addresses and what agents know change, in any order, under live flows. */
import { type Test, test } from 'tap';
import { callAgent } from '../../agent/api/client.ts';
import { createRandom, type Random } from '../../mesh/wire/testing/mutate.ts';
import { namespaceObject } from '../lab/kubernetes-object.ts';
import { labSkipReason } from '../lab/preflight.ts';
import { waitUntilSettled } from '../lab/settled-lab.ts';
import type { TopologyInput } from '../lab/topology.ts';
import { openPolicyLab, type PolicyLab, type Side } from './policy-lab.ts';
import type { ProbeProtocol } from './policy-prober.ts';
import type { ProbeFlow } from './policy-probes.ts';

const skip = labSkipReason(process.env);
const seed = Number(process.env.ISTHMUS_SEED ?? Math.floor(Math.random() * 2 ** 31));
const IS_LONG = process.env.ISTHMUS_LONG === 'true';
/** How much changes: so many times in a long run, for so long in a short one. */
const LONG_STEPS = 24;
const SHORT_MS = 12_000;
const OPEN = { tcp: 8080, udp: 5353 } as const;
const CLOSED = { tcp: 9090, udp: 9091 } as const;
const PROTOCOLS: readonly ProbeProtocol[] = ['tcp', 'udp'];
const FAMILIES = [4, 6] as const;
const STREAM_MS = 20;

const cluster = (name: Side, id: number) => ({
  name,
  id,
  podCidrs: [`10.${id}.0.0/16`, `fd00:10:${id}::/48`],
  serviceCidrs: [`10.10${id}.0.0/16`, `fd00:10${id}::/112`],
  nodes: [`${name}-1`],
  namespaces: { demo: {}, foreign: {} },
});
const pod = (name: string, side: Side, namespace: string, app: string) => ({
  name,
  node: `${side}-1`,
  namespace,
  labels: { app },
});
const topology: TopologyInput = {
  clusters: [cluster('alpha', 1), cluster('beta', 2)],
  pods: [
    pod('server', 'alpha', 'demo', 'server'),
    pod('client', 'alpha', 'demo', 'client'),
    pod('other', 'alpha', 'foreign', 'client'),
    pod('far-server', 'beta', 'demo', 'server'),
    pod('far-client', 'beta', 'demo', 'client'),
    pod('far-other', 'beta', 'foreign', 'client'),
  ],
};

/** Allowed whatever happens below: from, to. */
const ALLOWED = [
  ['client', 'server'],
  ['far-client', 'server'],
  ['far-client', 'far-server'],
] as const;
/** Denied whatever happens below: from, to, and the ports. */
const DENIED = [
  ['other', 'server', OPEN],
  ['far-other', 'server', OPEN],
  ['client', 'server', CLOSED],
  ['far-client', 'far-server', CLOSED],
] as const;

const ANY_CLUSTER = { key: 'io.cilium.k8s.policy.cluster', operator: 'Exists' };
const openPorts = [
  {
    ports: [
      { port: String(OPEN.tcp), protocol: 'TCP' },
      { port: String(OPEN.udp), protocol: 'UDP' },
    ],
  },
];

function ciliumPolicy(name: string, spec: Record<string, unknown>) {
  return {
    apiVersion: 'cilium.io/v2',
    kind: 'CiliumNetworkPolicy',
    metadata: { name, namespace: 'demo' },
    spec,
  };
}

const server = { endpointSelector: { matchLabels: { app: 'server' } } };
/** Three ways to let in the clients of demo, in both clusters, at the open ports, and nobody else. */
const SERVER_POLICIES = [
  ciliumPolicy('by-labels', {
    ...server,
    ingress: [
      {
        fromEndpoints: [{ matchLabels: { app: 'client' }, matchExpressions: [ANY_CLUSTER] }],
        toPorts: openPorts,
      },
    ],
  }),
  ciliumPolicy('by-clusters', {
    ...server,
    ingress: ['alpha', 'beta'].map((name) => ({
      fromEndpoints: [{ matchLabels: { app: 'client', 'io.cilium.k8s.policy.cluster': name } }],
      toPorts: openPorts,
    })),
  }),
  ciliumPolicy('all-but', {
    ...server,
    ingress: [{ fromEntities: ['all'], toPorts: openPorts }],
    ingressDeny: [
      {
        fromEndpoints: [
          {
            matchLabels: { 'k8s:io.kubernetes.pod.namespace': 'foreign' },
            matchExpressions: [ANY_CLUSTER],
          },
        ],
      },
    ],
  }),
];
/** Two ways to let the clients of beta call the open ports of servers, and no others. */
const CLIENT_POLICIES = [
  ciliumPolicy('to-servers', {
    endpointSelector: { matchLabels: { app: 'client' } },
    egress: [
      {
        toEndpoints: [{ matchLabels: { app: 'server' }, matchExpressions: [ANY_CLUSTER] }],
        toPorts: openPorts,
      },
    ],
  }),
  ciliumPolicy('to-all-but', {
    endpointSelector: { matchLabels: { app: 'client' } },
    egress: [{ toEntities: ['all'] }],
    egressDeny: [
      {
        toPorts: [
          {
            ports: [
              { port: String(CLOSED.tcp), protocol: 'TCP' },
              { port: String(CLOSED.udp), protocol: 'UDP' },
            ],
          },
        ],
      },
    ],
  }),
];
/** About the same pods, and nothing that the flows are about. */
const UNRELATED = [
  ciliumPolicy('prefixes', {
    ...server,
    ingress: [{ fromCIDRSet: [{ cidr: '203.0.113.0/24', except: ['203.0.113.64/26'] }] }],
  }),
  ciliumPolicy('other-port', {
    ...server,
    ingressDeny: [
      { fromEntities: ['all'], toPorts: [{ ports: [{ port: '7777', protocol: 'TCP' }] }] },
    ],
  }),
  ciliumPolicy('world', { ...server, ingress: [{ fromEntities: ['world'] }] }),
];

test('changes of policy under live flows', { skip, timeout: 600_000 }, async (t) => {
  await using policyLab = await openPolicyLab(topology, {
    // An agent that is being restarted hears of a new identity late: on a busy machine later than the usual 5s.
    agentFlags: ['--identity-change-grace-period=30s'],
  });
  const { lab } = policyLab;
  for (const name of ['server', 'far-server']) {
    for (const protocol of PROTOCOLS) {
      await policyLab.prober(name).listen(protocol, [OPEN[protocol], CLOSED[protocol]]);
    }
  }
  const { manifests: alpha } = lab.apiserver('alpha');
  const { manifests: beta } = lab.apiserver('beta');
  await alpha.write(SERVER_POLICIES[0] ?? failure());
  await beta.write(CLIENT_POLICIES[0] ?? failure());
  await lab.waitFor('the policies to hold', async () => {
    const ends = await Promise.all(
      ['alpha-1', 'beta-1'].map(async (name) => (await lab.agent(name).status()).endpoints),
    );
    return (
      ends[0]?.some(({ pod, ingressEnforced }) => pod === 'demo/server' && ingressEnforced) &&
      ends[1]?.some(({ pod, egressEnforced }) => pod === 'demo/far-client' && egressEnforced)
    );
  });

  await t.test('a change cuts flows in which only one side speaks', (t) => cuts(t, policyLab));

  await t.test('audit mode of an endpoint outlives the agent', (t) => audits(t, policyLab));

  await t.test('nothing else changes what is allowed and denied throughout', async (t) => {
    t.comment(`seed ${seed}`);
    const allowed = await startAllowed(policyLab);
    const ended = new AbortController();
    const denied = tryDenied(policyLab, ended.signal);
    const before = await receivedFrom(policyLab);
    const random = createRandom(seed);
    const chaos = createChaos(policyLab, random);
    const until = performance.now() + SHORT_MS;
    const isOver = (step: number): boolean =>
      IS_LONG ? step === LONG_STEPS : performance.now() > until;
    for (let step = 0; !isOver(step); step += 1) await chaos(step);
    for (const { name } of lab.plan.nodes) {
      if (!lab.agent(name).isRunning()) await lab.agent(name).start();
      await waitUntilSettled(lab, name);
    }
    for (const { flow } of allowed) await flow.hush();
    for (const { name, flow } of allowed) {
      const { sent, failure: why } = await flow.report();
      t.equal(why, undefined, `${name} goes on, seed ${seed}`);
      t.ok(sent > 20, `${name} had ${sent} questions`);
      await lab
        .waitFor(`every answer to ${name}`, async () => (await flow.report()).answered >= sent, {
          timeoutMs: 5000,
        })
        .catch(() => undefined);
      t.equal((await flow.report()).answered, sent, `${name} has lost nothing, seed ${seed}`);
    }
    ended.abort();
    t.strictSame(await denied, [], `seed ${seed}`);
    t.strictSame(await receivedFrom(policyLab), before, `nobody else got through, seed ${seed}`);
  });
});

function failure(): never {
  throw new Error('there is one');
}

/** A question each 20 ms over each protocol and family, for each pair. */
async function startAllowed(
  policyLab: PolicyLab,
): Promise<{ readonly name: string; readonly flow: ProbeFlow }[]> {
  const flows: { name: string; flow: ProbeFlow }[] = [];
  for (const [from, to] of ALLOWED) {
    for (const protocol of PROTOCOLS) {
      for (const family of FAMILIES) {
        const address = policyLab.lab.pod(to).ip(family);
        const target = { protocol, address, port: OPEN[protocol] };
        const flow = await policyLab.prober(from).stream(target, STREAM_MS);
        flows.push({ name: `${from} ${to} ${protocol} IPv${family}`, flow });
      }
    }
  }
  return flows;
}

/** Tries again and again, each time for a moment, until `signal` aborts; resolves to what got an answer. */
async function tryDenied(policyLab: PolicyLab, signal: AbortSignal): Promise<string[]> {
  const wrong: string[] = [];
  const attempts = DENIED.flatMap(([from, to, ports]) =>
    PROTOCOLS.flatMap((protocol) =>
      FAMILIES.map(async (family) => {
        const address = policyLab.lab.pod(to).ip(family);
        while (!signal.aborted) {
          const call = policyLab.prober(from).call({ protocol, address, port: ports[protocol] });
          const pause = policyLab.lab.waitFor('a moment', () => false, { timeoutMs: 100 });
          const answered = await Promise.race([call.answered, pause.catch(() => false)]);
          if (answered) wrong.push(`${from} ${to} ${protocol}/${ports[protocol]} IPv${family}`);
          await call.end();
        }
      }),
    ),
  );
  await Promise.all(attempts);
  return wrong;
}

/** Questions that servers have got from whoever must not reach them: the closed ports' come from clients as well. */
async function receivedFrom(policyLab: PolicyLab): Promise<Record<string, number>> {
  const strangers = new Set(
    ['other', 'far-other'].flatMap((name) => [...policyLab.lab.pod(name).ips]).map(String),
  );
  const counts: Record<string, number> = {};
  for (const name of ['server', 'far-server']) {
    for (const [address, count] of Object.entries(await policyLab.prober(name).received())) {
      if (strangers.has(address)) counts[`${address} to ${name}`] = count;
    }
  }
  return counts;
}

/** Makes one change at a time, of those that leave all verdicts as they are. */
function createChaos(policyLab: PolicyLab, random: Random): (step: number) => Promise<void> {
  const { lab } = policyLab;
  const { manifests: alpha } = lab.apiserver('alpha');
  const { manifests: beta } = lab.apiserver('beta');
  const extras: string[] = [];
  const standing = { server: SERVER_POLICIES[0], client: CLIENT_POLICIES[0] };
  const relabel = async (step: number): Promise<void> => {
    const { name, labels } = random.pick(lab.pods());
    await lab.relabel(name, { app: labels.app ?? name, revision: String(step) });
  };
  const swapServer = async (): Promise<void> => {
    const next = random.pick(SERVER_POLICIES.filter((policy) => policy !== standing.server));
    await alpha.write(next);
    if (standing.server !== undefined) await alpha.remove(standing.server);
    standing.server = next;
  };
  const swapClient = async (): Promise<void> => {
    const next = random.pick(CLIENT_POLICIES.filter((policy) => policy !== standing.client));
    await beta.write(next);
    if (standing.client !== undefined) await beta.remove(standing.client);
    standing.client = next;
  };
  const unrelated = async (): Promise<void> => {
    const policy = random.pick(UNRELATED);
    await (random.below(2) === 0 ? alpha.write(policy) : alpha.remove(policy));
  };
  const labelNamespace = async (step: number): Promise<void> => {
    const side = random.pick([alpha, beta]);
    await side.write(namespaceObject(random.pick(['demo', 'foreign']), { step: String(step) }));
  };
  const addPod = async (step: number): Promise<void> => {
    const name = `extra-${step}`;
    const node = random.pick(lab.plan.nodes);
    if (!lab.agent(node.name).isRunning()) return;
    await lab.addPod({ name, node: node.name, namespace: 'foreign', labels: { app: 'client' } });
    extras.push(name);
  };
  const removePod = async (): Promise<void> => {
    const name = extras.shift();
    if (name !== undefined) await lab.removePod(name);
  };
  const restartAgent = async (): Promise<void> => {
    const agent = lab.agent(random.pick(lab.plan.nodes).name);
    await agent.kill();
    // What changes meanwhile it learns when it is back.
    await random.pick([swapServer, swapClient, unrelated])();
    await agent.start();
  };
  const resync = async (): Promise<void> => {
    const apiserver = lab.apiserver(random.pick(lab.plan.clusters).name);
    await apiserver.kill();
    await apiserver.start();
  };
  const often = [relabel, relabel, swapServer, swapServer, swapClient, unrelated, unrelated];
  const seldom = [labelNamespace, addPod, removePod, restartAgent, resync];
  return async (step) => {
    const change = random.below(4) === 0 ? random.pick(seldom) : random.pick(often);
    await change(step);
    // Some changes come together, others alone.
    await new Promise((resolve) => setTimeout(resolve, random.below(150)));
  };
}

/** One-way answers, over both protocols and families, into the pod and out of it. */
async function cuts(t: Test, policyLab: PolicyLab): Promise<void> {
  const { lab } = policyLab;
  const flows: { name: string; flow: ProbeFlow; cut: boolean }[] = [];
  for (const [from, to, cut] of [
    ['client', 'server', true],
    ['far-client', 'server', true],
    ['far-client', 'far-server', false],
  ] as const) {
    for (const protocol of PROTOCOLS) {
      for (const family of FAMILIES) {
        const address = lab.pod(to).ip(family);
        const target = { protocol, address, port: OPEN[protocol] };
        const flow = await policyLab.prober(from).download(target, 10);
        flows.push({ name: `${from} ${to} ${protocol} IPv${family}`, flow, cut });
      }
    }
  }
  const pieces = async (): Promise<number[]> =>
    Promise.all(flows.map(async ({ flow }) => (await flow.report()).answered));
  await lab.waitFor('the downloads', async () => (await pieces()).every((count) => count > 5));
  const manifests = lab.apiserver('alpha').manifests;
  const closed = ciliumPolicy('closed', { ...server, ingressDeny: [{ fromEntities: ['all'] }] });
  const policyDrops = (): Promise<number> => lab.agent('alpha-1').count('policy-deny-rule');
  t.equal(await policyDrops(), 0, 'nothing was denied by a rule so far');
  await manifests.write(closed);
  await lab.waitFor('the policy to cut', async () => (await policyDrops()) > 0);
  // What has passed before is still on its way to the program that counts.
  await lab.waitFor('what was under way', async () => {
    const before = await pieces();
    await new Promise((resolve) => setTimeout(resolve, 200));
    const after = await pieces();
    return flows.every(({ cut }, index) => !cut || after[index] === before[index]);
  });
  const before = await pieces();
  await lab.waitFor('others to go on', async () =>
    (await pieces()).every(
      (count, index) => flows[index]?.cut || count > (before[index] ?? 0) + 20,
    ),
  );
  const after = await pieces();
  for (const [index, { name, cut }] of flows.entries()) {
    if (cut) t.equal(after[index], before[index], `${name} is cut`);
  }
  await manifests.remove(closed);
  await lab.waitFor('all to go on', async () =>
    (await pieces()).every((count, index) => count > (after[index] ?? 0)),
  );
  for (const { flow } of flows) await flow.end();
}

/** What is denied passes and is counted while an endpoint is audited, also by another agent than the one that was told. */
async function audits(t: Test, policyLab: PolicyLab): Promise<void> {
  const { lab } = policyLab;
  const agent = lab.agent('alpha-1');
  const { socketPath } = lab.node('alpha-1');
  const endpointOf = async () =>
    (await agent.status()).endpoints.find((endpoint) => endpoint.pod === 'demo/server');
  const setAudit = async (audit: boolean): Promise<void> => {
    const endpointId = (await endpointOf())?.endpointId;
    const body = JSON.stringify({ endpointId, audit });
    const { status } = await callAgent(socketPath, {
      method: 'PUT',
      path: '/v1/policies/audit',
      body,
    });
    t.equal(status, 200, `audit mode is ${audit ? 'on' : 'off'}`);
  };
  const target = { protocol: 'udp', address: lab.pod('server').ip(), port: OPEN.udp } as const;
  const source = lab.pod('other').ip();
  /** Whether a question is answered; false as soon as the agent tells of its drop. */
  const ask = async (): Promise<boolean> => {
    const call = policyLab.prober('other').call(target);
    let drop: (answered: false) => void = () => undefined;
    const dropped = new Promise<false>((resolve) => {
      drop = resolve;
    });
    using _drops = policyLab.onDrop((found) => {
      if (found.source === source) drop(false);
    });
    const answered = await Promise.race([call.answered, dropped]);
    await call.end();
    return answered;
  };
  t.notOk(await ask(), 'denied');
  await setAudit(true);
  t.ok(await ask(), 'passes');
  t.ok((await agent.count('policy-audited')) > 0, 'and is counted');
  await agent.kill();
  t.ok(await ask(), 'while no agent is there');
  await agent.start();
  await waitUntilSettled(lab, 'alpha-1');
  t.ok(await ask(), 'with the next one, too');
  await setAudit(false);
  t.notOk(await ask(), 'and is denied again');
}
