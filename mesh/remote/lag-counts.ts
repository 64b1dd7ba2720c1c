/** Lags as numbers that are cheap to keep for hundreds of peers: counts by bucket, for ever and of the latest minutes. */

/** Upper bounds of the histogram that is exported, in seconds. */
export const LAG_BOUNDS_SECONDS = [
  0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60,
] as const;

/** Buckets for quantiles are a quarter of a doubling wide: a quantile is right within a tenth. */
const FINE_PER_DOUBLING = 4;
const FINE_START_MS = 0.25;
const FINE_BUCKETS = 96;
const MINUTE_MS = 60_000;
/** Minutes that quantiles look back on. */
const MINUTES = 5;

/** The latest minutes in numbers. */
export interface RecentLag {
  readonly samples: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly maxMs: number;
}

/** Counts of the lags of one kind of one peer. */
export interface LagCounts {
  /** Takes a lag in milliseconds, at a monotonic time. */
  add(lagMs: number, now: number): void;
  /** The last five minutes up to a monotonic time; undefined when there was nothing. */
  recent(now: number): RecentLag | undefined;
  /** Counts since the beginning: one a bound, and one for what is above. `sum` is in seconds. */
  readonly total: { readonly counts: Float64Array; readonly sum: number };
}

interface Minute {
  readonly number: number;
  readonly counts: Uint32Array;
  max: number;
}

/** Makes empty counts. */
export function createLagCounts(): LagCounts {
  const counts = new Float64Array(LAG_BOUNDS_SECONDS.length + 1);
  let sum = 0;
  let minutes: Minute[] = [];
  return {
    add(lagMs, now) {
      const seconds = lagMs / 1000;
      const found = LAG_BOUNDS_SECONDS.findIndex((bound) => seconds <= bound);
      const bucket = found < 0 ? LAG_BOUNDS_SECONDS.length : found;
      counts[bucket] = (counts[bucket] ?? 0) + 1;
      sum += seconds;
      const number = Math.floor(now / MINUTE_MS);
      let minute = minutes.at(-1);
      if (minute?.number !== number) {
        minute = { number, counts: new Uint32Array(FINE_BUCKETS), max: 0 };
        minutes = [...minutes.filter((each) => each.number > number - MINUTES), minute];
      }
      const fine = fineBucket(lagMs);
      minute.counts[fine] = (minute.counts[fine] ?? 0) + 1;
      minute.max = Math.max(minute.max, lagMs);
    },
    recent(now) {
      const first = Math.floor(now / MINUTE_MS) - MINUTES;
      const counted = minutes.filter((minute) => minute.number > first);
      const all = new Float64Array(FINE_BUCKETS);
      for (const minute of counted) {
        minute.counts.forEach((count, index) => {
          all[index] = (all[index] ?? 0) + count;
        });
      }
      const samples = all.reduce((total, count) => total + count, 0);
      if (samples === 0) return undefined;
      const maxMs = Math.max(...counted.map((minute) => minute.max));
      // No quantile is above the highest that was seen.
      const at = (share: number): number => Math.min(maxMs, quantile(all, samples * share));
      return { samples, p50Ms: at(0.5), p99Ms: at(0.99), maxMs };
    },
    get total() {
      return { counts, sum };
    },
  };
}

function fineBucket(lagMs: number): number {
  const bucket = Math.ceil(
    Math.log2(Math.max(lagMs, FINE_START_MS) / FINE_START_MS) * FINE_PER_DOUBLING,
  );
  return Math.min(FINE_BUCKETS - 1, bucket);
}

/** Middle of the bucket in which the sample of that rank lies. */
function quantile(counts: Float64Array, rank: number): number {
  let seen = 0;
  for (let index = 0; index < counts.length; index += 1) {
    seen += counts[index] ?? 0;
    if (seen >= rank) return FINE_START_MS * 2 ** ((index - 0.5) / FINE_PER_DOUBLING);
  }
  return FINE_START_MS * 2 ** (counts.length / FINE_PER_DOUBLING);
}
