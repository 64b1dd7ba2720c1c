import { test } from 'tap';
import type { ClusterRef } from '../../mesh/remote/cluster-sink.ts';
import { createRecordingSink } from '../../mesh/remote/testing/recording-sink.ts';
import { createManualClock } from '../../mesh/testing/manual-clock.ts';
import { parseClusterId, parseClusterName, reservedIdentity } from '../../mesh/wire/ids.ts';
import { parseIpAddress, parseIpPrefix } from '../../mesh/wire/ip.ts';
import { decodeNode, type Node } from '../../mesh/wire/node.ts';
import { createMemoryDatapath } from '../state/memory-datapath.ts';
import { createKnownNodes, withKnownNodes } from './known-nodes.ts';

const BETA: ClusterRef = { name: parseClusterName('beta'), id: parseClusterId(2), own: false };

function node(...addresses: [type: string, ip: string][]): Node {
  const value = {
    Name: 'n',
    Cluster: 'beta',
    ClusterID: 2,
    IPAddresses: addresses.map(([Type, IP]) => ({ Type, IP })),
  };
  return decodeNode(JSON.stringify(value), 'key');
}

function makeNodes(nodeIps: string[] = ['192.0.2.1']) {
  const datapath = createMemoryDatapath();
  const clock = createManualClock();
  const nodes = createKnownNodes({
    nodeIps: nodeIps.map((ip) => parseIpAddress(ip)),
    datapath,
    clock,
  });
  return { datapath, clock, nodes };
}

test('the address of a node is the one that tunnels go to', async (t) => {
  const { nodes } = makeNodes();
  const sink = createRecordingSink();
  const both = withKnownNodes(sink, nodes);
  const set = (name: string, value: Node | undefined): void =>
    both.apply(BETA, { kind: 'node', name, value }, undefined);
  set(
    'n1',
    node(
      ['ExternalIP', '203.0.113.1'],
      ['InternalIP', '2001:db8::1'],
      ['InternalIP', '198.51.100.1'],
    ),
  );
  set('n2', node(['ExternalIP', '203.0.113.2']));
  set('n3', node(['InternalIP', '2001:db8::3']));
  t.same(nodes.of(2), ['198.51.100.1', '203.0.113.2']);
  set('n1', undefined);
  t.same(nodes.of(2), ['203.0.113.2']);
  t.same(sink.log.at(-1), '-node n1', 'the sink behind hears everything');
  both.removed(BETA);
  t.same(nodes.of(2), []);
  t.equal(sink.log.at(-1), 'removed');
});

test('nodes of the own cluster are not kept', async (t) => {
  const { nodes } = makeNodes();
  nodes.apply(
    { ...BETA, own: true },
    { kind: 'node', name: 'n', value: node(['InternalIP', '192.0.2.2']) },
    undefined,
  );
  t.same(nodes.of(2), []);
});

test('a cluster that was not read since the start is asked where the kernel sends its packets', async (t) => {
  const { nodes, datapath, clock } = makeNodes();
  const row = (prefix: string, tunnelEndpoint: string | undefined, clusterId: number) => ({
    prefix: parseIpPrefix(prefix),
    identity: reservedIdentity('remote-node'),
    tunnelEndpoint: tunnelEndpoint === undefined ? undefined : parseIpAddress(tunnelEndpoint),
    clusterId,
  });
  datapath.ipcache.apply({
    upserts: [
      row('10.2.0.1/32', '198.51.100.1', 2),
      row('10.2.0.2/32', '198.51.100.1', 2),
      row('10.2.1.1/32', '198.51.100.2', 2),
      row('10.3.0.1/32', '203.0.113.1', 3),
      row('10.2.2.0/24', undefined, 2),
    ],
    deletes: [],
  });
  t.same(nodes.of(2), ['198.51.100.1', '198.51.100.2']);
  t.same(nodes.of(3), ['203.0.113.1']);
  datapath.ipcache.apply({ upserts: [row('10.3.0.2/32', '203.0.113.2', 3)], deletes: [] });
  t.same(nodes.of(3), ['203.0.113.1'], 'the table is not read all the time');
  await clock.advance(60_001);
  t.same(nodes.of(3), ['203.0.113.1', '203.0.113.2']);
});
