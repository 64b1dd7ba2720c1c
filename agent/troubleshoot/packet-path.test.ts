import { test } from 'tap';
import { type DiagnosisStep, leadingProblem, verdictOf } from '../../mesh/diagnosis/diagnosis.ts';
import { createStepList } from '../../mesh/diagnosis/step-list.ts';
import { systemClock } from '../../mesh/runtime/clock.ts';
import { parseNumericIdentity } from '../../mesh/wire/ids.ts';
import { type IpAddress, parseIpAddress, parseIpPrefix } from '../../mesh/wire/ip.ts';
import type { IpcacheEntry } from '../datapath/desired.ts';
import type { EchoOutcome } from './echo.ts';
import { followPackets, type PacketPathOptions } from './packet-path.ts';

const { signal } = new AbortController();
const NODES = ['192.0.2.1', '192.0.2.2'].map(parseIpAddress);

function row(prefix: string, node: string, clusterId = 2): IpcacheEntry {
  return {
    prefix: parseIpPrefix(prefix),
    identity: parseNumericIdentity(131_072),
    tunnelEndpoint: parseIpAddress(node),
    clusterId,
  };
}

const ROWS = [
  row('10.2.0.0/24', '192.0.2.1'),
  row('10.2.0.1/32', '192.0.2.1'),
  row('10.2.1.1/32', '192.0.2.2'),
  row('10.3.0.1/32', '192.0.2.3', 3),
];

/** A way on which all is well, but for what a test changes. */
async function look(
  changes: Partial<PacketPathOptions> & {
    readonly answers?: (address: IpAddress, options: { bytes?: number }) => EchoOutcome;
  },
): Promise<readonly DiagnosisStep[]> {
  const { answers = () => 'answered', ...options } = changes;
  const list = createStepList(systemClock);
  await followPackets(list, {
    peer: 'beta',
    clusterId: 2,
    nodes: NODES,
    rows: () => ROWS,
    mtu: 1450,
    probe: async () => 'answered',
    echo: async (address, asked) => answers(address, asked),
    signal,
    ...options,
  });
  return list.steps;
}

test('followPackets() names what packets meet', async (t) => {
  const id = async (changes: Parameters<typeof look>[0]): Promise<string> => {
    const steps = await look(changes);
    const problem = leadingProblem(steps);
    return problem === undefined ? 'none' : `${problem.severity} ${problem.id}: ${problem.cause}`;
  };
  t.equal(await id({}), 'none');
  t.match(await id({ probe: async () => 'silent' }), /^error underlay-blocked: none of its nodes/);
  t.match(
    await id({ probe: async (node) => (node === NODES[0] ? 'silent' : 'answered') }),
    /^warning underlay-blocked: of its nodes 192\.0\.2\.1 do not/,
  );
  t.match(
    await id({ answers: () => 'silent' }),
    /^error vxlan-blocked: .*192\.0\.2\.1, 192\.0\.2\.2, which itself/,
  );
  t.match(
    await id({ answers: (pod) => (pod === '10.2.1.1' ? 'silent' : 'answered') }),
    /^warning vxlan-blocked: .*from node 192\.0\.2\.2,/,
  );
  t.match(
    await id({ answers: (_pod, { bytes = 0 }) => (bytes > 1390 ? 'silent' : 'answered') }),
    /^error mtu-small: packets of 1450 bytes .* is 1350 bytes/,
  );
});

test('followPackets() leaves open what it cannot know', async (t) => {
  const outcomes = async (changes: Parameters<typeof look>[0]): Promise<string[]> =>
    (await look(changes)).map(({ step, outcome }) => `${step} ${outcome}`);
  const nothing = ['underlay skipped', 'tunnel skipped', 'mtu skipped'];
  t.same(await outcomes({ clusterId: undefined, nodes: [] }), nothing);
  const noProgram = await look({ answers: () => 'no-program' });
  t.same(
    noProgram.map(({ step, outcome }) => `${step} ${outcome}`),
    ['underlay passed', 'tunnel skipped', 'mtu skipped'],
  );
  t.match(
    verdictOf('beta', noProgram),
    /works as far as was looked \(not looked at: tunnel, mtu\)/,
  );
});
