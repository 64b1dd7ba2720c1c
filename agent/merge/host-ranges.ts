/**
 * Which addresses the node's own programs reach through the tunnel: the pod networks of other nodes, and single addresses
 * outside of them. Computed from what clusters say; the same calls give the same ranges.
 */
import type { ClusterRef } from '../../mesh/remote/cluster-sink.ts';
import type { ClusterName } from '../../mesh/wire/ids.ts';
import {
  type IpAddress,
  type IpPrefix,
  ipFamily,
  makePrefix,
  parseIpAddress,
  parseIpPrefix,
  splitPrefix,
} from '../../mesh/wire/ip.ts';
import { type Node, nodeAddresses } from '../../mesh/wire/node.ts';
import type { IpcacheEntry } from '../datapath/desired.ts';
import { isOwnNode, LOCAL_ORIGIN, type NodeContext } from './addresses.ts';
import { createNetworkSet, type NetworkSet } from './network-set.ts';

/**
 * `peers`: pods of other clusters; those of the own one are the CNI's. `all`: also those of the own cluster's other nodes.
 * `off`: none.
 */
export const HOST_ROUTE_MODES = ['peers', 'all', 'off'] as const;

/** One of HOST_ROUTE_MODES. */
export type HostRouteMode = (typeof HOST_ROUTE_MODES)[number];

/** Single addresses that get a range each, at most: those that lie in no node's network. */
export const MOST_SINGLE_ADDRESSES = 16_384;

const MOST_PROBLEMS = 10;

/** Ranges that are wanted, and what keeps others from it. */
export interface WantedRanges {
  readonly prefixes: readonly IpPrefix[];
  /** A sentence each, with what to do. */
  readonly problems: readonly string[];
}

/** What is known of ranges. Calls say whether something may have changed. */
export interface HostRanges {
  setNode(cluster: Pick<ClusterRef, 'name' | 'own'>, name: string, node: Node | undefined): boolean;
  /** The row that a prefix has in the ipcache now. */
  setRow(row: IpcacheEntry): boolean;
  removeRow(prefix: IpPrefix): boolean;
  wanted(): WantedRanges;
  /** True once after some network has gone: every row of the ipcache has to be told again, since it may have been in there. */
  takeForgotten(): boolean;
}

/**
 * Makes an empty one. Networks count from the moment at which their node is heard of, so that rows behind it are never taken
 * for single ones; whether they harm others is found out when they are asked for.
 */
export function createHostRanges(
  context: Pick<NodeContext, 'clusterId' | 'clusterName' | 'nodeName' | 'nodeIps' | 'hostEndpoint'>,
  mode: HostRouteMode,
): HostRanges {
  const families = new Set(context.nodeIps.map(ipFamily));
  /** By cluster and name: the text of a record, since nodes are many. */
  const nodes = new Map<string, string>();
  const single = new Set<IpPrefix>();
  /** Networks that are this node's to carry, but for those that harm others. */
  const networks = createNetworkSet();
  /** Of the own cluster, which the CNI carries. */
  const own = createNetworkSet();
  /** How many nodes have each: of the networks, those that harm others included, and of addresses of nodes. */
  const carriedBy = new Map<IpPrefix, { readonly cluster: string; readonly count: number }>();
  const ownBy = new Map<IpPrefix, number>();
  const addressOf = new Map<IpPrefix, number>(context.nodeIps.map((ip) => [wholePrefix(ip), 1]));
  /** Networks that harm others, with the reason. */
  let refused: ReadonlyMap<IpPrefix, string> = new Map();
  let problems: readonly string[] = [];
  let nodesChanged = false;
  let forgotten = false;
  let overflow = false;

  const isSingle = ({ prefix, tunnelEndpoint, clusterId }: IpcacheEntry): boolean =>
    tunnelEndpoint !== undefined &&
    clusterId !== LOCAL_ORIGIN &&
    (mode === 'all' || clusterId !== context.clusterId) &&
    families.has(ipFamily(prefix)) &&
    // A machine that is its own host, and what is behind this one: the tunnel would lead into itself.
    splitPrefix(prefix).address !== tunnelEndpoint &&
    !context.nodeIps.includes(tunnelEndpoint) &&
    !networks.covers(prefix) &&
    !own.covers(prefix);

  const isCarried = ({ place }: NodeRecord): boolean =>
    place === 'peer' || (place === 'own' && mode === 'all');

  const add = (record: NodeRecord): void => {
    const { cluster, addresses } = record;
    for (const prefix of record.networks) {
      if (!isCarried(record)) {
        if (change(ownBy, prefix, 1) === 1) own.add(prefix);
      } else if (families.has(ipFamily(prefix))) {
        const count = (carriedBy.get(prefix)?.count ?? 0) + 1;
        carriedBy.set(prefix, { cluster, count });
        if (!refused.has(prefix)) networks.add(prefix);
      }
    }
    for (const address of addresses) change(addressOf, wholePrefix(address), 1);
  };
  const remove = (record: NodeRecord): void => {
    for (const prefix of record.networks) {
      if (!isCarried(record)) {
        if (change(ownBy, prefix, -1) > 0) continue;
        own.delete(prefix);
        forgotten = true;
        continue;
      }
      const found = carriedBy.get(prefix);
      if (found === undefined) continue;
      if (found.count > 1) carriedBy.set(prefix, { ...found, count: found.count - 1 });
      else {
        carriedBy.delete(prefix);
        forgotten ||= networks.has(prefix);
        networks.delete(prefix);
      }
    }
    for (const address of record.addresses) change(addressOf, wholePrefix(address), -1);
  };

  /** Finds out which networks harm others, and which single addresses need no range any more. */
  const settle = (): void => {
    nodesChanged = false;
    for (const prefix of refused.keys()) if (carriedBy.has(prefix)) networks.add(prefix);
    const next = harmful({ networks, own, addresses: addressOf.keys() });
    for (const prefix of next.keys()) {
      networks.delete(prefix);
      // Rows in there may have been taken for its own.
      forgotten ||= !refused.has(prefix);
    }
    refused = next;
    problems = [...refused]
      .slice(0, MOST_PROBLEMS)
      .map(
        ([prefix, reason]) =>
          `programs of this node itself reach the pods in ${prefix} of cluster ${carriedBy.get(prefix)?.cluster} one by one only: ${reason}; renumber one of the two`,
      );
    const { size } = single;
    for (const prefix of single) {
      if (networks.covers(prefix) || own.covers(prefix)) single.delete(prefix);
    }
    // There is room for some that had none, or these need none.
    if (overflow && single.size < size) {
      forgotten = true;
      overflow = false;
    }
  };

  return {
    setNode({ name: cluster, own: isOwn }, name, node) {
      if (mode === 'off') return false;
      const key = `${cluster}/${name}`;
      const before = nodes.get(key);
      const record = node && recordOf(node, { cluster, isOwn, context });
      const after = record && formatRecord(record);
      if (before === after) return false;
      // What both have is never gone in between.
      if (record === undefined || after === undefined) nodes.delete(key);
      else {
        nodes.set(key, after);
        add(record);
      }
      if (before !== undefined) remove(parseRecord(before));
      nodesChanged = true;
      return true;
    },
    setRow(row) {
      if (mode === 'off') return false;
      if (!isSingle(row)) return single.delete(row.prefix);
      if (single.has(row.prefix)) return false;
      if (single.size < MOST_SINGLE_ADDRESSES) {
        single.add(row.prefix);
        return true;
      }
      const isNews = !overflow;
      overflow = true;
      return isNews;
    },
    removeRow(prefix) {
      const isGone = single.delete(prefix);
      // There is room for one that had none.
      if (isGone && overflow) forgotten = true;
      if (isGone) overflow = false;
      return isGone;
    },
    wanted() {
      if (nodesChanged) settle();
      return {
        prefixes: [...networks.prefixes(), ...single],
        problems: overflow
          ? [
              ...problems,
              `more than ${MOST_SINGLE_ADDRESSES} addresses of other nodes lie in no network that their nodes publish: programs of this node itself do not reach all of them; give nodes their pod networks (Node.spec.podCIDRs)`,
            ]
          : problems,
      };
    },
    takeForgotten() {
      const was = forgotten;
      forgotten = false;
      return was;
    },
  };
}

/** What a node's record says of ranges. */
interface NodeRecord {
  readonly cluster: string;
  /** Of this node, of another one of its cluster, or of a peer's. */
  readonly place: 'here' | 'own' | 'peer';
  readonly networks: readonly IpPrefix[];
  readonly addresses: readonly IpAddress[];
}

function recordOf(
  node: Node,
  options: {
    readonly cluster: ClusterName;
    readonly isOwn: boolean;
    readonly context: Pick<NodeContext, 'clusterName' | 'nodeName' | 'hostEndpoint'>;
  },
): NodeRecord {
  const { cluster, isOwn, context } = options;
  const networks = [
    node.ipv4AllocCidr,
    node.ipv6AllocCidr,
    ...(node.ipv4SecondaryAllocCidrs ?? []),
    ...(node.ipv6SecondaryAllocCidrs ?? []),
  ].filter((prefix) => prefix !== null);
  const addresses = nodeAddresses(node)
    .filter(({ type }) => type === 'InternalIP' || type === 'ExternalIP')
    .map(({ ip }) => ip);
  const isHere = isOwnNode(node, context);
  const place = isHere ? 'here' : isOwn ? 'own' : 'peer';
  return { cluster, place, networks, addresses };
}

function formatRecord({ cluster, place, networks, addresses }: NodeRecord): string {
  return [cluster, place, networks.join(' '), addresses.join(' ')].join('|');
}

function parseRecord(text: string): NodeRecord {
  const [cluster = '', place, networks = '', addresses = ''] = text.split('|');
  return {
    cluster,
    place: place === 'here' || place === 'own' ? place : 'peer',
    networks: networks.split(' ').filter(Boolean).map(parseIpPrefix),
    addresses: addresses.split(' ').filter(Boolean).map(parseIpAddress),
  };
}

/** Networks that cannot be carried without harm to others, with the reason. */
function harmful({
  networks,
  own,
  addresses,
}: {
  readonly networks: NetworkSet;
  readonly own: NetworkSet;
  /** Of nodes, this one included, which may not be published yet. */
  readonly addresses: Iterable<IpPrefix>;
}): ReadonlyMap<IpPrefix, string> {
  const found = new Map<IpPrefix, string>();
  for (const prefix of networks.prefixes()) {
    if (!own.covers(prefix)) continue;
    const [holder] = own.covering(prefix);
    found.set(prefix, `it overlaps ${holder} of this cluster`);
  }
  for (const prefix of own.prefixes()) {
    if (!networks.covers(prefix)) continue;
    for (const wider of networks.covering(prefix)) {
      found.set(wider, `it overlaps ${prefix} of this cluster`);
    }
  }
  // Nodes are where tunnels lead: their own addresses must never be sent into one.
  for (const whole of addresses) {
    if (!networks.covers(whole)) continue;
    for (const prefix of networks.covering(whole)) {
      found.set(prefix, `the node ${splitPrefix(whole).address} has an address in it`);
    }
  }
  return found;
}

/** Counts something up or down, and forgets what nobody has. Returns how many have it now. */
function change(counts: Map<IpPrefix, number>, prefix: IpPrefix, difference: 1 | -1): number {
  const count = (counts.get(prefix) ?? 0) + difference;
  if (count > 0) counts.set(prefix, count);
  else counts.delete(prefix);
  return count;
}

function wholePrefix(address: IpAddress): IpPrefix {
  return makePrefix(address, ipFamily(address) === 4 ? 32 : 128);
}
