import { type IpAddress, ipFamily } from '../../mesh/wire/ip.ts';
import type { LocalService } from '../../mesh/wire/local-service.ts';
import type { ClusterService, L4Port, PortMap } from '../../mesh/wire/service.ts';
import { diffBackends } from '../datapath/backend-difference.ts';
import type { Backend, FrontendEntry } from '../datapath/desired.ts';

/**
 * Which backends go first. `active`: by affinity; `last`: of a cluster that has fallen silent, used where no active one
 * remains; `spare`: of one that is believed dead, used where neither remains; `never`: not even then.
 */
export type BackendRank = 'active' | 'last' | 'spare' | 'never';

/** What a service's frontends are made from besides the Service itself. */
export interface FrontendSources {
  readonly ownClusterId: number;
  /** Rank of a peer's backends; undefined: all are active. */
  readonly rankOf?: ((clusterId: number) => BackendRank) | undefined;
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
  readonly remembered: (
    frontend: Omit<FrontendEntry, 'backends' | 'service'>,
  ) => readonly Backend[];
}

/**
 * Frontends of a Service of the own cluster: every ClusterIP with every port, each with the backends that its affinity
 * chooses (Cilium `pkg/clustermesh/service_merger.go`, `pkg/loadbalancer` affinity). Remote backends count only if the
 * Service is global; they are matched by the port's name and protocol, the number may differ. A headless Service has
 * none.
 */
export function frontendsOf(service: LocalService, sources: FrontendSources): FrontendEntry[] {
  if (service.headless) return [];
  const frontends: FrontendEntry[] = [];
  const name = `${service.namespace}/${service.name}`;
  for (const address of service.clusterIps) {
    for (const port of service.ports) {
      const frontend = { address, port: port.port, protocol: port.protocol };
      const wanted: WantedPort = { ...port, family: ipFamily(address) };
      const local = collectAgain(service.backends, wanted, {
        clusterId: sources.ownClusterId,
        frontend,
        sources,
      });
      const remote = service.global ? remoteBackends(frontend, wanted, sources) : [];
      const backends = chooseByRank(service.affinity, { local, remote }, sources.rankOf);
      frontends.push({ ...frontend, backends, service: name });
    }
  }
  return frontends;
}

interface WantedPort {
  readonly name: string;
  readonly protocol: L4Port['protocol'];
  readonly family: 4 | 6;
}

function remoteBackends(
  frontend: Omit<FrontendEntry, 'backends' | 'service'>,
  wanted: WantedPort,
  sources: FrontendSources,
): Backend[] {
  let found: Backend[] = [];
  for (const remote of sources.remotes) {
    // Cilium treats a record that is no longer shared like a deleted one.
    if (!remote.shared) continue;
    const { clusterId } = remote;
    found = found.concat(collectAgain(remote.backends, wanted, { clusterId, frontend, sources }));
  }
  // Where the new record is there already, what was remembered is out of date.
  const heard = new Set(sources.remotes.map(({ clusterId }) => clusterId));
  for (const backend of sources.remembered(frontend)) {
    if (!heard.has(backend.clusterId)) found.push(backend);
  }
  return found;
}

/** The own cluster's backends are always active; others count only where no active one is left. */
function chooseByRank(
  affinity: LocalService['affinity'],
  { local, remote }: { local: readonly Backend[]; remote: readonly Backend[] },
  rankOf: FrontendSources['rankOf'],
): readonly Backend[] {
  if (rankOf === undefined) return chooseByAffinity(affinity, local, remote);
  const ofRank = (rank: BackendRank): Backend[] =>
    remote.filter(({ clusterId }) => rankOf(clusterId) === rank);
  const active = chooseByAffinity(affinity, local, ofRank('active'));
  if (active.length > 0) return active;
  const last = ofRank('last');
  return last.length > 0 ? last : ofRank('spare');
}

/** With a preference the other side is used only when the preferred one has nothing at all. */
function chooseByAffinity(
  affinity: LocalService['affinity'],
  local: readonly Backend[],
  remote: readonly Backend[],
): readonly Backend[] {
  switch (affinity) {
    case 'none':
      return [...local, ...remote];
    case 'local':
      return local.length > 0 ? local : remote;
    case 'remote':
      return remote.length > 0 ? remote : local;
    default:
      return affinity satisfies never;
  }
}

/** Backends by frontend and cluster, as they were collected last. */
export type CollectedBackends = Map<string, readonly Backend[]>;

function collectAgain(
  backends: ReadonlyMap<IpAddress, PortMap>,
  wanted: WantedPort,
  from: {
    readonly clusterId: number;
    readonly frontend: Omit<FrontendEntry, 'backends' | 'service'>;
    readonly sources: FrontendSources;
  },
): Backend[] {
  const { clusterId, frontend, sources } = from;
  const { address, port, protocol } = frontend;
  const key = `${clusterId} ${protocol} ${address} ${port}`;
  const before = sources.collected?.before?.get(key) ?? [];
  const found = collect(backends, wanted, { clusterId, before });
  sources.collected?.now.set(key, found);
  return found;
}

/** How far two lists may have drifted apart before the objects of the old one are looked for by address. */
const LOOK_AHEAD = 8;

function collect(
  backends: ReadonlyMap<IpAddress, PortMap>,
  wanted: WantedPort,
  { clusterId, before }: { clusterId: number; before: readonly Backend[] },
): Backend[] {
  const found: Backend[] = [];
  // Both lists are in the order of the record, so an object of the old one is nearly always the next.
  let position = 0;
  let byAddress: Map<IpAddress, number> | undefined;
  const placeOf = (address: IpAddress): number | undefined => {
    for (let place = position; place < position + LOOK_AHEAD; place += 1) {
      if (before[place]?.address === address) return place;
    }
    if (before.length <= LOOK_AHEAD) return undefined;
    byAddress ??= new Map(before.map((backend, place) => [backend.address, place]));
    return byAddress.get(address);
  };
  for (const [address, ports] of backends) {
    if (ipFamily(address) !== wanted.family) continue;
    const target = ports.get(wanted.name);
    if (target === undefined || target.protocol !== wanted.protocol) continue;
    const { port, protocol } = target;
    const place = placeOf(address);
    const old = place === undefined ? undefined : before[place];
    if (place !== undefined) position = place + 1;
    found.push(
      old !== undefined && old.port === port && old.protocol === protocol
        ? old
        : { address, port, protocol, clusterId },
    );
  }
  return found;
}

/** Whether two rows of a frontend are the same to the kernel: the same backends, in any order. */
export function sameFrontend(a: FrontendEntry, b: FrontendEntry): boolean {
  if (a.backends.length !== b.backends.length) return false;
  const { added, removed } = diffBackends(a.backends, b.backends);
  return added.length === 0 && removed.length === 0;
}
