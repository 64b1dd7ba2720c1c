/**
 * Identity numbers for sets of labels, by compare-and-swap in etcd: any number of allocators agree without a leader, the same
 * labels keep their number for as long as anybody uses it, and over restarts.
 *
 * `isthmus/registry/identities/<labels>` holds the number, and is written in one transaction with Cilium's own
 * `cilium/state/identities/v1/id/<number>`, which holds the labels. Neither hangs on a lease: a number must outlive its allocator.
 *
 * Labels that only the own agents may know stand under `isthmus/local/identities/<number>` instead. When they become known to
 * peers they are written where those read as well; the place that is not theirs any more is cleared by `collectGarbage`.
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
import { identitiesPrefix, identityKey, localIdentityKey } from '../../mesh/wire/keys.ts';
import { forEachOf } from './for-each-of.ts';
import { collectIdentities } from './identity-garbage.ts';
import {
  ALLOCATIONS_PREFIX,
  type Choice,
  isFree,
  isOf,
  listIdentities,
  putIdentity,
  putLabels,
  textOf,
} from './identity-places.ts';

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
  /**
   * Number of a set of labels, allocated if there is none. With `isLocal` nothing is told to peers that they do not know
   * already. Throws IdentityError, KvError, and WireError for labels that have no wire form.
   */
  allocate(
    labels: Labels,
    options: { readonly isLocal: boolean; readonly signal: AbortSignal },
  ): Promise<NumericIdentity>;
  /** Whether peers can read the number of a label string. */
  isShown(text: string): boolean;
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
   * and leftovers of another cluster id; returns how many. Of those in use, what is `hidden` is taken from where peers read,
   * and of the others what stands beside. Nothing is deleted while `fence` does not hold.
   */
  collectGarbage(
    inUse: ReadonlySet<string>,
    options: {
      readonly fence?: KvCompare;
      readonly hidden?: ReadonlySet<string>;
      readonly signal: AbortSignal;
    },
  ): Promise<number>;
}

/** Numbers taken in one transaction: three conditions each, of which etcd takes 128. */
const CLAIMS_PER_TRANSACTION = 42;

/** Somebody who waits for a number. */
interface Claim extends Choice {
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
  /** Numbers whose labels peers can read. */
  const shown = new Set<NumericIdentity>();
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
  const noteShown = (id: NumericIdentity): NumericIdentity => {
    shown.add(id);
    return id;
  };

  /** Takes a number for labels; the number that they have now, or undefined when another one must be tried. */
  const claim = async (
    choice: Choice,
    signal: AbortSignal,
  ): Promise<NumericIdentity | undefined> => {
    const { text, id, isLocal } = choice;
    const attempt = async (compare: readonly KvCompare[], then: readonly KvOp[], number = id) => {
      const { succeeded } = await store.transact({ compare, then }, { signal });
      if (!succeeded) return undefined;
      return isLocal ? number : noteShown(number);
    };
    const key = ALLOCATIONS_PREFIX + text;
    const taken = await attempt([{ key, exists: false }, ...isFree(id)], putIdentity(choice));
    if (taken !== undefined) return taken;
    const other = await store.get(key, { signal });
    if (other === undefined) {
      used.add(id);
      return undefined;
    }
    const stands = { key, modRevision: other.modRevision };
    const theirs = ownNumber(textOf(other));
    if (theirs !== undefined) {
      const published = await store.get(identityKey(theirs), { signal });
      if (published !== undefined && textOf(published) === text) return noteShown(theirs);
      const local = await store.get(localIdentityKey(theirs), { signal });
      const isOurs = isOf(local, text);
      if (isOurs && isLocal) return theirs;
      if (published === undefined && (isOurs || local === undefined)) {
        const compare = isOurs
          ? [stands, { key: identityKey(theirs), exists: false }]
          : [stands, ...isFree(theirs)];
        return attempt(compare, [putLabels({ text, id: theirs, isLocal })], theirs);
      }
    }
    // What stands there is of another cluster id, damaged, or somebody else's number: nobody can use it.
    return attempt([stands, ...isFree(id)], putIdentity(choice));
  };
  /** Takes a number that stands with these labels already, as one of an etcd that lost our own keys. */
  const claimOrphan = async (
    text: string,
    options: { readonly isLocal: boolean; readonly signal: AbortSignal },
  ): Promise<NumericIdentity | undefined> => {
    const { isLocal, signal } = options;
    const id = orphans.get(text);
    if (id === undefined) return undefined;
    orphans.delete(text);
    const published = await store.get(identityKey(id), { signal });
    const isShown = published !== undefined;
    const found = published ?? (await store.get(localIdentityKey(id), { signal }));
    if (found === undefined || textOf(found) !== text) return undefined;
    const compare: KvCompare[] = [
      { key: ALLOCATIONS_PREFIX + text, exists: false },
      { key: found.key, modRevision: found.modRevision },
    ];
    if (!isShown) compare.push({ key: identityKey(id), exists: false });
    // The number is written once more, so that a collection of garbage under way leaves it.
    const then = putIdentity({ text, id, isLocal: isLocal && !isShown });
    const { succeeded } = await store.transact({ compare, then }, { signal });
    if (!succeeded) return undefined;
    return isShown || !isLocal ? noteShown(id) : id;
  };
  /** Makes many claims in one transaction; one by one those of a transaction that did not hold. */
  const claimAll = async (batch: readonly Claim[], signal: AbortSignal): Promise<void> => {
    try {
      const compare = batch.flatMap(({ text, id }) => [
        { key: ALLOCATIONS_PREFIX + text, exists: false },
        ...isFree(id),
      ]);
      const { succeeded } = await store.transact(
        { compare, then: batch.flatMap(putIdentity) },
        { signal },
      );
      for (const one of batch) {
        const { id, isLocal, resolve, reject } = one;
        if (succeeded) resolve(isLocal ? id : noteShown(id));
        else await claim(one, signal).then(resolve, reject);
      }
    } catch (error) {
      for (const { reject } of batch) reject(error);
    }
  };
  const claimSoon = async (
    choice: Choice,
    signal: AbortSignal,
  ): Promise<NumericIdentity | undefined> => {
    reserved.add(choice.id);
    try {
      return await new Promise((resolve, reject) => {
        claims.push({ ...choice, resolve, reject });
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
      reserved.delete(choice.id);
    }
  };
  const allocateNew = async (
    text: string,
    options: { readonly isLocal: boolean; readonly signal: AbortSignal },
  ): Promise<NumericIdentity> => {
    const { isLocal, signal } = options;
    const orphan = await claimOrphan(text, options);
    if (orphan !== undefined) return remember(text, orphan);
    for (;;) {
      const id = await claimSoon({ text, id: nextFree(), isLocal }, signal);
      if (id !== undefined) return remember(text, id);
    }
  };
  /** Writes labels that have a number where peers read, too. */
  const show = async (
    text: string,
    id: NumericIdentity,
    signal: AbortSignal,
  ): Promise<NumericIdentity> => {
    const allocation = await store.get(ALLOCATIONS_PREFIX + text, { signal });
    if (allocation !== undefined && textOf(allocation) === String(id)) {
      const compare = [
        { key: allocation.key, modRevision: allocation.modRevision },
        { key: identityKey(id), exists: false },
      ];
      const then = [putLabels({ text, id, isLocal: false })];
      const { succeeded } = await store.transact({ compare, then }, { signal });
      if (succeeded) return noteShown(id);
      const published = await store.get(identityKey(id), { signal });
      if (published !== undefined && textOf(published) === text) return noteShown(id);
    }
    // Meanwhile somebody took the number away.
    known.delete(text);
    return allocateNew(text, { isLocal: false, signal });
  };
  const allocate: IdentityAllocator['allocate'] = async (labels, options) => {
    const { isLocal, signal } = options;
    const text = encodeLabels(labels);
    const existing = known.get(text);
    if (existing !== undefined && (isLocal || shown.has(existing))) return existing;
    const running = allocating.get(text);
    // What runs may be for the own agents alone.
    if (running !== undefined) return running.then(() => allocate(labels, options));
    const made = existing === undefined ? allocateNew(text, options) : show(text, existing, signal);
    const allocated = made.finally(() => allocating.delete(text));
    allocating.set(text, allocated);
    return allocated;
  };
  /** Follows the keys under a prefix until `signal` aborts. What went with all of etcd is kept, to be put back. */
  const followKeys = async (
    prefix: string,
    on: { readonly put: (pair: KvPair) => void; readonly gone: (name: string) => void },
    signal: AbortSignal,
  ): Promise<void> => {
    for await (const event of store.watch({ prefix }, { signal })) {
      if (event.kind === 'put') on.put(event.pair);
      if (event.kind === 'delete' && !event.derived) on.gone(event.key.slice(prefix.length));
    }
  };

  return {
    known,
    isShown(text) {
      const id = known.get(text);
      return id !== undefined && shown.has(id);
    },
    async load(signal) {
      const { ids, locals, allocations } = await listIdentities(store, idsPrefix, signal);
      known.clear();
      used.clear();
      orphans.clear();
      shown.clear();
      for (const [number, pair] of [...locals, ...ids]) {
        const id = ownNumber(number);
        if (id === undefined) continue;
        used.add(id);
        orphans.set(textOf(pair), id);
      }
      for (const [text, pair] of allocations) {
        const id = ownNumber(textOf(pair));
        // Two sets of labels with one number would be one set of peers' policies: only the published one has it.
        if (id === undefined) continue;
        const isShown = textOf(ids.get(String(id))) === text;
        if (isShown) shown.add(id);
        if (isShown || textOf(locals.get(String(id))) === text) remember(text, id);
        else used.add(id);
      }
    },
    async follow(signal) {
      const allocations = followKeys(
        ALLOCATIONS_PREFIX,
        {
          put(pair) {
            const id = ownNumber(textOf(pair));
            if (id !== undefined) remember(pair.key.slice(ALLOCATIONS_PREFIX.length), id);
          },
          gone(text) {
            const id = known.get(text);
            known.delete(text);
            if (id !== undefined) used.delete(id);
          },
        },
        signal,
      );
      const places = followKeys(
        idsPrefix,
        {
          put(pair) {
            const id = ownNumber(pair.key.slice(idsPrefix.length));
            if (id !== undefined) shown.add(id);
          },
          gone(number) {
            const id = ownNumber(number);
            if (id !== undefined) shown.delete(id);
          },
        },
        signal,
      );
      await Promise.all([allocations, places]);
    },
    allocate,
    async restore(signal) {
      const { ids, locals, allocations } = await listIdentities(store, idsPrefix, signal);
      const lost: string[] = [];
      for (const pair of allocations.values()) {
        const id = ownNumber(textOf(pair));
        if (id !== undefined) used.add(id);
      }
      const restoreOne = async ([text, id]: readonly [string, NumericIdentity]): Promise<void> => {
        const number = String(id);
        const allocated = textOf(allocations.get(text));
        const published = textOf(ids.get(number));
        const local = textOf(locals.get(number));
        const isLocal = !shown.has(id);
        const stands = published === text || (isLocal && local === text);
        if (allocated === number && stands) return;
        // It changed since the lists.
        if (known.get(text) !== id) return;
        const isOurs =
          (allocated === '' || allocated === number) &&
          (published === '' || published === text) &&
          (local === '' || local === text);
        const asListed = (key: string, pair: KvPair | undefined): KvCompare => ({
          key,
          modRevision: pair?.modRevision ?? 0n,
        });
        const compare = [
          asListed(ALLOCATIONS_PREFIX + text, allocations.get(text)),
          asListed(identityKey(id), ids.get(number)),
          asListed(localIdentityKey(id), locals.get(number)),
        ];
        const then = putIdentity({ text, id, isLocal: isLocal && published === '' });
        if (isOurs && (await store.transact({ compare, then }, { signal })).succeeded) return;
        known.delete(text);
        lost.push(text);
      };
      await forEachOf([...known], restoreOne);
      return lost;
    },
    async collectGarbage(inUse, { fence, hidden, signal }) {
      const { collected, orphans: left } = await collectIdentities(store, {
        listed: await listIdentities(store, idsPrefix, signal),
        inUse,
        hidden: hidden ?? new Set(),
        fence,
        orphans: orphansSeen,
        ownNumber,
        forget(text, id) {
          if (text !== undefined) known.delete(text);
          if (id === undefined) return;
          used.delete(id);
          shown.delete(id);
        },
        hide: (id) => void shown.delete(id),
        signal,
      });
      orphansSeen = left;
      return collected;
    },
  };
}
