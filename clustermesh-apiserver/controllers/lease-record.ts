/** A Lease as the election reads it (Kubernetes `coordination.k8s.io/v1`). Pure: times come in as numbers. */

/** What stands in a Lease. */
export interface LeaseRecord {
  /** Who leads; empty: nobody. */
  readonly holder: string;
  /** How long it counts after each renewal, in milliseconds; whole seconds in the Lease. */
  readonly durationMs: number;
  /** As it was written: it is compared, never understood. */
  readonly acquireTime: string;
  readonly renewTime: string;
  /** How often another began to lead. */
  readonly transitions: number;
}

/** A record, and since when this process has seen it unchanged, in monotonic milliseconds. */
export interface LeaseSighting {
  readonly record: LeaseRecord;
  readonly unchangedSince: number;
}

/** Times of an election, in milliseconds. */
export interface LeaseTimes {
  /** How long others wait after the last renewal that they saw. Rounded up to seconds. */
  readonly durationMs: number;
  /** How long who leads goes on after its last renewal; less than `durationMs`. */
  readonly renewDeadlineMs: number;
  /** Between attempts, give or take a quarter. */
  readonly retryMs: number;
}

/** What Kubernetes' own components use: another leads at most 18 s after a leader has vanished. */
export const DEFAULT_LEASE_TIMES: LeaseTimes = {
  durationMs: 15_000,
  renewDeadlineMs: 10_000,
  retryMs: 2_000,
};

/** Whether one may try to take the Lease. */
export type LeaseVerdict =
  | { readonly kind: 'ours' }
  /** Nobody holds it, or its holder has not renewed it in time. */
  | { readonly kind: 'free' }
  | { readonly kind: 'held'; readonly by: string };

/** Says what is wrong with times, or undefined. */
export function leaseTimesProblem(times: LeaseTimes): string | undefined {
  const { durationMs, renewDeadlineMs, retryMs } = times;
  if (renewDeadlineMs >= durationMs) {
    return `renew deadline ${renewDeadlineMs} ms must be less than lease duration ${durationMs} ms: two could lead at once`;
  }
  if (retryMs * 1.25 >= renewDeadlineMs) {
    return `retry period ${retryMs} ms must be well below renew deadline ${renewDeadlineMs} ms: one late answer would end the term`;
  }
  return undefined;
}

/** Notes what was read. A record that is the same as before was not renewed meanwhile. */
export function sightLease(
  before: LeaseSighting | undefined,
  record: LeaseRecord,
  now: number,
): LeaseSighting {
  if (before !== undefined && sameRecord(before.record, record)) return before;
  return { record, unchangedSince: now };
}

/** Judges a Lease by this process' own clock alone. */
export function judgeLease(
  { record, unchangedSince }: LeaseSighting,
  identity: string,
  now: number,
): LeaseVerdict {
  if (record.holder === '') return { kind: 'free' };
  if (record.holder === identity) return { kind: 'ours' };
  return now - unchangedSince >= record.durationMs
    ? { kind: 'free' }
    : { kind: 'held', by: record.holder };
}

/** The record of one who takes or renews the Lease at `now`, milliseconds since 1970: that is for people. */
export function nextRecord(
  before: LeaseRecord | undefined,
  options: { readonly identity: string; readonly durationMs: number; readonly now: number },
): LeaseRecord {
  const { identity, durationMs } = options;
  const time = microTime(options.now);
  const isRenewal = before?.holder === identity;
  return {
    holder: identity,
    durationMs,
    acquireTime: isRenewal ? before.acquireTime : time,
    renewTime: time,
    transitions: (before?.transitions ?? 0) + (isRenewal || before === undefined ? 0 : 1),
  };
}

/** The record of one who gives the Lease back. */
export function releasedRecord(before: LeaseRecord, now: number): LeaseRecord {
  return { ...before, holder: '', durationMs: 1000, renewTime: microTime(now) };
}

/** A time as Kubernetes' `MicroTime` has it: it takes no other number of digits. */
export function microTime(milliseconds: number): string {
  return new Date(milliseconds).toISOString().replace('Z', '000Z');
}

function sameRecord(a: LeaseRecord, b: LeaseRecord): boolean {
  return (
    a.holder === b.holder &&
    a.renewTime === b.renewTime &&
    a.acquireTime === b.acquireTime &&
    a.durationMs === b.durationMs &&
    a.transitions === b.transitions
  );
}
