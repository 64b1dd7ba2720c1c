import { readdirSync, readFileSync } from 'node:fs';
import { test } from 'tap';
import { projectPath } from '../../mesh/runtime/project-path.ts';
import { reservedIdentity } from '../../mesh/wire/ids.ts';
import { lookupVerdict } from './map-entries.ts';
import type { Direction } from './rule.ts';
import { judgeSide, type Party, policyOf } from './sources-of-verdict.ts';
import { type CorpusCase, type CorpusFlow, parseCorpus, parseWorld } from './testing/corpus.ts';
import { enforcingCluster } from './testing/corpus-oracle.ts';
import { addressesOf, corpusView } from './testing/corpus-view.ts';
import { resolveParty } from './trace-party.ts';
import { type PolicyView, partyOf } from './trace-view.ts';

const FOLDER = projectPath('agent/policy/testdata/corpus');
const read = (file: string) => readFileSync(`${FOLDER}/${file}`, 'utf8');
const world = parseWorld(read('world.yaml'));
const cases = readdirSync(FOLDER)
  .filter((file) => file.endsWith('.yaml') && file !== 'world.yaml')
  .flatMap((file) => parseCorpus(read(file), world));

/** Somebody of a table, as the agent of a cluster resolves the address. */
function partyNamed(each: CorpusCase, name: string, view: PolicyView): Party {
  const reserved = /^reserved:(.+)$/.exec(name)?.[1];
  if (reserved !== undefined && reserved !== 'host') {
    return {
      identity: reservedIdentity(reserved as Parameters<typeof reservedIdentity>[0]),
      labels: [{ source: 'reserved', key: reserved, value: '' }],
      kind: reserved.startsWith('world') ? 'world' : 'endpoint',
      address: undefined,
      nodeLabels: [],
      namedPorts: [],
    };
  }
  const [address] = addressesOf(each, reserved === undefined ? name : `${view.cluster}-1`);
  if (address === undefined) throw new Error(`${name} has no address`);
  const [info] = resolveParty({ kind: 'address', address }, view).parties;
  if (info === undefined) throw new Error(`${name} is nobody`);
  return partyOf(info);
}

const views = new Map<string, PolicyView>();

/** Views of a case, each made once. */
function viewOf(each: CorpusCase, cluster: 'alpha' | 'beta'): PolicyView {
  const key = `${cluster} ${each.name}`;
  const view = views.get(key) ?? corpusView(each, cluster, { allowLocalhost: false });
  views.set(key, view);
  return view;
}

/** What the rules say about the policies of each side, and whether the rows for the kernel say the same. */
function verdictsOf(each: CorpusCase, flow: CorpusFlow) {
  const side = (direction: Direction) => {
    const [own, other] = direction === 'egress' ? [flow.from, flow.to] : [flow.to, flow.from];
    const cluster = enforcingCluster(each.world, own);
    if (cluster === undefined) return { verdict: 'allow', rows: 'allow' };
    const view = viewOf(each, cluster);
    const subject = partyNamed(each, own, view);
    const peer = partyNamed(each, other, view);
    const question = { direction, peer, protocol: flow.protocol, port: flow.port };
    const { verdict } = judgeSide(policyOf(subject, view.policies, view), question, view);
    const isAllowed = verdict === 'allowed' ? 'allow' : 'deny';
    const endpoint = view.endpoints.find(({ identity }) => identity === subject.identity);
    // Rows of nodes are the business of another test.
    if (endpoint === undefined) return { verdict: isAllowed, rows: isAllowed };
    const rows = [...endpoint.rows()];
    // Rows give some addresses identities of their own: it is asked again who the other side is.
    const { identity } = partyNamed(each, other, view);
    const found = lookupVerdict(rows, { ...question, identity });
    const isOpen = direction === 'ingress' ? !endpoint.ingressEnforced : !endpoint.egressEnforced;
    return {
      verdict: isAllowed,
      rows: isOpen ? 'allow' : found.kind === 'none' ? 'deny' : found.kind,
    };
  };
  return { egress: side('egress'), ingress: side('ingress') };
}

test('rules and the rows made of them give every verdict of the corpus', async (t) => {
  t.ok(cases.length >= 150, `${cases.length} cases`);
  for (const each of cases) {
    const wrong = each.flows.flatMap((flow) => {
      const { egress, ingress } = verdictsOf(each, flow);
      const isRight =
        egress.verdict === flow.egress &&
        ingress.verdict === flow.ingress &&
        egress.rows === flow.egress &&
        ingress.rows === flow.ingress;
      return isRight
        ? []
        : [
            {
              line: `${flow.from} ${flow.to} ${flow.flow}`,
              expected: [flow.egress, flow.ingress],
              egress,
              ingress,
            },
          ];
    });
    t.same(wrong, [], each.name);
  }
});
