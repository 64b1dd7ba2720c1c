/** Which of a Service's backends get new connections, and which keep only those they have. */
import type { LocalService } from '../../mesh/wire/local-service.ts';
import type { Backend } from '../datapath/desired.ts';
import { nearBackends, type Topology } from './topology.ts';

/**
 * Which backends go first. `active`: by affinity; `last`: of a cluster that has fallen silent, used where no active one
 * remains; `spare`: of one that is believed dead, used where neither remains; `never`: not even then.
 */
export type BackendRank = 'active' | 'last' | 'spare' | 'never';

/** Rank of a peer's backends; undefined: all are active. */
export type RankOf = ((clusterId: number) => BackendRank) | undefined;

/** Backends of one port in one family. */
export interface Candidates {
  /** Of the own cluster, not about to end. */
  readonly local: readonly Backend[];
  /** Of the own cluster, about to end and still answering. */
  readonly draining: readonly Backend[];
  /** Of the other clusters; which of them are about to end is not published. */
  readonly remote: readonly Backend[];
}

const NONE: readonly Backend[] = [];

/** What a frontend holds. */
export interface Choice {
  readonly backends: readonly Backend[];
  readonly draining: readonly Backend[];
}

/**
 * Chooses among all: by affinity among the active ones, of those the near ones; without any, those of silent clusters; then
 * those that are about to end; then those of clusters believed dead.
 */
export function chooseForCluster(
  service: Pick<LocalService, 'affinity' | 'trafficDistribution'>,
  candidates: Candidates,
  options: { readonly rankOf: RankOf; readonly topology: Topology },
): Choice {
  const { rankOf, topology } = options;
  const { local, draining, remote } = candidates;
  const ofRank = (rank: BackendRank): readonly Backend[] =>
    rankOf === undefined
      ? rank === 'active'
        ? remote
        : NONE
      : remote.filter(({ clusterId }) => rankOf(clusterId) === rank);
  const active = chooseByAffinity(service.affinity, local, ofRank('active'));
  if (active.length > 0) {
    return { backends: nearBackends(service, active, topology), draining };
  }
  const last = ofRank('last');
  if (last.length > 0) return { backends: last, draining };
  if (draining.length > 0) return { backends: draining, draining: NONE };
  return { backends: ofRank('spare'), draining: NONE };
}

/**
 * Chooses among those of this node alone: without any, the ones that are about to end, as kube-proxy does. One of which
 * nobody says where it runs is not of this node.
 */
export function chooseForNode(
  candidates: Pick<Candidates, 'local' | 'draining'>,
  { placeOf, node }: Topology,
): Choice {
  const isHere = (backend: Backend): boolean => placeOf(backend)?.node === node.nodeName;
  const backends = candidates.local.filter(isHere);
  const draining = candidates.draining.filter(isHere);
  return backends.length > 0 ? { backends, draining } : { backends: draining, draining: NONE };
}

/** With a preference the other side is used only when the preferred one has nothing at all. */
function chooseByAffinity(
  affinity: LocalService['affinity'],
  local: readonly Backend[],
  remote: readonly Backend[],
): readonly Backend[] {
  switch (affinity) {
    case 'none':
      if (remote.length === 0) return local;
      return local.length === 0 ? remote : [...local, ...remote];
    case 'local':
      return local.length > 0 ? local : remote;
    case 'remote':
      return remote.length > 0 ? remote : local;
    default:
      return affinity satisfies never;
  }
}
