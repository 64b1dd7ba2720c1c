import fc from 'fast-check';
import { test } from 'tap';
import { createManualClock } from '../testing/manual-clock.ts';
import { createLagBook, createLagMeter } from './lag.ts';

const START = 1_700_000_000_000;

/** A publisher of batches, one a second with a stamp, whose clock can be set. */
async function openHistory(options: { offset?: number } = {}) {
  const clock = createManualClock({ now: START });
  const meter = createLagMeter(clock);
  let offset = options.offset ?? 0;
  let revision = 100n;
  meter.begin('begins');
  meter.begun();
  return {
    clock,
    meter,
    setClock(by: number): void {
      offset += by;
    },
    /** A stamped batch of one kind: the stamp arrives after `way`, the change is in use after `lag`. */
    async batch({
      way,
      lag,
      isStamped = true,
      each = 1000,
    }: {
      way: number;
      lag: number;
      isStamped?: boolean;
      each?: number;
    }) {
      revision += 1n;
      const at = Math.floor(clock.now() + offset);
      const steps = [
        { after: way, run: () => isStamped && meter.stamp({ revision, at }) },
        { after: lag, run: () => meter.settle() },
      ].sort((a, b) => a.after - b.after);
      meter.seen('ips', revision);
      meter.seen('ips', revision);
      let passed = 0;
      for (const { after, run } of steps) {
        await clock.advance(after - passed);
        passed = after;
        run();
      }
      await clock.advance(Math.max(0, each - passed));
    },
  };
}

function lagsOf(meter: ReturnType<typeof createLagMeter>) {
  const status = meter.status();
  return status.kind === 'measured' ? status.recent.ips : undefined;
}

test('a lag is unknown until enough stamps were seen, and those that waited count then', async (t) => {
  const { meter, batch } = await openHistory();
  meter.roundTrip(4);
  for (const expected of [undefined, undefined, 3]) {
    await batch({ way: 2, lag: 10 });
    t.equal(lagsOf(meter)?.samples, expected);
  }
  const recent = lagsOf(meter);
  t.ok(recent && Math.abs(recent.p50Ms - 10) < 1, `${recent?.p50Ms} ms`);
  t.equal(recent?.maxMs, 10);
});

test('a difference of the clocks is shown, with its uncertainty, and is no lag', async (t) => {
  for (const offset of [-90_000, 90_000]) {
    const { meter, batch } = await openHistory({ offset });
    meter.roundTrip(4);
    for (let count = 0; count < 20; count += 1) await batch({ way: 2, lag: 10 });
    const status = meter.status();
    t.match(status, {
      kind: 'measured',
      clock: { differenceMs: offset, uncertaintyMs: 2, steps: 0 },
    });
    t.equal(lagsOf(meter)?.maxMs, 10);
  }
});

test('what a change waits for the kernel is lag, whether its stamp comes before or after', async (t) => {
  const { meter, batch } = await openHistory();
  meter.roundTrip(2);
  for (let count = 0; count < 5; count += 1) await batch({ way: 1, lag: 1 });
  await batch({ way: 1, lag: 800 });
  t.equal(lagsOf(meter)?.maxMs, 800);
  await batch({ way: 900, lag: 400 });
  await batch({ way: 1, lag: 1 });
  t.equal(lagsOf(meter)?.samples, 8, 'a stamp that came late counts when another explains it');
  t.equal(
    meter
      .totals()
      .get('ips')
      ?.counts.reduce((sum, count) => sum + count, 0),
    8,
  );
});

test('a batch without a stamp is not guessed at', async (t) => {
  const { meter, batch } = await openHistory();
  for (let count = 0; count < 5; count += 1) await batch({ way: 1, lag: 1 });
  for (let count = 0; count < 50; count += 1) await batch({ way: 1, lag: 5000, isStamped: false });
  t.equal(lagsOf(meter)?.samples, 5);
});

test('a peer without stamps has an unknown lag, never none', async (t) => {
  const clock = createManualClock();
  const meter = createLagMeter(clock);
  t.equal(meter.status().kind, 'unknown');
  meter.begin('it writes no stamps');
  meter.seen('ips', 5n);
  meter.settle();
  t.same(meter.status(), { kind: 'unknown', reason: 'it writes no stamps' });
  t.equal(meter.totals().size, 0);
  t.equal(meter.clock(), undefined);
});

test('a new connection forgets revisions, which may be those of another etcd', async (t) => {
  const { meter, batch, clock } = await openHistory();
  for (let count = 0; count < 5; count += 1) await batch({ way: 1, lag: 1 });
  meter.seen('ips', 500n);
  meter.settle();
  meter.begin('again');
  meter.begun();
  await clock.advance(60_000);
  meter.stamp({ revision: 500n, at: clock.now() });
  meter.settle();
  t.equal(lagsOf(meter)?.samples, 5, 'a revision of before is not taken for one of now');
});

test('more revisions under way than are remembered lose the newest, not the late ones', async (t) => {
  const { meter, batch, clock } = await openHistory();
  for (let count = 0; count < 5; count += 1) await batch({ way: 1, lag: 1 });
  const at = clock.now();
  for (let revision = 1000n; revision < 9000n; revision += 1n) meter.seen('ips', revision);
  meter.stamp({ revision: 1000n, at });
  await clock.advance(30_000);
  meter.settle();
  t.equal(lagsOf(meter)?.maxMs, 30_000);
});

test('no history of jumps gives a negative or absurd lag', async (t) => {
  const event = fc.record({
    jump: fc.oneof(
      { weight: 6, arbitrary: fc.constant(0) },
      { weight: 1, arbitrary: fc.integer({ min: -86_400_000, max: 86_400_000 }) },
    ),
    way: fc.integer({ min: 0, max: 60 }),
    lag: fc.integer({ min: 0, max: 900 }),
    // Between a busy publisher and one that writes its heartbeat alone.
    each: fc.constantFrom(1000, 1000, 1000, 5000, 60_000),
  });
  await fc.assert(
    fc.asyncProperty(fc.array(event, { minLength: 5, maxLength: 30 }), async (events) => {
      const { meter, batch, setClock } = await openHistory();
      meter.roundTrip(2);
      let highest = 0;
      for (const { jump, way, lag, each } of events) {
        setClock(jump);
        highest = Math.max(highest, lag, way);
        await batch({ way, lag, each });
      }
      const total = meter.totals().get('ips');
      const recent = lagsOf(meter);
      // A jump that looks like a delay of less than a fifth of a second is believed to be one.
      const bound = highest + 200 + 60 + 1;
      const isSane = total === undefined || (total.sum >= 0 && Number.isFinite(total.sum));
      return isSane && (recent === undefined || recent.maxMs <= bound);
    }),
    { numRuns: 60 },
  );
  t.pass('of any history');
});

test('every delay is measured where no clock jumps, however late its stamp is', async (t) => {
  const event = fc.record({
    way: fc.oneof(
      { weight: 5, arbitrary: fc.integer({ min: 1, max: 20 }) },
      { weight: 1, arbitrary: fc.integer({ min: 200, max: 4000 }) },
    ),
    lag: fc.integer({ min: 1, max: 3000 }),
  });
  await fc.assert(
    fc.asyncProperty(fc.array(event, { maxLength: 40 }), async (events) => {
      const { meter, batch } = await openHistory({ offset: 12_345 });
      meter.roundTrip(2);
      // The first and the last are fast: by them the clocks are known.
      const quick = { way: 1, lag: 1 };
      const all = [quick, quick, quick, ...events, quick];
      for (const { way, lag } of all) await batch({ way, lag: Math.max(way, lag) });
      const total = meter.totals().get('ips');
      const count = total?.counts.reduce((sum, each) => sum + each, 0);
      const expected = all.reduce((sum, { way, lag }) => sum + Math.max(way, lag), 0) / 1000;
      return count === all.length && Math.abs((total?.sum ?? 0) - expected) < 0.001 * all.length;
    }),
    { numRuns: 60 },
  );
  t.pass('of any history');
});

test('a book settles those that saw something, and hands stamps of one etcd to who reads there', async (t) => {
  const clock = createManualClock({ now: START });
  const book = createLagBook(clock);
  const cached = book.meterOf('beta');
  t.equal(book.meterOf('beta'), cached);
  cached.begin('no stamp yet');
  const elsewhere = book.meterOf('gamma');
  elsewhere.begin('no stamp yet');
  const stop = book.own.follow(() => 'c1', cached);
  book.own.follow(() => 'c2', elsewhere);
  for (let revision = 1n; revision <= 5n; revision += 1n) {
    cached.seen('nodes', revision);
    book.own.tell('c1', { revision, at: clock.now() });
    await clock.advance(7);
    book.settle();
    await clock.advance(1000);
  }
  t.equal(elsewhere.status().kind, 'unknown', 'revisions of another etcd mean nothing there');
  const status = cached.status();
  // The first came before it was known that there are stamps.
  t.equal(status.kind === 'measured' && status.recent.nodes?.samples, 4);
  t.equal(status.kind === 'measured' && status.recent.nodes?.maxMs, 7);
  stop();
  book.own.tell('c1', { revision: 9n, at: clock.now() });
  book.forget('beta');
  t.same(
    [...book.meters()].map(([name]) => name),
    ['gamma'],
  );
  book.own.tell(undefined, { revision: 10n, at: 0 });
  t.equal(elsewhere.status().kind, 'unknown');
});
