/** A node from its CiliumNode, as Cilium's own apiserver publishes it (`pkg/k8s.ParseCiliumNode`). */
import type { ClusterId, ClusterName } from '../../mesh/wire/ids.ts';
import { ipFamily } from '../../mesh/wire/ip.ts';
import type { Node } from '../../mesh/wire/node.ts';
import type { CiliumNodeObject } from '../sources/objects.ts';
import { NODE_SOURCE } from './node.ts';
import { readWireguardPubKey } from './node-annotations.ts';

/** A node as Cilium publishes one. The first pod network of a family is the primary. */
export function convertCiliumNode(
  object: CiliumNodeObject,
  cluster: { readonly name: ClusterName; readonly id: ClusterId },
): Node {
  const [ipv4, ...ipv4More] = object.podCidrs.filter((prefix) => ipFamily(prefix) === 4);
  const [ipv6, ...ipv6More] = object.podCidrs.filter((prefix) => ipFamily(prefix) === 6);
  return {
    name: object.name,
    cluster: cluster.name,
    clusterId: cluster.id,
    // A list without a single entry is none at all to Go.
    addresses: object.addresses.length > 0 ? object.addresses : null,
    ipv4AllocCidr: ipv4 ?? null,
    ipv6AllocCidr: ipv6 ?? null,
    ipv4SecondaryAllocCidrs: ipv4More.length > 0 ? ipv4More : null,
    ipv6SecondaryAllocCidrs: ipv6More.length > 0 ? ipv6More : null,
    ipv4HealthIp: object.ipv4HealthIp,
    ipv6HealthIp: object.ipv6HealthIp,
    ipv4IngressIp: object.ipv4IngressIp,
    ipv6IngressIp: object.ipv6IngressIp,
    source: NODE_SOURCE,
    encryptionKey: object.encryptionKey,
    labels: object.labels,
    annotations: object.annotations,
    wireguardPubKey: readWireguardPubKey(object.annotations ?? {}),
    bootId: object.bootId,
  };
}
