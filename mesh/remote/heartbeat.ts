import type { KvStore } from '../kvstore/kvstore.ts';
import type { Clock } from '../runtime/clock.ts';
import { HEARTBEAT_KEY } from '../wire/keys.ts';

/** What Cilium's writers use (`pkg/kvstore/etcd.go`, `HeartbeatWriteInterval`), until two beats were seen. */
const ASSUMED_PERIOD_MS = 60_000;
/** Beats that may be missed before the writer counts as silent. */
const BEATS_MISSED = 3;
/** A period that is taken for one: two writers, or a restarted one, beat closer together now and then. */
const SHORTEST_PERIOD_MS = 1000;

/** What is known of a cluster's heartbeat. */
export interface HeartbeatView {
  /** Milliseconds since 1970, by our clock, at which the key was last seen to change; at first, when it was read. */
  readonly seenAt: number;
  /** The longest of the latest times between two beats, in milliseconds; undefined until there were two. */
  readonly periodMs: number | undefined;
  /** Whether more beats were missed than can be chance. */
  readonly isSilent: boolean;
}

/**
 * Follows the heartbeat by the times at which it changes: what it says is the writer's clock, which may be wrong. The
 * writer's silence says nothing about the store, which goes on answering.
 */
export interface Heartbeat {
  /** To be called with each version of the key that is read; `isListed`: it may be older than now. */
  beat(modRevision: bigint, options: { readonly isListed: boolean }): void;
  /** Undefined while none was ever seen. */
  view(): HeartbeatView | undefined;
}

/** Makes a heartbeat that was never seen. */
export function createHeartbeat(clock: Clock): Heartbeat {
  let last:
    | { readonly at: number; readonly seenAt: number; readonly isListed: boolean }
    | undefined;
  let revision: bigint | undefined;
  let periods: number[] = [];
  const periodMs = (): number | undefined =>
    periods.length === 0 ? undefined : Math.max(...periods);
  const isSilent = (): boolean =>
    last !== undefined &&
    clock.monotonic() - last.at > BEATS_MISSED * (periodMs() ?? ASSUMED_PERIOD_MS);
  return {
    beat(modRevision, { isListed }) {
      // A new connection lists what was seen before: that is no beat.
      if (modRevision === revision) return;
      revision = modRevision;
      const at = clock.monotonic();
      if (last !== undefined && !last.isListed && !isListed) {
        const period = at - last.at;
        // A silence is no period; but two writers beat unevenly, and the shorter of their times comes first.
        const isPeriod = !isSilent() || period <= ASSUMED_PERIOD_MS;
        if (isPeriod && period >= SHORTEST_PERIOD_MS) periods = [...periods.slice(-2), period];
      }
      last = { at, seenAt: clock.now(), isListed };
    },
    view: () =>
      last === undefined
        ? undefined
        : { seenAt: last.seenAt, periodMs: periodMs(), isSilent: isSilent() },
  };
}

/** Watches the heartbeat until `signal` aborts. A server that does not show it has none: that harms nothing. */
export async function watchHeartbeat(
  store: KvStore,
  heartbeat: Heartbeat,
  options: { readonly signal: AbortSignal; readonly onSign: () => void },
): Promise<void> {
  let isListed = true;
  for await (const event of store.watch({ key: HEARTBEAT_KEY }, { signal: options.signal })) {
    if (event.kind === 'disconnected') {
      // Not allowed to read it, for ever: nothing else of the cluster waits for it.
      if (!event.error.retryable) return;
      continue;
    }
    options.onSign();
    if (event.kind === 'list-start') isListed = true;
    if (event.kind === 'synced') isListed = false;
    if (event.kind === 'put') heartbeat.beat(event.pair.modRevision, { isListed });
  }
}
