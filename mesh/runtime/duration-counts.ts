import type { BucketCounts } from './metrics.ts';

/** Upper bounds in seconds: from work that finds nothing to do to work that waits for a server that is down. */
const BOUNDS: readonly number[] = [
  0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60,
];

/** Durations by bucket, in seconds, as a histogram of `mesh/runtime/metrics.ts` takes them. */
export interface DurationCounts extends BucketCounts {
  observe(milliseconds: number): void;
}

/** Makes counts without any duration. */
export function createDurationCounts(): DurationCounts {
  const counts = new Float64Array(BOUNDS.length + 1);
  let sum = 0;
  return {
    bounds: BOUNDS,
    counts,
    get sum() {
      return sum;
    },
    observe(milliseconds) {
      const seconds = Math.max(0, milliseconds) / 1000;
      const found = BOUNDS.findIndex((bound) => seconds <= bound);
      const bucket = found === -1 ? BOUNDS.length : found;
      counts[bucket] = (counts[bucket] ?? 0) + 1;
      sum += seconds;
    },
  };
}
