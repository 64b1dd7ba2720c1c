import { test } from 'tap';
import { parseClusterName, parseNumericIdentity } from '../../mesh/wire/ids.ts';
import { type IpPrefix, parseIpAddress, parseIpPrefix } from '../../mesh/wire/ip.ts';
import type { Node } from '../../mesh/wire/node.ts';
import type { IpcacheEntry } from '../datapath/desired.ts';
import {
  createHostRanges,
  type HostRanges,
  type HostRouteMode,
  MOST_SINGLE_ADDRESSES,
} from './host-ranges.ts';

const ALPHA = { name: parseClusterName('alpha'), own: true };
const BETA = { name: parseClusterName('beta'), own: false };

function openRanges(mode: HostRouteMode = 'peers', nodeIps = ['192.0.2.1', 'fd00::1']): HostRanges {
  return createHostRanges(
    {
      clusterId: 1,
      clusterName: ALPHA.name,
      nodeName: 'alpha-1',
      nodeIps: nodeIps.map(parseIpAddress),
    },
    mode,
  );
}

function node(
  { name: cluster }: typeof ALPHA,
  name: string,
  fields: { networks?: readonly string[]; address?: string },
): Node {
  const networks = (fields.networks ?? []).map(parseIpPrefix);
  const of = (family: 4 | 6) =>
    networks.filter((prefix) => prefix.includes(':') === (family === 6));
  const [v4 = null, ...more4] = of(4);
  const [v6 = null, ...more6] = of(6);
  const { address } = fields;
  return {
    name,
    cluster,
    clusterId: 0,
    addresses: address === undefined ? [] : [{ type: 'InternalIP', ip: parseIpAddress(address) }],
    ipv4AllocCidr: v4,
    ipv6AllocCidr: v6,
    ipv4SecondaryAllocCidrs: more4,
    ipv6SecondaryAllocCidrs: more6,
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
  };
}

const pod = (prefix: string, clusterId = 2, tunnelEndpoint?: string): IpcacheEntry => ({
  prefix: parseIpPrefix(prefix),
  identity: parseNumericIdentity(clusterId * 0x10000 + 300),
  tunnelEndpoint: parseIpAddress(tunnelEndpoint ?? '192.0.2.9'),
  clusterId,
});

const wanted = (ranges: HostRanges): IpPrefix[] => [...ranges.wanted().prefixes].sort();

test('host ranges: pod networks of peers, and of the own cluster where nobody else carries them', (t) => {
  for (const [mode, expected] of [
    ['peers', ['10.2.1.0/24', '10.2.8.0/24', 'fd02:1::/64']],
    ['all', ['10.1.2.0/24', '10.2.1.0/24', '10.2.8.0/24', 'fd02:1::/64']],
    ['off', []],
  ] as const) {
    const ranges = openRanges(mode);
    ranges.setNode(ALPHA, 'alpha-1', node(ALPHA, 'alpha-1', { networks: ['10.1.1.0/24'] }));
    ranges.setNode(ALPHA, 'alpha-2', node(ALPHA, 'alpha-2', { networks: ['10.1.2.0/24'] }));
    const beta = node(BETA, 'beta-1', {
      networks: ['10.2.1.0/24', 'fd02:1::/64', '10.2.8.0/24'],
      address: '192.0.2.9',
    });
    ranges.setNode(BETA, 'beta-1', beta);
    t.strictSame(wanted(ranges), expected, mode);
    t.equal(ranges.setNode(BETA, 'beta-1', beta), false, 'the same once more changes nothing');
    ranges.setNode(BETA, 'beta-1', undefined);
    t.strictSame(wanted(ranges), mode === 'all' ? ['10.1.2.0/24'] : [], 'gone');
  }
  const single = openRanges('peers', ['192.0.2.1']);
  single.setNode(BETA, 'b', node(BETA, 'b', { networks: ['10.2.1.0/24', 'fd02:1::/64'] }));
  t.strictSame(wanted(single), ['10.2.1.0/24'], 'of families that the node has');
  t.end();
});

test('host ranges: single addresses where their nodes publish no network', (t) => {
  const ranges = openRanges();
  t.equal(ranges.setRow(pod('10.2.1.7/32')), true);
  t.equal(ranges.setRow(pod('10.2.1.7/32')), false, 'known');
  ranges.setRow(pod('fd02::7/128'));
  for (const row of [
    pod('10.1.2.7/32', 1),
    pod('192.0.2.30/32', 2, '192.0.2.30'),
    { ...pod('192.0.2.9/32'), tunnelEndpoint: undefined },
    pod('192.0.2.1/32', 0),
  ]) {
    t.equal(ranges.setRow(row), false, `${row.prefix} is not reached through the tunnel`);
  }
  t.strictSame(wanted(ranges), ['10.2.1.7/32', 'fd02::7/128']);

  ranges.setNode(BETA, 'beta-1', node(BETA, 'beta-1', { networks: ['10.2.1.0/24'] }));
  t.strictSame(wanted(ranges), ['10.2.1.0/24', 'fd02::7/128'], 'its network is enough');
  t.equal(ranges.setRow(pod('10.2.1.8/32')), false, 'and for others in it');
  t.equal(ranges.takeForgotten(), false);

  ranges.setNode(BETA, 'beta-1', undefined);
  t.strictSame(wanted(ranges), ['fd02::7/128']);
  t.equal(ranges.takeForgotten(), true, 'who lived in the network has to be told again');
  t.equal(ranges.takeForgotten(), false, 'once');
  ranges.setRow(pod('10.2.1.8/32'));
  t.strictSame(wanted(ranges), ['10.2.1.8/32', 'fd02::7/128']);

  t.equal(ranges.removeRow(parseIpPrefix('fd02::7')), true);
  t.equal(ranges.removeRow(parseIpPrefix('fd02::7')), false);
  ranges.setRow({ ...pod('10.2.1.8/32'), tunnelEndpoint: undefined });
  t.strictSame(wanted(ranges), [], 'no tunnel leads there any more');
  t.end();
});

test('host ranges: what would harm others is left out and named', (t) => {
  const ranges = openRanges();
  ranges.setNode(ALPHA, 'alpha-2', node(ALPHA, 'alpha-2', { networks: ['10.1.2.0/24'] }));
  ranges.setNode(
    BETA,
    'beta-1',
    node(BETA, 'beta-1', {
      networks: ['10.1.2.128/25', '10.1.0.0/16', '10.2.0.0/24', 'fd00::/64'],
      address: 'fd00::9',
    }),
  );
  t.strictSame(wanted(ranges), ['10.2.0.0/24']);
  t.match(ranges.wanted().problems, [
    /in 10\.1\.2\.128\/25 of cluster beta one by one only: it overlaps 10\.1\.2\.0\/24 of this/,
    /10\.1\.0\.0\/16 .*overlaps 10\.1\.2\.0\/24/,
    /fd00::\/64 .*the node fd00::9 has an address in it; renumber/,
  ]);
  ranges.setNode(BETA, 'beta-2', node(BETA, 'beta-2', { networks: ['192.0.2.0/28'] }));
  t.match(ranges.wanted().problems.join('\n'), /192\.0\.2\.0\/28 .*the node 192\.0\.2\.1 has an/);
  ranges.setNode(BETA, 'beta-2', undefined);
  ranges.wanted();
  ranges.takeForgotten();
  ranges.setRow(pod('fd00::aa/128'));
  ranges.setRow(pod('10.1.2.200/32'));
  t.strictSame(
    wanted(ranges),
    ['10.2.0.0/24', 'fd00::aa/128'],
    'single pods of a refused network, but none of what the own cluster has',
  );
  ranges.setNode(ALPHA, 'alpha-2', undefined);
  t.strictSame(wanted(ranges), ['10.1.0.0/16', '10.1.2.128/25', '10.2.0.0/24', 'fd00::aa/128']);
  t.equal(ranges.takeForgotten(), true, 'what the own cluster had may be single now');
  t.end();
});

test('host ranges: single addresses have a bound', (t) => {
  const ranges = openRanges();
  for (let index = 0; index <= MOST_SINGLE_ADDRESSES; index += 1) {
    ranges.setRow(pod(`10.${2 + (index >> 16)}.${(index >> 8) & 255}.${index & 255}/32`));
  }
  t.equal(wanted(ranges).length, MOST_SINGLE_ADDRESSES);
  t.match(ranges.wanted().problems, [/^more than 16384 addresses .*podCIDRs/]);
  t.equal(ranges.setRow(pod('10.9.0.1/32')), false, 'which is no news any more');
  t.equal(ranges.removeRow(parseIpPrefix('10.2.0.1')), true);
  t.equal(ranges.takeForgotten(), true, 'there is room for one');
  ranges.setRow(pod('10.9.0.1/32'));
  t.strictSame(ranges.wanted().problems, []);
  ranges.setRow(pod('10.9.0.2/32'));
  ranges.setNode(BETA, 'beta-1', node(BETA, 'beta-1', { networks: ['10.2.0.0/17'] }));
  t.strictSame(wanted(ranges), ['10.2.0.0/17', '10.9.0.1/32']);
  t.equal(ranges.takeForgotten(), true, 'those that found no room have to be told again');
  t.strictSame(ranges.wanted().problems, []);
  t.end();
});

test('host ranges: rows that come right behind their node are in its network', (t) => {
  const ranges = openRanges();
  const nodes = 100;
  for (let index = 0; index < nodes; index += 1) {
    const name = `beta-${index}`;
    ranges.setNode(BETA, name, node(BETA, name, { networks: [`10.2.${index}.0/24`] }));
    // Nobody has asked for ranges in between.
    t.equal(ranges.setRow(pod(`10.2.${index}.7/32`)), false);
  }
  t.equal(wanted(ranges).length, nodes, 'none of them is a single one');
  t.equal(ranges.takeForgotten(), false, 'and no row has to be told again');
  t.end();
});

test('host ranges: networks that several nodes have, and nodes that come again with others', (t) => {
  const ranges = openRanges();
  const both = ['10.2.1.0/24', '10.2.2.0/24'];
  ranges.setNode(BETA, 'a', node(BETA, 'a', { networks: both }));
  ranges.setNode(BETA, 'b', node(BETA, 'b', { networks: ['10.2.1.0/24'] }));
  ranges.setNode(BETA, 'a', node(BETA, 'a', { networks: ['10.2.2.0/24'], address: '192.0.2.8' }));
  t.strictSame(wanted(ranges), both);
  t.equal(ranges.takeForgotten(), false, 'nothing has gone, not even for a moment');
  ranges.setNode(BETA, 'b', undefined);
  t.strictSame(wanted(ranges), ['10.2.2.0/24']);
  t.equal(ranges.takeForgotten(), true);

  // Whoever stands in the way of a network, and goes again.
  ranges.setNode(ALPHA, 'alpha-2', node(ALPHA, 'alpha-2', { networks: ['10.2.2.0/25'] }));
  ranges.setRow(pod('10.2.2.200/32'));
  t.strictSame(wanted(ranges), [], 'refused');
  t.equal(ranges.takeForgotten(), true, 'who lived in there has to be told again');
  ranges.setRow(pod('10.2.2.200/32'));
  t.strictSame(wanted(ranges), ['10.2.2.200/32']);
  ranges.setNode(ALPHA, 'alpha-2', undefined);
  t.strictSame(wanted(ranges), ['10.2.2.0/24'], 'whole again');
  t.strictSame(ranges.wanted().problems, []);
  t.end();
});
