/** Prefixes of addresses, asked whether another one lies in one of them. */
import { type IpPrefix, ipFamily, ipToBytes, splitPrefix } from '../../mesh/wire/ip.ts';

/** A prefix as numbers: comparing texts would take most of the time of a large group of prefixes. */
export interface PrefixNumber {
  readonly family: 4 | 6;
  readonly length: number;
  /** The bits of the address: 32 or 128. */
  readonly bits: bigint;
}

/** A set that never changes. */
export interface PrefixSet {
  /** Whether everything of a prefix lies in one of the set's. */
  contains(prefix: PrefixNumber): boolean;
  readonly size: number;
}

/** Takes a prefix apart. */
export function numberPrefix(prefix: IpPrefix): PrefixNumber {
  const { address, length } = splitPrefix(prefix);
  let bits = 0n;
  for (const byte of ipToBytes(address)) bits = (bits << 8n) | BigInt(byte);
  return { family: ipFamily(prefix), length, bits };
}

/** Makes a set. */
export function createPrefixSet(prefixes: Iterable<IpPrefix>): PrefixSet {
  /** By family and length, of which there are few: the high bits of each prefix of that length. */
  const lengths = new Map<number, Set<bigint>>();
  let size = 0;
  for (const prefix of prefixes) {
    const { family, length, bits } = numberPrefix(prefix);
    const key = lengthKey(family, length);
    const known = lengths.get(key) ?? new Set();
    lengths.set(key, known.add(bits >> BigInt(widthOf(family) - length)));
    size += 1;
  }
  return {
    size,
    contains({ family, length, bits }) {
      const width = widthOf(family);
      for (const [key, known] of lengths) {
        const outer = key - (family === 6 ? IPV6 : 0);
        if (outer < 0 || outer > Math.min(length, width)) continue;
        if (known.has(bits >> BigInt(width - outer))) return true;
      }
      return false;
    },
  };
}

/** Lengths of IPv4 and of IPv6 do not meet. */
const IPV6 = 1000;

function lengthKey(family: 4 | 6, length: number): number {
  return family === 6 ? IPV6 + length : length;
}

function widthOf(family: 4 | 6): number {
  return family === 6 ? 128 : 32;
}
