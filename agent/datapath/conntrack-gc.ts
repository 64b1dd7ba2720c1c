/**
 * Takes expired entries out of the maps that programs write by themselves, and counts what lives in them. Programs treat
 * an expired entry as absent, so nothing depends on when it goes: this keeps room, so that the kernel need not throw out
 * flows that are alive, and tells how full the maps are.
 *
 * An entry is taken out by the kernel's lookup-and-delete: what was taken says whether a packet has refreshed it, or began
 * a new flow in its place, since it was read; then it is put back at once, unless a newer one stands there by now. A packet
 * in the few microseconds between finds nothing, as if the entry had been thrown out by LRU, but the flow is never lost.
 */
import type { Clock } from '../../mesh/runtime/clock.ts';
import { type BatchMap, lookupBatch, updateBatch } from './batch.ts';
import { takeElement } from './bpf.ts';
import { nextInterval } from './conntrack-interval.ts';
import { DatapathError } from './datapath-error.ts';
import type { MapUse, UpkeepReport } from './desired.ts';

/** A map to look after. `expires`: its values begin with the time when they expire, by the kernel's monotonic clock. */
export interface GarbageMap extends BatchMap {
  readonly name: string;
  readonly maxEntries: number;
  readonly expires: boolean;
}

/** What a round found in one map. */
export interface MapRound extends MapUse {
  /** Expired entries that were taken out. */
  readonly deleted: number;
  /** Expired entries for which there was no time. */
  readonly left: number;
}

/** A collector; no two rounds of it at a time. */
export interface ConntrackGc {
  /** One round through the maps, a slice at a time. Throws DatapathError, or the signal's reason. */
  collect(clock: Clock, signal?: AbortSignal): Promise<readonly MapRound[]>;
  /** Rounds until `signal` aborts. A round that fails is told to `onError`, and the next one comes as usual. */
  run(
    tools: { readonly clock: Clock; readonly onError: (error: unknown) => void },
    signal: AbortSignal,
  ): Promise<void>;
  status(): UpkeepReport['garbage'];
}

/** Entries of a slice: with 500,000 in the map a lookup of so many takes about a millisecond. */
const SLICE_ENTRIES = 4096;
/** Entries that are taken out before others have the main loop: about as long. */
const SLICE_DELETES = 512;
/** Between slices others have the main loop, and the CPU. */
const PAUSE_MS = 5;
/** Entries that are taken out of a map in a round, a tenth of a second's work; what is left waits for the next one. */
const ROUND_DELETES = 32_768;
/** Maps without expiry are only counted, once in so many rounds. */
const COUNT_EVERY_ROUNDS = 4;
/** The clock of programs runs behind by up to a tick; and nobody minds a second. */
const GRACE_NS = 1e9;
/** Cursor of a batched lookup: the key, or a number. */
const MINIMUM_CURSOR = 8;
const HIGH_WORD = 2 ** 32;

/**
 * Makes a collector. Descriptors stay the caller's, and must be open while it runs. `intervalMs`: time between rounds;
 * default: as long as they find much to do, 15 s, else up to 5 minutes.
 */
export function createConntrackGc(
  maps: readonly GarbageMap[],
  options: { readonly intervalMs?: number | undefined } = {},
): ConntrackGc {
  const uses = new Map<string, MapRound>();
  const deleted = new Map<string, number>();
  let rounds = 0;
  let busyMs = 0;
  let intervalMs = options.intervalMs ?? nextInterval({ uses: [], busyMs: 0 }, undefined);

  const collect = async (clock: Clock, signal?: AbortSignal): Promise<readonly MapRound[]> => {
    const found: MapRound[] = [];
    for (const map of maps) {
      if (!map.expires && rounds % COUNT_EVERY_ROUNDS !== 0) continue;
      const slices = visit(map);
      for (;;) {
        const began = process.cpuUsage();
        const { done, value } = slices.next();
        const { user, system } = process.cpuUsage(began);
        busyMs += (user + system) / 1000;
        if (done === true) {
          found.push(value);
          uses.set(map.name, value);
          deleted.set(map.name, (deleted.get(map.name) ?? 0) + value.deleted);
          break;
        }
        await clock.sleep(PAUSE_MS, signal);
      }
    }
    rounds += 1;
    return found;
  };

  return {
    collect,
    async run({ clock, onError }, signal) {
      while (!signal.aborted) {
        try {
          await clock.sleep(intervalMs, signal);
          const before = busyMs;
          const found = await collect(clock, signal);
          const round = { uses: found, busyMs: busyMs - before };
          intervalMs = options.intervalMs ?? nextInterval(round, intervalMs);
        } catch (error) {
          if (signal.aborted) return;
          onError(error);
        }
      }
    },
    status: () => ({
      rounds,
      busyMs,
      intervalMs,
      maps: [...uses.values()].map(({ map, entries, maxEntries, left }) => ({
        map,
        // What is expired and still there takes room, too.
        entries: entries + left,
        maxEntries,
        deleted: deleted.get(map) ?? 0,
      })),
    }),
  };
}

/** One map, a slice at a time. */
function* visit(map: GarbageMap): Generator<undefined, MapRound, undefined> {
  const { name, maxEntries } = map;
  const reader = createReader(map);
  const value = new Uint8Array(map.valueSize);
  let [entries, deleted, left] = [0, 0, 0];
  for (;;) {
    const { count, isLast } = reader.next();
    const expired = map.expires ? reader.expired(count) : [];
    entries += count - expired.length;
    while (expired.length > 0 && deleted < ROUND_DELETES) {
      for (const index of expired.splice(-SLICE_DELETES)) {
        if (take(map, reader.key(index), value)) deleted += 1;
        else entries += 1;
      }
      if (expired.length > 0) yield;
    }
    left += expired.length;
    if (isLast) return { map: name, entries, maxEntries, deleted, left };
    yield;
  }
}

/** Reads a map from end to end into the same memory each time. */
function createReader(map: GarbageMap) {
  const { keySize, valueSize } = map;
  const cursor = new Uint8Array(Math.max(keySize, MINIMUM_CURSOR));
  let capacity = SLICE_ENTRIES;
  let keys = new Uint8Array(capacity * keySize);
  let values = new Uint8Array(capacity * valueSize);
  let isFirst = true;
  let seen = 0;
  return {
    next(): { readonly count: number; readonly isLast: boolean } {
      for (;;) {
        const from = isFirst ? undefined : cursor.slice();
        const entries = { keys, values, count: capacity };
        const { done, errno } = lookupBatch(map, { from, next: cursor }, entries);
        if (errno === 'ENOSPC') {
          capacity *= 2;
          keys = new Uint8Array(capacity * keySize);
          values = new Uint8Array(capacity * valueSize);
          continue;
        }
        if (errno !== undefined && errno !== 'ENOENT') {
          throw new DatapathError('kernel', `cannot read map ${map.name}: ${errno}`, {
            errno,
            retryable: true,
          });
        }
        isFirst = false;
        seen += done;
        // Without batches the kernel begins anew when the key it stands at is deleted: that must not go on for ever.
        return { count: done, isLast: errno === 'ENOENT' || seen > 2 * map.maxEntries };
      }
    },
    /** Indexes of the entries of the last slice that have expired. */
    expired(count: number): number[] {
      const words = new Uint32Array(values.buffer);
      const stride = valueSize / 4;
      const deadline = nowNs() - GRACE_NS;
      const found: number[] = [];
      for (let index = 0; index < count; index += 1) {
        const at = index * stride;
        if ((words[at] ?? 0) + (words[at + 1] ?? 0) * HIGH_WORD < deadline) found.push(index);
      }
      return found;
    },
    key: (index: number): Uint8Array => keys.subarray(index * keySize, (index + 1) * keySize),
  };
}

/** Takes an expired entry out, into `value`; false when it turned out to live, and is back in its place. */
function take(map: GarbageMap, key: Uint8Array, value: Uint8Array): boolean {
  if (!takeElement(map.fd, key, value)) return true;
  const view = new DataView(value.buffer);
  const expires = view.getUint32(0, true) + view.getUint32(4, true) * HIGH_WORD;
  if (expires < nowNs() - GRACE_NS) return true;
  const { errno } = updateBatch(map, { keys: key, values: value }, { count: 1, isNew: true });
  // EEXIST: a packet has made a new one meanwhile.
  if (errno !== undefined && errno !== 'EEXIST') {
    throw new DatapathError('kernel', `cannot put an entry back into map ${map.name}: ${errno}`, {
      errno,
      retryable: true,
    });
  }
  return false;
}

/** The kernel's monotonic clock. A number holds it exactly for the first 104 days, then to a few nanoseconds. */
function nowNs(): number {
  return Number(process.hrtime.bigint());
}
