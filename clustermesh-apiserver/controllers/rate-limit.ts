import type { Clock } from '../../mesh/runtime/clock.ts';

/** A bucket of tokens: `burst` at once, then `perSecond`. */
export interface RateLimit {
  /** Takes a token and returns 0, or takes none and returns the milliseconds until there may be one. */
  tryTake(): number;
  /** Waits for a token. Rejects with the signal's reason when it aborts. */
  take(signal: AbortSignal): Promise<void>;
}

/** Makes a full bucket. `perSecond` Infinity: no limit. */
export function createRateLimit(options: {
  readonly perSecond: number;
  readonly burst: number;
  readonly clock: Clock;
}): RateLimit {
  const { perSecond, clock } = options;
  const burst = Math.max(1, options.burst);
  let tokens = burst;
  let filledAt = clock.monotonic();

  const tryTake = (): number => {
    if (perSecond === Number.POSITIVE_INFINITY) return 0;
    const now = clock.monotonic();
    tokens = Math.min(burst, tokens + ((now - filledAt) / 1000) * perSecond);
    filledAt = now;
    if (tokens >= 1) {
      tokens -= 1;
      return 0;
    }
    // Rounded up: a sleep that ends a fraction too early would find no token and sleep again.
    return Math.max(1, Math.ceil(((1 - tokens) / perSecond) * 1000));
  };
  return {
    tryTake,
    async take(signal) {
      for (let waitMs = tryTake(); waitMs > 0; waitMs = tryTake()) {
        await clock.sleep(waitMs, signal);
      }
    },
  };
}
