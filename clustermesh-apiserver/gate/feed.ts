/** One watch of etcd, read into a history. */
import { encodeWatchCreate, type WatchResponse } from './etcd-messages.ts';
import { createHistory, type History } from './history.ts';
import type { Upstream } from './upstream.ts';

/** The keys that are watched, as a request names them. */
export interface WatchedRange {
  readonly key: Buffer;
  readonly rangeEnd: Buffer;
  /** Whether events carry the value before them. */
  readonly prevKv: boolean;
}

/** Why a feed has ended. */
export type FeedEnd =
  /** The start is compacted away: watch again from this revision or list. */
  | { readonly kind: 'compacted'; readonly compactRevision: number }
  | { readonly kind: 'canceled'; readonly reason: string }
  /** The connection to etcd is gone, or etcd answered nonsense. */
  | { readonly kind: 'lost'; readonly reason: string };

/** A running feed. After `onEnd` it does nothing any more. */
export interface Feed {
  readonly history: History;
  /** Answers received so far: a sign of life is one more. */
  readonly messages: number;
  /** Stops reading from etcd for the time being. */
  pause(): void;
  resume(): void;
  close(): void;
}

/** Watches `range` from `startRevision` on. */
export function openFeed(
  upstream: Upstream,
  options: {
    readonly range: WatchedRange;
    readonly startRevision: number;
    /** etcd has accepted the watch. */
    readonly onOpen?: () => void;
    /** Events or a notice of progress came. */
    readonly onChange: () => void;
    readonly onEnd: (end: FeedEnd) => void;
  },
): Feed {
  const { range, startRevision } = options;
  const history = createHistory(startRevision);
  let messages = 0;
  let isClosed = false;
  let isPaused = false;

  const end = (reason: FeedEnd): void => {
    if (isClosed) return;
    isClosed = true;
    watch.cancel();
    options.onEnd(reason);
  };
  const onMessage = (response: WatchResponse): void => {
    if (isClosed) return;
    messages += 1;
    if (response.canceled) {
      end(
        response.compactRevision > 0
          ? { kind: 'compacted', compactRevision: response.compactRevision }
          : { kind: 'canceled', reason: response.cancelReason },
      );
      return;
    }
    if (response.created) {
      options.onOpen?.();
      return;
    }
    const last = response.events.at(-1);
    history.append(response.events);
    // Without events it is a notice that all up to the header's revision has been told.
    if (!response.fragment) history.seal(last?.revision ?? response.header.revision);
    options.onChange();
  };
  const watch = upstream.watch(encodeWatchCreate({ ...range, startRevision }), {
    onMessage,
    onEnd: (error) => end({ kind: 'lost', reason: error.message }),
  });
  return {
    history,
    get messages() {
      return messages;
    },
    pause() {
      if (!isPaused) watch.pause();
      isPaused = true;
    },
    resume() {
      if (isPaused) watch.resume();
      isPaused = false;
    },
    close() {
      isClosed = true;
      watch.cancel();
    },
  };
}
