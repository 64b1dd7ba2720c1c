import { setTimeout as wait } from 'node:timers/promises';
import { type Test, test } from 'tap';
import { until } from '../../mesh/remote/testing/until.ts';
import { EVENT } from '../../mesh/wire/maps.ts';
import { decodeRecord, type EventRecord, splitRecords } from '../monitor/record.ts';
import { testRun } from './bpf.ts';
import type { DatapathEvents, EventRate } from './desired.ts';
import { createDatapathEvents } from './events.ts';
import { kernelSkipReason } from './testing/bpffs.ts';
import { frame, type PacketSpec } from './testing/packet.ts';
import {
  openProgramRun,
  type ProgramRun,
  TEST_IFINDEX,
  testEndpoint,
  testPolicy,
  testPrefix,
} from './testing/program-run.ts';

const skip = kernelSkipReason();
const REMOTE_IDENTITY = 0x20000 + 500;
const POD_IDENTITY = 0x10000 + 301;
const NODE = '192.0.2.2';

/** An endpoint that lets only port 80 in, and what is known of another cluster. */
function fill(run: ProgramRun): void {
  run.tables.endpoints.apply({
    upserts: [testEndpoint(1, '10.1.0.2', { ingressEnforced: true })],
    deletes: [],
  });
  run.tables.ipcache.apply({
    upserts: [
      testPrefix(`${NODE}/32`, 6, { clusterId: 2 }),
      testPrefix('10.2.0.0/24', REMOTE_IDENTITY, { tunnelEndpoint: NODE, clusterId: 2 }),
    ],
    deletes: [],
  });
  run.tables.policy.apply({
    upserts: [testPolicy(1, REMOTE_IDENTITY, { protocol: 6, port: 80, portPrefixBits: 16 })],
    deletes: [],
  });
}

/** Starts to read; disposing ends it. */
async function listen(run: ProgramRun, rate?: EventRate) {
  const events = createDatapathEvents(run.objects.maps, rate);
  const records: EventRecord[] = [];
  const sizes = new Set<number>();
  const reader = await events.read({
    onRecords(batch) {
      for (const bytes of splitRecords(batch)) {
        sizes.add(bytes.length);
        records.push(decodeRecord(bytes));
      }
    },
    onFailure(error) {
      throw error;
    },
  });
  return { events, records, sizes, [Symbol.asyncDispose]: () => reader[Symbol.asyncDispose]() };
}

/** How many drops were left out since. */
function leftOut(events: DatapathEvents): () => number {
  const count = (): number => {
    const losses = events.losses().find(({ kind }) => kind === 'drop');
    return (losses?.suppressed ?? 0) + (losses?.lost ?? 0);
  };
  const before = count();
  return () => count() - before;
}

const FROM_TUNNEL = { vni: REMOTE_IDENTITY, remote: NODE };
const DENIED: PacketSpec = {
  from: '10.2.0.5',
  to: '10.1.0.2',
  protocol: 'tcp',
  sourcePort: 4444,
  destinationPort: 22,
};

test('events of packets', { skip }, async (t) => {
  // One for all: to load and verify the programs takes longer than the tests.
  await using run = await openProgramRun();
  fill(run);
  const tests = { tellsDrops, tracesByLevel, limitsFloods, losesWithoutRoom, rests };
  for (const [name, body] of Object.entries(tests)) await t.test(name, (t) => body(t, run));
});

/** A drop is told field by field, with the first bytes of the packet. */
async function tellsDrops(t: Test, run: ProgramRun): Promise<void> {
  await using listening = await listen(run);
  const { records, sizes } = listening;
  const long = frame({ ...DENIED, payload: Buffer.alloc(300, 0xab) });
  const before = process.hrtime.bigint();
  t.match(run.fromOverlay(DENIED, FROM_TUNNEL), { kind: 'drop' });
  t.match(run.fromOverlay(long, FROM_TUNNEL), { kind: 'drop' });
  t.match(run.fromEndpoint({ ...DENIED, from: '10.9.9.9' }), { kind: 'drop' });
  t.match(run.fromOverlay(DENIED), { kind: 'drop' });
  await until('they are read', () => records.length === 4);
  const after = process.hrtime.bigint();
  const [short, cut, spoofed, stranger] = records;
  const denied = {
    kind: 'drop',
    reason: 133,
    direction: 'ingress',
    state: 'unknown',
    ifindex: TEST_IFINDEX,
    sourceIdentity: REMOTE_IDENTITY,
    destinationIdentity: POD_IDENTITY,
    endpointId: 1,
  } as const;
  if (short === undefined) throw new Error('there are four');
  const { timestampNs, ...rest } = short;
  t.ok(timestampNs >= before && timestampNs <= after, 'the clock is that of process.hrtime');
  t.same(rest, { ...denied, length: frame(DENIED).length, packet: frame(DENIED) });
  t.same(cut?.kind === 'drop' && cut.packet, long.subarray(0, 128), 'its first 128 bytes');
  t.match(cut, { ...denied, length: long.length });
  t.match(spoofed, {
    reason: 132,
    direction: 'egress',
    sourceIdentity: 0,
    destinationIdentity: 0,
    endpointId: 0,
  });
  t.match(stranger, { reason: 147, direction: 'ingress' });
  t.same([...sizes], [EVENT.size]);
}

/** What went on is traced as much as the level says. */
async function tracesByLevel(t: Test, run: ProgramRun): Promise<void> {
  await using listening = await listen(run);
  const { records, events } = listening;
  const allowed = { ...DENIED, destinationPort: 80 };
  const egress = { from: '10.1.0.2', to: '10.2.0.5' } as const;
  let nextPort = 2000;
  /** A connection, its end, a datagram twice, a ping and its answer; and a drop, to know that all was read. */
  const traffic = async (): Promise<string[]> => {
    records.length = 0;
    const port = { ...allowed, sourcePort: nextPort };
    nextPort += 1;
    for (const flags of ['S', 'A', 'A', 'FA', 'R'])
      run.fromOverlay({ ...port, flags }, FROM_TUNNEL);
    for (let count = 0; count < 2; count += 1) {
      run.fromEndpoint({ ...egress, protocol: 'udp', sourcePort: port.sourcePort });
    }
    const ping = { protocol: 'icmp', sourcePort: port.sourcePort } as const;
    run.fromEndpoint({ ...egress, ...ping });
    run.fromEndpoint({ ...egress, ...ping });
    run.fromOverlay(DENIED, FROM_TUNNEL);
    await until('the drop is read', () => records.some(({ kind }) => kind === 'drop'));
    return records.flatMap((record) =>
      record.kind === 'trace' ? [`${record.reason} ${record.direction} ${record.state}`] : [],
    );
  };
  t.same(await traffic(), [], 'none is the default');
  events.setTraceLevel('low');
  const opening = '0 ingress new';
  const later = '0 ingress established';
  const sent = (state: string): string => `1 egress ${state}`;
  t.same(await traffic(), [opening, later, sent('new'), sent('new')], 'low: openings and resets');
  events.setTraceLevel('medium');
  t.same(
    await traffic(),
    [opening, later, later, sent('new'), sent('new'), sent('established')],
    'medium: FIN and ICMP, too',
  );
  events.setTraceLevel('maximum');
  t.equal((await traffic()).length, 9, 'maximum: every packet');
  t.match(records[0], {
    kind: 'trace',
    sourceIdentity: REMOTE_IDENTITY,
    destinationIdentity: POD_IDENTITY,
    endpointId: 1,
    packet: Buffer.from(frame({ ...allowed, flags: 'S' }).subarray(0, 12)),
  });
  events.setTraceLevel('none');
  t.same(await traffic(), []);
}

/** A flood is told in part, and what is left out is counted to the last. */
async function limitsFloods(t: Test, run: ProgramRun): Promise<void> {
  const FLOOD = 1_000_000;
  const RATE = { perSecond: 1000, burst: 500 };
  await using listening = await listen(run, RATE);
  const { records, events } = listening;
  const left = leftOut(events);
  const program = run.objects.program('mesh_from_endpoint');
  const packet = frame({ ...DENIED, from: '10.9.9.9' });
  const began = performance.now();
  testRun(program, packet, { ifindex: TEST_IFINDEX, repeat: FLOOD });
  const seconds = (performance.now() - began) / 1000;
  t.comment(`${Math.round(FLOOD / seconds)} drops/s`);
  await until('all that was written is read', () => records.length + left() === FLOOD);
  // What came just before may have taken some of the burst.
  t.ok(records.length >= RATE.burst / 2, `${records.length} were told`);
  // A test run may be moved to another processor between two of its packets: that one has a bucket of its own.
  t.ok(records.length <= 8 * RATE.burst + 2 * RATE.perSecond * seconds + 10, 'no more than may be');
}

/** A ring without room loses events, and says how many. */
async function losesWithoutRoom(t: Test, run: ProgramRun): Promise<void> {
  const program = run.objects.program('mesh_from_endpoint');
  const packet = frame({ ...DENIED, from: '10.9.9.9' });
  const FLOOD = 40_000;
  await using listening = await listen(run, { perSecond: 1_000_000, burst: 1_000_000 });
  const { records, events } = listening;
  const left = leftOut(events);
  // This thread is busy all the while: the reader hands over a few batches and then leaves the rest in the ring.
  testRun(program, packet, { ifindex: TEST_IFINDEX, repeat: FLOOD });
  t.ok(left() > 0, `${left()} found no room`);
  await until('the others are read', () => records.length + left() === FLOOD);
}

/** Nobody reads, nothing is written; what was left over is not told. */
async function rests(t: Test, run: ProgramRun): Promise<void> {
  const first = await listen(run);
  first.events.setTraceLevel('maximum');
  run.fromOverlay(DENIED, FROM_TUNNEL);
  await until('it is read', () => first.records.length === 1);
  await first[Symbol.asyncDispose]();
  const before = first.events.losses();
  run.fromOverlay(DENIED, FROM_TUNNEL);
  run.fromOverlay({ ...DENIED, destinationPort: 80 }, FROM_TUNNEL);
  t.same(first.events.losses(), before, 'not even counted');
  await using second = await listen(run);
  run.fromOverlay({ ...DENIED, destinationPort: 80 }, FROM_TUNNEL);
  await until('the next one is read', () => second.records.length > 0);
  await wait(10);
  t.match(second.records, [{ kind: 'trace' }]);
  t.equal(second.records.length, 1, 'and none from before');
}
