import { onAbort } from './abort-callbacks.ts';

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
  sleep,
};

/** As that of `node:timers/promises`, which makes an error with a stack for each sleep that is ended: they are many. */
function sleep(milliseconds: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) {
      reject(signal.reason);
      return;
    }
    let letGo: (() => void) | undefined;
    const timer = setTimeout(() => {
      letGo?.();
      resolve();
    }, milliseconds);
    if (signal === undefined) return;
    letGo = onAbort(signal, () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}
