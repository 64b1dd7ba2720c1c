import { test } from 'tap';
import { KvError } from '../kvstore/kvstore.ts';
import { createMemoryStore } from '../kvstore/memory.ts';
import { createManualClock } from '../testing/manual-clock.ts';
import { HEARTBEAT_KEY } from '../wire/keys.ts';
import { createHeartbeat, watchHeartbeat } from './heartbeat.ts';
import { until } from './testing/until.ts';

const EVENT = { isListed: false };

test('a writer is silent after three of its own periods, and of the usual ones before they are known', async (t) => {
  const clock = createManualClock({ now: 1_000_000 });
  const heartbeat = createHeartbeat(clock);
  t.equal(heartbeat.view(), undefined);
  heartbeat.beat(1n, { isListed: true });
  await clock.advance(180_000);
  t.match(heartbeat.view(), { seenAt: 1_000_000, periodMs: undefined, isSilent: false });
  await clock.advance(1);
  t.equal(heartbeat.view()?.isSilent, true);
  heartbeat.beat(2n, EVENT);
  t.equal(heartbeat.view()?.isSilent, false);
  for (let revision = 3n; revision < 6n; revision += 1n) {
    await clock.advance(5000);
    heartbeat.beat(revision, EVENT);
  }
  t.equal(heartbeat.view()?.periodMs, 5000, 'the long silence before was no period');
  await clock.advance(15_001);
  t.equal(heartbeat.view()?.isSilent, true);
});

test('two writers beat unevenly: the longest of the latest times counts', async (t) => {
  const clock = createManualClock();
  const heartbeat = createHeartbeat(clock);
  let revision = 1n;
  for (const wait of [50_000, 10_000, 50_000, 10_000]) {
    await clock.advance(wait);
    revision += 1n;
    heartbeat.beat(revision, EVENT);
  }
  t.equal(heartbeat.view()?.periodMs, 50_000);
  await clock.advance(100_000);
  t.equal(heartbeat.view()?.isSilent, false);
});

test('a beat that is read again over a new connection is none', async (t) => {
  const clock = createManualClock();
  const heartbeat = createHeartbeat(clock);
  heartbeat.beat(7n, { isListed: true });
  await clock.advance(170_000);
  heartbeat.beat(7n, { isListed: true });
  await clock.advance(11_000);
  t.equal(heartbeat.view()?.isSilent, true);
});

test('a watch tells beats and signs of life, and gives up where it may not read', async (t) => {
  const clock = createManualClock();
  const heartbeat = createHeartbeat(clock);
  const store = createMemoryStore();
  const ending = new AbortController();
  let signs = 0;
  const onSign = (): void => {
    signs += 1;
  };
  const watching = watchHeartbeat(store, heartbeat, { signal: ending.signal, onSign });
  await store.put(HEARTBEAT_KEY, '2026-01-01T00:00:00Z');
  await until('it is seen', () => heartbeat.view() !== undefined);
  const before = signs;
  store.faults.progress();
  await until('progress is a sign of life', () => signs > before);
  ending.abort();
  await watching;
  store.faults.disconnect(new KvError('permission-denied', 'no', { retryable: false }));
  await watchHeartbeat(store, heartbeat, { signal: new AbortController().signal, onSign });
  t.pass('it has ended by itself');
});
