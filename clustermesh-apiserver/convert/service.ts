import type { ClusterId, ClusterName } from '../../mesh/wire/ids.ts';
import { type IpAddress, ipFamily } from '../../mesh/wire/ip.ts';
import type { LocalService } from '../../mesh/wire/local-service.ts';
import type { BackendZone, ClusterService, L4Port, PortMap } from '../../mesh/wire/service.ts';
import type { EndpointSliceObject, PodObject, ServiceObject } from '../sources/objects.ts';
import { type GlobalServiceSettings, readGlobalServiceSettings } from './annotations.ts';

/** Slices that a mesh controller wrote hold other clusters' backends: publishing them would send them in circles. */
const MESH_MANAGERS: readonly string[] = [
  'endpointslice-mesh-controller.cilium.io',
  'endpointslice-mesh-controller.isthmus.io',
];

/** Label by which the control plane marks the slices of a headless Service, and by which Cilium takes a Service for one. */
const HEADLESS_LABEL = 'service.kubernetes.io/headless';
/** Label that leaves a Service, and its slices, to the proxy that it names. */
const PROXY_LABEL = 'service.kubernetes.io/service-proxy-name';

/** Everything one Service is converted from. Pods count only for a Service with a selector and without slices. */
export interface ServiceInput {
  readonly service: ServiceObject;
  readonly slices: readonly EndpointSliceObject[];
  readonly pods: readonly PodObject[];
}

/** How Services are converted. */
export interface ServiceOptions {
  readonly cluster: { readonly name: ClusterName; readonly id: ClusterId };
  /** Whether the mesh may know the namespace. */
  readonly isNamespaceGlobal: boolean;
  /** Whether an endpoint that is not ready and says nothing of serving counts as serving, as it does for Cilium. */
  readonly isServingUnlessSaid: boolean;
}

/** A Service for our own agents, and for the other clusters where it is global and shared. */
export interface ConvertedService {
  readonly local: LocalService;
  readonly exported: ClusterService | undefined;
  readonly settings: GlobalServiceSettings;
}

interface Backends {
  readonly ports: Map<IpAddress, Map<string, L4Port>>;
  readonly hostnames: Map<IpAddress, string>;
  readonly zones: Map<IpAddress, BackendZone>;
}

/** Whether a Service is left to a proxy of its own: then it is none of ours, nor of Cilium's. */
export function isForeign(service: ServiceObject): boolean {
  return Object.hasOwn(service.labels, PROXY_LABEL);
}

/** Converts a Service with its backends. ExternalName services have neither address nor backends. */
export function convertService(input: ServiceInput, options: ServiceOptions): ConvertedService {
  const { service } = input;
  const settings = readGlobalServiceSettings(service.annotations, service);
  const backends = collectBackends(input, options);
  const local: LocalService = {
    namespace: service.namespace,
    name: service.name,
    clusterIps: service.clusterIps,
    ports: service.ports.map(({ name, protocol, port }) => ({ name, protocol, port })),
    headless: service.headless,
    global: settings.global,
    shared: settings.shared,
    affinity: settings.affinity,
    backends: backends.ports,
  };
  const isExported =
    settings.global &&
    settings.shared &&
    options.isNamespaceGlobal &&
    service.type !== 'ExternalName';
  return {
    local,
    exported: isExported ? exportService(service, backends, options.cluster) : undefined,
    settings,
  };
}

function exportService(
  service: ServiceObject,
  backends: Backends,
  cluster: { readonly name: ClusterName; readonly id: ClusterId },
): ClusterService {
  const ports: PortMap = new Map(
    service.ports.map(({ name, protocol, port }) => [name, { protocol, port }]),
  );
  const isHeadless = service.headless || Object.hasOwn(service.labels, HEADLESS_LABEL);
  return {
    cluster: cluster.name,
    namespace: service.namespace,
    name: service.name,
    frontends: new Map(isHeadless ? [] : service.clusterIps.map((ip) => [ip, ports])),
    backends: backends.ports,
    hostnames: backends.hostnames,
    zones: backends.zones,
    labels: service.labels,
    selector: service.selector,
    includeExternal: true,
    shared: true,
    clusterId: cluster.id,
  };
}

function collectBackends(input: ServiceInput, options: ServiceOptions): Backends {
  const backends: Backends = { ports: new Map(), hostnames: new Map(), zones: new Map() };
  const slices = input.slices.filter(isOwnSlice);
  for (const slice of slices) addSlice(backends, slice, options);
  if (slices.length === 0 && Object.keys(input.service.selector).length > 0) {
    for (const pod of input.pods) addPod(backends, input.service, pod);
  }
  return backends;
}

/** Whether a slice holds backends of this cluster for everybody. */
export function isOwnSlice({ managedBy, proxyName }: EndpointSliceObject): boolean {
  return proxyName === undefined && !MESH_MANAGERS.includes(managedBy ?? '');
}

function addSlice(
  backends: Backends,
  slice: EndpointSliceObject,
  { isServingUnlessSaid }: ServiceOptions,
): void {
  for (const endpoint of slice.endpoints) {
    if (!endpoint.ready && !(endpoint.serving ?? isServingUnlessSaid)) continue;
    for (const address of endpoint.addresses) {
      const ports = portsOf(backends, address);
      for (const { name, protocol, port } of slice.ports) ports.set(name, { protocol, port });
      if (endpoint.hostname !== undefined) backends.hostnames.set(address, endpoint.hostname);
      if (endpoint.zone !== undefined) {
        backends.zones.set(address, { zone: endpoint.zone, forZones: endpoint.forZones ?? [] });
      }
    }
  }
}

function addPod(backends: Backends, service: ServiceObject, pod: PodObject): void {
  if (!pod.ready || pod.finished) return;
  // A Service has backends of its own families only; a headless one without addresses has all of them.
  const families = new Set(service.clusterIps.map(ipFamily));
  for (const address of pod.ips) {
    if (families.size > 0 && !families.has(ipFamily(address))) continue;
    const ports = portsOf(backends, address);
    for (const { name, protocol, port, targetPort } of service.ports) {
      const number =
        typeof targetPort === 'string'
          ? pod.ports.find(
              (candidate) => candidate.name === targetPort && candidate.protocol === protocol,
            )?.port
          : (targetPort ?? port);
      if (number !== undefined) ports.set(name, { protocol, port: number });
    }
  }
}

function portsOf(backends: Backends, address: IpAddress): Map<string, L4Port> {
  const known = backends.ports.get(address);
  if (known !== undefined) return known;
  const ports = new Map<string, L4Port>();
  backends.ports.set(address, ports);
  return ports;
}
