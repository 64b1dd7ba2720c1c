import { test } from 'tap';
import { frame, ipPacket, type PacketSpec } from '../datapath/testing/packet.ts';
import { summarizePacket } from './packet.ts';

const CASES: readonly [string, PacketSpec, object][] = [
  [
    'TCP over IPv4',
    { from: '10.2.0.5', to: '10.1.0.2', protocol: 'tcp', sourcePort: 4444, destinationPort: 80 },
    {
      network: 'IPv4',
      source: '10.2.0.5',
      destination: '10.1.0.2',
      protocol: 'TCP',
      sourcePort: 4444,
      destinationPort: 80,
      flags: ['SYN'],
    },
  ],
  [
    'TCP over IPv6, flags in their order',
    { from: 'fd02::5', to: 'fd01::2', protocol: 'tcp', flags: 'AFR', destinationPort: 443 },
    {
      network: 'IPv6',
      source: 'fd02::5',
      destination: 'fd01::2',
      protocol: 'TCP',
      destinationPort: 443,
      flags: ['FIN', 'RST', 'ACK'],
    },
  ],
  [
    'UDP behind extension headers',
    { from: 'fd02::5', to: 'fd01::2', protocol: 'udp', extensions: [0, 60], destinationPort: 53 },
    { protocol: 'UDP', destinationPort: 53, flags: undefined },
  ],
  [
    'SCTP',
    { from: '10.2.0.5', to: '10.1.0.2', protocol: 'sctp', destinationPort: 9 },
    { protocol: 'SCTP', destinationPort: 9 },
  ],
  [
    'a ping',
    { from: '10.2.0.5', to: '10.1.0.2', protocol: 'icmp', sourcePort: 77 },
    { protocol: 'ICMPv4', icmp: { type: 8, code: 0, name: 'echo request', id: 77 } },
  ],
  [
    'a ping over IPv6',
    { from: 'fd02::5', to: 'fd01::2', protocol: 'icmp', type: 129, sourcePort: 78 },
    { protocol: 'ICMPv6', icmp: { type: 129, name: 'echo reply' } },
  ],
  [
    'a protocol without ports',
    { from: '10.2.0.5', to: '10.1.0.2', protocol: 47 },
    { protocol: 'protocol 47', sourcePort: undefined },
  ],
  [
    'a first fragment',
    {
      from: '10.2.0.5',
      to: '10.1.0.2',
      protocol: 'udp',
      destinationPort: 53,
      fragment: { id: 1, offset: 0, more: true },
    },
    { isLaterFragment: false, destinationPort: 53 },
  ],
  [
    'a later fragment has no ports',
    {
      from: '10.2.0.5',
      to: '10.1.0.2',
      protocol: 'udp',
      fragment: { id: 1, offset: 64, more: false },
    },
    { isLaterFragment: true, protocol: 'UDP', destinationPort: undefined },
  ],
  [
    'a later fragment over IPv6',
    {
      from: 'fd02::5',
      to: 'fd01::2',
      protocol: 'udp',
      fragment: { id: 1, offset: 64, more: false },
    },
    { isLaterFragment: true, protocol: 'UDP', destinationPort: undefined },
  ],
];

test('summarizePacket() says what a packet is', (t) => {
  for (const [name, spec, expected] of CASES) {
    t.match(summarizePacket(frame(spec)), { isCutOff: false, ...expected }, name);
  }
  t.end();
});

test('summarizePacket() tells what an ICMP error is about', (t) => {
  const about = { from: '10.1.0.2', to: '10.2.0.5', protocol: 'tcp', destinationPort: 80 } as const;
  const four = frame({
    from: '192.0.2.9',
    to: '10.1.0.2',
    protocol: 'icmp',
    type: 3,
    payload: ipPacket(about).subarray(0, 28),
  });
  t.match(summarizePacket(four), {
    icmp: {
      type: 3,
      name: 'destination unreachable',
      id: undefined,
      about: { protocol: 'TCP', source: '10.1.0.2', destinationPort: 80, flags: undefined },
    },
    isCutOff: false,
  });
  const six = frame({
    from: 'fd00::9',
    to: 'fd01::2',
    protocol: 'icmp',
    type: 2,
    payload: ipPacket({ ...about, from: 'fd01::2', to: 'fd02::5' }),
  });
  t.match(summarizePacket(six), {
    icmp: { type: 2, name: 'packet too big', about: { destination: 'fd02::5' } },
  });
  t.end();
});

test('summarizePacket() is content with every part of a packet', (t) => {
  for (const [name, spec] of CASES) {
    const whole = frame(spec);
    const { source } = summarizePacket(whole);
    for (let length = 0; length < whole.length; length += 1) {
      const summary = summarizePacket(whole.subarray(0, length));
      t.ok(summary.isCutOff || summary.source === source, `${length} bytes of ${name}`);
    }
  }
  t.match(summarizePacket(Buffer.from('ffffffffffff0200000000020806', 'hex')), { network: 'ARP' });
  t.match(summarizePacket(Buffer.from('ffffffffffff02000000000288cc', 'hex')), {
    network: '0x88cc',
    protocol: undefined,
    isCutOff: false,
  });
  // A header that says it is longer than any.
  const odd = frame({ from: '10.2.0.5', to: '10.1.0.2', protocol: 'tcp' });
  odd[14] = 0x4f;
  t.match(summarizePacket(odd.subarray(0, 60)), { isCutOff: true });
  t.end();
});
