import type { ClusterSink } from '../../mesh/remote/cluster-sink.ts';
import type { Clock } from '../../mesh/runtime/clock.ts';
import { type IpAddress, ipFamily } from '../../mesh/wire/ip.ts';
import { type Node, nodeAddresses } from '../../mesh/wire/node.ts';
import type { Datapath } from '../datapath/desired.ts';

/** A table of the kernel is read at most this often: it may be large. */
const KERNEL_READ_MS = 60_000;

/** Where the nodes of each cluster are, as far as one can ask them. */
export interface KnownNodes extends Pick<ClusterSink, 'apply' | 'removed'> {
  /** An address of each node of a cluster. Without published nodes: where the kernel sends what is for that cluster. */
  of(clusterId: number): readonly IpAddress[];
}

/** Makes a list to be filled by what clusters say. */
export function createKnownNodes(options: {
  readonly nodeIps: readonly IpAddress[];
  readonly datapath: Pick<Datapath, 'ipcache'>;
  readonly clock: Clock;
}): KnownNodes {
  const { clock, datapath } = options;
  const families = new Set(options.nodeIps.map(ipFamily));
  const clusters = new Map<number, Map<string, IpAddress>>();

  let kernel: { readonly endpoints: Map<number, Set<IpAddress>>; readonly at: number } | undefined;

  /** Rows that an earlier process left, and those of clusters whose machines are no nodes, say where they are sent. */
  const tunnelEndpoints = (clusterId: number): IpAddress[] => {
    const now = clock.monotonic();
    if (kernel === undefined || now - kernel.at > KERNEL_READ_MS) {
      const endpoints = new Map<number, Set<IpAddress>>();
      const { ipcache } = datapath;
      for (const part of ipcache.scan?.() ?? [ipcache.rows()]) {
        for (const { clusterId: origin, tunnelEndpoint } of part) {
          if (tunnelEndpoint === undefined) continue;
          endpoints.set(origin, (endpoints.get(origin) ?? new Set()).add(tunnelEndpoint));
        }
      }
      kernel = { endpoints, at: now };
    }
    return [...(kernel.endpoints.get(clusterId) ?? [])];
  };

  return {
    apply(cluster, change) {
      if (change.kind !== 'node' || cluster.own) return;
      const nodes = clusters.get(cluster.id) ?? new Map<string, IpAddress>();
      const address = change.value === undefined ? undefined : addressOf(change.value, families);
      if (address === undefined) nodes.delete(change.name);
      else nodes.set(change.name, address);
      if (nodes.size === 0) clusters.delete(cluster.id);
      else clusters.set(cluster.id, nodes);
    },
    removed(cluster) {
      clusters.delete(cluster.id);
    },
    of(clusterId) {
      const nodes = clusters.get(clusterId);
      return nodes === undefined ? tunnelEndpoints(clusterId) : [...nodes.values()];
    },
  };
}

/** The address that tunnels go to, in a family that this node speaks. */
function addressOf(node: Node, families: ReadonlySet<4 | 6>): IpAddress | undefined {
  for (const wanted of ['InternalIP', 'ExternalIP'] as const) {
    const found = nodeAddresses(node).find(
      ({ type, ip }) => type === wanted && families.has(ipFamily(ip)),
    );
    if (found !== undefined) return found.ip;
  }
  return undefined;
}

/** A sink that passes everything on and takes note of where nodes are. */
export function withKnownNodes(sink: ClusterSink, nodes: KnownNodes): ClusterSink {
  return {
    ...sink,
    apply(cluster, change, pair) {
      if (change.kind === 'node') nodes.apply(cluster, change, pair);
      sink.apply(cluster, change, pair);
    },
    removed(cluster) {
      nodes.removed(cluster);
      sink.removed(cluster);
    },
  };
}
