import { test } from 'tap';
import { openPolicyEngine } from '../testing/policy-engine.ts';
import { ENDPOINTS } from '../testing/policy-world.ts';
import { createMemoryDatapath } from './memory-datapath.ts';

test('an endpoint that needs too many rows has none and is closed, until it needs fewer', async (t) => {
  const { engine, twin, set } = openPolicyEngine({ policyMapMax: 6 });
  for (const name of ['identity 1', 'address 10.1.0.1', 'address 10.1.0.2']) set(name, 1);
  set('identity 2', 2);
  set('identity 3', 2);
  set('address 10.1.0.2', 2);
  set('policy a', 1);
  for (const endpoint of ENDPOINTS) engine.addEndpoint(endpoint);
  engine.flush();
  const rowsOf = (id: number) => twin.policy.rows().filter((row) => row.endpointId === id).length;
  const before = rowsOf(1);
  t.ok(before > 0);
  // Blocks of 8000 to 8010, each for every identity, and the denies among them.
  set('policy b', 2);
  for (const name of ['identity 4', 'identity 5']) set(name, 2);
  engine.flush();
  t.equal(rowsOf(1), 0);
  t.match(twin.endpoints.get('1'), { ingressEnforced: true, egressEnforced: false });
  const [first, second] = engine.status().endpoints;
  t.match(first, { isOverfull: true });
  t.ok((first?.entries ?? 0) > 6, 'it says how many there would be');
  t.match(second, { isOverfull: false }, 'nobody else is');
  set('policy b', 0);
  engine.flush();
  t.ok(rowsOf(1) > 0);
  t.match(engine.status().endpoints[0], { isOverfull: false });
});

test('where the map itself has no room, endpoints are closed one by one', async (t) => {
  const twin = createMemoryDatapath();
  const { engine, set } = openPolicyEngine({
    twin,
    around: () => ({ ...twin, capacities: () => [{ map: 'mesh_policy', maxEntries: 3 }] }),
  });
  for (const name of ['identity 1', 'address 10.1.0.1', 'address 10.1.0.2']) set(name, 1);
  set('policy a', 3);
  for (const endpoint of ENDPOINTS) engine.addEndpoint(endpoint);
  engine.flush();
  t.same(
    engine.status().endpoints.map(({ entries, isOverfull }) => ({ entries, isOverfull })),
    [
      { entries: 3, isOverfull: false },
      { entries: 3, isOverfull: true },
    ],
  );
  t.equal(twin.policy.rows().length, 3);
});

test('rows are told with the rules that made them, policies with their rows', async (t) => {
  const { engine, set } = openPolicyEngine();
  for (const name of ['identity 1', 'address 10.1.0.1']) set(name, 1);
  set('identity 2', 2);
  set('policy a', 3);
  set('policy b', 4);
  const [endpoint] = ENDPOINTS;
  if (endpoint !== undefined) engine.addEndpoint(endpoint);
  set('policy c', 8);
  engine.flush();
  const { policyView } = engine;
  const texts = [...policyView.rowsOf(1)].map((row) => {
    const rules = policyView.rulesOf(row).map(({ policy, rule }) => `${policy.name} ${rule.path}`);
    return `${row.verdict} ${row.identity > 65_535 ? 'outside' : row.identity} ${row.port} ${rules.join(', ')}`;
  });
  t.ok(texts.includes('allow 2 443 a spec.ingress[0]'), 'the world');
  t.ok(texts.includes('allow 6 9100 c spec.ingress[1]'), 'nodes');
  t.ok(texts.some((text) => text.startsWith('deny outside 0 b spec.ingressDeny[0]')));
  t.ok(texts.includes('allow outside 8443 c spec.ingress[2]'));
  t.same(
    texts.filter((text) => text.endsWith(' ')),
    [],
    'no row is there for nothing',
  );
  const entries = engine.policyEntries();
  const byName = new Map([...entries].map(([policy, count]) => [policy.name, count]));
  t.equal(byName.get('a'), texts.filter((text) => text.includes(' a spec')).length);
  t.equal(byName.get('b'), texts.filter((text) => text.includes(' b spec')).length);
  t.equal(byName.get('c'), texts.filter((text) => text.includes(' c spec')).length);
});
