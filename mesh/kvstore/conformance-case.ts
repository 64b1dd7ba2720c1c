import type { Test } from 'tap';
import { systemClock } from '../runtime/clock.ts';
import { KvError, type KvErrorCode, type KvLease, type KvStore } from './kvstore.ts';

/** A store under test, empty at the start, and the ways to break it. */
export interface ConformanceSubject extends AsyncDisposable {
  /** A client that `disconnect` cuts off. Values above 1 MiB in one request are refused, pages hold 10 keys. */
  readonly store: KvStore;
  /** A client of the same data that is never cut off. */
  readonly direct: KvStore;
  disconnect(): Promise<void>;
  reconnect(): Promise<void>;
  /** Compacts the whole history. */
  compact(): Promise<void>;
  /** Begins again as another cluster without data. */
  wipe(): Promise<void>;
  /** Lets a lease expire at the server. */
  expireLease(lease: KvLease): Promise<void>;
}

/** One behaviour that every store has. */
export interface ConformanceCase {
  readonly name: string;
  readonly run: (t: Test, subject: ConformanceSubject) => Promise<void>;
}

/** Asserts that a call fails with a KvError of this code. */
export async function rejectsWith(
  t: Test,
  code: KvErrorCode,
  run: () => Promise<unknown>,
  message = /./,
): Promise<void> {
  try {
    await run();
    t.fail(`expected a KvError ${code}`);
  } catch (error) {
    t.ok(error instanceof KvError, 'it is a KvError');
    t.match(error, { code, message });
  }
}

/** Waits until the condition holds, for 15 s. */
export async function until(condition: () => boolean): Promise<void> {
  await untilOk(async () => {
    if (!condition()) throw new Error('not yet');
  });
}

/** Repeats what fails until it does not, for 15 s. */
export async function untilOk(run: () => Promise<unknown>): Promise<void> {
  const deadline = systemClock.monotonic() + 15_000;
  for (;;) {
    try {
      await run();
      return;
    } catch (error) {
      if (systemClock.monotonic() > deadline) throw error;
    }
    await systemClock.sleep(20);
  }
}
