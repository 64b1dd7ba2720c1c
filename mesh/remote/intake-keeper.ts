/** Does over one connection what a cluster's intake needs time or the server for. */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { KvError, type KvStore } from '../kvstore/kvstore.ts';
import { createBell } from '../runtime/bell.ts';
import type { AnnouncedReason } from './announced.ts';
import type { ReaderOptions } from './cluster-reader.ts';
import type { MeshKind } from './cluster-sink.ts';
import type { KindReader } from './kind-reader.ts';

/** How often everything in use is looked at again while ranges change hands. */
const REJUDGE_EACH_MS = 10_000;
const ADDRESSES_PER_TURN = 2048;
/** More addresses than this are not read one by one. */
const MOST_FETCHED = 1024;
const RANGE_REASONS: readonly AnnouncedReason[] = [
  'address-ours',
  'address-foreign',
  'address-not-listed',
];

/** Keeps an intake up to date. */
export interface IntakeKeeper {
  /** There is something to do. */
  wake(): void;
  /** Works until the session's signal aborts. */
  run(): Promise<void>;
}

/** Makes one; it does nothing until `run`. */
export function createIntakeKeeper(
  store: KvStore,
  options: ReaderOptions & { readonly readers: ReadonlyMap<MeshKind, KindReader> },
): IntakeKeeper {
  const { name, context, facts, readers, logger, signal } = options;
  const { announced, clock } = context;
  const { intake } = facts;
  const bell = createBell();
  let rejudgeAt = Number.POSITIVE_INFINITY;
  let isRelistWanted = false;
  /** What the cluster held when the last connection ended may be another's by now. */
  let isRangeLost = intake.holdings.count('nodes') + intake.holdings.count('ips') > 0;

  const relist = (reason: string): void => {
    for (const kind of ['nodes', 'ips'] as const) readers.get(kind)?.relist('ranges', reason);
  };
  const rejudge = async (): Promise<void> => {
    let addresses = 0;
    const everything = isRangeLost;
    isRangeLost = false;
    for (const _step of intake.rejudge({ everything })) {
      addresses += 1;
      if (addresses % ADDRESSES_PER_TURN === 0) await nextTurn();
      if (signal.aborted) return;
    }
    intake.settle(clock.monotonic());
  };
  const fetchWanted = async (): Promise<void> => {
    const keys = intake.takeWanted();
    if (keys.length > MOST_FETCHED) {
      readers.get('ips')?.relist('ranges', `${keys.length} addresses are on nodes that came back`);
      return;
    }
    for (const key of keys) {
      try {
        const pair = await store.get(key, { signal });
        if (pair !== undefined) intake.offer(pair);
      } catch (error) {
        if (!(error instanceof KvError)) throw error;
        readers.get('ips')?.relist('ranges', `an address whose node came back: ${error.message}`);
        return;
      }
    }
    intake.settle(clock.monotonic());
  };
  /** Until it is due, what else comes to be held changes nothing: so only the first range is told of. */
  const awaitForeign = (): (() => void) =>
    announced.onNextForeign(name, () => {
      rejudgeAt = clock.monotonic() + REJUDGE_EACH_MS * Math.random();
      bell.ring();
    });
  let stopForeign: () => void = () => undefined;
  const watchRanges = (): (() => void) => {
    if (options.own) return () => undefined;
    stopForeign = awaitForeign();
    const stopReleases = announced.onRelease((change) => {
      isRangeLost ||= change === undefined || change.cluster === name;
      if (change?.cluster === name) return;
      isRelistWanted ||= change === undefined || intake.refusals.has(RANGE_REASONS);
      if (isRelistWanted) bell.ring();
    });
    return () => {
      stopReleases();
      stopForeign();
    };
  };

  return {
    wake: () => bell.ring(),
    async run() {
      const stop = watchRanges();
      signal.addEventListener('abort', () => bell.ring(), { once: true });
      try {
        while (!signal.aborted) {
          bell.clear();
          const now = clock.monotonic();
          const expired = intake.expire(now, (kind) => readers.get(kind)?.state ?? 'away');
          const next = Math.min(expired, rejudgeAt);
          if (rejudgeAt <= now) {
            rejudgeAt = Number.POSITIVE_INFINITY;
            stopForeign = awaitForeign();
            await rejudge();
          }
          if (isRelistWanted) {
            isRelistWanted = false;
            relist('ranges of clusters have changed');
          }
          await fetchWanted();
          if (signal.aborted) return;
          await bell.wait(Math.min(60_000, Math.max(1, next - now)), clock);
        }
      } catch (error) {
        if (signal.aborted) return;
        logger.error({ err: error }, 'what a cluster says cannot be kept up to date');
        throw error;
      } finally {
        stop();
      }
    },
  };
}
