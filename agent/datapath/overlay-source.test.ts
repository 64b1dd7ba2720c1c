/** `--overlay-source-check`: what a packet from the tunnel has to prove, mode by mode. */
import { test } from 'tap';
import { parseIpAddress } from '../../mesh/wire/ip.ts';
import { OVERLAY_SOURCE_CHECKS } from '../../mesh/wire/maps.ts';
import { writeConfig } from './config.ts';
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

type Mode = (typeof OVERLAY_SOURCE_CHECKS)[number];

/** Identities by the cluster that they are of. */
const OWN = 0x10000 + 500;
const PEER = 0x20000 + 500;
const THIRD = 0x30000 + 500;
/** Of another machine, and of an endpoint behind the first. */
const OTHER_MACHINE = PEER + 8;
const BEHIND = PEER + 18;
const REMOTE_NODE = 6;
const KUBE_APISERVER = 7;

/** Nodes: this one is 192.0.2.1; .2 and .5 are the peer's, .3 the third cluster's, .4 another one of ours. */
async function openRun(): Promise<ProgramRun> {
  const run = await openProgramRun();
  const addresses = [parseIpAddress('10.1.0.2'), parseIpAddress('fd01::2')];
  run.tables.endpoints.apply({
    upserts: [testEndpoint(1, '10.1.0.2', { addresses })],
    deletes: [],
  });
  const node = (number: number, clusterId: number, identity = REMOTE_NODE) => [
    testPrefix(`192.0.2.${number}/32`, identity, { clusterId }),
    testPrefix(`fd00::${number}/128`, identity, { clusterId }),
  ];
  run.tables.ipcache.apply({
    upserts: [
      testPrefix('192.0.2.1/32', 1),
      testPrefix('fd00::1/128', 1),
      testPrefix('10.1.0.2/32', 0x10000 + 301, { clusterId: 1 }),
      testPrefix('fd01::2/128', 0x10000 + 301, { clusterId: 1 }),
      ...node(2, 2),
      ...node(3, 3),
      ...node(4, 1),
      ...node(5, 2, KUBE_APISERVER),
      testPrefix('10.2.0.7/32', PEER, { tunnelEndpoint: '192.0.2.2', clusterId: 2 }),
      testPrefix('fd02::7/128', PEER, { tunnelEndpoint: 'fd00::2', clusterId: 2 }),
      testPrefix('192.0.2.9/32', PEER, { tunnelEndpoint: '192.0.2.9', clusterId: 2 }),
      testPrefix('fd00::9/128', PEER, { tunnelEndpoint: 'fd00::9', clusterId: 2 }),
      testPrefix('192.0.2.8/32', OTHER_MACHINE, { tunnelEndpoint: '192.0.2.8', clusterId: 2 }),
      testPrefix('fd00::8/128', OTHER_MACHINE, { tunnelEndpoint: 'fd00::8', clusterId: 2 }),
      testPrefix('172.18.0.2/32', BEHIND, { tunnelEndpoint: '192.0.2.9', clusterId: 2 }),
      testPrefix('fd18::2/128', BEHIND, { tunnelEndpoint: '192.0.2.9', clusterId: 2 }),
      testPrefix('10.3.0.7/32', THIRD, { tunnelEndpoint: '192.0.2.3', clusterId: 3 }),
      testPrefix('fd03::7/128', THIRD, { tunnelEndpoint: 'fd00::3', clusterId: 3 }),
      testPrefix('10.1.4.7/32', OWN, { tunnelEndpoint: '192.0.2.4', clusterId: 1 }),
      testPrefix('fd01:4::7/128', OWN, { tunnelEndpoint: 'fd00::4', clusterId: 1 }),
    ],
    deletes: [],
  });
  return run;
}

/** Hosts of the scenarios, of both families. */
const ADDRESSES = {
  'the peer pod': ['10.2.0.7', 'fd02::7'],
  'a late pod': ['10.2.0.99', 'fd02::99'],
  "the third cluster's pod": ['10.3.0.7', 'fd03::7'],
  'our other pod': ['10.1.4.7', 'fd01:4::7'],
  'our pod here': ['10.1.0.2', 'fd01::2'],
  'this node': ['192.0.2.1', 'fd00::1'],
  'the peer node': ['192.0.2.2', 'fd00::2'],
  'the peer API server': ['192.0.2.5', 'fd00::5'],
  'the third node': ['192.0.2.3', 'fd00::3'],
  'our other node': ['192.0.2.4', 'fd00::4'],
  'a machine': ['192.0.2.9', 'fd00::9'],
  'another machine': ['192.0.2.8', 'fd00::8'],
  'behind a machine': ['172.18.0.2', 'fd18::2'],
  'a stranger': ['192.0.2.66', 'fd00::66'],
} as const;

type Who = keyof typeof ADDRESSES;

interface Case {
  readonly inner: Who;
  readonly outer: Who;
  readonly vni: number;
  /** Reason of the drop in each mode; undefined: it is delivered. */
  readonly expected: Readonly<Record<Mode, string | undefined>>;
}

const everywhere = (reason: string) => ({ off: undefined, cluster: reason, strict: reason });
const inStrict = (reason: string) => ({ off: undefined, cluster: undefined, strict: reason });
const FINE = { off: undefined, cluster: undefined, strict: undefined };

const CASES: readonly Case[] = [
  { inner: 'the peer pod', outer: 'the peer node', vni: PEER, expected: FINE },
  { inner: 'our other pod', outer: 'our other node', vni: OWN, expected: FINE },
  {
    inner: 'a late pod',
    outer: 'the peer node',
    vni: PEER,
    expected: inStrict('overlay-source-unknown'),
  },
  {
    inner: 'the peer pod',
    outer: 'the peer API server',
    vni: PEER,
    expected: inStrict('overlay-source-mismatch'),
  },
  { inner: 'the peer node', outer: 'the peer node', vni: REMOTE_NODE, expected: FINE },
  {
    inner: 'the peer API server',
    outer: 'the peer API server',
    vni: KUBE_APISERVER,
    expected: FINE,
  },
  { inner: 'the peer node', outer: 'the peer API server', vni: REMOTE_NODE, expected: FINE },
  ...[2, 4, 5, 8, 9, 10].map((vni) => ({
    inner: 'the peer pod' as const,
    outer: 'the peer node' as const,
    vni,
    expected: FINE,
  })),
  ...[3, 11, 31, 99, 101, 255].map((vni) => ({
    inner: 'the peer pod' as const,
    outer: 'the peer node' as const,
    vni,
    expected: everywhere('invalid-identity'),
  })),
  { inner: 'our other pod', outer: 'our other node', vni: 101, expected: FINE },
  { inner: 'a machine', outer: 'a machine', vni: PEER, expected: FINE },
  {
    inner: 'a machine',
    outer: 'a machine',
    vni: THIRD,
    expected: everywhere('overlay-cluster-mismatch'),
  },
  { inner: 'behind a machine', outer: 'a machine', vni: BEHIND, expected: FINE },
  {
    inner: 'behind a machine',
    outer: 'another machine',
    vni: BEHIND,
    expected: everywhere('overlay-source-mismatch'),
  },
  {
    inner: 'the peer pod',
    outer: 'a machine',
    vni: PEER,
    expected: everywhere('overlay-source-mismatch'),
  },
  {
    inner: 'a late pod',
    outer: 'a machine',
    vni: PEER,
    expected: everywhere('overlay-source-unknown'),
  },
  {
    inner: 'the peer pod',
    outer: 'a stranger',
    vni: PEER,
    expected: everywhere('overlay-node-unknown'),
  },
  {
    inner: 'the peer node',
    outer: 'a stranger',
    vni: REMOTE_NODE,
    expected: everywhere('overlay-node-unknown'),
  },
  {
    inner: 'the peer pod',
    outer: 'this node',
    vni: PEER,
    expected: everywhere('overlay-node-unknown'),
  },
  {
    inner: 'the peer pod',
    outer: 'the peer pod',
    vni: PEER,
    expected: everywhere('overlay-node-unknown'),
  },
  {
    inner: 'the peer pod',
    outer: 'the peer node',
    vni: OWN,
    expected: everywhere('overlay-cluster-mismatch'),
  },
  {
    inner: 'the peer pod',
    outer: 'the third node',
    vni: PEER,
    expected: everywhere('overlay-cluster-mismatch'),
  },
  {
    inner: 'a late pod',
    outer: 'the peer node',
    vni: THIRD,
    expected: everywhere('overlay-cluster-mismatch'),
  },
  {
    inner: 'our other pod',
    outer: 'the peer node',
    vni: PEER,
    expected: everywhere('overlay-source-cluster'),
  },
  {
    inner: "the third cluster's pod",
    outer: 'the peer node',
    vni: PEER,
    expected: everywhere('overlay-source-cluster'),
  },
  {
    inner: "the third cluster's pod",
    outer: 'the peer node',
    vni: REMOTE_NODE,
    expected: everywhere('overlay-source-cluster'),
  },
  {
    inner: 'our other node',
    outer: 'the peer node',
    vni: REMOTE_NODE,
    expected: everywhere('overlay-source-cluster'),
  },
  {
    inner: 'our pod here',
    outer: 'the peer node',
    vni: PEER,
    expected: everywhere('overlay-source-ours'),
  },
  {
    inner: 'our pod here',
    outer: 'our other node',
    vni: OWN,
    expected: everywhere('overlay-source-ours'),
  },
  {
    inner: 'this node',
    outer: 'our other node',
    vni: REMOTE_NODE,
    expected: everywhere('overlay-source-ours'),
  },
];

test('mesh_from_overlay: every mode, both families inside and outside', { skip }, async (t) => {
  await using run = await openRun();
  for (const mode of OVERLAY_SOURCE_CHECKS) {
    setMode(run, mode);
    for (const { inner, outer, vni, expected } of CASES) {
      for (const [inside, outside] of [
        [0, 0],
        [1, 1],
        [0, 1],
        [1, 0],
      ] as const) {
        const packet: PacketSpec = {
          from: ADDRESSES[inner][inside],
          to: inside === 0 ? '10.1.0.2' : 'fd01::2',
          protocol: 'udp',
        };
        const found = run.fromOverlay(packet, { vni, remote: ADDRESSES[outer][outside] });
        // A pod's row names one address of its node: over the other family strict mode does not know it. Nodes and machines
        // are known by each of theirs.
        const isKnown = /node|API|late|machine/.test(inner);
        const isOther = mode === 'strict' && inside !== outside && !isKnown;
        const reason = expected[mode] ?? (isOther ? 'overlay-source-mismatch' : undefined);
        const name = `${mode}: ${inner} by ${outer}, VNI ${vni}, IPv${inside ? 6 : 4} over IPv${outside ? 6 : 4}`;
        if (reason === undefined) t.equal(found.kind, 'peer', name);
        else t.strictSame(found, { kind: 'drop', reasons: [`${reason} ingress`] }, name);
      }
    }
  }
});

test('mesh_from_overlay: nobody becomes our host', { skip }, async (t) => {
  await using run = await openRun();
  setMode(run, 'off');
  const enforced = testEndpoint(1, '10.1.0.2', { ingressEnforced: true });
  run.tables.endpoints.apply({ upserts: [enforced], deletes: [] });
  const forged: PacketSpec = { from: '192.0.2.1', to: '10.1.0.2', protocol: 'tcp' };
  t.strictSame(
    run.fromOverlay(forged, { vni: REMOTE_NODE, remote: '192.0.2.66' }),
    { kind: 'drop', reasons: ['policy-denied ingress'] },
    'whom policy always lets pass',
  );
  run.tables.policy.apply({ upserts: [testPolicy(1, REMOTE_NODE)], deletes: [] });
  t.equal(run.fromOverlay(forged, { vni: REMOTE_NODE, remote: '192.0.2.66' }).kind, 'peer');
});

test('mesh_from_overlay: what is behind a machine has its own identity, whatever the machine says', {
  skip,
}, async (t) => {
  await using run = await openRun();
  setMode(run, 'cluster');
  const enforced = testEndpoint(1, '10.1.0.2', { ingressEnforced: true });
  run.tables.endpoints.apply({ upserts: [enforced], deletes: [] });
  run.tables.policy.apply({ upserts: [testPolicy(1, BEHIND)], deletes: [] });
  const from = (address: string, vni: number): unknown => {
    const packet: PacketSpec = { from: address, to: '10.1.0.2', protocol: 'tcp' };
    return run.fromOverlay(packet, { vni, remote: '192.0.2.9' }).kind;
  };
  t.equal(from('172.18.0.2', BEHIND), 'peer');
  t.equal(from('172.18.0.2', PEER), 'peer', 'as what its cluster says it is');
  t.equal(from('192.0.2.9', BEHIND), 'drop', 'the machine is not what is behind it');
});

function setMode(run: ProgramRun, overlaySourceCheck: Mode): void {
  writeConfig(run.objects.maps.get('mesh_config'), {
    clusterId: 1,
    maxConnectedClusters: 255,
    nodeIps: [],
    tunnelIfindex: TUNNEL_IFINDEX,
    tunnelMtu: TUNNEL_MTU,
    overlaySourceCheck,
  });
}
