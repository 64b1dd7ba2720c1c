/** Addresses that wait for a node: their cluster says that they are on one that it has not published. */
import type { KvPair } from '../kvstore/kvstore.ts';
import type { IpAddress } from '../wire/ip.ts';

/** One that waits. */
export interface WaitingEntry {
  /** Address of the node that it waits for. */
  readonly node: IpAddress;
  readonly key: string;
  /** What is to be used when the node comes; undefined: it was not kept and must be read again. */
  readonly pair: KvPair | undefined;
}

/** Those of one cluster, by name. */
export interface Waiting {
  /** Bytes are copied. Beyond a bound only the key is kept. */
  set(name: string, entry: WaitingEntry): void;
  delete(name: string): void;
  get(name: string): WaitingEntry | undefined;
  /** Takes out what waits for a node. */
  take(node: IpAddress): readonly { readonly name: string; readonly entry: WaitingEntry }[];
  clear(): void;
  readonly size: number;
}

/** Values that are kept for each cluster: what comes before its node comes in ones and twos. */
const MOST_VALUES = 4096;

/** Makes an empty record. */
export function createWaiting(): Waiting {
  const entries = new Map<string, WaitingEntry>();
  const byNode = new Map<IpAddress, Set<string>>();
  let values = 0;

  const remove = (name: string): void => {
    const entry = entries.get(name);
    if (entry === undefined) return;
    entries.delete(name);
    if (entry.pair !== undefined) values -= 1;
    const names = byNode.get(entry.node);
    names?.delete(name);
    if (names?.size === 0) byNode.delete(entry.node);
  };

  return {
    set(name, { node, key, pair }) {
      remove(name);
      const keeps = pair !== undefined && values < MOST_VALUES;
      if (keeps) values += 1;
      // The value is a piece of a whole answer, which must not be kept for it.
      const kept = keeps ? { ...pair, value: Buffer.from(pair.value) } : undefined;
      entries.set(name, { node, key, pair: kept });
      const names = byNode.get(node) ?? new Set<string>();
      byNode.set(node, names.add(name));
    },
    delete: remove,
    get: (name) => entries.get(name),
    take(node) {
      const names = [...(byNode.get(node) ?? [])];
      return names.flatMap((name) => {
        const entry = entries.get(name);
        remove(name);
        return entry === undefined ? [] : [{ name, entry }];
      });
    },
    clear() {
      entries.clear();
      byNode.clear();
      values = 0;
    },
    get size() {
      return entries.size;
    },
  };
}
