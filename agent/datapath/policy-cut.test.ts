/** A change of policy cuts the flows that it denies, also where only the answering side speaks, and no others. */
import { type Test, test } from 'tap';
import { parseIpAddress } from '../../mesh/wire/ip.ts';
import { CONFIG } from '../../mesh/wire/maps.ts';
import { lookupElement } from './bpf.ts';
import { writeConfig } from './config.ts';
import type { PolicyEntry } from './desired.ts';
import { kernelSkipReason } from './testing/bpffs.ts';
import type { PacketSpec } from './testing/packet.ts';
import {
  openProgramRun,
  type ProgramRun,
  TUNNEL_IFINDEX,
  TUNNEL_MTU,
  testEndpoint,
  testPolicy,
  testPrefix,
} from './testing/program-run.ts';

const skip = kernelSkipReason();
const ID = 0x20000 + 9;
const NODE = '192.0.2.2';
const ENFORCED = { ingressEnforced: true, egressEnforced: true };

const FAMILIES = [
  { family: 4, pod: '10.1.0.2', other: '10.1.0.3', peer: '10.2.0.7' },
  { family: 6, pod: 'fd01::2', other: 'fd01::3', peer: 'fd02::7' },
] as const;
type Family = (typeof FAMILIES)[number];

/** A flow as its first packet has it, and an answer to it. */
interface Flow {
  readonly name: string;
  readonly call: Partial<PacketSpec> & Pick<PacketSpec, 'protocol'>;
  readonly answer: Partial<PacketSpec> & Pick<PacketSpec, 'protocol'>;
  /** Of the policy row. */
  readonly port: Pick<PolicyEntry, 'protocol' | 'port'>;
}

const ports = (source: number, destination: number) => ({
  sourcePort: source,
  destinationPort: destination,
});

function flowsOf({ family }: Family): Flow[] {
  const icmp =
    family === 4 ? { protocol: 1, port: 8, reply: 0 } : { protocol: 58, port: 128, reply: 129 };
  return [
    {
      name: 'TCP',
      call: { protocol: 'tcp', flags: 'S', ...ports(4000, 80) },
      answer: { protocol: 'tcp', flags: 'A', ...ports(80, 4000) },
      port: { protocol: 6, port: 80 },
    },
    {
      name: 'UDP',
      call: { protocol: 'udp', ...ports(4000, 53) },
      answer: { protocol: 'udp', ...ports(53, 4000) },
      port: { protocol: 17, port: 53 },
    },
    {
      name: 'SCTP',
      call: { protocol: 'sctp', ...ports(4000, 5000) },
      answer: { protocol: 'sctp', ...ports(5000, 4000) },
      port: { protocol: 132, port: 5000 },
    },
    {
      name: 'ping',
      call: { protocol: 'icmp', sourcePort: 77 },
      answer: { protocol: 'icmp', type: icmp.reply, sourcePort: 77 },
      port: { protocol: icmp.protocol, port: icmp.port },
    },
  ];
}

function fill(run: ProgramRun): void {
  run.tables.endpoints.apply({
    upserts: [
      testEndpoint(1, '10.1.0.2', {
        addresses: ['10.1.0.2', 'fd01::2'].map(parseIpAddress),
        ...ENFORCED,
      }),
      testEndpoint(2, '10.1.0.3', { addresses: ['10.1.0.3', 'fd01::3'].map(parseIpAddress) }),
    ],
    deletes: [],
  });
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

const allow = (run: ProgramRun, rows: readonly PolicyEntry[]): void =>
  run.tables.policy.apply({ upserts: rows, deletes: [] });
const forbid = (run: ProgramRun, rows: readonly PolicyEntry[]): void =>
  run.tables.policy.apply({ upserts: [], deletes: rows });

/** Whether a packet of the peer gets to the pod, and one of the pod's to the peer. */
function talk(run: ProgramRun, { pod, peer }: Family) {
  const tunnel = { vni: ID, remote: NODE };
  return {
    enters: (packet: Flow['call']): boolean =>
      run.fromOverlay({ from: peer, to: pod, ...packet }, tunnel).kind === 'peer',
    leaves: (packet: Flow['call']): boolean =>
      run.fromEndpoint({ from: pod, to: peer, ...packet }).kind === 'tunnel',
  };
}

test('policy: a change cuts flows', { skip }, async (t) => {
  await using run = await openProgramRun();
  fill(run);
  const tests = {
    answersOfCallers,
    answersToCalls,
    whatStaysAllowed,
    otherEndpoints,
    newlyEnforced,
    denyRules,
    renamed,
    inherited,
    restarted,
  };
  for (const [name, body] of Object.entries(tests)) await t.test(name, (t) => body(t, run));
});

/** The pod was called, and only it still sends. */
async function answersOfCallers(t: Test, run: ProgramRun): Promise<void> {
  for (const family of FAMILIES) {
    for (const { name, call, answer, port } of flowsOf(family)) {
      const { enters, leaves } = talk(run, family);
      const row = testPolicy(1, ID, { ...port, portPrefixBits: 16 });
      const what = `IPv${family.family} ${name}`;
      t.notOk(enters(call), `${what}: nobody calls without policy`);
      allow(run, [row]);
      t.ok(enters(call), `${what}: the call`);
      for (const _ of [1, 2])
        t.ok(leaves(answer), `${what}: its answers need no rule of their own`);
      forbid(run, [row]);
      for (const _ of [1, 2]) t.notOk(leaves(answer), `${what}: are cut with the rule`);
      t.notOk(enters(call), `${what}: and calls are`);
      allow(run, [row]);
      t.ok(leaves(answer), `${what}: the flow goes on when it is allowed again`);
      forbid(run, [row]);
    }
  }
}

/** The pod has called, and only the other side still sends. */
async function answersToCalls(t: Test, run: ProgramRun): Promise<void> {
  for (const family of FAMILIES) {
    for (const { name, call, answer, port } of flowsOf(family)) {
      const { enters, leaves } = talk(run, family);
      const fresh = {
        ...call,
        ...(call.protocol === 'icmp' ? { sourcePort: 78 } : ports(5000, port.port)),
      };
      const back = {
        ...answer,
        ...(call.protocol === 'icmp' ? { sourcePort: 78 } : ports(port.port, 5000)),
      };
      const row = testPolicy(1, ID, { ...port, portPrefixBits: 16, direction: 'egress' });
      const what = `IPv${family.family} ${name}`;
      allow(run, [row]);
      t.ok(leaves(fresh), `${what}: the call`);
      for (const _ of [1, 2]) t.ok(enters(back), `${what}: its answers`);
      forbid(run, [row]);
      for (const _ of [1, 2]) t.notOk(enters(back), `${what}: are cut with the rule`);
    }
  }
}

/** Other rules come and go. */
async function whatStaysAllowed(t: Test, run: ProgramRun): Promise<void> {
  for (const family of FAMILIES) {
    for (const { name, call, answer, port } of flowsOf(family)) {
      const { enters, leaves } = talk(run, family);
      const what = `IPv${family.family} ${name}`;
      const narrow = testPolicy(1, ID, { ...port, portPrefixBits: 16 });
      const wide = testPolicy(1, 0);
      const denial = testPolicy(1, ID, { protocol: port.protocol, verdict: 'deny' });
      const others = [testPolicy(1, ID + 1), testPolicy(2, ID, { verdict: 'deny' })];
      allow(run, [narrow]);
      t.ok(enters(call));
      allow(run, [wide]);
      forbid(run, [narrow]);
      t.ok(leaves(answer), `${what}: another rule allows it as well`);
      allow(run, others);
      t.ok(leaves(answer), `${what}: others' rules`);
      allow(run, [narrow]);
      allow(run, [denial]);
      t.ok(leaves(answer), `${what}: a wider deny`);
      forbid(run, [wide, ...others, denial]);
      t.ok(leaves(answer), `${what}: which goes again`);
      forbid(run, [narrow]);
      t.notOk(leaves(answer), `${what}: nothing allows it any more`);
    }
  }
}

/** Both ends are on this node; the callee's policy counts for what goes in there, the caller's for what comes out. */
async function otherEndpoints(t: Test, run: ProgramRun): Promise<void> {
  for (const { family, pod, other } of FAMILIES) {
    const call = (port: number): string =>
      run.fromEndpoint({ from: other, to: pod, protocol: 'udp', ...ports(port, 53) }).kind;
    const answer = (port: number): string =>
      run.fromEndpoint({ from: pod, to: other, protocol: 'udp', ...ports(53, port) }).kind;
    const row = testPolicy(1, 0x10000 + 302);
    allow(run, [row]);
    t.equal(call(6000), 'peer', `IPv${family}`);
    t.equal(answer(6000), 'peer');
    forbid(run, [row]);
    t.equal(answer(6000), 'drop');
    t.equal(call(6000), 'drop');
  }
}

/** An endpoint that was open gets its first policy. */
async function newlyEnforced(t: Test, run: ProgramRun): Promise<void> {
  const open = testEndpoint(1, '10.1.0.2', {
    addresses: ['10.1.0.2', 'fd01::2'].map(parseIpAddress),
  });
  run.tables.endpoints.apply({ upserts: [open], deletes: [] });
  const calls = FAMILIES.map((family) => ({
    ...talk(run, family),
    out: { protocol: 'udp', ...ports(7000, 53) } as const,
    in: { protocol: 'udp', ...ports(7001, 53) } as const,
    backIn: { protocol: 'udp', ...ports(53, 7000) } as const,
    backOut: { protocol: 'udp', ...ports(53, 7001) } as const,
  }));
  for (const call of calls) t.ok(call.leaves(call.out) && call.enters(call.in));
  for (const call of calls) t.ok(call.enters(call.backIn) && call.leaves(call.backOut));
  run.tables.endpoints.apply({ upserts: [{ ...open, ingressEnforced: true }], deletes: [] });
  for (const call of calls) {
    t.ok(call.enters(call.backIn), 'what it called goes on');
    t.notOk(call.leaves(call.backOut), 'who has called it gets no more');
  }
  run.tables.endpoints.apply({ upserts: [{ ...open, ...ENFORCED }], deletes: [] });
  for (const call of calls) t.notOk(call.enters(call.backIn), 'nor does it, then');
}

/** A deny is written where an allow stays. */
async function denyRules(t: Test, run: ProgramRun): Promise<void> {
  for (const family of FAMILIES) {
    const { enters, leaves } = talk(run, family);
    const row = testPolicy(1, 0);
    const denial = testPolicy(1, ID, {
      protocol: 17,
      port: 53,
      portPrefixBits: 16,
      verdict: 'deny',
    });
    allow(run, [row]);
    t.ok(enters({ protocol: 'udp', ...ports(8000, 53) }));
    t.ok(leaves({ protocol: 'udp', ...ports(53, 8000) }));
    allow(run, [denial]);
    t.notOk(leaves({ protocol: 'udp', ...ports(53, 8000) }), `IPv${family.family}`);
    forbid(run, [row, denial]);
  }
}

/** Promise 4: a silent caller gets another identity that is allowed as well, and its first one goes. */
async function renamed(t: Test, run: ProgramRun): Promise<void> {
  for (const family of FAMILIES) {
    const { enters, leaves } = talk(run, family);
    const what = `IPv${family.family}`;
    const [before, after] = [testPolicy(1, ID), testPolicy(1, ID + 1)];
    const prefix = family.family === 4 ? '10.2.0.0/24' : 'fd02::/64';
    const place = { tunnelEndpoint: NODE, clusterId: 2 };
    const name = (identity: number): void =>
      run.tables.ipcache.apply({ upserts: [testPrefix(prefix, identity, place)], deletes: [] });
    allow(run, [before]);
    t.ok(enters({ protocol: 'udp', ...ports(9000, 53) }));
    allow(run, [after]);
    name(ID + 1);
    forbid(run, [before]);
    const answer = { protocol: 'udp', ...ports(53, 9000) } as const;
    t.ok(leaves(answer), `${what}: as which it is allowed`);
    forbid(run, [after]);
    t.notOk(leaves(answer), `${what}: until it is not`);
    allow(run, [testPolicy(1, 2)]);
    run.tables.ipcache.apply({ upserts: [], deletes: [testPrefix(prefix, ID)] });
    t.equal(
      run.fromEndpoint({ from: family.pod, to: family.peer, ...answer }).kind,
      'drop',
      `${what}: a pod does not become the world`,
    );
    forbid(run, [testPolicy(1, 2)]);
    name(ID);
  }
}

/** Another endpoint gets the address of one that was open: what that one's callers were allowed is not handed down. */
async function inherited(t: Test, run: ProgramRun): Promise<void> {
  for (const [endpointId, { family, peer }] of FAMILIES.entries()) {
    const address = family === 4 ? '10.1.0.9' : 'fd01::9';
    const call = { from: peer, to: address, protocol: 'udp', ...ports(7500, 53) } as const;
    const answer = { from: address, to: peer, protocol: 'udp', ...ports(53, 7500) } as const;
    const tunnel = { vni: ID, remote: NODE };
    const open = testEndpoint(10 + endpointId, address);
    run.tables.endpoints.apply({ upserts: [open], deletes: [] });
    t.equal(run.fromOverlay(call, tunnel).kind, 'peer', `IPv${family}`);
    t.equal(run.fromEndpoint(answer).kind, 'tunnel');
    const heir = testEndpoint(20 + endpointId, address, ENFORCED);
    run.tables.endpoints.apply({ upserts: [], deletes: [open] });
    run.tables.endpoints.apply({ upserts: [heir], deletes: [] });
    t.equal(run.fromOverlay(call, tunnel).kind, 'drop');
    t.equal(run.fromEndpoint(answer).kind, 'drop');
    run.tables.endpoints.apply({ upserts: [], deletes: [heir] });
  }
}

/** A process that was killed before it could say what it has changed. */
async function restarted(t: Test, run: ProgramRun): Promise<void> {
  const map = run.objects.maps.get('mesh_config');
  const revision = (): number => {
    const value = Buffer.alloc(CONFIG.size);
    lookupElement(map.fd, Buffer.alloc(4), value);
    return value.readUInt16LE(CONFIG.fields.policyRevision);
  };
  const before = revision();
  writeConfig(map, {
    clusterId: 1,
    maxConnectedClusters: 255,
    nodeIps: [],
    tunnelIfindex: TUNNEL_IFINDEX,
    tunnelMtu: TUNNEL_MTU,
  });
  t.equal(revision(), before + 1, 'the next one begins with another revision');
  allow(run, [testPolicy(1, ID)]);
  t.equal(revision(), before + 1, 'what only allows judges nothing again');
  forbid(run, [testPolicy(1, ID)]);
  t.equal(revision(), before + 2);
}
