/**
 * What is to be worked on, by key. A key is never worked on by two at a time, and never waits twice: what is wanted while it is
 * being worked on makes it run once more afterwards. So nothing that was added after a run began is lost.
 */
import { type Backoff, createBackoff } from '../../mesh/runtime/backoff.ts';
import type { Clock } from '../../mesh/runtime/clock.ts';
import { createDurationCounts, type DurationCounts } from '../../mesh/runtime/duration-counts.ts';
import { createDueTimes } from './due-times.ts';
import { createRateLimit } from './rate-limit.ts';
import { createReadyLine } from './ready-line.ts';

const DEFAULT_MAX_KEYS = 1_000_000;
const DEFAULT_RETRY_MIN_MS = 100;
const DEFAULT_RETRY_MAX_MS = 60_000;
const DEFAULT_PER_SECOND = 1000;
const DEFAULT_BURST = 2000;

/** A key that somebody works on now. */
export interface TakenKey {
  readonly key: string;
  /** How long it waited after it was due, in milliseconds. */
  readonly waitedMs: number;
}

/** A queue of keys. */
export interface WorkQueue {
  /** Wants a key to be worked on as soon as may be. Returns false when the queue is full: `overflowed` is true then. */
  add(key: string): boolean;
  /** As `add`, after some time; of several times the earliest counts. */
  addAfter(key: string, milliseconds: number): boolean;
  /** As `addAfter`, after the key's own back-off, and not before `atLeastMs`. Returns the delay in milliseconds. */
  retry(key: string, atLeastMs?: number): number;
  /** The next failure of this key begins its back-off anew. */
  forget(key: string): void;
  /** Waits for a key. Until `done` nobody else gets it. Rejects with the signal's reason when it aborts. */
  take(signal: AbortSignal): Promise<TakenKey>;
  /** Ends the work on a key that was taken. */
  done(key: string): void;
  /** Keys were refused since the last call: all keys must be added again by whoever knows them. Resets itself. */
  takeOverflow(): boolean;
  /** How many more keys may wait. */
  readonly room: number;
  /** Keys that are due. */
  readonly ready: number;
  /** Keys whose time has not come. */
  readonly delayed: number;
  /** Keys that are being worked on. */
  readonly running: number;
  /** How long keys waited after they were due. */
  readonly queueTimes: DurationCounts;
}

/** What a queue is made of; every time in milliseconds. */
export interface WorkQueueOptions {
  readonly clock: Clock;
  /** Back-off of a key: the first and the longest delay. Default 100 and 60,000. */
  readonly retryMinMs?: number;
  readonly retryMaxMs?: number;
  /** How many keys may be taken each second, after a burst. Default 1,000 after 2,000. */
  readonly perSecond?: number;
  readonly burst?: number;
  /** Keys that may wait. Default 1,000,000. */
  readonly maxKeys?: number;
  /** Groups take turns: a thousand keys of one do not delay those of another. Default: one group. */
  readonly groupOf?: (key: string) => string;
  readonly random?: () => number;
}

/** Makes an empty queue. */
export function createWorkQueue(options: WorkQueueOptions): WorkQueue {
  const { clock, maxKeys = DEFAULT_MAX_KEYS } = options;
  const rate = createRateLimit({
    perSecond: options.perSecond ?? DEFAULT_PER_SECOND,
    burst: options.burst ?? DEFAULT_BURST,
    clock,
  });
  const ready = createReadyLine(options.groupOf);
  const delayed = createDueTimes();
  /** Keys being worked on; from when those are due again that were added meanwhile. */
  const running = new Map<string, number | undefined>();
  const backoffs = new Map<string, Backoff>();
  const queueTimes = createDurationCounts();
  const waiters = new Set<() => void>();
  let overflowed = false;

  const wake = (): void => {
    for (const waiter of waiters) waiter();
  };
  const isKnown = (key: string): boolean =>
    ready.has(key) || delayed.has(key) || running.get(key) !== undefined;
  const hasRoom = (key: string): boolean => {
    if (isKnown(key) || running.has(key) || ready.size + delayed.size < maxKeys) return true;
    overflowed = true;
    return false;
  };
  const makeReady = (key: string, since: number): void => {
    delayed.delete(key);
    if (running.has(key)) {
      const before = running.get(key);
      running.set(key, before === undefined ? since : Math.min(before, since));
      return;
    }
    ready.push(key, since);
  };
  const addAfter = (key: string, milliseconds: number): boolean => {
    if (!hasRoom(key)) return false;
    const now = clock.monotonic();
    if (milliseconds <= 0) makeReady(key, now);
    else if (!ready.has(key) && running.get(key) === undefined)
      delayed.set(key, now + milliseconds);
    wake();
    return true;
  };
  const promote = (now: number): void => {
    for (let due = delayed.takeDue(now); due !== undefined; due = delayed.takeDue(now)) {
      makeReady(due.key, due.dueAt);
    }
  };
  /** Milliseconds until something may be taken; 0: at once. */
  const untilNext = (now: number): number => {
    if (ready.size === 0) return delayed.next() - now;
    return rate.tryTake();
  };

  return {
    add: (key) => addAfter(key, 0),
    addAfter,
    retry(key, atLeastMs = 0) {
      const backoff =
        backoffs.get(key) ??
        createBackoff({
          minMs: options.retryMinMs ?? DEFAULT_RETRY_MIN_MS,
          maxMs: options.retryMaxMs ?? DEFAULT_RETRY_MAX_MS,
          ...(options.random === undefined ? {} : { random: options.random }),
        });
      backoffs.set(key, backoff);
      const delayMs = Math.max(backoff.next(), atLeastMs);
      addAfter(key, delayMs);
      return delayMs;
    },
    forget: (key) => void backoffs.delete(key),
    async take(signal) {
      for (;;) {
        signal.throwIfAborted();
        promote(clock.monotonic());
        const waitMs = untilNext(clock.monotonic());
        if (waitMs > 0) {
          await waitFor(waitMs, { waiters, clock, signal });
          continue;
        }
        const next = ready.shift();
        if (next === undefined) continue;
        running.set(next.key, undefined);
        const waitedMs = Math.max(0, clock.monotonic() - next.since);
        queueTimes.observe(waitedMs);
        return { key: next.key, waitedMs };
      }
    },
    done(key) {
      const since = running.get(key);
      running.delete(key);
      if (since === undefined) return;
      ready.push(key, since);
      wake();
    },
    takeOverflow() {
      const was = overflowed;
      overflowed = false;
      return was;
    },
    get room() {
      return Math.max(0, maxKeys - ready.size - delayed.size);
    },
    get ready() {
      return ready.size;
    },
    get delayed() {
      return delayed.size;
    },
    get running() {
      return running.size;
    },
    queueTimes,
  };
}

/** Resolves after the time or when a waiter is woken; rejects when `signal` aborts. */
async function waitFor(
  milliseconds: number,
  options: { waiters: Set<() => void>; clock: Clock; signal: AbortSignal },
): Promise<void> {
  const { waiters, clock, signal } = options;
  const woken = new AbortController();
  const waiter = (): void => woken.abort(WOKEN);
  waiters.add(waiter);
  signal.addEventListener('abort', waiter, { once: true });
  try {
    if (milliseconds === Number.POSITIVE_INFINITY) await untilAborted(woken.signal);
    else await clock.sleep(milliseconds, woken.signal);
  } catch (error) {
    if (!woken.signal.aborted) throw error;
  } finally {
    waiters.delete(waiter);
    signal.removeEventListener('abort', waiter);
  }
  signal.throwIfAborted();
}

/** One for all: an abort without a reason makes an error with a stack each time. */
const WOKEN = new Error('something was added');

function untilAborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener('abort', () => resolve(), { once: true });
  });
}
