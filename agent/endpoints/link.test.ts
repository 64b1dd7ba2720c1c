import { test } from 'tap';
import { parseLinks } from './link.ts';

// As iproute2 6.1 prints them.
const HOST = `[{"ifindex":1,"ifname":"lo","flags":["LOOPBACK"],"mtu":65536,"link_type":"loopback","address":"00:00:00:00:00:00"},{},{"ifindex":7,"link_index":2,"ifname":"veth1a","flags":["UP"],"mtu":1430,"link_type":"ether","address":"02:00:00:00:00:08","link_netnsid":0},{"ifindex":9,"link":"veth3","ifname":"veth2","address":"02:00:00:00:00:09"}]
`;
const INSIDE = `[{"ifindex":2,"link_index":7,"ifname":"eth0","address":"02:00:00:00:00:07","link_netnsid":0,"addr_info":[{"family":"inet","local":"10.1.0.5","prefixlen":24,"scope":"global"},{"family":"inet6","local":"fd00::5","prefixlen":64,"scope":"global"},{"family":"inet6","local":"fe80::7","prefixlen":64,"scope":"link"},{"family":"inet","local":"bad","scope":"global"},{}]}]`;

const CASES: readonly (readonly [name: string, text: string, expected: unknown])[] = [
  ['nothing', '', []],
  ['an empty list', '[]\n', []],
  ['no list', '{}', []],
  [
    'links of a node, one with its other end elsewhere',
    HOST,
    [
      {
        ifindex: 1,
        ifname: 'lo',
        address: '00:00:00:00:00:00',
        linkIndex: undefined,
        linkNamespace: undefined,
        addresses: [],
      },
      {
        ifindex: 7,
        ifname: 'veth1a',
        address: '02:00:00:00:00:08',
        linkIndex: 2,
        linkNamespace: 0,
        addresses: [],
      },
      {
        ifindex: 9,
        ifname: 'veth2',
        address: '02:00:00:00:00:09',
        linkIndex: undefined,
        linkNamespace: undefined,
        addresses: [],
      },
    ],
  ],
  [
    'addresses of global scope',
    INSIDE,
    [
      {
        ifindex: 2,
        ifname: 'eth0',
        address: '02:00:00:00:00:07',
        linkIndex: 7,
        linkNamespace: 0,
        addresses: ['10.1.0.5', 'fd00::5'],
      },
    ],
  ],
  ['what is no link', '[1,null,"x",{"ifindex":"1","ifname":"a"},{"ifindex":1}]', []],
];

for (const [name, text, expected] of CASES) {
  test(`parseLinks(): ${name}`, async (t) => {
    t.same(parseLinks(text), expected);
  });
}

test('parseLinks() refuses what was cut off', async (t) => {
  for (let length = 1; length < INSIDE.length; length += 7) {
    t.throws(() => parseLinks(INSIDE.slice(0, length)), SyntaxError, String(length));
  }
});
