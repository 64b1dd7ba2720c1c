/** A machine of the mesh: a node with a pod, and a host that is an endpoint itself, with real sockets over both families. */
import { test } from 'tap';
import { until } from '../../mesh/remote/testing/until.ts';
import { type IpPrefix, parseIpPrefix } from '../../mesh/wire/ip.ts';
import { HOST_ENDPOINT_ID } from '../../mesh/wire/maps.ts';
import type { EndpointEntry } from './desired.ts';
import { kernelSkipReason } from './testing/bpffs.ts';
import { testHostRow } from './testing/host-row.ts';
import {
  answered,
  countersOf,
  type DatapathProcess,
  HOST_INTERFACE,
  mustRunIn,
  openDatapathProcess,
  openTestNodes,
  runIn,
  type TestNode,
} from './testing/nodes.ts';
import { testPolicy, testPrefix } from './testing/program-run.ts';
import { openTrafficProcess } from './testing/service-rig.ts';

const skip = kernelSkipReason();
const [HOST, REMOTE_NODE] = [1, 6];
const PORT = 8080;
/** Of the machine's labels. */
const MACHINE = 0x20000 + 900;

test('pod and machine, both ways, with policy', { skip }, async (t) => {
  await using lab = await openTestNodes();
  const [one, two] = lab.nodes;
  await mustRunIn(one.namespace, 'sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1');
  for (const { namespace } of lab.nodes) {
    await mustRunIn(namespace, 'sysctl -qw net.ipv4.conf.all.rp_filter=1');
  }
  await using node = await openNode(one, two);
  let machine = await openMachine(two, one);
  await using pod = openTrafficProcess(one.podNamespace);
  await using host = openTrafficProcess(two.namespace);
  await pod.request({ kind: 'serve', name: 'pod', addresses: [one.podIp, one.podIp6], port: PORT });
  const addresses = ['192.0.2.2', 'fd00::2'];
  await host.request({ kind: 'serve', name: 'machine', addresses, port: PORT });

  /** Whether a call gets through, of the pod to the machine or the other way. */
  const calls = async (from: 'pod' | 'machine', family: 4 | 6, seconds = 5): Promise<boolean> => {
    const caller = from === 'pod' ? one.podNamespace : two.namespace;
    const to = from === 'pod' ? (family === 4 ? '192.0.2.2' : 'fd00::2') : podAddress(one, family);
    const script = `(echo 0; sleep 0.2) | curl -sS --max-time ${seconds} telnet://${family === 6 ? `[${to}]` : to}:${PORT}`;
    const { output } = await runIn(caller, ['sh', '-c', script]);
    return new RegExp(`^${from === 'pod' ? 'machine' : 'pod'} `).test(output);
  };

  await t.test('TCP, UDP and ICMP, of any size, each under its own address', async (t) => {
    for (const family of [4, 6] as const) {
      const own = family === 4 ? '192.0.2.2' : 'fd00::2';
      const theirs = podAddress(one, family);
      for (const [caller, name, address, source] of [
        [pod, 'machine', own, theirs],
        [host, 'pod', theirs, own],
      ] as const) {
        const call = `${name}${family}`;
        const said = { said: `${name} ${source}`, from: address };
        t.match(
          await caller.request({ kind: 'call', call, address, port: PORT, bytes: 300_000 }),
          said,
          `TCP over IPv${family} to the ${name}`,
        );
        t.match(await caller.request({ kind: 'finish', call }), { taken: 300_000 });
        for (const bytes of [100, 1380, 4000]) {
          const request = { call: `udp-${call}`, address, port: PORT, bytes };
          t.match(
            await caller.request({ kind: 'datagram', ...request }),
            { ...said, taken: bytes },
            `${bytes} bytes of UDP to the ${name}`,
          );
        }
      }
      t.equal(await pings(one.podNamespace, own), true);
      t.equal(await pings(two.namespace, theirs), true);
    }
    const counted = await countersOf(machine);
    t.ok((counted['forwarded-overlay egress'] ?? 0) > 0, 'through the tunnel');
    t.ok((counted['passed-to-stack ingress'] ?? 0) > 0, 'and back');
  });

  await t.test('policy of the machine judges who calls it', async (t) => {
    await machine.request({ endpoints: [row({ ingressEnforced: true })] });
    for (const family of [4, 6] as const) {
      t.equal(await calls('pod', family, 1), false, `IPv${family}: nobody is let in`);
      t.equal(await calls('machine', family), true, `IPv${family}: its own calls are answered`);
    }
    t.ok(((await countersOf(machine))['policy-denied ingress'] ?? 0) > 0, 'counted');
    await machine.request({ policy: [testPolicy(HOST_ENDPOINT_ID, one.identity)] });
    for (const family of [4, 6] as const) {
      t.equal(await calls('pod', family), true, `IPv${family}: let in by identity`);
    }
    await machine.request({ policyDeletes: [testPolicy(HOST_ENDPOINT_ID, one.identity)] });
    await machine.request({ endpoints: [row({})] });
  });

  await t.test('policy of the machine judges whom it calls', async (t) => {
    const policy = [testPolicy(HOST_ENDPOINT_ID, one.identity, { direction: 'egress' })];
    await machine.request({ endpoints: [row({ egressEnforced: true })] });
    for (const family of [4, 6] as const) {
      t.equal(await calls('machine', family, 1), false, `IPv${family}: it calls nobody`);
      t.equal(await calls('pod', family), true, `IPv${family}: it answers who calls it`);
    }
    await machine.request({ policy });
    for (const family of [4, 6] as const) {
      t.equal(await calls('machine', family), true, `IPv${family}: allowed by identity`);
    }
    await machine.request({ policyDeletes: policy, endpoints: [row({})] });
  });

  await t.test("the pod's policy knows the machine by its labels", async (t) => {
    const policy = [testPolicy(7, MACHINE)];
    await node.request({ endpoints: [one.endpoint({ ingressEnforced: true })] });
    t.equal(await calls('machine', 4, 1), false);
    await node.request({ policy });
    for (const family of [4, 6] as const) t.equal(await calls('machine', family), true);
    await node.request({ policyDeletes: policy, endpoints: [one.endpoint()] });
  });

  await t.test('audit mode lets pass, and tells', async (t) => {
    await machine.request({ endpoints: [row({ ingressEnforced: true, audit: true })] });
    t.equal(await calls('pod', 4), true);
    t.ok(((await countersOf(machine))['policy-audited ingress'] ?? 0) > 0);
    await machine.request({ endpoints: [row({})] });
  });

  await t.test('a policy that changes cuts what goes on; a restart does not', async (t) => {
    const policy = [testPolicy(HOST_ENDPOINT_ID, one.identity)];
    await machine.request({ policy, endpoints: [row({ ingressEnforced: true })] });
    await machine[Symbol.asyncDispose]();
    t.equal(await calls('pod', 4), true, 'while no agent is there');
    machine = await openMachine(two, one, { keepsRows: true });
    t.equal(await calls('pod', 4), true, 'after its restart');
    t.equal(await calls('pod', 6), true);
    const denied = async () => (await countersOf(machine))['policy-denied ingress'] ?? 0;
    const passed = async () => (await countersOf(machine))['passed-to-stack ingress'] ?? 0;
    const [deniedBefore, passedBefore] = [await denied(), await passed()];
    const flow = runIn(one.podNamespace, ['ping', '-i', '0.1', '-w', '4', '192.0.2.2']);
    await until('it is under way', async () => (await passed()) > passedBefore);
    await machine.request({ policyDeletes: policy });
    await until('it is cut', async () => (await denied()) > deniedBefore);
    await flow;
    await machine.request({ endpoints: [row({})] });
  });

  await t.test(
    'nodes and the machine talk without the tunnel, judged by who they are',
    async (t) => {
      for (const [source, address] of [
        ['192.0.2.1', '192.0.2.2'],
        ['fd00::1', 'fd00::2'],
      ] as const) {
        const before = await countersOf(machine);
        t.equal(await pings(one.namespace, address), true, `${source} calls ${address}`);
        t.equal(await pings(two.namespace, source), true, 'and the other way');
        const after = await countersOf(machine);
        t.equal(after['forwarded-overlay egress'], before['forwarded-overlay egress'], 'no tunnel');
        await machine.request({
          endpoints: [row({ ingressEnforced: true, egressEnforced: true })],
        });
        t.equal(await pings(one.namespace, address, { seconds: 1 }), false, 'closed to nodes');
        t.equal(
          await pings(two.namespace, source, { seconds: 1 }),
          false,
          'closed to nodes on the way out',
        );
        const policy = [
          testPolicy(HOST_ENDPOINT_ID, REMOTE_NODE),
          testPolicy(HOST_ENDPOINT_ID, REMOTE_NODE, { direction: 'egress' }),
        ];
        await machine.request({ policy });
        t.equal(await pings(one.namespace, address), true, 'open to nodes');
        t.equal(await pings(two.namespace, source), true, 'open to nodes on the way out');
        await machine.request({ policyDeletes: policy, endpoints: [row({})] });
      }
    },
  );

  await t.test('what has no part in the mesh is never touched', async (t) => {
    await mustRunIn(one.namespace, 'ip address add 198.51.100.7/32 dev lo');
    await mustRunIn(one.namespace, 'ip -6 address add 2001:db8::7/128 dev lo nodad');
    await mustRunIn(two.namespace, 'ip route add default via 192.0.2.1');
    await mustRunIn(two.namespace, 'ip -6 route add default via fd00::1');
    await machine.request({ endpoints: [row({ ingressEnforced: true, egressEnforced: true })] });
    await using outside = openTrafficProcess(one.namespace);
    const strangers = ['198.51.100.7', '2001:db8::7'];
    await outside.request({ kind: 'serve', name: 'outside', addresses: strangers, port: 9090 });
    const before = await countersOf(machine);
    for (const address of strangers) {
      t.equal(await pings(two.namespace, address), true, `by the default route to ${address}`);
      const target = { call: address, address, port: 9090, bytes: 300_000 };
      t.match(await host.request({ kind: 'call', ...target }), { said: /^outside / });
      t.match(await host.request({ kind: 'finish', call: address }), { taken: 300_000 });
      const back = address.includes(':') ? 'fd00::2' : '192.0.2.2';
      t.equal(
        await pings(one.namespace, back, { from: address }),
        true,
        `${address} calls the machine`,
      );
    }
    const drops = (counted: Readonly<Record<string, number>>) =>
      Object.entries(counted).filter(([reason]) => /denied|deny|invalid/.test(reason));
    t.strictSame(drops(await countersOf(machine)), drops(before), 'nothing was judged');
    await machine.request({ endpoints: [row({})] });
  });

  await machine.request({ uninstall: true });
  await machine[Symbol.asyncDispose]();
  const { output } = await runIn(two.namespace, ['sh', '-c', 'ip -4 route; ip link']);
  t.notMatch(output, /isthmus/, 'nothing is left behind');
});

function podAddress({ podIp, podIp6 }: TestNode, family: 4 | 6): string {
  return family === 4 ? podIp : podIp6;
}

async function pings(
  namespace: string,
  to: string,
  { from, seconds = 5 }: { from?: string; seconds?: number } = {},
): Promise<boolean> {
  const source = from === undefined ? [] : ['-I', from];
  const wait = ['-W', String(seconds)];
  return (await runIn(namespace, ['ping', '-c', '1', ...wait, ...source, to])).code === 0;
}

/** The machine as the agent would write it. */
function row(fields: Partial<EndpointEntry>): EndpointEntry {
  return testHostRow(MACHINE, fields);
}

/** A node with a pod, which knows the machine of another cluster. */
async function openNode(node: TestNode, machine: TestNode): Promise<DatapathProcess> {
  const agent = await openDatapathProcess(node, { overlaySourceCheck: 'strict' });
  const clusterId = machine.number;
  answered(
    await agent.request({
      attach: [HOST_INTERFACE],
      endpoints: [node.endpoint()],
      ipcache: [
        testPrefix(`192.0.2.${node.number}/32`, HOST),
        testPrefix(`fd00::${node.number}/128`, HOST),
        ...machineRows(machine, clusterId),
      ],
    }),
  );
  return agent;
}

function machineRows({ number }: TestNode, clusterId: number) {
  return [
    testPrefix(`192.0.2.${number}/32`, MACHINE, { tunnelEndpoint: `192.0.2.${number}`, clusterId }),
    testPrefix(`fd00::${number}/128`, MACHINE, { tunnelEndpoint: `fd00::${number}`, clusterId }),
  ];
}

/** A machine that knows the node and its pod. `keepsRows`: those of the process before. */
async function openMachine(
  machine: TestNode,
  node: TestNode,
  { keepsRows = false } = {},
): Promise<DatapathProcess> {
  const agent = await openDatapathProcess(machine, {
    hostEndpoint: 'machine',
    overlaySourceCheck: 'strict',
  });
  const clusterId = node.number;
  const hostRoutes: readonly IpPrefix[] = [
    `10.${node.number}.0.0/24`,
    `fd0${node.number}::/64`,
  ].map(parseIpPrefix);
  if (keepsRows) {
    answered(await agent.request({}));
    return agent;
  }
  answered(
    await agent.request({
      hostRoutes,
      endpoints: [row({})],
      ipcache: [
        testPrefix(`192.0.2.${machine.number}/32`, MACHINE, { clusterId: machine.number }),
        testPrefix(`fd00::${machine.number}/128`, MACHINE, { clusterId: machine.number }),
        testPrefix(`192.0.2.${node.number}/32`, REMOTE_NODE, { clusterId }),
        testPrefix(`fd00::${node.number}/128`, REMOTE_NODE, { clusterId }),
        testPrefix(`${node.podIp}/32`, node.identity, {
          tunnelEndpoint: `192.0.2.${node.number}`,
          clusterId,
        }),
        testPrefix(`${node.podIp6}/128`, node.identity, {
          tunnelEndpoint: `fd00::${node.number}`,
          clusterId,
        }),
      ],
    }),
  );
  return agent;
}
