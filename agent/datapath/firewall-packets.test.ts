/** The host as its own firewall, packet by packet: what its policies judge, and what none of them takes away. */
import { test } from 'tap';
import { localIdentity } from '../../mesh/wire/ids.ts';
import { parseIpAddress } from '../../mesh/wire/ip.ts';
import { HOST_ENDPOINT_ID } from '../../mesh/wire/maps.ts';
import { FIXED_RULES, fixedCalls } from '../host-firewall/fixed-rules.ts';
import type { EndpointEntry } from './desired.ts';
import { type DatapathFirewall, openFirewall } from './firewall.ts';
import { kernelSkipReason } from './testing/bpffs.ts';
import { testHostRow } from './testing/host-row.ts';
import { frame, ipPacket, type PacketSpec } from './testing/packet.ts';
import {
  type Outcome,
  openProgramRun,
  type ProgramRun,
  testPolicy,
  testPrefix,
} from './testing/program-run.ts';

const skip = kernelSkipReason();
const [WORLD, REMOTE_NODE] = [2, 6];
const OFFICE = localIdentity('cidr', 1);
const MACHINE = 0x10000 + 900;
const FAMILIES = [
  {
    own: '192.0.2.1',
    node: '192.0.2.2',
    stranger: '198.51.100.9',
    office: '203.0.113.7',
    server: '198.51.100.50',
    resolver: '198.51.100.53',
    many: '224.0.0.251',
    icmp: { request: 8, reply: 0, unreachable: 3 },
  },
  {
    own: 'fd00::1',
    node: 'fd00::2',
    stranger: '2001:db8::9',
    office: '2001:db8:1::7',
    server: '2001:db8::50',
    resolver: '2001:db8::53',
    many: 'ff02::fb',
    icmp: { request: 128, reply: 129, unreachable: 1 },
  },
] as const;

const DENIED_IN = { kind: 'drop', reasons: ['policy-denied ingress'] };
const DENIED_OUT = { kind: 'drop', reasons: ['policy-denied egress'] };
const PASSED = { kind: 'stack', reasons: [] };
const CLOSED = { ingressEnforced: true, egressEnforced: true };

interface Rig extends AsyncDisposable {
  readonly run: ProgramRun;
  readonly firewall: DatapathFirewall;
  /** One packet in, or out, as if the office or anybody had a policy's row. */
  into(packet: PacketSpec | Buffer): Outcome;
  out(packet: PacketSpec | Buffer): Outcome;
  set(fields: Partial<EndpointEntry>): void;
}

async function openRig(fields: Partial<EndpointEntry> = CLOSED): Promise<Rig> {
  const run = await openProgramRun({
    nodeIps: FAMILIES.map(({ own }) => parseIpAddress(own)),
    hostEndpoint: 'machine',
  });
  const whole = (address: string) => `${address}/${address.includes(':') ? 128 : 32}`;
  run.tables.ipcache.apply({
    upserts: FAMILIES.flatMap(({ own, node, office }) => [
      testPrefix(whole(own), MACHINE, { clusterId: 1 }),
      testPrefix(whole(node), REMOTE_NODE, { clusterId: 2 }),
      { ...testPrefix(whole(office), WORLD), identity: OFFICE },
    ]),
    deletes: [],
  });
  const set = (changed: Partial<EndpointEntry>): void => {
    const row = testHostRow(MACHINE, changed);
    run.tables.endpoints.apply({ upserts: [row], deletes: [] });
  };
  set(fields);
  const firewall = openFirewall(
    {
      maps: run.objects.maps,
      tunnelDevice: 'isthmus_vxlan',
      endpointInterfaces: () => [],
      attach: () => undefined,
    },
    {
      open: fixedCalls({
        adminPorts: [22, 2222],
        servers: FAMILIES.map(({ server }) => ({ address: parseIpAddress(server), port: 2381 })),
        resolvers: FAMILIES.map(({ resolver }) => parseIpAddress(resolver)),
      }),
    },
  );
  return {
    run,
    firewall,
    // Test runs come from the loopback device, whose hardware address is all zeroes.
    into: (packet) => run.fromHost(Buffer.isBuffer(packet) ? packet : forUs(packet)),
    out: run.toHost,
    set,
    [Symbol.asyncDispose]: () => run[Symbol.asyncDispose](),
  };
}

function forUs(packet: PacketSpec): Buffer {
  return frame(packet).fill(0, 0, 6);
}

test('whoever is at the other end is judged, in each direction that a policy limits', {
  skip,
}, async (t) => {
  for (const limited of [[], ['in'], ['out'], ['in', 'out']]) {
    await using rig = await openRig({
      ingressEnforced: limited.includes('in'),
      egressEnforced: limited.includes('out'),
    });
    for (const { own, node, stranger, office } of FAMILIES) {
      for (const other of [node, stranger, office]) {
        for (const protocol of ['tcp', 'udp', 'icmp', 47] as const) {
          const packet = { protocol, destinationPort: 8080, sourcePort: 40_000 };
          const name = `limited ${limited.join(' and ')}: ${protocol} ${other}`;
          const enters = rig.into({ ...packet, from: other, to: own });
          t.strictSame(enters, limited.includes('in') ? DENIED_IN : PASSED, `in, ${name}`);
          // Other ports: what has come in may be answered.
          const leaves = rig.out({ ...packet, sourcePort: 40_001, from: own, to: other });
          // Neither is there a port to tell an answer by, nor has anything been remembered when it was denied.
          if (protocol === 47 && !limited.includes('in')) continue;
          t.strictSame(leaves, limited.includes('out') ? DENIED_OUT : PASSED, `out, ${name}`);
        }
      }
    }
  }
});

test('policies allow by prefix, as the world, by port and by message; answers pass', {
  skip,
}, async (t) => {
  await using rig = await openRig();
  const allow = (...rows: Parameters<typeof testPolicy>[]): void =>
    rig.run.tables.policy.apply({ upserts: rows.map((row) => testPolicy(...row)), deletes: [] });
  const exact = { protocol: 6, port: 8080, portPrefixBits: 16 } as const;
  allow(
    [HOST_ENDPOINT_ID, OFFICE, exact],
    [HOST_ENDPOINT_ID, WORLD, { ...exact, port: 443, direction: 'egress' }],
    [HOST_ENDPOINT_ID, WORLD, { protocol: 1, port: 8, portPrefixBits: 16 }],
    [HOST_ENDPOINT_ID, WORLD, { protocol: 58, port: 128, portPrefixBits: 16 }],
  );
  for (const { own, stranger, office, icmp } of FAMILIES) {
    const call = { protocol: 'tcp', sourcePort: 40_000, destinationPort: 8080 } as const;
    const answer = { protocol: 'tcp', sourcePort: 8080, destinationPort: 40_000 } as const;
    t.strictSame(rig.into({ ...call, from: stranger, to: own }), DENIED_IN, 'another prefix');
    t.strictSame(rig.into({ ...call, from: office, to: own }), PASSED, 'the prefix');
    t.strictSame(rig.out({ ...answer, flags: 'SA', from: own, to: office }), PASSED, 'its answer');
    t.strictSame(
      rig.into({ ...call, destinationPort: 8081, from: office, to: own }),
      DENIED_IN,
      'another port',
    );
    const out = { protocol: 'tcp', sourcePort: 40_000, destinationPort: 443 } as const;
    t.strictSame(rig.out({ ...out, from: own, to: stranger }), PASSED, 'the world');
    t.strictSame(
      rig.into({
        ...out,
        sourcePort: 443,
        destinationPort: 40_000,
        flags: 'SA',
        from: stranger,
        to: own,
      }),
      PASSED,
      'its answer',
    );
    t.strictSame(rig.out({ ...out, from: own, to: office }), DENIED_OUT, 'not the prefix');
    const echo = { protocol: 'icmp', sourcePort: 7 } as const;
    t.strictSame(rig.into({ ...echo, from: stranger, to: own }), PASSED, 'a ping');
    t.strictSame(
      rig.out({ protocol: 'icmp', type: icmp.reply, sourcePort: 7, from: own, to: stranger }),
      PASSED,
      'its answer',
    );
    t.strictSame(rig.out({ ...echo, sourcePort: 8, from: own, to: stranger }), DENIED_OUT);
  }
});

test('promise 13: what no policy takes away', { skip }, async (t) => {
  await using rig = await openRig();
  const deny = ([WORLD, OFFICE, REMOTE_NODE, 0] as const).flatMap((identity) =>
    (['ingress', 'egress'] as const).map((direction) =>
      testPolicy(HOST_ENDPOINT_ID, identity, { direction, verdict: 'deny' }),
    ),
  );
  rig.run.tables.policy.apply({ upserts: deny, deletes: [] });
  const tried = new Set<string>();
  const refused = (outcome: Outcome, name: string): void => {
    t.match(outcome, { kind: 'drop', reasons: [/^policy-deny-rule/] }, name);
  };
  const passes = (rule: string, outcome: Outcome, name = rule): void => {
    tried.add(rule);
    t.strictSame(outcome, PASSED, name);
  };
  const arp = Buffer.from(`ffffffffffff02000000000208060001${'00'.repeat(32)}`, 'hex');
  passes('not-ip', rig.into(arp));
  passes('not-ip', rig.out(arp));
  for (const { own, node, stranger, server, resolver, icmp } of FAMILIES) {
    const is4 = own.includes('.');
    const turned = ({ sourcePort, destinationPort, ...packet }: PacketSpec): PacketSpec => ({
      ...packet,
      ...(destinationPort === undefined ? {} : { sourcePort: destinationPort }),
      ...(sourcePort === undefined ? {} : { destinationPort: sourcePort }),
      ...(packet.protocol === 'tcp' ? { flags: 'SA' } : {}),
      from: packet.to,
      to: packet.from,
    });
    const call = (protocol: 'tcp' | 'udp', to: string, destinationPort: number): PacketSpec => ({
      protocol,
      sourcePort: 40_000 + destinationPort,
      destinationPort,
      from: to === own ? stranger : own,
      to,
    });

    for (const port of [22, 2222]) {
      const session = call('tcp', own, port);
      passes('ssh', rig.into(session), `ssh to ${own} by ${port}`);
      passes('ssh', rig.out(turned(session)), 'its answer');
      const older = { ...session, sourcePort: 50_000, flags: 'A' };
      passes('ssh', rig.into(older), 'a session from before');
      passes('ssh', rig.out({ ...turned(older), flags: 'A' }), 'its answers');
      refused(rig.out(call('tcp', stranger, port)), 'not out of the machine');
      refused(rig.into(call('udp', own, port)), 'not by UDP');
    }
    const agent = call('tcp', server, 2381);
    passes('cluster', rig.out(agent));
    passes('cluster', rig.into(turned(agent)), 'its answer');
    refused(rig.out(call('tcp', stranger, 2381)), 'another server');
    refused(rig.out(call('tcp', server, 2382)), 'another port');
    refused(rig.into({ ...call('tcp', own, 2381), from: server }), 'not into the machine');

    const health = call('tcp', node, 4240);
    passes('mesh-services', rig.out(health));
    passes('mesh-services', rig.into(turned(health)));
    refused(rig.into({ ...call('tcp', own, 4240), from: node }), 'a machine is only a client');

    const tunnel = { ...call('udp', own, 8472), from: node };
    passes('tunnel', rig.into(tunnel));
    passes('tunnel', rig.out({ ...tunnel, from: own, to: node }));
    refused(rig.into({ ...tunnel, from: stranger }), 'a stranger has no tunnel');
    refused(rig.out({ ...tunnel, from: own, to: stranger }), 'to nobody else');

    for (const protocol of ['udp', 'tcp'] as const) {
      const question = call(protocol, resolver, 53);
      passes('dns', rig.out(question));
      passes('dns', rig.into(turned(question)), 'its answer');
      refused(rig.out(call(protocol, stranger, 53)), 'another resolver');
    }
    refused(
      rig.into({ ...turned(call('udp', resolver, 53)), destinationPort: 41_000 }),
      'what nobody has asked for',
    );
    const clock = call('udp', stranger, 123);
    passes('ntp', rig.out(clock));
    passes('ntp', rig.into(turned(clock)), 'its answer');
    refused(rig.into(call('udp', own, 123)), 'the machine is no server of time');

    const [client, relay] = is4 ? [68, 67] : [546, 547];
    const lease = { ...call('udp', stranger, relay), sourcePort: client };
    passes('dhcp', rig.out(lease));
    passes('dhcp', rig.into({ ...turned(lease), from: server }), 'of another server');
    refused(rig.into({ ...lease, from: stranger, to: own }), 'the machine is no server of leases');

    const error = (type: number, code: number, about: PacketSpec): Buffer => {
      const packet = { from: stranger, to: own, protocol: 'icmp', type } as const;
      const whole = forUs({ ...packet, payload: ipPacket(about) });
      whole.writeUInt8(code, 14 + (is4 ? 20 : 40) + 1);
      return whole;
    };
    const unknown = call('udp', stranger, 7777);
    passes('path-mtu', rig.into(is4 ? error(3, 4, unknown) : error(2, 0, unknown)));
    refused(rig.into(error(icmp.unreachable, is4 ? 3 : 4, unknown)), 'an error about nothing');
    passes('errors', rig.into(error(icmp.unreachable, is4 ? 3 : 4, clock)), 'about an open call');
  }
  const link = { from: 'fe80::2', to: 'ff02::1', protocol: 'icmp' } as const;
  for (const type of [130, 131, 132, 133, 134, 135, 136, 137, 143]) {
    passes('neighbours', rig.into({ ...link, type }), `ICMPv6 of type ${type}`);
    passes('neighbours', rig.out({ ...link, type, extensions: [0] }), 'behind a header');
  }
  passes('neighbours', rig.into({ from: '192.0.2.7', to: '224.0.0.1', protocol: 2 }), 'IGMP');
  refused(
    rig.into({ from: 'fe80::2', to: 'fe80::1', protocol: 'tcp', destinationPort: 8080 }),
    'a neighbour is a stranger',
  );
  // Loopback devices never have programs: that is not seen here.
  const rest = FIXED_RULES.map(({ name }) => name).filter((name) => !tried.has(name));
  t.strictSame(rest, ['loopback'], 'each row of the list was tried');
});

test('what has many receivers, cannot be read or is tagged', { skip }, async (t) => {
  await using rig = await openRig();
  for (const { own, stranger, many } of FAMILIES) {
    const mdns = { protocol: 'udp', sourcePort: 5353, destinationPort: 5353 } as const;
    t.strictSame(rig.into({ ...mdns, from: stranger, to: many }), DENIED_IN, 'multicast in');
    t.strictSame(rig.out({ ...mdns, from: own, to: many }), DENIED_OUT, 'and out');
  }
  const wall = Array.from({ length: 8 }, () => 0);
  const unread = { from: '2001:db8::9', to: 'fd00::1', protocol: 'tcp', extensions: wall } as const;
  t.strictSame(rig.into(unread), { kind: 'drop', reasons: ['unsupported-protocol ingress'] });
  t.strictSame(rig.into({ ...unread, to: 'fd99::1' }), PASSED, 'on its way to somebody else');
  rig.set({ ...CLOSED, audit: true });
  t.strictSame(rig.into(unread), PASSED, 'audit mode');
  const audited = rig.into({ from: '198.51.100.9', to: '192.0.2.1', protocol: 'tcp' });
  t.strictSame(audited, { kind: 'stack', reasons: ['policy-audited ingress'] });
});

test('what the host passes on is not its own, also under its own address', { skip }, async (t) => {
  await using rig = await openRig();
  t.strictSame(
    rig.into({ from: '198.51.100.9', to: '10.9.9.9', protocol: 'tcp' }),
    PASSED,
    'to somebody behind the host',
  );
  const call = { from: '198.51.100.9', to: '192.0.2.1', protocol: 'tcp' } as const;
  t.strictSame(rig.into(call), DENIED_IN);
  t.strictSame(rig.into(frame(call)), PASSED, 'a frame for somebody else on the link');
});

test('connections from before: judged as if they began now', { skip }, async (t) => {
  await using rig = await openRig();
  const allowed = { protocol: 6, port: 443, portPrefixBits: 16, direction: 'egress' } as const;
  rig.run.tables.policy.apply({
    upserts: [testPolicy(HOST_ENDPOINT_ID, WORLD, allowed)],
    deletes: [],
  });
  for (const { own, stranger } of FAMILIES) {
    const answer = { from: stranger, to: own, protocol: 'tcp', flags: 'A' } as const;
    const ports = { sourcePort: 443, destinationPort: 40_000 };
    t.strictSame(rig.into({ ...answer, ...ports }), PASSED, 'of a call that policy allows');
    t.strictSame(
      rig.into({ ...answer, ...ports, sourcePort: 80 }),
      DENIED_IN,
      'of one it does not',
    );
    t.strictSame(rig.into({ ...answer, ...ports, flags: 'S' }), DENIED_IN, 'what opens');
  }
});

test('off, and when its time is over, everything is as without', { skip }, async (t) => {
  await using rig = await openRig();
  const strangers = FAMILIES.flatMap(({ own, stranger }) => [
    { from: stranger, to: own, protocol: 'tcp', destinationPort: 8080 } as const,
    { from: stranger, to: own, protocol: 'udp', destinationPort: 8472 } as const,
  ]);
  const untouched = (name: string): void => {
    for (const packet of strangers) {
      const bytes = forUs(packet);
      t.strictSame(rig.into(bytes), PASSED, name);
      t.ok(rig.run.output().equals(bytes), 'byte for byte');
    }
    const { own, node } = FAMILIES[0];
    const call = { from: node, to: own, protocol: 'tcp', destinationPort: 22 } as const;
    t.strictSame(rig.into(call), DENIED_IN, 'who is of the mesh is judged, by every port');
  };
  for (const packet of strangers) t.strictSame(rig.into(packet), DENIED_IN);
  t.strictSame(rig.firewall.mode(), { kind: 'on', untilNs: undefined });
  rig.firewall.switchOff();
  t.strictSame(rig.firewall.mode(), { kind: 'off' });
  untouched('off');

  rig.firewall.switchOn(process.hrtime.bigint() + 3_600_000_000_000n);
  for (const packet of strangers) t.strictSame(rig.into(packet), DENIED_IN, 'on for an hour');
  rig.firewall.switchOn(process.hrtime.bigint() - 1_000_000_000n);
  t.match(rig.firewall.mode(), { kind: 'on' });
  untouched('its time is over');
  t.strictSame(rig.firewall.mode(), { kind: 'off' }, 'the first packet has switched it off');
});
