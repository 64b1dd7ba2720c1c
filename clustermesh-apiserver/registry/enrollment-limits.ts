/**
 * How often strangers may try. A source that is refused again and again has to wait, one that goes on all the same is not even
 * listened to; all sources together may make so many attempts. What is remembered is bounded, whoever calls.
 */
import type { Clock } from '../../mesh/runtime/clock.ts';
import { type IpAddress, ipFamily, makePrefix } from '../../mesh/wire/ip.ts';

/** Limits of strangers. */
export interface EnrollmentLimitsOptions {
  readonly clock: Clock;
  /** Refusals that a source may have at once. Default 10. */
  readonly burst?: number;
  /** Time in which it may have one more. Default 6,000. */
  readonly refillMs?: number;
  /** Attempts of all sources at once, and the time in which one more is possible. Default 2,000 and 10 ms. */
  readonly totalBurst?: number;
  readonly totalRefillMs?: number;
  /** Sources that are remembered; the one not heard of for longest is forgotten first. Default 4,096. */
  readonly maxSources?: number;
}

/** Whether an attempt is looked at. `waitMs`: when the next one would be. */
export type Admission =
  | { readonly kind: 'admitted' }
  | { readonly kind: 'limited'; readonly by: 'source' | 'total'; readonly waitMs: number };

/** Counts attempts and refusals. */
export interface EnrollmentLimits {
  /** To be asked before an attempt is looked at. */
  admit(source: IpAddress): Admission;
  /** Notes that an attempt of a source was refused for what it sent. */
  punish(source: IpAddress): void;
  /** Whether a source has gone on for so long that its connections are not worth a handshake. */
  isShut(source: IpAddress): boolean;
  /** Sources that are remembered. */
  readonly sources: number;
}

interface Bucket {
  /** Attempts left at `at`; below zero they were made although there were none. */
  level: number;
  at: number;
}

/** Makes the count. Sources are IPv4 addresses and IPv6 networks of 64 bits, which one host may have all of. */
export function createEnrollmentLimits(options: EnrollmentLimitsOptions): EnrollmentLimits {
  const { clock, burst = 10, refillMs = 6000, maxSources = 4096 } = options;
  const { totalBurst = 2000, totalRefillMs = 10 } = options;
  /** How far a source may go into debt, and with it how long it is shut out at most. */
  const floor = -2 * burst;
  const buckets = new Map<string, Bucket>();
  const total: Bucket = { level: totalBurst, at: clock.monotonic() };

  const fill = (bucket: Bucket, most: number, eachMs: number): void => {
    const now = clock.monotonic();
    bucket.level = Math.min(most, bucket.level + (now - bucket.at) / eachMs);
    bucket.at = now;
  };
  const find = (source: IpAddress): Bucket | undefined => {
    const key = sourceKey(source);
    const bucket = buckets.get(key);
    if (bucket === undefined) return undefined;
    fill(bucket, burst, refillMs);
    if (bucket.level < burst) return bucket;
    buckets.delete(key);
    return undefined;
  };
  const take = (source: IpAddress): void => {
    const key = sourceKey(source);
    const bucket = find(source) ?? { level: burst, at: clock.monotonic() };
    bucket.level = Math.max(floor, bucket.level - 1);
    buckets.delete(key);
    const [oldest] = buckets.keys();
    if (buckets.size >= maxSources && oldest !== undefined) buckets.delete(oldest);
    buckets.set(key, bucket);
  };
  return {
    admit(source) {
      const bucket = find(source);
      if (bucket !== undefined && bucket.level < 1) {
        take(source);
        return { kind: 'limited', by: 'source', waitMs: (1 - bucket.level) * refillMs };
      }
      fill(total, totalBurst, totalRefillMs);
      if (total.level < 1) {
        return { kind: 'limited', by: 'total', waitMs: (1 - total.level) * totalRefillMs };
      }
      total.level -= 1;
      return { kind: 'admitted' };
    },
    punish: take,
    isShut: (source) => (find(source)?.level ?? burst) <= floor + 1,
    get sources() {
      return buckets.size;
    },
  };
}

function sourceKey(source: IpAddress): string {
  return ipFamily(source) === 4 ? source : makePrefix(source, 64);
}
