import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'tap';
import { createLogger } from '../../mesh/runtime/log.ts';
import { openTempDir } from '../../mesh/testing/temp-dir.ts';
import { parseClusterName } from '../../mesh/wire/ids.ts';
import type { LocalPolicy } from '../../mesh/wire/local-policy.ts';
import type { CidrPrefixes } from '../policy/peer-sets.ts';
import type { ParsedPolicy } from '../policy/rule.ts';
import { type FormerPolicies, openFormerPolicies } from './former-policies.ts';
import { createPolicyFeed } from './policy-feed.ts';

const logger = createLogger('test', { level: 'silent' });

function openFeed(former?: FormerPolicies) {
  const policies = new Map<string, ParsedPolicy>();
  const groups = new Map<string, CidrPrefixes>();
  const feed = createPolicyFeed(
    {
      setPolicy(name, policy) {
        if (policy === undefined) policies.delete(name);
        else policies.set(name, policy);
      },
      setCidrGroup(name, group) {
        if (group === undefined) groups.delete(name);
        else groups.set(name, group);
      },
    },
    { clusterName: parseClusterName('alpha'), defaultLocalCluster: true, former, logger },
  );
  return { feed, policies, groups };
}

const cnp = (generation: number, spec: unknown): LocalPolicy => ({
  kind: 'CiliumNetworkPolicy',
  namespace: 'demo',
  name: 'p',
  generation,
  manifest: { spec },
  origin: { file: `${generation}.yaml`, lines: { spec: 4 } },
});
const good = (generation: number) =>
  cnp(generation, { endpointSelector: {}, ingress: [{ fromEntities: ['host'] }] });
const bad = (generation: number) => cnp(generation, { endpointSelector: 7, ingress: [{}] });
const ccg = (generation: number, cidr: string): LocalPolicy => ({
  kind: 'CiliumCIDRGroup',
  namespace: '',
  name: 'g',
  generation,
  manifest: { spec: { externalCIDRs: [cidr] } },
});

test('a version that cannot be read leaves the last one in force that could', async (t) => {
  const { feed, policies } = openFeed();
  feed.set('k', bad(1));
  t.equal(policies.get('k')?.clauses[0]?.isolates, true, 'it never had one');
  feed.set('k', good(2));
  t.equal(policies.get('k')?.problems.length, 0);
  feed.set('k', bad(3));
  feed.set('k', bad(4));
  const held = policies.get('k');
  t.match(held, { generation: 4, clauses: [{ isolates: false, ingressEnforced: true }] });
  t.match(
    held?.problems.at(-1)?.message,
    'generation 4 cannot be read: generation 2 stays in force until it is corrected',
  );
  t.ok((held?.problems.length ?? 0) > 1, 'and what is wrong with it is said');
  t.equal(
    held && feed.originOf(held)?.file,
    '2.yaml',
    'its rules stand where the older version did',
  );
  feed.set('k', good(5));
  t.same(policies.get('k')?.problems, []);
  feed.set('k', undefined);
  t.equal(policies.size, 0);
  feed.set('k', bad(6));
  t.equal(policies.get('k')?.clauses[0]?.isolates, true, 'what was deleted is forgotten');
});

test('a group that cannot be read keeps its networks', async (t) => {
  const { feed, groups } = openFeed();
  feed.set('g', ccg(1, 'nonsense'));
  t.match(groups.get('g'), { prefixes: undefined });
  feed.set('g', ccg(2, '203.0.113.0/24'));
  feed.set('g', ccg(3, 'nonsense'));
  t.same(groups.get('g')?.prefixes, ['203.0.113.0/24']);
  t.match([...feed.groups()], [{ name: 'g', generation: 3, problems: [{}, {}] }]);
  feed.set('g', undefined);
  t.equal(groups.size, 0);
});

test('a version that stays in force does so over a restart', async (t) => {
  await using folder = await openTempDir('former');
  const first = openFeed(openFormerPolicies(folder.path, logger));
  first.feed.set('k', good(1));
  first.feed.set('k', bad(2));
  first.feed.set('g', ccg(1, '203.0.113.0/24'));
  first.feed.set('g', ccg(2, 'nonsense'));
  first.feed.set('other', good(7));
  first.feed.set('other', bad(8));

  const second = openFeed(openFormerPolicies(folder.path, logger));
  second.feed.set('k', bad(2));
  second.feed.set('g', ccg(2, 'nonsense'));
  second.feed.complete();
  t.match(second.policies.get('k')?.clauses, [{ isolates: false }]);
  t.same(second.groups.get('g')?.prefixes, ['203.0.113.0/24']);
  second.feed.set('g', ccg(3, '198.51.100.0/24'));

  const former = openFormerPolicies(folder.path, logger);
  t.equal(former.get('k')?.generation, 1);
  t.equal(former.get('g'), undefined, 'one that was corrected is not kept');
  t.equal(former.get('other'), undefined, 'nor one that has gone');
  writeFileSync(join(folder.path, 'former-policies.json'), '{"schema":2}');
  t.equal(
    openFormerPolicies(folder.path, logger).get('k'),
    undefined,
    'what cannot be read is none',
  );
});
