import { test } from 'tap';
import { addressesOfNodes, findReachFaults } from './peer-reach.ts';

const ADDRESSES = ['192.0.2.1', '192.0.2.2'];

test('findReachFaults()', async (t) => {
  const find = (seen: Readonly<Record<string, readonly [string, string]>> | undefined) =>
    findReachFaults({
      peer: 'beta',
      own: 'alpha',
      addresses: ADDRESSES,
      sights:
        seen &&
        Object.entries(seen).flatMap(([from, problems]) =>
          ADDRESSES.map((address, index) => ({ from, address, problem: problems[index] ?? '' })),
        ),
    });
  t.same(find({ n1: ['', ''], n2: ['', ''] }), []);
  t.match(find(undefined), [{ severity: 'warning', cause: /is not known: no agent of alpha/ }]);
  t.match(find({}), [{ severity: 'warning', cause: /is not known/ }], 'nobody has answered');
  t.match(find({ n1: ['closed', 'silent'] }), [
    {
      id: 'peer-nodes-unreachable',
      severity: 'refusal',
      cause: /none is reached: 192\.0\.2\.1 from n1: closed; 192\.0\.2\.2 from n1: silent$/,
    },
  ]);
  t.match(find({ n1: ['closed', ''] }), [
    { severity: 'warning', cause: /1 of 2 are not reached: 192\.0\.2\.1 from n1: closed$/ },
  ]);
  t.match(
    find({ n1: ['closed', 'closed'], n2: ['', ''] }),
    [{ severity: 'warning' }],
    'one of our nodes reaches them',
  );
  const none = { peer: 'beta', own: 'alpha', addresses: [], sights: undefined };
  t.same(findReachFaults(none), [], 'where no node is known there is nothing to say');
});

test('addressesOfNodes()', async (t) => {
  const node = (name: string, addresses: readonly (readonly [string, string])[]) => ({
    key: `cilium/state/nodes/v1/beta/${name}`,
    value: Buffer.from(
      JSON.stringify({
        Name: name,
        Cluster: 'beta',
        ClusterID: 2,
        IPAddresses: addresses.map(([Type, IP]) => ({ Type, IP })),
      }),
    ),
  });
  const pairs = [
    node('a', [
      ['CiliumInternalIP', '10.2.0.9'],
      ['InternalIP', 'fd00::1'],
      ['InternalIP', '192.0.2.1'],
    ]),
    { key: 'cilium/state/nodes/v1/beta/bad', value: Buffer.from('{') },
    node('b', [['InternalIP', 'fd00::2']]),
    node('c', [['ExternalIP', '198.51.100.1']]),
  ];
  t.same(addressesOfNodes(pairs), ['192.0.2.1', 'fd00::2']);
  const many = Array.from({ length: 20 }, (_, n) =>
    node(`n${n}`, [['InternalIP', `192.0.2.${n}`]]),
  );
  t.equal(addressesOfNodes(many).length, 8);
});
