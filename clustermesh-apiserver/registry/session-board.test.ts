import { test } from 'tap';
import type { KvStore } from '../../mesh/kvstore/kvstore.ts';
import { createMemoryStore, type MemoryStore } from '../../mesh/kvstore/memory.ts';
import { systemClock } from '../../mesh/runtime/clock.ts';
import { createLogger } from '../../mesh/runtime/log.ts';
import type { NodeFacts } from '../convert/node.ts';
import { eventually } from '../testing/publishing-rig.ts';
import { createNodeBook } from './node-book.ts';
import { NODE_FACTS_PREFIX } from './node-facts.ts';
import { createSessionBoard, SESSIONS_PREFIX } from './session-board.ts';

const logger = createLogger('test', { level: 'silent' });
const signal = new AbortController().signal;
const facts = (address: string) => ({ addresses: [address], pod_cidrs: [], boot_id: 'b' });
const LOCK = 'lock';

/** The registry of one replica. `leads` is the one that may take nodes away. */
async function replica(base: MemoryStore, options: { leads: boolean; graceMs?: number }) {
  const store: KvStore = base.connect();
  const published = new Map<string, NodeFacts>();
  let { leads } = options;
  await base.put(LOCK, '');
  const modRevision = (await base.get(LOCK))?.modRevision ?? 0n;
  const book = createNodeBook({
    store,
    publish: (name, found) => {
      if (found === undefined) published.delete(name);
      else published.set(name, found);
    },
    findConflict: (name, { addresses }) => {
      const other = [...published].find(
        ([holder, held]) => holder !== name && held.addresses.some((ip) => addresses.includes(ip)),
      );
      return other && { field: 'addresses', reason: `held by node ${other[0]}` };
    },
    graceMs: options.graceMs ?? 600,
    replicas: {
      board: createSessionBoard({ store, clock: systemClock, logger }),
      fence: () => (leads ? { key: LOCK, modRevision } : undefined),
    },
    clock: systemClock,
    logger,
  });
  await book.load(signal);
  const stopping = new AbortController();
  const running = book.run(stopping.signal);
  return {
    book,
    names: () => [...published.keys()].sort(),
    addressOf: (name: string) => published.get(name)?.addresses[0],
    stateOf: (name: string) => book.report.find(({ node }) => node === name)?.state,
    lead: (now: boolean) => {
      leads = now;
    },
    async [Symbol.asyncDispose]() {
      stopping.abort();
      await running;
    },
  };
}

test('a session at one replica is not taken for gone by another', async (t) => {
  const base = createMemoryStore();
  await using one = await replica(base, { leads: false });
  await using two = await replica(base, { leads: true });
  const session = one.book.open('n1', () => t.fail('nobody replaces it'));
  t.equal(await session.offer(facts('192.0.2.1'), signal), undefined);
  await eventually('it is known at the other', () => two.stateOf('n1') === 'elsewhere');
  t.same([one.names(), two.names()], [['n1'], ['n1']]);
  await systemClock.sleep(1_500);
  t.same(two.names(), ['n1'], 'longer than the grace time');
  const other = two.book.open('n2', () => undefined);
  t.match(await other.offer(facts('192.0.2.1'), signal), { reason: /held by node n1/ });

  session.close();
  await eventually('it is gone at both', () => two.stateOf('n1') === 'gone');
  await eventually('it counts no more', () => one.names().length + two.names().length === 0);
  t.equal((await base.list(NODE_FACTS_PREFIX)).pairs.length, 0);
});

test('a node that comes to another replica goes nowhere, and its older session ends', async (t) => {
  const base = createMemoryStore();
  await using one = await replica(base, { leads: true });
  await using two = await replica(base, { leads: false });
  let replaced = 0;
  const older = one.book.open('n1', () => {
    replaced += 1;
  });
  await older.offer(facts('192.0.2.1'), signal);
  await eventually('it is known', () => two.stateOf('n1') === 'elsewhere');
  const newer = two.book.open('n1', () => t.fail('it is the newest'));
  await newer.offer(facts('192.0.2.7'), signal);
  await eventually('the older one is told', () => replaced === 1);
  older.close();
  await eventually('its word counts', () => one.addressOf('n1') === '192.0.2.7');
  await systemClock.sleep(1_500);
  t.same([one.names(), two.names()], [['n1'], ['n1']]);
  t.equal(one.stateOf('n1'), 'elsewhere');
});

test('sessions of a registry that has died are gone for the grace time only, counted by who lives', async (t) => {
  const base = createMemoryStore();
  await base.put(`${SESSIONS_PREFIX}n1`, '{"schema":1,"registry":"dead"}');
  await base.put(`${NODE_FACTS_PREFIX}n1`, JSON.stringify({ schema: 1, ...facts('192.0.2.1') }));
  await using two = await replica(base, { leads: true });
  await eventually('it is known', () => two.stateOf('n1') === 'elsewhere');
  // Its lease runs out.
  await base.delete(`${SESSIONS_PREFIX}n1`);
  await eventually('gone', () => two.stateOf('n1') === 'gone');
  const back = two.book.open('n1', () => undefined);
  await systemClock.sleep(1_500);
  t.same(two.names(), ['n1'], 'it came back in time');
  back.close();
  await eventually('it counts no more', () => two.names().length === 0);
});

test('a registry that does not lead takes no node away, one that comes to lead does', async (t) => {
  const base = createMemoryStore();
  await using one = await replica(base, { leads: false });
  const session = one.book.open('n1', () => undefined);
  await session.offer(facts('192.0.2.1'), signal);
  session.close();
  await systemClock.sleep(1_500);
  t.same(one.names(), ['n1']);
  one.lead(true);
  await eventually('it counts no more', () => one.names().length === 0);
});

test('what nodes said is kept again when etcd has lost it', async (t) => {
  const base = createMemoryStore();
  await using one = await replica(base, { leads: true, graceMs: 60_000 });
  const session = one.book.open('n1', () => undefined);
  await session.offer(facts('192.0.2.1'), signal);
  const left = one.book.open('n2', () => undefined);
  await left.offer(facts('192.0.2.2'), signal);
  left.close();
  await eventually(
    'it is announced',
    async () => (await base.list(SESSIONS_PREFIX)).pairs.length === 1,
  );
  base.faults.wipe();
  await eventually('all is back', async () => {
    const kept = (await base.list(NODE_FACTS_PREFIX)).pairs.length;
    return kept === 2 && (await base.list(SESSIONS_PREFIX)).pairs.length === 1;
  });
  t.same(one.names(), ['n1', 'n2']);
});
