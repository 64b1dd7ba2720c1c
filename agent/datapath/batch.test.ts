import { closeSync } from 'node:fs';
import { test } from 'tap';
import { type BatchMap, deleteBatch, lookupBatch, updateBatch } from './batch.ts';
import { createHashMap } from './bpf.ts';
import { kernelSkipReason } from './testing/bpffs.ts';

const skip = kernelSkipReason();
const KEYS = [1, 2, 3, 4, 5];

function bytes(numbers: readonly number[]): Uint8Array {
  return new Uint8Array(new Uint32Array(numbers).buffer);
}

/** Everything in the map, read three entries at a time. */
function readAll(map: BatchMap): number[][] {
  const entries: number[][] = [];
  let from: Uint8Array | undefined;
  for (;;) {
    const keys = new Uint32Array(3);
    const values = new Uint32Array(3);
    const next = new Uint8Array(8);
    const result = lookupBatch(
      map,
      { from, next },
      { keys: new Uint8Array(keys.buffer), values: new Uint8Array(values.buffer), count: 3 },
    );
    for (let index = 0; index < result.done; index += 1) {
      entries.push([keys[index] ?? 0, values[index] ?? 0]);
    }
    if (result.errno !== undefined) {
      if (result.errno !== 'ENOENT') throw new Error(result.errno);
      return entries.sort(([a = 0], [b = 0]) => a - b);
    }
    from = next;
  }
}

for (const oneByOne of [false, true]) {
  test(`batches ${oneByOne ? 'one by one, for old kernels' : 'of the kernel'}`, { skip }, (t) => {
    const fd = createHashMap('batch', { key: 4, value: 4, maxEntries: KEYS.length });
    try {
      const map: BatchMap = { fd, keySize: 4, valueSize: 4, oneByOne };
      const entries = { keys: bytes(KEYS), values: bytes([10, 20, 30, 40, 50]) };
      t.same(updateBatch(map, entries, { count: 3 }), { done: 3, errno: undefined });
      t.same(readAll(map), [
        [1, 10],
        [2, 20],
        [3, 30],
      ]);
      t.same(
        updateBatch(map, entries, { count: 5, isNew: true }),
        { done: 0, errno: 'EEXIST' },
        'only what is not there',
      );
      t.same(updateBatch(map, entries, { count: 5 }), { done: 5, errno: undefined });
      const beyond = { keys: bytes([6, 7]), values: bytes([60, 70]) };
      t.match(updateBatch(map, beyond, { count: 2 }), { done: 0, errno: 'E2BIG' });
      t.same(readAll(map).length, 5);
      t.same(
        deleteBatch(map, bytes([2, 9, 3]), 3),
        { done: 1, errno: 'ENOENT' },
        'stops at what is not there',
      );
      t.same(readAll(map), [
        [1, 10],
        [3, 30],
        [4, 40],
        [5, 50],
      ]);
    } finally {
      closeSync(fd);
    }
    t.end();
  });
}
