import { test } from 'tap';
import { parseClusterName, parseNumericIdentity } from '../../mesh/wire/ids.ts';
import { parseIpAddress, parseIpPrefix } from '../../mesh/wire/ip.ts';
import type { IpIdentity } from '../../mesh/wire/ip-identity.ts';
import type { Node, NodeAddress } from '../../mesh/wire/node.ts';
import { ipRow, type NodeContext, nodeRows, ownNodeRows } from './addresses.ts';

const context: NodeContext = {
  clusterId: 1,
  clusterName: parseClusterName('alpha'),
  nodeName: 'n1',
  nodeIps: [parseIpAddress('192.0.2.1'), parseIpAddress('2001:db8::1')],
};

function makeNode(
  name: string,
  cluster: string,
  addresses: readonly [NodeAddress['type'], string][],
  changes: Partial<Node> = {},
): Node {
  return {
    name,
    cluster: parseClusterName(cluster),
    clusterId: 2,
    addresses: addresses.map(([type, ip]) => ({ type, ip: parseIpAddress(ip) })),
    ipv4AllocCidr: null,
    ipv6AllocCidr: null,
    ipv4SecondaryAllocCidrs: null,
    ipv6SecondaryAllocCidrs: null,
    ipv4HealthIp: null,
    ipv6HealthIp: null,
    ipv4IngressIp: null,
    ipv6IngressIp: null,
    source: '',
    encryptionKey: 0,
    labels: null,
    annotations: null,
    wireguardPubKey: '',
    bootId: '',
    ...changes,
  };
}

const texts = (rows: ReturnType<typeof nodeRows>): string[] =>
  rows.map(
    ({ prefix, identity, tunnelEndpoint, clusterId }) =>
      `${prefix} ${identity} ${tunnelEndpoint ?? '-'} ${clusterId}`,
  );

test("this node's own addresses are host, in both families", async (t) => {
  t.same(texts(ownNodeRows(context)), ['192.0.2.1/32 1 - 0', '2001:db8::1/128 1 - 0']);
});

test('another node is a remote node: its underlay addresses direct, what lives behind it through the tunnel', async (t) => {
  const node = makeNode(
    'm1',
    'beta',
    [
      ['InternalIP', '198.51.100.1'],
      ['ExternalIP', '203.0.113.1'],
      ['CiliumInternalIP', '10.2.0.1'],
      ['InternalIP', '2001:db8:2::1'],
    ],
    { ipv4HealthIp: parseIpAddress('10.2.0.2'), ipv4IngressIp: parseIpAddress('10.2.0.3') },
  );
  t.same(texts(nodeRows(node, { clusterId: 2 }, context)), [
    '198.51.100.1/32 6 - 2',
    '203.0.113.1/32 6 - 2',
    '10.2.0.1/32 6 198.51.100.1 2',
    '2001:db8:2::1/128 6 - 2',
    '10.2.0.2/32 4 198.51.100.1 2',
    '10.2.0.3/32 8 198.51.100.1 2',
  ]);
});

test('the tunnel goes to an address of a family that this node has, an external one if need be', async (t) => {
  const only6 = { ...context, nodeIps: [parseIpAddress('2001:db8::1')] };
  const both = makeNode('m1', 'beta', [
    ['InternalIP', '198.51.100.1'],
    ['InternalIP', '2001:db8:2::1'],
    ['CiliumInternalIP', '10.2.0.1'],
  ]);
  t.equal(nodeRows(both, { clusterId: 2 }, only6).at(-1)?.tunnelEndpoint, '2001:db8:2::1');
  const external = makeNode('m1', 'beta', [
    ['ExternalIP', '203.0.113.1'],
    ['CiliumInternalIP', '10.2.0.1'],
  ]);
  t.equal(nodeRows(external, { clusterId: 2 }, context).at(-1)?.tunnelEndpoint, '203.0.113.1');
});

test("the own node's record adds host rows that belong to this node", async (t) => {
  const own = makeNode('n1', 'alpha', [
    ['InternalIP', '192.0.2.1'],
    ['CiliumInternalIP', '10.1.0.1'],
  ]);
  t.same(texts(nodeRows(own, { clusterId: 1 }, context)), [
    '192.0.2.1/32 1 - 0',
    '10.1.0.1/32 1 - 0',
  ]);
  const namesake = makeNode('n1', 'beta', [['InternalIP', '198.51.100.1']]);
  t.same(
    texts(nodeRows(namesake, { clusterId: 2 }, context)),
    ['198.51.100.1/32 6 - 2'],
    "another cluster's node of that name is not ours",
  );
});

test('an address is tunnelled to its host, unless that is this node or there is none', async (t) => {
  const entry = (hostIp: string | null): IpIdentity => ({
    prefix: parseIpPrefix('10.2.0.5'),
    isCidr: false,
    hostIp: hostIp === null ? null : parseIpAddress(hostIp),
    identity: parseNumericIdentity(131_329),
    encryptionKey: 0,
    metadata: '',
    namespace: undefined,
    podName: undefined,
    serviceAccount: undefined,
    namedPorts: undefined,
  });
  t.equal(ipRow(entry('198.51.100.1'), { clusterId: 2 }, context).tunnelEndpoint, '198.51.100.1');
  t.equal(ipRow(entry('192.0.2.1'), { clusterId: 1 }, context).tunnelEndpoint, undefined);
  t.equal(ipRow(entry(null), { clusterId: 2 }, context).tunnelEndpoint, undefined);
  const machine = { ...context, hostEndpoint: 'machine' } as const;
  t.equal(
    ipRow(entry('192.0.2.1'), { clusterId: 1 }, machine).tunnelEndpoint,
    '192.0.2.1',
    'what is behind a machine is not the machine itself',
  );
  const own = { ...entry('192.0.2.1'), prefix: parseIpPrefix('192.0.2.1') };
  t.equal(ipRow(own, { clusterId: 1 }, machine).tunnelEndpoint, undefined);
});
