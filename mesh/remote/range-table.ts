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
  readonly size: number;
}

interface Entry<V> {
  readonly range: IpPrefix;
  readonly value: V;
}

/** One family's networks, by length, then by the bits of their address. */
interface Family<V> {
  readonly byLength: Map<number, Map<number | string, Entry<V>>>;
  /** First addresses in order with their entries; undefined when it must be made anew. */
  sorted: readonly { readonly first: string; readonly entry: Entry<V> }[] | undefined;
}

const HEX = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, '0'));

/** Makes an empty table. */
export function createRangeTable<V>(): RangeTable<V> {
  const families: Record<4 | 6, Family<V>> = {
    4: { byLength: new Map(), sorted: undefined },
    6: { byLength: new Map(), sorted: undefined },
  };
  let size = 0;

  const rangesWithin = (family: Family<V>, prefix: IpPrefix): readonly Entry<V>[] => {
    family.sorted ??= [...family.byLength.values()]
      .flatMap((ranges) => [...ranges.values()])
      .map((entry) => ({ first: firstHex(entry.range), entry }))
      .sort((a, b) => (a.first < b.first ? -1 : a.first > b.first ? 1 : 0));
    const { length } = splitPrefix(prefix);
    const first = firstHex(prefix);
    const last = lastHex(first, length);
    const found: Entry<V>[] = [];
    for (let index = lowerBound(family.sorted, first); ; index += 1) {
      const candidate = family.sorted[index];
      if (candidate === undefined || candidate.first > last) return found;
      if (splitPrefix(candidate.entry.range).length > length) found.push(candidate.entry);
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
      ranges.set(bits, { range, value });
      family.byLength.set(length, ranges);
      family.sorted = undefined;
    },
    delete(range) {
      const { address, length } = splitPrefix(range);
      const family = families[ipFamily(range)];
      const ranges = family.byLength.get(length);
      if (ranges?.delete(bitsOf(address, length)) !== true) return;
      size -= 1;
      if (ranges.size === 0) family.byLength.delete(length);
      family.sorted = undefined;
    },
    touching(prefix, isWanted) {
      const { address, length } = splitPrefix(prefix);
      const kind = ipFamily(prefix);
      const family = families[kind];
      const whole = wholeOf(address);
      for (const [rangeLength, ranges] of family.byLength) {
        if (rangeLength > length) continue;
        const entry = ranges.get(cut(whole, rangeLength));
        if (entry !== undefined && isWanted(entry.value)) return entry;
      }
      if (length === (kind === 4 ? 32 : 128)) return undefined;
      return rangesWithin(family, prefix).find(({ value }) => isWanted(value));
    },
    get size() {
      return size;
    },
  };
}

/** An IPv4 address as a number, an IPv6 address as 32 hexadecimal digits. */
function wholeOf(address: IpAddress): number | string {
  if (ipFamily(address) === 6) return hexOf(ipToBytes(address));
  let value = 0;
  let part = 0;
  for (let index = 0; index < address.length; index += 1) {
    const code = address.charCodeAt(index);
    if (code === 46) {
      value = value * 256 + part;
      part = 0;
    } else part = part * 10 + code - 48;
  }
  return value * 256 + part;
}

function bitsOf(address: IpAddress, length: number): number | string {
  return cut(wholeOf(address), length);
}

/** The first `length` bits of an address, as a key. */
function cut(whole: number | string, length: number): number | string {
  if (typeof whole === 'number') return Math.floor(whole / 2 ** (32 - length));
  const digits = whole.slice(0, Math.floor(length / 4));
  const rest = length % 4;
  if (rest === 0) return digits;
  const digit = Number.parseInt(whole[digits.length] ?? '0', 16);
  return `${digits}.${digit >> (4 - rest)}`;
}

/** First address of a network in hexadecimal digits, 8 or 32 of them. */
function firstHex(prefix: IpPrefix): string {
  return hexOf(ipToBytes(splitPrefix(prefix).address));
}

/** Last address of the network of `length` bits that begins at `first`. */
function lastHex(first: string, length: number): string {
  const kept = Math.floor(length / 4);
  const rest = length % 4;
  if (rest === 0) return first.slice(0, kept).padEnd(first.length, 'f');
  const digit = Number.parseInt(first[kept] ?? '0', 16) | (0xf >> rest);
  return (first.slice(0, kept) + digit.toString(16)).padEnd(first.length, 'f');
}

function hexOf(bytes: Uint8Array): string {
  let text = '';
  for (const byte of bytes) text += HEX[byte];
  return text;
}

function lowerBound(sorted: readonly { readonly first: string }[], first: string): number {
  let low = 0;
  let high = sorted.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((sorted[middle]?.first ?? '') < first) low = middle + 1;
    else high = middle;
  }
  return low;
}
