/** Peers of the oracle: is the other side of a flow one of those that a rule names? */
import { CLUSTER_LABEL, type Labels, NAMESPACE_LABEL } from '../../../mesh/wire/identity.ts';
import type { IcmpManifest, NamedPorts, PortManifest } from './oracle-ports.ts';
import {
  isOfCluster,
  isOfNamespace,
  isReserved,
  keysOf,
  type SelectorManifest,
  selects,
} from './oracle-selector.ts';

const NAMESPACE_LABELS = 'io.cilium.k8s.namespace.labels.';

/** One side of a flow. */
export type OracleParty =
  /** A pod, with the labels of its identity. */
  | { readonly kind: 'pod'; readonly labels: Labels; readonly ports: NamedPorts }
  /** A node of any cluster, with its labels and that of its cluster; `own`: the one that the subject runs on. */
  | { readonly kind: 'node'; readonly labels: Labels; readonly own: boolean }
  /** What has one of Cilium's reserved labels, other than world and nodes. */
  | { readonly kind: 'reserved'; readonly name: string }
  /** An address that belongs to nothing of the mesh. */
  | { readonly kind: 'address'; readonly address: string };

/** Where policies are read: in which cluster, and what they refer to. */
export interface OracleContext {
  readonly cluster: string;
  readonly defaultLocalCluster: boolean;
  /** CiliumCIDRGroups. */
  readonly groups: readonly OracleGroup[];
  readonly services: readonly OracleService[];
}

/** A CiliumCIDRGroup. */
export interface OracleGroup {
  readonly name: string;
  readonly labels: Labels;
  readonly prefixes: readonly string[];
}

/** A service and who is behind it. */
export interface OracleService {
  readonly name: string;
  readonly namespace: string;
  readonly labels: Labels;
  readonly backends: readonly OracleParty[];
}

/** A peer of a NetworkPolicy's rule. */
export interface KubernetesPeerManifest {
  readonly podSelector?: SelectorManifest;
  readonly namespaceSelector?: SelectorManifest;
  readonly ipBlock?: { readonly cidr: string; readonly except?: readonly string[] };
}

/** A rule of a Cilium policy; a list that is there but empty selects nobody. */
export interface CiliumRuleManifest {
  readonly fromEndpoints?: readonly SelectorManifest[];
  readonly fromRequires?: readonly SelectorManifest[];
  readonly fromNodes?: readonly SelectorManifest[];
  readonly fromEntities?: readonly string[];
  readonly fromCIDR?: readonly string[];
  readonly fromCIDRSet?: readonly CidrManifest[];
  readonly toEndpoints?: readonly SelectorManifest[];
  readonly toRequires?: readonly SelectorManifest[];
  readonly toNodes?: readonly SelectorManifest[];
  readonly toEntities?: readonly string[];
  readonly toCIDR?: readonly string[];
  readonly toCIDRSet?: readonly CidrManifest[];
  readonly toServices?: readonly ServiceManifest[];
  readonly toFQDNs?: readonly unknown[];
  readonly toPorts?: readonly {
    ports?: readonly PortManifest[];
    rules?: unknown;
    serverNames?: unknown;
  }[];
  readonly authentication?: unknown;
  readonly icmps?: readonly IcmpManifest[];
}

interface CidrManifest {
  readonly cidr?: string;
  readonly cidrGroupRef?: string;
  readonly cidrGroupSelector?: SelectorManifest;
  readonly except?: readonly string[];
}

interface ServiceManifest {
  readonly k8sService?: { readonly serviceName: string; readonly namespace?: string };
  readonly k8sServiceSelector?: {
    readonly selector: SelectorManifest;
    readonly namespace?: string;
  };
}

type InNamespace = OracleContext & { readonly namespace: string | undefined };

/** Whether a peer of a NetworkPolicy is this party. */
export function isKubernetesPeer(
  peer: KubernetesPeerManifest,
  party: OracleParty,
  at: InNamespace & { namespace: string; meetsAllRequirements: boolean },
): boolean {
  if (peer.ipBlock !== undefined) return isInCidr(peer.ipBlock, party, at);
  if (party.kind !== 'pod') return false;
  const { podSelector = {}, namespaceSelector } = peer;
  // Without namespaceSelector a peer is of the policy's own namespace.
  const inNamespace =
    namespaceSelector === undefined
      ? isOfNamespace(party.labels, at.namespace)
      : selects(namespaceSelector, namespaceLabels(party.labels));
  const inCluster =
    !at.defaultLocalCluster ||
    keysOf(podSelector).includes(CLUSTER_LABEL) ||
    isOfCluster(party.labels, at.cluster);
  return at.meetsAllRequirements && inNamespace && inCluster && selects(podSelector, party.labels);
}

/** Whether a rule's peers include this party; `not said`: the rule names none. */
export function isCiliumPeer(
  rule: CiliumRuleManifest,
  party: OracleParty,
  at: InNamespace & { direction: 'ingress' | 'egress'; meetsAllRequirements: boolean },
): 'yes' | 'no' | 'not said' {
  const from = at.direction === 'ingress';
  const answers: boolean[] = [];
  const ask = <T>(list: readonly T[] | undefined, isPeer: (item: T) => boolean): void => {
    if (list !== undefined) answers.push(list.some(isPeer));
  };
  ask(
    from ? rule.fromEndpoints : rule.toEndpoints,
    (selector) => at.meetsAllRequirements && isEndpoint(selector, party, at),
  );
  ask(from ? rule.fromNodes : rule.toNodes, (selector) => isNode(selector, party, at));
  ask(from ? rule.fromEntities : rule.toEntities, (entity) => isEntity(entity, party, at));
  ask(from ? rule.fromCIDR : rule.toCIDR, (cidr) => isInCidr({ cidr }, party, at));
  ask(from ? rule.fromCIDRSet : rule.toCIDRSet, (cidr) => isInCidr(cidr, party, at));
  ask(from ? undefined : rule.toServices, (service) => isBehind(service, party, at));
  const requires = from ? rule.fromRequires : rule.toRequires;
  if (answers.length === 0 && requires === undefined) return 'not said';
  return answers.includes(true) ? 'yes' : 'no';
}

/** Whether a party meets what a rule requires of every peer; a rule that requires nothing is met by all. */
export function meetsRequirements(
  rule: CiliumRuleManifest,
  party: OracleParty,
  at: InNamespace & { direction: 'ingress' | 'egress' },
): boolean {
  const requires = (at.direction === 'ingress' ? rule.fromRequires : rule.toRequires) ?? [];
  return requires.every((selector) => isEndpoint(selector, party, at));
}

function isEndpoint(selector: SelectorManifest, party: OracleParty, at: InNamespace): boolean {
  const labels = labelsOf(party);
  if (isReserved(selector)) return selects(selector, labels);
  const keys = keysOf(selector);
  if (!keys.includes(NAMESPACE_LABEL)) {
    // The policy's own namespace, or for a clusterwide one any: what has no namespace is no pod.
    const namespacesAreChosen =
      at.namespace !== undefined && keys.some((key) => key.startsWith(NAMESPACE_LABELS));
    if (!namespacesAreChosen && !isOfNamespace(labels, at.namespace)) return false;
  }
  if (at.defaultLocalCluster && !keys.includes(CLUSTER_LABEL) && !isOfCluster(labels, at.cluster)) {
    return false;
  }
  return selects(selector, labels);
}

function isNode(selector: SelectorManifest, party: OracleParty, at: InNamespace): boolean {
  if (party.kind !== 'node' || party.own) return false;
  if (at.defaultLocalCluster && !keysOf(selector).includes(CLUSTER_LABEL)) {
    if (!isOfCluster(party.labels, at.cluster)) return false;
  }
  return selects(selector, party.labels);
}

function isEntity(entity: string, party: OracleParty, at: OracleContext): boolean {
  const names = labelsOf(party)
    .filter(({ source }) => source === 'reserved')
    .map(({ key }) => key);
  switch (entity) {
    case 'all':
      return true;
    case 'none':
      return false;
    case 'world':
      return party.kind === 'address';
    case 'world-ipv4':
      return party.kind === 'address' && !party.address.includes(':');
    case 'world-ipv6':
      return party.kind === 'address' && party.address.includes(':');
    case 'cluster':
      return party.kind === 'pod'
        ? isOfCluster(party.labels, at.cluster)
        : party.kind !== 'address';
    case 'cluster-mesh':
      return party.kind !== 'address';
    default:
      return names.includes(entity);
  }
}

/** CIDRs are for what no cluster manages: neither pods nor nodes are in one. */
function isInCidr(cidr: CidrManifest, party: OracleParty, { groups }: OracleContext): boolean {
  if (party.kind !== 'address') return false;
  const { address } = party;
  const chosen = groups.filter(({ name, labels }) =>
    cidr.cidrGroupSelector ? selects(cidr.cidrGroupSelector, labels) : name === cidr.cidrGroupRef,
  );
  const prefixes = cidr.cidr !== undefined ? [cidr.cidr] : chosen.flatMap((each) => each.prefixes);
  return (
    prefixes.some((prefix) => contains(prefix, address)) &&
    !(cidr.except ?? []).some((prefix) => contains(prefix, address))
  );
}

function isBehind(service: ServiceManifest, party: OracleParty, at: InNamespace): boolean {
  const { k8sService: named, k8sServiceSelector: chosen } = service;
  return at.services
    .filter(({ name, namespace, labels }) => {
      const inNamespace = (asked: string | undefined) => !asked || asked === namespace;
      if (named) return named.serviceName === name && inNamespace(named.namespace);
      return (
        chosen !== undefined && inNamespace(chosen.namespace) && selects(chosen.selector, labels)
      );
    })
    .some(({ backends }) => backends.some((backend) => isSameParty(backend, party)));
}

/** Pods with the same labels are one to every policy. */
function isSameParty(one: OracleParty, other: OracleParty): boolean {
  const text = ({ ...party }: OracleParty) =>
    JSON.stringify(party.kind === 'pod' ? labelsOf(party) : party);
  return text(one) === text(other);
}

function labelsOf(party: OracleParty): Labels {
  const reserved = (key: string) => ({ source: 'reserved', key, value: '' });
  switch (party.kind) {
    case 'pod':
      return party.labels;
    case 'node':
      return [reserved(party.own ? 'host' : 'remote-node')];
    case 'reserved':
      return [reserved(party.name)];
    case 'address':
      return [reserved('world')];
    default:
      return party satisfies never;
  }
}

function namespaceLabels(labels: Labels): Labels {
  return labels
    .filter(({ key }) => key.startsWith(NAMESPACE_LABELS))
    .map(({ key, value }) => ({ source: 'k8s', key: key.slice(NAMESPACE_LABELS.length), value }));
}

/** Whether a text is a network, or an address alone. */
export function isPrefix(text: string): boolean {
  const [network = '', length] = text.split('/');
  return length === undefined || Number(length) <= bitsOf(network).length;
}

/** Whether every address of a network is one of another. */
export function isWithinPrefix(inner: string, outer: string): boolean {
  const [network = '', length] = inner.split('/');
  const outerLength = Number(outer.split('/')[1]);
  return contains(outer, network) && (length === undefined || Number(length) >= outerLength);
}

/** Whether a prefix, or a single address, contains an address: both as numbers in base two. */
function contains(prefix: string, address: string): boolean {
  const [network = '', length] = prefix.split('/');
  if (network.includes(':') !== address.includes(':')) return false;
  const bits = bitsOf(network);
  const count = length === undefined ? bits.length : Number(length);
  return bits.slice(0, count) === bitsOf(address).slice(0, count);
}

function bitsOf(address: string): string {
  if (!address.includes(':')) {
    return address
      .split('.')
      .map((part) => Number(part).toString(2).padStart(8, '0'))
      .join('');
  }
  const [head = '', tail] = address.split('::');
  const groups = (text: string) => text.split(':').filter((group) => group !== '');
  const before = groups(head);
  const after = tail === undefined ? [] : groups(tail);
  const zeros = Array<string>(8 - before.length - after.length).fill('0');
  return [...before, ...zeros, ...after]
    .map((group) => Number.parseInt(group, 16).toString(2).padStart(16, '0'))
    .join('');
}
