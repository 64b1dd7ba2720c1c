/**
 * Which rules make a verdict: read from the rules themselves, without what the kernel holds, so that it works for
 * policies that are in no kernel yet. What the kernel holds is compared with it by whoever has both.
 */
import { CLUSTER_LABEL, type Labels } from '../../mesh/wire/identity.ts';
import { localIdentityScope, reservedIdentity } from '../../mesh/wire/ids.ts';
import { type IpAddress, type IpPrefix, ipFamily, prefixContains } from '../../mesh/wire/ip.ts';
import {
  compileEndpoint,
  type DirectionPolicy,
  type EndpointPolicy,
  type PolicySubject,
  type RowPeer,
  type SourcedRule,
  selectsEndpoint,
} from './compile.ts';
import type { EnforcementMode } from './enforcement-mode.ts';
import type { NamedPorts } from './peer-sets.ts';
import type { Direction, ParsedPolicy, PeerMatch, PolicyClause, PortMatch } from './rule.ts';
import { selectorMatches } from './selector.ts';

/** One side of a packet, as far as policies can tell it from others. */
export interface Party {
  /** Number of the identity; 0: it has none yet. */
  readonly identity: number;
  readonly labels: Labels;
  /** `world`: neither an endpoint nor a node of the mesh. */
  readonly kind: 'endpoint' | 'node' | 'world';
  /** Undefined: any one with these labels. */
  readonly address: IpAddress | undefined;
  /** Labels of the Node, where it is one and they are known. */
  readonly nodeLabels: Labels;
  readonly namedPorts: NamedPorts;
}

/** A port of a protocol; for ICMP the type of the message. Both 0: any packet at all. */
export interface PortQuestion {
  /** IANA number. */
  readonly protocol: number;
  readonly port: number;
}

/** What rules mean beyond themselves. */
export interface VerdictContext {
  readonly mode: EnforcementMode;
  /** A pod's own node always reaches it, whatever policies say. */
  readonly allowLocalhost: boolean;
  /** Prefixes of the CiliumCIDRGroups of that name or with those labels, as far as they can be read. */
  cidrsOf(group: GroupReference): readonly IpPrefix[];
  /** Whether one of them cannot be read. */
  isUnreadable(group: GroupReference): boolean;
  /** Addresses of the backends of Services, and the identities behind them. */
  backendsOf(service: Extract<PeerMatch, { kind: 'service' }>['service']): ServiceMembers;
}

/** What it takes to know whom a rule names. */
export type PeerContext = Pick<VerdictContext, 'cidrsOf' | 'isUnreadable' | 'backendsOf'>;

/** Groups by their name or their labels. */
export type GroupReference = Extract<PeerMatch, { kind: 'cidr-group' }>['group'];

/** Who serves. */
export interface ServiceMembers {
  /** Of endpoints. */
  readonly identities: ReadonlySet<number>;
  /** Of whoever is outside of the mesh. */
  readonly addresses: ReadonlySet<IpAddress>;
}

/** Everything that policies say about one endpoint or node, for the questions about it. */
export interface SubjectPolicy {
  readonly subject: Party;
  readonly policy: EndpointPolicy;
}

/** Why a rule that looks as if it were meant does not apply. */
export interface NearMiss extends SourcedRule {
  /**
   * `port`: it names the peer, not the port; `peer`: the port, not the peer; `cluster`: all fits but that its selector
   * means another cluster.
   */
  readonly because: 'port' | 'peer' | 'cluster';
}

/** What one side says to a packet, and by which rule. */
export type SideVerdict =
  | {
      readonly verdict: 'allowed';
      /** The last two are about nodes: `fixedHostVerdict` says what they mean. */
      readonly because: 'not-enforced' | 'mode-never' | 'own-node' | 'not-of-mesh' | 'always-open';
    }
  | {
      readonly verdict: 'allowed';
      readonly because: 'rule';
      readonly rules: readonly SourcedRule[];
    }
  | { readonly verdict: 'denied'; readonly because: 'rule'; readonly rules: readonly SourcedRule[] }
  | {
      readonly verdict: 'denied';
      readonly because: 'isolated';
      /** Policies that cannot be read in part. */
      readonly policies: readonly ParsedPolicy[];
    }
  | {
      readonly verdict: 'denied';
      /** `no-rule`: policies select it and none allows this; `mode-always`: none selects it. */
      readonly because: 'no-rule' | 'mode-always';
      /** Policies that close this direction. */
      readonly policies: readonly ParsedPolicy[];
      readonly nearMisses: readonly NearMiss[];
    };

const HOST = reservedIdentity('host');
const REMOTE_NODE = reservedIdentity('remote-node');
/** TCP, UDP, SCTP: what a port of protocol 0 (`ANY`) with a name stands for. */
const PORT_PROTOCOLS: readonly number[] = [6, 17, 132];
const MAX_NEAR_MISSES = 5;

/** Gathers what policies say about a pod or node of the own cluster. */
export function policyOf(
  subject: Party,
  policies: Iterable<ParsedPolicy>,
  { mode }: Pick<VerdictContext, 'mode'>,
): SubjectPolicy {
  return { subject, policy: compileEndpoint(subjectOf(subject), policies, { mode }) };
}

/** Judges one direction of the subject. A deny wins over every allow, as in Cilium. */
export function judgeSide(
  subject: SubjectPolicy,
  question: PortQuestion & { readonly direction: Direction; readonly peer: Party },
  context: VerdictContext,
): SideVerdict {
  return createPeerJudge(subject, question, context).explain(question);
}

/** What a subject says to one other side in one direction, port by port. */
export interface PeerJudge {
  /** Rules that decide, or undefined where none does; what `explain` says, without its reasons. */
  decide(port: PortQuestion): {
    readonly verdict: SideVerdict['verdict'];
    readonly rules: readonly SourcedRule[] | undefined;
  };
  explain(port: PortQuestion): SideVerdict;
}

/** Looks once which rules name the other side. */
export function createPeerJudge(
  { subject, policy }: SubjectPolicy,
  { direction, peer }: { readonly direction: Direction; readonly peer: Party },
  context: VerdictContext,
): PeerJudge {
  const fixed = fixedVerdict({ subject, policy }, { direction, peer }, context);
  if (fixed !== undefined) {
    const { verdict } = fixed;
    return { decide: () => ({ verdict, rules: undefined }), explain: () => fixed };
  }
  const says = policy[direction];
  const isOpen = !says.enforced || says.isOpenOtherwise;
  const portOwner = direction === 'ingress' ? subject : peer;
  const naming = rulesFor(says, peer, context);
  const decide: PeerJudge['decide'] = (port) => {
    const fitting = naming.filter(({ rule }) => portsMatch(rule.ports, port, portOwner));
    const denying = fitting.filter(({ rule }) => rule.verdict === 'deny');
    if (denying.length > 0) return { verdict: 'denied', rules: denying };
    const allowing = fitting.filter(({ rule }) => rule.verdict === 'allow');
    if (allowing.length > 0) return { verdict: 'allowed', rules: allowing };
    return { verdict: isOpen ? 'allowed' : 'denied', rules: undefined };
  };
  return {
    decide,
    explain(port) {
      const { verdict, rules } = decide(port);
      if (rules !== undefined) return { verdict, because: 'rule', rules };
      if (verdict === 'allowed') return { verdict, because: 'not-enforced' };
      const closing = policiesWhere({ subject, policy }, ({ ingressEnforced, egressEnforced }) =>
        direction === 'ingress' ? ingressEnforced : egressEnforced,
      );
      return {
        verdict,
        because: closing.length === 0 ? 'mode-always' : 'no-rule',
        policies: closing,
        nearMisses: nearMisses(says, { question: { ...port, peer }, portOwner, context }),
      };
    },
  };
}

/** What holds whatever the port is; undefined: rules decide. */
function fixedVerdict(
  { subject, policy }: SubjectPolicy,
  { direction, peer }: { readonly direction: Direction; readonly peer: Party },
  context: VerdictContext,
): SideVerdict | undefined {
  if (context.mode === 'never') return { verdict: 'allowed', because: 'mode-never' };
  if (direction === 'ingress' && context.allowLocalhost && peer.identity === HOST) {
    return { verdict: 'allowed', because: 'own-node' };
  }
  if (!policy[direction].isolated) return undefined;
  const policies = policiesWhere({ subject, policy }, ({ isolates }) => isolates);
  return { verdict: 'denied', because: 'isolated', policies };
}

/** Policies that select the subject by such a clause. */
function policiesWhere(
  { subject, policy }: SubjectPolicy,
  is: (clause: PolicyClause) => boolean,
): ParsedPolicy[] {
  return policy.policies.filter(({ clauses }) =>
    selectsEndpoint(clauses.filter(is), subjectOf(subject)),
  );
}

/** Rules of a direction that name somebody, each once. */
function rulesFor({ peers }: DirectionPolicy, peer: Party, context: PeerContext): SourcedRule[] {
  const found = new Set<SourcedRule>();
  for (const group of peers) {
    if (!peerMatches(group.peer, peer, context)) continue;
    for (const sourced of group.rules) found.add(sourced);
  }
  return [...found];
}

/** Whether somebody is among the peers that a part of a rule names. */
export function peerMatches(match: RowPeer, peer: Party, context: PeerContext): boolean {
  switch (match.kind) {
    case 'any':
      return true;
    // Says in rows what `any` beside it says already.
    case 'named-ports':
      return false;
    case 'reserved':
      return (
        match.identities.includes(peer.identity) ||
        (isNodeIdentity(peer.identity) && match.identities.includes(REMOTE_NODE))
      );
    case 'world':
      return (
        peer.kind === 'world' && (match.family === undefined || match.family === familyOf(peer))
      );
    case 'selector':
      return selectorMatches(match.selector, peer.labels);
    case 'nodes':
      // The node itself is `host`: it is named by that alone.
      return (
        peer.kind === 'node' &&
        peer.identity !== HOST &&
        selectorMatches(match.selector, peer.nodeLabels)
      );
    case 'cidr':
      return isWithin(peer, [match.prefix], match.except);
    case 'cidr-group':
      return isWithin(peer, context.cidrsOf(match.group), match.except);
    // What cannot be read may mean anybody outside: this stands beside the group in deny rules alone.
    case 'unreadable-group':
      return peer.kind === 'world' && context.isUnreadable(match.group);
    case 'service': {
      const { addresses, identities } = context.backendsOf(match.service);
      if (peer.kind === 'endpoint') return identities.has(peer.identity);
      return peer.kind === 'world' && peer.address !== undefined && addresses.has(peer.address);
    }
    default:
      return match satisfies never;
  }
}

/** Whether one of the ports is the one asked for. `owner`: whose names of ports count. */
function portsMatch(
  ports: readonly PortMatch[],
  question: PortQuestion,
  owner: Pick<Party, 'namedPorts'>,
): boolean {
  return ports.some((match) => {
    if (match.kind === 'named') {
      return owner.namedPorts.some(
        ({ name, protocol, port }) =>
          name === match.name &&
          (match.protocol === 0
            ? PORT_PROTOCOLS.includes(protocol)
            : protocol === match.protocol) &&
          protocol === question.protocol &&
          port === question.port,
      );
    }
    if (match.protocol === 0) return true;
    if (match.protocol !== question.protocol) return false;
    const dropped = 16 - match.portPrefixBits;
    return match.port >> dropped === question.port >> dropped;
  });
}

/** One that a node gets by its labels, instead of `remote-node`. */
function isNodeIdentity(identity: number): boolean {
  return localIdentityScope(identity)?.scope === 'node';
}

/** Somebody as policies select whom they are about. */
export function subjectOf({ kind, labels, nodeLabels }: Party): PolicySubject {
  return kind === 'node' ? { kind: 'nodes', labels: nodeLabels } : { kind: 'pods', labels };
}

function isWithin(
  { kind, address }: Party,
  prefixes: readonly IpPrefix[],
  except: readonly IpPrefix[],
): boolean {
  if (kind !== 'world' || address === undefined) return false;
  return (
    prefixes.some((prefix) => prefixContains(prefix, address)) &&
    !except.some((prefix) => prefixContains(prefix, address))
  );
}

/** Undefined: the world of both. */
function familyOf({ address, identity }: Party): 4 | 6 | undefined {
  if (address !== undefined) return ipFamily(address);
  if (identity === reservedIdentity('world-ipv4')) return 4;
  return identity === reservedIdentity('world-ipv6') ? 6 : undefined;
}

/** Whether a selector fits but for the cluster that it names or, by default, means. */
function isOtherCluster(match: RowPeer, peer: Party): boolean {
  if (match.kind !== 'selector') return false;
  const others = match.selector.filter(({ key }) => key !== CLUSTER_LABEL);
  return (
    others.length < match.selector.length &&
    selectorMatches(others, peer.labels) &&
    !selectorMatches(match.selector, peer.labels)
  );
}

function nearMisses(
  { peers }: DirectionPolicy,
  about: {
    readonly question: PortQuestion & { readonly peer: Party };
    readonly portOwner: Party;
    readonly context: VerdictContext;
  },
): NearMiss[] {
  const { question, portOwner, context } = about;
  const found = new Map<SourcedRule, NearMiss['because']>();
  for (const group of peers) {
    const isPeer = peerMatches(group.peer, question.peer, context);
    const isOther = isOtherCluster(group.peer, question.peer);
    for (const sourced of group.rules) {
      if (sourced.rule.verdict === 'deny') continue;
      const isPort = portsMatch(sourced.rule.ports, question, portOwner);
      const because = isPort ? (isOther ? 'cluster' : 'peer') : isPeer ? 'port' : undefined;
      const before = found.get(sourced);
      if (because === undefined || rankOf(before) <= rankOf(because)) continue;
      found.set(sourced, because);
    }
  }
  return [...found]
    .map(([sourced, because]) => ({ ...sourced, because }))
    .sort((a, b) => rankOf(a.because) - rankOf(b.because))
    .slice(0, MAX_NEAR_MISSES);
}

/** The most telling ones first. */
function rankOf(because: NearMiss['because'] | undefined): number {
  return because === undefined ? 3 : { cluster: 0, port: 1, peer: 2 }[because];
}
