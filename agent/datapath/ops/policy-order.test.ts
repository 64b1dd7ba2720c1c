/** Promise 4 at the smallest: while one set of policy rows becomes another, row by row. */
import { test } from 'tap';
import { createRandom, type Random } from '../../../mesh/wire/testing/mutate.ts';
import { lookupVerdict, type PolicyQuestion } from '../../policy/map-entries.ts';
import type { PolicyEntry, RowChange } from '../desired.ts';
import { kernelSkipReason } from '../testing/bpffs.ts';
import { openProgramRun, testPolicy } from '../testing/program-run.ts';

const skip = kernelSkipReason();
const PAIRS = 300;
const ID = 0x20000 + 9;

type Key = Omit<PolicyEntry, 'verdict'>;

/** Blocks that lie in one another or apart, from all to one port. */
const BLOCKS = [
  { protocol: 0, port: 0, portPrefixBits: 0 },
  { protocol: 6, port: 0, portPrefixBits: 0 },
  { protocol: 6, port: 64, portPrefixBits: 10 },
  { protocol: 6, port: 80, portPrefixBits: 12 },
  { protocol: 6, port: 80, portPrefixBits: 16 },
  { protocol: 17, port: 53, portPrefixBits: 16 },
];
const QUESTIONS: readonly PolicyQuestion[] = [
  [6, 80],
  [6, 81],
  [6, 100],
  [6, 443],
  [17, 53],
  [132, 7],
].map(([protocol = 0, port = 0]) => ({ direction: 'ingress', identity: ID, protocol, port }));

function randomRows(random: Random): PolicyEntry[] {
  const places = [0, ID].flatMap((identity) => BLOCKS.map((block) => ({ identity, block })));
  return places
    .filter(() => random.below(3) === 0)
    .map(({ identity, block }) =>
      testPolicy(1, identity, { ...block, verdict: random.pick(['allow', 'deny'] as const) }),
    );
}

const verdictsOf = (rows: Iterable<PolicyEntry>): boolean[] => {
  const all = [...rows];
  return QUESTIONS.map((question) => lookupVerdict(all, question).kind === 'allow');
};

test('policy rows: what is allowed or denied throughout stays so in between', {
  skip,
}, async (t) => {
  const seed = Math.floor(Math.random() * 2 ** 31);
  t.comment(`seed ${seed}`);
  const random = createRandom(seed);
  await using run = await openProgramRun();
  const { policy } = run.tables;
  const { keyOf, inOrder = (changes) => changes } = policy;
  let steps = 0;
  for (let pair = 0; pair < PAIRS; pair += 1) {
    const before = randomRows(random);
    const after = randomRows(random);
    policy.apply({ upserts: before, deletes: [] });
    const rows = new Map(before.map((row) => [keyOf(row), row]));
    const wanted = new Map(after.map((row) => [keyOf(row), row]));
    const upserts = after.map((row): RowChange<PolicyEntry, Key> => ({ kind: 'upsert', row }));
    const deletes = before
      .filter((row) => !wanted.has(keyOf(row)))
      .map(({ verdict: _, ...key }): RowChange<PolicyEntry, Key> => ({ kind: 'delete', key }));
    const [first, last] = [verdictsOf(before), verdictsOf(after)];
    for (const change of [...inOrder(upserts), ...inOrder(deletes)]) {
      if (change.kind === 'upsert') rows.set(keyOf(change.row), change.row);
      else rows.delete(keyOf(change.key));
      steps += 1;
      for (const [index, isAllowed] of verdictsOf(rows.values()).entries()) {
        if (first[index] !== last[index] || isAllowed === first[index]) continue;
        const question = JSON.stringify(QUESTIONS[index]);
        t.fail(`${question} is ${isAllowed} in between, seed ${seed}, pair ${pair}`);
      }
    }
    t.strictSame(verdictsOf(rows.values()), last);
    policy.apply({ upserts: after, deletes: before.filter((row) => !wanted.has(keyOf(row))) });
    policy.apply({ upserts: [], deletes: after });
  }
  t.ok(steps > PAIRS);
  t.strictSame(policy.rows(), []);
});
