/** Address families of multi-cluster services. */
import type { ServiceExport } from '../../../mesh/wire/service-export.ts';

const IP_FAMILIES = ['IPv4', 'IPv6'] as const;
/** A family, as Kubernetes writes it. */
export type IpFamily = (typeof IP_FAMILIES)[number];

/** Families that all exports have. */
export interface MergedFamilies {
  /** In the order of the oldest export that says any; undefined when none does, as clusters of Cilium up to 1.18 do not. */
  readonly families: readonly IpFamily[] | undefined;
  /** Clusters that have none in common with the older ones, and are therefore not asked. */
  readonly disagreeing: readonly string[];
}

/** Whether a word is a family. */
export function isIpFamily(word: string): word is IpFamily {
  return IP_FAMILIES.some((family) => family === word);
}

/**
 * Families that every cluster has, so that each address of the service reaches the backends of all. A cluster that has none in
 * common with the older ones is passed over: no address at all would serve nobody.
 */
export function mergeFamilies(exports: readonly ServiceExport[]): MergedFamilies {
  let families: readonly IpFamily[] | undefined;
  const disagreeing: string[] = [];
  for (const { cluster, ipFamilies = [] } of exports) {
    const said = ipFamilies.filter(isIpFamily);
    if (said.length === 0) continue;
    const common: readonly IpFamily[] = families?.filter((family) => said.includes(family)) ?? [
      ...new Set(said),
    ];
    if (common.length === 0) disagreeing.push(cluster);
    else families = common;
  }
  return { families, disagreeing };
}

/** Families that can be used here: those of the exports that this cluster has, in their order. All of ours when none is said. */
export function supportedFamilies(
  merged: readonly IpFamily[] | undefined,
  local: readonly IpFamily[],
): readonly IpFamily[] {
  return merged === undefined ? local : merged.filter((family) => local.includes(family));
}

/** The family of a canonical address. */
export function familyOfAddress(address: string): IpFamily {
  return address.includes(':') ? 'IPv6' : 'IPv4';
}
