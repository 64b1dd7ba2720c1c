import type { Clock } from '../../mesh/runtime/clock.ts';

/**
 * Runs a task whose signal aborts with `signal`, and when the time is over: then it rejects with an error that says so. A task
 * that does not heed its signal is waited for.
 */
export async function withTimeLimit<T>(
  task: (signal: AbortSignal) => Promise<T>,
  options: {
    readonly milliseconds: number;
    /** What the error says. Default: how long it was waited for. */
    readonly message?: string;
    readonly clock: Clock;
    readonly signal: AbortSignal;
  },
): Promise<T> {
  const { milliseconds, clock, signal } = options;
  const { message = `it took longer than ${milliseconds / 1000} s and was stopped` } = options;
  signal.throwIfAborted();
  const ending = new AbortController();
  const ended = new AbortController();
  const end = (): void => ending.abort(signal.reason);
  signal.addEventListener('abort', end, { once: true });
  const timer = clock.sleep(milliseconds, ended.signal).then(
    () => ending.abort(new Error(message)),
    () => undefined,
  );
  try {
    return await task(ending.signal);
  } catch (error) {
    throw ending.signal.aborted && !signal.aborted ? ending.signal.reason : error;
  } finally {
    signal.removeEventListener('abort', end);
    ended.abort(ENDED);
    await timer;
  }
}

const ENDED = new Error('the task has ended');
