/**
 * Networks with a value each, found by an address or a network that touches them. For a hundred thousand of them and a
 * million questions: a question for one address costs a lookup for each length of prefix that is in the table.
 */
import { type IpAddress, type IpPrefix, ipFamily, ipToBytes, splitPrefix } from '../wire/ip.ts';

/** Networks with their values. */
export interface RangeTable<V> {
  get(range: IpPrefix): V | undefined;
  set(range: IpPrefix, value: V): void;
  delete(range: IpPrefix): void;
  /** A network that holds `prefix` wholly, or that lies in it, and whose value is wanted; undefined when there is none. */
  touching(
    prefix: IpPrefix,
    isWanted: (value: V) => boolean,
  ): { readonly range: IpPrefix; readonly value: V } | undefined;
  /** The value of a network that holds `prefix` wholly; any of them; undefined when there is none. */
  covering(prefix: IpPrefix): V | undefined;
  readonly size: number;
}

interface Entry<V> {
  readonly range: IpPrefix;
  readonly value: V;
}

type Buckets<V> = Map<number | string, Set<Entry<V>>>;

/** Lengths that are kept sorted by; a question of one more length looks at every network. */
const MOST_LENGTHS = 8;

/** One family's networks, by length, then by the bits of their address. */
interface Family<V> {
  readonly byLength: Map<number, Map<number | string, Entry<V>>>;
  /** The same in two lists, which are read faster. */
  lengths: readonly number[];
  tables: readonly Map<number | string, Entry<V>>[];
  /**
   * For each length that was asked for, all longer networks by their first bits of that length. Made when it is first
   * asked for and kept up to date then: a mesh claims one network a node, ten thousand of them one after the other.
   */
  readonly within: Map<number, Buckets<V>>;
}

const DOT = 46;
const ZERO = 48;
const HEX = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, '0'));

/** Makes an empty table. */
export function createRangeTable<V>(): RangeTable<V> {
  const families: Record<4 | 6, Family<V>> = {
    4: { byLength: new Map(), lengths: [], tables: [], within: new Map() },
    6: { byLength: new Map(), lengths: [], tables: [], within: new Map() },
  };
  let size = 0;

  const rangesWithin = (family: Family<V>, prefix: IpPrefix): Iterable<Entry<V>> => {
    const { address, length } = splitPrefix(prefix);
    const bits = bitsOf(address, length);
    const known = family.within.get(length);
    if (known !== undefined) return known.get(bits) ?? [];
    const buckets: Buckets<V> = new Map();
    for (const ranges of family.byLength.values()) {
      for (const entry of ranges.values()) addTo(buckets, length, entry);
    }
    if (family.within.size < MOST_LENGTHS) family.within.set(length, buckets);
    return buckets.get(bits) ?? [];
  };
  const enter = (family: Family<V>, entry: Entry<V>): void => {
    for (const [length, buckets] of family.within) addTo(buckets, length, entry);
  };
  const leave = (family: Family<V>, entry: Entry<V> | undefined): void => {
    if (entry === undefined) return;
    for (const [length, buckets] of family.within) {
      const bits = bitsWithin(entry, length);
      if (bits === undefined) continue;
      const bucket = buckets.get(bits);
      bucket?.delete(entry);
      if (bucket?.size === 0) buckets.delete(bits);
    }
  };

  return {
    get: (range) => {
      const { address, length } = splitPrefix(range);
      return families[ipFamily(range)].byLength.get(length)?.get(bitsOf(address, length))?.value;
    },
    set(range, value) {
      const { address, length } = splitPrefix(range);
      const family = families[ipFamily(range)];
      const ranges = family.byLength.get(length) ?? new Map<number | string, Entry<V>>();
      const bits = bitsOf(address, length);
      if (!ranges.has(bits)) size += 1;
      const entry = { range, value };
      leave(family, ranges.get(bits));
      ranges.set(bits, entry);
      if (!family.byLength.has(length)) {
        family.byLength.set(length, ranges);
        relist(family);
      }
      enter(family, entry);
    },
    delete(range) {
      const { address, length } = splitPrefix(range);
      const family = families[ipFamily(range)];
      const ranges = family.byLength.get(length);
      const bits = bitsOf(address, length);
      const entry = ranges?.get(bits);
      if (ranges === undefined || entry === undefined) return;
      ranges.delete(bits);
      leave(family, entry);
      size -= 1;
      if (ranges.size === 0) {
        family.byLength.delete(length);
        relist(family);
      }
    },
    touching(prefix, isWanted) {
      const isV6 = ipFamily(prefix) === 6;
      const family = families[isV6 ? 6 : 4];
      const slash = prefix.indexOf('/');
      const length = Number(prefix.slice(slash + 1));
      const whole = isV6 ? wholeOf(splitPrefix(prefix).address) : numberOf(prefix, slash);
      const { lengths, tables } = family;
      for (let index = 0; index < lengths.length; index += 1) {
        const rangeLength = lengths[index] ?? 0;
        if (rangeLength > length) continue;
        const entry = tables[index]?.get(cut(whole, rangeLength));
        if (entry !== undefined && isWanted(entry.value)) return entry;
      }
      if (length === (isV6 ? 128 : 32)) return undefined;
      for (const entry of rangesWithin(family, prefix)) if (isWanted(entry.value)) return entry;
      return undefined;
    },
    covering(prefix) {
      const isV6 = ipFamily(prefix) === 6;
      const slash = prefix.indexOf('/');
      const length = Number(prefix.slice(slash + 1));
      const whole = isV6 ? wholeOf(splitPrefix(prefix).address) : numberOf(prefix, slash);
      const { lengths, tables } = families[isV6 ? 6 : 4];
      for (let index = 0; index < lengths.length; index += 1) {
        const rangeLength = lengths[index] ?? 0;
        if (rangeLength > length) continue;
        const entry = tables[index]?.get(cut(whole, rangeLength));
        if (entry !== undefined) return entry.value;
      }
      return undefined;
    },
    get size() {
      return size;
    },
  };
}

function relist<V>(family: Family<V>): void {
  family.lengths = [...family.byLength.keys()];
  family.tables = [...family.byLength.values()];
}

/** An IPv4 address as a number, an IPv6 address as 32 hexadecimal digits. */
function wholeOf(address: IpAddress): number | string {
  return ipFamily(address) === 6 ? hexOf(ipToBytes(address)) : numberOf(address, address.length);
}

/** The IPv4 address in the first `end` characters. */
function numberOf(text: string, end: number): number {
  let value = 0;
  let part = 0;
  for (let index = 0; index < end; index += 1) {
    const code = text.charCodeAt(index);
    if (code === DOT) {
      value = value * 256 + part;
      part = 0;
    } else part = part * 10 + code - ZERO;
  }
  return value * 256 + part;
}

function bitsOf(address: IpAddress, length: number): number | string {
  return cut(wholeOf(address), length);
}

/** The first `length` bits of an address, as a key. */
function cut(whole: number | string, length: number): number | string {
  if (typeof whole === 'number') return length === 0 ? 0 : whole >>> (32 - length);
  const digits = whole.slice(0, Math.floor(length / 4));
  const rest = length % 4;
  if (rest === 0) return digits;
  const digit = Number.parseInt(whole[digits.length] ?? '0', 16);
  return `${digits}.${digit >> (4 - rest)}`;
}

/** The first `length` bits of a network that is longer; undefined for another one. */
function bitsWithin(entry: Entry<unknown>, length: number): number | string | undefined {
  const own = splitPrefix(entry.range);
  return own.length > length ? bitsOf(own.address, length) : undefined;
}

function addTo<V>(buckets: Buckets<V>, length: number, entry: Entry<V>): void {
  const bits = bitsWithin(entry, length);
  if (bits === undefined) return;
  const bucket = buckets.get(bits) ?? new Set<Entry<V>>();
  buckets.set(bits, bucket.add(entry));
}

function hexOf(bytes: Uint8Array): string {
  let text = '';
  for (const byte of bytes) text += HEX[byte];
  return text;
}
