/**
 * One watch of a client. It reads from the shared watch of its range; when that does not go back far enough, because the client
 * asks for old revisions or has been too slow, from a private one until the two meet.
 */
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { WatchEvent, WatchRequest } from './etcd-messages.ts';
import { type Feed, type FeedEnd, openFeed, type WatchedRange } from './feed.ts';
import type { Batch } from './history.ts';
import type { Reader, SharedWatches, Subscription } from './shared-watches.ts';
import type { Slots } from './slots.ts';
import type { Upstream } from './upstream.ts';

/** Events of one message; a single revision can be more. */
const MESSAGE_BYTES = 1024 * 1024;
/** A private watch is paused when so much waits for the client. */
const PRIVATE_BACKLOG_BYTES = 4 * 1024 * 1024;
/** How often a quiet watch whose client asked for notices gets one. */
const NOTICE_MS = 60_000;

/** A request to watch. */
export type WatchCreate = WatchRequest & { readonly kind: 'create' };

/** What a watch says of itself; the stream that it belongs to adds header and id. */
export type WatchMessage =
  | {
      readonly kind: 'events';
      readonly events: readonly Buffer[];
      readonly fragment: boolean;
      /** Revision of the last event. */
      readonly revision: number;
    }
  | { readonly kind: 'notice'; readonly revision: number }
  | { readonly kind: 'canceled'; readonly reason: string; readonly compactRevision: number };

/** The stream of the client. */
export interface ClientStream {
  /** Whether it takes more: false while the client reads too slowly. */
  readonly isReady: boolean;
  /** Revision in the latest header told on this stream: later ones must not be lower. */
  readonly toldRevision: number;
  send(message: WatchMessage): void;
  /** The watch may have come nearer to the end of what there is. */
  onProgress(): void;
  /** etcd is out of reach: the client has to come again. */
  onLost(): void;
}

/** What watches of a gate share. */
export interface WatchContext {
  readonly upstream: Upstream;
  readonly shared: SharedWatches;
  /** Private watches at a time. */
  readonly slots: Slots;
  readonly clock: Clock;
}

/** A running watch. */
export interface ClientWatch {
  /** Begins to send. `nextRevision` is the first that the client is to see. */
  start(nextRevision: number): void;
  /** The stream is ready again. */
  pump(): void;
  /** The client has not read for long: gives back what costs memory until it does. */
  release(): void;
  /** Asks etcd how far the watch is complete; `completeThrough` will tell. */
  askProgress(): void;
  /** Everything up to this revision has been sent. */
  readonly completeThrough: number;
  /** Resolves when etcd has accepted the watch, or it has ended. */
  readonly opened: Promise<void>;
  close(): void;
}

/** Where the next event comes from; positions are those of a history. */
type Source =
  | { readonly kind: 'idle' }
  /** Waits for its turn to read privately. */
  | { readonly kind: 'queued'; readonly leave: AbortController }
  | {
      readonly kind: 'private';
      readonly feed: Feed;
      readonly release: () => void;
      position: number;
    }
  | { readonly kind: 'shared'; position: number };

/** Prepares a watch and joins the shared one. */
export function createClientWatch(
  context: WatchContext,
  options: {
    readonly create: WatchCreate;
    readonly stream: ClientStream;
    readonly startRevision: number;
  },
): ClientWatch {
  const { upstream, shared, slots, clock } = context;
  const { create, stream } = options;
  const range: WatchedRange = {
    key: create.key,
    rangeEnd: create.rangeEnd,
    prevKv: create.prevKv,
  };
  let nextRevision = options.startRevision;
  let source: Source = { kind: 'idle' };
  let isStarted = false;
  let isClosed = false;
  let sentAt = clock.monotonic();

  const reader: Reader = {
    onChange: () => {
      if (source.kind === 'shared' || source.kind === 'private') pump();
    },
    onEnd: (end) => onSharedEnd(end),
  };
  let subscription: Subscription = shared.join(range, reader, options);

  const leaveSource = (): void => {
    if (source.kind === 'queued') source.leave.abort();
    if (source.kind === 'private') {
      source.feed.close();
      source.release();
    }
    source = { kind: 'idle' };
  };
  const close = (): void => {
    if (isClosed) return;
    isClosed = true;
    leaveSource();
    subscription.leave();
  };
  const cancel = (reason: string, compactRevision: number): void => {
    close();
    stream.send({ kind: 'canceled', reason, compactRevision });
  };
  const onEnd = (end: FeedEnd): void => {
    if (isClosed) return;
    switch (end.kind) {
      case 'compacted':
        cancel('', end.compactRevision);
        break;
      case 'canceled':
        cancel(end.reason, 0);
        break;
      case 'lost':
        close();
        stream.onLost();
        break;
      default:
        throw end satisfies never;
    }
  };
  const onSharedEnd = (end: FeedEnd): void => {
    if (isClosed) return;
    if (end.kind !== 'compacted' || nextRevision < end.compactRevision) {
      onEnd(end);
      return;
    }
    // The shared watch began further back than this one has to.
    subscription = shared.join(range, reader, { startRevision: nextRevision });
    if (isStarted && source.kind === 'shared') read();
  };

  /** Chooses where to read on. */
  const read = (): void => {
    leaveSource();
    const { history } = subscription;
    if (nextRevision >= history.floor) {
      source = { kind: 'shared', position: history.positionOf(nextRevision) };
      pump();
      return;
    }
    const leave = new AbortController();
    source = { kind: 'queued', leave };
    slots.acquire(leave.signal).then(readPrivately, () => undefined);
  };
  const readPrivately = (release: () => void): void => {
    if (isClosed || source.kind !== 'queued') {
      release();
      return;
    }
    const feed = openFeed(upstream, {
      range,
      clock,
      startRevision: nextRevision,
      onChange: () => pump(),
      onEnd: (end) => onEnd(end),
    });
    source = { kind: 'private', feed, release, position: feed.history.first };
  };
  /** Changes to the shared watch if that holds all that comes next. */
  const tryJoin = (feed: Feed): boolean => {
    const complete = Math.max(nextRevision, feed.history.through + 1);
    if (complete < subscription.history.floor) return false;
    nextRevision = complete;
    leaveSource();
    source = { kind: 'shared', position: subscription.history.positionOf(nextRevision) };
    return true;
  };

  const sendBatch = (batch: Batch): void => {
    const events = batch.events.filter(
      (event) =>
        event.revision >= nextRevision && !(event.isDelete ? create.noDelete : create.noPut),
    );
    nextRevision = Math.max(nextRevision, batch.lastRevision + 1);
    if (events.length === 0) return;
    sentAt = clock.monotonic();
    const pieces = create.fragment ? splitEvents(events) : [events];
    for (const [index, piece] of pieces.entries()) {
      stream.send({
        kind: 'events',
        events: piece.map((event) => event.field),
        fragment: index < pieces.length - 1,
        revision: piece.at(-1)?.revision ?? 0,
      });
    }
  };
  const takeNext = (): Batch | undefined => {
    if (source.kind !== 'shared' && source.kind !== 'private') return undefined;
    const history = source.kind === 'shared' ? subscription.history : source.feed.history;
    const batch = history.take(source.position, MESSAGE_BYTES);
    if (batch === undefined) return undefined;
    source.position = batch.next;
    if (source.kind === 'private') history.dropBefore(batch.next);
    return batch;
  };
  const pump = (): void => {
    while (!isClosed && stream.isReady) {
      if (source.kind === 'shared' && source.position < subscription.history.first) {
        // The client was slower than the history is long.
        read();
        return;
      }
      const batch = takeNext();
      if (batch !== undefined) sendBatch(batch);
      else if (source.kind !== 'private' || !tryJoin(source.feed)) break;
    }
    if (isClosed) return;
    if (source.kind === 'private') {
      if (source.feed.history.bytes > PRIVATE_BACKLOG_BYTES) source.feed.pause();
      else source.feed.resume();
    }
    sendNotice();
    stream.onProgress();
  };
  const sendNotice = (): void => {
    if (!create.progressNotify || !stream.isReady) return;
    if (clock.monotonic() - sentAt < NOTICE_MS) return;
    const revision = completeThrough();
    if (revision < stream.toldRevision) return;
    sentAt = clock.monotonic();
    stream.send({ kind: 'notice', revision });
  };
  const completeThrough = (): number => {
    if (source.kind !== 'shared' && source.kind !== 'private') return nextRevision - 1;
    const history = source.kind === 'shared' ? subscription.history : source.feed.history;
    return source.position === history.end ? history.through : nextRevision - 1;
  };

  return {
    opened: subscription.opened,
    start(revision) {
      nextRevision = revision;
      isStarted = true;
      if (!isClosed) read();
    },
    pump() {
      if (!isStarted || isClosed) return;
      if (source.kind === 'idle') read();
      else pump();
    },
    release() {
      if (source.kind === 'private' || source.kind === 'queued') leaveSource();
    },
    askProgress() {
      if (source.kind === 'private') source.feed.askProgress();
      else subscription.askProgress();
    },
    get completeThrough() {
      return completeThrough();
    },
    close,
  };
}

/** Splits events into messages of about `MESSAGE_BYTES`. */
function splitEvents(events: readonly WatchEvent[]): WatchEvent[][] {
  const pieces: WatchEvent[][] = [];
  let size = Number.POSITIVE_INFINITY;
  for (const event of events) {
    if (size + event.field.length > MESSAGE_BYTES) {
      pieces.push([]);
      size = 0;
    }
    pieces.at(-1)?.push(event);
    size += event.field.length;
  }
  return pieces;
}
