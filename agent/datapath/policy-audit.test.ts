/** Audit mode: what policy denies is counted and told, and passes, and so do its answers. */
import { type Test, test } from 'tap';
import { until } from '../../mesh/remote/testing/until.ts';
import { parseIpAddress } from '../../mesh/wire/ip.ts';
import { decodeRecord, type EventRecord, splitRecords } from '../monitor/record.ts';
import { createDatapathEvents } from './events.ts';
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
const ID = 0x20000 + 9;
const POD_ID = 0x10000 + 301;
const NODE = '192.0.2.2';
const TUNNEL = { vni: ID, remote: NODE };
const FAMILIES = [
  { pod: '10.1.0.2', peer: '10.2.0.7' },
  { pod: 'fd01::2', peer: 'fd02::7' },
];

const pod = (audit: boolean) =>
  testEndpoint(1, '10.1.0.2', {
    addresses: FAMILIES.map((family) => parseIpAddress(family.pod)),
    ingressEnforced: true,
    egressEnforced: true,
    audit,
  });

function fill(run: ProgramRun): void {
  const remote = { tunnelEndpoint: NODE, clusterId: 2 };
  run.tables.ipcache.apply({
    upserts: [
      testPrefix(`${NODE}/32`, 6, { clusterId: 2 }),
      testPrefix('10.2.0.0/24', ID, remote),
      testPrefix('fd02::/64', ID, remote),
    ],
    deletes: [],
  });
}

/** Starts to read audited packets; disposing ends it. */
async function listen(run: ProgramRun) {
  const records: EventRecord[] = [];
  const reader = await createDatapathEvents(run.objects.maps).read({
    onRecords(batch) {
      for (const bytes of splitRecords(batch)) records.push(decodeRecord(bytes));
    },
    onFailure(error) {
      throw error;
    },
  });
  return { records, [Symbol.asyncDispose]: () => reader[Symbol.asyncDispose]() };
}

test('policy: audit mode of an endpoint', { skip }, async (t) => {
  await using run = await openProgramRun();
  fill(run);
  const tests = { passes, tellsOnce, ends };
  for (const [name, body] of Object.entries(tests)) await t.test(name, (t) => body(t, run));
});

test('policy: audit mode of the node', { skip }, async (t) => {
  await using run = await openProgramRun({ policyAudit: true });
  fill(run);
  run.tables.endpoints.apply({ upserts: [pod(false)], deletes: [] });
  for (const family of FAMILIES) {
    const call: PacketSpec = { from: family.peer, to: family.pod, protocol: 'udp' };
    t.strictSame(
      run.fromOverlay(call, TUNNEL).reasons.sort(),
      ['forwarded ingress', 'policy-audited ingress'],
      family.pod,
    );
  }
});

/** Both directions, both families, with and without a deny rule. */
async function passes(t: Test, run: ProgramRun): Promise<void> {
  run.tables.endpoints.apply({ upserts: [pod(true)], deletes: [] });
  await using listening = await listen(run);
  const { records } = listening;
  for (const [index, family] of FAMILIES.entries()) {
    const call: PacketSpec = {
      from: family.peer,
      to: family.pod,
      protocol: 'tcp',
      sourcePort: 4000 + index,
    };
    t.strictSame(run.fromOverlay(call, TUNNEL).reasons.sort(), [
      'forwarded ingress',
      'policy-audited ingress',
    ]);
    const answer: PacketSpec = {
      from: family.pod,
      to: family.peer,
      protocol: 'tcp',
      flags: 'SA',
      sourcePort: 80,
      destinationPort: 4000 + index,
    };
    t.strictSame(run.fromEndpoint(answer).reasons, ['forwarded-overlay egress'], 'its answer');
    const denial = testPolicy(1, ID, { direction: 'egress', verdict: 'deny' });
    run.tables.policy.apply({ upserts: [denial], deletes: [] });
    const out: PacketSpec = { from: family.pod, to: family.peer, protocol: 'udp' };
    t.strictSame(run.fromEndpoint(out).reasons.sort(), [
      'forwarded-overlay egress',
      'policy-audited egress',
    ]);
    run.tables.policy.apply({ upserts: [], deletes: [denial] });
  }
  await until('they are told', () => records.length >= 4);
  t.equal(records.length, 4);
  for (const [index] of FAMILIES.entries()) {
    t.match(records[2 * index], {
      kind: 'policy-audit',
      reason: 133,
      direction: 'ingress',
      state: 'new',
      sourceIdentity: ID,
      destinationIdentity: POD_ID,
      endpointId: 1,
    });
    t.match(records[2 * index + 1], {
      kind: 'policy-audit',
      reason: 181,
      direction: 'egress',
      state: 'new',
      sourceIdentity: POD_ID,
      destinationIdentity: ID,
      endpointId: 1,
    });
  }
}

/** A long flow is told once for each state of the policy, and counted with each packet. */
async function tellsOnce(t: Test, run: ProgramRun): Promise<void> {
  run.tables.endpoints.apply({ upserts: [pod(true)], deletes: [] });
  await using listening = await listen(run);
  const { records } = listening;
  const call: PacketSpec = { from: '10.2.0.7', to: '10.1.0.2', protocol: 'udp', sourcePort: 5000 };
  const answer: PacketSpec = {
    ...call,
    from: call.to,
    to: call.from,
    sourcePort: 80,
    destinationPort: 5000,
  };
  for (const _ of [1, 2, 3]) {
    t.ok(run.fromOverlay(call, TUNNEL).reasons.includes('policy-audited ingress'), 'counted');
  }
  await until('it is told', () => records.length > 0);
  t.equal(records.length, 1, 'once');
  const row = testPolicy(1, ID);
  run.tables.policy.apply({ upserts: [row], deletes: [] });
  t.notOk(run.fromOverlay(call, TUNNEL).reasons.includes('policy-audited ingress'), 'allowed now');
  run.tables.policy.apply({ upserts: [], deletes: [row] });
  t.ok(run.fromEndpoint(answer).reasons.includes('policy-audited egress'), 'the first answer');
  t.strictSame(run.fromEndpoint(answer).reasons, ['forwarded-overlay egress'], 'and no other');
  await until('the change is told', () => records.length > 1);
  t.match(records[1], { kind: 'policy-audit', direction: 'egress', state: 'reply', reason: 133 });
  t.equal(records.length, 2);
}

/** What passed in audit mode alone is cut when it ends. */
async function ends(t: Test, run: ProgramRun): Promise<void> {
  run.tables.endpoints.apply({ upserts: [pod(true)], deletes: [] });
  for (const family of FAMILIES) {
    const call: PacketSpec = {
      from: family.peer,
      to: family.pod,
      protocol: 'udp',
      sourcePort: 6000,
    };
    t.equal(run.fromOverlay(call, TUNNEL).kind, 'peer');
  }
  run.tables.endpoints.apply({ upserts: [pod(false)], deletes: [] });
  for (const family of FAMILIES) {
    const answer: PacketSpec = {
      from: family.pod,
      to: family.peer,
      protocol: 'udp',
      sourcePort: 80,
      destinationPort: 6000,
    };
    t.strictSame(run.fromEndpoint(answer).reasons, ['policy-denied egress'], family.pod);
    const call: PacketSpec = {
      from: family.peer,
      to: family.pod,
      protocol: 'udp',
      sourcePort: 6000,
    };
    t.strictSame(run.fromOverlay(call, TUNNEL).reasons, ['policy-denied ingress']);
  }
}
