/** Keys by the time at which they are due, the earliest first. A key is in it once. */
export interface DueTimes {
  readonly size: number;
  has(key: string): boolean;
  /** Sets when a key is due; of two times the earlier one counts. */
  set(key: string, dueAt: number): void;
  delete(key: string): void;
  /** When the first key is due; Infinity: there is none. */
  next(): number;
  /** Takes out the first key that is due at `now`, with its time. */
  takeDue(now: number): { readonly key: string; readonly dueAt: number } | undefined;
}

interface Entry {
  readonly key: string;
  readonly dueAt: number;
}

/** Outdated entries in the heap before it is made anew. */
const CLEAN_AT = 1024;

/** Makes an empty set of due times: a binary heap, in which entries that count no more stay until they come up. */
export function createDueTimes(): DueTimes {
  const times = new Map<string, number>();
  let heap: Entry[] = [];

  const isCurrent = ({ key, dueAt }: Entry): boolean => times.get(key) === dueAt;
  const at = (index: number): number => heap[index]?.dueAt ?? Number.POSITIVE_INFINITY;
  const swap = (a: number, b: number): void => {
    const first = heap[a];
    const second = heap[b];
    if (first === undefined || second === undefined) return;
    heap[a] = second;
    heap[b] = first;
  };
  const rise = (from: number): void => {
    for (let child = from; child > 0; ) {
      const parent = (child - 1) >> 1;
      if (at(parent) <= at(child)) return;
      swap(parent, child);
      child = parent;
    }
  };
  const sink = (from: number): void => {
    for (let parent = from; ; ) {
      const left = 2 * parent + 1;
      const smaller = at(left + 1) < at(left) ? left + 1 : left;
      if (at(smaller) >= at(parent)) return;
      swap(parent, smaller);
      parent = smaller;
    }
  };
  const pop = (): void => {
    const last = heap.pop();
    if (last === undefined || heap.length === 0) return;
    heap[0] = last;
    sink(0);
  };
  /** Drops outdated entries until the first one counts. */
  const first = (): Entry | undefined => {
    for (let entry = heap[0]; entry !== undefined; entry = heap[0]) {
      if (isCurrent(entry)) return entry;
      pop();
    }
    return undefined;
  };
  const clean = (): void => {
    if (heap.length < CLEAN_AT || heap.length < times.size * 2) return;
    heap = heap.filter(isCurrent).sort((a, b) => a.dueAt - b.dueAt);
  };

  return {
    get size() {
      return times.size;
    },
    has: (key) => times.has(key),
    set(key, dueAt) {
      const before = times.get(key);
      if (before !== undefined && before <= dueAt) return;
      times.set(key, dueAt);
      heap.push({ key, dueAt });
      rise(heap.length - 1);
      clean();
    },
    delete(key) {
      times.delete(key);
    },
    next: () => first()?.dueAt ?? Number.POSITIVE_INFINITY,
    takeDue(now) {
      const entry = first();
      if (entry === undefined || entry.dueAt > now) return undefined;
      pop();
      times.delete(entry.key);
      return entry;
    },
  };
}
