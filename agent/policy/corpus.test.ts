import { readdirSync, readFileSync } from 'node:fs';
import { test } from 'tap';
import { projectPath } from '../../mesh/runtime/project-path.ts';
import {
  type CorpusCase,
  type CorpusFlow,
  type CorpusWorld,
  LAB_ENDPOINTS,
  parseCorpus,
  parseWorld,
} from './testing/corpus.ts';
import { compileCase, compiledFlow } from './testing/corpus-compiler.ts';
import { openOracle } from './testing/corpus-oracle.ts';

const FOLDER = projectPath('agent/policy/testdata/corpus');
const read = (file: string) => readFileSync(`${FOLDER}/${file}`, 'utf8');
const world: CorpusWorld = parseWorld(read('world.yaml'));
const files = readdirSync(FOLDER).filter((file) => file.endsWith('.yaml') && file !== 'world.yaml');
const cases: readonly CorpusCase[] = files.flatMap((file) => parseCorpus(read(file), world));

const verdictText = ({ egress, ingress }: { egress: string; ingress: string }) =>
  egress === 'deny'
    ? ingress === 'deny'
      ? 'deny both'
      : 'deny egress'
    : ingress === 'deny'
      ? 'deny ingress'
      : 'allow';

test('the corpus is large enough, its names are unique, and its pages are documentation', async (t) => {
  t.ok(cases.length >= 150, `${cases.length} cases`);
  t.ok(cases.filter(({ kernel }) => kernel).length >= 40, 'enough of them for the kernel');
  t.equal(new Set(cases.map(({ name }) => name)).size, cases.length);
  for (const { name, page } of cases) {
    t.match(page, /^(kubernetes\.io\/docs|docs\.cilium\.io\/en\/stable)\/\S+$/, name);
  }
});

test('cases for the kernel keep to what its laboratory has', async (t) => {
  const lab: readonly string[] = LAB_ENDPOINTS;
  const flows = cases.filter(({ kernel }) => kernel).flatMap(({ flows }) => flows);
  for (const { from, to, flow } of flows.filter((each) => isOfLab(each, lab))) {
    t.match(flow, /^(tcp|udp)\/\d+$|^icmp\/8$|^icmpv6\/128$/, `${from} ${to} ${flow}`);
  }
  for (const { name, flows } of cases.filter(({ kernel }) => kernel)) {
    t.ok(
      flows.some((flow) => isOfLab(flow, lab)),
      name,
    );
  }
});

test('the oracle gives every verdict of the corpus', async (t) => {
  for (const each of cases) {
    t.same(differences(each, openOracle(each)), [], each.name);
  }
});

test('the rows that policies are compiled to give every verdict of the corpus', async (t) => {
  for (const each of cases) {
    const compiled = { alpha: compileCase(each, 'alpha'), beta: compileCase(each, 'beta') };
    t.same(
      differences(each, (flow) => compiledFlow(compiled, each, flow)),
      [],
      each.name,
    );
    const problems = [...compiled.alpha.problems, ...compiled.beta.problems];
    t.equal(problems.length, each.refused, `${each.name}: ${problems.join('; ')}`);
  }
});

/** Lines of a case's table that come out otherwise. */
function differences(
  { flows }: CorpusCase,
  verdictOf: (flow: CorpusFlow) => Pick<CorpusFlow, 'egress' | 'ingress'>,
): string[] {
  return flows.flatMap((flow) => {
    const found = verdictText(verdictOf(flow));
    const expected = verdictText(flow);
    if (found === expected) return [];
    return [`${flow.from} ${flow.to} ${flow.flow}: expected ${expected}, found ${found}`];
  });
}

function isOfLab({ from, to }: { from: string; to: string }, lab: readonly string[]): boolean {
  return lab.includes(from) && lab.includes(to);
}
