import type { Clock } from '../runtime/clock.ts';

/** Silence after which a cluster counts as stale, unless told otherwise. */
export const DEFAULT_STALE_AFTER_MS = 30_000;

/** A cluster that was stale must be whole and alive for this long before it is trusted again. */
const SETTLE_MS = 5000;
/** The longest such wait, for a link that keeps going up and down. */
const MAX_SETTLE_MS = 60_000;
/** A cluster that is stale again within this time of its return has to wait twice as long. */
const FLAP_WINDOW_MS = 10 * 60_000;

/** What the signs of life of a cluster mean. */
export type Life =
  | { readonly kind: 'fresh' }
  /** Silent for too long. `since`: monotonic milliseconds at which it became so. */
  | { readonly kind: 'stale'; readonly since: number }
  /** It speaks again, and is watched for a while. `until`: monotonic milliseconds at which it is trusted, if it lasts. */
  | { readonly kind: 'returning'; readonly since: number; readonly until: number };

/** Whether a cluster is there, with hysteresis: it goes by silence, and comes back by lasting. Time is given by a clock, nothing here waits. */
export interface Liveness {
  /** To be called for each sign of life. Cheap: it is on the path of every event. */
  sign(): void;
  /** Makes the cluster stale now: somebody who knows says that it is silent. */
  expire(): void;
  /** We did not listen for so many milliseconds: that is no silence of the cluster. */
  pardon(milliseconds: number): void;
  /** Milliseconds since the last sign of life, or since this was made. */
  silentMs(): number;
  /**
   * Looks at the clock. `isWhole`: everything was read and checked over the connection of now, and nothing of it is
   * broken. `isKnown`: it has been whole before; the first time nothing is waited for.
   */
  look(isWhole: boolean, options: { readonly isKnown: boolean }): Life;
  /** Milliseconds until `look` may answer something else without a sign of life or a change of `isWhole`. */
  untilChangeMs(): number;
}

/** Makes a cluster of which nothing is known: it has `staleAfterMs` to say something. */
export function createLiveness(options: {
  readonly clock: Clock;
  readonly staleAfterMs?: number;
  readonly settleMs?: number;
}): Liveness {
  const { clock, staleAfterMs = DEFAULT_STALE_AFTER_MS, settleMs = SETTLE_MS } = options;
  let lastSignAt = clock.monotonic();
  let expired = false;
  let life: Life = { kind: 'fresh' };
  let returnedAt: number | undefined;
  let patienceMs = settleMs;

  const lose = (now: number): Life => {
    const isFlapping = returnedAt !== undefined && now - returnedAt < FLAP_WINDOW_MS;
    patienceMs = isFlapping ? Math.min(patienceMs * 2, MAX_SETTLE_MS) : settleMs;
    return { kind: 'stale', since: expired ? now : lastSignAt + staleAfterMs };
  };

  const next = (isWhole: boolean, isKnown: boolean): Life => {
    const now = clock.monotonic();
    const isSilent = expired || now - lastSignAt >= staleAfterMs;
    if (isSilent) {
      if (life.kind === 'fresh') return lose(now);
      return { kind: 'stale', since: life.since };
    }
    if (life.kind === 'fresh') return life;
    if (!isWhole) return { kind: 'stale', since: life.since };
    if (!isKnown) return { kind: 'fresh' };
    if (life.kind === 'stale') {
      return { kind: 'returning', since: life.since, until: now + patienceMs };
    }
    if (now < life.until) return life;
    returnedAt = now;
    return { kind: 'fresh' };
  };

  return {
    sign() {
      lastSignAt = clock.monotonic();
      expired = false;
    },
    expire() {
      expired = true;
    },
    pardon(milliseconds) {
      lastSignAt = Math.min(clock.monotonic(), lastSignAt + milliseconds);
    },
    silentMs: () => clock.monotonic() - lastSignAt,
    look(isWhole, { isKnown }) {
      life = next(isWhole, isKnown);
      return life;
    },
    untilChangeMs() {
      const now = clock.monotonic();
      const silence = Math.max(0, lastSignAt + staleAfterMs - now);
      switch (life.kind) {
        case 'fresh':
          return silence;
        case 'returning':
          return Math.min(silence, Math.max(0, life.until - now));
        case 'stale':
          return Number.POSITIVE_INFINITY;
        default:
          return life satisfies never;
      }
    },
  };
}
