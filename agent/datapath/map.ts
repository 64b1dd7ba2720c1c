/** Rows over a kernel map: a codec turns rows into bytes, batches of them go to the kernel. */
import { type BatchMap, deleteBatch, lookupBatch, updateBatch } from './batch.ts';
import { lookupElement } from './bpf.ts';
import { DatapathError } from './datapath-error.ts';

/** How rows of one map are written and read. Writers get zeroed memory and may throw DatapathError `bad-row`. */
export interface RowCodec<Row extends Key, Key> {
  readonly keySize: number;
  readonly valueSize: number;
  writeKey(view: DataView, offset: number, key: Key): void;
  writeValue(view: DataView, offset: number, row: Row): void;
  readRow(keys: DataView, keyOffset: number, values: DataView, valueOffset: number): Row;
  /** The key in words, for messages. */
  describe(key: Key): string;
}

/** A kernel map with rows of one type. Failures are returned, so that one bad row does not stop the others. */
export interface RowMap<Row extends Key, Key> {
  readonly name: string;
  upsert(rows: readonly Row[]): DatapathError[];
  /** A key that is not there is no failure. */
  remove(keys: readonly Key[]): DatapathError[];
  get(key: Key): Row | undefined;
  rows(): Row[];
  /** The same, a part at a time; between parts the map may change. */
  scan(): Generator<Row[]>;
}

const BATCH = 4096;
/** Rows of a scan that are read and handed on in one go: about two milliseconds of work. */
const SCAN_BATCH = 1024;
/** Cursor of a batched lookup: the key for tries, a number for hashes. */
const MINIMUM_CURSOR = 8;

/** Wraps an open map descriptor, which stays the caller's. `maxEntries` is for messages only. */
export function createRowMap<Row extends Key, Key>(
  map: { readonly name: string; readonly fd: number; readonly maxEntries: number },
  codec: RowCodec<Row, Key>,
): RowMap<Row, Key> {
  const { name, fd } = map;
  const bytes: BatchMap = { fd, keySize: codec.keySize, valueSize: codec.valueSize };

  function failure(error: { errno: string | undefined }, action: string, key: Key): DatapathError {
    const what = `cannot ${action} ${codec.describe(key)} in map ${name}`;
    if (error.errno === 'ENOSPC' || error.errno === 'E2BIG') {
      return new DatapathError(
        'map-full',
        `${what}: the map is full with its ${map.maxEntries} entries, raise its size`,
        { errno: error.errno, retryable: true },
      );
    }
    const errno = error.errno;
    return new DatapathError('kernel', `${what}: ${errno ?? 'unknown error'}`, {
      errno,
      retryable: true,
    });
  }

  function writeAll<Item>(
    items: readonly Item[],
    buffers: { keys: Uint8Array; values: Uint8Array | undefined },
    write: (item: Item, index: number) => void,
  ): { written: Item[]; failures: DatapathError[] } {
    const written: Item[] = [];
    const failures: DatapathError[] = [];
    for (const item of items) {
      const index = written.length;
      try {
        write(item, index);
        written.push(item);
      } catch (error) {
        if (!(error instanceof DatapathError)) throw error;
        failures.push(error);
        buffers.keys.fill(0, index * codec.keySize, (index + 1) * codec.keySize);
        buffers.values?.fill(0, index * codec.valueSize, (index + 1) * codec.valueSize);
      }
    }
    return { written, failures };
  }

  function upsertBatch(rows: readonly Row[]): DatapathError[] {
    const keys = new Uint8Array(rows.length * codec.keySize);
    const values = new Uint8Array(rows.length * codec.valueSize);
    const keyView = new DataView(keys.buffer);
    const valueView = new DataView(values.buffer);
    const { written, failures } = writeAll(rows, { keys, values }, (row, index) => {
      codec.writeKey(keyView, index * codec.keySize, row);
      codec.writeValue(valueView, index * codec.valueSize, row);
    });
    for (let start = 0; start < written.length; ) {
      const result = updateBatch(
        bytes,
        {
          keys: keys.subarray(start * codec.keySize),
          values: values.subarray(start * codec.valueSize),
        },
        { count: written.length - start },
      );
      start += result.done;
      const failed = written[start];
      if (result.errno === undefined || failed === undefined) break;
      failures.push(failure(result, 'write', failed));
      start += 1;
    }
    return failures;
  }

  function removeBatch(items: readonly Key[]): DatapathError[] {
    const keys = new Uint8Array(items.length * codec.keySize);
    const view = new DataView(keys.buffer);
    const { written, failures } = writeAll(items, { keys, values: undefined }, (key, index) => {
      codec.writeKey(view, index * codec.keySize, key);
    });
    for (let start = 0; start < written.length; ) {
      const left = written.length - start;
      const result = deleteBatch(bytes, keys.subarray(start * codec.keySize), left);
      start += result.done;
      const failed = written[start];
      if (result.errno === undefined || failed === undefined) break;
      // The kernel stops at a key that is not there: go on behind it.
      if (result.errno !== 'ENOENT') failures.push(failure(result, 'delete', failed));
      start += 1;
    }
    return failures;
  }

  function* readParts(batch: number): Generator<Row[]> {
    for (const { keys, values, count } of readMapParts({ name, ...bytes }, batch)) {
      const rows: Row[] = [];
      for (let index = 0; index < count; index += 1) {
        rows.push(codec.readRow(keys, index * codec.keySize, values, index * codec.valueSize));
      }
      yield rows;
    }
  }

  return {
    name,
    upsert: (rows) => inBatches(rows, upsertBatch),
    remove: (keys) => inBatches(keys, removeBatch),
    get(key) {
      const keyBytes = new Uint8Array(codec.keySize);
      const keyView = new DataView(keyBytes.buffer);
      codec.writeKey(keyView, 0, key);
      const value = new Uint8Array(codec.valueSize);
      if (!lookupElement(fd, keyBytes, value)) return undefined;
      return codec.readRow(keyView, 0, new DataView(value.buffer), 0);
    },
    rows() {
      const rows: Row[] = [];
      for (const part of readParts(BATCH)) for (const row of part) rows.push(row);
      return rows;
    },
    *scan() {
      let seen = 0;
      for (const part of readParts(SCAN_BATCH)) {
        yield part;
        seen += part.length;
        // The kernel begins anew when the key it stands at was deleted: that must not go on for ever.
        if (seen > 2 * map.maxEntries) return;
      }
    },
  };
}

function inBatches<Item>(
  items: readonly Item[],
  apply: (batch: readonly Item[]) => DatapathError[],
): DatapathError[] {
  const failures: DatapathError[] = [];
  for (let start = 0; start < items.length; start += BATCH) {
    failures.push(...apply(items.slice(start, start + BATCH)));
  }
  return failures;
}

/** Reads a whole map. An entry that changes meanwhile is seen in one of its states, or twice. */
export function readMap(
  fd: number,
  map: { readonly name: string; readonly keySize: number; readonly valueSize: number },
  visit: (keys: DataView, values: DataView, count: number) => void,
): void {
  for (const { keys, values, count } of readMapParts({ ...map, fd })) visit(keys, values, count);
}

/** Reads a map a part at a time. While others write, an entry may be seen twice, or not at all. */
export function* readMapParts(
  map: BatchMap & { readonly name: string },
  batch = BATCH,
): Generator<{ keys: DataView; values: DataView; count: number }> {
  let count = batch;
  let from: Uint8Array | undefined;
  for (;;) {
    const keys = new Uint8Array(count * map.keySize);
    const values = new Uint8Array(count * map.valueSize);
    const next = new Uint8Array(Math.max(map.keySize, MINIMUM_CURSOR));
    const result = lookupBatch(map, { from, next }, { keys, values, count });
    if (result.errno === 'ENOSPC') {
      count *= 2;
      continue;
    }
    if (result.errno !== undefined && result.errno !== 'ENOENT') {
      throw new DatapathError('kernel', `cannot read map ${map.name}: ${result.errno}`, {
        errno: result.errno,
        retryable: true,
      });
    }
    yield {
      keys: new DataView(keys.buffer),
      values: new DataView(values.buffer),
      count: result.done,
    };
    if (result.errno === 'ENOENT') return;
    from = next;
  }
}

/** Throws the first failure, which is enough for a caller to know that rows must be applied again. */
export function throwFirst(failures: readonly DatapathError[]): void {
  const [first, ...others] = failures;
  if (first === undefined) return;
  if (others.length === 0) throw first;
  throw new DatapathError(first.code, `${first.message} (and ${others.length} more rows failed)`, {
    errno: first.errno,
    retryable: first.retryable,
    cause: first,
  });
}
