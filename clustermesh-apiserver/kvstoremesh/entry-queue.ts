import type { MirrorEntry } from './mirror-table.ts';

/** Entries in the order in which their changes came. An entry may stand in it twice; the table knows which of them count. */
export interface EntryQueue {
  readonly length: number;
  push(entry: MirrorEntry): void;
  /** Puts entries back to where they came from. */
  unshift(entries: readonly MirrorEntry[]): void;
  /** The next one, which stays. */
  peek(): MirrorEntry | undefined;
  shift(): MirrorEntry | undefined;
}

/** Taken entries before the array is cut. */
const CUT_AT = 4096;

/** Makes an empty queue. */
export function createEntryQueue(): EntryQueue {
  let entries: MirrorEntry[] = [];
  let head = 0;
  return {
    get length() {
      return entries.length - head;
    },
    push: (entry) => {
      entries.push(entry);
    },
    unshift(returned) {
      entries = [...returned, ...entries.slice(head)];
      head = 0;
    },
    peek: () => entries[head],
    shift() {
      const entry = entries[head];
      if (entry === undefined) return undefined;
      head += 1;
      if (head === entries.length) {
        entries = [];
        head = 0;
      } else if (head >= CUT_AT && head * 2 > entries.length) {
        entries = entries.slice(head);
        head = 0;
      }
      return entry;
    },
  };
}
