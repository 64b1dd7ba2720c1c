import type { Labels } from '../../mesh/wire/identity.ts';
import {
  clusterIdOfIdentity,
  localIdentityScope,
  type MaxConnectedClusters,
  type NumericIdentity,
  parseNumericIdentity,
  reservedIdentity,
} from '../../mesh/wire/ids.ts';
import { type IpAddress, type IpPrefix, ipFamily, makePrefix } from '../../mesh/wire/ip.ts';
import type { EndpointEntry, PolicyEntry } from '../datapath/desired.ts';
import { limitsEgress, policyName, type SourcedRule } from '../policy/compile.ts';
import type { Enforcement, EnforcementMode } from '../policy/enforcement-mode.ts';
import { codeOfRow } from '../policy/map-entries.ts';
import { createNamedPortBook, type PortsSaid } from '../policy/named-port-book.ts';
import {
  type CidrPrefixes,
  createPeerSets,
  type NamedPorts,
  type PeerSets,
  type ServicePeer,
} from '../policy/peer-sets.ts';
import type { ParsedPolicy } from '../policy/rule.ts';
import { createSubjects, type Subject, type SubjectChange } from '../policy/subjects.ts';
import { HOST_IDENTITY, placeOf } from './host-endpoint.ts';
import { createIdentityGrace } from './identity-grace.ts';
import { createKnownIdentities, isKnownRow } from './known-identities.ts';
import type { EndpointState, LocalEndpoint } from './local-endpoint.ts';
import { createPolicyWriter, type WrittenRows } from './policy-writer.ts';
import type { Reconciler } from './reconciler.ts';

export type { EndpointState, LocalEndpoint } from './local-endpoint.ts';

/** Turns endpoints, identities and policies into desired rows of the endpoint and policy tables. */
export interface PolicyState {
  setPolicy(name: string, policy: ParsedPolicy | undefined): void;
  setIdentity(identity: NumericIdentity, labels: Labels | undefined): void;
  /** Ports that a cluster declares by name for an address; undefined: it does not say who has it. */
  setNamedPorts(clusterId: number, prefix: IpPrefix, said: PortsSaid | undefined): void;
  setCidrGroup(name: string, group: CidrPrefixes | undefined): void;
  setService(name: string, service: ServicePeer | undefined): void;
  /** `key`: cluster and name, as `takeNodeIdentities` gives it back. `isOwn`: this node. */
  setNode(key: string, labels: Labels | undefined, options: { readonly isOwn: boolean }): void;
  /** `restored`: it was there before this process, so its rows stay as they are until `release`. */
  setEndpoint(endpoint: LocalEndpoint, origin: { restored: boolean }): void;
  removeEndpoint(endpointId: number): void;
  /** Switches audit mode of an endpoint; its row says so, also to the next process. False: there is no such endpoint. */
  setAudit(endpointId: number, on: boolean): boolean;
  /** Somebody else may have an address now. */
  touchPrefix(prefix: IpPrefix): void;
  /**
   * The own cluster has said everything. Until then an endpoint that was restored keeps its rows, and a new one is
   * open to nobody: half of the policies could be too few.
   */
  release(): void;
  readonly isReleased: boolean;
  /**
   * Finds out whom changed policies name, and gives those who are new, and addresses outside that get identities, the rows
   * of the policies that still hold: nobody is judged otherwise for it. To be written, with the addresses, before `commit`.
   * `now`: monotonic milliseconds.
   */
  prepare(now: number): void;
  /** Makes changed policies hold, and endpoints be who they are by now. Prepare comes first. */
  commit(now: number): void;
  /** Takes back who is known when no rows ask for it any more. To be written after everything else. */
  tidy(): void;
  /** Endpoints of which a row that denies could not be written: what they allow goes, and comes back once it is written. */
  setRefused(endpointIds: ReadonlySet<number>): void;
  /** Whether there is anything to prepare. */
  readonly isStale: boolean;
  /** When `refresh` is worth a call though nothing was said; undefined: not until something is. */
  nextRefreshAt(): number | undefined;
  /**
   * Whether a row that a previous process left could still be wanted by an identity that is not known yet. `isCarried`:
   * whether some address of a cluster that has not spoken has that identity.
   */
  couldWant(
    row: PolicyEntry,
    options: {
      readonly isOutstanding: (clusterId: number) => boolean;
      readonly isCarried: (identity: number) => boolean;
    },
  ): boolean;
  endpoints(): EndpointState[];
  /** Rows that an endpoint is to have; none of an endpoint that is not there. */
  rowsOf(endpointId: number): Generator<PolicyEntry>;
  policies(): readonly ParsedPolicy[];
  /** Rows of this node that each policy has a part in. Takes a moment: for people, not for each packet of metrics. */
  entriesOf(): ReadonlyMap<ParsedPolicy, number>;
  /** Rules that made a row of `rowsOf`. */
  rulesOf(row: PolicyEntry): readonly SourcedRule[];
  /** Labels of an identity of any cluster; undefined: nobody has said them. */
  labelsOf(identity: number): Labels | undefined;
  /** Who the other sides of rules are. */
  readonly peers: PeerSets;
  readonly identityCount: number;
  /** Rows that all endpoints need, those of known identities included, and how many there is room for in all and for each. */
  readonly pressure: {
    readonly entries: number;
    readonly largest: number;
    readonly maxEntries: number;
    readonly maxEach: number;
  };
}

interface Member {
  endpoint: LocalEndpoint;
  audit: boolean;
  /** What the row of a previous process says, which stands until the own cluster has spoken. */
  held: Enforcement | undefined;
  identity: NumericIdentity;
  /** Under which its packets go. */
  sent: NumericIdentity;
  /** Undefined: nobody has said who it is. */
  subject: Subject | undefined;
  /** Who it is to be with the next commit. */
  next: { readonly identity: NumericIdentity; readonly subject: Subject | undefined } | undefined;
  isOverfull: boolean;
  isRefused: boolean;
  /** Whether a row of it is wanted among the endpoints. */
  isWritten: boolean;
}

/** Rows of the policy table that one endpoint may have: Cilium's default of `bpf-policy-map-max`. */
export const DEFAULT_POLICY_MAP_MAX = 16_384;

const INIT = reservedIdentity('init');

/** Makes an empty state over two kernel tables. */
export function createPolicyState(options: {
  readonly endpoints: Reconciler<EndpointEntry, Pick<EndpointEntry, 'endpointId' | 'addresses'>>;
  readonly policy: Reconciler<PolicyEntry, Omit<PolicyEntry, 'verdict'>>;
  readonly ownIdentityOf: (address: IpAddress) => NumericIdentity | undefined;
  /** Identity of whoever in the mesh has a prefix; undefined: nobody. */
  readonly holderOf: (prefix: IpPrefix) => number | undefined;
  /** Identity of its own that a previous process gave a node. */
  readonly formerIdentityOf: (node: string) => number | undefined;
  readonly max: MaxConnectedClusters;
  /** Whether policies hold. */
  readonly modes: { readonly enforcement: EnforcementMode };
  /** How long an endpoint sends under its former identity when it has got another one. Default: not at all. */
  readonly identityGraceMs?: number | undefined;
  /** Rows that one endpoint may have. Default: DEFAULT_POLICY_MAP_MAX. */
  readonly maxEach?: number | undefined;
  /** Rows that all together may have. Default: no limit. */
  readonly maxEntries?: number | undefined;
}): PolicyState {
  const { endpoints, policy: policyRec, ownIdentityOf } = options;
  const { maxEach = DEFAULT_POLICY_MAP_MAX, maxEntries = Number.POSITIVE_INFINITY } = options;
  const mode = options.modes.enforcement;
  const peers = createPeerSets({ holderOf: options.holderOf });
  const subjects = createSubjects({ peers, mode });
  const ports = createNamedPortBook();
  const members = new Map<number, Member>();
  const membersOf = new Map<Subject, Set<Member>>();
  const byPrefix = new Map<IpPrefix, number>();
  const grace = createIdentityGrace(options.identityGraceMs ?? 0);
  const dirty = new Set<Member>();
  const known = createKnownIdentities(policyRec.table);
  const writer = createPolicyWriter(policyRec.table);
  let released = false;
  let limitsCalls = false;
  let lastRefresh = 0;
  /** Of this node, as its record had them last. */
  let hostLabels: Labels | undefined;

  const ownRows = ({ endpoint, subject, isRefused }: Member): WrittenRows => ({
    endpointId: endpoint.endpointId,
    rows: subject?.rows,
    isClosed: isRefused,
  });
  const enforcementOf = (member: Member): Enforcement => {
    if (member.held !== undefined) return member.held;
    if (mode === 'never') return { ingressEnforced: false, egressEnforced: false };
    const { subject } = member;
    // Nobody may reach it, as with Cilium's `reserved:init`; and it may call nobody where that could be against a policy that is
    // known. Before any is, it may: else an apiserver that is itself a pod could never reach what it has to read.
    if (subject === undefined) {
      // A node is not closed before it is known whether a policy selects it.
      const isNode = member.endpoint.host === 'node';
      return { ingressEnforced: !isNode, egressEnforced: !isNode && limitsCalls };
    }
    const { ingress, egress } = subject.rows.policy;
    return { ingressEnforced: ingress.enforced, egressEnforced: egress.enforced };
  };
  const writeEndpoint = (member: Member): void => {
    const { endpoint, sent, audit } = member;
    const { ingressEnforced, egressEnforced } = enforcementOf(member);
    const place = placeOf(endpoint);
    // A node that no policy is about is nobody's endpoint.
    if (endpoint.host === 'node' && !ingressEnforced && !egressEnforced && !audit) {
      if (member.isWritten) endpoints.table.remove(place);
      member.isWritten = false;
      return;
    }
    member.isWritten = true;
    endpoints.table.set({ ...place, identity: sent, ingressEnforced, egressEnforced, audit });
  };
  const leave = (member: Member, subject: Subject | undefined, now: number): void => {
    if (subject === undefined) return;
    const others = membersOf.get(subject);
    others?.delete(member);
    if (others?.size === 0) membersOf.delete(subject);
    subjects.close(subject, now);
  };
  const portsOf = ({ addresses }: LocalEndpoint): NamedPorts =>
    addresses.flatMap((address) => ports.ofAddress(wholePrefix(address)) ?? []);

  /** Finds out who an endpoint is to be. */
  const judge = (member: Member, now: number): void => {
    const { endpoint } = member;
    const isNode = endpoint.host === 'node';
    let identity = isNode ? HOST_IDENTITY : undefined;
    for (const address of endpoint.addresses) identity ??= ownIdentityOf(address);
    const labels = isNode ? hostLabels : identity && peers.labelsOf(identity);
    const before = member.next?.subject;
    let subject: Subject | undefined;
    if (labels !== undefined && released) {
      const namedPorts = isNode ? [] : portsOf(endpoint);
      const kind = isNode ? 'nodes' : 'pods';
      const key = JSON.stringify([kind, labels, namedPorts]);
      subject = subjects.open(key, { subject: { kind, labels }, namedPorts });
    }
    if (before !== undefined) subjects.close(before, now);
    member.next = { identity: identity ?? INIT, subject };
  };
  /** Makes an endpoint who it is to be. */
  const become = (member: Member, now: number): void => {
    const { next, subject: before } = member;
    if (next === undefined) return;
    member.next = undefined;
    member.identity = next.identity;
    member.sent = grace.follow(member.endpoint.endpointId, member, now);
    member.subject = next.subject;
    if (next.subject !== before && !member.isOverfull) writer.move(ownRows(member), before?.rows);
    leave(member, before, now);
    if (next.subject !== undefined) {
      const others = membersOf.get(next.subject) ?? new Set<Member>();
      membersOf.set(next.subject, others.add(member));
    }
    writeEndpoint(member);
  };
  const write = (changes: readonly SubjectChange[]): void => {
    for (const { subject, differences } of changes) {
      for (const member of membersOf.get(subject) ?? []) {
        if (member.isOverfull) continue;
        for (const difference of differences) writer.change(ownRows(member), difference);
      }
    }
  };
  /** An endpoint whose rows would not all be in the kernel has none: half of them could allow what a lost one denies. */
  const limit = (): void => {
    let total = known.count;
    for (const member of members.values()) {
      const count = member.subject?.rows.count ?? 0;
      const isOverfull = count > maxEach || total + count > maxEntries;
      if (!isOverfull) total += count;
      if (isOverfull === member.isOverfull) continue;
      member.isOverfull = isOverfull;
      if (!isOverfull) writer.write(ownRows(member));
      else writer.remove(ownRows(member));
    }
  };

  const isOfOutstanding = (
    identity: number,
    isOutstanding: (clusterId: number) => boolean,
  ): boolean => {
    const clusterId = clusterIdOfIdentity(parseNumericIdentity(identity), options.max);
    return clusterId !== 0 && isOutstanding(clusterId);
  };
  const isAboutKnown = (): boolean => [...membersOf.keys()].some(({ rows }) => rows.isAboutKnown);
  /** Sees to it that the kernel can tell whom rows about everybody who is known are about. */
  const tellKnown = (): void => {
    if (!released) return;
    if (!known.isBegun && isAboutKnown()) {
      known.begin(peers.identities());
    }
    if (writer.takeNews()) known.forgetFormer();
  };

  return {
    peers,
    get isReleased() {
      return released;
    },
    get identityCount() {
      return peers.identityCount;
    },
    get pressure() {
      const counts = [...members.values()].map(({ subject }) => subject?.rows.count ?? 0);
      return {
        entries: counts.reduce((sum, count) => sum + count, known.count),
        largest: Math.max(0, ...counts),
        maxEntries,
        maxEach,
      };
    },
    setPolicy(name, policy) {
      subjects.setPolicy(name, policy);
      const before = limitsCalls;
      limitsCalls = [...subjects.policies()].some(limitsEgress);
      if (limitsCalls === before) return;
      for (const member of members.values()) if (member.subject === undefined) dirty.add(member);
    },
    setIdentity(identity, labels) {
      peers.setIdentity(identity, labels);
      known.set(identity, labels !== undefined);
      for (const member of members.values()) if (member.identity === identity) dirty.add(member);
    },
    setNamedPorts(clusterId, prefix, said) {
      const before = ports.ofAddress(prefix);
      for (const identity of ports.set(clusterId, prefix, said)) {
        peers.setNamedPorts(identity, ports.ofIdentity(identity));
      }
      // Its identity may have had these ports before, by another endpoint.
      if (ports.ofAddress(prefix) === before) return;
      const member = members.get(byPrefix.get(prefix) ?? 0);
      if (member !== undefined) dirty.add(member);
    },
    setCidrGroup: (name, group) => peers.setCidrGroup(name, group),
    setService: (name, service) => peers.setService(name, service),
    setNode(key, labels, whose) {
      peers.nodes.setNode(key, labels, whose);
      // A record that is gone says nothing: what is known of the node stays.
      if (!whose.isOwn || labels === undefined) return;
      hostLabels = labels;
      for (const member of members.values()) if (member.endpoint.host === 'node') dirty.add(member);
    },
    setEndpoint(endpoint, { restored }) {
      const { endpointId } = endpoint;
      const left = restored
        ? [...endpoints.table.adopted()].find((row) => row.endpointId === endpointId)
        : undefined;
      const known = members.get(endpointId);
      const member: Member = known ?? {
        endpoint,
        audit: left?.audit ?? false,
        held: left === undefined || released ? undefined : left,
        identity: left?.identity ?? INIT,
        sent: left?.identity ?? INIT,
        subject: undefined,
        next: undefined,
        isOverfull: false,
        isRefused: false,
        isWritten: left !== undefined,
      };
      member.endpoint = endpoint;
      members.set(endpointId, member);
      for (const address of endpoint.addresses) byPrefix.set(wholePrefix(address), endpointId);
      dirty.add(member);
    },
    removeEndpoint(endpointId) {
      const member = members.get(endpointId);
      if (member === undefined) return;
      members.delete(endpointId);
      dirty.delete(member);
      grace.forget(endpointId);
      const { addresses } = member.endpoint;
      for (const address of addresses) {
        const prefix = wholePrefix(address);
        if (byPrefix.get(prefix) === endpointId) byPrefix.delete(prefix);
      }
      endpoints.table.remove(placeOf(member.endpoint));
      for (const row of member.subject?.rows.entries(endpointId) ?? []) policyRec.table.remove(row);
      leave(member, member.subject, lastRefresh);
      if (member.next?.subject !== undefined) subjects.close(member.next.subject, lastRefresh);
      // The number may be given again: nothing of a previous process may be left under it.
      for (const row of policyRec.table.adopted()) {
        if (row.endpointId === endpointId) policyRec.table.remove(row);
      }
    },
    setAudit(endpointId, on) {
      const member = members.get(endpointId);
      if (member === undefined) return false;
      member.audit = on;
      writeEndpoint(member);
      return true;
    },
    touchPrefix(prefix) {
      peers.touchAddress(prefix);
      const member = members.get(byPrefix.get(prefix) ?? 0);
      if (member !== undefined) dirty.add(member);
    },
    release() {
      if (released) return;
      released = true;
      limitsCalls = [...subjects.policies()].some(limitsEgress);
      for (const member of members.values()) {
        member.held = undefined;
        dirty.add(member);
      }
    },
    get isStale() {
      return dirty.size > 0 || peers.isStale || subjects.isUnprepared;
    },
    prepare(now) {
      lastRefresh = now;
      for (const endpointId of grace.takeDue(now)) {
        const member = members.get(endpointId);
        if (member !== undefined) dirty.add(member);
      }
      // What one step finds out may concern what an earlier one looked at: a new rule makes identities, and these tell.
      do {
        peers.refresh(now, options.formerIdentityOf);
        subjects.prepare();
        for (const member of dirty) if (member.held === undefined) judge(member, now);
        dirty.clear();
      } while (peers.isStale);
      write(subjects.update());
    },
    commit(now) {
      const changes = subjects.commit(now);
      write(changes);
      for (const { subject } of changes) {
        for (const member of membersOf.get(subject) ?? []) writeEndpoint(member);
      }
      for (const member of members.values()) become(member, now);
      tellKnown();
      limit();
    },
    tidy() {
      if (known.isBegun && !isAboutKnown()) known.end();
    },
    setRefused(endpointIds) {
      for (const member of members.values()) {
        const isRefused = endpointIds.has(member.endpoint.endpointId);
        if (isRefused === member.isRefused) continue;
        member.isRefused = isRefused;
        if (member.isOverfull) continue;
        if (isRefused) writer.close(ownRows(member));
        else writer.write(ownRows(member));
      }
    },
    nextRefreshAt: () => grace.nextAt(),
    couldWant(row, { isOutstanding, isCarried }) {
      if (isKnownRow(row))
        return !released || (known.isBegun && isOfOutstanding(row.identity, isOutstanding));
      const member = members.get(row.endpointId);
      if (member === undefined) return false;
      if (member.held !== undefined) return true;
      if (member.isOverfull || member.subject?.rows.couldWant(row) !== true) return false;
      const { identity } = row;
      // Whom addresses outside are to policies is known with the policies; of a node, its cluster has to tell.
      const scope = localIdentityScope(identity)?.scope;
      if (scope !== undefined) return scope === 'node' && isCarried(identity);
      return isOfOutstanding(identity, isOutstanding);
    },
    endpoints: () =>
      [...members.values()].filter(isShown).map((member) => {
        const { endpoint, identity, subject, held, audit, isOverfull, isRefused } = member;
        const { ingressEnforced, egressEnforced } = enforcementOf(member);
        return {
          ...endpoint,
          identity,
          labels: endpoint.host === 'node' ? hostLabels : peers.labelsOf(identity),
          ingressEnforced,
          egressEnforced,
          audit,
          policies: subject?.rows.policy.policies.map(policyName) ?? [],
          entries: subject?.rows.count ?? 0,
          isOverfull,
          isRefused,
          held: held !== undefined,
        };
      }),
    *rowsOf(endpointId) {
      const member = members.get(endpointId);
      if (member === undefined || member.isOverfull) return;
      yield* member.subject?.rows.entries(endpointId) ?? [];
    },
    policies: () => [...subjects.policies()],
    entriesOf() {
      const counts = new Map<ParsedPolicy, number>();
      for (const { subject, isOverfull } of members.values()) {
        if (subject === undefined || isOverfull) continue;
        for (const [policy, count] of subject.rows.entriesOf()) {
          counts.set(policy, (counts.get(policy) ?? 0) + count);
        }
      }
      return counts;
    },
    rulesOf(row) {
      const rows = members.get(row.endpointId)?.subject?.rows;
      return rows?.rulesOf(row.direction, row.identity, codeOfRow(row)) ?? [];
    },
    labelsOf: (identity) => peers.labelsOf(identity),
  };
}

/** Whether it is an endpoint to people: a node is one while policies are about it. */
function isShown({ endpoint, isWritten, subject }: Member): boolean {
  return endpoint.host !== 'node' || isWritten || (subject?.rows.policy.policies.length ?? 0) > 0;
}

function wholePrefix(address: IpAddress): IpPrefix {
  return makePrefix(address, ipFamily(address) === 4 ? 32 : 128);
}
