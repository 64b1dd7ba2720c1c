import { randomBytes } from 'node:crypto';
import { KvError, type KvLease, type KvOp, type KvPair } from './kvstore.ts';
import type { MemoryFaults } from './memory.ts';

/** One write in the history: a pair, or undefined for a deletion. */
export interface MemoryChange {
  readonly revision: bigint;
  readonly key: string;
  readonly pair: KvPair | undefined;
}

/** The data behind the clients of an in-memory store: keys, history, leases, and the faults put upon it. */
export interface MemoryData extends MemoryFaults {
  readonly clusterId: string;
  readonly revision: bigint;
  /** Set while the clients are cut off. */
  readonly failure: KvError | undefined;
  /** Counts calls of `progress`, so that each watch can tell each of them once. */
  readonly progressAsked: number;
  read(key: string): KvPair | undefined;
  range(target: { prefix: string } | { key: string }): KvPair[];
  /** Keys below a prefix in order, now or at a revision. Throws KvError `compacted`, or `invalid` for one to come. */
  keysAt(prefix: string, revision?: bigint): string[];
  /** Applies all operations at one revision; returns how many keys changed (a deletion of nothing changes none). */
  write(operations: readonly KvOp[]): number;
  /** Makes a lease, or takes over the one with the id `adopt` if it still lives. */
  grant(ttlSeconds: number, adopt?: bigint): KvLease;
  /** The error that the next call shall fail with, once. */
  takeInjected(): KvError | undefined;
  closedError(): KvError;
  /** Position behind the newest change; positions only grow, also over compactions. */
  readonly end: number;
  /** Changes from a position on; undefined when some of them are compacted away. */
  changesFrom(position: number): readonly MemoryChange[] | undefined;
  /** Resolves at the next change of anything, or when the signal aborts. */
  changed(signal: AbortSignal): Promise<void>;
}

interface LeaseState {
  id: bigint;
  readonly ttlSeconds: number;
  alive: boolean;
  readonly lost: (() => void)[];
}

/** Makes empty data. Revisions begin at 1, as etcd's do. */
export function createMemoryData(): MemoryData {
  const pairs = new Map<string, KvPair>();
  const leases = new Map<KvLease, LeaseState>();
  const waiting = new Set<() => void>();
  let history: MemoryChange[] = [];
  let compacted = 0;
  /** Newest revision whose changes are compacted away. */
  let compactedRevision = 0n;
  /** Keys that stood there then. */
  let keysAtCompaction: readonly string[] = [];
  let revision = 1n;
  let clusterId = randomBytes(8).toString('hex');
  let nextLease = 1n;
  let failure: KvError | undefined;
  let failures: KvError[] = [];
  let progressAsked = 0;

  const wake = (): void => {
    for (const resolve of waiting) resolve();
    waiting.clear();
  };

  const leaseId = (lease: KvLease | undefined): bigint => {
    if (lease === undefined) return 0n;
    const id = lease.id;
    for (const state of leases.values()) if (state.id === id) return id;
    throw new KvError('unavailable', `cannot put on lease ${id}: it is gone`, { retryable: true });
  };

  const write = (operations: readonly KvOp[]): number => {
    const next = revision + 1n;
    const changes: MemoryChange[] = [];
    for (const operation of operations) {
      const { key } = operation;
      if (operation.kind === 'put') {
        const value = Buffer.from(operation.value);
        const pair = { key, value, modRevision: next, lease: leaseId(operation.lease) };
        changes.push({ revision: next, key, pair });
      } else if (pairs.has(key)) {
        changes.push({ revision: next, key, pair: undefined });
      }
    }
    if (changes.length === 0) return 0;
    for (const { key, pair } of changes) {
      if (pair === undefined) pairs.delete(key);
      else pairs.set(key, pair);
    }
    for (const change of changes) history.push(change);
    revision = next;
    wake();
    return changes.length;
  };

  const dropLease = (id: bigint): void => {
    const held = [...pairs.values()].filter((pair) => pair.lease === id);
    write(held.map(({ key }) => ({ kind: 'delete', key })));
  };

  /** Whoever holds a lease: more than one when it was taken over while its former holder lived. */
  const holdersOf = (id: bigint): KvLease[] =>
    [...leases].filter(([, state]) => state.id === id).map(([lease]) => lease);

  const grant = (ttlSeconds: number, adopt?: bigint): KvLease => {
    if (!Number.isInteger(ttlSeconds) || ttlSeconds < 1) {
      throw new KvError(
        'invalid',
        `cannot make a lease of ${ttlSeconds} s: expected a whole number from 1`,
        {
          retryable: false,
        },
      );
    }
    const lives = [...leases.values()].some(
      (other) => other.id === adopt && other.ttlSeconds === ttlSeconds,
    );
    const id = adopt !== undefined && lives ? adopt : nextLease++;
    const state: LeaseState = { id, ttlSeconds, alive: true, lost: [] };
    const lease: KvLease = {
      get id() {
        return state.id;
      },
      ttlSeconds,
      onLost: (callback) => {
        state.lost.push(callback);
      },
      revoke: async () => {
        state.alive = false;
        if (!leases.delete(lease)) return;
        dropLease(state.id);
        loseLeases(holdersOf(state.id));
      },
      [Symbol.asyncDispose]: async () => {
        state.alive = false;
      },
    };
    leases.set(lease, state);
    return lease;
  };

  const range = (target: { prefix: string } | { key: string }): KvPair[] => {
    if ('key' in target) return [pairs.get(target.key) ?? []].flat();
    return [...pairs.values()]
      .filter(({ key }) => key.startsWith(target.prefix))
      .sort((a, b) => Buffer.compare(Buffer.from(a.key), Buffer.from(b.key)));
  };

  const keysAt = (prefix: string, at: bigint = revision): string[] => {
    if (at > revision) {
      throw new KvError('invalid', `cannot read at revision ${at}: the newest is ${revision}`, {
        retryable: false,
      });
    }
    if (at < compactedRevision) {
      throw new KvError(
        'compacted',
        `cannot read at revision ${at}: compacted up to ${compactedRevision}`,
        {
          retryable: true,
        },
      );
    }
    if (at === revision) return range({ prefix }).map(({ key }) => key);
    const keys = new Set(keysAtCompaction);
    for (const change of history) {
      if (change.revision > at) break;
      if (change.pair === undefined) keys.delete(change.key);
      else keys.add(change.key);
    }
    return [...keys]
      .filter((key) => key.startsWith(prefix))
      .sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)));
  };

  return {
    get clusterId() {
      return clusterId;
    },
    get revision() {
      return revision;
    },
    get failure() {
      return failure;
    },
    get progressAsked() {
      return progressAsked;
    },
    get end() {
      return compacted + history.length;
    },
    read: (key) => pairs.get(key),
    range,
    keysAt,
    write,
    grant,
    takeInjected: () => failures.shift(),
    closedError: () =>
      new KvError('closed', 'cannot use the store: it is closed', { retryable: false }),
    changesFrom: (position) =>
      position < compacted ? undefined : history.slice(position - compacted),
    changed: (signal) =>
      new Promise((resolve) => {
        if (signal.aborted) return resolve();
        const done = (): void => {
          waiting.delete(done);
          signal.removeEventListener('abort', done);
          resolve();
        };
        waiting.add(done);
        signal.addEventListener('abort', done);
      }),
    disconnect: (error) => {
      failure =
        error ??
        new KvError('unavailable', 'cannot reach the store: cut off by a test', {
          retryable: true,
        });
      wake();
    },
    reconnect: () => {
      failure = undefined;
      wake();
    },
    compact: () => {
      compactedRevision = revision;
      keysAtCompaction = [...pairs.keys()];
      compacted += history.length;
      history = [];
    },
    wipe: () => {
      // One more than the end: no watch can take the new history for a continuation of the old one.
      compacted += history.length + 1;
      history = [];
      pairs.clear();
      revision = 1n;
      compactedRevision = 0n;
      keysAtCompaction = [];
      clusterId = randomBytes(8).toString('hex');
      loseLeases([...leases.keys()]);
      wake();
    },
    expireLease: (lease) => {
      const id = leases.get(lease)?.id ?? 0n;
      dropLease(id);
      loseLeases(holdersOf(id));
    },
    progress: () => {
      progressAsked += 1;
      wake();
    },
    failNext: (error, times = 1) => {
      failures = [...failures, ...Array.from({ length: times }, () => error)];
    },
  };

  function loseLeases(lost: readonly KvLease[]): void {
    for (const lease of lost) {
      const state = leases.get(lease);
      if (state === undefined) continue;
      if (!state.alive) leases.delete(lease);
      state.id = nextLease++;
      if (state.alive) for (const callback of state.lost) callback();
    }
  }
}
