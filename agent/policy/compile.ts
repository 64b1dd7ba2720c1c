import type { Labels } from '../../mesh/wire/identity.ts';
import type { EnforcementMode } from './enforcement-mode.ts';
import type { Direction, ParsedPolicy, PeerMatch, PolicyClause, Rule } from './rule.ts';
import { type Selector, selectorKey, selectorMatches } from './selector.ts';

/** Whom policies may select: a pod by the labels of its identity, or this node by those of its Node. */
export interface PolicySubject {
  readonly kind: PolicyClause['subject']['kind'];
  readonly labels: Labels;
}

/** A rule with the policy it stands in. */
export interface SourcedRule {
  readonly policy: ParsedPolicy;
  readonly rule: Rule;
}

/**
 * Other sides as rows are made for them: those of rules, and (`named-ports`) every identity of which named ports are known,
 * for a rule that opens a port by its name to everybody, and (`unreadable-group`) the whole world while a group of addresses
 * that is denied cannot be read.
 */
export type RowPeer =
  | PeerMatch
  | { readonly kind: 'named-ports' }
  | {
      readonly kind: 'unreadable-group';
      readonly group: Extract<PeerMatch, { kind: 'cidr-group' }>['group'];
    };

/** What all rules of one direction say about the same other sides. */
export interface PeerRules {
  /** Equal for the same other sides in whatever rules. */
  readonly key: string;
  /** A selector with what `fromRequires` and `toRequires` add to it. */
  readonly peer: RowPeer;
  readonly rules: readonly SourcedRule[];
}

/** What all policies together say about one direction of a subject, before it is known which identities exist. */
export interface DirectionPolicy {
  /** What no row allows is dropped. */
  readonly enforced: boolean;
  /** Nothing is allowed, whatever rules say. */
  readonly isolated: boolean;
  /** What no rule denies is allowed: there are deny rules, and no clause closes the direction. */
  readonly isOpenOtherwise: boolean;
  /** Empty where no rule can make a difference. */
  readonly peers: readonly PeerRules[];
}

/** What all policies together say about a subject. */
export interface EndpointPolicy {
  readonly ingress: DirectionPolicy;
  readonly egress: DirectionPolicy;
  /** Policies that select it. */
  readonly policies: readonly ParsedPolicy[];
}

const OPEN: DirectionPolicy = {
  enforced: false,
  isolated: false,
  isOpenOtherwise: false,
  peers: [],
};
const CLOSED: DirectionPolicy = { ...OPEN, enforced: true };

/** Gathers what policies say about a subject. Policies that do not select it change nothing. */
export function compileEndpoint(
  subject: PolicySubject,
  policies: Iterable<ParsedPolicy>,
  options: { readonly mode: EnforcementMode } = { mode: 'default' },
): EndpointPolicy {
  const selecting: ParsedPolicy[] = [];
  const clauses: { policy: ParsedPolicy; clause: PolicyClause }[] = [];
  for (const policy of policies) {
    const before = clauses.length;
    for (const clause of policy.clauses) {
      if (isAbout(clause, subject)) clauses.push({ policy, clause });
    }
    if (clauses.length > before) selecting.push(policy);
  }
  if (options.mode === 'never') return { ingress: OPEN, egress: OPEN, policies: selecting };
  // Closed for no reason, a node would be lost to its cluster.
  const closesAll = options.mode === 'always' && subject.kind === 'pods';
  const isolated = clauses.some(({ clause }) => clause.isolates);
  const direction = (name: Direction): DirectionPolicy => {
    if (isolated) return { ...CLOSED, isolated };
    const isClosed =
      closesAll ||
      clauses.some(({ clause }) =>
        name === 'ingress' ? clause.ingressEnforced : clause.egressEnforced,
      );
    return compileDirection(rulesOf(clauses, name), isClosed);
  };
  return { ingress: direction('ingress'), egress: direction('egress'), policies: selecting };
}

function rulesOf(
  clauses: readonly { policy: ParsedPolicy; clause: PolicyClause }[],
  direction: Direction,
): SourcedRule[] {
  const rules: SourcedRule[] = [];
  for (const { policy, clause } of clauses) {
    for (const rule of clause.rules) if (rule.direction === direction) rules.push({ policy, rule });
  }
  return rules;
}

function compileDirection(rules: readonly SourcedRule[], isClosed: boolean): DirectionPolicy {
  const denies = rules.some(({ rule }) => rule.verdict === 'deny' && rule.peers.length > 0);
  // What is open needs no allow.
  if (!isClosed && !denies) return OPEN;
  const relevant = isClosed ? rules : rules.filter(({ rule }) => rule.verdict === 'deny');
  const requiredFor = (verdict: Rule['verdict']): Selector[] =>
    rules.flatMap(({ rule }) => (rule.verdict === verdict ? rule.requires : []));
  const required = { allow: requiredFor('allow'), deny: requiredFor('deny') };
  const groups = new Map<string, { peer: RowPeer; rules: SourcedRule[] }>();
  for (const sourced of relevant) {
    for (const peer of rowPeers(sourced.rule, required[sourced.rule.verdict])) {
      const key = peerKey(peer);
      const group = groups.get(key);
      if (group === undefined) groups.set(key, { peer, rules: [sourced] });
      else if (group.rules.at(-1) !== sourced) group.rules.push(sourced);
    }
  }
  return {
    enforced: true,
    isolated: false,
    isOpenOtherwise: !isClosed,
    peers: [...groups].map(([key, group]) => ({ key, ...group })),
  };
}

function* rowPeers(rule: Rule, required: readonly Selector[]): Generator<RowPeer> {
  for (const peer of rule.peers) {
    if (peer.kind === 'selector' && peer.ofEntity !== true && required.length > 0) {
      yield { kind: 'selector', selector: [...peer.selector, ...required.flat()] };
    } else yield peer;
    // A name means another number for each of the others, so that there is no row for any identity.
    const isByName = rule.ports.some(({ kind }) => kind === 'named');
    if (peer.kind === 'any' && rule.direction === 'egress' && isByName) {
      yield { kind: 'named-ports' };
    }
    if (peer.kind === 'cidr-group' && rule.verdict === 'deny') {
      yield { kind: 'unreadable-group', group: peer.group };
    }
  }
}

/** Text that is equal for peers that are the same. */
export function peerKey(peer: RowPeer): string {
  switch (peer.kind) {
    case 'any':
    case 'named-ports':
      return peer.kind;
    case 'reserved':
      return `reserved ${[...peer.identities].sort((a, b) => a - b).join()}`;
    case 'world':
      return `world ${peer.family ?? ''}`;
    case 'selector':
    case 'nodes':
      return `${peer.kind} ${selectorKey(peer.selector)}`;
    case 'cidr':
      return `cidr ${peer.prefix} ${[...peer.except].sort().join()}`;
    case 'cidr-group':
      return `cidr-group ${[...peer.except].sort().join()} ${groupKey(peer.group)}`;
    case 'unreadable-group':
      return `unreadable-group ${groupKey(peer.group)}`;
    case 'service': {
      const { service } = peer;
      const name = 'name' in service ? service.name : `with ${selectorKey(service.selector)}`;
      return `service ${service.namespace ?? ''}/${name}`;
    }
    default:
      return peer satisfies never;
  }
}

function groupKey(group: Extract<PeerMatch, { kind: 'cidr-group' }>['group']): string {
  return 'name' in group ? group.name : `with ${selectorKey(group.selector)}`;
}

/** Name of a policy for people. */
export function policyName(policy: Pick<ParsedPolicy, 'kind' | 'namespace' | 'name'>): string {
  const { kind, namespace, name } = policy;
  return `${kind} ${namespace === '' ? name : `${namespace}/${name}`}`;
}

/** Whether a policy has a clause about a subject. */
export function selectsEndpoint(clauses: readonly PolicyClause[], subject: PolicySubject): boolean {
  return clauses.some((clause) => isAbout(clause, subject));
}

/** Whether some policy closes what pods may call. */
export function limitsEgress({ clauses }: ParsedPolicy): boolean {
  return clauses.some(
    ({ subject, egressEnforced, isolates, rules }) =>
      subject.kind === 'pods' &&
      (egressEnforced ||
        isolates ||
        rules.some(({ direction, verdict }) => direction === 'egress' && verdict === 'deny')),
  );
}

function isAbout({ subject }: PolicyClause, { kind, labels }: PolicySubject): boolean {
  return subject.kind === kind && selectorMatches(subject.selector, labels);
}
