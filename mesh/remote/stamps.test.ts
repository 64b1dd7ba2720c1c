import { test } from 'tap';
import { KvError, type KvStore } from '../kvstore/kvstore.ts';
import { createMemoryStore } from '../kvstore/memory.ts';
import { createLogger } from '../runtime/log.ts';
import { createManualClock } from '../testing/manual-clock.ts';
import { parseClusterName } from '../wire/ids.ts';
import { MESH_STAMP_KEY, nodeKey } from '../wire/keys.ts';
import { encodeMeshStamp } from '../wire/stamp.ts';
import { createLagBook } from './lag.ts';
import { followStamps } from './stamps.ts';
import { until } from './testing/until.ts';

const logger = createLogger('test', { level: 'silent' });
const START = 1_700_000_000_000;
const NODE = nodeKey(parseClusterName('beta'), 'n1');

/** Follows the stamps of one cluster until the test ends. */
function follow(
  store: KvStore,
  options: { own?: boolean; cached?: boolean; book?: ReturnType<typeof createLagBook> } = {},
) {
  const clock = createManualClock({ now: START });
  const { book = createLagBook(clock), own = false, cached = false } = options;
  const ending = new AbortController();
  const running = followStamps(store, {
    book,
    cluster: 'beta',
    own,
    cached,
    clock,
    logger,
    signal: ending.signal,
  });
  return {
    clock,
    book,
    status: () => book.meterOf('beta').status(),
    async [Symbol.asyncDispose]() {
      ending.abort();
      await running;
    },
  };
}

/** Writes a node and a stamp in one transaction. */
async function publish(store: KvStore, at: number): Promise<bigint> {
  const { revision } = await store.transact({
    compare: [],
    then: [
      { kind: 'put', key: NODE, value: 'x' },
      { kind: 'put', key: MESH_STAMP_KEY, value: encodeMeshStamp({ at }) },
    ],
  });
  return revision;
}

test('stamps are followed, and the one that was there before is no measurement', async (t) => {
  const store = createMemoryStore();
  await publish(store, START - 3_600_000);
  await using open = follow(store.connect());
  const meter = open.book.meterOf('beta');
  await until('stamps are looked for', () => JSON.stringify(open.status()).includes('too few'));
  for (let count = 0; count < 4; count += 1) {
    const revision = await publish(store, START + count * 1000);
    meter.seen('nodes', revision);
    await open.clock.advance(5);
    open.book.settle();
    await open.clock.advance(995);
  }
  t.match(open.status(), {
    kind: 'measured',
    recent: { nodes: { samples: 4, maxMs: 5 } },
    clock: { differenceMs: 0 },
  });
});

test('a server without stamps leaves the lag unknown, and is asked again', async (t) => {
  const store = createMemoryStore();
  await using open = follow(store.connect());
  await until('it was asked', () => JSON.stringify(open.status()).includes('writes no stamps'));
  await publish(store, START);
  await open.clock.advance(299_000);
  t.match(open.status(), { kind: 'unknown', reason: /it writes no stamps, as Cilium does not/ });
  await open.clock.advance(2000);
  t.match(open.status(), { kind: 'unknown', reason: /too few/ }, 'it may have been upgraded');
});

test('a server that forbids it leaves the lag unknown, and the session goes on', async (t) => {
  const denied = new KvError('permission-denied', 'permission denied', { retryable: false });
  const store: KvStore = {
    ...createMemoryStore().connect(),
    get: () => Promise.reject(denied),
  };
  await using open = follow(store);
  await until('it was asked', () => JSON.stringify(open.status()).includes('does not let us'));
  t.match(open.status(), { kind: 'unknown', reason: /as Cilium does not/ });
});

test('a stamp that cannot be read makes the lag unknown until the next good one', async (t) => {
  const store = createMemoryStore();
  await publish(store, START);
  await using open = follow(store.connect());
  await until('stamps are looked for', () => JSON.stringify(open.status()).includes('too few'));
  await store.put(MESH_STAMP_KEY, '{"schema":99}');
  await until('it is told', () => JSON.stringify(open.status()).includes('cannot be read'));
  await publish(store, START);
  await until('it is over', () => JSON.stringify(open.status()).includes('too few'));
  t.equal(open.status().kind, 'unknown');
});

test("a cluster in our own mirror is measured by the own cluster's stamps, and watches none", async (t) => {
  const store = createMemoryStore();
  await publish(store, START);
  const clock = createManualClock({ now: START });
  const book = createLagBook(clock);
  const connection = store.connect();
  await connection.get(NODE);
  const watched: string[] = [];
  const counted: KvStore = {
    ...connection,
    get clusterId() {
      return connection.clusterId;
    },
    watch: (target, options) => {
      watched.push(JSON.stringify(target));
      return connection.watch(target, options);
    },
  };
  await using _cached = follow(counted, { book, cached: true });
  const ending = new AbortController();
  const running = followStamps(connection, {
    book,
    cluster: 'alpha',
    own: true,
    cached: false,
    clock,
    logger,
    signal: ending.signal,
  });
  await until('stamps are looked for', () =>
    JSON.stringify(book.meterOf('alpha').status()).includes('too few'),
  );
  for (let count = 0; count < 5; count += 1) {
    const revision = await publish(store, START + count * 1000);
    book.meterOf('beta').seen('nodes', revision);
    await clock.advance(5);
    book.settle();
    await clock.advance(995);
  }
  const status = book.meterOf('beta').status();
  t.match(status, { kind: 'measured', recent: { nodes: { maxMs: 5 } } });
  t.same(watched, []);
  ending.abort();
  await running;
});
