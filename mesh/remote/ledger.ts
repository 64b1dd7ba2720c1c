/**
 * Names with a few numbers each, for a million of them: a number of the list that named it last, one of the host, and
 * the two halves of a hash. Numbers live in typed arrays, so an entry costs no object.
 */

/** The sum of the hashes of all names modulo 2^64, as two unsigned halves. */
export interface HashSum {
  readonly high: number;
  readonly low: number;
}

/** Names of one kind. */
export interface Ledger {
  /** Notes a name as named by the current list. `host` 0: none. A known name keeps nothing of before. */
  put(
    name: string,
    options: { readonly host: number; readonly hash: readonly [number, number] },
  ): boolean;
  /** Notes that the current list names it, with another hash. It must be there. */
  touch(name: string, hash: readonly [number, number]): void;
  /** Hash of a name; zeros for one that is not there. */
  hashOf(name: string): readonly [number, number];
  /** Returns whether it was there. */
  delete(name: string): boolean;
  has(name: string): boolean;
  /** Begins a list: no name was named by it yet. */
  beginList(): void;
  /** Names that the current list has not named. */
  unlisted(): string[];
  /** Names with that host. */
  ofHost(host: number): string[];
  names(): IterableIterator<string>;
  clear(): void;
  readonly size: number;
  readonly sum: HashSum;
}

const FIRST_CAPACITY = 64;

/** Makes an empty ledger. */
export function createLedger(): Ledger {
  const slots = new Map<string, number>();
  const free: number[] = [];
  let capacity = 0;
  let used = 0;
  let lists = new Uint32Array(0);
  let hosts = new Uint32Array(0);
  let highs = new Uint32Array(0);
  let lows = new Uint32Array(0);
  let list = 0;
  let high = 0;
  let low = 0;

  const grow = (): void => {
    capacity = Math.max(FIRST_CAPACITY, capacity * 2);
    lists = grown(lists, capacity);
    hosts = grown(hosts, capacity);
    highs = grown(highs, capacity);
    lows = grown(lows, capacity);
  };
  const newSlot = (): number => {
    const reused = free.pop();
    if (reused !== undefined) return reused;
    if (used === capacity) grow();
    used += 1;
    return used - 1;
  };
  const setHash = (slot: number, hash: readonly [number, number]): void => {
    highs[slot] = hash[0];
    lows[slot] = hash[1];
    const sum = low + hash[1];
    high = (high + hash[0] + (sum > 0xffff_ffff ? 1 : 0)) >>> 0;
    low = sum >>> 0;
  };
  const subtract = (slot: number): void => {
    const difference = low - (lows[slot] ?? 0);
    high = (high - (highs[slot] ?? 0) - (difference < 0 ? 1 : 0)) >>> 0;
    low = difference >>> 0;
  };

  return {
    put(name, { host, hash }) {
      const known = slots.get(name);
      const slot = known ?? newSlot();
      if (known === undefined) slots.set(name, slot);
      else subtract(slot);
      lists[slot] = list;
      hosts[slot] = host;
      setHash(slot, hash);
      return known === undefined;
    },
    touch(name, hash) {
      const slot = slots.get(name);
      if (slot === undefined) return;
      subtract(slot);
      lists[slot] = list;
      setHash(slot, hash);
    },
    hashOf(name) {
      const slot = slots.get(name);
      return slot === undefined ? [0, 0] : [highs[slot] ?? 0, lows[slot] ?? 0];
    },
    delete(name) {
      const slot = slots.get(name);
      if (slot === undefined) return false;
      subtract(slot);
      slots.delete(name);
      free.push(slot);
      return true;
    },
    has: (name) => slots.has(name),
    beginList() {
      list += 1;
    },
    unlisted() {
      const found: string[] = [];
      for (const [name, slot] of slots) if (lists[slot] !== list) found.push(name);
      return found;
    },
    ofHost(host) {
      const found: string[] = [];
      for (const [name, slot] of slots) if (hosts[slot] === host) found.push(name);
      return found;
    },
    names: () => slots.keys(),
    clear() {
      slots.clear();
      free.length = 0;
      used = 0;
      high = 0;
      low = 0;
    },
    get size() {
      return slots.size;
    },
    get sum() {
      return { high, low };
    },
  };
}

function grown(array: Uint32Array<ArrayBuffer>, capacity: number): Uint32Array<ArrayBuffer> {
  const next = new Uint32Array(capacity);
  next.set(array);
  return next;
}
