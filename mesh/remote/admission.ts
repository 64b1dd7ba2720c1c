/**
 * Whether a cluster may say what it says, as far as one value does not show it: which ranges are its own, which nodes it
 * has, which addresses its services may lead to. One for each cluster; it outlives connections. The own cluster is only
 * listened to: its nodes tell which ranges are ours.
 */
import type { ClusterName } from '../wire/ids.ts';
import { type IpAddress, type IpPrefix, ipFamily, makePrefix, splitPrefix } from '../wire/ip.ts';
import type { IpIdentity } from '../wire/ip-identity.ts';
import { type Node, nodeAddresses } from '../wire/node.ts';
import {
  type Announced,
  type AnnouncedReason,
  type AnnouncedRefusal,
  judgeNode,
} from './announced.ts';
import type { ClusterChange } from './cluster-sink.ts';

/** Why a value that is well formed is not used. */
export type AdmissionReason = AnnouncedReason | 'host-unknown' | 'reserved-not-node';

/**
 * Where to look for what another cluster may have come to hold. What lies in the cluster's own ranges cannot be held by
 * another, so that is not looked at; `everything`: unless the cluster may have lost some of those ranges.
 */
export interface Scope {
  readonly everything: boolean;
}

/** What becomes of a change. */
export type AdmissionVerdict =
  /** `host`: number of the node that it depends on, 0 for none. */
  | { readonly kind: 'admitted'; readonly host: number }
  /** It depends on a node or machine that the cluster has not published, at this address. */
  | {
      readonly kind: 'waiting';
      readonly address: IpAddress;
      readonly reason: AdmissionReason;
      readonly message: string;
    }
  | { readonly kind: 'refused'; readonly reason: AdmissionReason; readonly message: string };

/** Judges what one cluster says. */
export interface Admission {
  judge(change: ClusterChange): AdmissionVerdict;
  /**
   * Takes a node that was admitted, or undefined for one that is gone. Returns the addresses that became nodes'
   * addresses, or are so no more.
   */
  setNode(
    name: string,
    node: Node | undefined,
  ): { readonly came: readonly IpAddress[]; readonly went: readonly IpAddress[] };
  /**
   * Takes note of an address that was admitted and is its own host, as those of machines are: what is behind it may be announced.
   * Returns whether that is news.
   */
  setMachine(address: IpAddress, isThere: boolean): boolean;
  /** All nodes are known. */
  nodesSynced(): void;
  /** Whether an address is one of a node of the cluster. */
  isNodeAddress(address: IpAddress): boolean;
  /** Number of an address in verdicts; undefined: nothing that was admitted depends on it. */
  numberOf(address: IpAddress): number | undefined;
  /** Names of nodes with an address that the cluster may not announce any more, each with the reason. */
  lostNodes(scope: Scope): readonly { readonly name: string; readonly refusal: AnnouncedRefusal }[];
  /** Of the addresses in use those that lie outside of the cluster's own ranges. */
  exposed(inUse: Iterable<IpPrefix>, scope: Scope): readonly IpPrefix[];
  /** An address is not in use any more. */
  forgetIp(prefix: IpPrefix): void;
  clear(): void;
}

const ADMITTED: AdmissionVerdict = { kind: 'admitted', host: 0 };
const LAST_RESERVED = 255;
/** Addresses outside of the own ranges that are kept in mind; where there are more, all in use are looked at. */
const MOST_OUTSIDE = 4096;

/** Makes an empty one. */
export function createAdmission(options: {
  readonly cluster: ClusterName;
  readonly isOwn: boolean;
  readonly announced: Announced;
}): Admission {
  const { cluster, isOwn, announced } = options;
  /** Addresses of nodes, each with the number of nodes that have it. */
  const nodes = new Map<IpAddress, number>();
  const byName = new Map<string, readonly IpAddress[]>();
  const machines = new Set<IpAddress>();
  const verdicts = new Map<IpAddress, Extract<AdmissionVerdict, { kind: 'admitted' }>>();
  /** What is in use and lies outside of the cluster's own ranges, so that another cluster may come to hold it. */
  const outside = { nodes: new Set<string>(), ips: new Set<IpPrefix>() };
  let isMostOutside = false;

  /** One verdict for each host: it is given for every address there. */
  const admittedAt = (host: IpAddress): AdmissionVerdict => {
    const found = verdicts.get(host);
    if (found !== undefined) return found;
    const made = { kind: 'admitted', host: verdicts.size + 1 } as const;
    verdicts.set(host, made);
    return made;
  };

  const judgeIp = (entry: IpIdentity): AdmissionVerdict => {
    const { prefix, hostIp, identity } = entry;
    const refusal = announced.judge(cluster, prefix);
    if (refusal !== undefined) return { kind: 'refused', ...refusal };
    if (announced.mode === 'open') return ADMITTED;
    if (identity > LAST_RESERVED && hostIp !== null && nodes.has(hostIp)) {
      return admittedAt(hostIp);
    }
    const { address, length } = splitPrefix(prefix);
    const isHost = length === (ipFamily(prefix) === 4 ? 32 : 128);
    if (identity <= LAST_RESERVED) {
      if (isHost && nodes.has(address)) return admittedAt(address);
      return {
        kind: 'waiting',
        address,
        reason: 'reserved-not-node',
        message: `address ${prefix}: identity ${identity} is for addresses of nodes, and cluster ${cluster} has none there`,
      };
    }
    if (hostIp === null || (hostIp === address && isHost)) return ADMITTED;
    if (announced.isMachine(cluster, wholePrefix(hostIp))) return ADMITTED;
    if (machines.has(hostIp)) return admittedAt(hostIp);
    return {
      kind: 'waiting',
      address: hostIp,
      reason: 'host-unknown',
      message: `address ${prefix}: its host ${hostIp} is no node or machine of cluster ${cluster}`,
    };
  };

  const noteNode = (name: string, addresses: readonly IpAddress[]): void => {
    const isInside = addresses.every((address) => announced.holds(cluster, wholePrefix(address)));
    if (isOwn || isInside) outside.nodes.delete(name);
    else outside.nodes.add(name);
  };
  const noteIp = (prefix: IpPrefix): void => {
    if (announced.holds(cluster, prefix)) {
      if (outside.ips.size > 0) outside.ips.delete(prefix);
    } else if (outside.ips.size < MOST_OUTSIDE) outside.ips.add(prefix);
    else isMostOutside = true;
  };

  return {
    judge(change) {
      if (isOwn || change.value === undefined) return ADMITTED;
      if (change.kind === 'ip') {
        const verdict = judgeIp(change.value);
        if (verdict.kind === 'admitted') noteIp(change.value.prefix);
        return verdict;
      }
      if (change.kind !== 'node') return ADMITTED;
      const refusal = judgeNode(announced, cluster, change.value);
      return refusal === undefined
        ? ADMITTED
        : {
            kind: 'refused',
            reason: refusal.reason,
            message: `node ${change.name}: ${refusal.message}`,
          };
    },
    setNode(name, node) {
      announced.setNode(cluster, name, node);
      const before = byName.get(name) ?? [];
      const after = node === undefined ? [] : addressesOf(node);
      if (node === undefined) byName.delete(name);
      else byName.set(name, after);
      noteNode(name, after);
      const came: IpAddress[] = [];
      const went: IpAddress[] = [];
      for (const address of after) {
        const count = nodes.get(address) ?? 0;
        nodes.set(address, count + 1);
        if (count === 0) came.push(address);
      }
      for (const address of before) {
        const count = (nodes.get(address) ?? 0) - 1;
        if (count > 0) nodes.set(address, count);
        else if (nodes.delete(address)) went.push(address);
      }
      return { came, went };
    },
    setMachine(address, isThere) {
      if (!isThere) return machines.delete(address);
      if (machines.has(address)) return false;
      machines.add(address);
      return true;
    },
    nodesSynced: () => announced.settle(cluster),
    isNodeAddress: (address) => nodes.has(address),
    numberOf: (address) => verdicts.get(address)?.host,
    lostNodes({ everything }) {
      const lost: { name: string; refusal: AnnouncedRefusal }[] = [];
      for (const name of everything ? [...byName.keys()] : [...outside.nodes]) {
        const addresses = byName.get(name) ?? [];
        noteNode(name, addresses);
        for (const address of addresses) {
          const refusal = announced.judge(cluster, wholePrefix(address));
          if (refusal === undefined) continue;
          lost.push({ name, refusal });
          break;
        }
      }
      return lost;
    },
    exposed(inUse, { everything }) {
      if (!everything && !isMostOutside) return [...outside.ips];
      isMostOutside = false;
      outside.ips.clear();
      const found: IpPrefix[] = [];
      for (const prefix of inUse) {
        if (announced.holds(cluster, prefix)) continue;
        found.push(prefix);
        noteIp(prefix);
      }
      return found;
    },
    forgetIp(prefix) {
      if (outside.ips.size > 0) outside.ips.delete(prefix);
    },
    clear() {
      outside.nodes.clear();
      outside.ips.clear();
      isMostOutside = false;
      nodes.clear();
      machines.clear();
      byName.clear();
      verdicts.clear();
      announced.forget(cluster);
    },
  };
}

function addressesOf(node: Node): readonly IpAddress[] {
  const behind = [node.ipv4HealthIp, node.ipv6HealthIp, node.ipv4IngressIp, node.ipv6IngressIp];
  const all = [...nodeAddresses(node).map(({ ip }) => ip), ...behind.filter((ip) => ip !== null)];
  return [...new Set(all)];
}

function wholePrefix(address: IpAddress): IpPrefix {
  return makePrefix(address, ipFamily(address) === 4 ? 32 : 128);
}
