/** Delays between attempts: doubling from `minMs` to `maxMs`, each with full jitter, so that a crowd of clients spreads. */
export interface Backoff {
  /** Milliseconds to wait before the next attempt. */
  next(): number;
  /** Attempts since the last success. */
  readonly attempts: number;
  /** To be called after a success that has lasted. */
  reset(): void;
}

/** Makes a back-off. The first delay lies in `[minMs / 2, minMs]`, later ones in `[ceiling / 2, ceiling]`. */
export function createBackoff(options: {
  minMs: number;
  maxMs: number;
  random?: () => number;
}): Backoff {
  const random = options.random ?? Math.random;
  let attempts = 0;
  return {
    next() {
      const ceiling = Math.min(options.maxMs, options.minMs * 2 ** Math.min(attempts, 30));
      attempts += 1;
      return ceiling / 2 + (random() * ceiling) / 2;
    },
    get attempts() {
      return attempts;
    },
    reset() {
      attempts = 0;
    },
  };
}
