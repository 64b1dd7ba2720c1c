import { test } from 'tap';
import { parseIpAddress } from '../../mesh/wire/ip.ts';
import { CONFIG } from '../../mesh/wire/maps.ts';
import { updateElement } from './bpf.ts';
import { kernelSkipReason } from './testing/bpffs.ts';
import { frame, type PacketSpec } from './testing/packet.ts';
import {
  openProgramRun,
  TUNNEL_IFINDEX,
  testEndpoint,
  testPolicy,
  testPrefix,
} from './testing/program-run.ts';

const skip = kernelSkipReason();
const POD_IDENTITY = 0x10000 + 301;
const REMOTE_IDENTITY = 0x20000 + 500;

test('mesh_from_endpoint: where packets go', { skip }, async (t) => {
  await using run = await openProgramRun();
  run.tables.endpoints.apply({
    upserts: [
      testEndpoint(1, '10.1.0.2', {
        addresses: [parseIpAddress('10.1.0.2'), parseIpAddress('fd01::2')],
      }),
      testEndpoint(2, '10.1.0.3', { ifindex: 42, mac: '0a:00:00:00:00:02' }),
    ],
    deletes: [],
  });
  run.tables.ipcache.apply({
    upserts: [
      testPrefix('10.2.0.0/24', REMOTE_IDENTITY, { tunnelEndpoint: '192.0.2.2', clusterId: 2 }),
      testPrefix('fd02::/64', REMOTE_IDENTITY, { tunnelEndpoint: '192.0.2.2', clusterId: 2 }),
      testPrefix('10.2.0.9/32', REMOTE_IDENTITY, { tunnelEndpoint: 'fd00::2', clusterId: 2 }),
      testPrefix('192.0.2.1/32', 1),
    ],
    deletes: [],
  });

  const tunnel = (remote: string) => ({
    kind: 'tunnel',
    ifindex: TUNNEL_IFINDEX,
    vni: POD_IDENTITY,
    remote,
    reasons: ['forwarded-overlay egress'],
  });
  const stack = { kind: 'stack', reasons: ['passed-to-stack egress'] };
  const dropped = (reason: string) => ({ kind: 'drop', reasons: [`${reason} egress`] });
  const cases: [string, PacketSpec, object][] = [
    [
      'TCP to a remote pod',
      { from: '10.1.0.2', to: '10.2.0.7', protocol: 'tcp' },
      tunnel('192.0.2.2'),
    ],
    [
      'UDP to a remote pod',
      { from: '10.1.0.2', to: '10.2.0.7', protocol: 'udp' },
      tunnel('192.0.2.2'),
    ],
    [
      'SCTP to a remote pod',
      { from: '10.1.0.2', to: '10.2.0.7', protocol: 'sctp' },
      tunnel('192.0.2.2'),
    ],
    [
      'ICMP to a remote pod',
      { from: '10.1.0.2', to: '10.2.0.7', protocol: 'icmp' },
      tunnel('192.0.2.2'),
    ],
    [
      'IPv6 over an IPv4 underlay',
      { from: 'fd01::2', to: 'fd02::7', protocol: 'tcp' },
      tunnel('192.0.2.2'),
    ],
    [
      'IPv4 over an IPv6 underlay',
      { from: '10.1.0.2', to: '10.2.0.9', protocol: 'tcp' },
      tunnel('fd00::2'),
    ],
    ['to the own node', { from: '10.1.0.2', to: '192.0.2.1', protocol: 'tcp' }, stack],
    ['to the world', { from: '10.1.0.2', to: '198.51.100.1', protocol: 'tcp' }, stack],
    ['a protocol without ports', { from: '10.1.0.2', to: '198.51.100.1', protocol: 47 }, stack],
    [
      'behind IPv6 extension headers',
      { from: 'fd01::2', to: 'fd02::7', protocol: 'udp', extensions: [0, 60, 43] },
      tunnel('192.0.2.2'),
    ],
    [
      'behind more extension headers than are read',
      { from: 'fd01::2', to: 'fd02::7', protocol: 'udp', extensions: [0, 60, 60, 60, 60, 60, 60] },
      dropped('unsupported-protocol'),
    ],
    [
      'from an address of another endpoint',
      { from: '10.1.0.3', to: '10.2.0.7', protocol: 'tcp' },
      dropped('invalid-source'),
    ],
    [
      'from an address of no endpoint',
      { from: '10.9.9.9', to: '10.2.0.7', protocol: 'tcp' },
      dropped('invalid-source'),
    ],
  ];
  for (const [name, packet, expected] of cases) {
    t.strictSame(run.fromEndpoint(packet), expected, name);
  }

  t.strictSame(
    run.fromEndpoint({ from: '10.1.0.2', to: '10.1.0.3', protocol: 'tcp' }),
    { kind: 'peer', ifindex: 42, mac: '0a:00:00:00:00:02', reasons: ['forwarded ingress'] },
    'to a pod of the same node, past the stack, with the MAC of its interface',
  );
  const arp = Buffer.concat([Buffer.from('ffffffffffff0200000000020806', 'hex'), Buffer.alloc(46)]);
  t.strictSame(run.fromEndpoint(arp), { kind: 'stack', reasons: [] }, 'ARP');
  t.strictSame(
    run.fromEndpoint({ from: 'fe80::1', to: 'ff02::16', protocol: 'icmp', type: 143 }),
    { kind: 'stack', reasons: [] },
    'multicast listener reports stay on the link',
  );
  t.strictSame(
    run.fromEndpoint({ from: 'fd01::2', to: 'fd01::1', protocol: 'icmp', type: 135 }),
    { kind: 'stack', reasons: [] },
    'neighbour discovery ends at the host',
  );
  const other = Buffer.concat([
    Buffer.from('ffffffffffff02000000000288cc', 'hex'),
    Buffer.alloc(46),
  ]);
  t.strictSame(run.fromEndpoint(other), dropped('unsupported-protocol'), 'another link protocol');
  const whole = frame({ from: '10.1.0.2', to: '10.2.0.7', protocol: 'tcp' });
  t.strictSame(
    run.fromEndpoint(whole.subarray(0, 14 + 20 + 10)),
    dropped('invalid-packet'),
    'a TCP header that is cut off',
  );
  const claimed = frame({ from: 'fd01::2', to: 'fd02::7', protocol: 'tcp' });
  claimed.set(Buffer.from('00000000000000000000ffff0a010002', 'hex'), 14 + 8);
  t.strictSame(
    run.fromEndpoint(claimed),
    dropped('invalid-packet'),
    'a mapped address on the wire',
  );
});

test('mesh_from_endpoint: fragments follow the first one', { skip }, async (t) => {
  await using run = await openProgramRun();
  run.tables.endpoints.apply({
    upserts: [testEndpoint(1, '10.1.0.2', { egressEnforced: true }), testEndpoint(3, 'fd01::2')],
    deletes: [],
  });
  run.tables.policy.apply({
    upserts: [
      testPolicy(1, 2, { direction: 'egress', protocol: 17, port: 53, portPrefixBits: 16 }),
    ],
    deletes: [],
  });
  const base = { from: '10.1.0.2', to: '198.51.100.1', protocol: 'udp' } as const;
  const later = { ...base, fragment: { id: 9, offset: 1480, more: false } };
  t.strictSame(
    run.fromEndpoint(later),
    { kind: 'drop', reasons: ['fragment-not-found egress'] },
    'a later fragment alone',
  );
  const first = { ...base, destinationPort: 53, fragment: { id: 9, offset: 0, more: true } };
  t.equal(run.fromEndpoint(first).kind, 'stack', 'the first one, to an allowed port');
  t.equal(run.fromEndpoint(later).kind, 'stack', 'then the later one, judged by the same ports');
  t.strictSame(
    run.fromEndpoint({ ...base, destinationPort: 54, fragment: { id: 10, offset: 0, more: true } }),
    { kind: 'drop', reasons: ['policy-denied egress'] },
    'the first one, to another port',
  );
  t.strictSame(
    run.fromEndpoint({ ...base, fragment: { id: 10, offset: 1480, more: false } }),
    { kind: 'drop', reasons: ['policy-denied egress'] },
    'its later one',
  );
  const six = { from: 'fd01::2', to: '2001:db8::1', protocol: 'udp' } as const;
  const laterSix = { ...six, fragment: { id: 70000, offset: 1440, more: false } };
  t.equal(run.fromEndpoint(laterSix).kind, 'drop', 'IPv6, later alone');
  t.equal(
    run.fromEndpoint({ ...six, fragment: { id: 70000, offset: 0, more: true } }).kind,
    'stack',
  );
  t.equal(run.fromEndpoint(laterSix).kind, 'stack', 'IPv6, later after the first');
});

test('mesh_from_endpoint: before the agent has written its configuration', { skip }, async (t) => {
  await using run = await openProgramRun();
  run.tables.endpoints.apply({ upserts: [testEndpoint(1, '10.1.0.2')], deletes: [] });
  run.tables.ipcache.apply({
    upserts: [testPrefix('10.2.0.0/24', REMOTE_IDENTITY, { tunnelEndpoint: '192.0.2.2' })],
    deletes: [],
  });
  updateElement(run.objects.maps.get('mesh_config').fd, Buffer.alloc(4), Buffer.alloc(CONFIG.size));
  t.strictSame(run.fromEndpoint({ from: '10.1.0.2', to: '10.2.0.7', protocol: 'tcp' }), {
    kind: 'drop',
    reasons: ['no-config egress'],
  });
});

test('mesh_from_endpoint: ingress policy of a pod of the same node', { skip }, async (t) => {
  await using run = await openProgramRun();
  run.tables.endpoints.apply({
    upserts: [testEndpoint(1, '10.1.0.2'), testEndpoint(2, '10.1.0.3', { ingressEnforced: true })],
    deletes: [],
  });
  const packet: PacketSpec = { from: '10.1.0.2', to: '10.1.0.3', protocol: 'tcp' };
  t.strictSame(run.fromEndpoint(packet), { kind: 'drop', reasons: ['policy-denied ingress'] });
  run.tables.policy.apply({ upserts: [testPolicy(2, POD_IDENTITY)], deletes: [] });
  t.equal(run.fromEndpoint(packet).kind, 'peer');
  t.equal(
    run.fromEndpoint({
      ...packet,
      from: '10.1.0.3',
      to: '10.1.0.2',
      sourcePort: 80,
      destinationPort: 40000,
      flags: 'SA',
    }).kind,
    'peer',
    'the answer',
  );
});
