import { type Clock, systemClock } from '../../mesh/runtime/clock.ts';
import { LabError } from './lab-error.ts';

/** Options of `waitFor`. */
export interface WaitOptions {
  /** Default 60,000. */
  readonly timeoutMs?: number;
  /** Between two looks. Default 20, and after 0.4 s a twentieth of what has been waited, at most 100. */
  readonly intervalMs?: number;
  readonly signal?: AbortSignal | undefined;
  readonly clock?: Clock;
}

/**
 * Looks again and again until `look` gives something other than false or undefined, and resolves to that. A look that throws
 * counts as "not yet". Throws LabError `timeout` naming `what`, with the last thing that was thrown as its cause.
 */
export async function waitFor<T>(
  what: string,
  look: () => Promise<T | false | undefined> | T | false | undefined,
  options: WaitOptions = {},
): Promise<T> {
  const { timeoutMs = 60_000, intervalMs, signal, clock = systemClock } = options;
  const began = clock.monotonic();
  const deadline = began + timeoutMs;
  let lastError: unknown;
  for (;;) {
    signal?.throwIfAborted();
    try {
      const found = await look();
      if (found !== false && found !== undefined) return found;
      lastError = undefined;
    } catch (error) {
      lastError = error;
    }
    if (clock.monotonic() > deadline) {
      const because = lastError instanceof Error ? `: ${lastError.message}` : '';
      throw new LabError('timeout', `waited ${timeoutMs} ms for ${what}${because}`, {
        cause: lastError,
      });
    }
    try {
      await clock.sleep(intervalMs ?? pauseAfter(clock.monotonic() - began), signal);
    } catch (error) {
      // The signal's own reason says more than "aborted".
      signal?.throwIfAborted();
      throw error;
    }
  }
}

/** A look costs what is looked at as much as us: who has waited long can be told a little late. */
function pauseAfter(waitedMs: number): number {
  return Math.min(Math.max(waitedMs / 20, SHORTEST_PAUSE_MS), LONGEST_PAUSE_MS);
}

const SHORTEST_PAUSE_MS = 20;
const LONGEST_PAUSE_MS = 100;
