/**
 * A controller: workers that make the world as it should be, one key at a time. What fails is tried again for that key alone, later
 * and later; it is logged when what it says changes, not each time.
 */
import type { Clock } from '../../mesh/runtime/clock.ts';
import { createDurationCounts, type DurationCounts } from '../../mesh/runtime/duration-counts.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import { withTimeLimit } from './time-limit.ts';
import type { WorkQueue } from './work-queue.ts';

const DEFAULT_WORKERS = 5;
const DEFAULT_TIMEOUT_MS = 60_000;
/** Keys that are due before more of all keys are added. */
const FEED_UP_TO = 1000;
/** Failing keys that a status shows. */
const MOST_SHOWN = 20;

/** What a reconcile asks for besides having ended; nothing: it is done until its key is added again. */
export interface ReconcileResult {
  /** To be looked at again after this time, though nothing failed. */
  readonly againAfterMs: number;
  /** Later each time, until a reconcile asks for nothing. Default false. */
  readonly backsOff?: boolean;
}

/**
 * Makes everything of one key as it should be, from what is known now. May be called for a key of which nothing is to be done or
 * nothing is left. What it throws is retried; an error's `retryAfterMs` is the least time until then. Writes nothing more once
 * `signal` has aborted: another may lead by then.
 */
export type Reconcile = (key: string, signal: AbortSignal) => Promise<ReconcileResult | undefined>;

/** A key whose last reconcile failed. Times in milliseconds since 1970. */
export interface FailingKey {
  readonly key: string;
  readonly message: string;
  readonly attempts: number;
  readonly since: number;
  readonly retryAt: number;
}

/** A controller for people and metrics. */
export interface ControllerStatus {
  readonly name: string;
  readonly ready: number;
  readonly delayed: number;
  readonly running: number;
  /** Reconciles that ended since the process began, failed ones included. */
  readonly reconciled: number;
  readonly failures: number;
  /** How many keys fail now, and some of them, the longest failing first. */
  readonly failingCount: number;
  readonly failing: readonly FailingKey[];
  /** How long keys waited until they were worked on. */
  readonly queueTimes: DurationCounts;
  readonly workTimes: DurationCounts;
}

/** What a controller is made of. */
export interface ControllerOptions {
  /** In logs, status and the label `controller` of metrics. */
  readonly name: string;
  readonly queue: WorkQueue;
  readonly reconcile: Reconcile;
  /** Default 5. */
  readonly workers?: number;
  /** After which a reconcile is aborted and counts as failed, in milliseconds. Default 60,000. */
  readonly timeoutMs?: number;
  /** All keys there are: added when it begins to run, and again after the queue overflowed. */
  readonly allKeys: () => Iterable<string>;
  readonly clock: Clock;
  readonly logger: Logger;
}

/** A controller that can be run again and again, each time as long as this process leads. */
export interface Controller {
  readonly name: string;
  /** Works until `signal` aborts, and ends when what was being done has ended. */
  run(signal: AbortSignal): Promise<void>;
  status(): ControllerStatus;
}

/** Makes a controller that does not run yet. */
export function createController(options: ControllerOptions): Controller {
  const { name, queue, clock, timeoutMs = DEFAULT_TIMEOUT_MS } = options;
  const logger = options.logger.child({ controller: name });
  const failing = new Map<string, FailingKey>();
  const workTimes = createDurationCounts();
  /** Keys that are still to be added. */
  let backlog: Iterator<string> | undefined;
  let reconciled = 0;
  let failures = 0;

  const failed = (key: string, error: unknown): void => {
    failures += 1;
    const message = error instanceof Error ? error.message : String(error);
    const before = failing.get(key);
    const delayMs = queue.retry(key, retryAfterOf(error));
    const now = clock.now();
    failing.set(key, {
      key,
      message,
      attempts: (before?.attempts ?? 0) + 1,
      since: before?.since ?? now,
      retryAt: now + delayMs,
    });
    if (before?.message === message) return;
    logger.warn({ key, err: error }, 'reconcile failed, will be retried');
  };
  const succeeded = (key: string, result: ReconcileResult | undefined): void => {
    const before = failing.get(key);
    if (before !== undefined) {
      failing.delete(key);
      logger.info({ key, attempts: before.attempts }, 'reconcile works again');
    }
    if (result?.backsOff === true) {
      queue.retry(key, result.againAfterMs);
      return;
    }
    queue.forget(key);
    if (result !== undefined) queue.addAfter(key, result.againAfterMs);
  };
  const work = async (key: string, signal: AbortSignal): Promise<void> => {
    const began = clock.monotonic();
    try {
      const result = await withTimeLimit((inner) => options.reconcile(key, inner), {
        milliseconds: timeoutMs,
        clock,
        signal,
      });
      succeeded(key, result);
    } catch (error) {
      // What the end of the term cut off is begun anew by whoever leads next.
      if (!signal.aborted) failed(key, error);
    } finally {
      reconciled += 1;
      workTimes.observe(clock.monotonic() - began);
    }
  };
  /** Adds keys that were not added yet, a part at a time: there may be more of them than the queue holds. */
  const feed = (): void => {
    if (backlog === undefined && queue.takeOverflow()) {
      logger.warn('more keys than the queue holds: all are looked at again');
      backlog = options.allKeys()[Symbol.iterator]();
    }
    while (backlog !== undefined && queue.room > 0 && queue.ready < FEED_UP_TO) {
      const next = backlog.next();
      if (next.done === true) backlog = undefined;
      else queue.add(next.value);
    }
  };
  const runWorker = async (signal: AbortSignal): Promise<void> => {
    while (!signal.aborted) {
      let key: string;
      try {
        ({ key } = await queue.take(signal));
      } catch (error) {
        if (signal.aborted) return;
        throw error;
      }
      try {
        await work(key, signal);
      } finally {
        queue.done(key);
      }
      feed();
    }
  };

  return {
    name,
    async run(signal) {
      const workers = options.workers ?? DEFAULT_WORKERS;
      // What an earlier leader left undone nobody tells of.
      backlog = options.allKeys()[Symbol.iterator]();
      feed();
      await Promise.all(Array.from({ length: workers }, () => runWorker(signal)));
    },
    status: () => ({
      name,
      ready: queue.ready,
      delayed: queue.delayed,
      running: queue.running,
      reconciled,
      failures,
      failingCount: failing.size,
      failing: [...failing.values()].sort((a, b) => a.since - b.since).slice(0, MOST_SHOWN),
      queueTimes: queue.queueTimes,
      workTimes,
    }),
  };
}

function retryAfterOf(error: unknown): number {
  if (!(error instanceof Error) || !('retryAfterMs' in error)) return 0;
  return typeof error.retryAfterMs === 'number' ? error.retryAfterMs : 0;
}
