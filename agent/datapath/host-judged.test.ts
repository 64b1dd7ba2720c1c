/** The host as an endpoint, packet by packet: what is judged, what never is, and what machines may send. */
import { test } from 'tap';
import { parseIpAddress } from '../../mesh/wire/ip.ts';
import { HOST_ENDPOINT_ID } from '../../mesh/wire/maps.ts';
import type { EndpointEntry } from './desired.ts';
import { kernelSkipReason } from './testing/bpffs.ts';
import { testHostRow } from './testing/host-row.ts';
import type { PacketSpec } from './testing/packet.ts';
import { openProgramRun, type ProgramRun, testPolicy, testPrefix } from './testing/program-run.ts';

const skip = kernelSkipReason();
const [HOST, WORLD, INIT, REMOTE_NODE] = [1, 2, 5, 6];
const POD = 0x20000 + 500;
const MACHINE = 0x10000 + 900;
const OTHER_MACHINE = 0x20000 + 901;

const FAMILIES = [
  {
    own: '192.0.2.1',
    node: '192.0.2.2',
    pod: '10.2.0.7',
    machine: '192.0.2.50',
    second: '192.0.2.51',
    stranger: '198.51.100.9',
  },
  {
    own: 'fd00::1',
    node: 'fd00::2',
    pod: 'fd02::7',
    machine: 'fd00::50',
    second: 'fd00::51',
    stranger: '2001:db8::9',
  },
] as const;

const DENIED_IN = { kind: 'drop', reasons: ['policy-denied ingress'] };
const DENIED_OUT = { kind: 'drop', reasons: ['policy-denied egress'] };
const UNTOUCHED = { kind: 'stack', reasons: [] };

/** A host of cluster 1 that knows a node of cluster 2, with its pod, and two machines there. */
async function openRun(
  kind: 'node' | 'machine',
  fields: Partial<EndpointEntry> = {},
): Promise<ProgramRun> {
  const run = await openProgramRun({
    nodeIps: FAMILIES.map(({ own }) => parseIpAddress(own)),
    hostEndpoint: kind === 'machine' ? kind : undefined,
  });
  const identity = kind === 'machine' ? MACHINE : HOST;
  const whole = (address: string) => `${address}/${address.includes(':') ? 128 : 32}`;
  run.tables.ipcache.apply({
    upserts: FAMILIES.flatMap(({ own, node, pod, machine, second }) => [
      testPrefix(whole(own), identity, { clusterId: kind === 'machine' ? 1 : 0 }),
      testPrefix(whole(node), REMOTE_NODE, { clusterId: 2 }),
      testPrefix(whole(pod), POD, { tunnelEndpoint: node, clusterId: 2 }),
      testPrefix(whole(machine), OTHER_MACHINE, { tunnelEndpoint: machine, clusterId: 2 }),
      testPrefix(whole(second), OTHER_MACHINE + 1, { tunnelEndpoint: second, clusterId: 2 }),
    ]),
    deletes: [],
  });
  setHost(run, identity, fields);
  return run;
}

function setHost(run: ProgramRun, identity: number, fields: Partial<EndpointEntry>): void {
  const row = testHostRow(identity, fields);
  run.tables.endpoints.apply({ upserts: [row], deletes: [] });
}

const CLOSED = { ingressEnforced: true, egressEnforced: true };

test('the row of the host stands under no address, and is read back', { skip }, async (t) => {
  await using run = await openRun('machine', CLOSED);
  t.match(run.tables.endpoints.rows(), [
    { endpointId: HOST_ENDPOINT_ID, addresses: [], identity: MACHINE, ingressEnforced: true },
  ]);
  run.tables.endpoints.apply({
    upserts: [],
    deletes: [{ endpointId: HOST_ENDPOINT_ID, addresses: [] }],
  });
  t.strictSame(run.tables.endpoints.rows(), []);
  const packet = { from: '192.0.2.2', to: '192.0.2.1', protocol: 'tcp' } as const;
  t.strictSame(run.fromHost(packet), UNTOUCHED, 'and nothing is judged any more');
});

test('without the tunnel: whoever is of the mesh is judged, others are not', {
  skip,
}, async (t) => {
  for (const kind of ['node', 'machine'] as const) {
    await using run = await openRun(kind, CLOSED);
    for (const { own, node, pod, machine, stranger } of FAMILIES) {
      for (const protocol of ['tcp', 'udp', 'icmp'] as const) {
        for (const from of [node, pod, machine]) {
          const incoming = run.fromHost({ from, to: own, protocol, destinationPort: 22 });
          t.strictSame(incoming, DENIED_IN, `${kind}: ${protocol} of ${from}`);
          const outgoing = run.toHost({ from: own, to: from, protocol, destinationPort: 22 });
          t.strictSame(outgoing, DENIED_OUT, `${kind}: ${protocol} to ${from}`);
        }
        const packet = { from: stranger, to: own, protocol } as const;
        t.strictSame(run.fromHost(packet), UNTOUCHED, `${stranger} is nobody`);
        t.strictSame(run.toHost({ from: own, to: stranger, protocol }), UNTOUCHED);
      }
      run.tables.policy.apply({ upserts: [testPolicy(HOST_ENDPOINT_ID, POD)], deletes: [] });
      const call = { from: pod, to: own, protocol: 'tcp' } as const;
      t.strictSame(run.fromHost(call), UNTOUCHED, 'a rule allows it');
      const answer = { from: own, to: pod, protocol: 'tcp', flags: 'SA' } as const;
      t.strictSame(
        run.toHost({ ...answer, sourcePort: 80, destinationPort: 40_000 }),
        UNTOUCHED,
        'and its answer',
      );
      run.tables.policy.apply({ upserts: [], deletes: [testPolicy(HOST_ENDPOINT_ID, POD)] });
      t.strictSame(run.fromHost({ ...call, flags: 'A' }), DENIED_IN, 'until that ends');
    }
  }
});

test('what keeps a host a part of its mesh is never judged', { skip }, async (t) => {
  await using run = await openRun('node', CLOSED);
  for (const { own, node, pod } of FAMILIES) {
    const both = (packet: Omit<PacketSpec, 'from' | 'to'>, other: string, open: boolean): void => {
      const name = `${other}: ${packet.protocol} ${packet.destinationPort ?? ''}`;
      const incoming = run.fromHost({ ...packet, from: other, to: own });
      t.strictSame(incoming, open ? UNTOUCHED : DENIED_IN, `in from ${name}`);
      const outgoing = run.toHost({ ...packet, from: own, to: other });
      t.strictSame(outgoing, open ? UNTOUCHED : DENIED_OUT, `out to ${name}`);
    };
    both({ protocol: 'udp', destinationPort: 8472 }, node, true);
    for (const destinationPort of [2379, 2381, 4240]) {
      both({ protocol: 'tcp', destinationPort }, node, true);
      both({ protocol: 'tcp', destinationPort }, pod, false);
      both({ protocol: 'udp', destinationPort }, node, false);
    }
    for (const destinationPort of [67, 68, 546, 547]) {
      both({ protocol: 'udp', destinationPort }, node, true);
    }
  }
  t.strictSame(run.fromHost({ from: 'fe80::1', to: 'ff02::1', protocol: 58 }), UNTOUCHED);
});

test('a machine calls the services of the mesh, and has none of them', { skip }, async (t) => {
  await using run = await openRun('machine', CLOSED);
  for (const { own, node } of FAMILIES) {
    const port = { protocol: 'tcp', destinationPort: 2379 } as const;
    t.strictSame(run.fromHost({ from: node, to: own, ...port }), DENIED_IN, 'its own etcd is its');
    t.strictSame(run.toHost({ from: own, to: node, ...port }), UNTOUCHED);
    const answer = { protocol: 'tcp', sourcePort: 2379, destinationPort: 40_000 } as const;
    t.strictSame(run.fromHost({ from: node, to: own, ...answer, flags: 'SA' }), UNTOUCHED);
    t.strictSame(run.fromHost({ from: node, to: own, ...answer, flags: 'S' }), DENIED_IN);
  }
});

test('answers of connections that are older than the policy pass', { skip }, async (t) => {
  await using run = await openRun('node', { ingressEnforced: true });
  for (const { own, node } of FAMILIES) {
    const answer = { from: node, to: own, protocol: 'tcp', flags: 'A' } as const;
    const ports = { sourcePort: 443, destinationPort: 40_000 };
    t.strictSame(run.fromHost({ ...answer, ...ports }), UNTOUCHED, 'the node has called it');
    t.strictSame(run.fromHost({ ...answer, ...ports, flags: 'S' }), DENIED_IN, 'not a new call');
    const call = { ...answer, sourcePort: 40_000, destinationPort: 443 };
    t.strictSame(run.fromHost(call), DENIED_IN, 'nor what a caller of the node says');
  }
  setHost(run, HOST, CLOSED);
  for (const { own, node } of FAMILIES) {
    const answer = { from: node, to: own, protocol: 'tcp', flags: 'A' } as const;
    t.strictSame(
      run.fromHost({ ...answer, sourcePort: 444, destinationPort: 40_001 }),
      DENIED_IN,
      'where it may not call either, it is no answer',
    );
  }
});

test('a machine is called by the tunnel, and calls by it, under its own identity', {
  skip,
}, async (t) => {
  await using run = await openRun('machine');
  const taken = { kind: 'stack', reasons: ['passed-to-stack ingress'] };
  for (const { own, node, pod } of FAMILIES) {
    const tunnel = { vni: POD, remote: node };
    const call = { from: pod, to: own, protocol: 'tcp', destinationPort: 22 } as const;
    t.strictSame(run.fromOverlay(call, tunnel), taken);
    t.match(run.toOverlay({ from: own, to: pod, protocol: 'udp' }), {
      kind: 'tunnel',
      vni: MACHINE,
      remote: node,
    });
  }
  setHost(run, MACHINE, CLOSED);
  for (const { own, node, pod } of FAMILIES) {
    const tunnel = { vni: POD, remote: node };
    const call = { from: pod, to: own, protocol: 'udp', destinationPort: 53 } as const;
    t.strictSame(run.fromOverlay(call, tunnel), DENIED_IN);
    t.strictSame(run.toOverlay({ from: own, to: pod, protocol: 'tcp' }), DENIED_OUT);
    const world = { ...call, from: node };
    t.strictSame(
      run.fromOverlay(world, { vni: WORLD, remote: node }),
      DENIED_IN,
      'what comes by the tunnel for the world is judged as for a pod',
    );
    t.strictSame(
      run.fromOverlay({ ...call, from: own }, tunnel),
      { kind: 'drop', reasons: ['overlay-source-ours ingress'] },
      'nobody else speaks as the machine',
    );
  }
  setHost(run, INIT, {});
  const [{ own, pod }] = FAMILIES;
  t.match(run.toOverlay({ from: own, to: pod, protocol: 'tcp' }), { vni: INIT }, 'not known yet');
});

test('an answer takes the tunnel that the call came by, whoever it came from', {
  skip,
}, async (t) => {
  await using run = await openRun('machine');
  const [from, to] = ['10.2.0.99', '192.0.2.1'];
  const call = { from, to, protocol: 'udp', destinationPort: 53 } as const;
  t.equal(run.fromOverlay(call, { vni: POD, remote: '192.0.2.2' }).kind, 'stack');
  const answer = { from: to, to: from, protocol: 'udp' } as const;
  t.match(run.toOverlay({ ...answer, sourcePort: 53, destinationPort: 40_000 }), {
    kind: 'tunnel',
    remote: '192.0.2.2',
  });
  t.strictSame(run.toOverlay({ ...answer, sourcePort: 54, destinationPort: 40_000 }), {
    kind: 'drop',
    reasons: ['no-tunnel-endpoint egress'],
  });
});

test('a machine sends for itself alone, under its identity', { skip }, async (t) => {
  await using run = await openRun('machine');
  setHost(run, MACHINE, { ingressEnforced: true });
  const policy = [testPolicy(HOST_ENDPOINT_ID, OTHER_MACHINE)];
  run.tables.policy.apply({ upserts: policy, deletes: [] });
  const mismatch = { kind: 'drop', reasons: ['overlay-source-mismatch ingress'] };
  for (const { own, pod, machine, second, stranger } of FAMILIES) {
    const call = { from: machine, to: own, protocol: 'tcp' } as const;
    for (const vni of [OTHER_MACHINE, POD, REMOTE_NODE]) {
      t.equal(
        run.fromOverlay(call, { vni, remote: machine }).kind,
        'stack',
        `whatever it says (${vni}), it is who its address is`,
      );
    }
    t.strictSame(run.fromOverlay(call, { vni: WORLD, remote: machine }), DENIED_IN);
    t.equal(
      run.fromOverlay(call, {
        vni: OTHER_MACHINE,
        remote: machine === '192.0.2.50' ? 'fd00::50' : '192.0.2.50',
      }).kind,
      'stack',
      'from its address of the other family',
    );
    for (const from of [pod, second]) {
      t.strictSame(
        run.fromOverlay({ ...call, from }, { vni: OTHER_MACHINE, remote: machine }),
        mismatch,
        `not as ${from}`,
      );
    }
    t.strictSame(
      run.fromOverlay({ ...call, from: stranger }, { vni: OTHER_MACHINE, remote: machine }),
      { kind: 'drop', reasons: ['overlay-source-unknown ingress'] },
    );
  }
});
