/** Policies of nodes: two nodes with a pod each, one of them closed by its own policy, with real packets over both families. */
import { test } from 'tap';
import { parseIpPrefix } from '../../mesh/wire/ip.ts';
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
const FAMILIES = [
  { mine: '192.0.2.1', other: '192.0.2.2', stranger: '198.51.100.7' },
  { mine: 'fd00::1', other: 'fd00::2', stranger: '2001:db8::7' },
] as const;

test('a node is closed by its policies to the mesh, and to nobody else', { skip }, async (t) => {
  await using lab = await openTestNodes();
  const [one, two] = lab.nodes;
  for (const { namespace } of lab.nodes) {
    await mustRunIn(namespace, 'sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1');
  }
  await mustRunIn(two.namespace, 'ip address add 198.51.100.7/32 dev lo');
  await mustRunIn(two.namespace, 'ip -6 address add 2001:db8::7/128 dev lo nodad');
  await mustRunIn(one.namespace, 'ip route add default via 192.0.2.2');
  await mustRunIn(one.namespace, 'ip -6 route add default via fd00::2');
  await using first = await openNode(one, two);
  await using _second = await openNode(two, one);
  const write = async (fields: Partial<EndpointEntry>) => {
    answered(await first.request({ endpoints: [row(fields)] }));
  };
  const pods = [one.podIp, one.podIp6];

  await t.test('without a policy nothing is attached, and nothing judged', async (t) => {
    await write({});
    t.strictSame(await attached(one), [], 'no program sees packets of the node');
    for (const { mine } of FAMILIES) t.equal(await pings(two.namespace, mine), true);
  });

  await using local = openTrafficProcess(one.namespace);
  await using remote = openTrafficProcess(two.namespace);
  const ports = [8080, 4240, 2379];
  for (const port of ports) {
    const addresses = FAMILIES.map(({ mine }) => mine);
    await local.request({ kind: 'serve', name: `node${port}`, addresses, port });
  }
  await remote.request({
    kind: 'serve',
    name: 'remote',
    addresses: FAMILIES.flatMap(({ other, stranger }) => [other, stranger]),
    port: 8080,
  });
  // Both are older than the policy.
  const old = { address: '192.0.2.2', port: 8080, bytes: 200_000 };
  t.match(await local.request({ kind: 'call', call: 'old', ...old }), { said: /^remote/ });

  await t.test('ingress: nodes and pods of the mesh are kept out', async (t) => {
    await write({ ingressEnforced: true });
    t.strictSame(await attached(one), ['underlay'], 'programs are there as long as it takes');
    for (const { mine, other, stranger } of FAMILIES) {
      t.equal(await pings(two.namespace, mine, { seconds: 1 }), false, `${other} is a node`);
      t.equal(await pings(two.namespace, mine, { from: stranger }), true, `${stranger} is nobody`);
      t.equal(await pings(one.namespace, other), true, 'its own calls are answered');
      for (const port of [4240, 2379]) {
        const target = { call: `${mine} ${port}`, address: mine, port, bytes: 100 };
        t.match(
          await remote.request({ kind: 'call', ...target }),
          { said: `node${port} ${other}` },
          `port ${port} is the mesh's own`,
        );
      }
    }
    for (const address of ['192.0.2.1', '10.1.0.1', 'fd00::1', 'fd01::1']) {
      const isOpen = await pings(one.podNamespace, address, { seconds: 1 });
      t.equal(isOpen, false, `its own pod does not reach it at ${address}`);
    }
    for (const pod of pods) t.equal(await pings(one.namespace, pod), true, 'it reaches its pod');
    t.match(
      await local.request({ kind: 'finish', call: 'old' }),
      { bytes: 200_000 },
      'what it has called before goes on',
    );
    t.ok(((await countersOf(first))['policy-denied ingress'] ?? 0) > 0);
  });

  await t.test('ingress: who is allowed gets in, and is cut when that ends', async (t) => {
    const policy = [
      testPolicy(HOST_ENDPOINT_ID, REMOTE_NODE),
      testPolicy(HOST_ENDPOINT_ID, one.identity),
    ];
    await first.request({ policy });
    for (const { mine } of FAMILIES) {
      t.equal(await pings(two.namespace, mine), true);
      t.equal(await pings(one.podNamespace, mine), true);
    }
    const target = { address: '192.0.2.1', port: 8080 };
    const datagram = { kind: 'datagram', call: 'udp', bytes: 10, ...target } as const;
    t.match(await remote.request(datagram), { said: /^node8080/ });
    await first.request({ policyDeletes: policy });
    t.equal(await pings(two.namespace, '192.0.2.1', { seconds: 1 }), false);
    t.equal(await pings(one.podNamespace, '192.0.2.1', { seconds: 1 }), false);
  });

  await t.test('egress: it calls nobody of the mesh but by the ports of the mesh', async (t) => {
    await write({ egressEnforced: true });
    for (const { mine, other, stranger } of FAMILIES) {
      t.equal(await pings(one.namespace, other, { seconds: 1 }), false, other);
      t.equal(await pings(one.namespace, stranger), true, `${stranger} is nobody`);
      t.equal(await pings(two.namespace, mine), true, 'it answers');
    }
    const pod = one.podIp;
    t.equal(await pings(one.namespace, pod, { seconds: 1 }), false, 'nor its own pod');
    t.equal(await pings(one.namespace, two.podIp, { seconds: 1 }), false, 'nor one elsewhere');
    t.equal(await pings(one.podNamespace, two.podIp), true, 'pods are not the node');
    const policy = [one.identity, two.identity, REMOTE_NODE].map((identity) =>
      testPolicy(HOST_ENDPOINT_ID, identity, { direction: 'egress' }),
    );
    await first.request({ policy });
    for (const address of [pod, two.podIp, two.podIp6, '192.0.2.2', 'fd00::2']) {
      t.equal(await pings(one.namespace, address), true, `${address} is allowed`);
    }
    await first.request({ policyDeletes: policy });
  });

  await t.test('audit mode lets pass, and tells', async (t) => {
    await write({ ingressEnforced: true, egressEnforced: true, audit: true });
    t.equal(await pings(two.namespace, '192.0.2.1'), true);
    t.ok(((await countersOf(first))['policy-audited ingress'] ?? 0) > 0);
  });

  await t.test('when no policy is left all is as before', async (t) => {
    await write({});
    t.strictSame(await attached(one), []);
    for (const { mine, other } of FAMILIES) {
      t.equal(await pings(two.namespace, mine), true);
      t.equal(await pings(one.namespace, other), true);
    }
  });
});

async function pings(
  namespace: string,
  to: string,
  { from, seconds = 5 }: { from?: string; seconds?: number } = {},
): Promise<boolean> {
  const source = from === undefined ? [] : ['-I', from];
  const wait = ['-W', String(seconds)];
  return (await runIn(namespace, ['ping', '-c', '1', ...wait, ...source, to])).code === 0;
}

/** Devices of the node itself that have programs. */
async function attached({ namespace, options }: TestNode): Promise<string[]> {
  const { output } = await runIn(namespace, ['ls', `${options.bpfRoot}/isthmus/links`]);
  const names = output.split('\n').flatMap((name) => /^node-(.+)-from$/.exec(name)?.[1] ?? []);
  return names.sort();
}

/** The node's own row, as the agent would write it. */
function row(fields: Partial<EndpointEntry>): EndpointEntry {
  return testHostRow(HOST, fields);
}

/** A node of a cluster of its own that knows the other one, with its pod. */
async function openNode(node: TestNode, other: TestNode): Promise<DatapathProcess> {
  const agent = await openDatapathProcess(node, {});
  const clusterId = other.number;
  answered(
    await agent.request({
      attach: [HOST_INTERFACE],
      endpoints: [node.endpoint()],
      hostRoutes: [`10.${clusterId}.0.0/24`, `fd0${clusterId}::/64`].map(parseIpPrefix),
      ipcache: [
        testPrefix(`192.0.2.${node.number}/32`, HOST),
        testPrefix(`fd00::${node.number}/128`, HOST),
        testPrefix(`192.0.2.${clusterId}/32`, REMOTE_NODE, { clusterId }),
        testPrefix(`fd00::${clusterId}/128`, REMOTE_NODE, { clusterId }),
        testPrefix(`${other.podIp}/32`, other.identity, {
          tunnelEndpoint: `192.0.2.${clusterId}`,
          clusterId,
        }),
        testPrefix(`${other.podIp6}/128`, other.identity, {
          tunnelEndpoint: `fd00::${clusterId}`,
          clusterId,
        }),
      ],
    }),
  );
  return agent;
}
