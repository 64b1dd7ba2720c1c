import { onAbort } from '../runtime/abort-callbacks.ts';
import type { Backoff } from '../runtime/backoff.ts';
import type { Clock } from '../runtime/clock.ts';
import type { EtcdConnection } from './etcd-connection.ts';
import { canceledWatchError } from './etcd-error.ts';
import {
  distrust,
  isInTarget,
  type KeyTarget,
  listPages,
  targetName,
  unaskedKey,
} from './etcd-list.ts';
import type { EtcdHeader, WatchAnswer } from './etcd-messages.ts';
import type { WatchStreams } from './etcd-watch-streams.ts';
import { KvError, type KvEvent } from './kvstore.ts';

/** What a watch needs from the store. */
export interface WatchOptions {
  readonly connection: EtcdConnection;
  readonly clock: Clock;
  readonly signal: AbortSignal;
  readonly pageSize: number;
  readonly timeoutMs: number;
  /** Where its changes come from. */
  readonly streams: WatchStreams;
  /** Whether keys that a later list leaves out are told as deleted. */
  readonly derives: boolean;
  readonly backoff: Backoff;
}

type ListReason = (KvEvent & { kind: 'list-start' })['reason'];

/** What a watch knows between two connections. */
interface WatchState {
  /** Why the next step is a list; undefined while the last list and the deltas since then are whole. */
  listReason: ListReason | undefined;
  /** Keys that the consumer holds, each with the number of the list that named it last; undefined: it knows itself. */
  readonly shown: Map<string, number> | undefined;
  /** Number of the current list. */
  list: number;
  /** Cluster that the last list came from. */
  clusterId: string;
  /** Highest revision that an answer has carried: an etcd that is behind it on another stream is another etcd. */
  seenRevision: bigint;
  /** The same of this stream alone, signs of life left out: those may overtake changes. */
  toldRevision: bigint;
  /** First revision not yet told wholly. It follows the events alone: a sign of life may overtake them. */
  resumeFrom: bigint;
  /** Revision told before that this stream tells once more. */
  repeated: bigint;
  /** Its reader was too slow for a stream that it shares with others. */
  isAlone: boolean;
  /** What the consumer was last told of a lost connection; undefined while it is there. */
  toldFailure: string | undefined;
}

/** An attempt that lasted as long as this was a success: the next failure is retried at once. */
const LASTING_MS = 5000;
/** Keys that one watch keeps in mind: as many as a list may have. */
const MOST_KEYS = 2_000_000;
/** Events handed over at once, so that a consumer can let others have their turn. */
const MOST_EVENTS = 1024;

/**
 * Lists and watches for ever. It is not etcd3's watcher: that one resumes from the revision of the latest answer
 * instead of the latest event, and so loses what was under way when the connection broke. Ends without an error when
 * `signal` aborts or the store is closed.
 */
export async function* watchEtcd(
  target: KeyTarget,
  options: WatchOptions,
): AsyncGenerator<readonly KvEvent[], void, undefined> {
  const { backoff, clock, connection } = options;
  const signal = AbortSignal.any([options.signal, connection.closed]);
  const state: WatchState = {
    listReason: 'first',
    shown: options.derives ? new Map() : undefined,
    list: 0,
    clusterId: '',
    seenRevision: 0n,
    toldRevision: 0n,
    resumeFrom: 0n,
    repeated: 0n,
    isAlone: false,
    toldFailure: undefined,
  };
  while (!signal.aborted) {
    const endpoint = connection.endpoint;
    const began = clock.monotonic();
    try {
      if (state.listReason !== undefined) yield* listAgain(target, state, { ...options, signal });
      yield* followStream(target, state, { ...options, signal });
    } catch (error) {
      if (signal.aborted) return;
      const failure = connection.failed(error, `watch ${targetName(target)}`, endpoint);
      const event = takeFailure(state, failure);
      state.isAlone = false;
      if (event !== undefined) yield [event];
      if (clock.monotonic() - began > LASTING_MS) backoff.reset();
      await clock.sleep(backoff.next(), signal).catch(() => undefined);
    }
  }
}

/** Decides what a failure means for the next attempt, and what the consumer hears of it. */
function takeFailure(state: WatchState, failure: KvError): KvEvent | undefined {
  if (failure.code === 'compacted' || failure.code === 'cluster-changed') {
    if (state.listReason !== 'first') state.listReason = failure.code;
    return undefined;
  }
  if (state.toldFailure === failure.message) return undefined;
  state.toldFailure = failure.message;
  return { kind: 'disconnected', error: failure };
}

async function* listAgain(
  target: KeyTarget,
  state: WatchState,
  options: WatchOptions,
): AsyncGenerator<readonly KvEvent[], void, undefined> {
  state.list += 1;
  const { list, shown } = state;
  let count = 0;
  let stated = 0;
  let header: EtcdHeader | undefined;
  for await (const page of listPages(target, options)) {
    if (header === undefined) {
      // Only now: as long as the server does not answer there is nothing new to tell.
      yield [{ kind: 'list-start', reason: listReasonOf(state, page.header) }];
      // What remains the reason if this list is cut off.
      state.listReason = 'disconnected';
    }
    header = page.header;
    stated = page.stated;
    count += page.pairs.length;
    for (let start = 0; start < page.pairs.length; start += MOST_EVENTS) {
      const events: KvEvent[] = [];
      for (const pair of page.pairs.slice(start, start + MOST_EVENTS)) {
        shown?.set(pair.key, list);
        events.push({ kind: 'put', pair });
      }
      yield events;
    }
  }
  if (header === undefined) return;
  const events: KvEvent[] = [];
  if (shown !== undefined && shown.size > count) {
    const { revision: modRevision } = header;
    for (const [key, named] of shown) {
      if (named === list) continue;
      shown.delete(key);
      events.push({ kind: 'delete', key, modRevision, derived: true });
    }
  }
  state.listReason = undefined;
  state.clusterId = header.clusterId;
  state.seenRevision = header.revision;
  state.resumeFrom = header.revision + 1n;
  state.toldFailure = undefined;
  events.push({ kind: 'synced', revision: header.revision, count, stated });
  yield* inParts(events);
}

/** A list of an etcd that was replaced while there was no stream to notice it says so, whatever it was begun for. */
function listReasonOf(state: WatchState, { clusterId, revision }: EtcdHeader): ListReason {
  const isAnother =
    state.clusterId !== '' && (clusterId !== state.clusterId || revision < state.seenRevision);
  return isAnother ? 'cluster-changed' : (state.listReason ?? 'disconnected');
}

/** Follows one stream from the resume point. It ends by throwing, because the reader left, or to go on on another stream. */
async function* followStream(
  target: KeyTarget,
  state: WatchState,
  options: WatchOptions,
): AsyncGenerator<readonly KvEvent[], void, undefined> {
  const { connection, signal, streams } = options;
  // The reader may have aborted while it held the last event of the list: nothing would close the watch then.
  if (signal.aborted) return;
  // One revision earlier than is needed: etcd watches from the very revision that it was compacted at without a word, though a
  // deletion of that revision is gone then. So it says `compacted`, and there is a list.
  state.repeated = state.resumeFrom - 1n;
  // 0 would mean "from now on".
  const startRevision = state.repeated > 0n ? state.repeated : state.resumeFrom;
  const channel = streams.open(target, { startRevision, isAlone: state.isAlone });
  const letGo = onAbort(signal, () => channel.close());
  try {
    for (;;) {
      const news = await channel.read();
      if (news.kind === 'evicted') {
        state.isAlone = true;
        return;
      }
      if (news.kind === 'alive') yield [{ kind: 'progress', revision: state.resumeFrom - 1n }];
      else {
        checkAnswer(target, state, news.answer);
        connection.seen(news.answer.header);
        const answer = withoutRepeated(news.answer, state);
        if (answer !== undefined) yield* inParts(tellAnswer(target, state, answer));
      }
    }
  } finally {
    letGo();
    channel.close();
  }
}

/** An answer without what was told before; undefined when it holds nothing else. */
function withoutRepeated(answer: WatchAnswer, { repeated }: WatchState): WatchAnswer | undefined {
  if (answer.changes[0]?.pair.modRevision !== repeated) return answer;
  const changes = answer.changes.filter(({ pair }) => pair.modRevision !== repeated);
  return changes.length === 0 ? undefined : { ...answer, changes };
}

/** Throws unless the answer continues what was told before. */
function checkAnswer(target: KeyTarget, state: WatchState, answer: WatchAnswer): void {
  const doing = `watch ${targetName(target)}`;
  const { clusterId, revision } = answer.header;
  const changed = (): KvError =>
    new KvError(
      'cluster-changed',
      `cannot ${doing}: cluster ${state.clusterId} was at revision ${state.seenRevision}, now ` +
        `cluster ${clusterId} answers at revision ${revision}`,
      { retryable: true },
    );
  if (clusterId !== state.clusterId) throw changed();
  if (answer.compactRevision > 0n) {
    // Before the revision is looked at: this answer carries an older one.
    throw new KvError(
      'compacted',
      `cannot ${doing} from revision ${state.resumeFrom}: compacted up to ${answer.compactRevision}`,
      { retryable: true },
    );
  }
  if (answer.canceled) throw canceledWatchError(doing, answer.cancelReason);
  if (revision < (answer.created ? state.seenRevision : state.toldRevision)) throw changed();
}

function* inParts(events: readonly KvEvent[]): Generator<readonly KvEvent[], void, undefined> {
  if (events.length > 0 && events.length <= MOST_EVENTS) yield events;
  else {
    for (let start = 0; start < events.length; start += MOST_EVENTS) {
      yield events.slice(start, start + MOST_EVENTS);
    }
  }
}

function tellAnswer(target: KeyTarget, state: WatchState, answer: WatchAnswer): KvEvent[] {
  const events: KvEvent[] = [];
  const unasked = answer.changes.find(({ pair }) => !isInTarget(target, pair.key));
  // Before anything is noted: what this answer has told so far will not be handed over.
  if (unasked !== undefined) throw unaskedKey(`watch ${targetName(target)}`, unasked.pair.key);
  checkOrder(target, state, answer);
  const { revision } = answer.header;
  if (revision > state.seenRevision) state.seenRevision = revision;
  if (!isSignOfLife(answer)) state.toldRevision = revision;
  const reconnected = state.toldFailure !== undefined;
  state.toldFailure = undefined;
  for (const { deleted, pair } of answer.changes) {
    // The rest of this revision is still to come: a new stream must begin with it again.
    state.resumeFrom = pair.modRevision;
    if (deleted) {
      state.shown?.delete(pair.key);
      events.push({
        kind: 'delete',
        key: pair.key,
        modRevision: pair.modRevision,
        derived: false,
      });
    } else {
      state.shown?.set(pair.key, state.list);
      events.push({ kind: 'put', pair });
    }
  }
  if ((state.shown?.size ?? 0) > MOST_KEYS) {
    throw new KvError(
      'too-large',
      `cannot watch ${targetName(target)}: it has more than ${MOST_KEYS} keys`,
      { retryable: true },
    );
  }
  if (answer.changes.length > 0) {
    if (!answer.fragment) state.resumeFrom += 1n;
  } else if (!answer.created || reconnected) {
    events.push({ kind: 'progress', revision });
  }
  return events;
}

/** Whether an answer only says that the server is there. */
function isSignOfLife({ created, changes }: WatchAnswer): boolean {
  return !created && changes.length === 0;
}

/**
 * Changes come in the order of their revisions, and none is newer than its answer: what follows a watch is asked for from
 * the newest on, and would never come if that were made up.
 */
function checkOrder(target: KeyTarget, state: WatchState, answer: WatchAnswer): void {
  let least = state.resumeFrom;
  for (const { pair } of answer.changes) {
    const { modRevision } = pair;
    if (modRevision >= least && modRevision <= answer.header.revision) {
      least = modRevision;
      continue;
    }
    throw distrust(
      `watch ${targetName(target)}`,
      `the server sent a change of revision ${modRevision}, expected one of ${least} to ${answer.header.revision}`,
    );
  }
}
