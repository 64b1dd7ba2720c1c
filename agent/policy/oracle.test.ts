/**
 * Random policies, labels and ports: what the compiled rows give is what the oracle reads in the manifests. A case that fails
 * is made as small as can be and printed as one for the corpus. To repeat a run: ISTHMUS_ORACLE_SEED; ISTHMUS_ORACLE_RUNS asks
 * for more of them.
 */
import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { test } from 'tap';
import { stringify } from 'yaml';
import { projectPath } from '../../mesh/runtime/project-path.ts';
import { type CorpusCase, parseWorld, readCase } from './testing/corpus.ts';
import {
  type CompiledCase,
  compileCase,
  compiledFlow,
  createCompiler,
} from './testing/corpus-compiler.ts';
import { openOracle } from './testing/corpus-oracle.ts';
import { minimise } from './testing/minimise.ts';
import { type RandomCase, randomCases } from './testing/random-case.ts';

const SEED = Number(process.env.ISTHMUS_ORACLE_SEED ?? Math.floor(Math.random() * 2 ** 31));
const IS_LONG = process.env.ISTHMUS_LONG === 'true';
const RUNS = Number(process.env.ISTHMUS_ORACLE_RUNS ?? (IS_LONG ? 20_000 : 700));
/** Histories of several sets of policies. */
const HISTORIES = IS_LONG ? 2_000 : 40;
/** Questions about each set of policies. */
const FLOWS = 30;
const world = {
  ...parseWorld(readFileSync(projectPath('agent/policy/testdata/corpus/world.yaml'), 'utf8')),
  // Random cases bring their own.
  endpoints: {},
};

test(`${RUNS} random sets of policies come to what the oracle says`, async (t) => {
  t.comment(`seed ${SEED}`);
  const verdicts = { allow: 0, deny: 0 };
  const result = fc.check(
    fc.property(randomCases(FLOWS), (random) => {
      const { wrong, counted, problems } = disagreements(random);
      verdicts.allow += counted.allow;
      verdicts.deny += counted.deny;
      // Everything that is generated here is supported: a refusal is a disagreement, too.
      return wrong.length === 0 && problems.length === 0;
    }),
    { numRuns: RUNS, seed: SEED, endOnFailure: true },
  );
  if (result.failed) {
    const [found] = result.counterexample ?? [];
    t.fail(`seed ${SEED}: ${result.errorInstance ?? 'they disagree'}`, {
      case: found && caseText(smallestOf(found)),
    });
    return;
  }
  t.comment(`${verdicts.allow} allowed, ${verdicts.deny} denied`);
  t.ok(verdicts.allow + verdicts.deny >= RUNS * FLOWS, 'enough was asked');
  t.ok(Math.min(verdicts.allow, verdicts.deny) >= RUNS, 'both answers are common');
});

test(`${HISTORIES} times one set of policies after the other, change by change`, async (t) => {
  t.comment(`seed ${SEED}`);
  const property = fc.property(
    fc.array(randomCases(FLOWS), { minLength: 3, maxLength: 6 }),
    fc.infiniteStream(fc.nat()),
    (history, order) => {
      const compiler = createCompiler('alpha');
      for (const [index, random] of history.entries()) {
        const asked = caseOf(random);
        const alpha = compiler.load(asked, () => order.next().value);
        const wrong = disagreementsOf(asked, alpha);
        if (wrong.length === 0) continue;
        const text = stringify({ manifest: random.manifest, wrong });
        throw new Error(`step ${index} of ${history.length}:\n${text}`);
      }
    },
  );
  const result = fc.check(property, { numRuns: HISTORIES, seed: SEED, endOnFailure: true });
  t.notOk(result.failed, `seed ${SEED}`, { problem: `${result.errorInstance ?? ''}` });
});

test('what the oracle and the rows disagree about is made small', async (t) => {
  const wrong = { policies: [{ a: 1, b: [2, 3, { c: 4 }] }, { d: 5 }], flows: [6] };
  const isWrong = ({ policies }: typeof wrong) => JSON.stringify(policies).includes('"c"');
  const smallest = minimise(wrong, { isWrong, kept: new Set(['a']) });
  t.same(smallest, { policies: [{ a: 1, b: [{ c: 4 }] }] });
});

/** Flows of which compiled rows and oracle do not say the same. */
function disagreements(random: RandomCase) {
  const asked = caseOf(random);
  const alpha = compileCase(asked, 'alpha');
  const counted = { allow: 0, deny: 0 };
  const wrong = disagreementsOf(asked, alpha, counted);
  return { wrong, counted, problems: alpha.problems };
}

function caseOf({ manifest, flows }: RandomCase): CorpusCase {
  return readCase({ ...manifest, expect: tableOf(flows) }, world);
}

function disagreementsOf(
  asked: CorpusCase,
  alpha: CompiledCase,
  counted = { allow: 0, deny: 0 },
): object[] {
  // Cluster beta has no policies.
  const compiled = { alpha, beta: { ...alpha, verdict: () => 'allow' as const } };
  const oracle = openOracle(asked);
  return asked.flows.flatMap((flow) => {
    const expected = oracle(flow);
    const found = compiledFlow(compiled, asked, flow);
    const isAllowed = expected.egress === 'allow' && expected.ingress === 'allow';
    counted[isAllowed ? 'allow' : 'deny'] += 1;
    if (expected.egress === found.egress && expected.ingress === found.ingress) return [];
    return [{ flow: `${flow.from} ${flow.to} ${flow.flow}`, oracle: expected, compiled: found }];
  });
}

/** As little of a case as they disagree about; if it was a refusal, as little as is refused in the same words. */
function smallestOf(random: RandomCase): RandomCase {
  const refusal = disagreements(random).problems[0]?.replace(/^[^:]*:/, '');
  const isWrong = (candidate: RandomCase) => {
    const { wrong, problems } = disagreements(candidate);
    if (refusal === undefined) return wrong.length > 0 && problems.length === 0;
    return problems.some((problem) => problem.endsWith(refusal));
  };
  // Without what makes an object one, it would be another case.
  const kept = new Set(['kind', 'metadata', 'endpointSelector', 'operator', 'key', 'serviceName']);
  return minimise(random, { isWrong, kept });
}

function caseText(random: RandomCase): string {
  const { wrong, problems } = disagreements(random);
  const { endpoints, outside, services, name, page, ...rest } = random.manifest;
  const used = new Set(random.flows.flatMap(({ from, to }) => [from, to]));
  const relevant = Object.entries(endpoints ?? {}).filter(([pod]) => used.has(pod));
  return stringify({ problems, endpoints: Object.fromEntries(relevant), ...rest, wrong });
}

function tableOf(flows: RandomCase['flows']): string {
  return flows.map(({ from, to, flow }) => `${from} ${to} ${flow} allow`).join('\n');
}
