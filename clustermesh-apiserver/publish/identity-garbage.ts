/** Takes numbers away that nobody uses, and labels from places that are not theirs any more. */
import type { KvCompare, KvOp, KvPair, KvStore } from '../../mesh/kvstore/kvstore.ts';
import type { NumericIdentity } from '../../mesh/wire/ids.ts';
import { forEachOf } from './for-each-of.ts';
import { isOf, type Listed, putLabels, textOf } from './identity-places.ts';

/** What `collectIdentities` needs. */
export interface GarbageOptions {
  readonly listed: Listed;
  /** Label strings whose numbers stay. */
  readonly inUse: ReadonlySet<string>;
  /** Those of them that peers may not know. */
  readonly hidden: ReadonlySet<string>;
  /** Condition of every write. */
  readonly fence: KvCompare | undefined;
  /** Numbers without an allocation that were seen the time before: revisions by key. */
  readonly orphans: ReadonlyMap<string, bigint>;
  /** The number in a text; undefined when it is none of the cluster's. */
  readonly ownNumber: (text: string) => NumericIdentity | undefined;
  /** Told of each allocation, and of each number, that went. */
  readonly forget: (text: string | undefined, id: NumericIdentity | undefined) => void;
  /** Told of each number whose labels peers cannot read any more. */
  readonly hide: (id: NumericIdentity) => void;
  readonly signal: AbortSignal;
}

/** Deletes it; resolves to how many keys that were, and what may be garbage the next time. Rejects with KvError. */
export async function collectIdentities(
  store: KvStore,
  options: GarbageOptions,
): Promise<{ readonly collected: number; readonly orphans: Map<string, bigint> }> {
  const { listed, inUse, hidden, fence, ownNumber, signal } = options;
  const { ids, locals, allocations } = listed;
  const fences = fence === undefined ? [] : [fence];
  let collected = 0;
  const remove = async (
    pair: KvPair,
    extra: { readonly onlyIf?: readonly KvCompare[]; readonly also?: readonly KvOp[] } = {},
  ): Promise<boolean> => {
    const { key, modRevision } = pair;
    const { onlyIf = [], also = [] } = extra;
    const { succeeded } = await store.transact(
      {
        compare: [...fences, { key, modRevision }, ...onlyIf],
        then: [{ kind: 'delete', key }, ...also],
      },
      { signal },
    );
    if (succeeded) collected += 1;
    return succeeded;
  };
  const allocated = new Set<string>();
  const unused: (readonly [string, KvPair])[] = [];
  const placed: (readonly [string, NumericIdentity])[] = [];
  for (const [text, pair] of allocations) {
    const number = textOf(pair);
    const id = ownNumber(number);
    if (id !== undefined && (isOf(ids.get(number), text) || isOf(locals.get(number), text))) {
      allocated.add(number);
      placed.push([text, id]);
    }
    if (!inUse.has(text)) unused.push([text, pair]);
  }
  await forEachOf(unused, async ([text, pair]) => {
    const number = textOf(pair);
    const id = allocated.has(number) ? ownNumber(number) : undefined;
    const also: KvOp[] = [];
    // A damaged allocation takes nobody's number along.
    for (const place of [ids, locals]) {
      const labels = place.get(number);
      if (id !== undefined && isOf(labels, text)) also.push({ kind: 'delete', key: labels.key });
    }
    if (!(await remove(pair, { also }))) return;
    options.forget(text, also.length === 0 ? undefined : id);
  });
  await forEachOf(placed, async ([text, id]) => {
    if (!inUse.has(text)) return;
    const published = ids.get(String(id));
    const local = locals.get(String(id));
    if (!isOf(published, text)) return;
    if (!hidden.has(text)) {
      // What peers can read need not stand twice.
      const { key, modRevision } = published;
      if (isOf(local, text)) await remove(local, { onlyIf: [{ key, modRevision }] });
      return;
    }
    const also = [putLabels({ text, id, isLocal: true })];
    if (await remove(published, { also })) options.hide(id);
  });
  const seen = new Map<string, bigint>();
  await forEachOf([...ids, ...locals], async ([number, pair]) => {
    if (allocated.has(number)) return;
    const id = ownNumber(number);
    // Of another cluster id: readers would refuse them, and nobody else takes them away.
    if (id === undefined) return void (await remove(pair));
    // One of ours without an allocation may be about to get it.
    if (options.orphans.get(pair.key) !== pair.modRevision) {
      seen.set(pair.key, pair.modRevision);
      return;
    }
    if (await remove(pair)) options.forget(undefined, id);
  });
  return { collected, orphans: seen };
}
