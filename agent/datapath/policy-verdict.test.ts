import { test } from 'tap';
import type { PolicyEntry } from './desired.ts';
import { kernelSkipReason } from './testing/bpffs.ts';
import type { PacketSpec } from './testing/packet.ts';
import { openProgramRun, testEndpoint, testPolicy, testPrefix } from './testing/program-run.ts';

const skip = kernelSkipReason();
const ID = 0x20000 + 9;

type Rule = Partial<PolicyEntry> & { identity?: number };

const tcp = { protocol: 6 };
const tcp80 = { protocol: 6, port: 80, portPrefixBits: 16 };
const deny = { verdict: 'deny' } as const;

const ALLOWED = 'forwarded ingress';
const DENIED = 'policy-denied ingress';
const DENY_RULE = 'policy-deny-rule ingress';

const cases: { name: string; rules: Rule[]; packet?: Partial<PacketSpec>; verdict: string }[] = [
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
    name: 'ICMP',
    rules: [{ identity: ID, protocol: 1 }],
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
    name: 'a protocol without ports',
    rules: [{ identity: ID, protocol: 47 }],
    packet: { protocol: 47 },
    verdict: ALLOWED,
  },
];

test('policy: which row decides', { skip }, async (t) => {
  await using run = await openProgramRun();
  run.tables.endpoints.apply({
    upserts: [testEndpoint(1, '10.1.0.2', { ingressEnforced: true })],
    deletes: [],
  });
  run.tables.ipcache.apply({ upserts: [testPrefix('203.0.113.0/24', ID)], deletes: [] });
  let sourcePort = 20000;
  for (const { name, rules, packet, verdict } of cases) {
    const rows = rules.map((rule) => testPolicy(1, rule.identity ?? 0, rule));
    run.tables.policy.apply({ upserts: rows, deletes: [] });
    sourcePort += 1;
    const spec: PacketSpec = {
      from: '203.0.113.7',
      to: '10.1.0.2',
      protocol: 'tcp',
      sourcePort,
      ...packet,
    };
    t.strictSame(run.toEndpoint(spec, 9).reasons, [verdict], name);
    run.tables.policy.apply({ upserts: [], deletes: rows });
  }
  t.strictSame(run.tables.policy.rows(), [], 'all rows are gone again');
});

test('policy: egress', { skip }, async (t) => {
  await using run = await openProgramRun();
  run.tables.endpoints.apply({
    upserts: [testEndpoint(1, '10.1.0.2', { egressEnforced: true })],
    deletes: [],
  });
  run.tables.ipcache.apply({ upserts: [testPrefix('203.0.113.0/24', ID)], deletes: [] });
  const packet: PacketSpec = { from: '10.1.0.2', to: '203.0.113.7', protocol: 'tcp' };
  t.strictSame(run.fromEndpoint(packet).reasons, ['policy-denied egress']);
  run.tables.policy.apply({
    upserts: [testPolicy(1, ID, { direction: 'egress', ...tcp80 })],
    deletes: [],
  });
  t.strictSame(run.fromEndpoint(packet).reasons, ['passed-to-stack egress']);
  t.strictSame(run.fromEndpoint({ ...packet, destinationPort: 81 }).reasons, [
    'policy-denied egress',
  ]);
});
