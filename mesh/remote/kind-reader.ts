/** Reads one kind of a cluster over one connection: list, changes, and the proof that what is held is what is there. */
import { KvError, type KvEvent, type KvStore } from '../kvstore/kvstore.ts';
import type { Clock } from '../runtime/clock.ts';
import type { Logger } from '../runtime/log.ts';
import type { ClusterName } from '../wire/ids.ts';
import { syncedPrefix } from '../wire/keys.ts';
import { nameOfKey } from './accept.ts';
import type { MeshKind } from './cluster-sink.ts';
import { createDigestCheck, type DigestVerdict, type HeldState } from './digest-check.ts';
import type { Digests } from './digests.ts';
import type { HalfState } from './halves.ts';
import type { Intake, Lane } from './intake.ts';
import type { LagMeter } from './lag.ts';
import type { PeerIntake } from './peer-intake.ts';
import { verifyPrefix } from './verify.ts';

/** What the comparison of a kind with its server said last. */
export interface KindVerification {
  readonly kind: MeshKind;
  /** Revision of the list that was compared. */
  readonly revision: bigint;
  /** Keys held then, refused ones included. */
  readonly count: number;
  /** Whether the server has the same keys. `unknown`: it did not say. */
  readonly result: 'match' | 'mismatch' | 'unknown';
  /** Whether its publisher says the same; `absent`: it publishes no digest that was compared yet. */
  readonly digest: 'match' | 'absent' | 'mismatch';
  /** What differs, or why it is not known; undefined when all is well. */
  readonly reason: string | undefined;
  /** Milliseconds since 1970. */
  readonly at: number;
}

/** Why a list is read again, and how long it must be since the last time, in milliseconds. */
const RELIST_EACH_MS = { mismatch: 600_000, digest: 600_000, ranges: 30_000 } as const;
/** The longest wait before a list is read again, so that not all readers ask at once. */
const RELIST_JITTER_MS = 5000;
/** How many times as long it may be where nothing is wrong. */
const LEISURE = 12;

/** Reads one kind. */
export interface KindReader {
  /** How far it is behind its server. */
  readonly state: HalfState;
  /** Reads until `signal` aborts. */
  run(): Promise<void>;
  /** Asks for the list to be read again: for a mismatch, for a first digest, or since ranges changed hands. */
  relist(why: keyof typeof RELIST_EACH_MS, reason: string): void;
}

/** What a reader needs. */
export interface KindReaderOptions {
  readonly cluster: ClusterName;
  readonly prefix: string;
  /** Name of the kind's marker below `cilium/synced/<cluster>/`; undefined where the cluster has none. */
  readonly marker: string | undefined;
  readonly state: PeerIntake;
  readonly intake: Intake;
  readonly digests: Digests;
  readonly lag: LagMeter | undefined;
  readonly relistJitterMs?: number | undefined;
  /** To be called with each event as it comes, before it is queued. May throw to end the connection. */
  readonly arrived: (event: KvEvent) => void;
  /** Others have their turn. */
  readonly rested: () => void;
  /** The whole kind has been read as it stood at a revision, once for each list. */
  readonly onSynced: (revision: bigint) => void;
  readonly onVerified: (verification: KindVerification) => void;
  /** Runs a task beside, for as long as the connection lives. */
  readonly start: (task: Promise<void>) => void;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly signal: AbortSignal;
}

/** Makes a reader; it reads nothing until `run`. */
export function createKindReader(
  store: KvStore,
  kind: MeshKind,
  options: KindReaderOptions,
): KindReader {
  const { cluster, prefix, state, digests, lag, clock, logger, signal } = options;
  const check = createDigestCheck();
  const relists = new Map<string, number>();
  let again = new AbortController();
  let isRelistAsked = false;
  let isListing = true;
  let verified: KindVerification | undefined;
  let hearing: HalfState = 'away';
  let lane: Lane | undefined;

  const held = (): HeldState => {
    const names = state.holdings.names(kind);
    const refused = state.holdings.refused(kind);
    const low = names.sum.low + refused.sum.low;
    const high = names.sum.high + refused.sum.high + (low > 0xffff_ffff ? 1 : 0);
    return { count: names.size + refused.size, sum: { high: high >>> 0, low: low >>> 0 } };
  };
  const tell = (change: Partial<KindVerification>): void => {
    if (verified === undefined) return;
    verified = { ...verified, ...change, at: clock.now() };
    options.onVerified(verified);
  };

  const relist: KindReader['relist'] = (why, reason) => {
    if (isRelistAsked || signal.aborted) return;
    const since = clock.monotonic() - (relists.get(why) ?? Number.NEGATIVE_INFINITY);
    // A mismatch that stays after a new list is for people: reading it once more would not help.
    if (why !== 'ranges' && since < RELIST_EACH_MS[why]) return;
    isRelistAsked = true;
    relists.set(why, clock.monotonic() + Math.max(0, RELIST_EACH_MS[why] - since));
    const leisure = why === 'digest' ? LEISURE : 1;
    const jitterMs = Math.random() * leisure * (options.relistJitterMs ?? RELIST_JITTER_MS);
    const delayMs = jitterMs + Math.max(0, RELIST_EACH_MS[why] - since);
    logger.warn({ kind, reason, delayMs: Math.round(delayMs) }, 'a list is read again');
    const { signal: leaving } = again;
    options.start(
      clock.sleep(delayMs, AbortSignal.any([signal, leaving])).then(
        () => again.abort(),
        () => undefined,
      ),
    );
  };

  const conclude = (verdict: DigestVerdict): void => {
    if (verdict.kind === 'undecided') return;
    if (verdict.kind === 'match') {
      if (verified?.digest !== 'match') {
        tell({ digest: 'match', ...(verified?.result === 'match' ? { reason: undefined } : {}) });
      }
      return;
    }
    const { published, held: ours, revision } = verdict;
    const reason = `at revision ${revision} its publisher says ${published.count} keys with sum ${published.sum}, held here are ${ours.count} with ${ours.sum}`;
    tell({ digest: 'mismatch', reason });
    relist('mismatch', reason);
  };

  /** Whether the kind's marker stood at the list's revision. Asked only where it matters. */
  const isMarkedAt = async (revision: bigint): Promise<boolean> => {
    const { holdings } = state;
    const gone = holdings.unlisted(kind).length;
    if (gone <= 50 || gone * 2 <= holdings.count(kind)) return true;
    if (options.marker === undefined) return false;
    const key = syncedPrefix(cluster) + options.marker;
    try {
      const { keys } = await store.keys(syncedPrefix(cluster), { revision, signal });
      return keys.includes(key);
    } catch (error) {
      if (!(error instanceof KvError)) throw error;
      return false;
    }
  };

  const verify = async (revision: bigint, stated: number | undefined): Promise<void> => {
    const heldBack = state.guard.count(kind);
    const { holdings } = state;
    const keys = {
      held: holdings.names(kind),
      refused: holdings.refused(kind),
      heldBack,
      nameOf: nameOfKey,
    };
    const count = held().count - heldBack;
    const found = state.refusals.has(['too-many-keys'])
      ? ({ kind: 'unknown', reason: 'it has more keys than are kept of one cluster' } as const)
      : await verifyPrefix(store, prefix, { revision, stated, keys, signal });
    const digest = 'absent';
    const reason = found.kind === 'match' ? undefined : found.reason;
    verified = { kind, revision, count, result: found.kind, digest, reason, at: clock.now() };
    options.onVerified(verified);
    if (found.kind === 'mismatch') relist('mismatch', found.reason);
    if (!state.isHashing(kind) || heldBack > 0) return;
    conclude(check.synced(revision, held()));
    const published = await digests.read(store, prefix, signal);
    if (published === undefined) return;
    // Where none was written since, it is of the state of the list.
    const at = published.revision < revision ? revision : published.revision;
    conclude(check.published(at, published.digest, held()));
    // Nothing more of the list's revision is to come.
    conclude(check.upTo(revision, held()));
  };

  const endList = async (revision: bigint, stated: number | undefined): Promise<void> => {
    const isMarked = await isMarkedAt(revision);
    if (signal.aborted) return;
    hearing = 'current';
    state.endList(kind, { isMarked, now: clock.monotonic() });
    options.rested();
    isListing = false;
    options.onSynced(revision);
    try {
      await verify(revision, stated);
    } catch (error) {
      if (!signal.aborted) throw error;
    }
  };

  /** While something is held back, what is held and what is there differ as they should. */
  const isComparing = (): boolean => state.isHashing(kind) && state.guard.count(kind) === 0;
  const before = (revision: bigint): void => {
    if (!isListing && isComparing()) conclude(check.before(revision, held()));
  };
  const handle = (event: KvEvent): Promise<void> | undefined => {
    switch (event.kind) {
      case 'list-start':
        isListing = true;
        check.clear();
        state.setHashing(kind, digests.has(prefix));
        state.beginList(kind);
        return undefined;
      case 'put':
        before(event.pair.modRevision);
        if (state.put(kind, event.pair) && !isListing) lag?.seen(kind, event.pair.modRevision);
        return undefined;
      case 'delete':
        // What a list left out is found at its end, by us: it may have to be held back.
        if (event.derived) return undefined;
        before(event.modRevision);
        state.remove(kind, event.key);
        lag?.seen(kind, event.modRevision);
        return undefined;
      case 'synced':
        return endList(event.revision, event.stated);
      case 'progress':
        if (hearing === 'catching-up') hearing = 'current';
        if (isComparing()) conclude(check.upTo(event.revision, held()));
        return undefined;
      case 'disconnected':
        return undefined;
      default:
        return event satisfies never;
    }
  };
  /** Before it is queued: that a server is not heard any more counts at once. */
  const listen = (event: KvEvent): void => {
    if (event.kind === 'disconnected' || event.kind === 'list-start') hearing = 'away';
    else if (hearing === 'away' && !isListing) hearing = 'catching-up';
  };
  const readOnce = async (opened: Lane): Promise<void> => {
    const reading = AbortSignal.any([signal, again.signal]);
    // What a list left out is found at its end, by us.
    const watched = store.watchBatches({ prefix }, { signal: reading, derives: false });
    for await (const batch of watched) {
      for (const event of batch) {
        options.arrived(event);
        listen(event);
      }
      await opened.push(batch);
    }
  };

  return {
    get state() {
      const isBehind = lane !== undefined && lane.queued() > 0;
      return hearing === 'current' && isBehind ? 'catching-up' : hearing;
    },
    relist,
    async run() {
      const unfollow = digests.follow(prefix, ({ revision, digest }) => {
        if (isComparing()) conclude(check.published(revision, digest, held()));
        else if (!state.isHashing(kind) && verified !== undefined) {
          relist('digest', 'its publisher has begun to publish digests');
        }
      });
      try {
        while (!signal.aborted) {
          again = new AbortController();
          isRelistAsked = false;
          const opened = options.intake.open(cluster, {
            event: handle,
            blurred: (revision) => check.blur(revision),
            rested: options.rested,
          });
          try {
            lane = opened;
            await readOnce(opened);
          } finally {
            await opened.close();
          }
          if (!again.signal.aborted) return;
        }
      } finally {
        unfollow();
      }
    },
  };
}
