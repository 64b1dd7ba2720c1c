/**
 * Many entries of a map in one call, or one by one where the kernel has no such call for a map of that type (prefix tries
 * before Linux 5.13): slower, with the same outcome.
 */
import { constants } from 'node:os';
import { errnoName, library } from './libbpf.ts';

/** A map as far as its bytes are concerned. `oneByOne`: as on a kernel without batches, for tests. */
export interface BatchMap {
  readonly fd: number;
  readonly keySize: number;
  readonly valueSize: number;
  readonly oneByOne?: boolean;
}

/** How far a batch came: `done` entries, then `errno` if it stopped early. */
export interface BatchResult {
  readonly done: number;
  readonly errno: string | undefined;
}

const BPF_NOEXIST = 1n;

/**
 * Writes `count` entries in order; stops at the first that fails, with `isNew` at one that is there (EEXIST). The kernel
 * takes no such condition for a batch, so that these go one by one.
 */
export function updateBatch(
  map: BatchMap,
  entries: { readonly keys: Uint8Array; readonly values: Uint8Array },
  { count, isNew = false }: { readonly count: number; readonly isNew?: boolean },
): BatchResult {
  const bpf = library();
  const { keys, values } = entries;
  if (map.oneByOne !== true && !isNew) {
    const counter = new Uint32Array([count]);
    const result: number = bpf.updateBatch(map.fd, keys, values, counter, null);
    if (!isUnsupported(result)) return batchResult(result, counter, count);
  }
  return eachEntry(count, (index) =>
    bpf.update(
      map.fd,
      keys.subarray(index * map.keySize),
      values.subarray(index * map.valueSize),
      isNew ? BPF_NOEXIST : 0n,
    ),
  );
}

/** Deletes `count` entries in order; stops at the first that fails, a missing one (ENOENT) included. */
export function deleteBatch(
  map: Omit<BatchMap, 'valueSize'>,
  keys: Uint8Array,
  count: number,
): BatchResult {
  const bpf = library();
  if (map.oneByOne !== true) {
    const counter = new Uint32Array([count]);
    const result: number = bpf.deleteBatch(map.fd, keys, counter, null);
    if (!isUnsupported(result)) return batchResult(result, counter, count);
  }
  return eachEntry(count, (index) => bpf.remove(map.fd, keys.subarray(index * map.keySize)));
}

/**
 * Reads up to `count` entries from position `from` (undefined: the beginning) and leaves the next position in `next`.
 * The last batch ends with ENOENT and a valid count; ENOSPC means that `count` was too small for one hash bucket.
 */
export function lookupBatch(
  map: BatchMap,
  position: { readonly from: Uint8Array | undefined; readonly next: Uint8Array },
  entries: { readonly keys: Uint8Array; readonly values: Uint8Array; readonly count: number },
): BatchResult {
  const { keys, values, count } = entries;
  if (map.oneByOne !== true) {
    const counter = new Uint32Array([count]);
    const from = position.from ?? null;
    const result: number = library().lookupBatch(
      map.fd,
      from,
      position.next,
      keys,
      values,
      counter,
      null,
    );
    if (!isUnsupported(result)) {
      return { done: counter[0] ?? 0, errno: result < 0 ? errnoName(-result) : undefined };
    }
  }
  return lookupEach(map, position, entries);
}

/** The position is the key that was read last. */
function lookupEach(
  { fd, keySize, valueSize }: BatchMap,
  position: { readonly from: Uint8Array | undefined; readonly next: Uint8Array },
  { keys, values, count }: { keys: Uint8Array; values: Uint8Array; count: number },
): BatchResult {
  const bpf = library();
  let from = position.from;
  let done = 0;
  while (done < count) {
    const key = keys.subarray(done * keySize, (done + 1) * keySize);
    const found: number = bpf.nextKey(fd, from ?? null, key);
    if (found < 0) return { done, errno: errnoName(-found) };
    from = key;
    const result: number = bpf.lookup(fd, key, values.subarray(done * valueSize));
    // Gone since its key was found: the next one takes its place.
    if (result === -constants.errno.ENOENT) {
      from = key.slice();
      continue;
    }
    if (result < 0) return { done, errno: errnoName(-result) };
    done += 1;
  }
  if (from !== undefined) position.next.set(from);
  return { done, errno: undefined };
}

function eachEntry(count: number, act: (index: number) => number): BatchResult {
  for (let index = 0; index < count; index += 1) {
    const result = act(index);
    if (result < 0) return { done: index, errno: errnoName(-result) };
  }
  return { done: count, errno: undefined };
}

function isUnsupported(result: number): boolean {
  return result < 0 && errnoName(-result) === 'ENOTSUPP';
}

function batchResult(result: number, counter: Uint32Array, count: number): BatchResult {
  if (result >= 0) return { done: count, errno: undefined };
  const errno = errnoName(-result);
  // Nothing can be said of the count after EFAULT; calling it nothing makes the caller see the error.
  return { done: errno === 'EFAULT' ? 0 : (counter[0] ?? 0), errno };
}
