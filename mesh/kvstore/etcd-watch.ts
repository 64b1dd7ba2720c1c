import type { Backoff } from '../runtime/backoff.ts';
import type { Clock } from '../runtime/clock.ts';
import type { EtcdConnection, EtcdStream } from './etcd-connection.ts';
import { canceledWatchError } from './etcd-error.ts';
import {
  distrust,
  isInTarget,
  type KeyTarget,
  keyRange,
  listPages,
  targetName,
  unaskedKey,
} from './etcd-list.ts';
import { decodeWatchAnswer, type EtcdHeader, type WatchAnswer } from './etcd-messages.ts';
import { KvError, type KvEvent } from './kvstore.ts';

/** What a watch needs from the store. */
export interface WatchOptions {
  readonly connection: EtcdConnection;
  readonly clock: Clock;
  readonly signal: AbortSignal;
  readonly pageSize: number;
  readonly timeoutMs: number;
  /** Silence after which the server is asked for a sign of life; three times as long is a failure. */
  readonly progressIntervalMs: number;
  readonly backoff: Backoff;
}

type ListReason = (KvEvent & { kind: 'list-start' })['reason'];

/** What a watch knows between two connections. */
interface WatchState {
  /** Why the next step is a list; undefined while the last list and the deltas since then are whole. */
  listReason: ListReason | undefined;
  /** Keys that the consumer holds, each with the number of the list that named it last. */
  readonly shown: Map<string, number>;
  /** Number of the current list. */
  list: number;
  /** Cluster that the last list came from. */
  clusterId: string;
  /** Highest revision that an answer has carried. */
  seenRevision: bigint;
  /** First revision not yet told wholly. It follows the events alone: a sign of life may overtake them. */
  resumeFrom: bigint;
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
    shown: new Map(),
    list: 0,
    clusterId: '',
    seenRevision: 0n,
    resumeFrom: 0n,
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
  let header: EtcdHeader | undefined;
  for await (const page of listPages(target, options)) {
    if (header === undefined) {
      // Only now: as long as the server does not answer there is nothing new to tell.
      yield [{ kind: 'list-start', reason: listReasonOf(state, page.header) }];
      // What remains the reason if this list is cut off.
      state.listReason = 'disconnected';
    }
    header = page.header;
    count += page.pairs.length;
    for (let start = 0; start < page.pairs.length; start += MOST_EVENTS) {
      const events: KvEvent[] = [];
      for (const pair of page.pairs.slice(start, start + MOST_EVENTS)) {
        shown.set(pair.key, list);
        events.push({ kind: 'put', pair });
      }
      yield events;
    }
  }
  if (header === undefined) return;
  const events: KvEvent[] = [];
  if (shown.size > count) {
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
  events.push({ kind: 'synced', revision: header.revision, count });
  yield* inParts(events);
}

/** A list of an etcd that was replaced while there was no stream to notice it says so, whatever it was begun for. */
function listReasonOf(state: WatchState, { clusterId, revision }: EtcdHeader): ListReason {
  const isAnother =
    state.clusterId !== '' && (clusterId !== state.clusterId || revision < state.seenRevision);
  return isAnother ? 'cluster-changed' : (state.listReason ?? 'disconnected');
}

/** Follows one stream from the resume point. It ends by throwing, or because the reader left. */
async function* followStream(
  target: KeyTarget,
  state: WatchState,
  options: WatchOptions,
): AsyncGenerator<readonly KvEvent[], void, undefined> {
  const { connection, signal } = options;
  // The reader may have aborted while it held the last event of the list: nothing would cancel the stream then.
  if (signal.aborted) return;
  const stream = connection.openStream('watch', decodeWatchAnswer);
  const cancel = (): void => stream.cancel();
  signal.addEventListener('abort', cancel, { once: true });
  const supervised = superviseStream(stream, options);
  try {
    stream.write({
      create_request: {
        ...keyRange(target),
        start_revision: String(state.resumeFrom),
        fragment: true,
      },
    });
    for (;;) {
      const answer = await supervised.read();
      checkAnswer(target, state, answer);
      connection.seen(answer.header);
      yield* inParts(tellAnswer(target, state, answer));
    }
  } finally {
    signal.removeEventListener('abort', cancel);
    stream.cancel();
    await supervised.stop();
  }
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
  if (revision < state.seenRevision) throw changed();
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
  state.seenRevision = answer.header.revision;
  const reconnected = state.toldFailure !== undefined;
  state.toldFailure = undefined;
  for (const { deleted, pair } of answer.changes) {
    // The rest of this revision is still to come: a new stream must begin with it again.
    state.resumeFrom = pair.modRevision;
    if (deleted) {
      state.shown.delete(pair.key);
      events.push({
        kind: 'delete',
        key: pair.key,
        modRevision: pair.modRevision,
        derived: false,
      });
    } else {
      state.shown.set(pair.key, state.list);
      events.push({ kind: 'put', pair });
    }
  }
  if (state.shown.size > MOST_KEYS) {
    throw new KvError(
      'too-large',
      `cannot watch ${targetName(target)}: it has more than ${MOST_KEYS} keys`,
      { retryable: true },
    );
  }
  if (answer.changes.length > 0) {
    if (!answer.fragment) state.resumeFrom += 1n;
  } else if (!answer.created || reconnected) {
    events.push({ kind: 'progress', revision: answer.header.revision });
  }
  return events;
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

/** Reads a watch stream, asks for a sign of life in silence, and breaks the stream when none comes. */
function superviseStream(stream: EtcdStream<WatchAnswer>, options: WatchOptions) {
  const { clock, progressIntervalMs } = options;
  const answers = stream[Symbol.asyncIterator]();
  const stopped = new AbortController();
  // Silence counts only while somebody reads: a slow consumer is not a dead server.
  let waitingSince: number | undefined;

  const ask = async (): Promise<void> => {
    while (!stopped.signal.aborted) {
      await clock.sleep(progressIntervalMs, stopped.signal).catch(() => undefined);
      if (stopped.signal.aborted || waitingSince === undefined) continue;
      const silence = clock.monotonic() - waitingSince;
      if (silence >= 3 * progressIntervalMs) {
        stream.destroy(
          new KvError('unavailable', `the server has not answered for ${Math.round(silence)} ms`, {
            retryable: true,
          }),
        );
      } else if (silence >= progressIntervalMs / 2) {
        stream.write({ progress_request: {} });
      }
    }
  };
  const asking = ask();

  return {
    async read(): Promise<WatchAnswer> {
      waitingSince = clock.monotonic();
      const next: IteratorResult<WatchAnswer, unknown> = await answers.next();
      waitingSince = undefined;
      if (next.done) {
        throw new KvError('unavailable', 'the server ended the watch', { retryable: true });
      }
      return next.value;
    },
    async stop(): Promise<void> {
      stopped.abort();
      await asking;
    },
  };
}
