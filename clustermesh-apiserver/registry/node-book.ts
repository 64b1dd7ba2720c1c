/**
 * Which nodes are there by their own word. A node stays for a grace time after its session has ended, counted only while
 * the registry can be reached; what it said is kept in etcd, so that a restart of the registry takes no node away. Replicas
 * share a board: a session at another one counts as one here, and only the one that leads takes nodes away.
 */
import { type KvCompare, KvError, type KvStore } from '../../mesh/kvstore/kvstore.ts';
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import type { NodeConflict, NodeFacts } from '../convert/node.ts';
import {
  decodeKeptFacts,
  encodeKeptFacts,
  FactsError,
  NODE_FACTS_PREFIX,
  parseNodeFacts,
} from './node-facts.ts';
import type { BoardHandlers, SessionBoard } from './session-board.ts';

const EXPIRY_CHECK_MS = 1000;

/** Options of `createNodeBook`. */
export interface NodeBookOptions {
  readonly store: KvStore;
  /** Publishes what a node says, or withdraws it. */
  readonly publish: (name: string, facts: NodeFacts | undefined) => void;
  readonly findConflict: (name: string, facts: NodeFacts) => NodeConflict | undefined;
  /** How long a node stays after its session has ended. */
  readonly graceMs: number;
  /** What is shared with other registries on the same etcd. Default: there are none. */
  readonly replicas?: {
    readonly board: SessionBoard;
    /** Condition that holds while this replica may take nodes away; undefined when it may not. */
    readonly fence: () => KvCompare | undefined;
  };
  readonly clock: Clock;
  readonly logger: Logger;
}

/** A node's session, as the status shows it. */
export interface NodeReport {
  readonly node: string;
  /** `elsewhere`: its session is at another replica. */
  readonly state: 'connected' | 'elsewhere' | 'gone';
  /** Milliseconds it has been in that state. */
  readonly forMs: number;
  readonly addresses: readonly string[];
}

/** One stream of one node. */
export interface NodeSession {
  /** Takes facts as they came, or says what is wrong with them: then those before still count. */
  offer(message: unknown, signal: AbortSignal): Promise<NodeConflict | undefined>;
  /** The stream has ended. A session that was replaced may end without consequence. */
  close(): void;
}

/** The nodes that have announced themselves. */
export interface NodeBook {
  /** Reads what nodes said before a restart and publishes it; to be awaited before leftovers are swept. */
  load(signal: AbortSignal): Promise<void>;
  /** Begins a session. An earlier one of the same node is replaced: `onReplaced` of that one is called. */
  open(name: string, onReplaced: () => void): NodeSession;
  /** Takes nodes away whose grace time is over, until `signal` aborts. To be run while the registry listens. */
  run(signal: AbortSignal): Promise<void>;
  /** State of a node; undefined: it is not known, or not any more. */
  stateOf(name: string): NodeReport['state'] | undefined;
  readonly report: readonly NodeReport[];
}

interface Entry {
  facts: NodeFacts | undefined;
  state:
    | { readonly kind: 'connected'; readonly since: number; readonly onReplaced: () => void }
    | { readonly kind: 'elsewhere'; readonly since: number }
    | { readonly kind: 'gone'; readonly since: number };
}

/** Makes an empty book. */
export function createNodeBook(options: NodeBookOptions): NodeBook {
  const { store, publish, findConflict, graceMs, replicas, clock, logger } = options;
  const entries = new Map<string, Entry>();
  /** What is kept of nodes, as the board tells it. */
  const kept = new Map<string, string>();
  /** Nodes of whom nothing is kept since etcd lost its data. */
  const lost = new Set<string>();

  const offer = async (
    name: string,
    entry: Entry,
    offered: { readonly message: unknown; readonly signal: AbortSignal },
  ): Promise<NodeConflict | undefined> => {
    let facts: NodeFacts;
    try {
      facts = parseNodeFacts(offered.message);
    } catch (error) {
      if (!(error instanceof FactsError)) throw error;
      return { field: error.field, reason: error.message };
    }
    const conflict = findConflict(name, facts);
    if (conflict !== undefined) return conflict;
    // Published before it is kept: two nodes that offer the same at once shall not both pass the check.
    entry.facts = facts;
    publish(name, facts);
    await store.put(NODE_FACTS_PREFIX + name, encodeKeptFacts(facts), { signal: offered.signal });
    return undefined;
  };
  /** Forgets what is kept of a node; false when another replica leads or has its session. */
  const forget = async (name: string, signal: AbortSignal): Promise<boolean> => {
    const key = NODE_FACTS_PREFIX + name;
    const fence = replicas?.fence();
    if (replicas === undefined || fence === undefined) {
      await store.delete(key, { signal });
      return true;
    }
    const compare = [fence, { key: replicas.board.keyOf(name), exists: false }];
    const { succeeded } = await store.transact(
      { compare, then: [{ kind: 'delete', key }] },
      { signal },
    );
    return succeeded;
  };
  const expire = async (signal: AbortSignal): Promise<void> => {
    // It is the leader's to take nodes away: the others see that it did.
    if (replicas !== undefined && replicas.fence() === undefined) return;
    for (const [name, entry] of [...entries]) {
      if (entry.state.kind !== 'gone' || clock.monotonic() - entry.state.since < graceMs) continue;
      publish(name, undefined);
      try {
        if (!(await forget(name, signal))) {
          if (entry.facts !== undefined) publish(name, entry.facts);
          continue;
        }
      } catch (error) {
        if (signal.aborted || !(error instanceof KvError)) throw error;
        logger.warn({ node: name, err: error }, 'cannot forget a node, will be retried');
        continue;
      }
      // It may have come back while etcd answered.
      if (!isGone(entry)) {
        if (entry.facts !== undefined) await keepAgain(name, entry.facts, signal);
        continue;
      }
      entries.delete(name);
      logger.info({ node: name }, 'node is gone, what it said of itself counts no more');
    }
  };
  const keepAgain = async (name: string, facts: NodeFacts, signal: AbortSignal): Promise<void> => {
    publish(name, facts);
    await store.put(NODE_FACTS_PREFIX + name, encodeKeptFacts(facts), { signal });
  };

  /** Takes what is kept: the last word of a node that has no session here. */
  const takeKept = (name: string): void => {
    const value = kept.get(name);
    const entry = entries.get(name);
    if (entry?.state.kind === 'connected') return;
    if (value === undefined) {
      if (entry !== undefined) publish(name, undefined);
      entries.delete(name);
      return;
    }
    if (entry?.facts !== undefined && encodeKeptFacts(entry.facts) === value) return;
    try {
      const facts = decodeKeptFacts(value);
      const state = entry?.state ?? { kind: 'gone', since: clock.monotonic() };
      entries.set(name, { facts, state });
      publish(name, facts);
    } catch (error) {
      if (!(error instanceof FactsError)) throw error;
      logger.error(
        { node: name, err: error },
        'cannot read what is kept of a node, it is left out',
      );
    }
  };
  const moveTo = (name: string, kind: 'elsewhere' | 'gone'): void => {
    const entry = entries.get(name) ?? { facts: undefined, state: { kind, since: 0 } };
    const before = entry.state;
    entry.state = { kind, since: clock.monotonic() };
    entries.set(name, entry);
    if (before.kind === 'connected') before.onReplaced();
    if (kept.has(name)) takeKept(name);
  };
  const handlers: BoardHandlers = {
    onElsewhere: (name) => moveTo(name, 'elsewhere'),
    onLeft: (name) => {
      if (entries.get(name)?.state.kind === 'elsewhere') moveTo(name, 'gone');
    },
    onFacts: (name, value) => {
      if (value === undefined) kept.delete(name);
      else kept.set(name, value);
      takeKept(name);
    },
    onFactsLost: (name) => {
      kept.delete(name);
      lost.add(name);
    },
    onSynced: () => {
      // Who left while etcd was out of reach could not come back either.
      for (const entry of entries.values()) {
        if (isGone(entry)) entry.state = { kind: 'gone', since: clock.monotonic() };
      }
    },
  };
  /** Keeps again what etcd lost: each registry for its own sessions, the leader for the rest. */
  const keepLost = async (signal: AbortSignal): Promise<void> => {
    for (const name of [...lost]) {
      const entry = entries.get(name);
      if (entry?.facts !== undefined && !kept.has(name)) {
        if (entry.state.kind !== 'connected' && replicas?.fence() === undefined) continue;
        await keepAgain(name, entry.facts, signal);
      }
      lost.delete(name);
    }
  };
  const watchForEnds = async (signal: AbortSignal): Promise<void> => {
    while (!signal.aborted) {
      await clock.sleep(EXPIRY_CHECK_MS, signal).catch(() => undefined);
      if (signal.aborted) return;
      try {
        await keepLost(signal);
        await expire(signal);
      } catch (error) {
        if (signal.aborted) return;
        if (!(error instanceof KvError)) throw error;
        logger.warn({ err: error }, 'cannot keep what a node says, will be retried');
      }
    }
  };

  return {
    async load(signal) {
      const { pairs } = await store.list(NODE_FACTS_PREFIX, { signal });
      for (const { key, value } of pairs) {
        const name = key.slice(NODE_FACTS_PREFIX.length);
        try {
          const facts = decodeKeptFacts(value.toString('utf8'));
          entries.set(name, { facts, state: { kind: 'gone', since: clock.monotonic() } });
          publish(name, facts);
        } catch (error) {
          if (!(error instanceof FactsError)) throw error;
          logger.error({ key, err: error }, 'cannot read what is kept of a node, it is left out');
        }
      }
    },
    open(name, onReplaced) {
      const state = { kind: 'connected' as const, since: clock.monotonic(), onReplaced };
      const known = entries.get(name);
      if (known?.state.kind === 'connected') known.state.onReplaced();
      const entry: Entry = known ?? { facts: undefined, state };
      entry.state = state;
      entries.set(name, entry);
      replicas?.board.announce(name);
      logger.info({ node: name }, 'session of a node begins');
      return {
        offer: async (message, signal) =>
          entry.state === state
            ? offer(name, entry, { message, signal })
            : { field: '', reason: 'another session of this node has begun' },
        close() {
          if (entry.state !== state) return;
          entry.state = { kind: 'gone', since: clock.monotonic() };
          replicas?.board.withdraw(name);
          logger.info({ node: name, graceMs }, 'session of a node has ended');
        },
      };
    },
    async run(signal) {
      for (const entry of entries.values()) {
        if (isGone(entry)) entry.state = { kind: 'gone', since: clock.monotonic() };
      }
      await Promise.all([watchForEnds(signal), replicas?.board.run(handlers, signal)]);
    },
    stateOf: (name) => entries.get(name)?.state.kind,
    get report() {
      return [...entries].map(([node, { facts, state }]) => ({
        node,
        state: state.kind,
        forMs: Math.round(clock.monotonic() - state.since),
        addresses: facts?.addresses ?? [],
      }));
    },
  };
}

function isGone(entry: Entry): boolean {
  return entry.state.kind === 'gone';
}
