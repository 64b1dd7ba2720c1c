import { test } from 'tap';
import { parseIpAddress } from '../../mesh/wire/ip.ts';
import type { FrontendEntry } from './desired.ts';
import { kernelSkipReason } from './testing/bpffs.ts';
import { withChecksums } from './testing/checksum.ts';
import { frame, ipPacket, type PacketSpec } from './testing/packet.ts';
import { readVerified } from './testing/packet-reader.ts';
import {
  type Outcome,
  openProgramRun,
  type ProgramRun,
  ROUTE_IFINDEX,
  testEndpoint,
  testPolicy,
  testPrefix,
} from './testing/program-run.ts';
import { testFrontend } from './testing/service-maps.ts';

const skip = kernelSkipReason();
const REMOTE_IDENTITY = 0x20000 + 500;
const PEER = { vni: REMOTE_IDENTITY, remote: '192.0.2.2' };

const FAMILIES = [
  {
    node: '192.0.2.1',
    caller: '198.51.100.9',
    local: '10.1.0.2',
    remote: '10.2.0.7',
    routed: '192.0.2.9',
  },
  {
    node: 'fd00::1',
    caller: '2001:db8::9',
    local: 'fd01::2',
    remote: 'fd02::7',
    routed: 'fd00::9',
  },
] as const;

async function openRun(natPorts = { first: 61_000, last: 65_535 }): Promise<ProgramRun> {
  const run = await openProgramRun({
    nodeIps: [parseIpAddress('192.0.2.1'), parseIpAddress('fd00::1')],
    externalServices: true,
    natPorts,
  });
  const local = [parseIpAddress('10.1.0.2'), parseIpAddress('fd01::2')];
  run.tables.endpoints.apply({
    upserts: [testEndpoint(1, '10.1.0.2', { addresses: local })],
    deletes: [],
  });
  run.tables.ipcache.apply({
    upserts: [
      testPrefix('10.2.0.0/24', REMOTE_IDENTITY, { tunnelEndpoint: '192.0.2.2', clusterId: 2 }),
      testPrefix('fd02::/64', REMOTE_IDENTITY, { tunnelEndpoint: '192.0.2.2', clusterId: 2 }),
      testPrefix('192.0.2.2/32', 6, { clusterId: 2 }),
    ],
    deletes: [],
  });
  return run;
}

function serve(
  run: ProgramRun,
  address: string,
  to: readonly string[],
  fields: Partial<FrontendEntry> = {},
): void {
  const { protocol = 'TCP' } = fields;
  const backends = to.map((text) => ({
    address: parseIpAddress(text),
    port: 8080,
    protocol,
    clusterId: 2,
  }));
  const row = testFrontend(backends, {
    address: parseIpAddress(address),
    port: 30_080,
    isExternal: true,
    ...fields,
  });
  run.tables.services.apply({ upserts: [row], deletes: [] });
}

const bytes = (spec: PacketSpec): Buffer => withChecksums(frame(spec));

/** What a program did, and what the packet says then, or what is wrong with it. */
const outcome = ({ kind }: Outcome, run: ProgramRun): string =>
  `${kind} ${readVerified(run.output())}`;

/** The port that a translated call has as its source. */
const portOf = (run: ProgramRun): number =>
  Number(/:(\d+) > /.exec(readVerified(run.output()))?.[1]);

test('calls from outside: to a local server with the address of the caller', {
  skip,
}, async (t) => {
  await using run = await openRun();
  for (const { node, caller, local } of FAMILIES) {
    for (const protocol of ['tcp', 'udp'] as const) {
      const name = protocol === 'tcp' ? 'TCP' : 'UDP';
      const [syn, answer] = protocol === 'tcp' ? ['tcp S', 'tcp SA'] : ['udp', 'udp'];
      serve(run, node, [local], { protocol: name });
      const call = bytes({ from: caller, to: node, protocol, destinationPort: 30_080 });
      const counted = ['forwarded ingress', 'service-translated ingress'];
      t.match(run.fromHost(call), { kind: 'peer', reasons: counted }, 'counted once for each flow');
      t.match(run.fromHost(call), { kind: 'peer', reasons: ['forwarded ingress'] });
      t.equal(readVerified(run.output()), `[${caller}]:40000 > [${local}]:8080 ${syn}`);
      const reply = bytes({
        from: local,
        to: caller,
        protocol,
        sourcePort: 8080,
        destinationPort: 40_000,
        flags: 'SA',
      });
      t.match(run.fromEndpoint(reply), { kind: 'route', ifindex: ROUTE_IFINDEX }, 'past the stack');
      t.equal(readVerified(run.output()), `[${node}]:30080 > [${caller}]:40000 ${answer}`);
    }
  }
});

test('calls from outside: by a pod of another cluster, past the tunnel', { skip }, async (t) => {
  await using run = await openRun();
  for (const { node, local, remote } of FAMILIES) {
    serve(run, node, [local]);
    const call = { from: remote, to: node, protocol: 'tcp', destinationPort: 30_080 } as const;
    t.equal(run.fromHost(bytes(call)).kind, 'peer');
    const reply = {
      from: local,
      to: remote,
      protocol: 'tcp',
      sourcePort: 8080,
      flags: 'SA',
    } as const;
    t.equal(
      outcome(run.fromEndpoint(bytes({ ...reply, destinationPort: 40_000 })), run),
      `route [${node}]:30080 > [${remote}]:40000 tcp SA`,
      'answered the way it came',
    );
    const direct = { ...call, to: local, sourcePort: 40_001, destinationPort: 8080 } as const;
    t.equal(run.fromOverlay(bytes(direct), PEER).kind, 'peer');
    t.equal(
      outcome(run.fromEndpoint(bytes({ ...reply, destinationPort: 40_001 })), run),
      `tunnel [${local}]:8080 > [${remote}]:40001 tcp SA`,
      'what came through the tunnel goes back there',
    );
  }
});

test('calls from outside: to a remote server with the address of the node', { skip }, async (t) => {
  await using run = await openRun();
  for (const { node, caller, remote, routed } of FAMILIES) {
    for (const protocol of ['tcp', 'udp'] as const) {
      const name = protocol === 'tcp' ? 'TCP' : 'UDP';
      const suffix = protocol === 'tcp' ? 'tcp A' : 'udp';
      const call = bytes({ from: caller, to: node, protocol, destinationPort: 30_080, flags: 'A' });
      serve(run, node, [remote], { protocol: name });
      t.match(run.fromHost(call), { kind: 'tunnel', vni: 2, remote: '192.0.2.2' }, 'as the world');
      const port = portOf(run);
      t.ok(port >= 61_000, `from port ${port}`);
      t.equal(readVerified(run.output()), `[${node}]:${port} > [${remote}]:8080 ${suffix}`);
      t.equal(
        outcome(run.fromHost(call), run),
        `tunnel [${node}]:${port} > [${remote}]:8080 ${suffix}`,
        'the next, too',
      );
      const reply = bytes({
        from: remote,
        to: node,
        protocol,
        sourcePort: 8080,
        destinationPort: port,
        flags: 'A',
      });
      const answered = `route [${node}]:30080 > [${caller}]:40000 ${suffix}`;
      t.equal(
        outcome(run.fromOverlay(reply, PEER), run),
        answered,
        'its answer through the tunnel',
      );
      t.equal(outcome(run.fromHost(reply), run), answered, 'or by a route');

      serve(run, node, [routed], { protocol: name });
      const other = {
        from: caller,
        to: node,
        protocol,
        sourcePort: 40_001,
        destinationPort: 30_080,
      } as const;
      t.equal(
        run.fromHost(bytes(other)).kind,
        'route',
        'a server that is no pod: by the routes of the node',
      );
      t.match(readVerified(run.output()), new RegExp(`^\\[${node}\\]:\\d+ > \\[${routed}\\]:8080`));
    }
  }
});

test("calls from outside: to a server of the node's own", { skip }, async (t) => {
  await using run = await openRun();
  for (const { node, caller } of FAMILIES) {
    serve(run, node, [node]);
    const call = { from: caller, to: node, protocol: 'tcp', destinationPort: 30_080 } as const;
    t.equal(
      outcome(run.fromHost(bytes(call)), run),
      `stack [${caller}]:40000 > [${node}]:8080 tcp S`,
    );
    const reply = {
      from: node,
      to: caller,
      protocol: 'tcp',
      sourcePort: 8080,
      destinationPort: 40_000,
      flags: 'SA',
    } as const;
    t.equal(
      outcome(run.toHost(bytes(reply)), run),
      `stack [${node}]:30080 > [${caller}]:40000 tcp SA`,
    );
    const other = bytes({ ...reply, destinationPort: 40_001 });
    t.equal(
      outcome(run.toHost(other), run),
      `stack [${node}]:8080 > [${caller}]:40001 tcp SA`,
      'who called it directly',
    );
  }
});

test('calls from outside: what is none is left alone', { skip }, async (t) => {
  await using run = await openRun();
  serve(run, '192.0.2.1', ['10.1.0.2']);
  serve(run, '172.20.0.1', ['10.1.0.2'], { isExternal: false, port: 80 });
  const untouched = { kind: 'stack', reasons: [] };
  const packets: PacketSpec[] = [
    { from: '198.51.100.9', to: '192.0.2.1', protocol: 'tcp', destinationPort: 22 },
    { from: '198.51.100.9', to: '192.0.2.1', protocol: 'udp', destinationPort: 30_080 },
    { from: '198.51.100.9', to: '172.20.0.1', protocol: 'tcp', destinationPort: 80 },
    { from: '198.51.100.9', to: '192.0.2.1', protocol: 'icmp' },
    { from: '198.51.100.9', to: '192.0.2.1', protocol: 47 },
    {
      from: '198.51.100.9',
      to: '192.0.2.1',
      protocol: 'udp',
      fragment: { id: 3, offset: 8, more: false },
    },
  ];
  for (const packet of packets) {
    const sent = bytes(packet);
    t.strictSame(run.fromHost(sent), untouched, `${packet.protocol} to ${packet.to}`);
    t.ok(run.output().equals(sent));
  }
  const arp = Buffer.concat([Buffer.from('ffffffffffff0200000000020806', 'hex'), Buffer.alloc(46)]);
  t.strictSame(run.fromHost(arp), untouched, 'ARP');
  const cut = bytes({ from: '198.51.100.9', to: '192.0.2.1', protocol: 'tcp' }).subarray(0, 40);
  t.strictSame(run.fromHost(cut), untouched, 'what cannot be read');
});

test('calls from outside: rows for those outside come first', { skip }, async (t) => {
  await using run = await openRun();
  serve(run, '203.0.113.7', ['10.2.0.7']);
  serve(run, '203.0.113.7', ['10.1.0.2'], { scope: 'external' });
  const call = bytes({
    from: '198.51.100.9',
    to: '203.0.113.7',
    protocol: 'tcp',
    destinationPort: 30_080,
  });
  t.equal(
    run.fromHost(call).kind,
    'peer',
    'externalTrafficPolicy Local: the servers of this node alone',
  );
  const inside = {
    from: '10.1.0.2',
    to: '203.0.113.7',
    protocol: 'tcp',
    destinationPort: 30_080,
  } as const;
  t.equal(run.fromEndpoint(bytes(inside)).kind, 'tunnel', 'pods of the node take any');
});

test('calls from outside: policy at the server knows the caller', { skip }, async (t) => {
  await using run = await openRun();
  run.tables.endpoints.apply({
    upserts: [testEndpoint(1, '10.1.0.2', { ingressEnforced: true })],
    deletes: [],
  });
  run.tables.ipcache.apply({ upserts: [testPrefix('198.51.100.0/24', 0x20000 + 9)], deletes: [] });
  serve(run, '192.0.2.1', ['10.1.0.2']);
  const call = (sourcePort: number): Buffer =>
    bytes({
      from: '198.51.100.9',
      to: '192.0.2.1',
      protocol: 'tcp',
      sourcePort,
      destinationPort: 30_080,
    });
  t.strictSame(run.fromHost(call(1)), {
    kind: 'drop',
    reasons: ['service-translated ingress', 'policy-denied ingress'],
  });
  const allow = testPolicy(1, 0x20000 + 9, { protocol: 6, port: 8080, portPrefixBits: 16 });
  run.tables.policy.apply({ upserts: [allow], deletes: [] });
  t.equal(run.fromHost(call(2)).kind, 'peer');
});

test('calls from outside: two callers never share a port, and none is left over', {
  skip,
}, async (t) => {
  await using run = await openRun({ first: 61_000, last: 61_001 });
  serve(run, '192.0.2.1', ['10.2.0.7']);
  const call = (sourcePort: number): Buffer =>
    bytes({
      from: '198.51.100.9',
      to: '192.0.2.1',
      protocol: 'tcp',
      sourcePort,
      destinationPort: 30_080,
    });
  const ports = [1, 2].map((port) => {
    t.equal(run.fromHost(call(port)).kind, 'tunnel');
    return portOf(run);
  });
  t.strictSame(ports.sort(), [61_000, 61_001]);
  t.strictSame(run.fromHost(call(3)), { kind: 'drop', reasons: ['nat-exhausted ingress'] });
  t.equal(run.fromHost(call(1)).kind, 'tunnel', 'those who have one go on');
});

test('calls from outside: refused without a server, and ICMP errors both ways', {
  skip,
}, async (t) => {
  await using run = await openRun();
  for (const { node, caller, remote, local } of FAMILIES) {
    serve(run, node, []);
    const call = { from: caller, to: node, protocol: 'tcp', destinationPort: 30_080 } as const;
    t.match(run.fromHost(bytes(call)), {
      kind: 'link',
      ifindex: 1,
      reasons: ['service-no-backend ingress'],
    });
    t.equal(readVerified(run.output()), `[${node}]:30080 > [${caller}]:40000 tcp RA`);

    const [type, code] = node === '192.0.2.1' ? [3, 4] : [2, 0];
    const error = (from: string, to: string, about: PacketSpec): Buffer => {
      const inner = withChecksums(Buffer.concat([Buffer.alloc(14), ipPacket(about)])).subarray(14);
      const packet = frame({ from, to, protocol: 'icmp', type, payload: inner });
      packet.writeUInt8(code, (node === '192.0.2.1' ? 34 : 54) + 1);
      return withChecksums(packet);
    };
    serve(run, node, [remote]);
    t.equal(run.fromHost(bytes(call)).kind, 'tunnel');
    const port = portOf(run);
    const sent = {
      ...call,
      from: node,
      to: remote,
      sourcePort: port,
      destinationPort: 8080,
    } as const;
    t.equal(
      outcome(run.fromOverlay(error(remote, node, sent), PEER), run),
      `route ${node} > ${caller} icmp ${type}/${code} ([${caller}]:40000 > [${node}]:30080 tcp S)`,
      'about the call, from the other cluster',
    );
    const answer = {
      ...call,
      from: node,
      to: caller,
      sourcePort: 30_080,
      destinationPort: 40_000,
      flags: 'A',
    } as const;
    const router = node === '192.0.2.1' ? '198.51.100.1' : '2001:db8::1';
    t.equal(
      outcome(run.fromHost(error(router, node, answer)), run),
      `tunnel ${node} > ${remote} icmp ${type}/${code} ([${remote}]:8080 > [${node}]:${port} tcp A)`,
      'about an answer, by a router on the way: to the remote server',
    );
    serve(run, node, [local]);
    t.equal(run.fromHost(bytes({ ...call, sourcePort: 40_002 })).kind, 'peer');
    const localAnswer = { ...answer, destinationPort: 40_002 } as const;
    t.equal(
      outcome(run.fromHost(error(router, node, localAnswer)), run),
      `peer ${router} > ${local} icmp ${type}/${code} ([${local}]:8080 > [${caller}]:40002 tcp A)`,
      'to the local one',
    );
  }
});

test('calls from outside: what does not fit into the tunnel', { skip }, async (t) => {
  await using run = await openRun();
  for (const { node, caller, remote } of FAMILIES) {
    serve(run, node, [remote], { protocol: 'UDP' });
    const packet = frame({
      from: caller,
      to: node,
      protocol: 'udp',
      destinationPort: 30_080,
      payload: new Uint8Array(1450),
    });
    if (node === '192.0.2.1') packet.writeUInt16BE(0x4000, 14 + 6);
    t.match(run.fromHost(withChecksums(packet)), {
      kind: 'link',
      reasons: ['service-translated ingress', 'packet-too-big egress'],
    });
    const kind = node === '192.0.2.1' ? '3/4' : '2/0';
    t.equal(
      readVerified(run.output()),
      `${node} > ${caller} icmp ${kind} mtu 1450 ([${caller}]:40000 > [${node}]:30080 udp)`,
    );
  }
});
