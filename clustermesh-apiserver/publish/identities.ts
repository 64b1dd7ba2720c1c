/**
 * Identity numbers for sets of labels, by compare-and-swap in etcd: any number of allocators agree without a leader, the same
 * labels keep their number for as long as anybody uses it, and over restarts.
 *
 * `isthmus/registry/identities/<labels>` holds the number, and is written in one transaction with Cilium's own
 * `cilium/state/identities/v1/id/<number>`, which holds the labels. Neither hangs on a lease: a number must outlive its allocator.
 */
import type { KvOp, KvPair, KvStore } from '../../mesh/kvstore/kvstore.ts';
import { encodeLabels, type Labels } from '../../mesh/wire/identity.ts';
import {
  type ClusterId,
  type ClusterName,
  clusterLocalIdentityBits,
  identityRange,
  type MaxConnectedClusters,
  MINIMUM_ALLOCATED_IDENTITY,
  makeIdentity,
  type NumericIdentity,
  parseNumericIdentity,
} from '../../mesh/wire/ids.ts';
import { identitiesPrefix, identityKey, REGISTRY_PREFIX } from '../../mesh/wire/keys.ts';

/** Why no number could be had: the cluster's range is used up. It may be again when pods have gone. */
export class IdentityError extends Error {
  readonly code: 'exhausted';
  readonly retryable = true;

  constructor(message: string) {
    super(message);
    this.name = 'IdentityError';
    this.code = 'exhausted';
  }
}

/** Options of `createIdentityAllocator`. */
export interface IdentityAllocatorOptions {
  readonly store: KvStore;
  readonly cluster: ClusterName;
  readonly clusterId: ClusterId;
  readonly maxConnectedClusters: MaxConnectedClusters;
  /** Source of the first number tried, in [0, 1). Default Math.random: allocators that start together then rarely meet. */
  readonly random?: () => number;
}

/** Hands out identity numbers of one cluster. */
export interface IdentityAllocator {
  /** Number of a set of labels, allocated if there is none. Throws IdentityError, KvError, and WireError for labels that have no wire form. */
  allocate(labels: Labels, signal: AbortSignal): Promise<NumericIdentity>;
  /** Numbers by label string: after `load`, and kept by `allocate`. */
  readonly known: ReadonlyMap<string, NumericIdentity>;
  /** Reads what is allocated; needed once before the first `allocate`. */
  load(signal: AbortSignal): Promise<void>;
  /**
   * Puts known numbers back where they are missing, as after etcd lost its data. Returns the label strings whose number
   * somebody else has now: they must be allocated again.
   */
  restore(signal: AbortSignal): Promise<readonly string[]>;
  /** Deletes the numbers of labels that `inUse` does not hold, and leftovers of another cluster id; returns how many. */
  collectGarbage(inUse: ReadonlySet<string>, signal: AbortSignal): Promise<number>;
}

/** Where numbers are kept by their labels. */
export const ALLOCATIONS_PREFIX = `${REGISTRY_PREFIX}identities/`;

/** Makes an allocator for one cluster. */
export function createIdentityAllocator(options: IdentityAllocatorOptions): IdentityAllocator {
  const { store, clusterId, maxConnectedClusters: max, random = Math.random } = options;
  const idsPrefix = identitiesPrefix(options.cluster);
  const size = 2 ** clusterLocalIdentityBits(max) - MINIMUM_ALLOCATED_IDENTITY;
  const first = makeIdentity(clusterId, MINIMUM_ALLOCATED_IDENTITY, max);
  const { last } = identityRange(clusterId, max);
  const known = new Map<string, NumericIdentity>();
  /** Numbers of the pool that are taken, by us or others. */
  const used = new Set<number>();
  let cursor = Math.floor(random() * size);

  /** The number in a value or key's end; undefined when it is none of ours. */
  const ownNumber = (text: string): NumericIdentity | undefined => {
    const number = /^\d{1,8}$/.test(text) ? Number(text) : Number.NaN;
    return number >= first && number <= last ? parseNumericIdentity(number) : undefined;
  };
  const remember = (labels: string, id: NumericIdentity): NumericIdentity => {
    known.set(labels, id);
    used.add(id);
    return id;
  };
  const nextFree = (): NumericIdentity => {
    for (let step = 0; step < size && used.size < size; step += 1) {
      cursor = (cursor + 1) % size;
      const id = makeIdentity(clusterId, MINIMUM_ALLOCATED_IDENTITY + cursor, max);
      if (!used.has(id)) return id;
    }
    throw new IdentityError(
      `cannot allocate an identity: all ${size} numbers from ${first} to ${last} are in use; give fewer pods labels of their own, or remove unused pods`,
    );
  };
  const puts = (text: string, id: NumericIdentity): readonly KvOp[] => [
    { kind: 'put', key: ALLOCATIONS_PREFIX + text, value: String(id) },
    { kind: 'put', key: identityKey(id), value: text },
  ];
  const list = async (
    signal: AbortSignal,
  ): Promise<{ ids: Map<string, KvPair>; allocations: Map<string, KvPair> }> => {
    const ids = await store.list(idsPrefix, { signal });
    const allocations = await store.list(ALLOCATIONS_PREFIX, { signal });
    return {
      ids: new Map(ids.pairs.map((pair) => [pair.key.slice(idsPrefix.length), pair])),
      allocations: new Map(
        allocations.pairs.map((pair) => [pair.key.slice(ALLOCATIONS_PREFIX.length), pair]),
      ),
    };
  };
  const textOf = (pair: KvPair | undefined): string => pair?.value.toString('utf8') ?? '';

  /** Takes `id` for labels; the number that they have now, or undefined when another one must be tried. */
  const claim = async (
    text: string,
    id: NumericIdentity,
    signal: AbortSignal,
  ): Promise<NumericIdentity | undefined> => {
    const then = puts(text, id);
    const isFree = { key: identityKey(id), exists: false };
    const fresh = { compare: [{ key: ALLOCATIONS_PREFIX + text, exists: false }, isFree], then };
    if ((await store.transact(fresh, { signal })).succeeded) return id;
    const other = await store.get(ALLOCATIONS_PREFIX + text, { signal });
    if (other === undefined) {
      used.add(id);
      return undefined;
    }
    const theirs = ownNumber(textOf(other));
    if (theirs !== undefined) return theirs;
    // What stands there is of another cluster id, or damaged: nobody can use it.
    const { key, modRevision } = other;
    const replace = { compare: [{ key, modRevision }, isFree], then };
    return (await store.transact(replace, { signal })).succeeded ? id : undefined;
  };

  return {
    known,
    async load(signal) {
      const { ids, allocations } = await list(signal);
      known.clear();
      used.clear();
      for (const number of ids.keys()) {
        const id = ownNumber(number);
        if (id !== undefined) used.add(id);
      }
      for (const [text, pair] of allocations) {
        const id = ownNumber(textOf(pair));
        if (id !== undefined) remember(text, id);
      }
    },
    async allocate(labels, signal) {
      const text = encodeLabels(labels);
      const existing = known.get(text);
      if (existing !== undefined) return existing;
      for (;;) {
        const id = await claim(text, nextFree(), signal);
        if (id !== undefined) return remember(text, id);
      }
    },
    async restore(signal) {
      const { ids, allocations } = await list(signal);
      const lost: string[] = [];
      for (const [text, id] of [...known]) {
        const allocated = textOf(allocations.get(text));
        const published = textOf(ids.get(String(id)));
        if (allocated === String(id) && published === text) continue;
        const isFree = (allocated === '' || allocated === String(id)) && published === '';
        const compare = [
          { key: ALLOCATIONS_PREFIX + text, modRevision: allocations.get(text)?.modRevision ?? 0n },
          { key: identityKey(id), exists: false },
        ];
        if (
          isFree &&
          (await store.transact({ compare, then: puts(text, id) }, { signal })).succeeded
        )
          continue;
        known.delete(text);
        lost.push(text);
      }
      return lost;
    },
    async collectGarbage(inUse, signal) {
      const { ids, allocations } = await list(signal);
      let collected = 0;
      for (const [text, pair] of allocations) {
        if (inUse.has(text)) continue;
        const id = ownNumber(textOf(pair));
        const { key, modRevision } = pair;
        const then: KvOp[] = [{ kind: 'delete', key }];
        if (id !== undefined) then.push({ kind: 'delete', key: identityKey(id) });
        const compare = [{ key, modRevision }];
        if (!(await store.transact({ compare, then }, { signal })).succeeded) continue;
        known.delete(text);
        if (id !== undefined) used.delete(id);
        collected += 1;
      }
      for (const [number, { key, modRevision }] of ids) {
        // Of another cluster id: readers would refuse them, and nobody else takes them away.
        if (ownNumber(number) !== undefined) continue;
        const then: KvOp[] = [{ kind: 'delete', key }];
        await store.transact({ compare: [{ key, modRevision }], then }, { signal });
        collected += 1;
      }
      return collected;
    },
  };
}
