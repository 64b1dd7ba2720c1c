/**
 * What the local etcd shall hold below one prefix, and how far it does. No I/O: whoever writes takes queued entries, and says
 * what became of them.
 */
import type { KvPair } from '../../mesh/kvstore/kvstore.ts';

/**
 * `clean`: etcd holds it. `queued`: to be written. `writing`: on its way. `overtaken`: on its way, and another value, or the
 * same once more, has to follow.
 */
type EntryState = 'clean' | 'queued' | 'writing' | 'overtaken';

/** One key. */
export interface MirrorEntry {
  readonly table: MirrorTable;
  name: string;
  /** Behind the table's prefix. */
  readonly suffix: string;
  /** As it shall be; undefined to be deleted. */
  value: Buffer | undefined;
  state: EntryState;
  /** Told by the source since this process began; the others were found in etcd. */
  confirmed: boolean;
  /** Writes of it that the next marker waits for. */
  awaited: number;
}

/** The keys below one prefix. */
export interface MirrorTable {
  readonly prefix: string;
  readonly size: number;
  /** Writes that the next marker waits for. */
  readonly awaiting: number;
  /** Whether a value is wanted under a name. */
  has(name: string): boolean;
  /** Whether etcd holds what is wanted under a name. */
  holds(name: string): boolean;
  /** Wants a value under a name. Equal bytes are no work. */
  put(name: string, suffix: string, value: Buffer): void;
  /** Wants a name gone. */
  remove(name: string): void;
  /** Wants everything gone. */
  removeAll(): void;
  /**
   * Compares with what etcd holds; nothing may be on its way. What is equal and on our lease is not written again, and what
   * nobody has asked for is kept until `sweep`.
   */
  adopt(pairs: readonly KvPair[], leaseId: bigint): void;
  /** Deletes what the source has not named. For when it has told everything. */
  sweep(): number;
  /** Takes everything as not told by the source: it begins anew. */
  unconfirm(): void;
  /** Writes everything again: the lease was lost. */
  rewrite(): void;
  /** Takes everything as never wanted and not there: the lease was lost, and what follows is not to be written again yet. */
  forget(): void;
  /** Begins to count the writes that are outstanding now, see `awaiting`. */
  awaitPending(): void;
  /** Marks an entry as on its way; undefined when it needs none any more. */
  take(entry: MirrorEntry): MirrorEntry | undefined;
  /** An entry was written, and etcd still holds it. */
  written(entry: MirrorEntry, value: Buffer | undefined): void;
  /** An entry was not written, or may be gone again. */
  failed(entry: MirrorEntry): void;
  /** etcd will never take this value: it is left out. */
  refused(entry: MirrorEntry): void;
}

/** Makes an empty table. `enqueue` is called with each entry that has to be written. */
export function createMirrorTable(options: {
  readonly prefix: string;
  readonly enqueue: (entry: MirrorEntry) => void;
  /** Name of a key that was found in etcd; undefined when the source could never have named it. Default: the suffix. */
  readonly nameOf?: (suffix: string) => string | undefined;
}): MirrorTable {
  const { prefix, enqueue, nameOf = (suffix: string) => suffix } = options;
  const entries = new Map<string, MirrorEntry>();
  let awaiting = 0;

  const add = (name: string, suffix: string): MirrorEntry => {
    const entry: MirrorEntry = {
      table,
      name,
      suffix,
      value: undefined,
      state: 'clean',
      confirmed: false,
      awaited: 0,
    };
    entries.set(name, entry);
    return entry;
  };
  const rename = (entry: MirrorEntry, name: string): void => {
    if (entries.get(entry.name) === entry) entries.delete(entry.name);
    entry.name = name;
    entries.set(name, entry);
  };
  const queue = (entry: MirrorEntry): void => {
    if (entry.state === 'writing') entry.state = 'overtaken';
    if (entry.state !== 'clean') return;
    entry.state = 'queued';
    enqueue(entry);
  };
  const settle = (entry: MirrorEntry, completions: number): void => {
    const done = Math.min(entry.awaited, completions);
    entry.awaited -= done;
    if (done > 0 && entry.awaited === 0) awaiting -= 1;
  };
  /** A key that has no name, or whose name is another key's, and so can only be deleted. A key has one entry at a time. */
  const strayName = (suffix: string): string => `\0${suffix}`;
  const want = (entry: MirrorEntry, value: Buffer | undefined): void => {
    entry.value = value;
    queue(entry);
  };
  const removeEntry = (entry: MirrorEntry): void => {
    if (entry.value !== undefined) want(entry, undefined);
  };

  const table: MirrorTable = {
    prefix,
    get size() {
      return entries.size;
    },
    get awaiting() {
      return awaiting;
    },
    has: (name) => entries.get(name)?.value !== undefined,
    holds(name) {
      const entry = entries.get(name);
      return entry?.value !== undefined && entry.state === 'clean';
    },
    put(name, suffix, value) {
      let entry = entries.get(name);
      if (entry?.suffix !== suffix) {
        // The same address, written in another way: one key goes, another comes.
        if (entry !== undefined) {
          rename(entry, strayName(entry.suffix));
          removeEntry(entry);
        }
        const stray = entries.get(strayName(suffix));
        if (stray !== undefined) rename(stray, name);
        entry = stray ?? add(name, suffix);
      }
      entry.confirmed = true;
      if (entry.value?.equals(value) !== true) want(entry, value);
    },
    remove(name) {
      const entry = entries.get(name);
      if (entry !== undefined) removeEntry(entry);
    },
    removeAll() {
      for (const entry of entries.values()) removeEntry(entry);
    },
    adopt(pairs, leaseId) {
      const found = new Set<MirrorEntry>();
      for (const pair of pairs) {
        const suffix = pair.key.slice(prefix.length);
        let name = nameOf(suffix) ?? strayName(suffix);
        const other = entries.get(name);
        if (other !== undefined && other.suffix !== suffix) name = strayName(suffix);
        const known = entries.get(name);
        const entry = known ?? add(name, suffix);
        found.add(entry);
        if (known === undefined) entry.value = pair.value;
        if (pair.lease === leaseId && entry.value?.equals(pair.value) === true) {
          entry.state = 'clean';
          settle(entry, entry.awaited);
        } else {
          // On another lease it would vanish with that one.
          queue(entry);
        }
      }
      for (const entry of entries.values()) {
        if (found.has(entry)) continue;
        if (entry.value !== undefined) queue(entry);
        else {
          entries.delete(entry.name);
          entry.state = 'clean';
          settle(entry, entry.awaited);
        }
      }
    },
    sweep() {
      let swept = 0;
      for (const entry of entries.values()) {
        if (entry.confirmed || entry.value === undefined) continue;
        removeEntry(entry);
        swept += 1;
      }
      return swept;
    },
    unconfirm() {
      for (const entry of entries.values()) entry.confirmed = false;
    },
    rewrite() {
      for (const entry of entries.values()) queue(entry);
    },
    forget() {
      for (const entry of entries.values()) {
        entry.value = undefined;
        if (entry.state === 'writing' || entry.state === 'overtaken') entry.state = 'overtaken';
        else {
          entry.state = 'clean';
          settle(entry, entry.awaited);
          entries.delete(entry.name);
        }
      }
    },
    awaitPending() {
      for (const entry of entries.values()) {
        if (entry.state === 'clean') continue;
        if (entry.awaited === 0) awaiting += 1;
        // What is on its way already carries what was wanted then; a value behind it must arrive, too.
        entry.awaited = entry.state === 'overtaken' ? 2 : 1;
      }
    },
    take(entry) {
      if (entry.state !== 'queued') return undefined;
      entry.state = 'writing';
      return entry;
    },
    written(entry, value) {
      settle(entry, 1);
      if (entry.state === 'overtaken') {
        entry.state = 'clean';
        queue(entry);
        return;
      }
      entry.state = 'clean';
      if (value === undefined && entries.get(entry.name) === entry) entries.delete(entry.name);
    },
    failed(entry) {
      entry.state = 'queued';
      entry.awaited = Math.min(entry.awaited, 1);
    },
    refused(entry) {
      settle(entry, 1);
      const again = entry.state === 'overtaken';
      entry.state = 'clean';
      if (again) queue(entry);
    },
  };
  return table;
}
