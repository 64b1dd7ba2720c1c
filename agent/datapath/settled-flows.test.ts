/** A flow that has passed is not judged anew with each packet: only when something has changed that the verdict hangs on. */
import { test } from 'tap';
import { kernelSkipReason } from './testing/bpffs.ts';
import type { PacketSpec } from './testing/packet.ts';
import {
  openProgramRun,
  type ProgramRun,
  testEndpoint,
  testPolicy,
  testPrefix,
} from './testing/program-run.ts';

const skip = kernelSkipReason();
const PEER = 0x20000 + 500;
const TCP = 6;
const TUNNEL = { vni: PEER, remote: '192.0.2.2' };
const [POD, REMOTE] = ['10.1.0.2', '10.2.0.7'];
const ALLOWED = testPolicy(1, PEER, { protocol: TCP });

async function openRun(): Promise<ProgramRun> {
  const run = await openProgramRun();
  run.tables.ipcache.apply({
    upserts: [
      testPrefix('192.0.2.2/32', 6, { clusterId: 2 }),
      testPrefix(`${REMOTE}/32`, PEER, { tunnelEndpoint: '192.0.2.2', clusterId: 2 }),
    ],
    deletes: [],
  });
  return run;
}

test('a connection is cut by a change of policy, whichever side has the lower port', {
  skip,
}, async (t) => {
  await using run = await openRun();
  const { endpoints, policy } = run.tables;
  endpoints.apply({ upserts: [testEndpoint(1, POD, { ingressEnforced: true })], deletes: [] });
  for (const [sourcePort, destinationPort] of [
    [40_000, 80],
    [80, 40_000],
    [5000, 5000],
  ] as const) {
    const ports = `${sourcePort} to ${destinationPort}`;
    const forth: PacketSpec = {
      from: REMOTE,
      to: POD,
      protocol: 'tcp',
      sourcePort,
      destinationPort,
    };
    const back: PacketSpec = {
      ...{ from: POD, to: REMOTE, protocol: 'tcp' },
      ...{ sourcePort: destinationPort, destinationPort: sourcePort },
    };
    const asks = (flags: string) => run.fromOverlay({ ...forth, flags }, TUNNEL);
    const answers = (flags: string) => run.fromEndpoint({ ...back, flags });
    policy.apply({ upserts: [ALLOWED], deletes: [] });
    t.match(asks('S'), { kind: 'peer' }, `${ports}: opens`);
    t.match(answers('SA'), { kind: 'tunnel' });
    for (let packet = 0; packet < 3; packet += 1) {
      t.match(asks('A'), { kind: 'peer' });
      t.match(answers('A'), { kind: 'tunnel' });
    }
    policy.apply({ upserts: [], deletes: [ALLOWED] });
    t.match(asks('A'), { kind: 'drop', reasons: ['policy-denied ingress'] }, `${ports}: is cut`);
    t.match(answers('A'), { kind: 'drop', reasons: ['policy-denied egress'] });
    t.match(asks('A'), { kind: 'drop' }, 'and stays so');
    policy.apply({ upserts: [ALLOWED], deletes: [] });
    t.match(asks('A'), { kind: 'peer' }, `${ports}: goes on once it is allowed again`);
    t.match(answers('A'), { kind: 'tunnel' });
  }
});

test('a sender with another identity is judged as that, in the middle of a connection', {
  skip,
}, async (t) => {
  await using run = await openRun();
  run.tables.endpoints.apply({
    upserts: [testEndpoint(1, POD, { ingressEnforced: true })],
    deletes: [],
  });
  run.tables.policy.apply({ upserts: [ALLOWED], deletes: [] });
  const packet = { from: REMOTE, to: POD, protocol: 'tcp' } as const;
  t.match(run.fromOverlay({ ...packet, flags: 'S' }, TUNNEL), { kind: 'peer' });
  t.match(run.fromOverlay({ ...packet, flags: 'A' }, TUNNEL), { kind: 'peer' });
  const other = { ...TUNNEL, vni: PEER + 1 };
  t.match(run.fromOverlay({ ...packet, flags: 'A' }, other), {
    kind: 'drop',
    reasons: ['policy-denied ingress'],
  });
  t.match(run.fromOverlay({ ...packet, flags: 'A' }, TUNNEL), { kind: 'peer' });
});

test('who gets the address of another endpoint inherits nothing that its flows were allowed', {
  skip,
}, async (t) => {
  await using run = await openRun();
  const { endpoints } = run.tables;
  const packet = { from: REMOTE, to: POD, protocol: 'udp', destinationPort: 53 } as const;
  const denied = { kind: 'drop', reasons: ['policy-denied ingress'] };
  const open = testEndpoint(1, POD);
  const guarded = testEndpoint(2, POD, { ingressEnforced: true });
  endpoints.apply({ upserts: [open], deletes: [] });
  for (let count = 0; count < 2; count += 1) {
    t.match(run.fromOverlay(packet, TUNNEL), { kind: 'peer' });
  }
  endpoints.apply({ upserts: [], deletes: [open] });
  endpoints.apply({ upserts: [guarded], deletes: [] });
  t.match(run.fromOverlay(packet, TUNNEL), denied, 'after the other one has gone');
  endpoints.apply({ upserts: [open], deletes: [guarded] });
  t.match(run.fromOverlay(packet, TUNNEL), { kind: 'peer' });
  endpoints.apply({ upserts: [guarded], deletes: [] });
  t.match(run.fromOverlay(packet, TUNNEL), denied, 'and where it takes the address over');
});
