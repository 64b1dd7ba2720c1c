import { test } from 'tap';
import { parseIpAddress } from '../../mesh/wire/ip.ts';
import { CT_KEY, CT_VALUE } from '../../mesh/wire/maps.ts';
import { deleteElement, updateElement } from './bpf.ts';
import { readMap } from './map.ts';
import { kernelSkipReason } from './testing/bpffs.ts';
import { ipPacket, type PacketSpec } from './testing/packet.ts';
import {
  openProgramRun,
  type ProgramRun,
  testEndpoint,
  testPolicy,
} from './testing/program-run.ts';

const skip = kernelSkipReason();
const POD = '10.1.0.2';
const OTHER = '198.51.100.1';
const CT = { name: 'mesh_ct', keySize: CT_KEY.size, valueSize: CT_VALUE.size };

async function openEnforcedRun(): Promise<ProgramRun> {
  const run = await openProgramRun();
  const enforced = { ingressEnforced: true, egressEnforced: true };
  run.tables.endpoints.apply({ upserts: [testEndpoint(1, POD, enforced)], deletes: [] });
  return run;
}

function allow(run: ProgramRun, direction: 'ingress' | 'egress'): void {
  run.tables.policy.apply({ upserts: [testPolicy(1, 2, { direction })], deletes: [] });
}

const outbound = (flags: string): PacketSpec => ({ from: POD, to: OTHER, protocol: 'tcp', flags });
const inbound = (flags: string): PacketSpec => ({
  from: OTHER,
  to: POD,
  protocol: 'tcp',
  flags,
  sourcePort: 80,
  destinationPort: 40000,
});

test('conntrack: only what answers passes', { skip }, async (t) => {
  await using run = await openEnforcedRun();
  allow(run, 'egress');
  t.equal(run.toEndpoint(inbound('SA'), 9).kind, 'drop', 'before the connection');
  t.equal(run.fromEndpoint(outbound('S')).kind, 'stack');
  t.equal(run.toEndpoint(inbound('SA'), 9).kind, 'stack', 'the answer');
  t.equal(run.toEndpoint(inbound('A'), 9).kind, 'stack', 'and the next');
  const reverse = { ...inbound('S'), sourcePort: 40000, destinationPort: 80 };
  t.equal(run.toEndpoint(reverse, 9).kind, 'drop', 'a connection of its own is no answer');
});

test('conntrack: taking an allow away ends what it let in', { skip }, async (t) => {
  await using run = await openEnforcedRun();
  allow(run, 'ingress');
  t.equal(run.toEndpoint(inbound('S'), 9).kind, 'stack');
  const answer = { ...outbound('SA'), sourcePort: 40000, destinationPort: 80 };
  t.equal(run.fromEndpoint(answer).kind, 'stack', 'the answer needs no egress rule');
  run.tables.policy.apply({ upserts: [], deletes: [testPolicy(1, 2)] });
  t.equal(run.toEndpoint(inbound('A'), 9).kind, 'drop', 'packets of the connection');
});

test('conntrack: a packet in the middle of a connection opens nothing', { skip }, async (t) => {
  await using run = await openEnforcedRun();
  allow(run, 'egress');
  for (const flags of ['A', 'SA', 'R', 'FA']) {
    t.equal(run.fromEndpoint(outbound(flags)).kind, 'stack', `${flags} is sent`);
    t.equal(run.toEndpoint(inbound('A'), 9).kind, 'drop', `${flags} lets nothing in`);
  }
});

test('conntrack: an entry ends', { skip }, async (t) => {
  await using run = await openEnforcedRun();
  allow(run, 'egress');
  run.fromEndpoint(outbound('S'));
  run.toEndpoint(inbound('SA'), 9);
  t.ok((lifetimes(run)[0] ?? 99) <= 61, 'an answer alone does not make it a connection');
  run.fromEndpoint(outbound('A'));
  const established = lifetimes(run);
  t.same(established.length, 1);
  t.ok((established[0] ?? 0) > 3600, 'an established one may be idle for hours');
  run.fromEndpoint(outbound('FA'));
  t.ok((lifetimes(run)[0] ?? 0) > 3600, 'closed by one side, too');
  run.toEndpoint(inbound('FA'), 9);
  t.ok((lifetimes(run)[0] ?? 99) <= 11, 'closed by both, for seconds');
  expireAll(run);
  t.equal(run.toEndpoint(inbound('A'), 9).kind, 'drop', 'and then it is over');
  run.fromEndpoint(outbound('S'));
  t.equal(run.toEndpoint(inbound('SA'), 9).kind, 'stack', 'the same ports can be used again');
});

test('conntrack: states of a TCP connection', { skip }, async (t) => {
  await using run = await openProgramRun();
  const addresses = ['10.1.0.2', 'fd01::2'].map(parseIpAddress);
  const enforced = { addresses, ingressEnforced: true };
  run.tables.endpoints.apply({ upserts: [testEndpoint(1, POD, enforced)], deletes: [] });
  const left = (): number => lifetimes(run)[0] ?? Number.NaN;
  for (const [pod, other] of [
    [POD, OTHER],
    ['fd01::2', '2001:db8::1'],
  ] as const) {
    forgetAll(run);
    const send = (flags: string): string =>
      run.fromEndpoint({ ...outbound(flags), from: pod, to: other }).kind;
    const receive = (flags: string): string =>
      run.toEndpoint({ ...inbound(flags), from: other, to: pod }, 9).kind;

    send('S');
    t.ok(left() <= 60, 'nobody has answered yet');
    receive('SA');
    t.ok(left() <= 60, 'nor has the answer been acknowledged');
    send('A');
    t.ok(left() > 7000, 'established');
    t.equal(receive('S'), 'drop', 'a call the other way is no answer');
    receive('R');
    t.ok(left() <= 10, 'reset by the other side');
    t.equal(receive('S'), 'drop', 'nor is it one to what is over');

    send('S');
    t.ok(left() > 10 && left() <= 60, 'a SYN begins anew where a connection is closed');
    receive('SA');
    send('A');
    t.ok(left() > 7000);
    receive('FA');
    t.ok(left() > 7000, 'the other side has closed, this one may still send');
    send('A');
    send('FA');
    t.ok(left() <= 10, 'both have closed');
    receive('A');
    t.ok(left() <= 10, 'the last acknowledgement opens nothing');

    send('S');
    send('R');
    t.ok(left() <= 10, 'reset by this side');
  }
});

test('conntrack: both sides may open at once', { skip }, async (t) => {
  await using run = await openEnforcedRun();
  allow(run, 'egress');
  run.fromEndpoint(outbound('S'));
  t.equal(run.toEndpoint(inbound('S'), 9).kind, 'stack', 'RFC 9293, 3.5');
  t.equal(run.toEndpoint(inbound('SA'), 9).kind, 'stack');
});

test('conntrack: timeouts can be chosen', { skip }, async (t) => {
  const conntrackTimeouts = { tcp: 1000, tcpSyn: 20, tcpFin: 5, any: 90 };
  await using run = await openProgramRun({ conntrackTimeouts });
  run.tables.endpoints.apply({ upserts: [testEndpoint(1, POD)], deletes: [] });
  const between = (low: number, high: number): boolean =>
    lifetimes(run).every((seconds) => seconds > low && seconds <= high);

  run.fromEndpoint(outbound('S'));
  t.ok(between(10, 20), 'handshake');
  run.toEndpoint(inbound('SA'), 9);
  run.fromEndpoint(outbound('A'));
  t.ok(between(990, 1000), 'established');
  run.fromEndpoint(outbound('R'));
  t.ok(between(0, 5), 'closed');
  forgetAll(run);
  run.fromEndpoint({ ...outbound(''), protocol: 'udp' });
  t.ok(between(80, 90), 'a question over UDP');
  run.toEndpoint({ ...inbound(''), protocol: 'udp' }, 9);
  run.fromEndpoint({ ...outbound(''), protocol: 'udp' });
  t.ok(between(80, 90), 'and a stream: as in Cilium, one timeout for both');
});

test('conntrack: ICMP errors about a tracked flow pass', { skip }, async (t) => {
  await using run = await openEnforcedRun();
  allow(run, 'egress');
  const error = (about: PacketSpec): PacketSpec => ({
    from: '198.51.100.254',
    to: POD,
    protocol: 'icmp',
    type: 3,
    payload: ipPacket(about),
  });
  t.equal(run.toEndpoint(error(outbound('S')), 9).kind, 'drop', 'about nothing we sent');
  run.fromEndpoint(outbound('S'));
  t.equal(run.toEndpoint(error(outbound('S')), 9).kind, 'stack', 'about the connection');
  run.tables.endpoints.apply({ upserts: [testEndpoint(2, '10.1.0.3')], deletes: [] });
  const ofOthers = { ...outbound('S'), from: '10.1.0.3' };
  t.equal(run.fromEndpoint(ofOthers).kind, 'stack');
  t.equal(run.toEndpoint(error(ofOthers), 9).kind, 'drop', "about another pod's packet");
  const other = { ...outbound('S'), destinationPort: 81 };
  t.equal(run.toEndpoint(error(other), 9).kind, 'drop', 'about another connection');
});

test('conntrack: echo requests and their answers', { skip }, async (t) => {
  await using run = await openEnforcedRun();
  allow(run, 'egress');
  const request: PacketSpec = { from: POD, to: OTHER, protocol: 'icmp', sourcePort: 77 };
  const answer = (id: number): PacketSpec => ({
    from: OTHER,
    to: POD,
    protocol: 'icmp',
    type: 0,
    sourcePort: id,
  });
  t.equal(run.toEndpoint(answer(77), 9).kind, 'drop');
  t.equal(run.fromEndpoint(request).kind, 'stack');
  t.equal(run.toEndpoint(answer(77), 9).kind, 'stack');
  t.equal(run.toEndpoint(answer(78), 9).kind, 'drop', 'of another ping');
});

/** Seconds that each entry has left, by the kernel's monotonic clock. */
function lifetimes(run: ProgramRun): number[] {
  const seconds: number[] = [];
  readMap(run.objects.maps.get('mesh_ct').fd, CT, (_, values, count) => {
    for (let index = 0; index < count; index += 1) {
      const expires = values.getBigUint64(index * CT_VALUE.size + CT_VALUE.fields.expiresNs, true);
      seconds.push(Number((expires - process.hrtime.bigint()) / 1_000_000_000n));
    }
  });
  return seconds;
}

function forgetAll(run: ProgramRun): void {
  const { fd } = run.objects.maps.get('mesh_ct');
  readMap(fd, CT, (keys, _, count) => {
    for (let index = 0; index < count; index += 1) {
      deleteElement(fd, new Uint8Array(keys.buffer, index * CT_KEY.size, CT_KEY.size));
    }
  });
}

function expireAll(run: ProgramRun): void {
  const { fd } = run.objects.maps.get('mesh_ct');
  readMap(fd, CT, (keys, values, count) => {
    for (let index = 0; index < count; index += 1) {
      const key = new Uint8Array(keys.buffer, index * CT_KEY.size, CT_KEY.size);
      const value = new Uint8Array(
        values.buffer.slice(index * CT_VALUE.size, (index + 1) * CT_VALUE.size),
      );
      new DataView(value.buffer).setBigUint64(CT_VALUE.fields.expiresNs, 1n, true);
      updateElement(fd, key, value);
    }
  });
}
