/**
 * Names with a few numbers each, for a million of them: a number of the list that named it last, one of the host, and
 * the two halves of a hash. Numbers live in typed arrays, so an entry costs no object.
 */

import { createNameIndex } from './name-index.ts';

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

/** Words that a name has: number of the list, host, and the halves of the hash. */
const WORDS = 4;
const [LIST, HOST, HIGH, LOW] = [0, 1, 2, 3] as const;
const FIRST_CAPACITY = 32;
const NO_CELLS = new Uint32Array(0);

/** Makes an empty ledger. */
export function createLedger(): Ledger {
  const index = createNameIndex();
  let cells: Uint32Array = NO_CELLS;
  let list = 0;
  let high = 0;
  let low = 0;

  const setHash = (at: number, hash: readonly [number, number]): void => {
    cells[at + HIGH] = hash[0];
    cells[at + LOW] = hash[1];
    const sum = low + hash[1];
    high = (high + hash[0] + (sum > 0xffff_ffff ? 1 : 0)) >>> 0;
    low = sum >>> 0;
  };
  const subtract = (at: number): void => {
    const difference = low - (cells[at + LOW] ?? 0);
    high = (high - (cells[at + HIGH] ?? 0) - (difference < 0 ? 1 : 0)) >>> 0;
    low = difference >>> 0;
  };
  const namesWith = (word: number, isWanted: (value: number) => boolean): string[] => {
    const found: string[] = [];
    for (let slot = 0; slot < index.used; slot += 1) {
      if (!isWanted(cells[slot * WORDS + word] ?? 0)) continue;
      const name = index.nameOf(slot);
      if (name !== undefined) found.push(name);
    }
    return found;
  };

  return {
    put(name, { host, hash }) {
      const { size } = index;
      const slot = index.add(name);
      const isNew = index.size > size;
      const at = slot * WORDS;
      if (at >= cells.length) cells = grown(cells, slot + 1);
      if (!isNew) subtract(at);
      cells[at + LIST] = list;
      cells[at + HOST] = host;
      setHash(at, hash);
      return isNew;
    },
    touch(name, hash) {
      const slot = index.find(name);
      if (slot === -1) return;
      const at = slot * WORDS;
      subtract(at);
      cells[at + LIST] = list;
      setHash(at, hash);
    },
    hashOf(name) {
      const at = index.find(name) * WORDS;
      return at < 0 ? [0, 0] : [cells[at + HIGH] ?? 0, cells[at + LOW] ?? 0];
    },
    delete(name) {
      const slot = index.delete(name);
      if (slot === -1) return false;
      subtract(slot * WORDS);
      return true;
    },
    has: (name) => index.find(name) !== -1,
    beginList() {
      list += 1;
    },
    unlisted: () => namesWith(LIST, (value) => value !== list),
    ofHost: (host) => namesWith(HOST, (value) => value === host),
    names: () => index.names(),
    clear() {
      index.clear();
      high = 0;
      low = 0;
    },
    get size() {
      return index.size;
    },
    get sum() {
      return { high, low };
    },
  };
}

function grown(cells: Uint32Array, slots: number): Uint32Array {
  const next = new Uint32Array(
    Math.max(FIRST_CAPACITY * WORDS, slots * WORDS, Math.ceil(cells.length * 1.5)),
  );
  next.set(cells);
  return next;
}
