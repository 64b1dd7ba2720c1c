/** Which node an address belongs to: an agent's tables know it as one of many. */
import type { ClusterSink } from '../../mesh/remote/cluster-sink.ts';
import type { IpAddress } from '../../mesh/wire/ip.ts';
import { nodeAddresses } from '../../mesh/wire/node.ts';

/** A node of any cluster. */
export interface NodePlace {
  readonly clusterId: number;
  readonly cluster: string;
  readonly name: string;
  readonly addresses: readonly IpAddress[];
}

/** Nodes of all clusters. */
export interface PolicyNodes extends Pick<ClusterSink, 'apply' | 'removed'> {
  of(address: IpAddress): NodePlace | undefined;
  all(): Iterable<NodePlace>;
}

/** Makes an empty list, to be filled by what clusters say. */
export function createPolicyNodes(): PolicyNodes {
  const places = new Map<string, NodePlace>();
  const byAddress = new Map<IpAddress, string>();
  const forget = (key: string): void => {
    for (const address of places.get(key)?.addresses ?? []) {
      if (byAddress.get(address) === key) byAddress.delete(address);
    }
    places.delete(key);
  };
  return {
    apply(cluster, change) {
      if (change.kind !== 'node') return;
      const { name, value } = change;
      const key = `${cluster.id}/${name}`;
      forget(key);
      if (value === undefined) return;
      const addresses = nodeAddresses(value).map(({ ip }) => ip);
      places.set(key, { clusterId: cluster.id, cluster: cluster.name, name, addresses });
      for (const address of addresses) byAddress.set(address, key);
    },
    removed(cluster) {
      for (const [key, { clusterId }] of places) if (clusterId === cluster.id) forget(key);
    },
    of: (address) => places.get(byAddress.get(address) ?? ''),
    all: () => places.values(),
  };
}

/** A sink that passes everything on and takes note of nodes. */
export function withPolicyNodes(sink: ClusterSink, nodes: PolicyNodes): ClusterSink {
  return {
    ...sink,
    apply(cluster, change, pair) {
      nodes.apply(cluster, change, pair);
      sink.apply(cluster, change, pair);
    },
    removed(cluster) {
      nodes.removed(cluster);
      sink.removed(cluster);
    },
  };
}
