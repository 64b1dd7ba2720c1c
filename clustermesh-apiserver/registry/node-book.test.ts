import { test } from 'tap';
import { KvError } from '../../mesh/kvstore/kvstore.ts';
import { createMemoryStore, type MemoryStore } from '../../mesh/kvstore/memory.ts';
import { createLogger } from '../../mesh/runtime/log.ts';
import { createManualClock } from '../../mesh/testing/manual-clock.ts';
import type { NodeFacts } from '../convert/node.ts';
import { createNodeBook } from './node-book.ts';
import { NODE_FACTS_PREFIX } from './node-facts.ts';

const signal = new AbortController().signal;
const facts = (address: string) => ({
  sequence: 1,
  addresses: [address],
  pod_cidrs: [],
  boot_id: 'b',
});

/** A book with a grace time of 60 s over a store, and what it publishes. */
function rig(store: MemoryStore = createMemoryStore()) {
  const clock = createManualClock();
  const published = new Map<string, NodeFacts>();
  const book = createNodeBook({
    store,
    clock,
    graceMs: 60_000,
    logger: createLogger('test', { level: 'silent' }),
    publish: (name, found) => {
      if (found === undefined) published.delete(name);
      else published.set(name, found);
    },
    findConflict: (name, { addresses }) => {
      for (const [other, held] of published) {
        const taken = addresses.find((address) => held.addresses.includes(address));
        if (other !== name && taken !== undefined)
          return { field: 'addresses', reason: `${taken} is held by node ${other}` };
      }
      return undefined;
    },
  });
  return { store, clock, book, published, names: () => [...published.keys()].sort() };
}

test('a node stays for the grace time after its session has ended', async (t) => {
  const { clock, book, names, store } = rig();
  const stopping = new AbortController();
  const running = book.run(stopping.signal);
  const session = book.open('n1', () => t.fail('nobody replaces it'));
  t.equal(await session.offer(facts('192.0.2.1'), signal), undefined);
  t.same(names(), ['n1']);
  await clock.advance(600_000);
  t.same(names(), ['n1'], 'for as long as it is connected');
  session.close();
  await clock.advance(59_000);
  t.same(names(), ['n1']);
  t.match(book.report, [{ node: 'n1', state: 'gone', addresses: ['192.0.2.1'] }]);
  await clock.advance(3_000);
  t.same(names(), []);
  t.same(book.report, []);
  t.equal((await store.list(NODE_FACTS_PREFIX)).pairs.length, 0);
  stopping.abort();
  await running;
});

test('a node that comes back in time never goes', async (t) => {
  const { clock, book, names } = rig();
  const stopping = new AbortController();
  const running = book.run(stopping.signal);
  book.open('n1', () => undefined).close();
  const first = book.open('n1', () => undefined);
  await first.offer(facts('192.0.2.1'), signal);
  first.close();
  await clock.advance(50_000);
  const second = book.open('n1', () => undefined);
  await clock.advance(100_000);
  t.same(names(), ['n1'], 'even before it has said anything again');
  second.close();
  stopping.abort();
  await running;
});

test('a restart of the registry takes no node away, however long it took', async (t) => {
  const before = rig();
  await before.book.open('n1', () => undefined).offer(facts('192.0.2.1'), signal);
  await before.book.open('n2', () => undefined).offer(facts('192.0.2.2'), signal);
  await before.store.put(`${NODE_FACTS_PREFIX}n3`, 'damaged');

  const { clock, book, names } = rig(before.store);
  await book.load(signal);
  t.same(names(), ['n1', 'n2'], 'a damaged record harms no other');
  await clock.advance(600_000);
  t.same(names(), ['n1', 'n2'], 'the registry does not listen yet: nobody could have come');
  const stopping = new AbortController();
  const running = book.run(stopping.signal);
  await clock.advance(30_000);
  book.open('n2', () => undefined);
  await clock.advance(40_000);
  t.same(names(), ['n2'], 'only who has not come back in the grace time goes');
  stopping.abort();
  await running;
});

test('what is rejected leaves what counted before', async (t) => {
  const { book, published } = rig();
  const one = book.open('n1', () => undefined);
  const two = book.open('n2', () => undefined);
  await one.offer(facts('192.0.2.1'), signal);
  await two.offer(facts('192.0.2.2'), signal);
  t.match(await two.offer(facts('192.0.2.1'), signal), {
    field: 'addresses',
    reason: /held by node n1/,
  });
  t.match(await two.offer(facts('nonsense'), signal), { field: 'addresses' });
  t.same(published.get('n2')?.addresses, ['192.0.2.2']);
  const both = await Promise.all(
    [one, two].map((session) => session.offer(facts('192.0.2.9'), signal)),
  );
  t.equal(both.filter((conflict) => conflict === undefined).length, 1, 'two at once: one gets it');
});

test('a newer session replaces the older one', async (t) => {
  const { book, published } = rig();
  let replaced = 0;
  const older = book.open('n1', () => {
    replaced += 1;
  });
  await older.offer(facts('192.0.2.1'), signal);
  const newer = book.open('n1', () => t.fail('it is the newest'));
  t.equal(replaced, 1);
  t.match(await older.offer(facts('192.0.2.7'), signal), { reason: /another session/ });
  older.close();
  t.match(book.report, [{ node: 'n1', state: 'connected' }], 'its end is of no consequence');
  t.same(published.get('n1')?.addresses, ['192.0.2.1']);
  newer.close();
});

test('a node is forgotten later when the store does not answer', async (t) => {
  const { clock, book, names, store } = rig();
  const stopping = new AbortController();
  const running = book.run(stopping.signal);
  const session = book.open('n1', () => undefined);
  await session.offer(facts('192.0.2.1'), signal);
  session.close();
  store.faults.failNext(new KvError('unavailable', 'away', { retryable: true }));
  await clock.advance(61_500);
  t.same(names(), []);
  await clock.advance(2_000);
  t.equal((await store.list(NODE_FACTS_PREFIX)).pairs.length, 0);
  stopping.abort();
  await running;
});
