/**
 * Which addresses each cluster may announce. Ranges come from a person's list, or from what the nodes of a cluster
 * say: their networks of pods and their own addresses. No two clusters hold ranges that touch: a person's list comes
 * first, then the own cluster, then whoever was first. Has no clock, no file: the same calls give the same answers.
 */
import type { ClusterName } from '../wire/ids.ts';
import {
  type IpPrefix,
  ipFamily,
  makePrefix,
  parseIpPrefix,
  prefixContains,
  splitPrefix,
} from '../wire/ip.ts';
import { type Node, nodeAddresses } from '../wire/node.ts';
import { createRangeTable } from './range-table.ts';

/** How a peer's addresses are judged. */
export const PEER_CIDR_MODES = ['learn', 'strict', 'open'] as const;
/**
 * `learn`: a peer without a list may announce what no other cluster holds; `strict`: a peer without a list may announce
 * nothing; `open`: only what nobody may announce is refused.
 */
export type PeerCidrMode = (typeof PEER_CIDR_MODES)[number];

/** A person's list of what a cluster may announce. */
export interface CidrLists {
  readonly pods: readonly IpPrefix[];
  readonly nodes: readonly IpPrefix[];
  readonly services: readonly IpPrefix[];
  readonly machines: readonly IpPrefix[];
}

/** Why an address is refused. */
export type AnnouncedReason =
  | 'address-not-allowed'
  | 'range-too-wide'
  | 'address-ours'
  | 'address-foreign'
  | 'address-not-listed';

/** Why an address is refused: a word for counters, a sentence for people. */
export interface AnnouncedRefusal {
  readonly reason: AnnouncedReason;
  readonly message: string;
}

/** A range that a cluster's node claims and that another cluster holds. */
export interface Contest {
  readonly cluster: ClusterName;
  readonly range: IpPrefix;
  readonly holder: ClusterName;
}

/** Ranges of all clusters. */
export interface Announced {
  /** Takes what a node of a cluster claims, in place of what it claimed before; undefined: the node is gone. */
  setNode(cluster: ClusterName, name: string, node: Node | undefined): void;
  /** Why a cluster may not announce an address or network; undefined when it may. */
  judge(cluster: ClusterName, prefix: IpPrefix): AnnouncedRefusal | undefined;
  /**
   * Whether an address or network lies in a range that the cluster itself holds. As long as it does no other cluster can
   * come to hold it, for ranges of two clusters never touch.
   */
  holds(cluster: ClusterName, prefix: IpPrefix): boolean;
  /** Whether a person has said that machines of the cluster have this address. */
  isMachine(cluster: ClusterName, prefix: IpPrefix): boolean;
  /** Ranges that a cluster held when the process last ran, until its nodes are known. */
  restore(cluster: ClusterName, ranges: readonly IpPrefix[]): void;
  /** All nodes of a cluster are known: what was only restored goes. */
  settle(cluster: ClusterName): void;
  /** The cluster is gone; a person's list stays. */
  forget(cluster: ClusterName): void;
  /** Replaces all lists of persons. */
  setLists(lists: ReadonlyMap<ClusterName, CidrLists>): void;
  /** What was learned of a cluster, sorted. */
  learned(cluster: ClusterName): readonly IpPrefix[];
  /** Clusters of which something was learned. */
  clusters(): readonly ClusterName[];
  listOf(cluster: ClusterName): CidrLists | undefined;
  contests(): readonly Contest[];
  /**
   * Calls back when a cluster comes to hold a range or lets go of one, and with undefined when a list changed; until the
   * returned function is called.
   */
  onChange(callback: (change: RangeChange | undefined) => void): () => void;
  /** As `onChange`, but not of ranges that a cluster comes to hold: those are many while a mesh is first read. */
  onRelease(callback: (change: RangeChange | undefined) => void): () => void;
  /**
   * Calls back once, when a cluster other than this one comes to hold a range; until the returned function is called.
   * For who only has to know that there was one: with a callback for each range, every peer would be told of each node
   * of every other.
   */
  onNextForeign(cluster: ClusterName, callback: () => void): () => void;
  readonly mode: PeerCidrMode;
}

/** A range changed hands. */
export interface RangeChange {
  readonly kind: 'held' | 'released';
  readonly cluster: ClusterName;
  readonly range: IpPrefix;
}

/** Networks wider than this are nobody's: the widest that Cilium's defaults have is 10.0.0.0/8. */
const WIDEST = { 4: 8, 6: 32 } as const;
/** Contested ranges that are kept. */
const MOST_CONTESTS = 10_000;

/** Networks in which no pod or node of a cluster lives: a claim to them takes traffic that is not the mesh's. */
const FORBIDDEN = [
  '0.0.0.0/8',
  '127.0.0.0/8',
  '169.254.0.0/16',
  '224.0.0.0/4',
  '240.0.0.0/4',
  '::/128',
  '::1/128',
  'fe80::/10',
  'ff00::/8',
].map((text) => parseIpPrefix(text));

interface Holder {
  readonly cluster: ClusterName;
  readonly isListed: boolean;
}

/** Makes an empty record. `own` is never judged, and wins over peers that no person has listed. */
export function createAnnounced(options: {
  readonly own: ClusterName;
  readonly mode: PeerCidrMode;
}): Announced {
  const { own, mode } = options;
  const held = createRangeTable<Holder>();
  const forbidden = createRangeTable<true>();
  for (const range of FORBIDDEN) forbidden.set(range, true);
  let lists: ReadonlyMap<ClusterName, CidrLists> = new Map();
  let machines = new Map<ClusterName, readonly IpPrefix[]>();
  let listed = new Map<ClusterName, ReturnType<typeof createRangeTable<true>>>();
  /** Ranges that a cluster's nodes claim, with how many of them. */
  const claims = new Map<ClusterName, Map<IpPrefix, number>>();
  const byNode = new Map<string, readonly IpPrefix[]>();
  const restored = new Map<ClusterName, Set<IpPrefix>>();
  /** What was learned of a cluster, as it was asked for last: a status asks for that of each. */
  const sorted = new Map<ClusterName, readonly IpPrefix[]>();
  const contested = new Map<string, Contest>();
  const callbacks = new Set<(change: RangeChange | undefined) => void>();
  const releaseCallbacks = new Set<(change: RangeChange | undefined) => void>();
  const foreignOf = new Map<() => void, ClusterName>();

  const tell = (change: RangeChange | undefined): void => {
    for (const callback of callbacks) callback(change);
    if (change?.kind === 'held') tellForeign(change.cluster);
    else for (const callback of releaseCallbacks) callback(change);
  };
  const tellForeign = (holder: ClusterName): void => {
    for (const [callback, cluster] of foreignOf) {
      if (cluster === holder) continue;
      foreignOf.delete(callback);
      callback();
    }
  };
  const rank = ({ cluster, isListed }: Holder): number => (isListed ? 2 : cluster === own ? 1 : 0);

  const hold = (range: IpPrefix, holder: Holder): void => {
    const before = held.get(range);
    if (before?.cluster === holder.cluster && rank(before) >= rank(holder)) return;
    held.set(range, holder);
    contested.delete(contestKey(holder.cluster, range));
    tell({ kind: 'held', cluster: holder.cluster, range });
  };
  const contest = (cluster: ClusterName, range: IpPrefix, holder: ClusterName): void => {
    if (contested.size < MOST_CONTESTS) {
      contested.set(contestKey(cluster, range), { cluster, range, holder });
    }
  };
  /** Takes a range, from those that rank lower, too. What is refused is tried again when its holder lets go. */
  const take = (range: IpPrefix, holder: Holder): void => {
    const isOther = (other: Holder): boolean => other.cluster !== holder.cluster;
    const rival = held.touching(range, (other) => isOther(other) && rank(other) >= rank(holder));
    if (rival !== undefined) {
      contest(holder.cluster, range, rival.value.cluster);
      return;
    }
    for (;;) {
      const weaker = held.touching(range, isOther);
      if (weaker === undefined) break;
      held.delete(weaker.range);
      contest(weaker.value.cluster, weaker.range, holder.cluster);
      tell({ kind: 'released', cluster: weaker.value.cluster, range: weaker.range });
    }
    hold(range, holder);
  };
  const letGo = (cluster: ClusterName, range: IpPrefix): void => {
    contested.delete(contestKey(cluster, range));
    const holder = held.get(range);
    if (holder?.cluster !== cluster || holder.isListed) return;
    held.delete(range);
    tell({ kind: 'released', cluster, range });
    for (const waiting of [...contested.values()]) {
      if (waiting.holder !== cluster || waiting.cluster === cluster) continue;
      contested.delete(contestKey(waiting.cluster, waiting.range));
      take(waiting.range, { cluster: waiting.cluster, isListed: false });
    }
  };
  const claim = (cluster: ClusterName, range: IpPrefix): void => {
    sorted.delete(cluster);
    const counts = claims.get(cluster) ?? new Map<IpPrefix, number>();
    claims.set(cluster, counts);
    counts.set(range, (counts.get(range) ?? 0) + 1);
    // A person's list is the whole truth about a cluster: what its nodes say adds nothing.
    if (!lists.has(cluster)) take(range, { cluster, isListed: false });
  };
  const unclaim = (cluster: ClusterName, range: IpPrefix): void => {
    sorted.delete(cluster);
    const counts = claims.get(cluster);
    const count = (counts?.get(range) ?? 0) - 1;
    if (count > 0) counts?.set(range, count);
    else {
      counts?.delete(range);
      if (counts?.size === 0) claims.delete(cluster);
      if (restored.get(cluster)?.has(range) !== true) letGo(cluster, range);
    }
  };
  const dropRestored = (cluster: ClusterName): void => {
    const ranges = restored.get(cluster);
    restored.delete(cluster);
    sorted.delete(cluster);
    for (const range of ranges ?? []) {
      if (claims.get(cluster)?.has(range) !== true) letGo(cluster, range);
    }
  };
  /** Whose addresses are judged now; not in a closure, so that none is made for each address. */
  let judged: ClusterName = own;
  const isOthers = (holder: Holder): boolean => holder.cluster !== judged;
  const judgeFree = (cluster: ClusterName, prefix: IpPrefix): AnnouncedRefusal | undefined => {
    // What lies in a range of its own touches no other's.
    if (held.covering(prefix)?.cluster === cluster) return undefined;
    judged = cluster;
    const other = held.touching(prefix, isOthers);
    if (other === undefined) return undefined;
    const { range, value } = other;
    const isOurs = value.cluster === own;
    return {
      reason: isOurs ? 'address-ours' : 'address-foreign',
      message: `${prefix} is of ${range}, which ${isOurs ? 'our own cluster' : `cluster ${value.cluster}`} holds: two clusters of a mesh must not have the same networks`,
    };
  };

  return {
    mode,
    setNode(cluster, name, node) {
      const key = `${cluster}/${name}`;
      const before = byNode.get(key) ?? [];
      const after = node === undefined ? [] : rangesOfNode(node);
      if (after.length === 0) byNode.delete(key);
      else byNode.set(key, after);
      // First what is new: a range that stays is never let go meanwhile.
      for (const range of after) claim(cluster, range);
      for (const range of before) unclaim(cluster, range);
    },
    judge(cluster, prefix) {
      const never = rangeRefusal(prefix, forbidden);
      if (never !== undefined) return never;
      if (cluster === own || mode === 'open') return undefined;
      const list = listed.get(cluster);
      if (list === undefined && mode === 'learn') return judgeFree(cluster, prefix);
      if (list !== undefined && isWithin(list, prefix)) return judgeFree(cluster, prefix);
      return {
        reason: 'address-not-listed',
        message:
          list === undefined
            ? `${prefix}: no list says what cluster ${cluster} may announce, and --peer-cidrs is strict`
            : `${prefix} is outside of what a person has listed for cluster ${cluster}`,
      };
    },
    holds: (cluster, prefix) => held.covering(prefix)?.cluster === cluster,
    isMachine: (cluster, prefix) =>
      (machines.get(cluster) ?? []).some((range) => contains(range, prefix)),
    restore(cluster, ranges) {
      restored.set(cluster, new Set(ranges));
      sorted.delete(cluster);
      if (lists.has(cluster)) return;
      for (const range of ranges) {
        if (rangeRefusal(range, forbidden) === undefined) take(range, { cluster, isListed: false });
      }
    },
    settle: dropRestored,
    forget(cluster) {
      for (const key of [...byNode.keys()]) {
        if (!key.startsWith(`${cluster}/`)) continue;
        for (const range of byNode.get(key) ?? []) unclaim(cluster, range);
        byNode.delete(key);
      }
      dropRestored(cluster);
    },
    setLists(next) {
      for (const [cluster, list] of lists) {
        for (const range of rangesOfList(list)) {
          if (held.get(range)?.cluster === cluster) held.delete(range);
        }
      }
      lists = next;
      listed = new Map();
      machines = new Map();
      for (const [cluster, list] of lists) {
        const table = createRangeTable<true>();
        machines.set(cluster, list.machines);
        listed.set(cluster, table);
        for (const range of claims.get(cluster)?.keys() ?? []) letGo(cluster, range);
        for (const range of rangesOfList(list)) {
          table.set(range, true);
          take(range, { cluster, isListed: true });
        }
      }
      for (const [cluster, counts] of claims) {
        if (lists.has(cluster)) continue;
        for (const range of counts.keys()) take(range, { cluster, isListed: false });
      }
      tell(undefined);
    },
    learned(cluster) {
      const known = sorted.get(cluster);
      if (known !== undefined) return known;
      const ranges = new Set([
        ...(claims.get(cluster)?.keys() ?? []),
        ...(restored.get(cluster) ?? []),
      ]);
      const next = [...ranges].sort();
      sorted.set(cluster, next);
      return next;
    },
    clusters: () => [...new Set([...claims.keys(), ...restored.keys()])].sort(),
    listOf: (cluster) => lists.get(cluster),
    contests: () => [...contested.values()],
    onChange(callback) {
      callbacks.add(callback);
      return () => callbacks.delete(callback);
    },
    onRelease(callback) {
      releaseCallbacks.add(callback);
      return () => releaseCallbacks.delete(callback);
    },
    onNextForeign(cluster, callback) {
      foreignOf.set(callback, cluster);
      return () => foreignOf.delete(callback);
    },
  };
}

/**
 * What a node claims for its cluster: its networks of pods, and those of its own addresses that lie outside of them. Not
 * its external address: several clusters may stand behind one.
 */
export function rangesOfNode(node: Node): readonly IpPrefix[] {
  const known = rangesByNode.get(node);
  if (known !== undefined) return known;
  const ranges = findRanges(node);
  rangesByNode.set(node, ranges);
  return ranges;
}

/** A node that comes is judged by its ranges, and then they are claimed. */
const rangesByNode = new WeakMap<Node, readonly IpPrefix[]>();

function findRanges(node: Node): readonly IpPrefix[] {
  const networks = [
    node.ipv4AllocCidr,
    node.ipv6AllocCidr,
    ...(node.ipv4SecondaryAllocCidrs ?? []),
    ...(node.ipv6SecondaryAllocCidrs ?? []),
  ].filter((range) => range !== null);
  const hosts = nodeAddresses(node)
    .filter(({ type }) => type === 'InternalIP' || type === 'CiliumInternalIP')
    .map(({ ip }) => ip);
  const behind = [node.ipv4HealthIp, node.ipv6HealthIp, node.ipv4IngressIp, node.ipv6IngressIp];
  const outside = [...hosts, ...behind.filter((ip) => ip !== null)]
    .filter((ip) => !networks.some((network) => prefixContains(network, ip)))
    .map((ip) => makePrefix(ip, ipFamily(ip) === 4 ? 32 : 128));
  return [...new Set([...networks, ...outside])];
}

/**
 * Why a cluster may not announce a node: one of its addresses is another's, or a network of it nobody's. A network that
 * another cluster holds is contested, which costs the addresses in it, but not the node.
 */
export function judgeNode(
  announced: Announced,
  cluster: ClusterName,
  node: Node,
): AnnouncedRefusal | undefined {
  const behind = [node.ipv4HealthIp, node.ipv6HealthIp, node.ipv4IngressIp, node.ipv6IngressIp];
  const addresses = [...nodeAddresses(node).map(({ ip }) => ip), ...behind];
  for (const ip of addresses) {
    if (ip === null) continue;
    const refusal = announced.judge(cluster, makePrefix(ip, ipFamily(ip) === 4 ? 32 : 128));
    if (refusal !== undefined) return refusal;
  }
  for (const range of rangesOfNode(node)) {
    const refusal = announced.judge(cluster, range);
    if (refusal === undefined || CONTESTABLE.includes(refusal.reason)) continue;
    return refusal;
  }
  return undefined;
}

const CONTESTABLE: readonly AnnouncedReason[] = ['address-ours', 'address-foreign'];

function rangesOfList({ pods, nodes, services, machines }: CidrLists): readonly IpPrefix[] {
  return [...new Set([...pods, ...nodes, ...services, ...machines])];
}

/** Why nobody may hold a range. */
function rangeRefusal(
  range: IpPrefix,
  forbidden: ReturnType<typeof createRangeTable<true>>,
): AnnouncedRefusal | undefined {
  if (!range.endsWith('/32') && splitPrefix(range).length < WIDEST[ipFamily(range)]) {
    return {
      reason: 'range-too-wide',
      message: `${range} is wider than /${WIDEST[ipFamily(range)]}: no cluster holds that much`,
    };
  }
  if (forbidden.touching(range, isAny) === undefined) return undefined;
  return { reason: 'address-not-allowed', message: `${range}: nobody may claim it` };
}

function isAny(): boolean {
  return true;
}

function isWithin(list: ReturnType<typeof createRangeTable<true>>, prefix: IpPrefix): boolean {
  const found = list.touching(prefix, () => true);
  return found !== undefined && contains(found.range, prefix);
}

/** Whether a network holds all of another. */
function contains(outer: IpPrefix, inner: IpPrefix): boolean {
  if (ipFamily(outer) !== ipFamily(inner)) return false;
  const { length } = splitPrefix(outer);
  const { address, length: innerLength } = splitPrefix(inner);
  return innerLength >= length && makePrefix(address, length) === outer;
}

function contestKey(cluster: ClusterName, range: IpPrefix): string {
  return `${cluster} ${range}`;
}
