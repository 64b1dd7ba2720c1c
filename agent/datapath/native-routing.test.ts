/** Native routing: two nodes with routes to each other's pods; one of them, or both, leave the tunnel out. */
import { test } from 'tap';
import type { RoutingMode } from './desired.ts';
import { kernelSkipReason } from './testing/bpffs.ts';
import { openEchoConnection } from './testing/echo.ts';
import {
  answered,
  countersOf,
  type DatapathProcess,
  HOST_INTERFACE,
  openDatapathProcess,
  openTestNodes,
  runIn,
  type TestNode,
} from './testing/nodes.ts';
import { openProgramRun, testEndpoint, testPolicy, testPrefix } from './testing/program-run.ts';

const skip = kernelSkipReason();
const PEER = 0x20000 + 500;
const REMOTE_NODE = 6;

test('mesh_from_endpoint: native routing leaves rows to the node', { skip }, async (t) => {
  await using run = await openProgramRun({ routingMode: 'native' });
  run.tables.endpoints.apply({ upserts: [testEndpoint(1, '10.1.0.2')], deletes: [] });
  run.tables.ipcache.apply({
    upserts: [
      testPrefix('192.0.2.2/32', REMOTE_NODE, { clusterId: 2 }),
      testPrefix('10.2.0.0/24', PEER, { tunnelEndpoint: '192.0.2.2', clusterId: 2 }),
    ],
    deletes: [],
  });
  const call = { from: '10.1.0.2', to: '10.2.0.7', protocol: 'tcp' } as const;
  t.equal(run.fromEndpoint(call).kind, 'stack', 'to another node');
  t.equal(
    run.fromEndpoint({ ...call, payload: new Uint8Array(1500) }).kind,
    'stack',
    'of any size',
  );

  const asked = { ...call, from: '10.2.0.7', to: '10.1.0.2' } as const;
  const tunnel = { vni: PEER, remote: '192.0.2.2' };
  t.equal(run.fromOverlay(asked, tunnel).kind, 'peer', 'what comes through the tunnel is taken');
  const answer = { ...call, sourcePort: 80, destinationPort: 40000, flags: 'SA' } as const;
  t.match(
    run.fromEndpoint(answer),
    { kind: 'tunnel', remote: '192.0.2.2', vni: 0x10000 + 301 },
    'and answered there',
  );
  run.toEndpoint({ ...asked, flags: 'A' }, 9);
  t.equal(run.fromEndpoint(answer).kind, 'stack', 'until its packets come by route');
});

test('mesh_from_endpoint: answers to a node go back where its call came from', {
  skip,
}, async (t) => {
  await using run = await openProgramRun();
  run.tables.endpoints.apply({ upserts: [testEndpoint(1, '10.1.0.2')], deletes: [] });
  const nodes = ['192.0.2.2/32', 'fd00::2/128'];
  run.tables.ipcache.apply({
    upserts: nodes.map((prefix) => testPrefix(prefix, REMOTE_NODE, { clusterId: 2 })),
    deletes: [],
  });
  const call = { from: '192.0.2.2', to: '10.1.0.2', protocol: 'udp' } as const;
  const answer = {
    from: '10.1.0.2',
    to: '192.0.2.2',
    protocol: 'udp',
    sourcePort: 80,
    destinationPort: 40000,
  } as const;
  const unreachable = {
    from: '10.1.0.2',
    to: '192.0.2.2',
    protocol: 'icmp',
    type: 3,
    payload: Buffer.from(
      '45000020000000004011' + '0000' + 'c0000202' + '0a010002' + '9c4000500000',
      'hex',
    ),
  } as const;
  for (const remote of ['192.0.2.2', 'fd00::2']) {
    t.equal(
      run.fromOverlay(call, { vni: 2, remote }).kind,
      'peer',
      'passed on for somebody outside',
    );
    t.match(
      run.fromEndpoint(answer),
      { kind: 'tunnel', remote },
      'back to the same underlay address',
    );
    t.match(run.fromEndpoint(unreachable), { kind: 'tunnel', remote }, 'an error about it, too');
  }
});

test('native routing: with routes, beside a tunnel, and without', { skip }, async (t) => {
  await using lab = await openTestNodes();
  const [one, two] = lab.nodes;
  for (const [node, other] of [
    [one, two],
    [two, one],
  ] as const) {
    const inNode = (command: string) => runIn(node.namespace, ['sh', '-c', command]);
    await inNode(
      'echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding',
    );
    await inNode(`ip route add ${other.podIp}/32 via 192.0.2.${other.number}`);
    await inNode(`ip route add ${other.podIp6}/128 via fd00::${other.number}`);
  }
  for (const modes of [
    ['native', 'native'],
    ['tunnel', 'native'],
  ] as const) {
    await using first = await openNode(one, two, modes[0]);
    await using second = await openNode(two, one, modes[1]);
    const before = [await countersOf(first), await countersOf(second)];
    for (const [from, to] of [
      [one, two],
      [two, one],
    ] as const) {
      for (const family of ['podIp', 'podIp6'] as const) {
        const name = `${modes}: from node ${from.number} to ${to[family]}`;
        if (modes[0] === 'native') {
          const ping = await runIn(from.podNamespace, ['ping', '-c', '1', '-W', '5', to[family]]);
          t.equal(ping.code, 0, `${name}: policy knows the caller`);
          continue;
        }
        await using connection = await openEchoConnection(
          { namespace: from.podNamespace, address: from[family] },
          { namespace: to.podNamespace, address: to[family] },
        );
        t.equal(await connection.isAlive(), true, `${name}: policy knows the caller`);
      }
    }
    const after = [await countersOf(first), await countersOf(second)];
    const overlay = after.map(
      (all, index) =>
        (all['forwarded-overlay egress'] ?? 0) - (before[index]?.['forwarded-overlay egress'] ?? 0),
    );
    if (modes[0] === 'native') t.strictSame(overlay, [0, 0], `${modes}: nothing in the tunnel`);
    else
      t.ok(
        overlay.every((packets) => packets > 0),
        `${modes}: answers go back through it`,
      );
  }

  const routes = [`ip route del ${one.podIp}/32`, `ip -6 route del ${one.podIp6}/128`];
  await runIn(two.namespace, ['sh', '-c', routes.join('; ')]);
  await using first = await openNode(one, two, 'tunnel');
  await using second = await openNode(two, one, 'native');
  await using connection = await openEchoConnection(
    { namespace: one.podNamespace, address: one.podIp },
    { namespace: two.podNamespace, address: two.podIp },
  );
  t.equal(await connection.isAlive(), true, 'what comes through the tunnel needs no routes here');
  const ping = ['sh', '-c', `ping -c 1 -W 1 ${one.podIp}; true`];
  const { output } = await runIn(two.podNamespace, ping);
  t.match(output, /unreachable/i, 'a call from here does, and is refused at once');
  let problems: readonly string[] = [];
  while (problems.length === 0) problems = (await report(second)).problems;
  t.match(problems, [
    /no route to 10\.1\.0\.2, an endpoint behind node 192\.0\.2\.1 of cluster id 1.*--routing-mode tunnel/,
    /no route to fd01::2, an endpoint behind node fd00::1 of cluster id 1/,
  ]);
  t.strictSame((await report(first)).problems, [], 'who tunnels needs none');
});

/** A node whose pod lets in what the other one's pod is, and nobody else. */
async function openNode(
  node: TestNode,
  other: TestNode,
  routingMode: RoutingMode,
): Promise<DatapathProcess> {
  // Rows say where everybody lives in both modes: the strictest check holds in both.
  const agent = await openDatapathProcess(node, { routingMode, overlaySourceCheck: 'strict' });
  const clusterId = other.number;
  await agent.request({
    attach: [HOST_INTERFACE],
    endpoints: [node.endpoint({ ingressEnforced: true })],
    policy: [testPolicy(7, other.identity)],
    ipcache: [
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
    upkeep: true,
  });
  return agent;
}

async function report(agent: DatapathProcess) {
  const { upkeep } = answered(await agent.request({}));
  if (upkeep === undefined) throw new Error('no upkeep');
  return upkeep;
}
