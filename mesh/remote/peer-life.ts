import { createBell } from '../runtime/bell.ts';
import type { Clock } from '../runtime/clock.ts';
import type { Logger } from '../runtime/log.ts';
import { createLiveness, type Life } from './liveness.ts';
import {
  isMirrorBad,
  isMirrorSure,
  isRecovering,
  isWhole,
  type PeerState,
  type Situation,
  stateOf,
} from './peer-state.ts';

/** How often the life of a cluster is looked at, at least. */
const LOOK_MS = { fresh: 10_000, stale: 1000 } as const;

/** A look that is later than this means that the process was stopped or busy, and heard nobody meanwhile. */
const LATE_MS = 1000;

/** What a cluster's state is made of, but for what time makes of it. */
export type TimelessSituation = Omit<Situation, 'life' | 'staleSince' | 'wasReady'>;

/** Follows the state of a cluster over time. */
export interface StateKeeper {
  readonly state: PeerState;
  /** Milliseconds since 1970 at which the state began. */
  readonly since: number;
  readonly life: Life;
  readonly lastError: { readonly message: string; readonly at: number } | undefined;
  /** Milliseconds since the last sign of life. */
  readonly silentMs: number;
  situation(): Situation;
  /** To be called for whatever the cluster sends while its configuration is accepted. */
  sign(): void;
  /** To be called after a change that may change the state. */
  changed(): void;
  /** Notes an error that is not part of the state. */
  noteError(message: string): void;
  /** Begins anew, as if it had never been ready. */
  reset(): void;
  /** Looks at the clock until `signal` aborts. */
  follow(signal: AbortSignal): Promise<void>;
}

/** Keeps the state of a cluster of which nothing is known. */
export function createStateKeeper(options: {
  readonly look: () => TimelessSituation;
  readonly staleAfterMs: number;
  readonly settleMs?: number;
  readonly clock: Clock;
  readonly logger: Logger;
}): StateKeeper {
  const { clock, logger } = options;
  const liveness = createLiveness(options);
  const lookAgain = createBell();
  let state: PeerState = { kind: 'connecting' };
  let since = clock.now();
  let life: Life = { kind: 'fresh' };
  let staleSince: number | undefined;
  let wasReady = false;
  /** A mirror that answers says nothing about a cluster that it cannot read itself. */
  let isDeaf = false;
  let lastError: StateKeeper['lastError'];
  /** When the next look is due. */
  let dueAt = Number.POSITIVE_INFINITY;

  const situation = (): Situation => ({ ...options.look(), wasReady, life, staleSince });

  const setState = (next: PeerState, isGettingBetter: boolean): void => {
    const reason = 'reason' in next ? next.reason : undefined;
    const before = 'reason' in state ? state.reason : undefined;
    if (reason !== undefined && reason !== before && !isGettingBetter) {
      lastError = { message: reason, at: clock.now() };
      logger.warn(
        { state: next.kind, reason },
        'cluster cannot be read, what is known of it stays in use',
      );
    }
    if (next.kind !== state.kind) {
      since = clock.now();
      if (reason === undefined) logger.info({ state: next.kind }, 'cluster changed state');
    }
    wasReady ||= next.kind === 'ready' && life.kind === 'fresh';
    state = next;
  };

  const look = (): void => {
    const late = clock.monotonic() - dueAt;
    if (late > LATE_MS) {
      liveness.pardon(late);
      dueAt = clock.monotonic();
    }
    const now = situation();
    isDeaf = isMirrorBad(now.mirror);
    if (isMirrorSure(now.mirror)) liveness.expire();
    life = liveness.look(isWhole(now), { isKnown: wasReady });
    if (life.kind === 'fresh') staleSince = undefined;
    else staleSince ??= clock.now() - (clock.monotonic() - life.since);
    const then = { ...now, life, staleSince };
    setState(stateOf(then), isRecovering(then));
  };

  const patienceMs = (): number => {
    const limit = life.kind === 'fresh' ? LOOK_MS.fresh : LOOK_MS.stale;
    return Math.min(limit, options.staleAfterMs / 4, liveness.untilChangeMs());
  };

  return {
    get state() {
      return state;
    },
    get since() {
      return since;
    },
    get life() {
      return life;
    },
    get lastError() {
      return lastError;
    },
    get silentMs() {
      return liveness.silentMs();
    },
    situation,
    sign() {
      if (!isDeaf) liveness.sign();
    },
    changed() {
      look();
      // Whoever waits looks at the clock in time, unless the next look is due earlier now.
      if (clock.monotonic() + patienceMs() < dueAt) lookAgain.ring();
    },
    noteError(message) {
      lastError = { message, at: clock.now() };
    },
    reset() {
      wasReady = false;
    },
    async follow(signal) {
      signal.addEventListener('abort', () => lookAgain.ring(), { once: true });
      while (!signal.aborted) {
        lookAgain.clear();
        look();
        const patience = patienceMs();
        dueAt = clock.monotonic() + patience;
        await lookAgain.wait(patience, clock);
      }
    },
  };
}
