/** What stands before every way to enrol: how often a source may try, and what is counted and logged of refusals. */
import { KvError } from '../../mesh/kvstore/kvstore.ts';
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import type { IpAddress } from '../../mesh/wire/ip.ts';
import type { Admission, EnrollmentLimits } from './enrollment-limits.ts';
import {
  type EnrollmentRefusal,
  type EnrollmentRefusalReason,
  refusal,
} from './enrollment-refusal.ts';
import { TokenError } from './token-error.ts';

/** A call as it came. */
export interface EnrollmentCall {
  readonly message: unknown;
  readonly from: IpAddress;
  readonly signal: AbortSignal;
}

/** How often each reason was given. */
export type RefusalCounts = Readonly<Partial<Record<EnrollmentRefusalReason, number>>>;

/** Lets calls through to who decides them. */
export interface EnrollmentGuard {
  /** The outcome of `decide`, or a refusal without it. What is refused is counted, logged, and held against its source. */
  pass<Outcome extends { readonly kind: string }>(
    call: EnrollmentCall,
    decide: () => Promise<Outcome | EnrollmentRefusal>,
  ): Promise<Outcome | EnrollmentRefusal>;
  readonly refused: RefusalCounts;
}

/** How long a refusal of one kind for one source is not logged again. */
const QUIET_MS = 600_000;
const MAX_LOGGED = 1024;
/** Refusals that say nothing against who called. */
const BLAMELESS: readonly EnrollmentRefusalReason[] = [
  'unavailable',
  'not-offered',
  'rate-limited',
];

/** Makes one for one way to enrol; all of them share the limits. */
export function createEnrollmentGuard(options: {
  readonly limits: EnrollmentLimits;
  readonly clock: Clock;
  readonly logger: Logger;
}): EnrollmentGuard {
  const { limits, clock, logger } = options;
  const refused: Partial<Record<EnrollmentRefusalReason, number>> = {};
  const logged = createQuietSet(clock);

  const note = (call: EnrollmentCall, { reason, details }: EnrollmentRefusal): void => {
    refused[reason] = (refused[reason] ?? 0) + 1;
    if (!BLAMELESS.includes(reason)) limits.punish(call.from);
    if (logged.isNew(`${reason} ${call.from}`)) {
      logger.warn({ from: call.from, reason, details }, 'an enrolment was refused');
    }
  };

  return {
    async pass(call, decide) {
      const admission = limits.admit(call.from);
      const outcome =
        admission.kind === 'limited' ? limited(admission) : await decide().catch(withoutStore);
      if (isRefusal(outcome)) note(call, outcome);
      return outcome;
    },
    get refused() {
      return { ...refused };
    },
  };
}

function isRefusal(outcome: { readonly kind: string }): outcome is EnrollmentRefusal {
  return outcome.kind === 'refused';
}

function limited({
  by,
  waitMs,
}: Extract<Admission, { readonly kind: 'limited' }>): EnrollmentRefusal {
  const seconds = Math.max(1, Math.ceil(waitMs / 1000));
  const whose = by === 'source' ? 'from this address' : 'from everywhere';
  return refusal('rate-limited', `too many attempts ${whose}: try again in ${seconds} s`);
}

/** A refusal when the store was what failed; rethrows everything else. */
function withoutStore(error: unknown): EnrollmentRefusal {
  if (!(error instanceof KvError || error instanceof TokenError)) throw error;
  const details = `the registry cannot write or read at present (${error.code}): try again`;
  return refusal('unavailable', details);
}

/** Remembers for a while, and at most so many. */
function createQuietSet(clock: Clock): { isNew(subject: string): boolean } {
  const seen = new Map<string, number>();
  return {
    isNew(subject) {
      const now = clock.monotonic();
      const last = seen.get(subject);
      if (last !== undefined && now - last < QUIET_MS) return false;
      seen.delete(subject);
      const [oldest] = seen.keys();
      if (seen.size >= MAX_LOGGED && oldest !== undefined) seen.delete(oldest);
      seen.set(subject, now);
      return true;
    },
  };
}
