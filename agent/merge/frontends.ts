import { type IpAddress, ipFamily } from '../../mesh/wire/ip.ts';
import type { LocalService } from '../../mesh/wire/local-service.ts';
import type { ClusterService, L4Port, PortMap } from '../../mesh/wire/service.ts';
import type { Backend, FrontendEntry } from '../datapath/desired.ts';

/** What a service's frontends are made from besides the Service itself. */
export interface FrontendSources {
  readonly ownClusterId: number;
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
      const local = collect(service.backends, wanted, sources.ownClusterId);
      const remote = service.global ? remoteBackends(frontend, wanted, sources) : [];
      const backends = chooseByAffinity(service.affinity, local, remote);
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
  const found: Backend[] = [];
  for (const remote of sources.remotes) {
    // Cilium treats a record that is no longer shared like a deleted one.
    if (remote.shared) found.push(...collect(remote.backends, wanted, remote.clusterId));
  }
  // Where the new record is there already, what was remembered is out of date.
  const heard = new Set(sources.remotes.map(({ clusterId }) => clusterId));
  for (const backend of sources.remembered(frontend)) {
    if (!heard.has(backend.clusterId)) found.push(backend);
  }
  return found;
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

function collect(
  backends: ReadonlyMap<IpAddress, PortMap>,
  wanted: WantedPort,
  clusterId: number,
): Backend[] {
  const found: Backend[] = [];
  for (const [address, ports] of backends) {
    if (ipFamily(address) !== wanted.family) continue;
    const target = ports.get(wanted.name);
    if (target === undefined || target.protocol !== wanted.protocol) continue;
    found.push({ address, port: target.port, protocol: target.protocol, clusterId });
  }
  return found;
}

/** Whether two rows of a frontend are the same to the kernel: the same backends, in any order. */
export function sameFrontend(a: FrontendEntry, b: FrontendEntry): boolean {
  if (a.backends.length !== b.backends.length) return false;
  const keys = new Set(a.backends.map(backendKey));
  return (
    keys.size === a.backends.length && b.backends.every((backend) => keys.has(backendKey(backend)))
  );
}

function backendKey({ address, port, protocol, clusterId }: Backend): string {
  return `${protocol}/${address}/${port}/${clusterId}`;
}
