/** Follows the stamps of a server, which say when its publisher wrote what. */
import { KvError, type KvStore } from '../kvstore/kvstore.ts';
import type { Clock } from '../runtime/clock.ts';
import type { Logger } from '../runtime/log.ts';
import { MESH_STAMP_KEY } from '../wire/keys.ts';
import { decodeMeshStamp } from '../wire/stamp.ts';
import { WireError } from '../wire/wire-error.ts';
import { isClockWrong, type LagBook, type LagMeter } from './lag.ts';

/** How often a server without stamps is asked again: it may have been upgraded. */
const ASK_AGAIN_MS = 300_000;
/** How often the way there and back is measured. */
const ROUND_TRIP_MS = 30_000;
/** Calls at once at first: the very first ones of a connection are slow. */
const FIRST_ROUND_TRIPS = 3;

const NOT_READ_YET = 'its stamps have not been read yet';

/** What a session needs to know how late it is. */
export interface StampOptions {
  readonly book: LagBook;
  readonly cluster: string;
  /** Whether it is the own cluster, whose stamps count for all that is read from its etcd. */
  readonly own: boolean;
  /** Whether the cluster is read from the own cluster's etcd, where a mirror keeps it. */
  readonly cached: boolean;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly signal: AbortSignal;
}

/**
 * Follows stamps until `signal` aborts. A server that has none, or shows none, leaves the lag unknown; nothing that goes
 * wrong here ends the session.
 */
export async function followStamps(store: KvStore, options: StampOptions): Promise<void> {
  const { book, cluster, own, cached, clock, logger, signal } = options;
  const meter = book.meterOf(cluster);
  if (cached) {
    await followRelay(store, { meter, book, signal });
    return;
  }
  meter.begin(NOT_READ_YET);
  const watchClock = createClockWarning(meter, logger);
  const measure = (milliseconds: number): void => {
    meter.roundTrip(milliseconds);
    watchClock();
    if (own) book.own.tellRoundTrip(store.clusterId, milliseconds);
  };
  while (!signal.aborted) {
    const found = await lookForStamp(store, { clock, signal });
    if (found.kind === 'found') {
      measure(found.milliseconds);
      meter.begun();
      await Promise.all([
        watchStamps(store, { meter, relay: own ? book.own : undefined, signal }),
        measureRoundTrips(store, { measure, clock, signal }),
      ]);
      return;
    }
    meter.begin(found.reason);
    await clock.sleep(ASK_AGAIN_MS, signal).catch(() => undefined);
  }
}

/** Tells once that the clocks are apart, and once that they are not any more. */
function createClockWarning(meter: LagMeter, logger: Logger): () => void {
  let isTold = false;
  return () => {
    const clocks = meter.clock();
    if (clocks === undefined || isClockWrong(clocks) === isTold) return;
    isTold = !isTold;
    const fields = { differenceMs: Math.round(clocks.differenceMs) };
    if (isTold) logger.warn(fields, 'clock of the cluster differs from ours by seconds');
    else logger.info(fields, 'clock of the cluster agrees with ours again');
  };
}

async function followRelay(
  store: KvStore,
  { meter, book, signal }: { meter: LagMeter; book: LagBook; signal: AbortSignal },
): Promise<void> {
  meter.begin("it is read from the own cluster's mirror, and no stamp of that etcd has come yet");
  const stop = book.own.follow(() => store.clusterId, meter);
  await new Promise<void>((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener('abort', () => resolve(), { once: true });
  });
  stop();
}

type Found =
  | { readonly kind: 'found'; readonly milliseconds: number }
  | { readonly kind: 'absent'; readonly reason: string };

async function lookForStamp(
  store: KvStore,
  { clock, signal }: { clock: Clock; signal: AbortSignal },
): Promise<Found> {
  const began = clock.monotonic();
  try {
    const pair = await store.get(MESH_STAMP_KEY, { signal });
    if (pair !== undefined) return { kind: 'found', milliseconds: clock.monotonic() - began };
    return { kind: 'absent', reason: 'it writes no stamps, as Cilium does not' };
  } catch (error) {
    if (!(error instanceof KvError)) throw error;
    const denied = error.code === 'permission-denied';
    return {
      kind: 'absent',
      reason: denied ? 'it does not let us read stamps, as Cilium does not' : error.message,
    };
  }
}

/** Only what a watch tells as it happens says how long it took: what a list shows may have stood there for hours. */
async function watchStamps(
  store: KvStore,
  options: {
    readonly meter: LagMeter;
    readonly relay: LagBook['own'] | undefined;
    readonly signal: AbortSignal;
  },
): Promise<void> {
  const { meter, relay, signal } = options;
  let isLive = false;
  for await (const event of store.watch({ key: MESH_STAMP_KEY }, { signal })) {
    if (event.kind === 'list-start') isLive = false;
    else if (event.kind === 'synced') isLive = true;
    if (event.kind !== 'put' || !isLive) continue;
    const { pair } = event;
    try {
      const { at } = decodeMeshStamp(pair.value, pair.key);
      const stamp = { revision: pair.modRevision, at };
      meter.begun();
      meter.stamp(stamp);
      relay?.tell(store.clusterId, stamp);
    } catch (error) {
      if (!(error instanceof WireError)) throw error;
      meter.begin(`its stamp cannot be read: ${error.message}`);
    }
  }
}

async function measureRoundTrips(
  store: KvStore,
  options: {
    readonly measure: (milliseconds: number) => void;
    readonly clock: Clock;
    readonly signal: AbortSignal;
  },
): Promise<void> {
  const { measure, clock, signal } = options;
  for (let calls = 0; !signal.aborted; calls += 1) {
    const pause = calls < FIRST_ROUND_TRIPS ? 0 : ROUND_TRIP_MS * (0.5 + Math.random());
    if (pause > 0) await clock.sleep(pause, signal).catch(() => undefined);
    if (signal.aborted) return;
    const began = clock.monotonic();
    try {
      await store.get(MESH_STAMP_KEY, { signal });
      measure(clock.monotonic() - began);
    } catch (error) {
      // A call that failed has no length; that the server is away is the watches' to tell.
      if (!(error instanceof KvError)) throw error;
    }
  }
}
