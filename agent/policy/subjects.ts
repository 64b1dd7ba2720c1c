/** Everybody whom policies may select on this node, with the rows that follow. Those who are alike share one. */
import { compileEndpoint, type PolicySubject, selectsEndpoint } from './compile.ts';
import {
  createEndpointRows,
  differencesBetween,
  type EndpointRows,
  type RowDifference,
} from './endpoint-rows.ts';
import type { EnforcementMode } from './enforcement-mode.ts';
import type { NamedPorts, PeerSets } from './peer-sets.ts';
import type { ParsedPolicy } from './rule.ts';

/** Endpoints with the same labels and named ports. */
export interface Subject {
  readonly key: string;
  readonly rows: EndpointRows;
}

/** What changed for the endpoints of a subject. */
export interface SubjectChange {
  readonly subject: Subject;
  readonly differences: readonly RowDifference[];
}

/** Policies, and the subjects of this node. */
export interface Subjects {
  /** Rows follow, of the subjects that it selects or selected, once that is prepared and then committed. */
  setPolicy(name: string, policy: ParsedPolicy | undefined): void;
  policies(): Iterable<ParsedPolicy>;
  /** Opens a subject; as often as that is done, it must be closed. `key`: equal for equal subjects. */
  open(
    key: string,
    about: { readonly subject: PolicySubject; readonly namedPorts: NamedPorts },
  ): Subject;
  close(subject: Subject, now: number): void;
  /** Works out what policies that changed come to, so that everybody whom they name is known, and changes no rows yet. */
  prepare(): void;
  /** Whether `prepare` has anything to do. */
  readonly isUnprepared: boolean;
  /** Brings rows of the policies that hold now up to date. */
  update(): SubjectChange[];
  /** Makes what was prepared hold. `now`: monotonic milliseconds. */
  commit(now: number): SubjectChange[];
}

interface Opened extends Subject {
  rows: EndpointRows;
  /** Rows of policies that changed, not in force yet. */
  next: EndpointRows | undefined;
  readonly subject: PolicySubject;
  readonly namedPorts: NamedPorts;
  /** Names of the policies that select it. */
  readonly selecting: Set<string>;
  users: number;
}

/** Makes an empty one. */
export function createSubjects(options: {
  readonly peers: PeerSets;
  readonly mode: EnforcementMode;
}): Subjects {
  const { peers, mode } = options;
  const policies = new Map<string, ParsedPolicy>();
  const opened = new Map<string, Opened>();
  const dirty = new Set<Opened>();
  let lastCommit = 0;

  const compile = (
    about: Pick<Opened, 'subject' | 'namedPorts'>,
    names: ReadonlySet<string>,
  ): EndpointRows => {
    // By name, so that the same policies give the same rows and reasons in whatever order they came.
    const selecting = [...names].sort().flatMap((name) => policies.get(name) ?? []);
    const policy = compileEndpoint(about.subject, selecting, { mode });
    return createEndpointRows(policy, { peers, namedPorts: about.namedPorts });
  };

  return {
    setPolicy(name, policy) {
      if (policy === undefined) policies.delete(name);
      else policies.set(name, policy);
      for (const one of opened.values()) {
        const was = one.selecting.delete(name);
        const is = policy !== undefined && selectsEndpoint(policy.clauses, one.subject);
        if (is) one.selecting.add(name);
        if (was || is) dirty.add(one);
      }
    },
    policies: () => policies.values(),
    open(key, about) {
      const known = opened.get(key);
      if (known !== undefined) {
        known.users += 1;
        return known;
      }
      const selecting = new Set<string>();
      for (const [name, { clauses }] of policies) {
        if (selectsEndpoint(clauses, about.subject)) selecting.add(name);
      }
      const rows = compile(about, selecting);
      const one: Opened = { ...about, key, rows, next: undefined, selecting, users: 1 };
      opened.set(key, one);
      return one;
    },
    close({ key }, now) {
      const one = opened.get(key);
      if (one === undefined) return;
      one.users -= 1;
      if (one.users > 0) return;
      opened.delete(key);
      dirty.delete(one);
      one.next?.close(now);
      one.rows.close(now);
    },
    get isUnprepared() {
      return dirty.size > 0;
    },
    prepare() {
      for (const one of dirty) {
        // What both use is never given up in between.
        const before = one.next;
        one.next = compile(one, one.selecting);
        before?.close(lastCommit);
      }
      dirty.clear();
    },
    update() {
      const changes: SubjectChange[] = [];
      for (const one of opened.values()) {
        if (one.rows.isStale) changes.push({ subject: one, differences: one.rows.refresh() });
      }
      return changes;
    },
    commit(now) {
      lastCommit = now;
      const changes: SubjectChange[] = [];
      for (const one of opened.values()) {
        const { rows: before, next } = one;
        if (next === undefined) continue;
        next.refresh();
        one.rows = next;
        one.next = undefined;
        before.close(now);
        changes.push({ subject: one, differences: [...differencesBetween(before, next)] });
      }
      return changes;
    },
  };
}
