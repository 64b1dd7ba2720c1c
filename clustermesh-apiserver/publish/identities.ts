/**
 * Identity numbers for sets of labels, by compare-and-swap in etcd: any number of allocators agree without a leader, the same
 * labels keep their number for as long as anybody uses it, and over restarts.
 *
 * `isthmus/registry/identities/<labels>` holds the number, and is written in one transaction with Cilium's own
 * `cilium/state/identities/v1/id/<number>`, which holds the labels. Neither hangs on a lease: a number must outlive its allocator.
 */
import type { KvStore } from '../../mesh/kvstore/kvstore.ts';
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
import { identitiesPrefix, identityKey, parseKey, REGISTRY_PREFIX } from '../../mesh/wire/keys.ts';

/** Why no number could be had. */
export class IdentityError extends Error {
  readonly code: 'exhausted';
  readonly retryable = true;

  constructor(message: string) {
    super(message);
    this.name = 'IdentityError';
    this.code = 'exhausted';
  }
}

export interface IdentityAllocatorOptions {
  readonly store: KvStore;
  readonly cluster: ClusterName;
  readonly clusterId: ClusterId;
  readonly maxConnectedClusters: MaxConnectedClusters;
  /** Source of the first number tried, in [0, 1). Default Math.random: allocators that start together then rarely meet. */
  readonly random?: () => number;
}

export interface IdentityAllocator {
  /** Number of a set of labels, allocated if there is none. Throws IdentityError when the cluster's range is used up. */
  allocate(labels: Labels, signal: AbortSignal): Promise<NumericIdentity>;
  /** Numbers in etcd, by label string: after `load`, and kept by `allocate`. */
  readonly known: ReadonlyMap<string, NumericIdentity>;
  /** Reads what is allocated; needed once before the first `allocate`. */
  load(signal: AbortSignal): Promise<void>;
  /** Puts every known number back where it is missing, after etcd lost its data: nobody's number changes for that. */
  restore(signal: AbortSignal): Promise<void>;
  /** Deletes the numbers of labels that `inUse` does not hold; gives how many. */
  collectGarbage(inUse: ReadonlySet<string>, signal: AbortSignal): Promise<number>;
}

const ALLOCATIONS_PREFIX = `${REGISTRY_PREFIX}identities/`;

/** Makes an allocator for one cluster. */
export function createIdentityAllocator(options: IdentityAllocatorOptions): IdentityAllocator {
  const { store, clusterId, maxConnectedClusters: max, random = Math.random } = options;
  const range = identityRange(clusterId, max);
  const size = 2 ** clusterLocalIdentityBits(max) - MINIMUM_ALLOCATED_IDENTITY;
  const known = new Map<string, NumericIdentity>();
  const used = new Set<number>();
  let cursor = Math.floor(random() * size);

  const remember = (labels: string, id: NumericIdentity): NumericIdentity => {
    known.set(labels, id);
    used.add(id);
    return id;
  };

  const nextFree = (): NumericIdentity => {
    for (let step = 0; step < size; step += 1) {
      cursor = (cursor + 1) % size;
      const id = makeIdentity(clusterId, MINIMUM_ALLOCATED_IDENTITY + cursor, max);
      if (!used.has(id)) return id;
    }
    throw new IdentityError(
      `cannot allocate an identity: all ${size} numbers from ${range.first + MINIMUM_ALLOCATED_IDENTITY} to ${range.last} are in use; let fewer labels count for identities, or remove unused pods`,
    );
  };

  const load = async (signal: AbortSignal): Promise<void> => {
    known.clear();
    used.clear();
    const published = await store.list(identitiesPrefix(options.cluster), { signal });
    for (const { key } of published.pairs) {
      const parsed = parseKey(key);
      if (parsed.kind === 'identity') used.add(parsed.id);
    }
    const allocations = await store.list(ALLOCATIONS_PREFIX, { signal });
    for (const { key, value } of allocations.pairs) {
      const id = parseNumericIdentity(Number(value.toString('utf8')));
      if (id >= range.first && id <= range.last) remember(key.slice(ALLOCATIONS_PREFIX.length), id);
    }
  };

  return {
    known,
    load,
    async allocate(labels, signal) {
      const text = encodeLabels(labels);
      const existing = known.get(text);
      if (existing !== undefined) return existing;
      for (;;) {
        const id = nextFree();
        const { succeeded } = await store.transact(
          {
            compare: [
              { key: ALLOCATIONS_PREFIX + text, exists: false },
              { key: identityKey(id), exists: false },
            ],
            then: [
              { kind: 'put', key: ALLOCATIONS_PREFIX + text, value: String(id) },
              { kind: 'put', key: identityKey(id), value: text },
            ],
          },
          { signal },
        );
        if (succeeded) return remember(text, id);
        // Either the labels have a number from another allocator, or the number is taken: the next try tells.
        const other = await store.get(ALLOCATIONS_PREFIX + text, { signal });
        if (other !== undefined)
          return remember(text, parseNumericIdentity(Number(other.value.toString('utf8'))));
        used.add(id);
      }
    },
    async restore(signal) {
      for (const [text, id] of known) {
        await store.transact(
          {
            compare: [
              { key: ALLOCATIONS_PREFIX + text, exists: false },
              { key: identityKey(id), exists: false },
            ],
            then: [
              { kind: 'put', key: ALLOCATIONS_PREFIX + text, value: String(id) },
              { kind: 'put', key: identityKey(id), value: text },
            ],
          },
          { signal },
        );
      }
    },
    async collectGarbage(inUse, signal) {
      let collected = 0;
      for (const [text, id] of [...known]) {
        if (inUse.has(text)) continue;
        const allocation = await store.get(ALLOCATIONS_PREFIX + text, { signal });
        if (allocation !== undefined) {
          const { succeeded } = await store.transact(
            {
              compare: [{ key: ALLOCATIONS_PREFIX + text, modRevision: allocation.modRevision }],
              then: [
                { kind: 'delete', key: ALLOCATIONS_PREFIX + text },
                { kind: 'delete', key: identityKey(id) },
              ],
            },
            { signal },
          );
          if (!succeeded) continue;
        }
        known.delete(text);
        used.delete(id);
        collected += 1;
      }
      return collected;
    },
  };
}
