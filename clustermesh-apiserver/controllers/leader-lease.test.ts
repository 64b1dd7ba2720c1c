import fc from 'fast-check';
import { test } from 'tap';
import type { Clock } from '../../mesh/runtime/clock.ts';
import { createManualClock, type ManualClock } from '../../mesh/testing/manual-clock.ts';
import { createLeaderLease, LeadershipError, type LeaderTerm } from './leader-lease.ts';
import {
  DEFAULT_LEASE_TIMES,
  type LeaseRecord,
  leaseTimesProblem,
  microTime,
} from './lease-record.ts';
import type { LeaseStore, StoredLease } from './lease-store.ts';
import { recordingLogger } from './testing/recording-logger.ts';

/** How a request fares: answered after some time, lost on the way there or back, or never answered. */
type Fate = 'works' | 'lost' | 'answer-lost' | 'hangs';

/** The register that the API server is for a Lease, with a network before each replica that can be cut. */
function register(clock: ManualClock) {
  let current: { record: LeaseRecord; version: number } | undefined;
  let version = 0;
  const stored = (): StoredLease | undefined => current && { ...current };
  const storeOf = (fate: () => Fate, delayMs = 5): LeaseStore => {
    const send = async <T>(signal: AbortSignal, act: () => T): Promise<T> => {
      const fares = fate();
      if (fares === 'hangs') await clock.sleep(1e12, signal);
      await clock.sleep(delayMs, signal);
      if (fares === 'lost') throw new Error('connection refused');
      const answer = act();
      await clock.sleep(delayMs, signal);
      if (fares === 'answer-lost') throw new Error('connection reset');
      return answer;
    };
    return {
      place: 'ns/lease',
      read: (signal) => send(signal, stored),
      write: (record, before, signal) =>
        send(signal, () => {
          if (current?.version !== before?.version) return undefined;
          version += 1;
          current = { record, version };
          return stored();
        }),
    };
  };
  return { storeOf, now: () => current?.record };
}

/** A replica's clock that shows another time of day. */
function skewed(clock: ManualClock, skewMs: number): Clock {
  return { ...clock, now: () => clock.now() + skewMs };
}

/** A replica that tries to write all the time while it leads. */
function replica(
  clock: ManualClock,
  store: LeaseStore,
  options: { name: string; skewMs?: number; random?: () => number },
) {
  const writes: number[] = [];
  const stop = new AbortController();
  const { logger } = recordingLogger();
  const lease = createLeaderLease({
    store,
    identity: options.name,
    clock: skewed(clock, options.skewMs ?? 0),
    logger,
    random: options.random ?? (() => 0.5),
  });
  const lead = async ({ over, check }: LeaderTerm): Promise<void> => {
    while (!over.aborted) {
      try {
        check();
        writes.push(clock.monotonic());
      } catch (error) {
        if (!(error instanceof LeadershipError)) throw error;
      }
      await clock.sleep(50, over).catch(() => undefined);
    }
  };
  const running = lease.run(lead, stop.signal);
  return {
    lease,
    writes,
    stop: async () => {
      stop.abort();
      for (let turn = 0; turn < 50; turn += 1) await clock.advance(100);
      await running;
    },
  };
}

test('a leader that vanishes is replaced in under 20 s, and has stopped before', async (t) => {
  const clock = createManualClock();
  const { storeOf } = register(clock);
  let isCut = false;
  const first = replica(
    clock,
    storeOf(() => (isCut ? 'hangs' : 'works')),
    { name: 'first' },
  );
  await clock.advance(1000);
  const second = replica(
    clock,
    storeOf(() => 'works'),
    { name: 'second' },
  );
  await clock.advance(60_000);
  t.equal(first.lease.status.state, 'leading');
  t.match(second.lease.status, { state: 'waiting', leader: 'first', terms: 0 });
  t.equal(second.writes.length, 0);
  isCut = true;
  const cutAt = clock.monotonic();
  await clock.advance(30_000);
  t.equal(second.lease.status.state, 'leading');
  const lastOfFirst = first.writes.at(-1) ?? 0;
  const firstOfSecond = second.writes[0] ?? 0;
  t.ok(lastOfFirst < firstOfSecond, `${lastOfFirst} before ${firstOfSecond}`);
  t.ok(firstOfSecond - cutAt < 20_000, `took over after ${firstOfSecond - cutAt} ms`);
  t.match(first.lease.status.problem, /did not answer in time/);
  await first.stop();
  await second.stop();
});

test('a leader that ends gives the lease back, and the next leads at once', async (t) => {
  const clock = createManualClock();
  const { storeOf, now } = register(clock);
  const store = storeOf(() => 'works');
  const first = replica(clock, store, { name: 'first' });
  await clock.advance(100);
  const second = replica(clock, store, { name: 'second' });
  await clock.advance(5000);
  const stoppedAt = clock.monotonic();
  await first.stop();
  t.equal(second.lease.status.state, 'leading');
  t.ok((second.writes[0] ?? Number.POSITIVE_INFINITY) - stoppedAt < 3000);
  t.match(now(), { holder: 'second', transitions: 1 });
  await second.stop();
  t.equal(now()?.holder, '');
});

test('times of day that are years apart change nothing', async (t) => {
  const clock = createManualClock();
  const { storeOf } = register(clock);
  const store = storeOf(() => 'works');
  const year = 365 * 86_400_000;
  const first = replica(clock, store, { name: 'first', skewMs: 10 * year });
  await clock.advance(100);
  const second = replica(clock, store, { name: 'second', skewMs: 20 * year });
  await clock.advance(120_000);
  t.equal(second.writes.length, 0);
  t.equal(first.lease.status.terms, 1);
  await first.stop();
  await second.stop();
});

test('a process that was stopped for a while writes nothing when it goes on', async (t) => {
  const clock = createManualClock();
  const { storeOf } = register(clock);
  let term: LeaderTerm | undefined;
  let paused = 0;
  const { logger } = recordingLogger();
  const lease = createLeaderLease({
    store: storeOf(() => 'works'),
    identity: 'first',
    // Its timers have not run while it was stopped, but the clocks went on.
    clock: { ...clock, monotonic: () => clock.monotonic() + paused },
    logger,
  });
  const stop = new AbortController();
  const running = lease.run(async (next) => {
    term = next;
    await new Promise<void>((resolve) => next.over.addEventListener('abort', () => resolve()));
  }, stop.signal);
  await clock.advance(100);
  t.doesNotThrow(() => term?.check());
  paused = 10_000;
  t.throws(() => term?.check(), { code: 'not-leading' });
  t.ok(term?.over.aborted);
  stop.abort();
  await clock.advance(5000);
  await running;
});

test('a lost answer to a renewal does not end the term', async (t) => {
  const clock = createManualClock();
  const { storeOf } = register(clock);
  let requests = 0;
  const first = replica(
    clock,
    storeOf(() => {
      requests += 1;
      return requests % 5 === 4 ? 'answer-lost' : 'works';
    }),
    { name: 'first' },
  );
  await clock.advance(120_000);
  t.equal(first.lease.status.terms, 1);
  t.equal(first.lease.status.state, 'leading');
  await first.stop();
});

test('what lead() throws gives the lease back and ends it', async (t) => {
  const clock = createManualClock();
  const { storeOf, now } = register(clock);
  const { logger } = recordingLogger();
  const lease = createLeaderLease({
    store: storeOf(() => 'works'),
    identity: 'first',
    clock,
    logger,
  });
  const running = lease.run(async () => {
    throw new Error('a bug');
  }, new AbortController().signal);
  const rejected = t.rejects(running, { message: 'a bug' });
  await clock.advance(1000);
  await rejected;
  t.equal(now()?.holder, '');
});

test('times that let two lead are refused', (t) => {
  t.equal(leaseTimesProblem(DEFAULT_LEASE_TIMES), undefined);
  t.match(leaseTimesProblem({ ...DEFAULT_LEASE_TIMES, renewDeadlineMs: 15_000 }), /two could lead/);
  t.match(leaseTimesProblem({ ...DEFAULT_LEASE_TIMES, retryMs: 9_000 }), /retry period/);
  t.equal(microTime(0), '1970-01-01T00:00:00.000000Z');
  t.end();
});

test('whatever the network does: never two that write, and somebody when it works', async (t) => {
  const fates = fc.array(fc.constantFrom<Fate>('works', 'works', 'lost', 'answer-lost', 'hangs'), {
    minLength: 1,
    maxLength: 12,
  });
  const each = fc.record({
    fates,
    skewMs: fc.integer({ min: -1e9, max: 1e9 }),
    randoms: fc.array(fc.double({ min: 0, max: 0.99, noNaN: true }), {
      minLength: 1,
      maxLength: 7,
    }),
    delayMs: fc.integer({ min: 0, max: 3000 }),
  });
  await fc.assert(
    fc.asyncProperty(fc.array(each, { minLength: 2, maxLength: 3 }), async (settings) => {
      const clock = createManualClock();
      const { storeOf } = register(clock);
      let isHealed = false;
      const replicas = settings.map(({ fates: list, skewMs, randoms, delayMs }, index) => {
        let requests = 0;
        let draws = 0;
        const store = storeOf(() => {
          requests += 1;
          return isHealed ? 'works' : (list[requests % list.length] ?? 'works');
        }, delayMs);
        const random = (): number => {
          draws += 1;
          return randoms[draws % randoms.length] ?? 0;
        };
        return replica(clock, store, { name: `r${index}`, skewMs, random });
      });
      await clock.advance(60_000);
      isHealed = true;
      await clock.advance(60_000);
      const all = replicas
        .flatMap(({ writes }, by) => writes.map((at) => ({ at, by })))
        .sort((a, b) => a.at - b.at);
      // Who writes changes only after a pause: nobody is cut off by another within the margin of the times.
      for (const [index, { at, by }] of all.entries()) {
        const before = all[index - 1];
        if (before === undefined || before.by === by) continue;
        if (at === before.at) throw new Error(`${before.by} and ${by} both write at ${at}`);
        const later = all.slice(index).find((write) => write.by === before.by);
        const own = all.slice(index).find((write) => write.by === by);
        if (later !== undefined && own !== undefined && later.at - own.at < 1000) {
          throw new Error(`${by} and ${before.by} take turns at ${at} and ${later.at}`);
        }
      }
      const isSlow = settings.some(({ delayMs }) => delayMs > 1000);
      const leading = replicas.filter(({ lease }) => lease.status.state === 'leading').length;
      for (const { stop } of replicas) await stop();
      return leading === 1 || (isSlow && leading === 0);
    }),
    { numRuns: 15 },
  );
  t.pass('held');
});
