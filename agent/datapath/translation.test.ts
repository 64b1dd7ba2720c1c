import { test } from 'tap';
import { parseIpAddress } from '../../mesh/wire/ip.ts';
import { kernelSkipReason } from './testing/bpffs.ts';
import { withChecksums } from './testing/checksum.ts';
import { frame, type PacketSpec } from './testing/packet.ts';
import { readVerified } from './testing/packet-reader.ts';
import { testEndpoint, testPolicy } from './testing/program-run.ts';
import { testFrontend } from './testing/service-maps.ts';
import {
  bytes,
  FAMILIES,
  openTranslationRun,
  outcome,
  peerBackend,
  protocolName,
  REMOTE_IDENTITY,
  serve,
} from './testing/translation-run.ts';

const skip = kernelSkipReason();
const POD_MAC = '0a:00:00:00:00:01';

test('translation: to every kind of backend and back', { skip }, async (t) => {
  await using run = await openTranslationRun();
  for (const [name, family] of Object.entries(FAMILIES)) {
    for (const protocol of ['tcp', 'udp', 'sctp'] as const) {
      const label = `IPv${name}, ${protocol}`;
      const port = protocol === 'sctp' ? 80 : 8080;
      const suffix = protocol === 'tcp' ? 'tcp A' : protocol;
      const { client, service } = family;
      for (const server of [family.local, family.remote, family.outside]) {
        const sourcePort =
          server === family.local ? 40_001 : server === family.remote ? 40_002 : 40_003;
        serve(run, family, { to: [server], over: protocol, backendPort: port });
        const call: PacketSpec = {
          from: client,
          to: service,
          protocol,
          sourcePort,
          destinationPort: 80,
          flags: 'A',
        };
        const answer: PacketSpec = {
          from: server,
          to: client,
          protocol,
          sourcePort: port,
          destinationPort: sourcePort,
          flags: 'A',
        };
        const sent = `[${client}]:${sourcePort} > [${server}]:${port} ${suffix}`;
        const received = `[${service}]:80 > [${client}]:${sourcePort} ${suffix}`;
        const out = run.fromEndpoint(bytes({ ...call, flags: 'S' }));
        if (server === family.local) {
          t.match(
            out,
            { kind: 'peer', mac: '0a:00:00:00:00:02' },
            `${label}: to the local backend`,
          );
          t.equal(
            outcome(run.fromEndpoint(bytes(answer)), run),
            `peer ${received}`,
            `${label}: its answer`,
          );
          t.equal(
            outcome(run.fromEndpoint(bytes(call)), run),
            `peer ${sent}`,
            `${label}: the next packet`,
          );
        } else if (server === family.remote) {
          t.match(out, { kind: 'tunnel', remote: '192.0.2.2' }, `${label}: into the tunnel`);
          const back = run.fromOverlay(bytes(answer), {
            vni: REMOTE_IDENTITY,
            remote: '192.0.2.2',
          });
          t.match(back, { kind: 'peer', mac: POD_MAC }, `${label}: back from the tunnel`);
          t.equal(readVerified(run.output()), received, `${label}: as from the frontend`);
          t.equal(outcome(run.fromEndpoint(bytes(call)), run), `tunnel ${sent}`);
        } else {
          t.equal(out.kind, 'stack', `${label}: to the stack`);
          t.equal(
            outcome(run.toEndpoint(bytes(answer), 9), run),
            `stack ${received}`,
            `${label}: back from the stack`,
          );
          t.equal(outcome(run.fromEndpoint(bytes(call)), run), `stack ${sent}`);
        }
      }
    }
  }
});

test('translation: a packet without UDP checksum keeps none', { skip }, async (t) => {
  await using run = await openTranslationRun();
  serve(run, FAMILIES[4], { to: ['10.1.0.3'], over: 'udp' });
  const packet = bytes({ from: '10.1.0.2', to: '172.20.0.1', protocol: 'udp' });
  packet.writeUInt16BE(0, 14 + 20 + 6);
  t.equal(run.fromEndpoint(packet).kind, 'peer');
  t.equal(readVerified(run.output()), '[10.1.0.2]:40000 > [10.1.0.3]:8080 udp');
  t.equal(run.output().readUInt16BE(14 + 20 + 6), 0);
});

test('translation: a flow keeps its backend when the service changes or goes', {
  skip,
}, async (t) => {
  await using run = await openTranslationRun();
  const [family] = [FAMILIES[4]];
  for (const protocol of ['tcp', 'udp'] as const) {
    serve(run, family, { to: [family.remote], over: protocol });
    const call = (flags: string, sourcePort = 40_000): Buffer =>
      bytes({ from: family.client, to: family.service, protocol, flags, sourcePort });
    t.equal(run.fromEndpoint(call('S')).kind, 'tunnel');
    serve(run, family, { to: [family.local], over: protocol });
    t.equal(
      run.fromEndpoint(call('S', 40_009)).kind,
      'peer',
      `${protocol}: a new flow goes to the new backend`,
    );
    const expected = protocol === 'tcp' ? 'tunnel' : 'peer';
    t.equal(
      run.fromEndpoint(call('A')).kind,
      expected,
      `${protocol}: a connection stays, datagrams move on`,
    );
    const row = testFrontend([], {
      address: parseIpAddress(family.service),
      port: 80,
      protocol: protocolName(protocol),
    });
    run.tables.services.apply({ upserts: [], deletes: [row] });
    t.equal(run.fromEndpoint(call('A')).kind, expected, `${protocol}: the service is gone`);
    t.equal(
      run.fromEndpoint(call('S', 40_010)).kind,
      'stack',
      `${protocol}: it is no frontend any more`,
    );
  }
});

test('translation: a draining backend keeps its datagrams, and a reused port starts anew', {
  skip,
}, async (t) => {
  await using run = await openTranslationRun();
  const [family] = [FAMILIES[6]];
  serve(run, family, { to: [family.remote], over: 'udp' });
  const datagram = bytes({ from: family.client, to: family.service, protocol: 'udp' });
  t.equal(run.fromEndpoint(datagram).kind, 'tunnel');
  serve(run, family, {
    to: [family.local],
    over: 'udp',
    draining: [peerBackend(family.remote, 8080, 'udp')],
  });
  t.equal(run.fromEndpoint(datagram).kind, 'tunnel', 'as long as it drains');
  serve(run, family, { to: [family.local], over: 'udp' });
  t.equal(run.fromEndpoint(datagram).kind, 'peer');

  serve(run, family, { to: [family.remote] });
  const segment = (flags: string): Buffer =>
    bytes({ from: family.client, to: family.service, protocol: 'tcp', flags });
  t.equal(run.fromEndpoint(segment('S')).kind, 'tunnel');
  serve(run, family, { to: [family.local] });
  t.equal(run.fromEndpoint(segment('FA')).kind, 'tunnel', 'the connection ends where it was');
  t.equal(run.fromEndpoint(segment('S')).kind, 'peer', 'a new one from the same port does not');
});

test('translation: affinity is the client address', { skip }, async (t) => {
  await using run = await openTranslationRun();
  const [family] = [FAMILIES[4]];
  const many = ['10.2.0.1', '10.2.0.2', '10.2.0.3', '10.2.0.4', '10.2.0.5', '10.2.0.6'];
  const destinations = (): Set<string> => {
    const seen = new Set<string>();
    for (let index = 0; index < 40; index += 1) {
      run.fromEndpoint(
        bytes({ from: family.client, to: family.service, protocol: 'tcp', sourcePort: nextPort++ }),
      );
      seen.add(readVerified(run.output()).replace(/.*> \[(.*)\].*/, '$1'));
    }
    return seen;
  };
  let nextPort = 41_000;
  serve(run, family, { to: many });
  t.ok(destinations().size > 1, 'without it, any');
  serve(run, family, { to: many, affinitySeconds: 600 });
  t.equal(destinations().size, 1, 'with it, one');
  serve(run, family, { to: many, algorithm: 'maglev' });
  nextPort = 43_000;
  const first = destinations();
  nextPort = 43_000;
  t.strictSame(destinations(), first, 'Maglev: the same flows to the same backends');
});

test('translation: policy sees who really talks to whom', { skip }, async (t) => {
  await using run = await openTranslationRun();
  const [family] = [FAMILIES[4]];
  serve(run, family, { to: [family.remote] });
  const call = (sourcePort: number): Buffer =>
    bytes({ from: family.client, to: family.service, protocol: 'tcp', sourcePort });
  run.tables.endpoints.apply({
    upserts: [testEndpoint(1, family.client, { egressEnforced: true })],
    deletes: [],
  });
  t.strictSame(run.fromEndpoint(call(1)), {
    kind: 'drop',
    reasons: ['service-translated egress', 'policy-denied egress'],
  });
  run.tables.policy.apply({
    upserts: [
      testPolicy(1, REMOTE_IDENTITY, {
        direction: 'egress',
        protocol: 6,
        port: 8080,
        portPrefixBits: 16,
      }),
    ],
    deletes: [],
  });
  t.equal(
    run.fromEndpoint(call(2)).kind,
    'tunnel',
    "the backend's identity and port are what egress is judged by",
  );

  serve(run, family, { to: [family.local] });
  run.tables.endpoints.apply({
    upserts: [
      testEndpoint(1, family.client),
      testEndpoint(2, family.local, { ingressEnforced: true, mac: '0a:00:00:00:00:02' }),
    ],
    deletes: [],
  });
  t.strictSame(run.fromEndpoint(call(3)), {
    kind: 'drop',
    reasons: ['service-translated egress', 'policy-denied ingress'],
  });
  run.tables.policy.apply({ upserts: [testPolicy(2, 0x10000 + 301)], deletes: [] });
  t.equal(
    run.fromEndpoint(call(4)).kind,
    'peer',
    "the client's identity is what ingress is judged by",
  );
});

test('translation: an endpoint that is its own backend', { skip }, async (t) => {
  await using run = await openTranslationRun();
  for (const [name, family] of Object.entries(FAMILIES)) {
    const { client, service, loopback } = family;
    for (const protocol of ['tcp', 'udp'] as const) {
      serve(run, family, { to: [client], over: protocol });
      const suffix = protocol === 'tcp' ? 'tcp S' : 'udp';
      const call = run.fromEndpoint(bytes({ from: client, to: service, protocol }));
      t.equal(
        outcome(call, run),
        `peer [${loopback}]:40000 > [${client}]:8080 ${suffix}`,
        `IPv${name}, ${protocol}`,
      );
      const answer = {
        from: client,
        to: loopback,
        protocol,
        sourcePort: 8080,
        destinationPort: 40_000,
        flags: 'SA',
      };
      t.equal(
        outcome(run.fromEndpoint(bytes(answer)), run),
        `peer [${service}]:80 > [${client}]:40000 ${protocol === 'tcp' ? 'tcp SA' : 'udp'}`,
        'and its answer to itself',
      );
    }
  }
});

test('translation: without a backend the call is refused at once', { skip }, async (t) => {
  await using run = await openTranslationRun();
  const refused = { kind: 'peer', ifindex: 1, reasons: ['service-no-backend egress'] };
  for (const family of Object.values(FAMILIES)) {
    const { client, service } = family;
    const unreachable = family === FAMILIES[4] ? '3/3' : '1/4';
    serve(run, family, { to: [] });
    serve(run, family, { to: [], over: 'udp' });
    serve(run, family, { to: [], over: 'sctp' });
    const syn = frame({ from: client, to: service, protocol: 'tcp', payload: new Uint8Array(0) });
    const transport = syn.length - 20;
    syn.writeUInt32BE(0xfffffff0, transport + 4);
    t.match(run.fromEndpoint(withChecksums(syn)), refused);
    t.equal(readVerified(run.output()), `[${service}]:80 > [${client}]:40000 tcp RA`);
    t.equal(run.output().readUInt32BE(transport + 8), 0xfffffff1, 'it acknowledges the SYN');
    t.equal(run.output().toString('hex', 0, 12), '020000000002020000000001', 'back on the link');

    const data = frame({ from: client, to: service, protocol: 'tcp', flags: 'A' });
    data.writeUInt32BE(77, transport + 8);
    t.match(run.fromEndpoint(withChecksums(data)), refused);
    t.equal(readVerified(run.output()), `[${service}]:80 > [${client}]:40000 tcp R`);
    t.equal(
      run.output().readUInt32BE(transport + 4),
      77,
      'in the place where the client expects it',
    );
    t.match(
      run.fromEndpoint(bytes({ from: client, to: service, protocol: 'tcp', flags: 'R' })),
      { kind: 'drop', reasons: ['service-no-backend egress'] },
      'a reset is not answered',
    );
    for (const protocol of ['udp', 'sctp'] as const) {
      const payload = new Uint8Array(400).fill(7);
      t.match(run.fromEndpoint(bytes({ from: client, to: service, protocol, payload })), refused);
      t.equal(
        readVerified(run.output()),
        `${service} > ${client} icmp ${unreachable} ([${client}]:40000 > [${service}]:80 ${protocol})`,
      );
    }
  }
});
