/**
 * Which of several replicas runs the controllers: a Lease of Kubernetes, by the rules of its own components (client-go
 * `tools/leaderelection`). Nobody compares clocks: whoever waits measures for how long the record has not changed before its own
 * eyes; whoever leads counts from before its last successful write, and stops earlier than anybody else may start.
 */
import { setMaxListeners } from 'node:events';
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import {
  DEFAULT_LEASE_TIMES,
  judgeLease,
  type LeaseSighting,
  type LeaseTimes,
  leaseTimesProblem,
  nextRecord,
  releasedRecord,
  sightLease,
} from './lease-record.ts';
import type { LeaseStore, StoredLease } from './lease-store.ts';
import { withTimeLimit } from './time-limit.ts';

/** A request that takes longer than this part of the renew deadline is tried anew. */
const REQUEST_PART = 0.5;
const RELEASE_LIMIT_MS = 3_000;
const MOST_WAITING = 256;
const UNANSWERED = 'cannot use the lease: the API server did not answer in time';

/** What a late writer is told. */
export class LeadershipError extends Error {
  readonly code = 'not-leading';
  /** Whoever leads does what was not done. */
  readonly retryable = false;

  constructor() {
    super('cannot write: this replica does not lead, the one that does will do it');
    this.name = 'LeadershipError';
  }
}

/** The time for which this replica leads. */
export interface LeaderTerm {
  /** Aborts when it is over. */
  readonly over: AbortSignal;
  /** To be called right before each write: throws LeadershipError when the term is over, or should be by either clock. */
  check(): void;
}

/** A replica's part in the election, for people. Times in milliseconds since 1970. */
export interface LeadershipStatus {
  readonly state: 'waiting' | 'leading';
  /** This replica. */
  readonly identity: string;
  /** Who leads as far as this replica has seen; empty: nobody. */
  readonly leader: string;
  /** Since when it is in this state. */
  readonly since: number;
  /** How often this replica began to lead. */
  readonly terms: number;
  /** Why the Lease cannot be read or written; undefined: it can. */
  readonly problem: string | undefined;
}

/** The election of controllers. */
export interface LeaderLease {
  /**
   * Waits to lead, leads, and so on until `signal` aborts. `lead` is to end soon after the term is over; only then is the Lease
   * given back, where it is still ours. What `lead` throws ends everything.
   */
  run(lead: (term: LeaderTerm) => Promise<void>, signal: AbortSignal): Promise<void>;
  readonly status: LeadershipStatus;
}

/** A Lease that is ours, and until when. */
interface Holding {
  stored: StoredLease;
  /** Monotonic and wall time at which the term ends unless it is renewed. */
  endsAt: number;
  endsAtWall: number;
}

/** Makes one replica's part. `identity` must be another for each process. Throws RangeError for times that let two lead. */
export function createLeaderLease(options: {
  readonly store: LeaseStore;
  readonly identity: string;
  readonly times?: LeaseTimes;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly random?: () => number;
}): LeaderLease {
  const { store, identity, clock, random = Math.random, times = DEFAULT_LEASE_TIMES } = options;
  const wrong = leaseTimesProblem(times);
  if (wrong !== undefined) throw new RangeError(`cannot elect a leader: ${wrong}`);
  const logger = options.logger.child({ lease: store.place, identity });
  const durationMs = Math.ceil(times.durationMs / 1000) * 1000;
  const requestMs = times.renewDeadlineMs * REQUEST_PART;
  let sighting: LeaseSighting | undefined;
  let state: LeadershipStatus['state'] = 'waiting';
  let since = clock.now();
  let terms = 0;
  let problem: string | undefined;

  const enter = (next: LeadershipStatus['state']): void => {
    state = next;
    since = clock.now();
  };
  const retryMs = (): number => times.retryMs * (0.75 + random() / 2);
  /** One who waits looks again when the Lease would run out, if that is sooner; not all of them at the same moment. */
  const untilNextLook = (): number => {
    if (sighting === undefined || sighting.record.holder === '') return retryMs();
    const leftMs = sighting.unchangedSince + sighting.record.durationMs - clock.monotonic();
    return leftMs <= 0 ? retryMs() : Math.min(retryMs(), leftMs + (random() * times.retryMs) / 10);
  };
  const see = (stored: StoredLease): void => {
    sighting = sightLease(sighting, stored.record, clock.monotonic());
  };
  const note = (error: unknown): void => {
    const message = error instanceof Error ? error.message : String(error);
    if (message !== problem) logger.warn({ err: error }, 'lease cannot be used, will be retried');
    problem = message;
  };

  /** Writes the Lease as ours. Undefined: another was faster. The term is counted from before the request. */
  const claim = async (
    before: StoredLease | undefined,
    signal: AbortSignal,
  ): Promise<Holding | undefined> => {
    const endsAt = clock.monotonic() + times.renewDeadlineMs;
    const endsAtWall = clock.now() + times.renewDeadlineMs;
    const record = nextRecord(before?.record, { identity, durationMs, now: clock.now() });
    const stored = await store.write(record, before, signal);
    if (stored === undefined) return undefined;
    see(stored);
    return { stored, endsAt, endsAtWall };
  };
  const tryToTake = async (signal: AbortSignal): Promise<Holding | undefined> => {
    const stored = await store.read(signal);
    if (stored === undefined) return claim(undefined, signal);
    see(stored);
    if (sighting === undefined) return undefined;
    const verdict = judgeLease(sighting, identity, clock.monotonic());
    return verdict.kind === 'held' ? undefined : claim(stored, signal);
  };
  const campaign = async (signal: AbortSignal): Promise<Holding | undefined> => {
    while (!signal.aborted) {
      try {
        const limit = { milliseconds: requestMs, message: UNANSWERED, clock, signal };
        const holding = await withTimeLimit(tryToTake, limit);
        problem = undefined;
        if (holding !== undefined) return holding;
      } catch (error) {
        if (signal.aborted) return undefined;
        note(error);
      }
      await clock.sleep(untilNextLook(), signal).catch(() => undefined);
    }
    return undefined;
  };

  /** Renews until `signal` aborts. Resolves to whether the Lease is still ours. */
  const renew = async (holding: Holding, signal: AbortSignal): Promise<boolean> => {
    /** The last answer may have been lost: what stands there is read first. */
    let isSure = true;
    const attempt = async (inner: AbortSignal): Promise<Holding | undefined> => {
      if (isSure) return claim(holding.stored, inner);
      const stored = await store.read(inner);
      if (stored === undefined || stored.record.holder !== identity) return undefined;
      return claim(stored, inner);
    };
    for (;;) {
      await clock.sleep(retryMs(), signal).catch(() => undefined);
      if (signal.aborted) return true;
      const leftMs = holding.endsAt - clock.monotonic();
      if (leftMs <= 0) return false;
      try {
        const milliseconds = Math.min(requestMs, leftMs);
        const limit = { milliseconds, message: UNANSWERED, clock, signal };
        const next = await withTimeLimit(attempt, limit);
        problem = undefined;
        if (next !== undefined) Object.assign(holding, next);
        else if (!isSure) return false;
        isSure = next !== undefined;
      } catch (error) {
        if (signal.aborted) return true;
        note(error);
        isSure = false;
      }
    }
  };
  const release = async ({ stored }: Holding): Promise<void> => {
    const never = new AbortController().signal;
    try {
      await withTimeLimit(
        (signal) => store.write(releasedRecord(stored.record, clock.now()), stored, signal),
        { milliseconds: RELEASE_LIMIT_MS, clock, signal: never },
      );
    } catch (error) {
      logger.debug({ err: error }, 'lease cannot be given back, it runs out');
    }
  };
  const hold = async (
    holding: Holding,
    lead: (term: LeaderTerm) => Promise<void>,
    signal: AbortSignal,
  ): Promise<void> => {
    const ending = new AbortController();
    // Each worker of each controller waits for it: more than the ten after which Node suspects a leak.
    setMaxListeners(MOST_WAITING, ending.signal);
    const end = (): void => ending.abort(new LeadershipError());
    signal.addEventListener('abort', end, { once: true });
    if (signal.aborted) end();
    const check = (): void => {
      // A process that was stopped for a while has not yet heard of the end of its term.
      const isLate = clock.monotonic() >= holding.endsAt || clock.now() >= holding.endsAtWall;
      if (isLate) end();
      if (ending.signal.aborted) throw new LeadershipError();
    };
    const renewing = renew(holding, ending.signal).finally(end);
    try {
      await lead({ over: ending.signal, check });
    } finally {
      end();
      signal.removeEventListener('abort', end);
      if (await renewing) await release(holding);
    }
  };

  return {
    async run(lead, signal) {
      while (!signal.aborted) {
        const holding = await campaign(signal);
        if (holding === undefined) return;
        terms += 1;
        enter('leading');
        logger.info('this replica leads the controllers');
        try {
          await hold(holding, lead, signal);
        } finally {
          enter('waiting');
          logger.info('this replica leads the controllers no more');
        }
      }
    },
    get status() {
      return {
        state,
        identity,
        leader: sighting?.record.holder ?? '',
        since,
        terms,
        problem,
      };
    },
  };
}
