/**
 * What a change of policies would change: for whom, towards whom, on which ports. Complete over the identities that are
 * known: peers and ports between which no rule can tell stand for each other, and every kind of each is judged.
 */
import { type DirectionPolicy, type PeerRules, policyName, selectsEndpoint } from './compile.ts';
import type { Direction, ParsedPolicy, PolicyClause } from './rule.ts';
import { createPeerIndex, namedOf, type PartyClass } from './simulate-peers.ts';
import { atomsOf, type PortAtom, rangeTexts } from './simulate-ports.ts';
import {
  createPeerJudge,
  judgeSide,
  type Party,
  type PortQuestion,
  policyOf,
  type SideVerdict,
  type SubjectPolicy,
  subjectOf,
  type VerdictContext,
} from './sources-of-verdict.ts';

/** A set of policies with what their rules mean. */
export interface PolicySet {
  readonly policies: readonly ParsedPolicy[];
  readonly context: VerdictContext;
}

/** Two sets to be compared. Policies that stay are the same object in both. */
export interface Comparison {
  readonly before: PolicySet;
  readonly after: PolicySet;
}

/** A verdict that would change. */
export interface VerdictChange {
  /** Of the subject. */
  readonly direction: Direction;
  readonly subject: PartyClass;
  readonly peer: PartyClass;
  /** `80/TCP`, `any UDP`; empty: every port. */
  readonly ports: readonly string[];
  readonly before: SideVerdict;
  readonly after: SideVerdict;
}

/** What identities there are to judge. */
export interface Population {
  /** Endpoints of the own cluster, whom its policies may be about. */
  readonly subjects: readonly Party[];
  /** Identities of every cluster, and what else may be the other side. */
  readonly peers: readonly Party[];
}

const DIRECTIONS = ['ingress', 'egress'] as const satisfies Direction[];

/**
 * Compares two sets of policies. Yields now and then, so that others may work meanwhile; returns what would change, by
 * subject and peer.
 */
export function* simulate(
  { before, after }: Comparison,
  population: Population,
): Generator<void, VerdictChange[]> {
  const changes: VerdictChange[] = [];
  const subjects = yield* affectedSubjects({ before, after }, population.subjects);
  if (subjects.length === 0) return changes;
  const contexts = [before.context, after.context];
  const index = yield* createPeerIndex(population.peers, contexts);
  for (const subject of subjects) {
    for (const direction of subject.directions) {
      const groups = groupsOf(subject, direction);
      const rules = groups.flatMap((group) => group.rules);
      const peers = yield* index.classesOf(groups, direction);
      for (const peer of peers) {
        const atoms = atomsOf(rules, portOwner(subject.party, peer.example, direction));
        changes.push(...changesOf({ subject, peer, direction }, atoms, { before, after }));
        yield;
      }
    }
  }
  return changes;
}

/** What becomes of one flow on one side, before and after. */
export function judgeBoth(
  { before, after }: Comparison,
  flow: {
    readonly subject: Party;
    readonly peer: Party;
    readonly direction: Direction;
    readonly protocol: number;
    readonly port: number;
  },
): { readonly before: SideVerdict; readonly after: SideVerdict } {
  const judge = ({ policies, context }: PolicySet): SideVerdict =>
    judgeSide(policyOf(flow.subject, policies, context), flow, context);
  return { before: judge(before), after: judge(after) };
}

interface Subject {
  readonly party: Party;
  readonly members: Party[];
  readonly before: SubjectPolicy;
  readonly after: SubjectPolicy;
  /** In which the sets say something else. */
  readonly directions: readonly Direction[];
}

/** Subjects about whom the sets differ; those about whom they say the same together. */
function* affectedSubjects(
  { before, after }: Comparison,
  subjects: readonly Party[],
): Generator<void, Subject[]> {
  const numbers = new Map<object, number>();
  const numberOf = (rule: object): number => {
    const known = numbers.get(rule) ?? numbers.size;
    numbers.set(rule, known);
    return known;
  };
  const text = (direction: DirectionPolicy): string =>
    JSON.stringify({
      ...direction,
      peers: direction.peers.map(({ key, rules }) => [
        key,
        ...rules.map(({ rule }) => numberOf(rule)),
      ]),
    });
  const isSameContext = before.context === after.context;
  const changed = differingClauses(before.policies, after.policies);
  const groups = new Map<string, Subject>();
  for (const party of subjects) {
    yield;
    // Most are in none of the policies that change.
    if (isSameContext && !selectsEndpoint(changed, subjectOf(party))) continue;
    const sides = {
      before: policyOf(party, before.policies, before.context),
      after: policyOf(party, after.policies, after.context),
    };
    const texts = DIRECTIONS.map((direction) => [
      text(sides.before.policy[direction]),
      text(sides.after.policy[direction]),
    ]);
    const directions = DIRECTIONS.filter((_, index) => {
      const [was, becomes] = texts[index] ?? [];
      return was !== becomes || !isSameContext;
    });
    if (directions.length === 0) continue;
    const key = JSON.stringify([texts, party.namedPorts]);
    const group = groups.get(key);
    if (group === undefined) groups.set(key, { party, members: [party], directions, ...sides });
    else group.members.push(party);
  }
  return [...groups.values()];
}

/** Clauses of policies that are in one of the sets alone. */
function differingClauses(
  before: readonly ParsedPolicy[],
  after: readonly ParsedPolicy[],
): PolicyClause[] {
  const [was, becomes] = [new Set(before), new Set(after)];
  return [
    ...before.filter((policy) => !becomes.has(policy)),
    ...after.filter((policy) => !was.has(policy)),
  ].flatMap(({ clauses }) => clauses);
}

/** What either set says about a direction. */
function groupsOf({ before, after }: Subject, direction: Direction): readonly PeerRules[] {
  return [...before.policy[direction].peers, ...after.policy[direction].peers];
}

function portOwner(subject: Party, peer: Party, direction: Direction): Party {
  return direction === 'ingress' ? subject : peer;
}

/** Ports of one pair whose verdict changes, those with the same reason together. */
function changesOf(
  pair: { readonly subject: Subject; readonly peer: PartyClass; readonly direction: Direction },
  atoms: readonly PortAtom[],
  { before, after }: Comparison,
): VerdictChange[] {
  const { subject, peer, direction } = pair;
  const about = { direction, peer: peer.example };
  const was = createPeerJudge(subject.before, about, before.context);
  const becomes = createPeerJudge(subject.after, about, after.context);
  const groups = new Map<string, { readonly question: PortQuestion; readonly atoms: PortAtom[] }>();
  for (const atom of atoms) {
    const question = { protocol: atom.protocol, port: atom.first };
    const sides = [was.decide(question), becomes.decide(question)];
    if (sides[0]?.verdict === sides[1]?.verdict) continue;
    const key = JSON.stringify(
      sides.map(({ verdict, rules = [] }) => [
        verdict,
        ...rules.map(({ policy, rule }) => `${policyName(policy)} ${rule.path}`),
      ]),
    );
    const group = groups.get(key);
    if (group === undefined) groups.set(key, { question, atoms: [atom] });
    else group.atoms.push(atom);
  }
  return [...groups.values()].map((group) => ({
    direction,
    subject: {
      example: subject.party,
      count: subject.members.length,
      identities: namedOf(subject.members),
    },
    peer,
    ports: group.atoms.length === atoms.length ? [] : rangeTexts(group.atoms),
    before: was.explain(group.question),
    after: becomes.explain(group.question),
  }));
}
