import type { ClusterRef } from '../../mesh/remote/cluster-sink.ts';
import type { LocalService } from '../../mesh/wire/local-service.ts';
import type { ClusterService } from '../../mesh/wire/service.ts';
import type { Backend, FrontendEntry, FrontendKey } from '../datapath/desired.ts';
import type { BackendRank } from '../merge/backend-choice.ts';
import type { ServiceFacts } from '../merge/backend-state.ts';
import type { CollectedBackends } from '../merge/collected-backends.ts';
import { frontendsOf } from '../merge/frontends.ts';
import type { ServiceNode, ServiceRules } from '../merge/service-rules.ts';
import type { Reconciler } from './reconciler.ts';

/** How far the backends of a peer are withdrawn: not at all, used last, or believed dead. */
export type Withdrawal = 'none' | 'last' | 'gone';

/** Turns Services of the own cluster and what peers add to them into desired frontends. */
export interface ServiceState {
  setLocal(name: string, service: LocalService | undefined): void;
  setRemote(cluster: ClusterRef, name: string, service: ClusterService | undefined): void;
  /**
   * Withdraws the backends of a peer, or takes them back. With `last` they serve where no active backend remains; with
   * `gone` only where not even such a one remains, and with `always`, which is true for `gone` alone, not even there.
   * The own cluster's are never withdrawn.
   */
  setWithdrawn(clusterId: number, level: Withdrawal, options: { readonly always: boolean }): void;
  /** Zone of this node, by which near backends are known; empty: nobody says. */
  setZone(zone: string): void;
  /** A cluster has said everything, or never will: what was remembered of it is to be looked at again. */
  forgetRemembered(): void;
  refresh(): void;
  counts(): { readonly local: number; readonly global: number };
  /** Frontends that a Service does not get because another one has the same address and port. */
  conflicts(): readonly string[];
  /** Names of the Services of the own cluster and of those that peers offer, each once. */
  names(): Iterable<string>;
  /** What is known of `namespace/name` and wanted for it, for people. */
  facts(name: string): ServiceFacts;
}

/**
 * Begins with what a previous process left: backends of clusters that `isOutstanding` stay in frontends until those
 * clusters have spoken, so that a restart takes no backend away.
 */
export function createServiceState(
  self: Omit<ServiceNode, 'zone'>,
  options: {
    readonly reconciler: Reconciler<FrontendEntry, FrontendKey>;
    readonly rules: ServiceRules;
    readonly isOutstanding: (clusterId: number) => boolean;
  },
): ServiceState {
  const { reconciler, rules, isOutstanding } = options;
  const { clusterId: ownClusterId } = self;
  const { table } = reconciler;
  let node: ServiceNode = { ...self, zone: '' };
  const locals = new Map<string, LocalService>();
  const remotes = new Map<string, Map<number, ClusterService>>();
  const dirty = new Set<string>();
  /** Rows of each service, and services that want each frontend, in the order of arrival: the first has it. */
  const rows = new Map<string, Map<string, FrontendEntry>>();
  const claims = new Map<string, Set<string>>();
  const collected = new Map<string, CollectedBackends>();
  const remembered = new Map<string, readonly Backend[]>();
  /** Ranks of the clusters that are not active. */
  const ranks = new Map<number, BackendRank>();
  for (const row of table.adopted()) {
    const backends = row.backends.filter(({ clusterId }) => clusterId !== ownClusterId);
    if (backends.length > 0) remembered.set(frontendKey(row), backends);
  }

  const compute = (name: string): Map<string, FrontendEntry> => {
    const service = locals.get(name);
    if (service === undefined) {
      collected.delete(name);
      return new Map();
    }
    const before = collected.get(name);
    const now: CollectedBackends = new Map();
    collected.set(name, now);
    const frontends = frontendsOf(service, {
      node,
      rules,
      collected: { before, now },
      remotes: [...(remotes.get(name)?.values() ?? [])],
      rankOf: ranks.size === 0 ? undefined : (clusterId) => ranks.get(clusterId) ?? 'active',
      remembered: (frontend) =>
        (remembered.get(frontendKey(frontend)) ?? []).filter(({ clusterId }) =>
          isOutstanding(clusterId),
        ),
    });
    const found = new Map<string, FrontendEntry>();
    for (const row of frontends) {
      const key = frontendKey(row);
      // Two ports of a Service may meet in one node port or address: the first has it, as among Services.
      if (!found.has(key)) found.set(key, row);
    }
    return found;
  };

  const settle = (key: string, freed: FrontendKey): void => {
    const [holder] = claims.get(key) ?? [];
    const row = holder === undefined ? undefined : rows.get(holder)?.get(key);
    if (row === undefined) table.remove(freed);
    else table.set(row);
  };

  const refreshOne = (name: string): void => {
    const before = rows.get(name) ?? new Map<string, FrontendEntry>();
    const after = compute(name);
    if (after.size === 0) rows.delete(name);
    else rows.set(name, after);
    for (const [key, row] of before) {
      if (after.has(key)) continue;
      const holders = claims.get(key);
      holders?.delete(name);
      if (holders?.size === 0) claims.delete(key);
      settle(key, row);
    }
    for (const [key, row] of after) {
      claims.set(key, (claims.get(key) ?? new Set()).add(name));
      settle(key, row);
    }
  };

  return {
    setLocal(name, service) {
      if (service === undefined) locals.delete(name);
      else locals.set(name, service);
      dirty.add(name);
    },
    setRemote(cluster, name, service) {
      // The own cluster's shared record says nothing that its Service does not.
      if (cluster.own) return;
      const clusters = remotes.get(name) ?? new Map<number, ClusterService>();
      if (service === undefined) clusters.delete(cluster.id);
      else clusters.set(cluster.id, service);
      if (clusters.size === 0) remotes.delete(name);
      else remotes.set(name, clusters);
      if (locals.has(name)) dirty.add(name);
    },
    setWithdrawn(clusterId, level, { always }) {
      const rank = clusterId === ownClusterId ? 'active' : rankOf(level, always);
      if (rank === (ranks.get(clusterId) ?? 'active')) return;
      if (rank === 'active') ranks.delete(clusterId);
      else ranks.set(clusterId, rank);
      for (const [name, clusters] of remotes) {
        if (clusters.has(clusterId) && locals.has(name)) dirty.add(name);
      }
      // What is remembered of a cluster stands in frontends, too.
      if (remembered.size > 0) for (const name of rows.keys()) dirty.add(name);
    },
    setZone(zone) {
      if (zone === node.zone) return;
      node = { ...node, zone };
      for (const name of locals.keys()) dirty.add(name);
    },
    forgetRemembered() {
      if (remembered.size === 0) return;
      for (const name of rows.keys()) dirty.add(name);
      for (const [key, backends] of remembered) {
        if (!backends.some(({ clusterId }) => isOutstanding(clusterId))) remembered.delete(key);
      }
    },
    refresh() {
      for (const name of dirty) refreshOne(name);
      dirty.clear();
    },
    counts: () => ({
      local: locals.size,
      global: [...locals.values()].filter((service) => service.global).length,
    }),
    conflicts() {
      const lines: string[] = [];
      for (const [key, [holder, ...others]] of claims) {
        if (others.length > 0)
          lines.push(`${key} is held by ${holder}, not by ${others.join(', ')}`);
      }
      return lines;
    },
    *names() {
      yield* locals.keys();
      for (const name of remotes.keys()) if (!locals.has(name)) yield name;
    },
    facts: (name) => ({
      node,
      rules,
      local: locals.get(name),
      remotes: [...(remotes.get(name)?.values() ?? [])],
      frontends: [...(rows.get(name) ?? [])].map(([key, row]) => {
        const [holder] = claims.get(key) ?? [];
        return { row, heldBy: holder === name ? undefined : holder };
      }),
      rankOf: (clusterId) => ranks.get(clusterId) ?? 'active',
    }),
  };
}

function rankOf(level: Withdrawal, always: boolean): BackendRank {
  switch (level) {
    case 'none':
      return 'active';
    case 'last':
      return 'last';
    case 'gone':
      return always ? 'never' : 'spare';
    default:
      return level satisfies never;
  }
}

function frontendKey({ address, port, protocol, scope }: FrontendKey): string {
  const text = `${protocol} ${address} port ${port}`;
  return scope === 'internal' ? text : `${text} from outside`;
}
