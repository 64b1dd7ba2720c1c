import { type IpAddress, ipFamily } from '../../mesh/wire/ip.ts';
import type { LocalService } from '../../mesh/wire/local-service.ts';
import type { ClusterService, L4Port, PortMap } from '../../mesh/wire/service.ts';
import { diffBackends } from '../datapath/backend-difference.ts';
import type { Backend, FrontendEntry, FrontendKey } from '../datapath/desired.ts';
import {
  type Candidates,
  type Choice,
  chooseForCluster,
  chooseForNode,
  type RankOf,
} from './backend-choice.ts';
import { type CollectedBackends, collectBackends } from './collected-backends.ts';
import { type PlannedFrontend, planFrontends } from './frontend-plan.ts';
import type { ServiceNode, ServiceRules } from './service-rules.ts';
import type { Topology } from './topology.ts';

/** What a service's frontends are made from besides the Service itself. */
export interface FrontendSources {
  readonly node: ServiceNode;
  readonly rules: ServiceRules;
  readonly rankOf?: RankOf;
  /**
   * What was made of each cluster's record the last time, and where it is noted now: of equal backends the same objects
   * are used again. Default: all are made anew.
   */
  readonly collected?: {
    readonly before: CollectedBackends | undefined;
    readonly now: CollectedBackends;
  };
  /** The record of the same namespace and name of each peer that has one. */
  readonly remotes: readonly ClusterService[];
  /** Backends that a previous process knew of a frontend, from clusters that have not been heard of since. */
  readonly remembered: (frontend: FrontendKey) => readonly Backend[];
}

/**
 * Frontends of a Service of the own cluster: each address that it is reached at on this node, with the backends that its
 * policies, its affinity, hints and what is known of the peers choose (Cilium `pkg/clustermesh/service_merger.go`,
 * `pkg/loadbalancer` affinity; Kubernetes' Service API for policies and hints). Remote backends count only if the Service is
 * global; they are matched by the port's name and protocol, the number may differ. A headless Service has none, and so has
 * one that the rules leave to another proxy.
 */
export function frontendsOf(service: LocalService, sources: FrontendSources): FrontendEntry[] {
  if (service.headless || service.type === 'ExternalName') return [];
  if (sources.rules.services === 'global' && !service.global) return [];
  const frontends: FrontendEntry[] = [];
  for (const port of service.ports) {
    const planned = planFrontends(service, port, sources);
    for (const family of [4, 6] as const) {
      const ofFamily = planned.filter(({ key }) => ipFamily(key.address) === family);
      if (ofFamily.length === 0) continue;
      const { name, protocol } = port;
      const wanted = { name, protocol, family };
      addFrontends(frontends, service, { wanted, planned: ofFamily, sources });
    }
  }
  return frontends;
}

function addFrontends(
  frontends: FrontendEntry[],
  service: LocalService,
  from: {
    readonly wanted: WantedPort;
    readonly planned: readonly PlannedFrontend[];
    readonly sources: FrontendSources;
  },
): void {
  const choose = createChoices(service, from.wanted, from);
  const name = `${service.namespace}/${service.name}`;
  for (const { key, isExternal, policy } of from.planned) {
    const { address, port, protocol, scope } = key;
    const { backends, draining } = choose(policy);
    // Each field by name: there may be a hundred thousand of these, and objects put together by spreading are larger.
    frontends.push({
      address,
      port,
      protocol,
      scope,
      isExternal,
      backends,
      draining,
      affinitySeconds: service.affinitySeconds,
      algorithm: service.algorithm ?? from.sources.rules.algorithm,
      service: name,
    });
  }
}

/** A port of backends, by what clusters agree on. */
interface WantedPort {
  readonly name: string;
  readonly protocol: L4Port['protocol'];
  readonly family: 4 | 6;
}

/** What each policy chooses of a port, made when it is asked for: all frontends with one policy share its lists. */
function createChoices(
  service: LocalService,
  wanted: WantedPort,
  { sources, planned }: { sources: FrontendSources; planned: readonly PlannedFrontend[] },
): (policy: PlannedFrontend['policy']) => Choice {
  const { candidates, remembered } = gather(service, wanted, { sources, planned });
  const topology = topologyOf(service, sources, remembered);
  let ofCluster: Choice | undefined;
  let ofNode: Choice | undefined;
  return (policy) => {
    switch (policy) {
      case 'Cluster':
        ofCluster ??= chooseForCluster(service, candidates, { rankOf: sources.rankOf, topology });
        return ofCluster;
      case 'Local':
        ofNode ??= chooseForNode(candidates, topology);
        return ofNode;
      default:
        return policy satisfies never;
    }
  };
}

function gather(
  service: LocalService,
  wanted: WantedPort,
  { sources, planned }: { sources: FrontendSources; planned: readonly PlannedFrontend[] },
): { candidates: Candidates; remembered: ReadonlySet<Backend> } {
  const { node, remotes } = sources;
  const collect = (
    from: ReadonlyMap<IpAddress, PortMap>,
    how: { clusterId: number; list: string },
  ): readonly Backend[] => collectBackends(from, wanted, { ...how, collected: sources.collected });
  const local = collect(service.backends, { clusterId: node.clusterId, list: 'backends' });
  const draining =
    service.draining.size === 0
      ? NO_BACKENDS
      : collect(service.draining, { clusterId: node.clusterId, list: 'draining' });
  if (!service.global)
    return { candidates: { local, draining, remote: NO_BACKENDS }, remembered: NONE };
  let remote = NO_BACKENDS;
  for (const record of remotes) {
    // Cilium treats a record that is no longer shared like a deleted one.
    if (!record.shared) continue;
    const { clusterId } = record;
    const found = collect(record.backends, { clusterId, list: 'backends' });
    remote = remote.length === 0 ? found : remote.concat(found);
  }
  const remembered = rememberedBackends(planned, sources);
  if (remembered.size > 0) remote = [...remote, ...remembered];
  return { candidates: { local, draining, remote }, remembered };
}

const NONE: ReadonlySet<Backend> = new Set();
const NO_BACKENDS: readonly Backend[] = [];

/** Where the new record is there already, what was remembered is out of date. */
function rememberedBackends(
  planned: readonly PlannedFrontend[],
  { remotes, remembered }: FrontendSources,
): ReadonlySet<Backend> {
  // Every frontend of a port that any backend may serve was given the same ones; a new one shall have them, too.
  for (const { key, policy } of planned) {
    if (policy !== 'Cluster') continue;
    const known = remembered(key);
    if (known.length === 0) continue;
    const heard = new Set(remotes.map(({ clusterId }) => clusterId));
    return new Set(known.filter(({ clusterId }) => !heard.has(clusterId)));
  }
  return NONE;
}

function topologyOf(
  service: LocalService,
  { node, remotes }: FrontendSources,
  remembered: ReadonlySet<Backend>,
): Topology {
  return {
    node,
    isRemembered: (backend) => remembered.has(backend),
    placeOf({ clusterId, address }) {
      if (clusterId === node.clusterId) return service.places.get(address);
      const record = remotes.find((remote) => remote.clusterId === clusterId);
      const found = record?.zones?.get(address);
      if (found === undefined) return undefined;
      const forZones = (found.forZones ?? []).map(({ name }) => name);
      return { node: '', zone: found.zone, forZones, forNodes: [] };
    },
  };
}

/** Whether two rows of a frontend are the same to the kernel: the same settings, and the same backends in any order. */
export function sameFrontend(a: FrontendEntry, b: FrontendEntry): boolean {
  return (
    a.isExternal === b.isExternal &&
    a.affinitySeconds === b.affinitySeconds &&
    a.algorithm === b.algorithm &&
    sameBackends(a.backends, b.backends) &&
    sameBackends(a.draining, b.draining)
  );
}

function sameBackends(a: readonly Backend[], b: readonly Backend[]): boolean {
  if (a === b) return true;
  if (a.length !== b.length) return false;
  const { added, removed } = diffBackends(a, b);
  return added.length === 0 && removed.length === 0;
}
