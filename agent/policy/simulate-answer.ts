/** What an agent answers when it is asked what a change of policies would do. */
import { type ClusterName, localIdentityScope } from '../../mesh/wire/ids.ts';
import type { LocalPolicy } from '../../mesh/wire/local-policy.ts';
import { type CidrGroup, parseCidrGroup } from './cidr-group.ts';
import { policyName } from './compile.ts';
import { parsePolicy } from './parse.ts';
import type { Direction, ParsedPolicy, PolicyProblem } from './rule.ts';
import { type Comparison, judgeBoth, type Population, simulate } from './simulate.ts';
import type { RecordedFlow } from './simulate-flows.ts';
import type { PartyClass } from './simulate-peers.ts';
import type { Party } from './sources-of-verdict.ts';
import { createVerdictContext } from './sources-of-verdict-context.ts';
import { type VerdictInfo, verdictInfo } from './sources-of-verdict-info.ts';
import { TraceError } from './trace-error.ts';
import { resolveParty } from './trace-party.ts';
import {
  kindOfIdentity,
  labelTexts,
  type PartyInfo,
  type PolicyView,
  partyOf,
} from './trace-view.ts';

/** A change of policies. */
export interface SimulateRequest {
  /** New and changed objects. */
  readonly manifests: readonly LocalPolicy[];
  /** Objects that go: `name`, `namespace/name`, with the kind and a blank in front where that is not enough. */
  readonly deleted: readonly string[];
  /** Flows to judge besides. */
  readonly flows: readonly RecordedFlow[];
  /** Whether all identities are judged, too. */
  readonly withPairs: boolean;
}

/** Those who act as one, for people. */
export interface ClassInfo {
  /** Labels of one of them. */
  readonly labels: readonly string[];
  readonly cluster: string | undefined;
  readonly kind: PartyInfo['kind'];
  /** Of one that is outside of the mesh: an address; undefined: any that no rule names. */
  readonly address: string | undefined;
  /** How many identities they are. */
  readonly count: number;
  /** Of the first of them. */
  readonly identities: readonly number[];
}

/** A verdict that would change, for people. */
export interface ChangeInfo {
  readonly direction: Direction;
  readonly subject: ClassInfo;
  readonly peer: ClassInfo;
  /** Empty: every port. */
  readonly ports: readonly string[];
  readonly before: VerdictInfo;
  readonly after: VerdictInfo;
}

/** A recorded flow whose verdict would change, on one side. */
export interface FlowChange {
  readonly flow: RecordedFlow;
  readonly direction: Direction;
  readonly before: VerdictInfo;
  readonly after: VerdictInfo;
}

/** The answer. */
export interface SimulateAnswer {
  readonly cluster: string;
  readonly node: string;
  /** What becomes of each object that is named: `CiliumNetworkPolicy demo/web`. */
  readonly objects: readonly {
    readonly name: string;
    readonly becomes: 'added' | 'changed' | 'deleted' | 'unchanged' | 'kept';
    /** What of it would not be enforced as written. */
    readonly problems: readonly PolicyProblem[];
  }[];
  readonly changes: readonly ChangeInfo[];
  readonly flowChanges: readonly FlowChange[];
  /** Flows of which a side is the cluster's, and flows of others, of which nothing is known here. */
  readonly flowsJudged: number;
  readonly flowsOfOthers: number;
}

/** How policies are read. */
export interface ReadOptions {
  readonly clusterName: ClusterName;
  readonly defaultLocalCluster: boolean;
}

/** Simulates a change. Yields now and then. Throws TraceError `bad-question` for a name that is none or not one alone. */
export function* answerSimulation(
  request: SimulateRequest,
  view: PolicyView,
  options: ReadOptions,
): Generator<void, SimulateAnswer> {
  const { comparison, objects } = changeSets(request, view, options);
  const changes: ChangeInfo[] = [];
  if (request.withPairs) {
    for (const change of yield* simulate(comparison, yield* populationOf(view))) {
      changes.push({
        direction: change.direction,
        subject: classInfo(change.subject, view),
        peer: classInfo(change.peer, view),
        ports: change.ports,
        before: verdictInfo(change.before, view),
        after: verdictInfo(change.after, view),
      });
    }
  }
  const flowChanges: FlowChange[] = [];
  let flowsJudged = 0;
  for (const recorded of request.flows) {
    const flow = {
      ...recorded,
      from: settled(recorded.from, view),
      to: settled(recorded.to, view),
    };
    let isOurs = false;
    for (const direction of ['egress', 'ingress'] as const) {
      const [own, other] = direction === 'egress' ? [flow.from, flow.to] : [flow.to, flow.from];
      // Policies about nodes are not enforced.
      if (own.cluster !== view.cluster || own.kind !== 'endpoint') continue;
      isOurs = true;
      const sides = judgeBoth(comparison, {
        subject: partyOf(own),
        peer: partyOf(other),
        direction,
        protocol: flow.protocol,
        port: flow.port,
      });
      if (sides.before.verdict === sides.after.verdict) continue;
      flowChanges.push({
        flow,
        direction,
        before: verdictInfo(sides.before, view),
        after: verdictInfo(sides.after, view),
      });
    }
    flowsJudged += Number(isOurs);
    yield;
  }
  return {
    cluster: view.cluster,
    node: view.node,
    objects,
    changes,
    flowChanges,
    flowsJudged,
    flowsOfOthers: request.flows.length - flowsJudged,
  };
}

type ObjectChange = SimulateAnswer['objects'][number];

/** The set there is, and the set that would be. */
function changeSets(
  request: SimulateRequest,
  view: PolicyView,
  options: ReadOptions,
): { readonly comparison: Comparison; readonly objects: readonly ObjectChange[] } {
  const policies = new Map(view.policies.map((policy) => [policyName(policy), policy]));
  const groups = new Map(view.groups().map((group) => [groupName(group), group]));
  const objects: ObjectChange[] = [];
  let areGroupsChanged = false;
  for (const wanted of request.deleted) {
    const name = onlyMatch(wanted, [...policies.keys(), ...groups.keys()], view);
    if (groups.delete(name)) areGroupsChanged = true;
    policies.delete(name);
    objects.push({ name, becomes: 'deleted', problems: [] });
  }
  for (const manifest of request.manifests) {
    const name = policyName(manifest);
    if (manifest.kind === 'CiliumCIDRGroup') {
      const group = parseCidrGroup(manifest);
      const becomes = becomesOf(groups.get(name), group, group.prefixes === undefined);
      objects.push({ name, becomes, problems: group.problems });
      if (becomes === 'unchanged' || becomes === 'kept') continue;
      groups.set(name, group);
      areGroupsChanged = true;
      continue;
    }
    const parsed = parsePolicy(manifest, options);
    const isUnreadable = parsed.clauses.some(({ isolates }) => isolates);
    const becomes = becomesOf(policies.get(name), parsed, isUnreadable);
    objects.push({ name, becomes, problems: parsed.problems });
    if (becomes !== 'unchanged' && becomes !== 'kept') policies.set(name, parsed);
  }
  const before = { policies: view.policies, context: view };
  const context = areGroupsChanged
    ? createVerdictContext({
        mode: view.mode,
        allowLocalhost: view.allowLocalhost,
        groups: () => groups.values(),
        services: () => view.services(),
        identityOf: (address) => view.addressRow(address)?.identity,
      })
    : before.context;
  return { comparison: { before, after: { policies: [...policies.values()], context } }, objects };
}

/** What cannot be read leaves what was there before in force, as agents do. */
function becomesOf(
  before: ParsedPolicy | Pick<CidrGroup, 'labels' | 'prefixes'> | undefined,
  after: ParsedPolicy | CidrGroup,
  isUnreadable: boolean,
): ObjectChange['becomes'] {
  if (before === undefined) return 'added';
  if (isUnreadable) return 'kept';
  const text = (value: ParsedPolicy | Pick<CidrGroup, 'labels' | 'prefixes'>): string =>
    JSON.stringify('clauses' in value ? value.clauses : [value.labels, value.prefixes]);
  return text(before) === text(after) ? 'unchanged' : 'changed';
}

function onlyMatch(wanted: string, names: readonly string[], view: PolicyView): string {
  const found = names.filter(
    (name) => name === wanted || name.endsWith(` ${wanted}`) || name.endsWith(`/${wanted}`),
  );
  const [only] = found;
  if (only !== undefined && found.length === 1) return only;
  throw new TraceError(
    'bad-question',
    only === undefined
      ? `cannot delete ${wanted}: cluster ${view.cluster} has no policy of that name; \`clustermesh policy list\` shows what there is`
      : `cannot tell which ${wanted} is meant: give one of ${found.map((name) => JSON.stringify(name)).join(', ')}`,
  );
}

function groupName({ name }: { readonly name: string }): string {
  return policyName({ kind: 'CiliumCIDRGroup', namespace: '', name });
}

/** Everybody whom policies may be about, and who may be the other side. */
function* populationOf(view: PolicyView): Generator<void, Population> {
  // Policies about nodes are not enforced: nodes are the other side alone.
  const subjects: Party[] = [];
  const peers = [...view.nodes()].map(partyOf);
  for (const [identity, labels] of view.identities()) {
    const kind = kindOfIdentity(identity);
    // Addresses outside are judged by what rules name of them, nodes by what is known of each.
    if (kind === 'world' || localIdentityScope(identity) !== undefined) continue;
    const party: Party = {
      identity,
      labels,
      kind,
      address: undefined,
      nodeLabels: [],
      namedPorts: view.namedPortsOf(identity),
    };
    peers.push(party);
    const isOwn = view.clusterIdOf(identity) === view.clusterId;
    if (kind === 'endpoint' && isOwn) subjects.push(party);
    if (peers.length % 500 === 0) yield;
  }
  return { subjects, peers };
}

function classInfo({ example, count, identities }: PartyClass, view: PolicyView): ClassInfo {
  const clusterId = view.clusterIdOf(example.identity);
  return {
    labels: labelTexts(example.kind === 'node' ? example.nodeLabels : example.labels),
    cluster: clusterId === 0 ? undefined : view.clusterName(clusterId),
    kind: example.kind,
    address: example.address,
    count,
    identities,
  };
}

/** A side of a recorded flow as it is now: who has its identity or, where none was recorded, its address. */
function settled(party: PartyInfo, view: PolicyView): PartyInfo {
  if (party.identity === 0 || party.kind === 'world') {
    if (party.address === undefined) return party;
    return resolveParty({ kind: 'address', address: party.address }, view).parties[0] ?? party;
  }
  const [known] = resolveParty({ kind: 'identity', identity: party.identity }, view).parties;
  if (known === undefined) return party;
  return { ...known, address: party.address, pod: party.pod };
}
