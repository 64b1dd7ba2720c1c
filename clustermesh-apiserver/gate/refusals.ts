/** Counts what the gate has refused, and remembers the latest of each kind for whoever looks. */
import type { RefusalReason } from './caller.ts';

/** One refusal. */
export interface Refusal {
  /** Milliseconds since 1970. */
  readonly at: number;
  /** Common name of the caller's certificate; empty when it had none. */
  readonly caller: string;
  readonly from: string;
  /** The method, or what failed. */
  readonly what: string;
}

/** Refusals by reason; a reason that never occurred is absent. */
export type RefusalCounts = Partial<
  Record<RefusalReason, { readonly count: number; readonly last: Refusal }>
>;

/** Where refusals are counted. */
export interface Refusals {
  readonly counts: RefusalCounts;
  add(reason: RefusalReason, refusal: Refusal): void;
}

/** Makes an empty count. */
export function createRefusals(): Refusals {
  const counts: RefusalCounts = {};
  return {
    counts,
    add(reason, last) {
      counts[reason] = { count: (counts[reason]?.count ?? 0) + 1, last };
    },
  };
}
