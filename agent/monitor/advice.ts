/** What each reason means and what somebody can do about it, once for the monitor and the documentation: pure. */
import { REASONS } from '../../mesh/wire/maps.ts';

/** Two halves of a sentence: why, and what to do. */
export interface Advice {
  readonly meaning: string;
  readonly advice: string;
}

/** By name of REASONS; every drop has one. A test looks. */
export const ADVICE: Readonly<Record<string, Advice>> = {
  'invalid-source': {
    meaning: 'an endpoint sent from an address that is not its own',
    advice:
      'the pod routes or spoofs for others, or the endpoint is not registered: look for it in `clustermesh status`',
  },
  'policy-denied': {
    meaning: 'no policy row allows it, and a policy selects the endpoint',
    advice:
      "expected, or else compare the labels of the other side with the policy's selectors; identity 5 (init) means that the pod's address is not known yet",
  },
  'invalid-packet': {
    meaning: 'a header is cut off or contradicts itself',
    advice: 'the sender is broken: capture it in the pod',
  },
  'unsupported-protocol': {
    meaning:
      'it is neither IPv4, IPv6 nor ARP, has a VLAN tag or too many extension headers, or is link-local in the tunnel',
    advice: 'nothing, if the pod does not need it',
  },
  'tunnel-failed': {
    meaning: 'the kernel refused the tunnel metadata',
    advice: "a fault of ours: please report it with the kernel's version",
  },
  'no-tunnel-key': {
    meaning: 'a packet on the tunnel device came through no tunnel',
    advice: 'find out what sends to the device by hand',
  },
  'no-endpoint': {
    meaning: 'nobody on this node has the destination address',
    advice:
      "a stale address in a peer's book for moments after a pod has gone; if it lasts, compare the peer's ip entries with `clustermesh status`",
  },
  'service-no-backend': {
    meaning: 'the service has no backends, the call was refused',
    advice: 'make a server ready in some cluster that exports the service',
  },
  'no-tunnel-endpoint': {
    meaning:
      'a program of the node itself called an address of another pod network that nobody is known to have',
    advice:
      'a pod that has just gone or has just come; else look for the address with `clustermesh status`',
  },
  'invalid-identity': {
    meaning: 'the VNI says an identity that no node may send for others',
    advice:
      'look for a peer that does not follow the format, or for another user of VXLAN on the port',
  },
  'overlay-source-unknown': {
    meaning: 'nothing is known of the inner source, and --overlay-source-check is strict',
    advice:
      'normal for moments after a pod starts; if it lasts, look whether its cluster is connected and synced',
  },
  'fragment-not-found': {
    meaning: 'a fragment came before its first one',
    advice:
      "if there are many, lower the sender's datagram size or look for reordering in the network",
  },
  'policy-deny-rule': {
    meaning: 'a deny row matched',
    advice: 'expected, or else look for the deny rule in the policies that select the endpoint',
  },
  'no-config': {
    meaning: 'the agent has not finished its first start',
    advice: 'start the agent and read its log',
  },
  'packet-too-big': {
    meaning: 'it is larger than the tunnel takes and must not be fragmented; the sender was told',
    advice:
      'nothing, it is path MTU discovery; to spare it give the pods the MTU of the tunnel device',
  },
  'nat-exhausted': {
    meaning: 'no free port was found to translate the source to',
    advice:
      'too many connections of this node to one backend at a time: add backends, or call more nodes',
  },
  'nat-unsupported': {
    meaning:
      'an SCTP backend at another port than the frontend, or a backend or node without an address of the family',
    advice:
      'give the SCTP service the same port as its target port, and addresses of both families to --node-ip',
  },
  'no-route': {
    meaning: 'the node has no route, or no neighbour, to where it should go',
    advice: 'look at `ip route get` for the destination on this node',
  },
  'overlay-node-unknown': {
    meaning: 'the outer source is the address of no node that the mesh knows',
    advice:
      'normal for moments after a node joins; else look whether its cluster is connected, its --node-ip is what it sends from, and nothing translates addresses between the nodes; or it is a stranger',
  },
  'overlay-source-cluster': {
    meaning: 'the inner source belongs to another cluster than the node that sent it',
    advice:
      'two clusters claim an address: `clustermesh status` names conflicts; else a node that lies',
  },
  'overlay-source-ours': {
    meaning: 'the inner source is an address of this node or of one of its endpoints',
    advice:
      'overlapping pod networks, a loop, or an attack: compare the pod networks of the clusters',
  },
  'packet-too-big-silent': {
    meaning:
      'it is larger than the tunnel takes, and the sender was not told, having been told more than often enough in this second',
    advice: 'find the sender that ignores the answers: does something in the pod filter ICMP?',
  },
  'overlay-source-mismatch': {
    meaning: 'the inner source lives behind another node, and --overlay-source-check is strict',
    advice:
      'a pod that moved, for moments; else a node with a wrong --node-ip, address translation between nodes, or an attack',
  },
  'overlay-cluster-mismatch': {
    meaning: 'the identity in the VNI is not of the cluster of the node that sent it',
    advice:
      'compare cluster ids and --max-connected-clusters of the clusters: they must not differ',
  },
};

/** Name of a reason; a newer program may have one that this process does not know. */
export function reasonName(number: number): string {
  return REASONS.get(number) ?? `reason-${number}`;
}

/** Why and what to do, in one sentence. */
export function adviceSentence(reason: string): string {
  const found = ADVICE[reason];
  return found === undefined
    ? 'the program that dropped it is newer than this agent: see docs/datapath.md of its version'
    : `${found.meaning}: ${found.advice}`;
}
