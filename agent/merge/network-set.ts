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

/** Makes an empty set. A question costs a look for each length that members of its family have: few, in a mesh. */
export function createNetworkSet(members: Iterable<IpPrefix> = []): NetworkSet {
  const all = new Set<IpPrefix>();
  /** Lengths by family, shortest first, with how many members have them. */
  const lengths = { 4: new Map<number, number>(), 6: new Map<number, number>() };

  function* found(prefix: IpPrefix): Generator<IpPrefix> {
    const { address, length } = splitPrefix(prefix);
    for (const candidate of lengths[ipFamily(prefix)].keys()) {
      if (candidate > length) return;
      const wider = candidate === length ? prefix : makePrefix(address, candidate);
      if (all.has(wider)) yield wider;
    }
  }

  const set: NetworkSet = {
    add(prefix) {
      if (all.has(prefix)) return;
      all.add(prefix);
      const family = ipFamily(prefix);
      const { length } = splitPrefix(prefix);
      const count = lengths[family].get(length);
      lengths[family].set(length, (count ?? 0) + 1);
      if (count === undefined) {
        lengths[family] = new Map([...lengths[family]].sort(([a], [b]) => a - b));
      }
    },
    delete(prefix) {
      if (!all.delete(prefix)) return;
      const { length } = splitPrefix(prefix);
      const counts = lengths[ipFamily(prefix)];
      const count = counts.get(length) ?? 0;
      if (count <= 1) counts.delete(length);
      else counts.set(length, count - 1);
    },
    has: (prefix) => all.has(prefix),
    covering: (prefix) => [...found(prefix)],
    covers: (prefix) => found(prefix).next().done !== true,
    prefixes: () => all,
  };
  for (const member of members) set.add(member);
  return set;
}
