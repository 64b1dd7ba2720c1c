/** The newest events, as the bytes they came in: they are described when somebody asks. */

/** An event as it is remembered. */
export interface RememberedEvent {
  readonly bytes: Uint8Array;
  /** Microseconds since 1970. */
  readonly time: number;
}

/** Remembers a fixed number of events. */
export interface History {
  /** How many at most. */
  readonly size: number;
  /** Copies the bytes. */
  add(bytes: Uint8Array, time: number): void;
  newestFirst(): Generator<RememberedEvent>;
}

/** Makes an empty one. */
export function createHistory(size: number): History {
  const events: RememberedEvent[] = [];
  let next = 0;
  return {
    size,
    add(bytes, time) {
      if (size === 0) return;
      events[next] = { bytes: bytes.slice(), time };
      next = (next + 1) % size;
    },
    *newestFirst() {
      for (let back = 1; back <= events.length; back += 1) {
        const event = events[(next - back + size) % size];
        if (event !== undefined) yield event;
      }
    },
  };
}
