/** Packets larger than the tunnel takes: who may not fragment them is told what fits. Promise 20: MTU set by us. */
import { test } from 'tap';
import { parseIpAddress } from '../../mesh/wire/ip.ts';
import { lookupElement, testRun } from './bpf.ts';
import { readCounters } from './counters.ts';
import { kernelSkipReason } from './testing/bpffs.ts';
import { frame, ipPacket, type PacketSpec } from './testing/packet.ts';
import {
  openProgramRun,
  type ProgramRun,
  TUNNEL_MTU,
  testEndpoint,
  testPrefix,
} from './testing/program-run.ts';

const skip = kernelSkipReason();
const LINK_HEADER = 14;
const DESTINATION_UNREACHABLE = 3;
const FRAGMENTATION_NEEDED = 4;
const PACKET_TOO_BIG = 2;
const JUMBO_HEADER = 0;
/** Where `struct mesh_test` has what the tunnel key was set with, and BPF_F_* in it. */
const OUT_FLAGS = 48;
const TUNNEL_IPV6 = 1n;
const ZERO_CHECKSUM = 2n;
/** Verdict of the kernel. */
const REDIRECT = 7;

async function openRun(): Promise<ProgramRun> {
  const run = await openProgramRun();
  const addresses = [parseIpAddress('10.1.0.2'), parseIpAddress('fd01::2')];
  run.tables.endpoints.apply({
    upserts: [testEndpoint(1, '10.1.0.2', { addresses })],
    deletes: [],
  });
  const identity = 0x20000 + 500;
  run.tables.ipcache.apply({
    upserts: [
      testPrefix('10.2.0.0/24', identity, { tunnelEndpoint: '192.0.2.2', clusterId: 2 }),
      testPrefix('fd02::/64', identity, { tunnelEndpoint: 'fd00::2', clusterId: 2 }),
    ],
    deletes: [],
  });
  return run;
}

/** A packet of `length` bytes, IP header included. */
function packetOf(length: number, fields: Partial<PacketSpec> = {}): PacketSpec {
  const spec: PacketSpec = {
    from: '10.1.0.2',
    to: '10.2.0.7',
    protocol: 'udp',
    dontFragment: true,
    ...fields,
  };
  const headers = ipPacket({ ...spec, payload: new Uint8Array(0) }).length;
  return { ...spec, payload: Uint8Array.from({ length: length - headers }, (_, at) => at * 7) };
}

const IPV6 = { from: 'fd01::2', to: 'fd02::7' } as const;

test('encapsulate(): what fits goes, what does not is answered', { skip }, async (t) => {
  await using run = await openRun();
  const cases: [string, PacketSpec, number | undefined, 'tunnel' | 'peer'][] = [
    ['IPv4 that just fits', packetOf(TUNNEL_MTU), undefined, 'tunnel'],
    ['IPv4 a byte too large', packetOf(TUNNEL_MTU + 1), undefined, 'peer'],
    ['IPv4 that may be fragmented', packetOf(2000, { dontFragment: false }), undefined, 'tunnel'],
    ['IPv6 that just fits', packetOf(TUNNEL_MTU, IPV6), undefined, 'tunnel'],
    ['IPv6 a byte too large', packetOf(TUNNEL_MTU + 1, IPV6), undefined, 'peer'],
    [
      'IPv6 behind a hop-by-hop header',
      packetOf(1500, { ...IPV6, extensions: [0] }),
      undefined,
      'peer',
    ],
    ['TCP segments that fit', packetOf(2000, { protocol: 'tcp', flags: 'A' }), 1410, 'tunnel'],
    ['TCP segments that do not', packetOf(2000, { protocol: 'tcp', flags: 'A' }), 1411, 'peer'],
    ['UDP segments that fit', packetOf(2000), 1422, 'tunnel'],
    ['UDP segments that do not', packetOf(2000), 1423, 'peer'],
    ['IPv6 TCP segments that fit', packetOf(2000, { ...IPV6, protocol: 'tcp' }), 1390, 'tunnel'],
    ['IPv6 TCP segments that do not', packetOf(2000, { ...IPV6, protocol: 'tcp' }), 1391, 'peer'],
    [
      'a jumbogram, whose hop-by-hop header goes when it is cut',
      packetOf(2000, { ...IPV6, protocol: 'tcp', extensions: [JUMBO_HEADER] }),
      1390,
      'tunnel',
    ],
  ];
  for (const [name, packet, gsoSize, expected] of cases) {
    const outcome = run.fromEndpoint(packet, gsoSize);
    t.equal(outcome.kind, expected, name);
    const reason = expected === 'peer' ? 'packet-too-big egress' : 'forwarded-overlay egress';
    t.strictSame(outcome.reasons, [reason], name);
  }
});

test('encapsulate(): the answer to IPv4', { skip }, async (t) => {
  await using run = await openRun();
  const packet = packetOf(1600, { protocol: 'tcp', flags: 'A' });
  const outcome = run.fromEndpoint(packet);
  t.match(outcome, { kind: 'peer', ifindex: 1, mac: '02:00:00:00:00:02' }, 'back to its sender');
  const answer = run.output().subarray(LINK_HEADER);
  t.equal(answer.length, answer.readUInt16BE(2), 'the length that it says');
  t.equal(answer.toString('hex', 0, 2), '45c0', 'no options, network control');
  t.equal(answer.readUInt8(9), 1, 'ICMP');
  t.strictSame([...answer.subarray(12, 20)], [10, 2, 0, 7, 10, 1, 0, 2], 'from whom it was for');
  t.equal(sum16(answer.subarray(0, 20)), 0xffff, 'checksum of the header');
  t.equal(sum16(answer.subarray(20)), 0xffff, 'checksum of the message');
  t.strictSame([...answer.subarray(20, 22)], [DESTINATION_UNREACHABLE, FRAGMENTATION_NEEDED]);
  t.equal(answer.readUInt32BE(24), TUNNEL_MTU, 'what fits');
  const quote = answer.subarray(28);
  t.strictSame(quote, ipPacket(packet).subarray(0, quote.length), 'what it is about');
  t.ok(quote.length >= 60 + 8, 'with the longest header and the 8 bytes behind it');
});

test('encapsulate(): the answer to IPv6', { skip }, async (t) => {
  await using run = await openRun();
  const packet = packetOf(1600, { ...IPV6, protocol: 'tcp', flags: 'A', extensions: [60] });
  t.match(run.fromEndpoint(packet), { kind: 'peer', ifindex: 1, mac: '02:00:00:00:00:02' });
  const answer = run.output().subarray(LINK_HEADER);
  t.equal(answer.length, 40 + answer.readUInt16BE(4), 'the length that it says');
  t.equal(answer.readUInt8(6), 58, 'ICMPv6');
  const [from, to] = [ipPacket(packet).subarray(24, 40), ipPacket(packet).subarray(8, 24)];
  t.strictSame([answer.subarray(8, 24), answer.subarray(24, 40)], [from, to]);
  const pseudo = Buffer.alloc(40);
  answer.copy(pseudo, 0, 8, 40);
  pseudo.writeUInt32BE(answer.length - 40, 32);
  pseudo.writeUInt32BE(58, 36);
  t.equal(sum16(Buffer.concat([pseudo, answer.subarray(40)])), 0xffff, 'checksum');
  t.strictSame([...answer.subarray(40, 42)], [PACKET_TOO_BIG, 0]);
  t.equal(answer.readUInt32BE(44), TUNNEL_MTU, 'what fits');
  const quote = answer.subarray(48);
  t.strictSame(quote, ipPacket(packet).subarray(0, quote.length), 'what it is about');
  t.ok(answer.length <= 1280, 'RFC 4443, 2.4: no larger than fits everywhere');
});

test('encapsulate(): answers are bounded', { skip }, async (t) => {
  await using run = await openRun();
  const packet = frame(packetOf(1600));
  const program = run.objects.program('mesh_from_endpoint');
  const began = performance.now();
  let answered = 0;
  // Without the counters in between: faster than answers are allowed.
  while (testRun(program, packet).verdict === REDIRECT && answered < 1_000_000) answered += 1;
  const seconds = (performance.now() - began) / 1000;
  t.ok(answered >= 100, `at least a hundred at once (${answered})`);
  t.ok(answered <= 105 + seconds * 1100, `and a thousand a second (${answered} in ${seconds} s)`);
  t.match(
    readCounters(run.objects.maps.get('mesh_metrics')),
    [
      { reason: 'packet-too-big', packets: BigInt(answered) },
      { reason: 'packet-too-big-silent', packets: 1n },
    ],
    'the others are dropped under another reason',
  );
});

test('encapsulate(): checksums are left to whom they cost nothing', { skip }, async (t) => {
  await using run = await openRun();
  const flags = (): bigint => {
    const state = Buffer.alloc(64);
    lookupElement(run.objects.maps.get('mesh_test').fd, Buffer.alloc(4), state);
    return state.readBigUInt64LE(OUT_FLAGS);
  };
  run.fromEndpoint(packetOf(100));
  t.equal(
    flags(),
    ZERO_CHECKSUM,
    'none outside over IPv4, so that segments can be cut by the device',
  );
  run.fromEndpoint(packetOf(100, IPV6));
  t.equal(flags(), TUNNEL_IPV6, 'one over IPv6, whose receivers ask for it');
});

/** Sum of 16-bit words with the carries added: 0xffff for bytes with a right checksum in them. */
function sum16(bytes: Buffer): number {
  let sum = 0;
  for (let at = 0; at < bytes.length; at += 2) sum += bytes.readUInt16BE(at);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return sum;
}
