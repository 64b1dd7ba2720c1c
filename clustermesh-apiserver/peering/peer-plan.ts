/** Which peers go together with this cluster and with each other: what keeps one out whatever the network says. Pure. */
import type { CidrLists } from '../../mesh/remote/announced.ts';
import type { ClusterId, ClusterName, MaxConnectedClusters } from '../../mesh/wire/ids.ts';
import { type IpPrefix, prefixContains, splitPrefix } from '../../mesh/wire/ip.ts';
import type { MeshPeer, PeerDatapath } from './mesh-peer.ts';

/** Ids of what the preflight finds; of the table in `mesh/diagnosis`. */
export type PeerFindingId =
  | 'peer-same-name'
  | 'peer-same-id'
  | 'peer-overlapping-networks'
  | 'peer-mesh-size'
  | 'peer-unreachable'
  | 'peer-nodes-unreachable'
  | 'peer-is-ourselves'
  | 'peer-tls'
  | 'peer-clock'
  | 'peer-wrong-cluster'
  | 'peer-routing-mode'
  | 'peer-mtu'
  | 'peer-half-connected'
  | 'own-certificate-refused'
  | 'own-certificate-missing';

/** Something that is wrong with a peer. `cause` is for people. */
export interface PeerFinding {
  readonly id: PeerFindingId;
  readonly severity: 'refusal' | 'warning';
  readonly cause: string;
}

/** This cluster, as far as peers have to go together with it. */
export interface OwnCluster {
  readonly name: ClusterName;
  readonly id: ClusterId;
  readonly maxConnectedClusters: MaxConnectedClusters;
  /** Networks that it announces, as far as they are known. */
  readonly networks: CidrLists;
  readonly datapath: PeerDatapath;
}

/** What a cluster announces, with nothing in it. */
export const NO_NETWORKS: CidrLists = { pods: [], services: [], nodes: [], machines: [] };

/** What can be judged without asking anybody. `others`: peers that are taken already. */
export function findPlanFaults(
  peer: Pick<MeshPeer, 'name' | 'spec'>,
  context: { readonly own: OwnCluster; readonly others: Iterable<Pick<MeshPeer, 'name' | 'spec'>> },
): PeerFinding[] {
  const { own } = context;
  const { name, spec } = peer;
  const found: PeerFinding[] = [];
  const refuse = (id: PeerFindingId, cause: string): void => {
    found.push({ id, severity: 'refusal', cause });
  };
  if (name === own.name) refuse('peer-same-name', `${name} is the name of this cluster`);
  if (spec.clusterId === own.id) {
    refuse(
      'peer-same-id',
      `cluster id ${spec.clusterId} of ${name} is that of this cluster, ${own.name}`,
    );
  }
  if (spec.maxConnectedClusters !== own.maxConnectedClusters) {
    refuse(
      'peer-mesh-size',
      `${name} is of a mesh of ${spec.maxConnectedClusters} clusters, ${own.name} of one of ${own.maxConnectedClusters} (--max-connected-clusters)`,
    );
  }
  const networks = spec.networks ?? NO_NETWORKS;
  const clusters = [{ name: own.name, networks: own.networks, id: undefined }];
  for (const other of context.others) {
    if (other.name === name) continue;
    clusters.push({
      name: other.name,
      networks: other.spec.networks ?? NO_NETWORKS,
      id: undefined,
    });
    if (other.spec.clusterId === spec.clusterId) {
      refuse(
        'peer-same-id',
        `cluster id ${spec.clusterId} of ${name} is that of peer ${other.name}`,
      );
    }
  }
  for (const other of clusters) {
    for (const cause of findOverlaps({ name, networks }, other)) {
      refuse('peer-overlapping-networks', cause);
    }
  }
  found.push(...findDatapathFaults({ name, datapath: spec.datapath }, own));
  return found;
}

/** Networks that two clusters both have, a sentence each. */
export function findOverlaps(
  a: { readonly name: string; readonly networks: CidrLists },
  b: { readonly name: string; readonly networks: CidrLists },
): string[] {
  const found: string[] = [];
  for (const [kind, network] of namedNetworks(a.networks)) {
    for (const [otherKind, other] of namedNetworks(b.networks)) {
      // Nodes of two clusters may stand in one network, each with addresses of its own.
      if (kind === 'nodes' && otherKind === 'nodes') continue;
      if (!overlap(network, other)) continue;
      found.push(
        `${network} (${kind} of ${a.name}) and ${other} (${otherKind} of ${b.name}) overlap`,
      );
    }
  }
  return found;
}

/** Differences between the data paths of two clusters, as far as both are known. */
export function findDatapathFaults(
  peer: { readonly name: string; readonly datapath: PeerDatapath },
  own: Pick<OwnCluster, 'name' | 'datapath'>,
): PeerFinding[] {
  const found: PeerFinding[] = [];
  const { datapath: theirs } = peer;
  const { datapath: ours } = own;
  const differ = <T>(a: T | undefined, b: T | undefined): boolean =>
    a !== undefined && b !== undefined && a !== b;
  if (differ(theirs.routingMode, ours.routingMode)) {
    found.push({
      id: 'peer-routing-mode',
      severity: 'refusal',
      cause: `${peer.name} sends packets in mode ${theirs.routingMode}, ${own.name} in mode ${ours.routingMode} (--routing-mode)`,
    });
  } else if (
    theirs.routingMode !== 'native' &&
    ours.routingMode !== 'native' &&
    differ(theirs.tunnelPort, ours.tunnelPort)
  ) {
    found.push({
      id: 'peer-routing-mode',
      severity: 'refusal',
      cause: `${peer.name} tunnels to UDP port ${theirs.tunnelPort}, ${own.name} to ${ours.tunnelPort} (--tunnel-port)`,
    });
  }
  if (differ(theirs.mtu, ours.mtu)) {
    found.push({
      id: 'peer-mtu',
      severity: 'refusal',
      cause: `nodes of ${peer.name} send packets of ${theirs.mtu} bytes, those of ${own.name} of ${ours.mtu} (--mtu): the larger ones are lost, or cut`,
    });
  }
  return found;
}

/** Whether two networks have an address in common. */
export function overlap(a: IpPrefix, b: IpPrefix): boolean {
  return prefixContains(a, splitPrefix(b).address) || prefixContains(b, splitPrefix(a).address);
}

function namedNetworks(networks: CidrLists): (readonly [keyof CidrLists, IpPrefix])[] {
  const kinds = ['pods', 'services', 'nodes', 'machines'] as const;
  return kinds.flatMap((kind) => networks[kind].map((network) => [kind, network] as const));
}
