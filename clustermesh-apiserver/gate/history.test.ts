import fc from 'fast-check';
import { test } from 'tap';
import type { WatchEvent } from './etcd-messages.ts';
import { createHistory } from './history.ts';

function event(revision: number, size = 10): WatchEvent {
  return { revision, isDelete: false, field: Buffer.alloc(size, revision) };
}

test('a history gives whole revisions, and only when they are whole', async (t) => {
  const history = createHistory(5);
  t.equal(history.through, 4);
  history.append([event(5), event(5), event(7)]);
  t.same(history.take(0, 1000)?.events.length, 2, 'the last revision may still grow');
  t.equal(history.through, 5);
  history.append([event(7)]);
  history.seal(7);
  t.same(history.take(0, 1000), {
    events: [event(5), event(5), event(7), event(7)],
    next: 4,
    lastRevision: 7,
  });
  t.equal(history.take(0, 1)?.next, 2, 'at least one revision, however large');
  t.equal(history.take(2, 1)?.next, 4);
  t.equal(history.take(4, 1), undefined);
  history.seal(20);
  t.equal(history.through, 20);
  history.seal(15);
  t.equal(history.through, 20);
});

test('what is dropped raises the floor', async (t) => {
  const history = createHistory(1);
  history.append([event(1), event(2), event(2), event(3), event(4)]);
  history.seal(4);
  t.equal(history.positionOf(2), 1);
  t.equal(history.positionOf(9), 5);
  history.trim({ maxEvents: 3, maxBytes: 1000 });
  t.match({ floor: history.floor, first: history.first }, { floor: 3, first: 3 });
  history.trim({ maxEvents: 0, maxBytes: 0 });
  t.equal(history.first, 4, 'the newest revision stays');
  t.equal(history.bytes, 10);
  history.dropBefore(5);
  t.match({ floor: history.floor, bytes: history.bytes, end: history.end }, { floor: 5, bytes: 0 });
});

test('readers at any pace see each event once, in order', async (t) => {
  const steps = fc.array(fc.tuple(fc.nat(3), fc.integer({ min: 1, max: 4 }), fc.nat(2)), {
    minLength: 20,
    maxLength: 400,
  });
  fc.assert(
    fc.property(steps, fc.integer({ min: 1, max: 60 }), (run, maxEvents) => {
      const history = createHistory(1);
      let revision = 0;
      const readers = [0, 1, 2].map(() => ({ position: 0, next: 1, lost: 0, seen: 0 }));
      const counts = new Map<number, number>();
      for (const [skipped, count, who] of run) {
        revision += 1 + skipped;
        counts.set(revision, count);
        history.append(Array.from({ length: count }, () => event(revision)));
        history.seal(revision);
        history.trim({ maxEvents, maxBytes: 10_000 });
        const reader = readers[who]!;
        if (reader.position < history.first) {
          // As a watch does that was too slow: it goes elsewhere and comes back.
          reader.next = history.floor;
          reader.position = history.positionOf(history.floor);
        }
        const batch = history.take(reader.position, 25);
        if (batch === undefined) continue;
        const expected = [...counts]
          .filter(([at]) => at >= reader.next && at <= batch.lastRevision)
          .reduce((sum, [, number]) => sum + number, 0);
        if (batch.events.length !== expected) throw new Error('events are missing or doubled');
        reader.position = batch.next;
        reader.next = batch.lastRevision + 1;
      }
      if (history.end - history.first > Math.max(maxEvents, 4)) throw new Error('it grows');
    }),
  );
  t.pass('no counterexample');
});

test('a long history forgets its past', async (t) => {
  const history = createHistory(1);
  for (let revision = 1; revision <= 5000; revision += 1) {
    history.append([event(revision)]);
    history.seal(revision);
    history.trim({ maxEvents: 10, maxBytes: 1000 });
  }
  t.equal(history.end, 5000);
  t.equal(history.first, 4990);
  t.equal(history.take(4990, 1)?.lastRevision, 4991);
});
