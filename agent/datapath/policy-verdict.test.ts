import { test } from 'tap';
import { parseNumericIdentity } from '../../mesh/wire/ids.ts';
import { parseIpAddress } from '../../mesh/wire/ip.ts';
import { type EndpointEntry, KNOWN_TO, type PolicyEntry } from './desired.ts';
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

/** Numbers of ICMP differ by family. */
const ICMP_NUMBERS = {
  4: { protocol: 1, echo: 8, reply: 0, unreachable: 3 },
  6: { protocol: 58, echo: 128, reply: 129, unreachable: 1 },
} as const;

type IcmpType = 'echo' | 'reply' | 'unreachable';
type Rule = Partial<Omit<PolicyEntry, 'protocol' | 'port'>> & {
  readonly protocol?: number | 'icmp';
  readonly port?: number | IcmpType;
};
type Packet = Partial<Omit<PacketSpec, 'type'>> & { readonly type?: IcmpType };

const tcp = { protocol: 6 };
const tcp80 = { protocol: 6, port: 80, portPrefixBits: 16 };
const deny = { verdict: 'deny' } as const;
const knownOnly = { knownOnly: true } as const;
/** The agent knows the identity. */
const KNOWN = { endpointId: KNOWN_TO, identity: ID } as const;

const ALLOWED = 'forwarded ingress';
const DENIED = 'policy-denied ingress';
const DENY_RULE = 'policy-deny-rule ingress';

const ICMP = { protocol: 'icmp' } as const;
const ECHO = { ...ICMP, port: 'echo', portPrefixBits: 16 } as const;
const ECHO_REPLY = { ...ICMP, port: 'reply', portPrefixBits: 16 } as const;
const UNREACHABLE = { ...ICMP, port: 'unreachable', portPrefixBits: 16 } as const;

const cases: { name: string; rules: Rule[]; packet?: Packet; verdict: string }[] = [
  { name: 'no rules', rules: [], verdict: DENIED },
  { name: 'its identity', rules: [{ identity: ID }], verdict: ALLOWED },
  { name: 'another identity', rules: [{ identity: ID + 1 }], verdict: DENIED },
  { name: 'any identity', rules: [{ identity: 0 }], verdict: ALLOWED },
  { name: 'its port', rules: [{ identity: ID, ...tcp80 }], verdict: ALLOWED },
  {
    name: 'another port',
    rules: [{ identity: ID, ...tcp80, port: 81 }],
    verdict: DENIED,
  },
  {
    name: 'its port of another protocol',
    rules: [{ identity: ID, ...tcp80, protocol: 17 }],
    verdict: DENIED,
  },
  { name: 'its protocol', rules: [{ identity: ID, ...tcp }], verdict: ALLOWED },
  {
    name: 'a range of ports, inside (64 to 127)',
    rules: [{ identity: ID, protocol: 6, port: 64, portPrefixBits: 10 }],
    verdict: ALLOWED,
  },
  {
    name: 'a range of ports, outside (64 to 79)',
    rules: [{ identity: ID, protocol: 6, port: 64, portPrefixBits: 12 }],
    verdict: DENIED,
  },
  {
    name: 'the other direction',
    rules: [{ identity: ID, direction: 'egress' }],
    verdict: DENIED,
  },
  { name: 'another endpoint', rules: [{ identity: ID, endpointId: 2 }], verdict: DENIED },
  { name: 'a deny', rules: [{ identity: ID, ...deny }], verdict: DENY_RULE },
  {
    name: 'a deny for any beats an allow as wide for its identity',
    rules: [{ identity: ID }, { identity: 0, ...deny }],
    verdict: DENY_RULE,
  },
  {
    name: 'a deny for its identity beats an allow as wide for any',
    rules: [{ identity: ID, ...deny }, { identity: 0 }],
    verdict: DENY_RULE,
  },
  {
    name: 'a narrower deny beats an allow',
    rules: [{ identity: ID }, { identity: 0, ...tcp80, ...deny }],
    verdict: DENY_RULE,
  },
  {
    name: 'a narrower allow beats a deny',
    rules: [
      { identity: ID, ...deny },
      { identity: 0, ...tcp80 },
    ],
    verdict: ALLOWED,
  },
  {
    name: 'an identity that is not known, among those who are',
    rules: [{ identity: 0, ...knownOnly }],
    verdict: DENIED,
  },
  {
    name: 'a known identity among those who are',
    rules: [{ identity: 0, ...knownOnly }, KNOWN],
    verdict: ALLOWED,
  },
  {
    name: 'another known identity',
    rules: [
      { identity: 0, ...knownOnly },
      { ...KNOWN, identity: ID + 1 },
    ],
    verdict: DENIED,
  },
  {
    name: 'a row of an identity that is not known',
    rules: [{ identity: 0, ...knownOnly, ...tcp80 }, { identity: ID }],
    verdict: ALLOWED,
  },
  {
    name: 'a deny of a known identity',
    rules: [{ identity: 0, ...knownOnly }, KNOWN, { identity: ID, ...deny }],
    verdict: DENY_RULE,
  },
  { name: 'being known, and nothing else', rules: [KNOWN], verdict: DENIED },
  {
    name: 'UDP',
    rules: [{ identity: ID, ...tcp80, protocol: 17 }],
    packet: { protocol: 'udp' },
    verdict: ALLOWED,
  },
  {
    name: 'SCTP',
    rules: [{ identity: ID, ...tcp80, protocol: 132 }],
    packet: { protocol: 'sctp' },
    verdict: ALLOWED,
  },
  {
    name: 'SCTP is not TCP',
    rules: [{ identity: ID, ...tcp80 }],
    packet: { protocol: 'sctp' },
    verdict: DENIED,
  },
  {
    name: 'ICMP, whatever its type',
    rules: [{ identity: ID, ...ICMP }],
    packet: { protocol: 'icmp' },
    verdict: ALLOWED,
  },
  {
    name: 'ICMP is not TCP',
    rules: [{ identity: ID, ...tcp }],
    packet: { protocol: 'icmp' },
    verdict: DENIED,
  },
  {
    name: 'an echo request by its type, whatever its identifier',
    rules: [{ identity: ID, ...ECHO }],
    packet: { protocol: 'icmp' },
    verdict: ALLOWED,
  },
  {
    name: 'an echo reply is not an echo request',
    rules: [{ identity: ID, ...ECHO }],
    packet: { protocol: 'icmp', type: 'reply' },
    verdict: DENIED,
  },
  {
    name: 'an echo reply that nobody asked for, by its type',
    rules: [{ identity: ID, ...ECHO_REPLY }],
    packet: { protocol: 'icmp', type: 'reply' },
    verdict: ALLOWED,
  },
  {
    name: 'an error about nothing that was sent, by its type',
    rules: [{ identity: ID, ...UNREACHABLE }],
    packet: { protocol: 'icmp', type: 'unreachable', payload: Buffer.alloc(48, 0x45) },
    verdict: ALLOWED,
  },
  {
    name: 'and not by that of another one',
    rules: [{ identity: ID, ...ECHO }],
    packet: { protocol: 'icmp', type: 'unreachable', payload: Buffer.alloc(48, 0x45) },
    verdict: DENIED,
  },
  {
    name: 'a deny of one type',
    rules: [
      { identity: ID, ...ICMP },
      { identity: 0, ...ECHO, ...deny },
    ],
    packet: { protocol: 'icmp' },
    verdict: DENY_RULE,
  },
  {
    name: 'a protocol without ports',
    rules: [{ identity: ID, protocol: 47 }],
    packet: { protocol: 47 },
    verdict: ALLOWED,
  },
];

const FAMILIES = [
  { family: 4, pod: '10.1.0.2', peer: '203.0.113.7' },
  { family: 6, pod: 'fd01::2', peer: '2001:db8::7' },
] as const;
type Family = (typeof FAMILIES)[number];

function rowOf(rule: Rule, { family }: Family): PolicyEntry {
  const { protocol, port, ...rest } = rule;
  const numbers = ICMP_NUMBERS[family];
  return testPolicy(1, rule.identity ?? 0, {
    ...rest,
    ...(protocol === undefined
      ? {}
      : { protocol: protocol === 'icmp' ? numbers.protocol : protocol }),
    ...(port === undefined ? {} : { port: typeof port === 'number' ? port : numbers[port] }),
  });
}

function packetOf(packet: Packet, { family }: Family): Partial<PacketSpec> {
  const { type, ...rest } = packet;
  return type === undefined ? rest : { ...rest, type: ICMP_NUMBERS[family][type] };
}

function fill(run: ProgramRun, enforced: Partial<EndpointEntry>): void {
  const addresses = FAMILIES.map(({ pod }) => parseIpAddress(pod));
  run.tables.endpoints.apply({
    upserts: [testEndpoint(1, '10.1.0.2', { addresses, ...enforced })],
    deletes: [],
  });
  run.tables.ipcache.apply({
    upserts: [testPrefix('203.0.113.0/24', ID), testPrefix('2001:db8::/64', ID)],
    deletes: [],
  });
}

test('policy: which row decides', { skip }, async (t) => {
  await using run = await openProgramRun();
  fill(run, { ingressEnforced: true });
  let sourcePort = 20000;
  for (const family of FAMILIES) {
    for (const { name, rules, packet, verdict } of cases) {
      const rows = rules.map((rule) => rowOf(rule, family));
      run.tables.policy.apply({ upserts: rows, deletes: [] });
      sourcePort += 1;
      const spec: PacketSpec = {
        from: family.peer,
        to: family.pod,
        protocol: 'tcp',
        sourcePort,
        ...packetOf(packet ?? {}, family),
      };
      t.strictSame(run.toEndpoint(spec, 9).reasons, [verdict], `IPv${family.family}: ${name}`);
      run.tables.policy.apply({ upserts: [], deletes: rows });
    }
  }
  t.strictSame(run.tables.policy.rows(), [], 'all rows are gone again');
});

test('policy: egress', { skip }, async (t) => {
  await using run = await openProgramRun();
  fill(run, { egressEnforced: true });
  const to = (packet: PacketSpec, row: Rule, family: Family): string[] => {
    const rows = [rowOf({ direction: 'egress', ...row }, family)];
    run.tables.policy.apply({ upserts: rows, deletes: [] });
    const { reasons } = run.fromEndpoint(packet);
    run.tables.policy.apply({ upserts: [], deletes: rows });
    return reasons;
  };
  const [passed, denied] = ['passed-to-stack egress', 'policy-denied egress'];
  for (const family of FAMILIES) {
    const packet: PacketSpec = { from: family.pod, to: family.peer, protocol: 'tcp' };
    const port81 = { ...packet, destinationPort: 81 };
    const ping: PacketSpec = { ...packet, protocol: 'icmp' };
    t.strictSame(run.fromEndpoint(packet).reasons, [denied], `IPv${family.family}`);
    t.strictSame(to(packet, { identity: ID, ...tcp80 }, family), [passed]);
    t.strictSame(to(port81, { identity: ID, ...tcp80 }, family), [denied]);
    t.strictSame(to(ping, { identity: ID, ...ECHO }, family), [passed], 'an echo request');
    t.strictSame(to(ping, { identity: ID, ...ECHO_REPLY }, family), [denied], 'and no reply');
    const far: PacketSpec = {
      ...packet,
      to: family.family === 4 ? '198.51.100.1' : '2001:db8:ffff::1',
    };
    t.strictSame(to(far, { identity: ID }, family), [denied], 'beyond the prefix');
    t.strictSame(to(far, { identity: 2 }, family), [passed], 'is the world');
    const among = { identity: 0, ...knownOnly };
    t.strictSame(to(far, among, family), [passed], 'which is known');
    t.strictSame(to(packet, among, family), [denied], 'a pod is not, unless somebody says so');
  }
});

test('policy: what a pod can send to', { skip }, async (t) => {
  await using run = await openProgramRun();
  fill(run, { egressEnforced: true });
  const [node, host, remotePod, farPod, farNode] = [
    0x10000 + 305,
    1,
    0x10000 + 400,
    0x20000 + 7,
    6,
  ];
  run.tables.endpoints.apply({
    upserts: [
      testEndpoint(5, '10.1.0.5', {
        addresses: ['10.1.0.5', 'fd01::5'].map(parseIpAddress),
        identity: parseNumericIdentity(node),
      }),
    ],
    deletes: [],
  });
  const tunnel = { tunnelEndpoint: '192.0.2.2' };
  run.tables.ipcache.apply({
    upserts: [
      testPrefix('192.0.2.1/32', host),
      testPrefix('2001:db8:1::1/128', host),
      testPrefix('10.1.1.0/24', remotePod, { ...tunnel, clusterId: 1 }),
      testPrefix('fd01:1::/64', remotePod, { ...tunnel, clusterId: 1 }),
      testPrefix('10.2.0.0/24', farPod, { ...tunnel, clusterId: 2 }),
      testPrefix('fd02::/64', farPod, { ...tunnel, clusterId: 2 }),
      testPrefix('192.0.2.2/32', farNode, { clusterId: 2 }),
      testPrefix('2001:db8:1::2/128', farNode, { clusterId: 2 }),
    ],
    deletes: [],
  });
  const targets = [
    { name: 'a pod of this node', identity: node, to: ['10.1.0.5', 'fd01::5'] },
    { name: 'the node itself', identity: host, to: ['192.0.2.1', '2001:db8:1::1'] },
    { name: 'a pod of another node', identity: remotePod, to: ['10.1.1.7', 'fd01:1::7'] },
    { name: 'a pod of another cluster', identity: farPod, to: ['10.2.0.7', 'fd02::7'] },
    { name: 'another node', identity: farNode, to: ['192.0.2.2', '2001:db8:1::2'] },
    { name: 'a prefix outside', identity: ID, to: ['203.0.113.7', '2001:db8::7'] },
    { name: 'the world', identity: 2, to: ['198.51.100.9', '2001:db8:f::9'] },
  ];
  for (const { name, identity, to } of targets) {
    for (const [index, address] of to.entries()) {
      const from = index === 0 ? '10.1.0.2' : 'fd01::2';
      const packet: PacketSpec = { from, to: address, protocol: 'udp' };
      t.equal(run.fromEndpoint(packet).kind, 'drop', `${name}: ${address} is not allowed`);
      const row = testPolicy(1, identity, { direction: 'egress' });
      run.tables.policy.apply({ upserts: [row], deletes: [] });
      t.not(run.fromEndpoint(packet).kind, 'drop', `${name}: ${address} is`);
      run.tables.policy.apply({ upserts: [], deletes: [row] });
      t.equal(run.fromEndpoint(packet).kind, 'drop', `${name}: and is not any more`);
    }
  }
});

test('policy: fragments, and what needs no policy', { skip }, async (t) => {
  await using run = await openProgramRun();
  fill(run, { ingressEnforced: true, egressEnforced: true });
  let id = 100;
  for (const family of FAMILIES) {
    const rows = [
      rowOf({ identity: ID, ...tcp80, protocol: 17 }, family),
      rowOf({ identity: ID, ...ECHO }, family),
    ];
    run.tables.policy.apply({ upserts: rows, deletes: [] });
    const fragmentsOf = (packet: Partial<PacketSpec>): string[] => {
      id += 1;
      const whole: PacketSpec = { from: family.peer, to: family.pod, protocol: 'udp', ...packet };
      const first = { ...whole, fragment: { id, offset: 0, more: true } };
      const later = { ...whole, fragment: { id, offset: 24, more: false } };
      return [run.toEndpoint(first, 9).kind, run.toEndpoint(later, 9).kind];
    };
    const name = `IPv${family.family}`;
    t.strictSame(fragmentsOf({}), ['stack', 'stack'], `${name}: of an allowed datagram`);
    t.strictSame(fragmentsOf({ destinationPort: 81 }), ['drop', 'drop'], `${name}: of another`);
    t.strictSame(fragmentsOf({ protocol: 'icmp' }), ['stack', 'stack'], `${name}: of a ping`);
    const type = ICMP_NUMBERS[family.family].reply;
    t.strictSame(fragmentsOf({ protocol: 'icmp', type }), ['drop', 'drop'], `${name}: of a reply`);
    run.tables.policy.apply({ upserts: [], deletes: rows });
  }
  for (const type of [133, 134, 135, 136, 137]) {
    const discovery: PacketSpec = { from: 'fd01::2', to: 'fd01::1', protocol: 'icmp', type };
    t.strictSame(
      run.fromEndpoint(discovery),
      { kind: 'stack', reasons: [] },
      `type ${type} leaves`,
    );
    const answer: PacketSpec = { ...discovery, from: 'fd01::1', to: 'fd01::2' };
    t.strictSame(run.toEndpoint(answer), { kind: 'stack', reasons: [] }, `type ${type} enters`);
  }
});

test('policy: the own node', { skip }, async (t) => {
  for (const localhostJudged of [false, true]) {
    await using run = await openProgramRun({ localhostJudged });
    fill(run, { ingressEnforced: true });
    for (const family of FAMILIES) {
      const from = family.family === 4 ? '192.0.2.1' : '2001:db8:1::1';
      const probe: PacketSpec = { from, to: family.pod, protocol: 'tcp' };
      t.equal(
        run.toEndpoint(probe, 0).kind,
        localhostJudged ? 'drop' : 'stack',
        `IPv${family.family}`,
      );
      const row = testPolicy(1, 1);
      run.tables.policy.apply({ upserts: [row], deletes: [] });
      t.equal(
        run.toEndpoint({ ...probe, sourcePort: 7 }, 0).kind,
        'stack',
        'the entity host is allowed',
      );
      const denial = testPolicy(1, 1, deny);
      run.tables.policy.apply({ upserts: [denial], deletes: [] });
      t.equal(
        run.toEndpoint({ ...probe, sourcePort: 8 }, 0).kind,
        localhostJudged ? 'drop' : 'stack',
      );
      run.tables.policy.apply({ upserts: [], deletes: [denial] });
    }
  }
});
