/**
 * Identity numbers for sets of labels, by compare-and-swap in etcd: any number of allocators agree without a leader, the same
 * labels keep their number for as long as anybody uses it, and over restarts.
 *
 * `isthmus/registry/identities/<labels>` holds the number, and is written in one transaction with Cilium's own
 * `cilium/state/identities/v1/id/<number>`, which holds the labels. Neither hangs on a lease: a number must outlive its allocator.
 */
import type { KvCompare, KvOp, KvPair, KvStore } from '../../mesh/kvstore/kvstore.ts';
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
  /** Keeps `known` as another allocator makes it, until `signal` aborts: for one that does not allocate by itself now. */
  follow(signal: AbortSignal): Promise<void>;
  /**
   * Puts known numbers back where they are missing, as after etcd lost its data. Returns the label strings whose number
   * somebody else has now: they must be allocated again.
   */
  restore(signal: AbortSignal): Promise<readonly string[]>;
  /**
   * Deletes the numbers of labels that `inUse` does not hold, numbers without an allocation that were so at the call before,
   * and leftovers of another cluster id; returns how many. Nothing is deleted while `fence` does not hold.
   */
  collectGarbage(
    inUse: ReadonlySet<string>,
    options: { readonly fence?: KvCompare; readonly signal: AbortSignal },
  ): Promise<number>;
}

/** Where numbers are kept by their labels. */
export const ALLOCATIONS_PREFIX = `${REGISTRY_PREFIX}identities/`;

/** Calls of etcd at the same time, where there are many to make. */
const CONCURRENT_CALLS = 8;
/** Numbers taken in one transaction: two writes each, of which etcd takes 128. */
const CLAIMS_PER_TRANSACTION = 60;

/** Somebody who waits for a number. */
interface Claim {
  readonly text: string;
  readonly id: NumericIdentity;
  readonly resolve: (id: NumericIdentity | undefined) => void;
  readonly reject: (error: unknown) => void;
}

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
  /** Numbers that stand in etcd without an allocation, by labels: whoever has these labels gets them. */
  const orphans = new Map<string, NumericIdentity>();
  /** Those that the latest collection of garbage saw, with their revisions. */
  let orphansSeen = new Map<string, bigint>();
  /** Allocations under way: whoever asks for the same labels waits for the same answer. */
  const allocating = new Map<string, Promise<NumericIdentity>>();
  /** Numbers that are being claimed. */
  const reserved = new Set<number>();
  /** Claims that are to be made together. */
  let claims: Claim[] = [];
  let cursor = Math.floor(random() * size);

  /** The number in a value or key's end; undefined when it is none of ours. */
  const ownNumber = (text: string): NumericIdentity | undefined => {
    const number = /^[1-9]\d{0,7}$/.test(text) ? Number(text) : Number.NaN;
    return number >= first && number <= last ? parseNumericIdentity(number) : undefined;
  };
  const remember = (labels: string, id: NumericIdentity): NumericIdentity => {
    known.set(labels, id);
    used.add(id);
    orphans.delete(labels);
    return id;
  };
  const nextFree = (): NumericIdentity => {
    for (let step = 0; step < size && used.size + reserved.size < size; step += 1) {
      cursor = (cursor + 1) % size;
      const id = makeIdentity(clusterId, MINIMUM_ALLOCATED_IDENTITY + cursor, max);
      if (!used.has(id) && !reserved.has(id)) return id;
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
    const isFree = { key: identityKey(id), exists: false };
    const attempt = async (compare: readonly KvCompare[], number: NumericIdentity) =>
      (await store.transact({ compare, then: puts(text, number) }, { signal })).succeeded
        ? number
        : undefined;
    if (await attempt([{ key: ALLOCATIONS_PREFIX + text, exists: false }, isFree], id)) return id;
    const other = await store.get(ALLOCATIONS_PREFIX + text, { signal });
    if (other === undefined) {
      used.add(id);
      return undefined;
    }
    const { key, modRevision } = other;
    const stands = { key, modRevision };
    const theirs = ownNumber(textOf(other));
    if (theirs !== undefined) {
      const published = await store.get(identityKey(theirs), { signal });
      if (published === undefined) {
        return attempt([stands, { key: identityKey(theirs), exists: false }], theirs);
      }
      if (textOf(published) === text) return theirs;
    }
    // What stands there is of another cluster id, damaged, or somebody else's number: nobody can use it.
    return attempt([stands, isFree], id);
  };
  /** Takes a number that stands with these labels already, as one of an etcd that lost our own keys. */
  const claimOrphan = async (
    text: string,
    signal: AbortSignal,
  ): Promise<NumericIdentity | undefined> => {
    const id = orphans.get(text);
    if (id === undefined) return undefined;
    orphans.delete(text);
    const published = await store.get(identityKey(id), { signal });
    if (published === undefined || textOf(published) !== text) return undefined;
    const compare = [
      { key: ALLOCATIONS_PREFIX + text, exists: false },
      { key: published.key, modRevision: published.modRevision },
    ];
    // The number is written once more, so that a collection of garbage under way leaves it.
    const { succeeded } = await store.transact({ compare, then: puts(text, id) }, { signal });
    return succeeded ? id : undefined;
  };
  /** Makes many claims in one transaction; one by one those of a transaction that did not hold. */
  const claimAll = async (batch: readonly Claim[], signal: AbortSignal): Promise<void> => {
    try {
      const compare = batch.flatMap(({ text, id }) => [
        { key: ALLOCATIONS_PREFIX + text, exists: false },
        { key: identityKey(id), exists: false },
      ]);
      const then = batch.flatMap(({ text, id }) => puts(text, id));
      const { succeeded } = await store.transact({ compare, then }, { signal });
      for (const { text, id, resolve, reject } of batch) {
        if (succeeded) resolve(id);
        else await claim(text, id, signal).then(resolve, reject);
      }
    } catch (error) {
      for (const { reject } of batch) reject(error);
    }
  };
  const claimSoon = async (
    text: string,
    id: NumericIdentity,
    signal: AbortSignal,
  ): Promise<NumericIdentity | undefined> => {
    reserved.add(id);
    try {
      return await new Promise((resolve, reject) => {
        claims.push({ text, id, resolve, reject });
        if (claims.length > 1) return;
        setImmediate(() => {
          const made = claims;
          claims = [];
          for (let from = 0; from < made.length; from += CLAIMS_PER_TRANSACTION) {
            void claimAll(made.slice(from, from + CLAIMS_PER_TRANSACTION), signal);
          }
        });
      });
    } finally {
      reserved.delete(id);
    }
  };
  const allocateNew = async (text: string, signal: AbortSignal): Promise<NumericIdentity> => {
    const orphan = await claimOrphan(text, signal);
    if (orphan !== undefined) return remember(text, orphan);
    for (;;) {
      const id = await claimSoon(text, nextFree(), signal);
      if (id !== undefined) return remember(text, id);
    }
  };

  return {
    known,
    async load(signal) {
      const { ids, allocations } = await list(signal);
      known.clear();
      used.clear();
      orphans.clear();
      for (const [number, pair] of ids) {
        const id = ownNumber(number);
        if (id === undefined) continue;
        used.add(id);
        orphans.set(textOf(pair), id);
      }
      for (const [text, pair] of allocations) {
        const id = ownNumber(textOf(pair));
        // Two sets of labels with one number would be one set of peers' policies: only the published one has it.
        if (id === undefined) continue;
        if (textOf(ids.get(String(id))) === text) remember(text, id);
        else used.add(id);
      }
    },
    async follow(signal) {
      for await (const event of store.watch({ prefix: ALLOCATIONS_PREFIX }, { signal })) {
        if (event.kind === 'put') {
          const id = ownNumber(textOf(event.pair));
          if (id !== undefined) remember(event.pair.key.slice(ALLOCATIONS_PREFIX.length), id);
        }
        // What went with all of etcd is kept, to be put back.
        if (event.kind === 'delete' && !event.derived) {
          const text = event.key.slice(ALLOCATIONS_PREFIX.length);
          const id = known.get(text);
          known.delete(text);
          if (id !== undefined) used.delete(id);
        }
      }
    },
    async allocate(labels, signal) {
      const text = encodeLabels(labels);
      const existing = known.get(text);
      if (existing !== undefined) return existing;
      const running = allocating.get(text);
      if (running !== undefined) return running;
      const allocated = allocateNew(text, signal).finally(() => allocating.delete(text));
      allocating.set(text, allocated);
      return allocated;
    },
    async restore(signal) {
      const { ids, allocations } = await list(signal);
      const lost: string[] = [];
      for (const pair of allocations.values()) {
        const id = ownNumber(textOf(pair));
        if (id !== undefined) used.add(id);
      }
      const restoreOne = async ([text, id]: readonly [string, NumericIdentity]): Promise<void> => {
        const allocated = textOf(allocations.get(text));
        const published = textOf(ids.get(String(id)));
        if (allocated === String(id) && published === text) return;
        // It changed since the lists.
        if (known.get(text) !== id) return;
        const isFree = (allocated === '' || allocated === String(id)) && published === '';
        const compare = [
          { key: ALLOCATIONS_PREFIX + text, modRevision: allocations.get(text)?.modRevision ?? 0n },
          { key: identityKey(id), exists: false },
        ];
        if (
          isFree &&
          (await store.transact({ compare, then: puts(text, id) }, { signal })).succeeded
        )
          return;
        known.delete(text);
        lost.push(text);
      };
      await forEachOf([...known], restoreOne);
      return lost;
    },
    async collectGarbage(inUse, { fence, signal }) {
      const { ids, allocations } = await list(signal);
      const fences = fence === undefined ? [] : [fence];
      let collected = 0;
      const remove = async (pair: KvPair, also: readonly KvOp[] = []): Promise<boolean> => {
        const { key, modRevision } = pair;
        const { succeeded } = await store.transact(
          {
            compare: [...fences, { key, modRevision }],
            then: [{ kind: 'delete', key }, ...also],
          },
          { signal },
        );
        if (succeeded) collected += 1;
        return succeeded;
      };
      const allocated = new Set<string>();
      const unused: (readonly [string, KvPair])[] = [];
      for (const [text, pair] of allocations) {
        const id = ownNumber(textOf(pair));
        if (id !== undefined && textOf(ids.get(String(id))) === text) allocated.add(String(id));
        if (!inUse.has(text)) unused.push([text, pair]);
      }
      await forEachOf(unused, async ([text, pair]) => {
        const number = textOf(pair);
        const id = allocated.has(number) ? ownNumber(number) : undefined;
        // A damaged allocation takes nobody's number along.
        const isOwn = id !== undefined && textOf(ids.get(number)) === text;
        const also: KvOp[] = isOwn ? [{ kind: 'delete', key: identityKey(id) }] : [];
        if (!(await remove(pair, also))) return;
        known.delete(text);
        if (isOwn) used.delete(id);
      });
      const seen = new Map<string, bigint>();
      await forEachOf([...ids], async ([number, pair]) => {
        if (allocated.has(number)) return;
        const id = ownNumber(number);
        // Of another cluster id: readers would refuse them, and nobody else takes them away.
        if (id === undefined) return void (await remove(pair));
        // One of ours without an allocation may be about to get it.
        if (orphansSeen.get(number) !== pair.modRevision) {
          seen.set(number, pair.modRevision);
          return;
        }
        if (await remove(pair)) used.delete(id);
      });
      orphansSeen = seen;
      return collected;
    },
  };
}

/** Runs `work` for each item, some at a time. Rejects with the first failure, when all that began have ended. */
async function forEachOf<T>(items: readonly T[], work: (item: T) => Promise<void>): Promise<void> {
  const queue = [...items];
  queue.reverse();
  const worker = async (): Promise<void> => {
    while (queue.length > 0) {
      const item = queue.pop();
      if (item === undefined) return;
      try {
        await work(item);
      } catch (error) {
        queue.length = 0;
        throw error;
      }
    }
  };
  const results = await Promise.allSettled(
    Array.from({ length: Math.min(CONCURRENT_CALLS, items.length) }, worker),
  );
  const failed = results.find((result) => result.status === 'rejected');
  if (failed !== undefined) throw failed.reason;
}
