/**
 * How policies stand on the nodes of the cluster, as their agents say it. Each registry hangs a key for each policy, with what
 * its own nodes say together, on a lease of its own, and reads those of all: so every replica knows the whole, and what a dead
 * one said goes with it.
 */
import type { KvEvent, KvStore } from '../../mesh/kvstore/kvstore.ts';
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import { REGISTRY_PREFIX } from '../../mesh/wire/keys.ts';
import {
  addStandings,
  decodeStanding,
  encodeStanding,
  type NodePolicyReport,
  type PolicyNews,
  type PolicyStanding,
  standingOnNode,
} from './policy-report.ts';
import { createToldKeys } from './told-keys.ts';

/** Where standings are, by registry and policy. */
export const POLICY_STANDINGS_PREFIX = `${REGISTRY_PREFIX}policies/`;
/** Changes within this time are written together; and nodes that have left are looked for this often. */
const SETTLE_MS = 1_000;
/** Policies of one node that are kept: more than any cluster has. */
const MAX_POLICIES = 50_000;

/** What one session of a node says. */
export interface PolicySession {
  take(news: PolicyNews): void;
}

/** How policies stand. */
export interface PolicyBoard {
  /** Begins a session of a node; what an earlier one of it said counts until this one has said everything. */
  open(node: string): PolicySession;
  /** How a policy stands on all nodes; undefined: nobody has said anything of it. */
  get(policy: string): PolicyStanding | undefined;
  /** All policies of which somebody has said something. */
  policies(): Iterable<string>;
  /** Everything that is known, by name. */
  readonly report: readonly PolicyStanding[];
  /** Calls back when a policy stands otherwise, until the returned function is called. Callbacks return at once and never throw. */
  onChange(callback: (policy: string) => void): () => void;
  /** Tells others what nodes say here, and reads what they tell, until `signal` aborts. */
  run(signal: AbortSignal): Promise<void>;
}

interface NodeReports {
  readonly session: PolicySession;
  reports: Map<string, NodePolicyReport>;
  /** What this session said, while it has not said everything. */
  pending: Map<string, NodePolicyReport> | undefined;
}

/** Makes an empty board. */
export function createPolicyBoard(options: {
  readonly store: KvStore;
  /** Whether what a node said here still counts: it has not gone for good, and has no session at another registry. */
  readonly isHere: (node: string) => boolean;
  readonly clock: Clock;
  readonly logger: Logger;
}): PolicyBoard {
  const { store, isHere, clock, logger } = options;
  const nodes = new Map<string, NodeReports>();
  /** What all registries tell, this one included, by policy and key. */
  const told = new Map<string, Map<string, PolicyStanding>>();
  const policyOfKey = new Map<string, string>();
  const callbacks = new Set<(policy: string) => void>();
  const touch = (policy: string): void => keys.touch(policy);

  const change = (entry: NodeReports, next: Map<string, NodePolicyReport>): void => {
    for (const policy of new Set([...entry.reports.keys(), ...next.keys()])) touch(policy);
    entry.reports = next;
  };
  const forgetLeavers = (): void => {
    for (const [node, entry] of [...nodes]) {
      if (isHere(node)) continue;
      change(entry, new Map());
      nodes.delete(node);
    }
  };
  const standingHere = (policy: string): PolicyStanding | undefined =>
    addStandings(
      [...nodes].flatMap(([node, { reports }]) => {
        const report = reports.get(policy);
        return report === undefined ? [] : [standingOnNode(node, report)];
      }),
    );
  const onEvent = (event: KvEvent): void => {
    if (event.kind === 'put') {
      const { key, value } = event.pair;
      const standing = decodeStanding(value.toString('utf8'));
      if (standing === undefined) {
        logger.warn({ key }, 'cannot read how a policy stands at another registry, it is left out');
        return;
      }
      const { policy } = standing;
      const parts = told.get(policy) ?? new Map<string, PolicyStanding>();
      told.set(policy, parts.set(key, standing));
      policyOfKey.set(key, policy);
      for (const callback of callbacks) callback(policy);
    }
    if (event.kind === 'delete') {
      const policy = policyOfKey.get(event.key);
      policyOfKey.delete(event.key);
      if (policy === undefined) return;
      const parts = told.get(policy);
      parts?.delete(event.key);
      if (parts?.size === 0) told.delete(policy);
      if (keys.isOwn(event.key)) keys.lost(policy);
      for (const callback of callbacks) callback(policy);
    }
  };
  const keys = createToldKeys({
    store,
    prefix: POLICY_STANDINGS_PREFIX,
    prepare: forgetLeavers,
    valueFor(policy) {
      const standing = standingHere(policy);
      return standing && encodeStanding(standing);
    },
    onEvent,
    failure: 'cannot tell how a policy stands, will be retried',
    settleMs: SETTLE_MS,
    clock,
    logger,
  });
  const get = (policy: string): PolicyStanding | undefined =>
    addStandings([...(told.get(policy)?.values() ?? [])]);

  return {
    open(node) {
      const session: PolicySession = {
        take(news) {
          const entry = nodes.get(node);
          // Another session of this node has begun.
          if (entry?.session !== session) return;
          const into = entry.pending ?? entry.reports;
          for (const report of news.reports) {
            if (into.size < MAX_POLICIES || into.has(report.policy)) {
              into.set(report.policy, report);
            } else
              logger.warn({ node, policy: report.policy }, 'a node tells of too many policies');
          }
          for (const policy of news.gone) into.delete(policy);
          if (entry.pending === undefined) {
            for (const { policy } of news.reports) touch(policy);
            for (const policy of news.gone) touch(policy);
          } else if (news.complete) {
            change(entry, entry.pending);
            entry.pending = undefined;
          }
        },
      };
      nodes.set(node, {
        session,
        reports: nodes.get(node)?.reports ?? new Map(),
        pending: new Map(),
      });
      return session;
    },
    get,
    policies: () => told.keys(),
    get report() {
      return [...told.keys()].sort().flatMap((policy) => get(policy) ?? []);
    },
    onChange(callback) {
      callbacks.add(callback);
      return () => void callbacks.delete(callback);
    },
    run: (signal) => keys.run(signal),
  };
}
