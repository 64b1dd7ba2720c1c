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

/** Makes an empty one. */
export function createHostRanges(
  context: Pick<NodeContext, 'clusterId' | 'clusterName' | 'nodeName' | 'nodeIps'>,
  mode: HostRouteMode,
): HostRanges {
  const families = new Set(context.nodeIps.map(ipFamily));
  /** By cluster and name: the text of a record, since nodes are many. */
  const nodes = new Map<string, string>();
  const single = new Set<IpPrefix>();
  let networks = createNetworkSet();
  /** Of the own cluster, which the CNI carries. */
  let own = createNetworkSet();
  let problems: readonly string[] = [];
  let nodesChanged = false;
  let forgotten = false;
  let overflow = false;

  const isSingle = ({ prefix, tunnelEndpoint, clusterId }: IpcacheEntry): boolean =>
    tunnelEndpoint !== undefined &&
    clusterId !== LOCAL_ORIGIN &&
    (mode === 'all' || clusterId !== context.clusterId) &&
    families.has(ipFamily(prefix)) &&
    // A machine that is its own host: its tunnel would lead into itself.
    splitPrefix(prefix).address !== tunnelEndpoint &&
    !networks.covers(prefix) &&
    !own.covers(prefix);

  const rebuild = (): void => {
    nodesChanged = false;
    const records = [...nodes.values()].map(parseRecord);
    const next = rangesOf(records, { families, mode, nodeIps: context.nodeIps });
    forgotten ||=
      overflow ||
      [...networks.prefixes()].some((prefix) => !next.networks.has(prefix)) ||
      [...own.prefixes()].some((prefix) => !next.own.has(prefix));
    overflow = false;
    ({ networks, own, problems } = next);
    for (const prefix of single) {
      if (networks.covers(prefix) || own.covers(prefix)) single.delete(prefix);
    }
  };

  return {
    setNode({ name: cluster, own: isOwn }, name, node) {
      const key = `${cluster}/${name}`;
      const before = nodes.get(key);
      const after =
        node === undefined ? undefined : formatRecord(node, { cluster, isOwn, context });
      if (mode === 'off' || before === after) return false;
      if (after === undefined) nodes.delete(key);
      else nodes.set(key, after);
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
      if (nodesChanged) rebuild();
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

function formatRecord(
  node: Node,
  options: {
    readonly cluster: ClusterName;
    readonly isOwn: boolean;
    readonly context: Pick<NodeContext, 'clusterName' | 'nodeName'>;
  },
): string {
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
  const isHere = isOwnNode(node, { ...context, clusterId: 0, nodeIps: [] });
  const place = isHere ? 'here' : isOwn ? 'own' : 'peer';
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

/** Networks that are this node's to carry; one that cannot be without harm to others is left out, and named. */
function rangesOf(
  records: readonly NodeRecord[],
  options: {
    readonly families: ReadonlySet<4 | 6>;
    readonly mode: HostRouteMode;
    /** Of this node, which may not be published yet. */
    readonly nodeIps: readonly IpAddress[];
  },
): {
  readonly networks: NetworkSet;
  readonly own: NetworkSet;
  readonly problems: readonly string[];
} {
  const { families, mode, nodeIps } = options;
  const networks = createNetworkSet();
  const own = createNetworkSet();
  const clusterOf = new Map<IpPrefix, string>();
  for (const { place, networks: prefixes, cluster } of records) {
    for (const prefix of prefixes) {
      const isCarried = place === 'peer' || (place === 'own' && mode === 'all');
      if (!isCarried) own.add(prefix);
      else if (families.has(ipFamily(prefix))) {
        networks.add(prefix);
        clusterOf.set(prefix, cluster);
      }
    }
  }
  const refused = new Map<IpPrefix, string>();
  for (const prefix of networks.prefixes()) {
    const [holder] = own.covering(prefix);
    if (holder !== undefined) refused.set(prefix, `it overlaps ${holder} of this cluster`);
  }
  for (const prefix of own.prefixes()) {
    for (const wider of networks.covering(prefix)) {
      refused.set(wider, `it overlaps ${prefix} of this cluster`);
    }
  }
  // Nodes are where tunnels lead: their own addresses must never be sent into one.
  for (const addresses of [nodeIps, ...records.map((record) => record.addresses)]) {
    for (const address of addresses) {
      const whole = makePrefix(address, ipFamily(address) === 4 ? 32 : 128);
      for (const prefix of networks.covering(whole)) {
        refused.set(prefix, `the node ${address} has an address in it`);
      }
    }
  }
  for (const prefix of refused.keys()) networks.delete(prefix);
  return {
    networks,
    own,
    problems: [...refused]
      .slice(0, MOST_PROBLEMS)
      .map(
        ([prefix, reason]) =>
          `programs of this node itself reach the pods in ${prefix} of cluster ${clusterOf.get(prefix)} one by one only: ${reason}; renumber one of the two`,
      ),
  };
}
