import { type ReservedIdentityName, reservedIdentity } from '../../mesh/wire/ids.ts';
import type { Selector } from './selector.ts';

/** Other sides that a rule names. */
export type PeerMatch =
  | { readonly kind: 'any' }
  | { readonly kind: 'reserved'; readonly identities: readonly number[] }
  | { readonly kind: 'selector'; readonly selector: Selector };

/** Ports that a rule names: an aligned block of port numbers of one protocol, or everything (all zero). */
export interface PortMatch {
  /** IANA number, 0 for any. */
  readonly protocol: number;
  readonly port: number;
  readonly portPrefixBits: number;
}

/** An allow: any of the peers on any of the ports. No peers: it allows nothing. */
export interface Rule {
  readonly peers: readonly PeerMatch[];
  readonly ports: readonly PortMatch[];
}

/** A part of a policy that is not enforced as written. */
export interface PolicyProblem {
  readonly path: string;
  readonly message: string;
}

/** A policy as the compiler takes it. */
export interface ParsedPolicy {
  readonly kind: 'NetworkPolicy' | 'CiliumNetworkPolicy' | 'CiliumClusterwideNetworkPolicy';
  /** Empty for a clusterwide one. */
  readonly namespace: string;
  readonly name: string;
  readonly generation: number;
  readonly clauses: readonly PolicyClause[];
  readonly problems: readonly PolicyProblem[];
}

/** One spec of a policy: whom it selects, and what it says about them. */
export interface PolicyClause {
  /** Pods of the own cluster that the clause is about. */
  readonly subject: Selector;
  /** What no rule allows is dropped at the pods selected. */
  readonly ingressEnforced: boolean;
  /** Egress rules cannot be honoured by this version: everything that leaves the pods selected is dropped. */
  readonly egressEnforced: boolean;
  /**
   * The clause says in part what cannot be enforced and would have narrowed what other policies allow (a deny rule, an
   * unreadable subject): no rule of any policy is honoured for the pods selected.
   */
  readonly isolates: boolean;
  readonly rules: readonly Rule[];
}

/** Every port of every protocol. */
export const ANY_PORT: PortMatch = { protocol: 0, port: 0, portPrefixBits: 0 };

const CLUSTER_ENTITIES = ['host', 'remote-node', 'init', 'ingress', 'health', 'unmanaged'] as const;

/** Other sides by Cilium's entity names (`pkg/policy/api/entity.go`), or undefined for one that is not supported. */
export function entityPeers(entity: string, clusterSelector: Selector): PeerMatch[] | undefined {
  switch (entity) {
    case 'all':
      return [{ kind: 'any' }];
    case 'world':
      return [reserved('world', 'world-ipv4', 'world-ipv6')];
    case 'cluster':
      return [reserved(...CLUSTER_ENTITIES), { kind: 'selector', selector: clusterSelector }];
    case 'host':
    case 'remote-node':
    case 'init':
    case 'ingress':
    case 'health':
    case 'unmanaged':
      return [reserved(entity)];
    case 'none':
      return [];
    default:
      return undefined;
  }
}

function reserved(...names: readonly ReservedIdentityName[]): PeerMatch {
  return { kind: 'reserved', identities: names.map(reservedIdentity) };
}

/** Splits an inclusive range of ports into aligned blocks, the fewest there are (at most 30). */
export function portBlocks(protocol: number, first: number, last: number): PortMatch[] {
  const blocks: PortMatch[] = [];
  for (let start = first; start <= last; ) {
    let size = 1;
    while (start % (size * 2) === 0 && start + size * 2 - 1 <= last && size < 65_536) size *= 2;
    blocks.push({ protocol, port: start, portPrefixBits: 16 - Math.log2(size) });
    start += size;
  }
  return blocks;
}
