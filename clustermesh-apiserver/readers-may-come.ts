/** When readers are let in. */
import type { Clock } from '../mesh/runtime/clock.ts';
import type { Logger } from '../mesh/runtime/log.ts';
import type { PublishedCluster } from './publish-cluster.ts';

/** How long readers are kept waiting for what cannot be read of the cluster. */
const PATIENCE_MS = 15_000;

/**
 * Resolves when readers are let in: when everything is published. From an API server some kinds may not be readable for long:
 * readers are let in without them after a time, and are told by the markers what is whole.
 */
export async function readersMayCome(
  published: PublishedCluster,
  {
    clock,
    logger,
    signal,
  }: { readonly clock: Clock; readonly logger: Logger; readonly signal: AbortSignal },
): Promise<void> {
  if (published.kubernetes === undefined) return published.ready;
  const waiting = new AbortController();
  const enough = AbortSignal.any([signal, waiting.signal]);
  const late = clock.sleep(PATIENCE_MS, enough).then(
    async () => {
      await published.publisher.begun;
      logger.warn(
        { missing: published.missing },
        'readers are let in before everything is published',
      );
    },
    () => published.ready,
  );
  try {
    await Promise.race([published.ready, late]);
  } finally {
    waiting.abort();
  }
}
