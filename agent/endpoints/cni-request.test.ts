import { test } from 'tap';
import { addRequest } from '../testing/node-rig.ts';
import { addressesOf, parseCniRequest } from './cni-request.ts';

type Fields = Record<string, unknown>;

function change(changes: Fields, config: Fields = {}): string {
  const request = addRequest('c1', '10.1.0.5');
  return JSON.stringify({
    ...request,
    ...changes,
    config: { ...(request.config as Fields), ...config },
  });
}

test('a request of ptp is taken apart', async (t) => {
  const request = parseCniRequest(change({}));
  t.match(request, {
    command: 'ADD',
    containerId: 'c1',
    netns: '/run/netns/c1',
    ifName: 'eth0',
    config: { name: 'lab', cniVersion: '1.0.0' },
  });
  t.equal(request.args.get('K8S_POD_NAME'), 'c1');
  t.same(addressesOf(request.config, 'eth0'), ['10.1.0.5']);
});

test("addresses are those of the container's interface, of both families", async (t) => {
  const prevResult = {
    interfaces: [
      { name: 'br0' },
      { name: 'veth1' },
      { name: 'eth0', sandbox: '/ns' },
      { name: 'eth1', sandbox: '/ns' },
    ],
    ips: [
      { interface: 2, address: 'fd00::5/64' },
      { interface: 2, address: '10.1.0.5/24' },
      { interface: 3, address: '10.9.0.5/24' },
      { interface: 0, address: '10.1.0.1/24' },
    ],
  };
  const { config } = parseCniRequest(change({}, { prevResult }));
  t.same(addressesOf(config, 'eth0'), ['10.1.0.5', 'fd00::5']);
  t.same(addressesOf(config, 'eth1'), ['10.9.0.5']);
  const unnamed = parseCniRequest(
    change({}, { prevResult: { ips: [{ address: '10.1.0.5/24' }] } }),
  );
  t.same(addressesOf(unnamed.config, 'eth0'), ['10.1.0.5']);
});

const refused: readonly [name: string, body: string, code: number, message: RegExp][] = [
  ['no JSON', '{', 6, /not JSON/],
  ['no object', '[]', 6, /the request: expected an object/],
  ['an unknown command', change({ command: 'MOVE' }), 4, /CNI_COMMAND "MOVE"/],
  ['no container', change({ containerId: '' }), 4, /CNI_CONTAINERID must be set/],
  ['no namespace', change({ netns: '' }), 4, /CNI_NETNS must be set/],
  ['no interface', change({ ifName: undefined }), 4, /CNI_IFNAME must be set/],
  ['a container that is a number', change({ containerId: 1 }), 6, /field containerId/],
  [
    'a prevResult that is a list',
    change({}, { prevResult: [] }),
    6,
    /prevResult: expected an object/,
  ],
];

for (const [name, body, code, message] of refused) {
  test(`parseCniRequest() refuses ${name}`, async (t) => {
    t.throws(() => parseCniRequest(body), { code, message });
  });
}

const withoutAddress: readonly [name: string, prevResult: unknown, message: RegExp][] = [
  ['no prevResult', undefined, /prevResult is missing: list this plugin after/],
  ['no addresses', { interfaces: [], ips: [] }, /has no address of interface eth0/],
  [
    'addresses of the host side only',
    { interfaces: [{ name: 'eth0' }], ips: [{ interface: 0, address: '10.1.0.1/24' }] },
    /has no address/,
  ],
  [
    'an address that is none',
    { ips: [{ address: 'x' }] },
    /prevResult\.ips\[0\]\.address cannot be read/,
  ],
  ['ips that are no list', { ips: 'x' }, /field ips/],
];

for (const [name, prevResult, message] of withoutAddress) {
  test(`addressesOf() refuses ${name}`, async (t) => {
    const { config } = parseCniRequest(change({}, { prevResult }));
    t.throws(() => addressesOf(config, 'eth0'), { message });
  });
}

test('DEL needs neither namespace nor prevResult, STATUS and GC no container', async (t) => {
  t.match(parseCniRequest(change({ command: 'DEL', netns: '' }, { prevResult: undefined })), {
    command: 'DEL',
  });
  const gc = parseCniRequest(
    change(
      { command: 'GC', containerId: '', ifName: '', netns: '' },
      { 'cni.dev/valid-attachments': [{ containerID: 'c1', ifname: 'eth0' }] },
    ),
  );
  t.same(gc.config.validAttachments, [{ containerId: 'c1', ifName: 'eth0' }]);
  t.match(parseCniRequest(change({ command: 'STATUS', containerId: '', ifName: '' })), {
    command: 'STATUS',
  });
});
