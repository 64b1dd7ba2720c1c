/** One watch of etcd, read into a history. */
import type { Clock } from '../../mesh/runtime/clock.ts';
import {
  encodeWatchCreate,
  PROGRESS_ID,
  PROGRESS_REQUEST,
  type WatchResponse,
} from './etcd-messages.ts';
import { createHistory, type History } from './history.ts';
import type { Upstream } from './upstream.ts';

/** How often etcd is asked for progress at most, and how long an event may be overtaken by the answer. */
const PROGRESS_MS = 900;

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
  /** Stops reading from etcd for the time being. */
  pause(): void;
  resume(): void;
  /** Asks etcd how far the watch is complete. */
  askProgress(): void;
  close(): void;
}

/** Watches `range` from `startRevision` on. */
export function openFeed(
  upstream: Upstream,
  options: {
    readonly range: WatchedRange;
    readonly startRevision: number;
    readonly clock: Clock;
    /** etcd has accepted the watch. */
    readonly onOpen?: () => void;
    /** Events or a notice of progress came. */
    readonly onChange: () => void;
    readonly onEnd: (end: FeedEnd) => void;
  },
): Feed {
  const { range, startRevision, clock } = options;
  const history = createHistory(startRevision);
  let isClosed = false;
  let isPaused = false;
  let askedAt = Number.NEGATIVE_INFINITY;
  let lastProgress: { readonly revision: number; readonly at: number } | undefined;

  const end = (reason: FeedEnd): void => {
    if (isClosed) return;
    isClosed = true;
    watch.cancel();
    options.onEnd(reason);
  };
  const onMessage = (response: WatchResponse): void => {
    if (isClosed) return;
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
    if (response.watchId === PROGRESS_ID) {
      takeProgress(response.header.revision);
      return;
    }
    const last = response.events.at(-1);
    history.append(response.events);
    // Without events it is a notice that all up to the header's revision has been told.
    if (!response.fragment) history.seal(last?.revision ?? response.header.revision);
    options.onChange();
  };
  /**
   * Before 3.4.25 and 3.5.8 the answer may overtake events (etcd issue 15220): it is believed when the next one comes. Notices
   * that etcd sends by itself never do.
   */
  const takeProgress = (revision: number): void => {
    const at = clock.monotonic();
    if (lastProgress !== undefined && at - lastProgress.at >= PROGRESS_MS) {
      history.seal(lastProgress.revision);
    }
    if (lastProgress === undefined || at - lastProgress.at >= PROGRESS_MS) {
      lastProgress = { revision, at };
    }
    options.onChange();
  };
  const watch = upstream.watch(encodeWatchCreate({ ...range, startRevision }), {
    onMessage,
    onEnd: (error) => end({ kind: 'lost', reason: error.message }),
  });
  return {
    history,
    pause() {
      if (!isPaused) watch.pause();
      isPaused = true;
    },
    resume() {
      if (isPaused) watch.resume();
      isPaused = false;
    },
    askProgress() {
      if (isClosed || clock.monotonic() - askedAt < PROGRESS_MS) return;
      askedAt = clock.monotonic();
      watch.send(PROGRESS_REQUEST);
    },
    close() {
      isClosed = true;
      watch.cancel();
    },
  };
}
