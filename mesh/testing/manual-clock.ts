import type { Clock } from '../runtime/clock.ts';

/** A clock that stands still until a test turns it. */
export interface ManualClock extends Clock {
  /** How many sleeps wait for time to pass. */
  readonly sleeping: number;
  /**
   * Lets time pass, waking sleepers in the order of their times; what they go on to do, further sleeps too, happens
   * at the time they were woken.
   */
  advance(milliseconds: number): Promise<void>;
}

interface Sleeper {
  readonly at: number;
  readonly wake: () => void;
}

/** Makes a clock that shows `now` (milliseconds since 1970, 0 by default) and starts at 0 monotonic milliseconds. */
export function createManualClock(options: { now?: number } = {}): ManualClock {
  const start = options.now ?? 0;
  const sleepers = new Set<Sleeper>();
  let elapsed = 0;

  const nextUntil = (end: number): Sleeper | undefined => {
    let next: Sleeper | undefined;
    for (const sleeper of sleepers) {
      if (sleeper.at <= end && (next === undefined || sleeper.at < next.at)) next = sleeper;
    }
    return next;
  };

  return {
    now: () => start + elapsed,
    monotonic: () => elapsed,
    get sleeping() {
      return sleepers.size;
    },
    sleep: (milliseconds, signal) =>
      new Promise((resolve, reject) => {
        if (signal?.aborted) return reject(signal.reason);
        const onAbort = (): void => {
          sleepers.delete(sleeper);
          reject(signal?.reason);
        };
        const sleeper: Sleeper = {
          at: elapsed + Math.max(0, milliseconds),
          wake: () => {
            sleepers.delete(sleeper);
            signal?.removeEventListener('abort', onAbort);
            resolve();
          },
        };
        sleepers.add(sleeper);
        signal?.addEventListener('abort', onAbort, { once: true });
      }),
    async advance(milliseconds) {
      const end = elapsed + milliseconds;
      await settle();
      for (let next = nextUntil(end); next !== undefined; next = nextUntil(end)) {
        elapsed = Math.max(elapsed, next.at);
        next.wake();
        await settle();
      }
      elapsed = end;
    },
  };
}

/** Lets everything that is ready run, a few turns of the event loop deep. */
async function settle(): Promise<void> {
  for (let turn = 0; turn < 3; turn += 1) {
    await new Promise((resolve) => setImmediate(resolve));
  }
}
