/** Collection of expired entries from real maps, and what it costs. */
import { join } from 'node:path';
import { test } from 'tap';
import { type Clock, systemClock } from '../../mesh/runtime/clock.ts';
import { CT_KEY, CT_VALUE } from '../../mesh/wire/maps.ts';
import { type BatchMap, updateBatch } from './batch.ts';
import { lookupElement, mapInfo, updateElement } from './bpf.ts';
import { createConntrackGc, type GarbageMap } from './conntrack-gc.ts';
import { nextInterval } from './conntrack-interval.ts';
import { readMap } from './map.ts';
import { loadObjects } from './object.ts';
import { kernelSkipReason, openTestBpffs, TEST_OBJECTS } from './testing/bpffs.ts';

const skip = kernelSkipReason();
const SECOND = 1_000_000_000n;

interface TestMap extends AsyncDisposable {
  readonly map: GarbageMap;
  /** Another one, of which nothing expires. */
  readonly counted: GarbageMap;
}

/** The real map of flows, made for so many of them. */
async function openFlows(maxEntries: number): Promise<TestMap> {
  const bpffs = await openTestBpffs('gc');
  const objects = loadObjects(TEST_OBJECTS, {
    pinFolder: join(bpffs.path, 'maps'),
    mapSizes: { mesh_ct: maxEntries, mesh_nat: 1024 },
  });
  const describe = (name: string, expires: boolean): GarbageMap => {
    const { fd } = objects.maps.get(name);
    return { name, fd, expires, ...mapInfo(fd) };
  };
  return {
    map: describe('mesh_ct', true),
    counted: describe('mesh_fragments', false),
    async [Symbol.asyncDispose]() {
      objects[Symbol.dispose]();
      await bpffs[Symbol.asyncDispose]();
    },
  };
}

function keyOf(index: number): Buffer {
  const key = Buffer.alloc(CT_KEY.size);
  key.writeUInt32LE(index, 0);
  return key;
}

/** A value that expires in so many seconds; negative: it has. */
function expiring(seconds: number): Buffer {
  const value = Buffer.alloc(CT_VALUE.size);
  value.writeBigUInt64LE(process.hrtime.bigint() + BigInt(seconds) * SECOND, 0);
  return value;
}

/** Writes entries number `from` to `from + count - 1`. */
function fill(map: BatchMap, entries: { from: number; count: number; seconds: number }): void {
  const { from, count, seconds } = entries;
  const keys = Buffer.alloc(count * map.keySize);
  const values = Buffer.alloc(count * map.valueSize);
  const value = expiring(seconds);
  for (let index = 0; index < count; index += 1) {
    keys.writeUInt32LE(from + index, index * map.keySize);
    value.copy(values, index * map.valueSize, 0, map.valueSize);
  }
  const { done } = updateBatch(map, { keys, values }, { count });
  if (done !== count) throw new Error(`wrote ${done} of ${count}`);
}

function numbersIn(map: GarbageMap): number[] {
  const numbers: number[] = [];
  readMap(map.fd, map, (keys, _, count) => {
    for (let index = 0; index < count; index += 1) {
      numbers.push(keys.getUint32(index * map.keySize, true));
    }
  });
  return numbers.sort((a, b) => a - b);
}

test('createConntrackGc(): what is over goes, what lives stays', { skip }, async (t) => {
  await using flows = await openFlows(65_536);
  const { map, counted } = flows;
  fill(map, { from: 0, count: 20_000, seconds: 60 });
  fill(map, { from: 20_000, count: 10_000, seconds: -2 });
  fill(counted, { from: 0, count: 300, seconds: -2 });
  const gc = createConntrackGc([map, counted]);
  let turns = 0;
  let isDone = false;
  const count = (): void => {
    turns += 1;
    if (!isDone) setImmediate(count);
  };
  setImmediate(count);
  const found = await gc.collect(systemClock);
  isDone = true;
  t.match(found, [
    { map: 'mesh_ct', entries: 20_000, deleted: 10_000, left: 0 },
    { map: 'mesh_fragments', entries: 300, deleted: 0, left: 0 },
  ]);
  t.ok(turns > 8, `others had the main loop between slices, ${turns} times`);
  t.strictSame(
    numbersIn(map),
    Array.from({ length: 20_000 }, (_, index) => index),
    'exactly the living ones are there',
  );
  t.equal(numbersIn(counted).length, 300, 'what does not expire is only counted');
  t.match(await gc.collect(systemClock), [{ entries: 20_000, deleted: 0 }]);
  t.match(gc.status(), {
    rounds: 2,
    maps: [
      { map: 'mesh_ct', entries: 20_000, deleted: 10_000, maxEntries: 65_536 },
      { map: 'mesh_fragments', entries: 300, deleted: 0 },
    ],
  });
});

test('createConntrackGc(): a flow that goes on meanwhile is kept', { skip }, async (t) => {
  await using flows = await openFlows(4096);
  const { map } = flows;
  fill(map, { from: 0, count: 600, seconds: -2 });
  // A packet between the lookup of 600 entries and their deletion, which is a slice later for the first of them.
  const refreshed = expiring(60);
  refreshed.writeUInt32LE(4711, CT_VALUE.fields.identity);
  let kept: number | undefined;
  const clock: Clock = {
    ...systemClock,
    async sleep() {
      kept ??= numbersIn(map)[0];
      if (kept !== undefined) updateElement(map.fd, keyOf(kept), refreshed);
    },
  };
  const found = await createConntrackGc([map]).collect(clock);
  t.match(found, [{ entries: 1, deleted: 599, left: 0 }]);
  t.strictSame(numbersIn(map), [kept]);
  const value = Buffer.alloc(CT_VALUE.size);
  t.ok(lookupElement(map.fd, keyOf(kept ?? 0), value));
  t.strictSame(value, refreshed, 'as the packet has left it');
});

test('createConntrackGc(): much garbage is taken in several rounds', { skip }, async (t) => {
  await using flows = await openFlows(65_536);
  const { map } = flows;
  fill(map, { from: 0, count: 40_000, seconds: -2 });
  const gc = createConntrackGc([map]);
  const [first] = await gc.collect(systemClock);
  const { deleted = 0, left = 0 } = first ?? {};
  t.ok(deleted > 0 && left > 0, `${deleted} in the first round, ${left} are left`);
  t.equal(deleted + left, 40_000);
  t.match(gc.status().maps, [{ entries: left }], 'those take room until they go');
  await gc.collect(systemClock);
  t.strictSame(numbersIn(map), []);
});

test('createConntrackGc(): rounds go on after a failure', { skip }, async (t) => {
  await using flows = await openFlows(4096);
  const ending = new AbortController();
  const errors: unknown[] = [];
  const broken = { ...flows.map, fd: -1 };
  const gc = createConntrackGc([broken], { intervalMs: 1 });
  await gc.run(
    {
      clock: systemClock,
      onError(error) {
        errors.push(error);
        if (errors.length === 3) ending.abort();
      },
    },
    ending.signal,
  );
  t.match(errors[0], { code: 'kernel', message: /cannot read map mesh_ct: EBADF/ });
  t.equal(errors.length, 3);
});

if (process.env.ISTHMUS_LONG === 'true') {
  test('createConntrackGc(): 500,000 flows', { skip, timeout: 120_000 }, async (t) => {
    await using flows = await openFlows(1_048_576);
    const { map } = flows;
    for (let from = 0; from < 500_000; from += 50_000) {
      fill(map, { from, count: 50_000, seconds: from < 450_000 ? 600 : -2 });
    }
    const gc = createConntrackGc([map]);
    for (let round = 1; round <= 3; round += 1) {
      const busyBefore = gc.status().busyMs;
      const began = process.cpuUsage();
      const uses = await gc.collect(systemClock);
      const { user, system } = process.cpuUsage(began);
      const cpuMs = (user + system) / 1000;
      const intervalMs = nextInterval({ uses, busyMs: gc.status().busyMs - busyBefore }, 15_000);
      const percent = (100 * cpuMs) / intervalMs;
      t.comment(
        `round ${round}: ${uses[0]?.entries} alive, ${uses[0]?.deleted} deleted, ${cpuMs.toFixed(0)} ms of CPU, next in ${intervalMs} ms: ${percent.toFixed(2)} %`,
      );
      t.ok(percent <= 2, `round ${round} takes ${percent.toFixed(2)} % of a core`);
    }
  });
}
