/** Watches of the same range share one watch of etcd: telling an event costs etcd CPU for each of its watchers. */
import type { Clock } from '../../mesh/runtime/clock.ts';
import { type Feed, type FeedEnd, openFeed, type WatchedRange } from './feed.ts';
import type { History } from './history.ts';
import type { Upstream } from './upstream.ts';

/** How long a watch stays when nobody reads it: clients come back, and find what they missed. */
const LINGER_MS = 10_000;
/** Events are handed on at once after a quiet time, else collected for this long, ... */
const COALESCE_MS = 2;
/** ... and up to this long when handing them on takes a notable part of the time. */
const COALESCE_UNDER_LOAD_MS = 20;
const LOAD_FACTOR = 6;
const MAX_EVENTS = 16_384;
const MAX_BYTES = 32 * 1024 * 1024;
/** For all shared watches together. */
const MAX_TOTAL_BYTES = 256 * 1024 * 1024;
/** A first watcher that is further behind than this does not decide where the shared watch begins. */
const MAX_REPLAYED_REVISIONS = 10_000;

/** Somebody who reads a shared watch. */
export interface Reader {
  /** There are new events or a notice of progress. */
  onChange(): void;
  onEnd(end: FeedEnd): void;
}

/** A place at a shared watch. */
export interface Subscription {
  readonly history: History;
  /** Resolves when etcd has accepted the watch, or the watch has ended. */
  readonly opened: Promise<void>;
  askProgress(): void;
  leave(): void;
}

/** All shared watches of a gate. Disposing ends them without telling anyone. */
export interface SharedWatches extends Disposable {
  /** How many watches of etcd there are. */
  readonly count: number;
  join(range: WatchedRange, reader: Reader, options: { startRevision: number }): Subscription;
}

interface SharedWatch {
  readonly feed: Feed;
  readonly readers: Set<Reader>;
  readonly opened: Promise<void>;
  /** Aborted when somebody comes in time. */
  lingering: AbortController | undefined;
}

/** Makes the place where watches meet. */
export function createSharedWatches(upstream: Upstream, clock: Clock): SharedWatches {
  const watches = new Map<string, SharedWatch>();

  const open = (id: string, range: WatchedRange, startRevision: number): SharedWatch => {
    const readers = new Set<Reader>();
    let markOpened = (): void => undefined;
    const opened = new Promise<void>((resolve) => {
      markOpened = resolve;
    });
    const flush = createFlusher(clock, () => {
      const maxBytes = Math.min(MAX_BYTES, MAX_TOTAL_BYTES / watches.size);
      for (const reader of [...readers]) reader.onChange();
      // After the readers: what they have just taken is the first to go.
      feed.history.trim({ maxEvents: MAX_EVENTS, maxBytes });
    });
    const feed = openFeed(upstream, {
      range,
      clock,
      startRevision: firstRevision(startRevision, upstream.latest?.revision),
      onOpen: markOpened,
      onChange: flush,
      onEnd(end) {
        if (watches.get(id) === watch) watches.delete(id);
        watch.lingering?.abort();
        for (const reader of [...readers]) reader.onEnd(end);
        markOpened();
      },
    });
    const watch: SharedWatch = { feed, readers, opened, lingering: undefined };
    watches.set(id, watch);
    return watch;
  };
  const close = (id: string, watch: SharedWatch): void => {
    watch.feed.close();
    if (watches.get(id) === watch) watches.delete(id);
  };
  const linger = (id: string, watch: SharedWatch): void => {
    const lingering = new AbortController();
    watch.lingering = lingering;
    clock.sleep(LINGER_MS, lingering.signal).then(
      () => close(id, watch),
      () => undefined,
    );
  };

  return {
    get count() {
      return watches.size;
    },
    join(range, reader, { startRevision }) {
      const id = `${range.prevKv}:${range.key.toString('base64')}:${range.rangeEnd.toString('base64')}`;
      const watch = watches.get(id) ?? open(id, range, startRevision);
      watch.lingering?.abort();
      watch.lingering = undefined;
      watch.readers.add(reader);
      return {
        history: watch.feed.history,
        opened: watch.opened,
        askProgress: () => watch.feed.askProgress(),
        leave() {
          if (!watch.readers.delete(reader)) return;
          if (watch.readers.size === 0 && watches.get(id) === watch) linger(id, watch);
        },
      };
    },
    [Symbol.dispose]() {
      for (const [id, watch] of [...watches]) {
        watch.lingering?.abort();
        close(id, watch);
      }
    },
  };
}

/** Where a new shared watch begins: where its first watcher does, unless that is far back or in the future. */
function firstRevision(wanted: number, latest: number | undefined): number {
  if (latest === undefined) return wanted;
  return wanted < latest - MAX_REPLAYED_REVISIONS ? latest + 1 : Math.min(wanted, latest + 1);
}

/** Makes a function that has `flush` called soon: at once after a pause, else at most once each few milliseconds. */
function createFlusher(clock: Clock, flush: () => void): () => void {
  let isScheduled = false;
  let pauseMs = COALESCE_MS;
  let flushedAt = Number.NEGATIVE_INFINITY;

  const run = (): void => {
    isScheduled = false;
    const began = clock.monotonic();
    flush();
    flushedAt = clock.monotonic();
    pauseMs = Math.min(
      COALESCE_UNDER_LOAD_MS,
      Math.max(COALESCE_MS, (flushedAt - began) * LOAD_FACTOR),
    );
  };
  return () => {
    if (isScheduled) return;
    isScheduled = true;
    const waitMs = flushedAt + pauseMs - clock.monotonic();
    if (waitMs <= 0) setImmediate(run);
    else void clock.sleep(waitMs).then(run);
  };
}
