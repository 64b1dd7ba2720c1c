/** Rows of the policy map of one subject, kept up to date as identities come and go. Endpoints that are alike share them. */
import { localIdentityScope } from '../../mesh/wire/ids.ts';
import type { PolicyEntry } from '../datapath/desired.ts';
import type {
  DirectionPolicy,
  EndpointPolicy,
  PeerRules,
  RowPeer,
  SourcedRule,
} from './compile.ts';
import {
  type BlockCode,
  blockCode,
  blockOf,
  contains,
  isDeny,
  isKnownOnly,
  type PortRules,
  type RowCode,
  resolveAny,
  resolveExact,
  rowOfCode,
} from './map-entries.ts';
import type { NamedPorts, PeerSet, PeerSets, PeerUser } from './peer-sets.ts';
import type { Direction, ParsedPolicy, PortMatch } from './rule.ts';

/** Both directions. */
export const DIRECTIONS = ['ingress', 'egress'] as const satisfies Direction[];

/** What changed for one other side; rows as codes of `map-entries.ts`, each list sorted. */
export interface RowDifference {
  readonly direction: Direction;
  readonly identity: number;
  readonly before: readonly RowCode[];
  readonly after: readonly RowCode[];
}

/** Rows of a subject. */
export interface EndpointRows extends PeerUser {
  readonly policy: EndpointPolicy;
  /** How many rows there are, both directions together. */
  readonly count: number;
  /** Rows of one other side; identity 0: of any. */
  rowsOf(direction: Direction, identity: number): readonly RowCode[];
  /** Other sides with rows. */
  identities(direction: Direction): IterableIterator<number>;
  /** All rows, as the kernel is to have them. */
  entries(endpointId: number): Generator<PolicyEntry>;
  /** Brings up to date what `changed` told of, and returns what that changes. */
  refresh(): RowDifference[];
  /** Whether `refresh` has anything to do. */
  readonly isStale: boolean;
  /** Rules that made a row, in the order of policies. None: it is not there for a rule, or not there at all. */
  rulesOf(direction: Direction, identity: number, code: RowCode): readonly SourcedRule[];
  /** How many rows each policy has a part in: a row that two policies ask for counts for both. */
  entriesOf(): ReadonlyMap<ParsedPolicy, number>;
  /** Whether a row could be wanted, were the labels of its identity known. */
  couldWant(row: PolicyEntry): boolean;
  /** Whether some rows are about everybody who is known, so that somebody has to say who is. */
  readonly isAboutKnown: boolean;
  /** Gives up what it uses. `now`: monotonic milliseconds. */
  close(now: number): void;
}

/** Blocks that a group of rules names, and, in egress, names of ports that mean another number for each other side. */
interface GroupPorts extends PortRules {
  readonly namedAllow: readonly NamedMatch[];
  readonly namedDeny: readonly NamedMatch[];
}
type NamedMatch = Extract<PortMatch, { kind: 'named' }>;

/** Other sides to which the same groups of rules apply. */
interface Combination {
  readonly groups: readonly number[];
  readonly next: Map<number, Combination>;
  /** Rows, by the named ports of the other side, where those count. */
  readonly resolved: Map<NamedPorts | undefined, readonly RowCode[]>;
}

const NO_ROWS: readonly RowCode[] = [];
/** Other sides that an identity of a cluster that has not spoken may come to be among, where it is one of pods or of nodes. */
const MAY_GROW: Readonly<Record<'pods' | 'nodes', readonly RowPeer['kind'][]>> = {
  pods: ['selector', 'named-ports', 'service'],
  nodes: ['nodes', 'reserved', 'service'],
};
/** What a port of any protocol stands for, where it has a name. */
const PORT_PROTOCOLS: readonly number[] = [6, 17, 132];

/** Makes the rows of a policy. `namedPorts`: those of the subject itself. */
export function createEndpointRows(
  policy: EndpointPolicy,
  options: { readonly peers: PeerSets; readonly namedPorts: NamedPorts },
): EndpointRows {
  const { peers } = options;
  const dirty = new Set<number>();
  let entries: Map<ParsedPolicy, number> | undefined;
  const user: PeerUser = { changed: (identity) => void dirty.add(identity) };
  const directions = {
    ingress: createDirectionRows(policy.ingress, {
      ...options,
      user,
      ownPorts: options.namedPorts,
    }),
    egress: createDirectionRows(policy.egress, { ...options, user, ownPorts: undefined }),
  };
  return {
    policy,
    changed: user.changed,
    get count() {
      return directions.ingress.count() + directions.egress.count();
    },
    get isStale() {
      return dirty.size > 0;
    },
    rowsOf: (direction, identity) => directions[direction].rows.get(identity) ?? NO_ROWS,
    identities: (direction) => directions[direction].rows.keys(),
    *entries(endpointId) {
      for (const direction of DIRECTIONS) {
        for (const [identity, codes] of directions[direction].rows) {
          for (const code of codes) yield rowOfCode(code, { endpointId, direction, identity });
        }
      }
    },
    refresh() {
      const differences: RowDifference[] = [];
      if (dirty.size === 0) return differences;
      for (const direction of DIRECTIONS) {
        for (const difference of directions[direction].update(dirty)) {
          differences.push({ direction, ...difference });
        }
      }
      dirty.clear();
      entries = undefined;
      return differences;
    },
    rulesOf: (direction, identity, code) => directions[direction].rulesOf(identity, code),
    entriesOf() {
      if (entries !== undefined) return entries;
      entries = new Map();
      for (const direction of DIRECTIONS) directions[direction].countEntries(entries);
      return entries;
    },
    couldWant: (row) => directions[row.direction].couldWant(row),
    isAboutKnown: directions.ingress.isAboutKnown || directions.egress.isAboutKnown,
    close(now) {
      for (const direction of DIRECTIONS) {
        for (const set of directions[direction].used) peers.release(set, user, now);
      }
    },
  };
}

/** What changes between two states of one endpoint; undefined: it has, or is to have, no rows at all. */
export function* differencesBetween(
  before: EndpointRows | undefined,
  after: EndpointRows | undefined,
): Generator<RowDifference> {
  for (const direction of DIRECTIONS) {
    for (const identity of before?.identities(direction) ?? []) {
      const [old, now] = [
        before?.rowsOf(direction, identity) ?? NO_ROWS,
        after?.rowsOf(direction, identity) ?? NO_ROWS,
      ];
      if (!isSame(old, now)) yield { direction, identity, before: old, after: now };
    }
    for (const identity of after?.identities(direction) ?? []) {
      if ((before?.rowsOf(direction, identity) ?? NO_ROWS).length > 0) continue;
      const now = after?.rowsOf(direction, identity) ?? NO_ROWS;
      yield { direction, identity, before: NO_ROWS, after: now };
    }
  }
}

interface DirectionRows {
  readonly rows: ReadonlyMap<number, readonly RowCode[]>;
  readonly used: readonly PeerSet[];
  count(): number;
  update(identities: ReadonlySet<number>): Generator<Omit<RowDifference, 'direction'>>;
  rulesOf(identity: number, code: RowCode): readonly SourcedRule[];
  countEntries(counts: Map<ParsedPolicy, number>): void;
  couldWant(row: PolicyEntry): boolean;
  readonly isAboutKnown: boolean;
}

function createDirectionRows(
  policy: DirectionPolicy,
  options: {
    readonly peers: PeerSets;
    readonly user: PeerUser;
    /** Named ports of the subject where they count: of packets to it. */
    readonly ownPorts: NamedPorts | undefined;
  },
): DirectionRows {
  const { peers, user, ownPorts } = options;
  const groups: {
    readonly set: PeerSet;
    readonly ports: GroupPorts;
    readonly source: PeerRules;
  }[] = [];
  const used: PeerSet[] = [];
  let anyPorts: PortRules = { allow: policy.isOpenOtherwise ? [0] : [], deny: [] };
  let usesNames = false;
  for (const source of policy.peers) {
    const ports = groupPorts(source, ownPorts);
    if (source.peer.kind === 'any') {
      anyPorts = { allow: [...anyPorts.allow, ...ports.allow], deny: ports.deny };
      continue;
    }
    const set = peers.acquire(source.peer, user);
    used.push(set);
    groups.push({ set, ports, source });
    usesNames ||= ports.namedAllow.length + ports.namedDeny.length > 0;
  }
  // To be told when the ports of an identity change.
  if (usesNames) used.push(peers.acquire({ kind: 'named-ports' }, user));
  // Whom such a rule denies, nobody can say of an identity that is not known.
  const knownOnly = groups.some(
    ({ ports, source }) =>
      source.peer.kind === 'selector' && ports.deny.length + ports.namedDeny.length > 0,
  );
  const any = resolveAny(anyPorts, { knownOnly });
  const rows = new Map<number, readonly RowCode[]>();
  const known = new Map<string, readonly RowCode[]>();
  const root: Combination = { groups: [], next: new Map(), resolved: new Map() };
  let count = 0;

  const follow = (combination: Combination, group: number): Combination => {
    const next = combination.next.get(group);
    if (next !== undefined) return next;
    const made = {
      groups: [...combination.groups, group],
      next: new Map(),
      resolved: new Map(),
    };
    combination.next.set(group, made);
    return made;
  };
  const resolve = (combination: Combination, identity: number): readonly RowCode[] => {
    if (combination === root) return NO_ROWS;
    const named = usesNames ? peers.namedPortsOf(identity) : undefined;
    const before = combination.resolved.get(named);
    if (before !== undefined) return before;
    const allow: BlockCode[] = [];
    const deny: BlockCode[] = [];
    for (const index of combination.groups) {
      const ports = groups[index]?.ports;
      if (ports === undefined) continue;
      allow.push(...ports.allow, ...codesOfNames(ports.namedAllow, named));
      deny.push(...ports.deny, ...codesOfNames(ports.namedDeny, named));
    }
    const codes = resolveExact({ allow, deny }, any);
    const text = codes.join();
    const shared = known.get(text) ?? codes;
    known.set(text, shared);
    combination.resolved.set(named, shared);
    return shared;
  };
  const put = (identity: number, codes: readonly RowCode[]): readonly RowCode[] => {
    const before = rows.get(identity) ?? NO_ROWS;
    count += codes.length - before.length;
    if (codes.length > 0) rows.set(identity, codes);
    else if (before.length > 0) rows.delete(identity);
    return before;
  };
  const combinationOf = (identity: number): Combination => {
    let combination = root;
    for (let index = 0; index < groups.length; index += 1) {
      if (groups[index]?.set.identities.has(identity) === true) {
        combination = follow(combination, index);
      }
    }
    return combination;
  };
  /** Of each identity that some group of rules is about. */
  const combinations = (): Map<number, Combination> => {
    const found = new Map<number, Combination>();
    groups.forEach(({ set }, index) => {
      for (const identity of set.identities) {
        found.set(identity, follow(found.get(identity) ?? root, index));
      }
    });
    return found;
  };
  /** Rules among those of the groups given, and of rules about anybody, that made a row. */
  const rulesAmong = (
    indexes: readonly number[],
    code: RowCode,
    named: NamedPorts | undefined,
  ): Set<SourcedRule> => {
    const found = new Set<SourcedRule>();
    const verdict = isDeny(code) ? 'deny' : 'allow';
    const about = [
      ...policy.peers.filter(({ peer }) => peer.kind === 'any'),
      ...indexes.flatMap((index) => groups[index]?.source ?? []),
    ];
    for (const sourced of about.flatMap(({ rules }) => rules)) {
      if (sourced.rule.verdict !== verdict) continue;
      const codes = codesOfRule(sourced, ownPorts ?? named);
      if (codes.some((block) => contains(block, blockOf(code)))) found.add(sourced);
    }
    return found;
  };

  if (any.length > 0) put(0, any);
  for (const [identity, combination] of combinations())
    put(identity, resolve(combination, identity));

  return {
    rows,
    used,
    count: () => count,
    *update(identities) {
      for (const identity of identities) {
        const after = resolve(combinationOf(identity), identity);
        const before = put(identity, after);
        if (before !== after) yield { identity, before, after };
      }
    },
    rulesOf: (identity, code) => [
      ...rulesAmong(combinationOf(identity).groups, code, peers.namedPortsOf(identity)),
    ],
    countEntries(counts) {
      /** Rows that the same rules made: by what applies, then by ports where these depend on the other side. */
      const sizes = new Map<Combination, Map<NamedPorts | undefined, number>>();
      for (const [identity, combination] of combinations()) {
        const named = usesNames ? peers.namedPortsOf(identity) : undefined;
        const byPorts = sizes.get(combination) ?? new Map<NamedPorts | undefined, number>();
        sizes.set(combination, byPorts.set(named, (byPorts.get(named) ?? 0) + 1));
      }
      const note = (rules: Set<SourcedRule>, times: number): void => {
        for (const known of new Set([...rules].map((sourced) => sourced.policy))) {
          counts.set(known, (counts.get(known) ?? 0) + times);
        }
      };
      for (const code of any) note(rulesAmong([], code, undefined), 1);
      for (const [combination, byPorts] of sizes) {
        for (const [named, times] of byPorts) {
          for (const code of combination.resolved.get(named) ?? NO_ROWS) {
            note(rulesAmong(combination.groups, code, named), times);
          }
        }
      }
    },
    couldWant(row) {
      if (!policy.enforced || policy.isolated) return false;
      const code = blockCode(row);
      const isWithin = (kind: (other: RowCode) => boolean): boolean =>
        any.some((other) => kind(other) && contains(blockOf(other), code));
      if (isWithin(isDeny)) return false;
      // Who is not known yet passes by its own row alone.
      if (row.verdict === 'allow' && isWithin(isKnownOnly)) return true;
      const mayGrow = MAY_GROW[localIdentityScope(row.identity) === undefined ? 'pods' : 'nodes'];
      return groups.some(({ ports, source }) => {
        if (!mayGrow.includes(source.peer.kind)) return false;
        if (row.verdict === 'allow') {
          return ports.allow.some((block) => contains(block, code)) || ports.namedAllow.length > 0;
        }
        // One that is wider than what rules deny by now denied that, too.
        return (
          ports.deny.some((block) => contains(block, code) || contains(code, block)) ||
          ports.namedDeny.length > 0
        );
      });
    },
    isAboutKnown: any.some(isKnownOnly),
  };
}

function groupPorts({ peer, rules }: PeerRules, ownPorts: NamedPorts | undefined): GroupPorts {
  const ports = { allow: [], deny: [], namedAllow: [], namedDeny: [] } as {
    allow: BlockCode[];
    deny: BlockCode[];
    namedAllow: NamedMatch[];
    namedDeny: NamedMatch[];
  };
  for (const { rule } of rules) {
    const blocks = rule.verdict === 'deny' ? ports.deny : ports.allow;
    const names = rule.verdict === 'deny' ? ports.namedDeny : ports.namedAllow;
    for (const port of rule.ports) {
      if (port.kind === 'block') {
        // Of these, only the names are about the identities with named ports.
        if (peer.kind !== 'named-ports') blocks.push(blockCode(port));
      } else if (ownPorts !== undefined) blocks.push(...codesOfNames([port], ownPorts));
      else names.push(port);
    }
  }
  return ports;
}

function codesOfRule({ rule }: SourcedRule, named: NamedPorts | undefined): BlockCode[] {
  return rule.ports.flatMap((port) =>
    port.kind === 'block' ? [blockCode(port)] : codesOfNames([port], named),
  );
}

function codesOfNames(
  names: readonly NamedMatch[],
  ports: NamedPorts | undefined,
): readonly BlockCode[] {
  if (names.length === 0 || ports === undefined) return NO_ROWS;
  return names.flatMap(({ name, protocol: wanted }) =>
    ports
      .filter(
        ({ name: known, protocol }) =>
          known === name &&
          (wanted === 0 ? PORT_PROTOCOLS.includes(protocol) : wanted === protocol),
      )
      .map(({ protocol, port }) => blockCode({ protocol, port, portPrefixBits: 16 })),
  );
}

function isSame(a: readonly RowCode[], b: readonly RowCode[]): boolean {
  return a === b || (a.length === b.length && a.every((code, index) => code === b[index]));
}
