/** A node from its Kubernetes object and from what its own agent says. */
import type { ClusterId, ClusterName } from '../../mesh/wire/ids.ts';
import {
  type IpAddress,
  type IpPrefix,
  ipFamily,
  prefixContains,
  splitPrefix,
} from '../../mesh/wire/ip.ts';
import type { Node, NodeAddress } from '../../mesh/wire/node.ts';
import type { NodeObject } from '../sources/objects.ts';
import { readNodeAnnotations } from './node-annotations.ts';

/** What `Source` says of nodes that we publish; readers overwrite it. */
export const NODE_SOURCE = 'custom-resource';

/** What a node's agent says of its node. */
export interface NodeFacts {
  /** Underlay addresses, at least one. */
  readonly addresses: readonly IpAddress[];
  /** Networks that the node's pods take their addresses from. */
  readonly podCidrs: readonly IpPrefix[];
  /** Random text that differs after each boot; empty when the agent does not know it. */
  readonly bootId: string;
}

/** Why facts are not taken: the field at fault and what is wrong with it. */
export interface NodeConflict {
  readonly field: string;
  readonly reason: string;
}

/** Where a node is known from; both undefined is a node that is not there. */
export interface NodeSources {
  readonly object: NodeObject | undefined;
  readonly facts: NodeFacts | undefined;
}

/** Addresses and pod networks of a node. */
export interface NodeHoldings {
  readonly addresses: readonly NodeAddress[];
  readonly podCidrs: readonly IpPrefix[];
}

/** What a node holds: its object's word counts where it says something, the agent's where it does not. */
export function nodeHoldings({
  object,
  facts,
}: {
  readonly object: NodeHoldings | undefined;
  readonly facts: NodeFacts | undefined;
}): NodeHoldings {
  const said = (facts?.addresses ?? []).map((ip): NodeAddress => ({ type: 'InternalIP', ip }));
  return {
    addresses: object !== undefined && object.addresses.length > 0 ? object.addresses : said,
    podCidrs:
      object !== undefined && object.podCidrs.length > 0
        ? object.podCidrs
        : (facts?.podCidrs ?? []),
  };
}

/** A node as Cilium publishes one; undefined when it is not there. The first pod network of a family is the primary. */
export function convertNode(
  name: string,
  sources: NodeSources,
  cluster: { readonly name: ClusterName; readonly id: ClusterId },
): Node | undefined {
  const { object, facts } = sources;
  if (object === undefined && facts === undefined) return undefined;
  const { addresses, podCidrs } = nodeHoldings(sources);
  const [ipv4, ...ipv4More] = podCidrs.filter((prefix) => ipFamily(prefix) === 4);
  const [ipv6, ...ipv6More] = podCidrs.filter((prefix) => ipFamily(prefix) === 6);
  const said = readNodeAnnotations(object?.annotations ?? {});
  const internal = said.ciliumInternalIps
    .filter((ip) => !addresses.some((address) => address.ip === ip))
    .map((ip): NodeAddress => ({ type: 'CiliumInternalIP', ip }));
  return {
    name,
    cluster: cluster.name,
    clusterId: cluster.id,
    addresses: [...addresses, ...internal],
    ipv4AllocCidr: ipv4 ?? null,
    ipv6AllocCidr: ipv6 ?? null,
    ipv4SecondaryAllocCidrs: ipv4More.length > 0 ? ipv4More : null,
    ipv6SecondaryAllocCidrs: ipv6More.length > 0 ? ipv6More : null,
    ipv4HealthIp: said.ipv4HealthIp,
    ipv6HealthIp: said.ipv6HealthIp,
    ipv4IngressIp: said.ipv4IngressIp,
    ipv6IngressIp: said.ipv6IngressIp,
    source: NODE_SOURCE,
    encryptionKey: said.encryptionKey,
    labels: object?.labels ?? null,
    annotations: null,
    wireguardPubKey: said.wireguardPubKey,
    // The running kernel's word is newer than the manifest's.
    bootId: facts !== undefined && facts.bootId !== '' ? facts.bootId : (object?.bootId ?? ''),
  };
}

/** What of `facts` overlaps what `holder` holds. */
export function findOverlap(
  facts: NodeFacts,
  held: NodeHoldings,
  holder: string,
): NodeConflict | undefined {
  for (const address of facts.addresses) {
    if (held.addresses.some(({ ip }) => ip === address)) {
      return { field: 'addresses', reason: `${address} is held by ${holder}` };
    }
    const network = held.podCidrs.find((prefix) => prefixContains(prefix, address));
    if (network !== undefined) {
      return { field: 'addresses', reason: `${address} lies in ${network}, the pods of ${holder}` };
    }
  }
  for (const prefix of facts.podCidrs) {
    const other = held.podCidrs.find((candidate) => overlap(candidate, prefix));
    if (other !== undefined) {
      return { field: 'pod_cidrs', reason: `${prefix} overlaps ${other}, the pods of ${holder}` };
    }
    const inside = held.addresses.find(({ ip }) => prefixContains(prefix, ip));
    if (inside !== undefined) {
      return {
        field: 'pod_cidrs',
        reason: `${prefix} contains ${inside.ip}, an address of ${holder}`,
      };
    }
  }
  return undefined;
}

function overlap(a: IpPrefix, b: IpPrefix): boolean {
  return prefixContains(a, splitPrefix(b).address) || prefixContains(b, splitPrefix(a).address);
}
