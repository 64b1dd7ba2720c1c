/** Programs of the node itself: two nodes with real sockets, IPv4 and IPv6, through the tunnel by routes to its device. */
import { test } from 'tap';
import { type IpPrefix, parseIpAddress, parseIpPrefix } from '../../mesh/wire/ip.ts';
import { kernelSkipReason } from './testing/bpffs.ts';
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
import { testFrontend } from './testing/service-maps.ts';
import { openTrafficProcess } from './testing/service-rig.ts';

const skip = kernelSkipReason();
const REMOTE_NODE = 6;
const PORT = 8080;

test('programs of a node reach pods of the other one through the tunnel, and nothing else is touched', {
  skip,
}, async (t) => {
  await using lab = await openTestNodes();
  const [one, two] = lab.nodes;
  for (const { namespace } of lab.nodes) {
    await mustRunIn(namespace, 'sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1');
    await mustRunIn(namespace, 'sysctl -qw net.ipv4.conf.all.rp_filter=1');
  }
  // Somewhere else, by the underlay: where ordinary traffic goes, and what somebody else routes.
  await mustRunIn(two.namespace, 'ip address add 198.51.100.7/32 dev lo');
  await mustRunIn(one.namespace, 'ip route add default via 192.0.2.2');
  await mustRunIn(one.namespace, 'ip route add 10.2.9.0/24 via 192.0.2.2');
  const others = await routesOf(one);

  await using first = await openNode(one, two);
  await using second = await openNode(two, one, { ingressEnforced: true });
  const wanted = ['10.2.0.0/24', 'fd02::/64', '10.2.9.0/24', '192.0.2.128/25', 'fd00::80/121'];
  const result = await sync(first, wanted);
  t.match(result, { added: 3, removed: 0, kept: 0 });
  t.match(
    result.problems,
    [
      /^programs of this node itself do not reach 192\.0\.2\.128\/25 .* it lies in 192\.0\.2\.0\/24/,
      /fd00::80\/121 .*it lies in fd00::\/64, a network that this node is part of; renumber/,
    ],
    'its own networks are never taken over',
  );
  t.strictSame((await sync(first, wanted)).added, 0, 'the same once more changes nothing');
  const { output } = await runIn(one.namespace, ['ip', 'route', 'get', '10.2.9.1']);
  t.match(output, /via 192\.0\.2\.2 dev underlay/, "somebody else's route to the same wins");

  await using client = openTrafficProcess(one.namespace);
  await using pod = openTrafficProcess(two.podNamespace);
  await pod.request({ kind: 'serve', name: 'pod', addresses: [two.podIp, two.podIp6], port: PORT });

  await t.test('TCP and UDP, both families, of any size', async (t) => {
    for (const family of [4, 6] as const) {
      const address = family === 4 ? two.podIp : two.podIp6;
      const source = family === 4 ? '192.0.2.1' : 'fd00::1';
      const call = `tcp${family}`;
      const said = { said: `pod ${source}`, from: address };
      t.match(
        await client.request({ kind: 'call', call, address, port: PORT, bytes: 300_000 }),
        said,
        `TCP over IPv${family}: the pod sees the node's address`,
      );
      t.match(await client.request({ kind: 'finish', call }), { bytes: 300_000, taken: 300_000 });
      for (const bytes of [100, 1380, 4000]) {
        const answer = await client.request({
          kind: 'datagram',
          call: `udp${family}`,
          address,
          port: PORT,
          bytes,
        });
        t.match(answer, { ...said, bytes, taken: bytes }, `${bytes} bytes of UDP`);
      }
      const ping = await runIn(one.namespace, ['ping', '-c', '1', '-W', '5', address]);
      t.equal(ping.code, 0, `ICMP over IPv${family}`);
    }
    const counted = await countersOf(first);
    t.ok((counted['forwarded-overlay egress'] ?? 0) > 0, 'through the tunnel');
    t.ok((counted['passed-to-stack ingress'] ?? 0) > 0, 'and back');
    t.equal((await countersOf(second))['policy-denied ingress'] ?? 0, 0);
  });

  await t.test('policy at the pod judges some node', async (t) => {
    const policy = [testPolicy(7, REMOTE_NODE)];
    await second.request({ policyDeletes: policy });
    const ping = (seconds: number) =>
      runIn(one.namespace, ['ping', '-c', '1', '-W', `${seconds}`, two.podIp]);
    t.equal((await ping(1)).code, 1, 'no answer');
    t.ok(((await countersOf(second))['policy-denied ingress'] ?? 0) > 0);
    await second.request({ policy });
    t.equal((await ping(5)).code, 0, 'let in again');
  });

  await t.test('a socket that calls a service whose only backend is over there', async (t) => {
    const address = parseIpAddress('10.101.0.1');
    const backend = { address: parseIpAddress(two.podIp), port: PORT, clusterId: 2 };
    const services = [testFrontend([{ ...backend, protocol: 'TCP' }], { address })];
    await first.request({ services });
    const argv = ['curl', '-sS', '--max-time', '5', 'telnet://10.101.0.1:80'];
    const script = `echo $$ > ${one.cgroup.path}/cgroup.procs; (echo 0; sleep 0.3) | ${argv.join(' ')}`;
    const { output: answer } = await runIn(one.namespace, ['sh', '-c', script]);
    t.match(answer, /^pod 192\.0\.2\.1\n/);
  });

  await t.test('a pod over there calls a server of the node, by the underlay', async (t) => {
    await mustRunIn(two.namespace, `ip route replace 10.1.0.0/24 via 192.0.2.1`);
    await mustRunIn(one.namespace, 'sysctl -qw net.ipv4.conf.all.rp_filter=0');
    await mustRunIn(one.namespace, 'sysctl -qw net.ipv4.conf.underlay.rp_filter=0');
    await using server = openTrafficProcess(one.namespace);
    await using caller = openTrafficProcess(two.podNamespace);
    const addresses = ['192.0.2.1', 'fd00::1'];
    await server.request({ kind: 'serve', name: 'node', addresses, port: 9090 });
    for (const address of addresses) {
      const from = address.includes(':') ? two.podIp6 : two.podIp;
      const target = { call: address, address, port: 9090, bytes: 300_000 };
      t.match(await caller.request({ kind: 'call', ...target }), { said: `node ${from}` });
      t.match(await caller.request({ kind: 'finish', call: address }), { taken: 300_000 });
      t.match(await caller.request({ kind: 'datagram', ...target, bytes: 99 }), {
        said: `node ${from}`,
      });
    }
  });

  await t.test('ordinary traffic is not touched', async (t) => {
    const before = await countersOf(first);
    for (const address of ['198.51.100.7', '192.0.2.2', 'fd00::2', one.podIp, one.podIp6]) {
      const ping = await runIn(one.namespace, ['ping', '-c', '1', '-W', '5', address]);
      t.equal(ping.code, 0, address);
    }
    const after = await countersOf(first);
    for (const reason of ['forwarded-overlay egress', 'passed-to-stack ingress']) {
      t.equal(after[reason], before[reason], `${reason}: none of it went through the tunnel`);
    }
    const still = await routesOf(one);
    for (const route of others) t.ok(still.includes(route), `${route} is as it was`);
  });

  await t.test('routes that nobody wants go, but for those that are to stay', async (t) => {
    const kept = [parseIpPrefix('fd02::/64')];
    const answer = answered(await first.request({ hostRoutes: [], keptRoutes: kept }));
    t.match(answer.hostRoutes, { added: 0, removed: 2, kept: 1, problems: [] });
    t.strictSame(await ours(one), ['fd02::/64']);
    t.match(await sync(first, []), { removed: 1 });
    t.strictSame(await ours(one), []);
    t.strictSame(await routesOf(one), others, "all is as it was before the agent's");
  });

  await t.test('they go with the device', async (t) => {
    await sync(first, ['10.2.0.0/24']);
    t.strictSame(await ours(one), ['10.2.0.0/24']);
    await first.request({ uninstall: true });
    t.strictSame(await routesOf(one), others);
  });
});

test('native routing: programs of a node reach pods by its own routes', { skip }, async (t) => {
  await using lab = await openTestNodes();
  const [one, two] = lab.nodes;
  for (const [node, other] of [
    [one, two],
    [two, one],
  ] as const) {
    await mustRunIn(
      node.namespace,
      'sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1',
    );
    await mustRunIn(node.namespace, `ip route add ${other.podIp}/32 via 192.0.2.${other.number}`);
    await mustRunIn(node.namespace, `ip route add ${other.podIp6}/128 via fd00::${other.number}`);
  }
  for (const [mine, theirs] of [
    ['native', 'native'],
    ['tunnel', 'native'],
  ] as const) {
    await using first = await openNode(one, two, { routingMode: mine });
    await using second = await openNode(two, one, { routingMode: theirs, ingressEnforced: true });
    // Beside routes to single pods: the longer prefix is the CNI's, and wins.
    if (mine === 'tunnel') {
      await mustRunIn(one.namespace, `ip route del ${two.podIp}/32`);
      await mustRunIn(one.namespace, `ip -6 route del ${two.podIp6}/128`);
      await sync(first, ['10.2.0.0/24', 'fd02::/64']);
    }
    await using client = openTrafficProcess(one.namespace);
    await using pod = openTrafficProcess(two.podNamespace);
    const addresses = [two.podIp, two.podIp6];
    await pod.request({ kind: 'serve', name: 'pod', addresses, port: PORT });
    for (const address of addresses) {
      const source = address.includes(':') ? 'fd00::1' : '192.0.2.1';
      const call = { call: address, address, port: PORT, bytes: 300_000 };
      const name = `${mine} to ${theirs}: ${address}`;
      t.match(await client.request({ kind: 'call', ...call }), { said: `pod ${source}` }, name);
      t.match(await client.request({ kind: 'finish', call: address }), { taken: 300_000 }, name);
      t.match(
        await client.request({ kind: 'datagram', ...call, bytes: 1000 }),
        { said: `pod ${source}` },
        name,
      );
    }
    t.equal((await countersOf(second))['policy-denied ingress'] ?? 0, 0, 'known as some node');
  }
});

/** A node that knows the other one, with its pod; with `ingressEnforced` the pod lets in nodes only. */
async function openNode(
  node: TestNode,
  other: TestNode,
  options: { ingressEnforced?: boolean; routingMode?: 'native' | 'tunnel' } = {},
): Promise<DatapathProcess> {
  const { ingressEnforced = false, routingMode = 'tunnel' } = options;
  const agent = await openDatapathProcess(node, { routingMode, overlaySourceCheck: 'strict' });
  const clusterId = other.number;
  answered(
    await agent.request({
      attach: [HOST_INTERFACE],
      endpoints: [node.endpoint({ ingressEnforced })],
      policy: [testPolicy(7, REMOTE_NODE)],
      ipcache: [
        testPrefix(`192.0.2.${node.number}/32`, 1),
        testPrefix(`fd00::${node.number}/128`, 1),
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

async function sync(agent: DatapathProcess, prefixes: readonly string[]) {
  const hostRoutes: readonly IpPrefix[] = prefixes.map(parseIpPrefix);
  const { hostRoutes: result } = answered(await agent.request({ hostRoutes }));
  if (result === undefined) throw new Error('no routes');
  return result;
}

/** The main table, but for what the tunnel device has. */
async function routesOf({ namespace }: TestNode): Promise<string[]> {
  const { output } = await runIn(namespace, ['sh', '-c', 'ip -4 route; ip -6 route']);
  return output.split('\n').filter((line) => line !== '' && !line.includes('isthmus_vxlan'));
}

async function ours({ namespace }: TestNode): Promise<string[]> {
  const show = 'ip -4 route show proto 73; ip -6 route show proto 73';
  const { output } = await runIn(namespace, ['sh', '-c', show]);
  return output.split('\n').flatMap((line) => line.split(' ')[0] || []);
}
