/** The node itself as a party: what it sends through the tunnel device, and what comes back for it, packet by packet. */
import { test } from 'tap';
import { parseIpAddress } from '../../mesh/wire/ip.ts';
import { kernelSkipReason } from './testing/bpffs.ts';
import { ipPacket, type PacketSpec } from './testing/packet.ts';
import {
  openProgramRun,
  type ProgramRun,
  TUNNEL_IFINDEX,
  testEndpoint,
  testPrefix,
} from './testing/program-run.ts';

const skip = kernelSkipReason();
const PEER = 0x20000 + 500;
const MACHINE = 0x10000 + 900;
const [HOST, WORLD, REMOTE_NODE] = [1, 2, 6];

const FAMILIES = [
  { node: '192.0.2.1', other: '192.0.2.77', peer: '192.0.2.2', pod: '10.2.0.7', own: '10.1.0.2' },
  { node: 'fd00::1', other: 'fd00::77', peer: 'fd00::2', pod: 'fd02::7', own: 'fd01::2' },
] as const;

/** A node with an endpoint, and a peer's node with a pod; `identity`: what the node's own addresses are. */
async function openRun(identity = HOST): Promise<ProgramRun> {
  const run = await openProgramRun({ nodeIps: FAMILIES.map(({ node }) => parseIpAddress(node)) });
  const whole = (address: string) => `${address}/${address.includes(':') ? 128 : 32}`;
  run.tables.endpoints.apply({
    upserts: [
      testEndpoint(1, '10.1.0.2', { addresses: FAMILIES.map(({ own }) => parseIpAddress(own)) }),
    ],
    deletes: [],
  });
  run.tables.ipcache.apply({
    upserts: FAMILIES.flatMap(({ node, other, peer, pod }) => [
      testPrefix(whole(node), identity),
      testPrefix(whole(other), HOST),
      testPrefix(whole(peer), REMOTE_NODE, { clusterId: 2 }),
      testPrefix(whole(pod), PEER, { tunnelEndpoint: peer, clusterId: 2 }),
    ]),
    deletes: [],
  });
  return run;
}

/** What comes back. */
function answerTo(call: PacketSpec, fields: Partial<PacketSpec> = {}): PacketSpec {
  const { sourcePort = 40_000, destinationPort = 80 } = call;
  return {
    ...call,
    from: call.to,
    to: call.from,
    sourcePort: destinationPort,
    destinationPort: sourcePort,
    flags: 'SA',
    ...fields,
  };
}

test('mesh_to_overlay: the node goes as some node, to where the endpoint lives', {
  skip,
}, async (t) => {
  await using run = await openRun();
  for (const { node, other, peer, pod } of FAMILIES) {
    for (const protocol of ['tcp', 'udp', 'icmp'] as const) {
      const outcome = run.toOverlay({ from: node, to: pod, protocol });
      t.match(outcome, { kind: 'tunnel', ifindex: TUNNEL_IFINDEX, vni: REMOTE_NODE, remote: peer });
      t.strictSame(outcome.reasons, ['forwarded-overlay egress'], `${protocol} to ${pod}`);
    }
    t.match(
      run.toOverlay({ from: other, to: pod, protocol: 'tcp' }),
      { kind: 'tunnel', vni: REMOTE_NODE },
      'another address of its own',
    );
  }
});

test('mesh_to_overlay: a machine that is no node goes under its own identity', {
  skip,
}, async (t) => {
  await using run = await openRun(MACHINE);
  for (const { node, pod } of FAMILIES) {
    t.match(run.toOverlay({ from: node, to: pod, protocol: 'tcp' }), {
      kind: 'tunnel',
      vni: MACHINE,
    });
  }
});

test('mesh_to_overlay: what the node passes on under its address is the world', {
  skip,
}, async (t) => {
  await using run = await openRun();
  for (const { node, pod } of FAMILIES) {
    const forwarded = { ingressIfindex: 9 };
    t.match(run.toOverlay({ from: node, to: pod, protocol: 'tcp' }, forwarded), {
      kind: 'tunnel',
      vni: WORLD,
    });
  }
});

test('mesh_to_overlay: packets of others are left alone or dropped, each for its reason', {
  skip,
}, async (t) => {
  await using run = await openRun();
  for (const { node, own, peer, pod } of FAMILIES) {
    t.strictSame(
      run.toOverlay(
        { from: own, to: pod, protocol: 'tcp' },
        { ingressIfindex: 9, tunnel: { vni: PEER, remote: peer } },
      ),
      { kind: 'stack', reasons: [] },
      'another program has sent it on its way, and it is not counted twice',
    );
    for (const from of [own, pod === '10.2.0.7' ? '198.51.100.9' : '2001:db8::9']) {
      t.strictSame(
        run.toOverlay({ from, to: pod, protocol: 'tcp' }, { ingressIfindex: 9 }),
        { kind: 'drop', reasons: ['invalid-source egress'] },
        `nobody sends as ${from} by the stack`,
      );
    }
    for (const to of [peer, pod === '10.2.0.7' ? '10.2.0.8' : 'fd02::8']) {
      t.strictSame(
        run.toOverlay({ from: node, to, protocol: 'tcp' }),
        { kind: 'drop', reasons: ['no-tunnel-endpoint egress'] },
        `no tunnel leads to ${to}`,
      );
    }
  }
  const solicitation = { from: 'fe80::1', to: 'ff02::2', protocol: 58 } as const;
  t.strictSame(run.toOverlay(solicitation), { kind: 'stack', reasons: [] }, "the link's own");
});

test('mesh_from_overlay: what answers the node is for its stack, and nothing else', {
  skip,
}, async (t) => {
  await using run = await openRun();
  const taken = { kind: 'stack', reasons: ['passed-to-stack ingress'] };
  const refused = { kind: 'drop', reasons: ['no-endpoint ingress'] };
  for (const { node, other, peer, pod } of FAMILIES) {
    const tunnel = { vni: PEER, remote: peer };
    for (const protocol of ['tcp', 'udp', 'icmp'] as const) {
      const call = { from: node, to: pod, protocol } as const;
      const type = pod.includes(':') ? 129 : 0;
      const answer = protocol === 'icmp' ? { from: pod, to: node, protocol, type } : answerTo(call);
      if (protocol !== 'tcp') {
        t.strictSame(run.fromOverlay(answer, tunnel), refused, `${protocol}: nothing was asked`);
      }
      run.toOverlay(call);
      t.strictSame(run.fromOverlay(answer, tunnel), taken, `${protocol}: an answer`);
    }
    const call = { from: pod, to: node, protocol: 'tcp', destinationPort: 22 } as const;
    t.strictSame(run.fromOverlay(call, tunnel), refused, 'a call to a server of the node');
    t.strictSame(
      run.fromOverlay({ ...call, sourcePort: 80, destinationPort: 40_000 }, tunnel),
      refused,
      'also with the ports of a connection, once that is answered',
    );
    t.strictSame(
      run.fromOverlay({ ...call, protocol: 'udp' }, tunnel),
      refused,
      'a datagram of nothing that was asked',
    );
    t.strictSame(
      run.fromOverlay({ ...call, destinationPort: 5555, flags: 'A' }, tunnel),
      taken,
      'a connection that was forgotten here is not by the stack',
    );
    run.toOverlay({ from: other, to: pod, protocol: 'udp' });
    t.strictSame(
      run.fromOverlay(answerTo({ from: other, to: pod, protocol: 'udp' }), tunnel),
      taken,
      'at another address of its own',
    );
  }
});

test('mesh_from_overlay: errors about what the node has sent are its own', { skip }, async (t) => {
  await using run = await openRun();
  for (const { node, peer, pod } of FAMILIES) {
    const sent = { from: node, to: pod, protocol: 'udp' } as const;
    const error = (about: PacketSpec): PacketSpec => ({
      from: pod,
      to: node,
      protocol: 'icmp',
      type: pod.includes(':') ? 1 : 3,
      payload: ipPacket(about),
    });
    const tunnel = { vni: PEER, remote: peer };
    t.strictSame(
      run.fromOverlay(error({ ...sent, sourcePort: 41_000 }), tunnel),
      { kind: 'drop', reasons: ['no-endpoint ingress'] },
      'about nothing that was sent',
    );
    run.toOverlay(sent);
    t.equal(run.fromOverlay(error(sent), tunnel).kind, 'stack');
  }
});
