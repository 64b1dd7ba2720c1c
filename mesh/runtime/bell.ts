import type { Clock } from '../../mesh/runtime/clock.ts';

/** Something to wait for that remembers that it rang. */
export interface Bell {
  ring(): void;
  clear(): void;
  /** Resolves when it rings or has rung, or when the time is over. */
  wait(milliseconds: number, clock: Clock): Promise<void>;
}

/** One for all: an abort without a reason makes an error with a stack each time, and bells ring for each event. */
const RUNG = new Error('the bell rang');

/** Makes a bell that has not rung. */
export function createBell(): Bell {
  let rung = false;
  let wake: (() => void) | undefined;
  return {
    ring() {
      rung = true;
      const first = wake;
      wake = undefined;
      first?.();
    },
    clear() {
      rung = false;
    },
    async wait(milliseconds, clock) {
      if (rung) return;
      const woken = new AbortController();
      wake = () => woken.abort(RUNG);
      try {
        await clock.sleep(milliseconds, woken.signal);
      } catch (error) {
        if (!woken.signal.aborted) throw error;
      } finally {
        wake = undefined;
      }
    },
  };
}
