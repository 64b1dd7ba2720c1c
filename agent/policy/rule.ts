/** What a policy says, read from its manifest and not yet applied to anybody. */
import type { IpPrefix } from '../../mesh/wire/ip.ts';
import type { PolicyKind } from '../../mesh/wire/local-policy.ts';
import type { Selector } from './selector.ts';

/** Seen from the subject of a policy. */
export type Direction = 'ingress' | 'egress';

/** Other sides that a rule names. */
export type PeerMatch =
  /** Every identity. */
  | { readonly kind: 'any' }
  | { readonly kind: 'reserved'; readonly identities: readonly number[] }
  /** Whatever is neither an endpoint nor a node of the mesh, of one family or (undefined) of both. */
  | { readonly kind: 'world'; readonly family: 4 | 6 | undefined }
  /**
   * Endpoints of any cluster, and what has a reserved label, by labels. `ofEntity`: an entity stands for it, and so
   * `requires` of rules do not limit it.
   */
  | { readonly kind: 'selector'; readonly selector: Selector; readonly ofEntity?: true }
  /** Nodes of any cluster but the own one itself, by the node's labels and the label of its cluster (source `k8s`). */
  | { readonly kind: 'nodes'; readonly selector: Selector }
  /**
   * Addresses that belong to no endpoint and no node of the mesh, without those in `except`, each of which lies in
   * `prefix`. A length of 0 comes only with exceptions: else it is `world`.
   */
  | { readonly kind: 'cidr'; readonly prefix: IpPrefix; readonly except: readonly IpPrefix[] }
  /** Addresses of the CiliumCIDRGroups of this name or with these labels, with the same limit as `cidr`. */
  | {
      readonly kind: 'cidr-group';
      readonly group: { readonly name: string } | { readonly selector: Selector };
      readonly except: readonly IpPrefix[];
    }
  /** Backends of Services of the own cluster. A namespace of undefined: of every one. */
  | {
      readonly kind: 'service';
      readonly service:
        | { readonly namespace: string; readonly name: string }
        | { readonly namespace: string | undefined; readonly selector: Selector };
    };

/** Ports that a rule names. */
export type PortMatch =
  /**
   * An aligned block of port numbers: the high `portPrefixBits` bits of `port` count. All zero: everything. Of ICMP and
   * ICMPv6 (protocols 1 and 58) the port is the type of the message. `protocol` is the IANA number, 0 for any.
   */
  | {
      readonly kind: 'block';
      readonly protocol: number;
      readonly port: number;
      readonly portPrefixBits: number;
    }
  /** A port by the name that containers of the receiving side declare; protocol 0: TCP, UDP and SCTP. */
  | { readonly kind: 'named'; readonly protocol: number; readonly name: string };

/** One rule: any of the peers on any of the ports. No peers or no ports: it is about nobody. */
export interface Rule {
  /** Where the rule stands in its manifest: `spec.egress[1]`. */
  readonly path: string;
  readonly direction: Direction;
  readonly verdict: 'allow' | 'deny';
  readonly peers: readonly PeerMatch[];
  readonly ports: readonly PortMatch[];
  /**
   * Conditions (`fromRequires`, `toRequires`) that limit every `selector` peer of every rule of this direction and
   * verdict, of whatever policy, for those selected. A rule that has these alone is otherwise about nobody.
   */
  readonly requires: readonly Selector[];
}

/** A part of a policy that is not enforced as written. */
export interface PolicyProblem {
  readonly path: string;
  readonly message: string;
}

/** A policy as the compiler takes it. */
export interface ParsedPolicy {
  readonly kind: PolicyKind;
  /** Empty for a clusterwide one. */
  readonly namespace: string;
  readonly name: string;
  readonly generation: number;
  readonly clauses: readonly PolicyClause[];
  readonly problems: readonly PolicyProblem[];
}

/** One spec of a policy: whom it selects, and what it says about them. */
export interface PolicyClause {
  /** Pods, or nodes, of the own cluster that the clause is about. */
  readonly subject: { readonly kind: 'pods' | 'nodes'; readonly selector: Selector };
  /** What no rule allows is dropped on its way in. Deny rules hold without it, too. */
  readonly ingressEnforced: boolean;
  /** What no rule allows is dropped on its way out. */
  readonly egressEnforced: boolean;
  /**
   * A part that says whom the clause is about, or in which way, could not be read: both directions are closed for those
   * selected, whatever any policy allows. A last good version of the policy, if there was one, stays in force instead.
   */
  readonly isolates: boolean;
  readonly rules: readonly Rule[];
}

/** Every port of every protocol. */
export const ANY_PORT = {
  kind: 'block',
  protocol: 0,
  port: 0,
  portPrefixBits: 0,
} as const satisfies PortMatch;
