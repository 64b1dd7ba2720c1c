import { test } from 'tap';
import { readNodeRanges } from './own-ranges.ts';

const metadata = { name: 'n1', uid: 'u', resourceVersion: '1' };

test('a Node tells its pods and addresses, and no host names', (t) => {
  const node = {
    metadata,
    spec: { podCIDR: '10.1.0.0/24', podCIDRs: ['10.1.0.0/24', 'fd00:1::/64', 'nonsense'] },
    status: {
      addresses: [
        { type: 'InternalIP', address: '192.0.2.1' },
        { type: 'Hostname', address: 'n1.example' },
      ],
    },
  };
  t.same(readNodeRanges(node), {
    key: 'n1',
    pods: ['10.1.0.0/24', 'fd00:1::/64'],
    nodes: ['192.0.2.1/32'],
  });
  t.end();
});

test('a CiliumNode tells what Cilium gives to pods', (t) => {
  const node = {
    metadata,
    spec: {
      addresses: [{ type: 'InternalIP', ip: '192.0.2.1' }],
      ipam: { podCIDRs: ['10.1.0.0/24'] },
    },
  };
  t.same(readNodeRanges(node), { key: 'n1', pods: ['10.1.0.0/24'], nodes: ['192.0.2.1/32'] });
  t.same(readNodeRanges({ metadata }), { key: 'n1', pods: [], nodes: [] });
  t.throws(() => readNodeRanges({}), /metadata/);
  t.end();
});
