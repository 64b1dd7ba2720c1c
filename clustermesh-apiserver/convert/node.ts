import type { ClusterId, ClusterName } from '../../mesh/wire/ids.ts';
import { ipFamily } from '../../mesh/wire/ip.ts';
import type { Node } from '../../mesh/wire/node.ts';
import type { NodeObject } from '../sources/objects.ts';

/** What `Source` says of nodes that we publish; readers overwrite it. */
const SOURCE = 'custom-resource';

/** A Kubernetes Node as Cilium publishes one. The first pod network of a family is the primary. */
export function convertNode(
  object: NodeObject,
  cluster: { name: ClusterName; id: ClusterId },
): Node {
  const [ipv4, ...ipv4More] = object.podCidrs.filter((prefix) => ipFamily(prefix) === 4);
  const [ipv6, ...ipv6More] = object.podCidrs.filter((prefix) => ipFamily(prefix) === 6);
  return {
    name: object.name,
    cluster: cluster.name,
    clusterId: cluster.id,
    addresses: object.addresses,
    ipv4AllocCidr: ipv4 ?? null,
    ipv6AllocCidr: ipv6 ?? null,
    ipv4SecondaryAllocCidrs: ipv4More.length > 0 ? ipv4More : null,
    ipv6SecondaryAllocCidrs: ipv6More.length > 0 ? ipv6More : null,
    ipv4HealthIp: null,
    ipv6HealthIp: null,
    ipv4IngressIp: null,
    ipv6IngressIp: null,
    source: SOURCE,
    encryptionKey: 0,
    labels: object.labels,
    annotations: null,
    wireguardPubKey: '',
    bootId: object.bootId,
  };
}
