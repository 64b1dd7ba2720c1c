import type { ClusterSink } from '../../mesh/remote/cluster-sink.ts';
import { type IpAddress, type IpPrefix, ipFamily, splitPrefix } from '../../mesh/wire/ip.ts';

/** An address of a pod that lives on this node, as the own cluster says. */
export interface ClusterPodAddress {
  readonly address: IpAddress;
  readonly podNamespace: string;
  readonly podName: string;
}

/** The pods of this node as the own cluster's address table has them. */
export interface ClusterPods extends Pick<ClusterSink, 'apply' | 'synced'> {
  all(): readonly ClusterPodAddress[];
  /** Has `tell` called after each change, and when more of what the own cluster says is complete. */
  onChange(tell: () => void): void;
}

/** Makes an empty list, to be filled by what the own cluster says. */
export function createClusterPods(nodeIps: readonly IpAddress[]): ClusterPods {
  const pods = new Map<IpPrefix, ClusterPodAddress>();
  const listeners: (() => void)[] = [];
  const changed = (): void => {
    for (const tell of listeners) tell();
  };
  return {
    apply(cluster, change) {
      if (!cluster.own || change.kind !== 'ip') return;
      const { prefix, value } = change;
      const isHere = value !== undefined && value.hostIp !== null && nodeIps.includes(value.hostIp);
      if (!isHere) {
        if (pods.delete(prefix)) changed();
        return;
      }
      const { podName = '', namespace = '' } = value;
      const { address, length } = splitPrefix(prefix);
      // A pod that shares the node's network has no interface of its own, and its addresses are the node's.
      const isWhole = length === (ipFamily(address) === 4 ? 32 : 128);
      if (podName === '' || !isWhole || nodeIps.includes(address)) {
        if (pods.delete(prefix)) changed();
        return;
      }
      const known = pods.get(prefix);
      if (known?.podName === podName && known.podNamespace === namespace) return;
      pods.set(prefix, { address, podNamespace: namespace, podName });
      changed();
    },
    synced(cluster) {
      if (cluster.own) changed();
    },
    all: () => [...pods.values()],
    onChange(tell) {
      listeners.push(tell);
    },
  };
}

/** A sink that passes everything on and takes note of this node's pods. */
export function withClusterPods(sink: ClusterSink, pods: ClusterPods): ClusterSink {
  return {
    ...sink,
    apply(cluster, change, pair) {
      pods.apply(cluster, change, pair);
      sink.apply(cluster, change, pair);
    },
    synced(cluster, kind) {
      sink.synced(cluster, kind);
      pods.synced(cluster, kind);
    },
  };
}
