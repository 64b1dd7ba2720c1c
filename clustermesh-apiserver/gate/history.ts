/** The last events of one range, for watchers that read at their own pace. Holds no timer and no socket. */
import type { WatchEvent } from './etcd-messages.ts';

/** A run of events, whole revisions only. */
export interface Batch {
  readonly events: readonly WatchEvent[];
  /** Position of the event behind the last one. */
  readonly next: number;
  /** Revision of the last event. */
  readonly lastRevision: number;
}

/** A bounded log. Positions count events since the beginning and stay valid while older ones are dropped. */
export interface History {
  /** Every event of this revision or a later one, up to `through`, is held. */
  readonly floor: number;
  /** Nothing is missing up to this revision. */
  readonly through: number;
  /** Position of the oldest event held. */
  readonly first: number;
  /** Position that the next event will get. */
  readonly end: number;
  readonly bytes: number;
  /** Adds events in order. The revision of the last one stays open until `seal`: more of it may follow. */
  append(events: readonly WatchEvent[]): void;
  /** Says that nothing up to `revision` is to come any more. */
  seal(revision: number): void;
  /** Position of the first event of `revision` or later. */
  positionOf(revision: number): number;
  /**
   * Takes whole revisions from `position` on, as many as fit in `maxBytes` but at least one; undefined when there is none.
   * `position` must not be below `first`.
   */
  take(position: number, maxBytes: number): Batch | undefined;
  /** Drops everything before `position`. */
  dropBefore(position: number): void;
  /** Drops the oldest revisions until at most this much is held, but never the newest. */
  trim(limits: { readonly maxEvents: number; readonly maxBytes: number }): void;
}

/** Makes an empty history that will hold everything from revision `start` on. */
export function createHistory(start: number): History {
  let events: WatchEvent[] = [];
  /** Index in `events` of the oldest one held; those before it are cut off now and then. */
  let head = 0;
  /** Position of `events[0]`. */
  let base = 0;
  let bytes = 0;
  let floor = start;
  let through = start - 1;
  /** Events of revisions that may still grow. */
  let open: WatchEvent[] = [];

  const dropTo = (index: number): void => {
    for (; head < index; head += 1) {
      const event = events[head];
      if (event === undefined) break;
      bytes -= event.field.length;
      floor = Math.max(floor, event.revision + 1);
    }
    if (head > 1024 && head * 2 > events.length) {
      events = events.slice(head);
      base += head;
      head = 0;
    }
  };
  const revisionEnd = (index: number): number => {
    const revision = events[index]?.revision;
    let end = index;
    while (end < events.length && events[end]?.revision === revision) end += 1;
    return end;
  };

  return {
    get floor() {
      return floor;
    },
    get through() {
      return through;
    },
    get first() {
      return base + head;
    },
    get end() {
      return base + events.length;
    },
    get bytes() {
      return bytes;
    },
    append(added) {
      for (const event of added) {
        if (open[0] !== undefined && event.revision > open[0].revision) this.seal(open[0].revision);
        open.push(event);
      }
    },
    seal(revision) {
      while (open[0] !== undefined && open[0].revision <= revision) {
        const sealed = open[0].revision;
        const count = open.findIndex((event) => event.revision > sealed);
        const whole = count === -1 ? open : open.slice(0, count);
        open = count === -1 ? [] : open.slice(count);
        for (const event of whole) {
          events.push(event);
          bytes += event.field.length;
        }
      }
      through = Math.max(through, revision);
    },
    positionOf(revision) {
      let low = head;
      let high = events.length;
      while (low < high) {
        const middle = (low + high) >>> 1;
        if ((events[middle]?.revision ?? 0) < revision) low = middle + 1;
        else high = middle;
      }
      return base + low;
    },
    take(position, maxBytes) {
      const start = position - base;
      let end = start;
      let size = 0;
      while (end < events.length) {
        const next = revisionEnd(end);
        for (let index = end; index < next; index += 1) size += events[index]?.field.length ?? 0;
        if (end > start && size > maxBytes) break;
        end = next;
      }
      const last = events[end - 1];
      if (end === start || last === undefined) return undefined;
      return { events: events.slice(start, end), next: base + end, lastRevision: last.revision };
    },
    dropBefore(position) {
      dropTo(position - base);
    },
    trim({ maxEvents, maxBytes }) {
      while (events.length - head > maxEvents || bytes > maxBytes) {
        const end = revisionEnd(head);
        if (end >= events.length) return;
        dropTo(end);
      }
    },
  };
}
