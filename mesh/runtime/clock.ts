import { setTimeout as wait } from 'node:timers/promises';

/** Time as a dependency, so that tests can turn it by hand (`mesh/testing/manual-clock.ts`). */
export interface Clock {
  /** Wall clock, milliseconds since 1970: for what is published. It may jump. */
  now(): number;
  /** Monotonic milliseconds: for every measurement of a duration. */
  monotonic(): number;
  /** Waits; rejects with the signal's reason when it aborts. */
  sleep(milliseconds: number, signal?: AbortSignal): Promise<void>;
}

/** The machine's own clock. */
export const systemClock: Clock = {
  now: () => Date.now(),
  monotonic: () => performance.now(),
  sleep: async (milliseconds, signal) => {
    await wait(milliseconds, undefined, signal ? { signal } : {});
  },
};
