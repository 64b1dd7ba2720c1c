/** Waiting for an etcd that does not answer. */
import { KvError } from '../../mesh/kvstore/kvstore.ts';
import { createBackoff } from '../../mesh/runtime/backoff.ts';
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { Logger } from '../../mesh/runtime/log.ts';

/** Attempts a call until it does not fail for want of an answer. Rejects with every other error, and when `signal` aborts. */
export async function untilAnswered<T>(
  attempt: () => T | Promise<T>,
  options: { readonly clock: Clock; readonly logger: Logger; readonly signal: AbortSignal },
): Promise<T> {
  const { clock, logger, signal } = options;
  const backoff = createBackoff({ minMs: 50, maxMs: 5_000 });
  for (;;) {
    try {
      return await attempt();
    } catch (error) {
      if (signal.aborted || !(error instanceof KvError) || !error.retryable) throw error;
      logger.warn({ err: error }, 'etcd does not answer, will be retried');
      await clock.sleep(backoff.next(), signal);
    }
  }
}
