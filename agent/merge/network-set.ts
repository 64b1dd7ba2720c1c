import { type IpPrefix, ipFamily, makePrefix, splitPrefix } from '../../mesh/wire/ip.ts';

/** Networks of both families, asked for those that cover another one. */
export interface NetworkSet {
  add(prefix: IpPrefix): void;
  delete(prefix: IpPrefix): void;
  has(prefix: IpPrefix): boolean;
  /** Members that contain a prefix, or are it: widest first. */
  covering(prefix: IpPrefix): IpPrefix[];
  covers(prefix: IpPrefix): boolean;
  prefixes(): Iterable<IpPrefix>;
}

/** Members of one family that have one length. IPv4 networks are kept by their first address, as a signed number. */
interface OfLength<Start> {
  readonly length: number;
  readonly starts: Set<Start>;
}

const DOT = 46;
const SLASH = 47;
const ZERO = 48;

/**
 * Makes an empty set. A question costs a look for each length that members of its family have: few, in a mesh. It is asked
 * for every row of the ipcache, so IPv4 is compared as numbers: no text is made where nothing is found.
 */
export function createNetworkSet(members: Iterable<IpPrefix> = []): NetworkSet {
  const all = new Set<IpPrefix>();
  const byLength4: OfLength<number>[] = [];
  const byLength6: OfLength<IpPrefix>[] = [];

  const set: NetworkSet = {
    add(prefix) {
      if (all.has(prefix)) return;
      all.add(prefix);
      if (ipFamily(prefix) === 6) startsOf(byLength6, splitPrefix(prefix).length).add(prefix);
      else {
        unpack(prefix);
        startsOf(byLength4, length4).add(start4);
      }
    },
    delete(prefix) {
      if (!all.delete(prefix)) return;
      if (ipFamily(prefix) === 6) {
        const { length } = splitPrefix(prefix);
        startsOf(byLength6, length).delete(prefix);
        dropEmpty(byLength6, length);
      } else {
        unpack(prefix);
        startsOf(byLength4, length4).delete(start4);
        dropEmpty(byLength4, length4);
      }
    },
    has: (prefix) => all.has(prefix),
    covering(prefix) {
      const found: IpPrefix[] = [];
      const { address, length } = splitPrefix(prefix);
      const lengths = ipFamily(prefix) === 6 ? byLength6 : byLength4;
      for (const { length: candidate } of lengths) {
        if (candidate > length) break;
        const wider = candidate === length ? prefix : makePrefix(address, candidate);
        if (all.has(wider)) found.push(wider);
      }
      return found;
    },
    covers(prefix) {
      if (all.size === 0) return false;
      if (ipFamily(prefix) === 6) {
        if (byLength6.length === 0) return false;
        const { address, length } = splitPrefix(prefix);
        return byLength6.some(
          ({ length: candidate, starts }) =>
            candidate <= length && starts.has(makePrefix(address, candidate)),
        );
      }
      unpack(prefix);
      for (const { length, starts } of byLength4) {
        if (length > length4) return false;
        // A shift by 32 is a shift by none.
        if (starts.has(length === 0 ? 0 : start4 & (-1 << (32 - length)))) return true;
      }
      return false;
    },
    prefixes: () => all,
  };
  for (const member of members) set.add(member);
  return set;
}

/** Members of a length, which get their place among the others where there are none yet: shortest first. */
function startsOf<Start>(lengths: OfLength<Start>[], length: number): Set<Start> {
  const known = lengths.find((one) => one.length === length);
  if (known !== undefined) return known.starts;
  const starts = new Set<Start>();
  lengths.push({ length, starts });
  lengths.sort((a, b) => a.length - b.length);
  return starts;
}

function dropEmpty<Start>(lengths: OfLength<Start>[], length: number): void {
  const index = lengths.findIndex((one) => one.length === length && one.starts.size === 0);
  if (index !== -1) lengths.splice(index, 1);
}

/** What `unpack` found: not returned, so that no object is made for each question. */
let start4 = 0;
let length4 = 0;

/** Reads an IPv4 network, which is canonical. */
function unpack(prefix: IpPrefix): void {
  let value = 0;
  let part = 0;
  let index = 0;
  for (; index < prefix.length; index += 1) {
    const code = prefix.charCodeAt(index);
    if (code === SLASH) break;
    if (code === DOT) {
      value = (value << 8) | part;
      part = 0;
    } else part = part * 10 + code - ZERO;
  }
  start4 = (value << 8) | part;
  length4 = 0;
  for (index += 1; index < prefix.length; index += 1) {
    length4 = length4 * 10 + prefix.charCodeAt(index) - ZERO;
  }
}
