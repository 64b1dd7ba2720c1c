/**
 * What the programs take for a packet, path by path, without a network: test builds, run again and again on one packet of
 * a flow that they know (BPF_PROG_TEST_RUN). What a tunnel or a redirect costs beyond them is not in it.
 */
import { testRun } from '../agent/datapath/bpf.ts';
import { frame, type PacketSpec } from '../agent/datapath/testing/packet.ts';
import {
  type Outcome,
  openProgramRun,
  type ProgramRun,
  TEST_IFINDEX,
  testEndpoint,
  testPolicy,
  testPrefix,
} from '../agent/datapath/testing/program-run.ts';
import { parseIpAddress } from '../mesh/wire/ip.ts';
import { type BenchContext, median, rounded } from './result.ts';
import { parseSizes } from './sizes.ts';

const DEFAULTS = {
  rounds: 9,
  /** Runs of a program in a measurement. */
  repeat: 200_000,
  /** Addresses in the ipcache, of each family. */
  prefixes: 10_000,
  /** Identities that the policy of an endpoint lets in and out. */
  peers: 100,
};

type Sizes = Readonly<typeof DEFAULTS>;

const NODE = '192.0.2.2';
const OWN_CLUSTER = 1;
const PEER_CLUSTER = 2;
const POD_IDENTITY = (OWN_CLUSTER << 16) + 301;
const PEER_IDENTITY = (PEER_CLUSTER << 16) + 500;
const REMOTE_NODE = 6;
const TCP = 6;
const PORT = 80;

/** Addresses of a family: two endpoints of this node, the second with a policy, a pod of a peer, and somebody outside. */
interface Addresses {
  readonly plain: string;
  readonly guarded: string;
  readonly remote: string;
  readonly world: string;
}

const ADDRESSES: Readonly<Record<4 | 6, Addresses>> = {
  4: { plain: '10.1.0.2', guarded: '10.1.0.3', remote: '10.2.0.7', world: '198.51.100.1' },
  6: { plain: 'fd01::2', guarded: 'fd01::3', remote: 'fd02::7', world: '2001:db8::1' },
};

type Program = 'mesh_from_endpoint' | 'mesh_from_overlay' | 'mesh_to_endpoint';

/** One way of a packet. */
interface Path {
  readonly name: string;
  readonly program: Program;
  readonly from: string;
  readonly to: string;
  /** The packet answers a flow that the other side began. */
  readonly isAnswer: boolean;
  readonly ends: Outcome['kind'];
}

/** Runs the benchmark. Options: see DEFAULTS. */
export async function benchPrograms(context: BenchContext): Promise<void> {
  const sizes: Sizes = parseSizes(context.args, DEFAULTS);
  await using run = await openProgramRun();
  fillTables(run, sizes);
  for (const family of [4, 6] as const) {
    for (const path of pathsOf(ADDRESSES[family])) {
      const packet = establish(run, path);
      const rounds = Array.from({ length: sizes.rounds }, () => {
        context.signal.throwIfAborted();
        return measure(run, path, { packet, repeat: sizes.repeat });
      });
      const metric = `${path.name}, IPv${family}`;
      context.emit({
        bench: 'programs',
        metric,
        value: rounded(median(rounds)),
        unit: 'ns a packet',
        conditions: { ...sizes, program: path.program, raw: rounds },
      });
      context.say(`${metric}: ${rounded(median(rounds))} ns (${path.program})`);
    }
  }
}

function fillTables({ tables }: ProgramRun, { prefixes, peers }: Sizes): void {
  const endpoint = (id: number, name: 'plain' | 'guarded') =>
    testEndpoint(id, ADDRESSES[4][name], {
      addresses: [parseIpAddress(ADDRESSES[4][name]), parseIpAddress(ADDRESSES[6][name])],
      ingressEnforced: name === 'guarded',
      egressEnforced: name === 'guarded',
    });
  tables.endpoints.apply({
    upserts: [endpoint(1, 'plain'), endpoint(2, 'guarded')],
    deletes: [],
  });
  const behindNode = { tunnelEndpoint: NODE, clusterId: PEER_CLUSTER };
  const others = Array.from({ length: prefixes }, (_, index) => {
    const [high, low] = [index >> 8, index & 255];
    return [
      testPrefix(`10.${16 + (high >> 8)}.${high & 255}.${low}/32`, PEER_IDENTITY, behindNode),
      testPrefix(
        `fd02::${(index >> 16) + 1}:${(index & 0xffff).toString(16)}/128`,
        PEER_IDENTITY,
        behindNode,
      ),
    ];
  }).flat();
  tables.ipcache.apply({
    upserts: [
      ...others,
      testPrefix(`${NODE}/32`, REMOTE_NODE, { clusterId: PEER_CLUSTER }),
      testPrefix(`${ADDRESSES[4].remote}/32`, PEER_IDENTITY, behindNode),
      testPrefix(`${ADDRESSES[6].remote}/128`, PEER_IDENTITY, behindNode),
    ],
    deletes: [],
  });
  const identities = Array.from({ length: peers }, (_, index) => PEER_IDENTITY + index);
  const rows = (['ingress', 'egress'] as const).flatMap((direction) =>
    [...identities, POD_IDENTITY].map((identity) =>
      testPolicy(2, identity, { direction, protocol: TCP, port: PORT, portPrefixBits: 16 }),
    ),
  );
  tables.policy.apply({ upserts: rows, deletes: [] });
}

function pathsOf({ plain, guarded, remote, world }: Addresses): Path[] {
  const path = (
    name: string,
    program: Program,
    rest: Pick<Path, 'from' | 'to' | 'ends'> & { readonly isAnswer?: boolean },
  ): Path => ({ isAnswer: false, ...rest, name, program });
  return [
    ...[true, false].flatMap((isGuarded) => {
      const pod = isGuarded ? guarded : plain;
      const suffix = isGuarded ? ', with a policy' : '';
      const out = { from: pod, to: remote, ends: 'tunnel' } as const;
      const into = { from: remote, to: pod, ends: 'peer' } as const;
      return [
        path(`pod to tunnel${suffix}`, 'mesh_from_endpoint', out),
        path(`answer to pod${suffix}`, 'mesh_from_overlay', { ...into, isAnswer: true }),
        path(`tunnel to pod${suffix}`, 'mesh_from_overlay', into),
        path(`pod's answer${suffix}`, 'mesh_from_endpoint', { ...out, isAnswer: true }),
      ];
    }),
    path('pod to pod of the node', 'mesh_from_endpoint', {
      from: plain,
      to: guarded,
      ends: 'peer',
    }),
    path('pod to the world', 'mesh_from_endpoint', { from: plain, to: world, ends: 'stack' }),
    path('the world to pod', 'mesh_to_endpoint', { from: world, to: plain, ends: 'stack' }),
  ];
}

/** Lets the programs see a handshake, and returns a packet of the connection. */
function establish(run: ProgramRun, path: Path): Buffer {
  const [client, server] = path.isAnswer ? [path.to, path.from] : [path.from, path.to];
  const sourcePort = 40_000;
  const forth = {
    from: client,
    to: server,
    protocol: 'tcp',
    sourcePort,
    destinationPort: PORT,
  } as const;
  const back = {
    ...forth,
    from: server,
    to: client,
    sourcePort: PORT,
    destinationPort: sourcePort,
  };
  send(run, { ...forth, flags: 'S' });
  send(run, { ...back, flags: 'SA' });
  send(run, { ...forth, flags: 'A' });
  const packet: PacketSpec = { ...(path.isAnswer ? back : forth), flags: 'A' };
  const outcome = send(run, packet);
  if (outcome.kind !== path.ends) {
    throw new Error(`${path.name}: expected ${path.ends}, got ${JSON.stringify(outcome)}`);
  }
  return frame(packet);
}

/** Through the program that would see it. */
function send(run: ProgramRun, packet: PacketSpec): Outcome {
  const isOurs = [ADDRESSES[4], ADDRESSES[6]].some(({ plain, guarded }) =>
    [plain, guarded].includes(packet.from),
  );
  if (isOurs) return run.fromEndpoint(packet);
  const isRemote = [ADDRESSES[4].remote, ADDRESSES[6].remote].includes(packet.from);
  if (isRemote) return run.fromOverlay(packet, { vni: PEER_IDENTITY, remote: NODE });
  return run.toEndpoint(packet, TEST_IFINDEX);
}

/** Nanoseconds of a run. */
function measure(
  { objects }: ProgramRun,
  { program }: Path,
  { packet, repeat }: { packet: Buffer; repeat: number },
): number {
  const ingressIfindex = program === 'mesh_to_endpoint' ? TEST_IFINDEX : 0;
  const options = { ifindex: TEST_IFINDEX, ingressIfindex, repeat };
  return testRun(objects.program(program), packet, options).nanoseconds;
}
