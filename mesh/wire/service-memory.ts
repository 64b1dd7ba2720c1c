/**
 * Decoding of a large service that is known already but for a few backends: the record of a service is one value, so the
 * change of one of ten thousand backends brings all of them again (Cilium's CFP-41953 complains of it). The bytes are
 * compared with those seen last, and only entries that differ are decoded. It only saves time: what comes out is what
 * the whole decoder makes of the same bytes.
 */
import type { IpAddress } from './ip.ts';
import type { ClusterService, PortMap } from './service.ts';
import { WireError } from './wire-error.ts';

/** Smaller values are decoded as quickly as they are compared. */
const LEAST_BYTES = 16 * 1024;
/** All values that are remembered have at most this size together. */
const MOST_BYTES = 64 * 1024 * 1024;
const BACKENDS = Buffer.from('"backends":{');
/** End of one backend and beginning of the next. */
const BOUNDARY = Buffer.from('}},"');
/** An entry begins behind the boundary but for its quote. */
const ENTRY_AFTER = BOUNDARY.length - 1;
/** End of the last backend, and of them all. */
const CLOSING = Buffer.from('}}}');
/** Bytes that tell one entry from another: an address with its quotes, and more. */
const ENTRY_HEAD = 64;
/** With more entries changed the whole decoder is as quick. */
const MOST_ENTRIES = 1000;
const STEP = 4096;

interface Known {
  readonly bytes: Buffer;
  readonly service: ClusterService;
}

/** Remembers large services by key. */
export interface ServiceMemory {
  /** Decodes by way of the value that was seen last under that key; undefined when that does not help. */
  decode(value: Buffer, key: string): ClusterService | undefined;
  /** Notes what a value was decoded to by the whole decoder. */
  note(value: Buffer, key: string, service: ClusterService): void;
}

/** Makes an empty memory. `readBackends` decodes an object of backends by address; it may throw. */
export function createServiceMemory(
  readBackends: (json: unknown, key: string) => ReadonlyMap<IpAddress, PortMap>,
): ServiceMemory {
  const known = new Map<string, Known>();
  let held = 0;

  const forget = (key: string): void => {
    held -= known.get(key)?.bytes.length ?? 0;
    known.delete(key);
  };

  const keep = (value: Buffer, key: string, service: ClusterService): void => {
    forget(key);
    // A copy: a value is a piece of a message that may be larger.
    known.set(key, { bytes: Buffer.from(value), service });
    held += value.length;
    for (const oldest of known.keys()) {
      if (held <= MOST_BYTES) return;
      forget(oldest);
    }
  };

  return {
    decode(value, key) {
      const before = known.get(key);
      if (before === undefined) return undefined;
      if (before.bytes.equals(value)) return before.service;
      const change = findChange(before.bytes, value);
      if (change === undefined) return undefined;
      const removed = parseEntries(change.removed);
      const added = parseEntries(change.added);
      if (removed === undefined || added === undefined) return undefined;
      const backends = new Map(before.service.backends);
      try {
        for (const address of readBackends(removed, key).keys()) {
          if (!backends.delete(address)) return undefined;
        }
        for (const [address, ports] of readBackends(added, key)) {
          // The same address twice: the whole decoder says which one counts.
          if (backends.has(address)) return undefined;
          backends.set(address, ports);
        }
      } catch (error) {
        // The whole decoder says what is wrong, and where.
        if (error instanceof WireError) return undefined;
        throw error;
      }
      const service = { ...before.service, backends };
      keep(value, key, service);
      return service;
    },
    note(value, key, service) {
      forget(key);
      if (value.length >= LEAST_BYTES && countEntries(value) === service.backends.size) {
        keep(value, key, service);
      }
    },
  };
}

/** Entries that are in one value and not in the other, each as its text. */
interface EntryChange {
  readonly removed: readonly string[];
  readonly added: readonly string[];
}

/** How many backends a value seems to have. One that stands there twice, or a name like a boundary, makes it differ. */
function countEntries(bytes: Buffer): number {
  const first = bytes.indexOf(BACKENDS);
  const closing = bytes.indexOf(CLOSING, first);
  if (first === -1 || closing === -1) return -1;
  let count = 1;
  for (let at = first; ; count += 1) {
    at = bytes.indexOf(BOUNDARY, at + 1);
    if (at === -1 || at > closing) return count;
  }
}

/**
 * Walks through both values: over what is the same, and at a difference over the entries that are gone, new or replaced.
 * Undefined where that is not all, or too much.
 */
function findChange(before: Buffer, after: Buffer): EntryChange | undefined {
  const removed: string[] = [];
  const added: string[] = [];
  const first = before.indexOf(BACKENDS) + BACKENDS.length;
  if (after.indexOf(BACKENDS) + BACKENDS.length !== first) return undefined;
  const closing = { before: before.indexOf(CLOSING, first), after: after.indexOf(CLOSING, first) };
  if (sameBytes(before, 0, after, 0) < first) return undefined;
  // Where an entry begins in both, with all before it told.
  let [old, now] = [first, first];
  for (;;) {
    const same = sameBytes(before, old, after, now);
    if (old + same === before.length && now + same === after.length) return { removed, added };
    const boundary = before.subarray(old, old + same).lastIndexOf(BOUNDARY);
    const step = boundary === -1 ? 0 : boundary + ENTRY_AFTER;
    old += step;
    now += step;
    const nextOld = before.indexOf(BOUNDARY, old) + ENTRY_AFTER;
    const nextNow = after.indexOf(BOUNDARY, now) + ENTRY_AFTER;
    const isWithin =
      nextOld > old && nextNow > now && nextOld <= closing.before && nextNow <= closing.after;
    if (!isWithin || removed.length + added.length > MOST_ENTRIES) return undefined;
    const isGone = isSameEntry(before, nextOld, after, now);
    const isNew = !isGone && isSameEntry(before, old, after, nextNow);
    if (!isNew) {
      removed.push(entryText(before, old, nextOld));
      old = nextOld;
    }
    if (!isGone) {
      added.push(entryText(after, now, nextNow));
      now = nextNow;
    }
  }
}

/** Whether the same entry begins at both places: long enough to hold its address. */
function isSameEntry(a: Buffer, atA: number, b: Buffer, atB: number): boolean {
  return a.compare(b, atB, atB + ENTRY_HEAD, atA, atA + ENTRY_HEAD) === 0;
}

function entryText(bytes: Buffer, start: number, next: number): string {
  return bytes.toString('utf8', start, next - 1);
}

/** The entries as one object; undefined where they are not what they seem. */
function parseEntries(entries: readonly string[]): unknown {
  const text = `{${entries.join(',')}}`;
  // With escapes a quote may be no quote.
  if (text.includes('\\')) return undefined;
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch {
    // A boundary inside of a name.
    return undefined;
  }
  const names = typeof parsed === 'object' && parsed !== null ? Object.keys(parsed) : [];
  return names.length === entries.length ? parsed : undefined;
}

/** How many bytes are the same from two places on. */
function sameBytes(a: Buffer, atA: number, b: Buffer, atB: number): number {
  const most = Math.min(a.length - atA, b.length - atB);
  let same = 0;
  for (let step = STEP; step >= 1; step = step === STEP ? 64 : step === 64 ? 1 : 0) {
    while (
      same + step <= most &&
      a.compare(b, atB + same, atB + same + step, atA + same, atA + same + step) === 0
    ) {
      same += step;
    }
  }
  return same;
}
