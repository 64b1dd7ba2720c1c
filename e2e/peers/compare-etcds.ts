/** What two publishers of the same cluster have written, compared key by key and byte by byte. */
import type { KvStore } from '../../mesh/kvstore/kvstore.ts';

/** A way in which two publishers may differ, and why. */
export interface KnownDifference {
  /** For people: what differs, and why that is right. */
  readonly reason: string;
  /** Keys that it is about. */
  readonly keys: RegExp;
  /** What is left to compare of a value; undefined: the key itself is left out, on either side. */
  readonly rest: ((value: string) => string) | undefined;
}

/** A key whose values are not the same. A side that has no such key is undefined. */
export interface EtcdDifference {
  readonly key: string;
  readonly ours: string | undefined;
  readonly theirs: string | undefined;
}

/** Both sides, compared. */
export interface Comparison {
  readonly differences: readonly EtcdDifference[];
  /** Keys that were compared, of both sides together. */
  readonly compared: ReadonlyMap<string, string>;
}

/** Compares all that stands below `cilium/`. */
export async function compareEtcds(
  ours: KvStore,
  theirs: KvStore,
  known: readonly KnownDifference[],
): Promise<Comparison> {
  const [left, right] = await Promise.all([readAll(ours, known), readAll(theirs, known)]);
  const compared = new Map([...right, ...left]);
  const differences = [...compared.keys()]
    .sort()
    .map((key) => ({ key, ours: left.get(key), theirs: right.get(key) }))
    .filter((pair) => pair.ours !== pair.theirs);
  return { differences, compared };
}

async function readAll(
  store: KvStore,
  known: readonly KnownDifference[],
): Promise<Map<string, string>> {
  const { pairs } = await store.list('cilium/');
  const found = new Map<string, string>();
  for (const { key, value } of pairs) {
    const about = known.filter(({ keys }) => keys.test(key));
    if (about.some(({ rest }) => rest === undefined)) continue;
    const text = about.reduce((left, { rest }) => rest?.(left) ?? left, value.toString('utf8'));
    found.set(key, text);
  }
  return found;
}
