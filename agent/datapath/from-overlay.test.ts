import { test } from 'tap';
import { parseIpAddress } from '../../mesh/wire/ip.ts';
import { kernelSkipReason } from './testing/bpffs.ts';
import type { PacketSpec } from './testing/packet.ts';
import { openProgramRun, testEndpoint, testPolicy, testPrefix } from './testing/program-run.ts';

const skip = kernelSkipReason();
const REMOTE_IDENTITY = 0x20000 + 500;
const TCP: PacketSpec = { from: '10.2.0.7', to: '10.1.0.2', protocol: 'tcp' };

async function openOverlayRun(): ReturnType<typeof openProgramRun> {
  const run = await openProgramRun();
  run.tables.endpoints.apply({
    upserts: [
      testEndpoint(1, '10.1.0.2', {
        addresses: [parseIpAddress('10.1.0.2'), parseIpAddress('fd01::2')],
        ingressEnforced: true,
      }),
    ],
    deletes: [],
  });
  run.tables.ipcache.apply({
    upserts: [
      testPrefix('10.2.0.0/24', REMOTE_IDENTITY, { tunnelEndpoint: '192.0.2.2', clusterId: 2 }),
      testPrefix('fd02::/64', REMOTE_IDENTITY, { tunnelEndpoint: 'fd00::2', clusterId: 2 }),
      testPrefix('10.1.0.2/32', 0x10000 + 301),
      testPrefix('192.0.2.2/32', 6, { clusterId: 2 }),
      testPrefix('fd00::2/128', 6, { clusterId: 2 }),
    ],
    deletes: [],
  });
  return run;
}

test('mesh_from_overlay: identity from the VNI decides', { skip }, async (t) => {
  await using run = await openOverlayRun();
  const tunnel = { vni: REMOTE_IDENTITY, remote: '192.0.2.2' };
  t.strictSame(
    run.fromOverlay(TCP, tunnel),
    { kind: 'drop', reasons: ['policy-denied ingress'] },
    'nothing allows it',
  );
  run.tables.policy.apply({ upserts: [testPolicy(1, REMOTE_IDENTITY)], deletes: [] });
  t.strictSame(
    run.fromOverlay(TCP, tunnel),
    { kind: 'peer', ifindex: 1, mac: '0a:00:00:00:00:01', reasons: ['forwarded ingress'] },
    'its identity is allowed',
  );
  t.strictSame(
    run.fromOverlay(TCP, { ...tunnel, vni: REMOTE_IDENTITY + 1 }),
    { kind: 'drop', reasons: ['policy-denied ingress'] },
    'another identity from the same address',
  );
  t.strictSame(
    run.fromOverlay({ ...TCP, from: 'fd02::7', to: 'fd01::2' }, { ...tunnel, remote: 'fd00::2' })
      .kind,
    'peer',
    'IPv6 over an IPv6 underlay',
  );
});

test('mesh_from_overlay: a node in the VNI is refined by its address', { skip }, async (t) => {
  await using run = await openOverlayRun();
  run.tables.policy.apply({ upserts: [testPolicy(1, REMOTE_IDENTITY)], deletes: [] });
  for (const vni of [6, 7]) {
    t.equal(run.fromOverlay(TCP, { vni, remote: '192.0.2.2' }).kind, 'peer', `VNI ${vni}`);
  }
  t.strictSame(
    run.fromOverlay(TCP, { vni: 4, remote: '192.0.2.2' }),
    { kind: 'drop', reasons: ['policy-denied ingress'] },
    'another reserved identity stands for itself',
  );
});

test('mesh_from_overlay: what is refused before policy', { skip }, async (t) => {
  await using run = await openOverlayRun();
  run.tables.policy.apply({ upserts: [testPolicy(1, 0)], deletes: [] });
  const tunnel = { vni: REMOTE_IDENTITY, remote: '192.0.2.2' };
  const cases: [string, PacketSpec, { vni: number; remote: string } | undefined, string][] = [
    ['no tunnel metadata', TCP, undefined, 'no-tunnel-key'],
    ['the VNI of a host', TCP, { ...tunnel, vni: 1 }, 'invalid-identity'],
    ['no identity', TCP, { ...tunnel, vni: 0 }, 'invalid-identity'],
    ['no such endpoint', { ...TCP, to: '10.1.0.9' }, tunnel, 'no-endpoint'],
    [
      'neighbour discovery',
      { from: 'fd02::7', to: 'fd01::2', protocol: 'icmp', type: 136 },
      { ...tunnel, remote: 'fd00::2' },
      'unsupported-protocol',
    ],
  ];
  for (const [name, packet, metadata, reason] of cases) {
    const expected = { kind: 'drop', reasons: [`${reason} ingress`] };
    t.strictSame(run.fromOverlay(packet, metadata), expected, name);
  }
  t.equal(run.fromOverlay(TCP, tunnel).kind, 'peer', 'the same packet as it should be');
  t.equal(
    run.fromOverlay(TCP, { ...tunnel, vni: 6 }).kind,
    'peer',
    'a reserved identity names no cluster',
  );
});

test('mesh_from_overlay: answers need no policy', { skip }, async (t) => {
  await using run = await openOverlayRun();
  const tunnel = { vni: REMOTE_IDENTITY, remote: '192.0.2.2' };
  const answer: PacketSpec = { ...TCP, sourcePort: 80, destinationPort: 40000, flags: 'SA' };
  t.equal(run.fromOverlay(answer, tunnel).kind, 'drop', 'to a question that was not asked');
  const question: PacketSpec = { from: '10.1.0.2', to: '10.2.0.7', protocol: 'tcp' };
  t.equal(run.fromEndpoint(question).kind, 'tunnel');
  t.equal(run.fromOverlay(answer, tunnel).kind, 'peer');
});
