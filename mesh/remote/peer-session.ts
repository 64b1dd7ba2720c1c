import type { KvStore } from '../kvstore/kvstore.ts';
import type { Logger } from '../runtime/log.ts';
import type { ClusterName } from '../wire/ids.ts';
import { readCluster } from './cluster-reader.ts';
import type { MeshKind } from './cluster-sink.ts';
import type { ConnectionChoice } from './connection-choice.ts';
import { type Heartbeat, watchHeartbeat } from './heartbeat.ts';
import { DEFAULT_STALE_AFTER_MS } from './liveness.ts';
import { type MirrorReports, watchMirrorReport } from './mirror-report.ts';
import type { PeerConnection, PeerContext, PeerFacts } from './peer.ts';

/** How often names in endpoints are resolved again, while the connection works and while it does not. */
const NAMES_MS = { working: 30_000, broken: 5000 } as const;
/** How often it is looked whether the configuration was accepted, which says whether there is a mirror. */
const MIRROR_LOOK_MS = 1000;

/** What is the same for all connections to a cluster. */
export interface SessionOptions {
  readonly name: ClusterName;
  readonly own: boolean;
  readonly kinds: readonly MeshKind[];
  readonly context: PeerContext;
  readonly facts: PeerFacts;
  readonly logger: Logger;
  readonly choice: ConnectionChoice;
  readonly heartbeat: Heartbeat;
  readonly reports: MirrorReports;
  readonly isMirrored: () => boolean;
  /** Whether the cluster gives signs of life. */
  readonly isFresh: () => boolean;
  /** Told why the report of the mirror cannot be read, or that it can. */
  readonly onMirrorReadable: (problem: string | undefined) => void;
}

/**
 * Reads a cluster over one connection until that ends, and follows beside it its heartbeat, what a mirror says of it and
 * where its names lead. Throws what it ended of.
 */
export async function runSession(
  target: PeerConnection,
  signal: AbortSignal,
  session: SessionOptions,
): Promise<void> {
  const { name, own, kinds, context, facts, logger, heartbeat } = session;
  facts.synced.clear();
  facts.verified.clear();
  facts.broken.clear();
  facts.reading = false;
  await using store = await session.choice.open(target, signal);
  const ending = new AbortController();
  const together = AbortSignal.any([signal, ending.signal]);
  let failure: { readonly error: unknown } | undefined;
  const beside = Promise.all([
    watchHeartbeat(store, heartbeat, { signal: together, onSign: facts.sign }),
    followMirror(store, together, session),
    followNames(target, together, session),
  ]).catch((error: unknown) => {
    failure = { error };
    ending.abort();
  });
  try {
    await readCluster(store, { name, own, kinds, context, facts, logger, signal: together });
  } finally {
    ending.abort();
    await beside;
  }
  if (failure !== undefined && !signal.aborted) throw failure.error;
}

/** Reads what a mirror says of the cluster, as soon as it is known that there is one. */
async function followMirror(
  store: KvStore,
  signal: AbortSignal,
  { name, own, context, facts, reports, isMirrored, onMirrorReadable }: SessionOptions,
): Promise<void> {
  if (own) return;
  while (!signal.aborted && !facts.reading) {
    await context.clock.sleep(MIRROR_LOOK_MS, signal).catch(() => undefined);
  }
  // A cluster that is mirrored from now on changes its layout, and that is a new session.
  if (signal.aborted || !isMirrored()) return;
  await watchMirrorReport(store, name, {
    reports,
    signal,
    onReport: () => {
      onMirrorReadable(undefined);
      facts.changed();
    },
    onUnreadable: onMirrorReadable,
  });
}

async function followNames(
  target: PeerConnection,
  signal: AbortSignal,
  { context, facts, logger, choice, isFresh }: SessionOptions,
): Promise<void> {
  const { clock, staleAfterMs = DEFAULT_STALE_AFTER_MS } = context;
  const patience = Math.min(NAMES_MS.broken, staleAfterMs);
  let askedAt = clock.monotonic();
  while (target.haveMoved !== undefined && !signal.aborted) {
    await clock.sleep(patience, signal).catch(() => undefined);
    const isBroken = facts.broken.size > 0 || !isFresh();
    const isDue = isBroken || clock.monotonic() - askedAt >= NAMES_MS.working;
    if (signal.aborted || !isDue) continue;
    const moved = await target.haveMoved({ isBroken });
    askedAt = clock.monotonic();
    if (!moved || signal.aborted) continue;
    logger.info('names of the endpoints lead to other addresses, connecting there');
    choice.renew();
  }
}
