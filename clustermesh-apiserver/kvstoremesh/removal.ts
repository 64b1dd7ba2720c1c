/** Taking a peer out of the local etcd, in Cilium's order (`pkg/clustermesh/kvstoremesh/remote_cluster.go`, `drain`). */
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import type { PeerMirror } from './peer-mirror.ts';

/** How a removal ended: everything is gone, the peer came back in time, or the mirror ended before. */
export type RemovalOutcome = 'removed' | 'cancelled' | 'stopped';

/** A removal under way. */
export interface Removal {
  /** Stops it, wherever it is. */
  cancel(): void;
  /** Never rejects. */
  readonly ended: Promise<RemovalOutcome>;
}

/**
 * Deletes the configuration, so that no agent begins to read; after the time of grace, in which agents that read leave, the
 * markers; then the data. Each step is tried until it is done.
 */
export function removePeer(
  mirror: PeerMirror,
  options: {
    readonly graceMs: number;
    readonly clock: Clock;
    readonly logger: Logger;
    readonly signal: AbortSignal;
  },
): Removal {
  const { graceMs, clock, signal } = options;
  const logger = options.logger.child({ cluster: mirror.name });
  const cancelling = new AbortController();
  const ending = AbortSignal.any([signal, cancelling.signal]);

  const remove = async (): Promise<RemovalOutcome> => {
    logger.info(
      { graceMs },
      'peer is no longer configured: its data is removed after a time of grace',
    );
    try {
      await mirror.removeConfig(ending);
      await clock.sleep(graceMs, ending);
      await mirror.removeMarkers(ending);
      await mirror.removeEntries(ending);
    } catch (error) {
      if (cancelling.signal.aborted) return 'cancelled';
      if (signal.aborted) return 'stopped';
      throw error;
    }
    logger.info('data of the peer is removed');
    return 'removed';
  };
  return {
    cancel() {
      cancelling.abort();
      logger.info('peer is configured again: its data stays, as far as it was not removed yet');
    },
    ended: remove(),
  };
}
