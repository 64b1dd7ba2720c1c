import { test } from 'tap';
import { createHoldings } from './holdings.ts';
import { createRefusals } from './refusals.ts';

test('what a list does not name again is gone at its end', async (t) => {
  const holdings = createHoldings();
  for (const name of ['a', 'b', 'c']) holdings.add('ips', name);
  holdings.beginList('ips');
  t.equal(holdings.count('ips'), 3, 'in use while the list goes on');
  holdings.add('ips', 'b');
  holdings.add('ips', 'd');
  t.ok(holdings.remove('ips', 'a'), 'a deletion in the middle of a list counts');
  t.notOk(holdings.remove('ips', 'a'));
  t.same([...holdings.endList('ips')], ['c']);
  t.equal(holdings.count('ips'), 2);
});

test('a list that is cut off leaves everything in use', async (t) => {
  const holdings = createHoldings();
  for (const name of ['a', 'b', 'c']) holdings.add('nodes', name);
  holdings.beginList('nodes');
  holdings.add('nodes', 'a');
  holdings.beginList('nodes');
  t.equal(holdings.count('nodes'), 3);
  holdings.add('nodes', 'b');
  t.same([...holdings.endList('nodes')].sort(), ['a', 'c']);
  t.same(holdings.takeAll('nodes'), ['b']);
  t.equal(holdings.count('nodes'), 0);
});

test('kinds do not mix', async (t) => {
  const holdings = createHoldings();
  holdings.add('nodes', 'a');
  holdings.beginList('ips');
  t.same([...holdings.endList('ips')], []);
  t.equal(holdings.count('nodes'), 1);
});

test('refusals count keys, not attempts, and the first of a reason is worth telling', async (t) => {
  const refusals = createRefusals();
  t.equal(refusals.note('k1', 'bad-value', 'm1'), true);
  t.equal(refusals.note('k1', 'bad-value', 'm1'), false);
  t.equal(refusals.note('k2', 'wrong-cluster', 'm2'), true);
  t.match(refusals.status(), { byReason: { 'bad-value': 1, 'wrong-cluster': 1 }, last: 'm2' });
  refusals.clear('k2');
  t.same(refusals.status().byReason, { 'bad-value': 1 });
  refusals.clear('k1');
  const { byReason, last, examples } = refusals.status();
  t.same({ byReason, last, examples }, { byReason: {}, last: undefined, examples: [] });
});

test('refusals of a peer that has endless bad keys take bounded memory, and are still counted', async (t) => {
  const refusals = createRefusals();
  for (let key = 0; key < 25_000; key += 1) refusals.note(String(key), 'bad-key', 'm');
  t.same(refusals.status().byReason, { 'bad-key': 25_000 });
  refusals.clearAll();
  const { byReason, last, examples } = refusals.status();
  t.same({ byReason, last, examples }, { byReason: {}, last: undefined, examples: [] });
});
