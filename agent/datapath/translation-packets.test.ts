import { test } from 'tap';
import { kernelSkipReason } from './testing/bpffs.ts';
import { withChecksums } from './testing/checksum.ts';
import { frame, ipPacket, type PacketSpec } from './testing/packet.ts';
import { readVerified } from './testing/packet-reader.ts';
import {
  bytes,
  FAMILIES,
  openTranslationRun,
  REMOTE_IDENTITY,
  serve,
} from './testing/translation-run.ts';

const skip = kernelSkipReason();

test('translation: SCTP cannot change ports', { skip }, async (t) => {
  await using run = await openTranslationRun();
  serve(run, FAMILIES[4], { to: ['10.1.0.3'], over: 'sctp', backendPort: 81 });
  t.strictSame(run.fromEndpoint(bytes({ from: '10.1.0.2', to: '172.20.0.1', protocol: 'sctp' })), {
    kind: 'drop',
    reasons: ['nat-unsupported egress'],
  });
});

test('translation: fragments', { skip }, async (t) => {
  await using run = await openTranslationRun();
  for (const family of Object.values(FAMILIES)) {
    const { client, service, remote } = family;
    serve(run, family, { to: [remote], over: 'udp' });
    const payload = Buffer.from(Array.from({ length: 64 }, (_, index) => index * 3));
    const spec = { from: client, to: service, protocol: 'udp' } as const;
    const whole = bytes({ ...spec, payload });
    const headers = family === FAMILIES[4] ? 20 : 48;
    const first = frame({
      ...spec,
      payload: payload.subarray(0, 32),
      fragment: { id: 5, offset: 0, more: true },
    });
    whole.copy(
      first,
      14 + headers + 6,
      whole.length - payload.length - 2,
      whole.length - payload.length,
    );
    const second = frame({
      ...spec,
      payload: payload.subarray(32),
      fragment: { id: 5, offset: 40, more: false },
    });
    t.equal(run.fromEndpoint(withChecksums(first)).kind, 'tunnel');
    const begin = Buffer.from(run.output());
    t.equal(run.fromEndpoint(withChecksums(second)).kind, 'tunnel', 'the later one follows');
    const end = run.output();
    const joined = frame({ ...spec, to: remote, destinationPort: 8080, payload });
    begin.copy(joined, joined.length - 72, 14 + headers, 14 + headers + 40);
    end.copy(joined, joined.length - 32, 14 + headers);
    joined.writeUInt16BE(0, 14 + 10 * Number(family === FAMILIES[4]));
    const restored = Buffer.from(joined);
    const checksum = withChecksums(joined);
    t.equal(
      restored.toString('hex', restored.length - 72),
      checksum.toString('hex', restored.length - 72),
      'together they are the datagram with its right checksum',
    );
    if (family === FAMILIES[4]) t.equal(readVerified(end), `${client} > ${remote} fragment`);
  }
});

test('translation: ICMP errors about translated flows', { skip }, async (t) => {
  await using run = await openTranslationRun();
  for (const family of Object.values(FAMILIES)) {
    const { client, service, remote, local } = family;
    const [type, code] = family === FAMILIES[4] ? [3, 4] : [2, 0];
    const error = (from: string, to: string, about: PacketSpec, size: number): Buffer => {
      const inner = withChecksums(Buffer.concat([Buffer.alloc(14), ipPacket(about)])).subarray(14);
      const packet = frame({ from, to, protocol: 'icmp', type, payload: inner.subarray(0, size) });
      const offset = family === FAMILIES[4] ? 34 : 54;
      packet.writeUInt8(code, offset + 1);
      packet.writeUInt32BE(1400, offset + 4);
      return withChecksums(packet);
    };
    for (const protocol of ['tcp', 'udp'] as const) {
      const suffix = protocol === 'tcp' ? 'tcp A' : 'udp';
      const call = { from: client, to: service, protocol, flags: 'S', sourcePort: 40_000 } as const;
      serve(run, family, { to: [remote], over: protocol });
      t.equal(run.fromEndpoint(bytes(call)).kind, 'tunnel');
      const sent = { ...call, to: remote, destinationPort: 8080, flags: 'A' } as const;
      const quote = `icmp ${type}/${code} mtu 1400 ([${client}]:40000 > [${service}]:80`;
      const whole = error(remote, client, sent, 1000);
      t.equal(run.fromOverlay(whole, { vni: REMOTE_IDENTITY, remote: '192.0.2.2' }).kind, 'peer');
      t.equal(
        readVerified(run.output()),
        `${service} > ${client} ${quote} ${suffix})`,
        'from the tunnel',
      );
      const short = error(remote, client, sent, family === FAMILIES[4] ? 28 : 48);
      t.equal(run.fromOverlay(short, { vni: REMOTE_IDENTITY, remote: '192.0.2.2' }).kind, 'peer');
      t.equal(
        readVerified(run.output()),
        `${service} > ${client} ${quote} ${protocol})`,
        'with 8 bytes of the transport header',
      );
      t.equal(run.toEndpoint(error(remote, client, sent, 1000), 9).kind, 'stack');
      t.equal(
        readVerified(run.output()),
        `${service} > ${client} ${quote} ${suffix})`,
        'from the stack',
      );

      const other = { ...call, sourcePort: 40_001 } as const;
      serve(run, family, { to: [local], over: protocol });
      t.equal(run.fromEndpoint(bytes(other)).kind, 'peer');
      const atServer = { ...other, to: local, destinationPort: 8080, flags: 'A' } as const;
      t.equal(
        run.fromEndpoint(error(local, client, atServer, 1000)).kind,
        'peer',
        'from the server next door',
      );
      t.equal(
        readVerified(run.output()),
        `${service} > ${client} icmp ${type}/${code} mtu 1400 ([${client}]:40001 > [${service}]:80 ${suffix})`,
      );
      const answer = {
        from: service,
        to: client,
        protocol,
        flags: 'A',
        sourcePort: 80,
        destinationPort: 40_001,
      } as const;
      t.equal(
        run.fromEndpoint(error(client, service, answer, 1000)).kind,
        'peer',
        'from the client about the answer',
      );
      t.equal(
        readVerified(run.output()),
        `${client} > ${local} icmp ${type}/${code} mtu 1400 ([${local}]:8080 > [${client}]:40001 ${suffix})`,
      );
    }
  }
});

test('translation: what does not fit into the tunnel is told in the words of the client', {
  skip,
}, async (t) => {
  await using run = await openTranslationRun();
  for (const family of Object.values(FAMILIES)) {
    const { client, service, remote } = family;
    serve(run, family, { to: [remote], over: 'udp' });
    const packet = frame({
      from: client,
      to: service,
      protocol: 'udp',
      payload: new Uint8Array(1450),
    });
    if (family === FAMILIES[4]) packet.writeUInt16BE(0x4000, 14 + 6);
    t.match(run.fromEndpoint(withChecksums(packet)), {
      kind: 'peer',
      reasons: ['service-translated egress', 'packet-too-big egress'],
    });
    t.match(readVerified(run.output()), `mtu 1450 ([${client}]:40000 > [${service}]:80 udp`);
  }
});

test('translation: two connections from one port to one backend stay two', { skip }, async (t) => {
  await using run = await openTranslationRun();
  const [family] = [FAMILIES[4]];
  const direct = {
    from: family.client,
    to: family.local,
    protocol: 'tcp',
    destinationPort: 8080,
  } as const;
  t.equal(run.fromEndpoint(bytes(direct)).kind, 'peer');
  serve(run, family, { to: [family.local] });
  run.fromEndpoint(bytes({ from: family.client, to: family.service, protocol: 'tcp' }));
  const [, port] = /:(\d+) > \[10\.1\.0\.3\]:8080 tcp S$/.exec(readVerified(run.output())) ?? [];
  t.ok(Number(port) >= 61_000, `the translated one comes from port ${port}`);
  const answer = {
    from: family.local,
    to: family.client,
    protocol: 'tcp',
    sourcePort: 8080,
    flags: 'SA',
  } as const;
  run.fromEndpoint(bytes({ ...answer, destinationPort: 40_000 }));
  t.equal(
    readVerified(run.output()),
    '[10.1.0.3]:8080 > [10.1.0.2]:40000 tcp SA',
    'the direct one is answered as it is',
  );
  run.fromEndpoint(bytes({ ...answer, destinationPort: Number(port) }));
  t.equal(readVerified(run.output()), '[172.20.0.1]:80 > [10.1.0.2]:40000 tcp SA');
});
