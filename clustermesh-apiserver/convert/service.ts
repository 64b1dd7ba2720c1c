import type { ClusterId, ClusterName } from '../../mesh/wire/ids.ts';
import { type IpAddress, ipFamily } from '../../mesh/wire/ip.ts';
import type { LocalService } from '../../mesh/wire/local-service.ts';
import type { BackendZone, ClusterService, L4Port, PortMap } from '../../mesh/wire/service.ts';
import type { EndpointSliceObject, PodObject, ServiceObject } from '../sources/objects.ts';
import {
  type GlobalServiceSettings,
  readGlobalServiceSettings,
  type ValueWarning,
} from './annotations.ts';
import { checkOfPort, targetOf } from './health-check.ts';
import type { Machine } from './machine.ts';
import {
  convertPorts,
  convertTraffic,
  createPlaceBook,
  isDraining,
  needsPlaces,
  type PlaceBook,
  type PortsByAddress,
  placeOf,
} from './service-traffic.ts';

/** Slices that a mesh controller wrote hold other clusters' backends: publishing them would send them in circles. */
const MESH_MANAGERS: readonly string[] = [
  'endpointslice-mesh-controller.cilium.io',
  'endpointslice-mesh-controller.isthmus.io',
];

/** Label by which the control plane marks the slices of a headless Service, and by which Cilium takes a Service for one. */
const HEADLESS_LABEL = 'service.kubernetes.io/headless';
/** Label that leaves a Service, and its slices, to the proxy that it names. */
const PROXY_LABEL = 'service.kubernetes.io/service-proxy-name';

/**
 * Everything one Service is converted from. Pods count only for a Service with a selector and without slices; machines that it
 * selects count beside either.
 */
export interface ServiceInput {
  readonly service: ServiceObject;
  readonly slices: readonly EndpointSliceObject[];
  readonly pods: readonly PodObject[];
  readonly machines: readonly Machine[];
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
  /** What is wrong with it, for the one who wrote it. */
  readonly warnings: readonly ValueWarning[];
}

interface Backends {
  /** All that serve, those that are about to end among them: Cilium's records do not tell them apart. */
  readonly ports: PortsByAddress;
  /** Of those only the ones that are about to end, and only the ones that are not; both empty where none is. */
  readonly draining: PortsByAddress;
  readonly staying: PortsByAddress;
  readonly places: PlaceBook;
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
  const backends = collectBackends(input, { ...options, settings });
  const local: LocalService = {
    namespace: service.namespace,
    name: service.name,
    clusterIps: service.clusterIps,
    ports: convertPorts(service),
    headless: service.headless,
    global: settings.global,
    shared: settings.shared,
    affinity: settings.affinity,
    ...(Object.keys(service.labels).length === 0 ? {} : { labels: service.labels }),
    ...convertTraffic(service, settings.algorithm),
    backends: backends.draining.size === 0 ? backends.ports : backends.staying,
    draining: backends.draining,
    places: backends.places.places,
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
    warnings: [...settings.warnings, ...warnOfMachinePorts(input)],
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

function collectBackends(
  input: ServiceInput,
  options: ServiceOptions & { readonly settings: GlobalServiceSettings },
): Backends {
  const slices = input.slices.filter(isOwnSlice);
  const backends: Backends = {
    ports: new Map(),
    draining: new Map(),
    staying: new Map(),
    places: createPlaceBook(needsPlaces(input.service, slices)),
    hostnames: new Map(),
    zones: new Map(),
  };
  const isAnyDraining = slices.some(({ endpoints }) => endpoints.some(isDraining));
  for (const slice of slices) addSlice(backends, slice, { ...options, isAnyDraining });
  if (slices.length === 0 && Object.keys(input.service.selector).length > 0) {
    const isAnyPodDraining = input.pods.some(({ terminating }) => terminating);
    for (const pod of input.pods) {
      addPod(backends, input.service, { pod, isAnyDraining: isAnyPodDraining });
    }
  }
  for (const machine of input.machines) {
    addMachine(backends, input.service, { machine, settings: options.settings });
  }
  removeStaying(backends);
  return backends;
}

/** Of an address that two slices speak of, the port that one of them says will stay is not about to end. */
function removeStaying({ draining, staying }: Backends): void {
  for (const [address, ports] of draining) {
    for (const name of staying.get(address)?.keys() ?? []) ports.delete(name);
    if (ports.size === 0) draining.delete(address);
  }
}

/** Whether a slice holds backends of this cluster for everybody. */
export function isOwnSlice({ managedBy, proxyName }: EndpointSliceObject): boolean {
  return proxyName === undefined && !MESH_MANAGERS.includes(managedBy ?? '');
}

function addSlice(
  backends: Backends,
  slice: EndpointSliceObject,
  options: ServiceOptions & { readonly isAnyDraining: boolean },
): void {
  for (const endpoint of slice.endpoints) {
    if (!endpoint.ready && !(endpoint.serving ?? options.isServingUnlessSaid)) continue;
    const group = groupOf(backends, { ...options, isDraining: isDraining(endpoint) });
    const place = placeOf(endpoint);
    for (const address of endpoint.addresses) {
      const ports = portsOf(backends.ports, address);
      for (const { name, protocol, port } of slice.ports) ports.set(name, { protocol, port });
      if (group !== undefined) {
        const grouped = portsOf(group, address);
        for (const { name, protocol, port } of slice.ports) grouped.set(name, { protocol, port });
      }
      backends.places.note(address, place);
      if (endpoint.hostname !== undefined) backends.hostnames.set(address, endpoint.hostname);
      if (endpoint.zone !== undefined) {
        backends.zones.set(address, { zone: endpoint.zone, forZones: endpoint.forZones ?? [] });
      }
    }
  }
}

/** Where a backend is noted besides `ports`; nowhere as long as all of them stay. */
function groupOf(
  { draining, staying }: Backends,
  options: { readonly isAnyDraining: boolean; readonly isDraining: boolean },
): PortsByAddress | undefined {
  if (!options.isAnyDraining) return undefined;
  return options.isDraining ? draining : staying;
}

function addPod(
  backends: Backends,
  service: ServiceObject,
  { pod, isAnyDraining }: { readonly pod: PodObject; readonly isAnyDraining: boolean },
): void {
  if (!pod.ready || pod.finished) return;
  const group = groupOf(backends, { isAnyDraining, isDraining: pod.terminating });
  for (const address of pod.ips) {
    if (!hasFamilyOf(service, address)) continue;
    const ports = portsOf(backends.ports, address);
    const grouped = group && portsOf(group, address);
    backends.places.note(address, { node: pod.nodeName, zone: '', forZones: [], forNodes: [] });
    for (const { name, protocol, port, targetPort } of service.ports) {
      const number =
        typeof targetPort === 'string'
          ? pod.ports.find(
              (candidate) => candidate.name === targetPort && candidate.protocol === protocol,
            )?.port
          : (targetPort ?? port);
      if (number === undefined) continue;
      ports.set(name, { protocol, port: number });
      grouped?.set(name, { protocol, port: number });
    }
  }
}

/** A machine serves those ports whose checks its agent says are passed, at one address of each family as a pod does. */
function addMachine(
  backends: Backends,
  service: ServiceObject,
  {
    machine,
    settings,
  }: { readonly machine: Machine; readonly settings: Pick<GlobalServiceSettings, 'healthCheck'> },
): void {
  // Where some backends are about to end, a machine is among those that stay.
  const group = backends.draining.size > 0 ? backends.staying : undefined;
  const isFirst = (address: IpAddress, index: number): boolean =>
    machine.addresses.findIndex((one) => ipFamily(one) === ipFamily(address)) === index;
  for (const address of machine.addresses.filter(isFirst)) {
    if (!hasFamilyOf(service, address)) continue;
    for (const port of service.ports) {
      const number = targetOf(port);
      const check = checkOfPort(settings.healthCheck, port);
      if (number === undefined || (check !== undefined && !machine.healthy.has(check.check))) {
        continue;
      }
      const { name, protocol } = port;
      portsOf(backends.ports, address).set(name, { protocol, port: number });
      if (group !== undefined) portsOf(group, address).set(name, { protocol, port: number });
      const place = { node: machine.name, zone: '', forZones: [], forNodes: [] };
      backends.places.note(address, place);
    }
  }
}

/** Ports that lead nowhere on a machine: it has no container that gives a port a name. */
function warnOfMachinePorts({ service, machines }: ServiceInput): ValueWarning[] {
  if (machines.length === 0) return [];
  const named = service.ports.filter((port) => targetOf(port) === undefined);
  return named.map(({ targetPort }) => ({
    reason: 'NamedPortOnMachine',
    annotation: 'spec.ports.targetPort',
    value: String(targetPort),
    countsAs: 'no port on machines',
    expected: 'the port as a number: only pods have names for their ports',
  }));
}

/** A Service has backends of its own families only; a headless one without addresses has all of them. */
function hasFamilyOf({ clusterIps }: ServiceObject, address: IpAddress): boolean {
  return clusterIps.length === 0 || clusterIps.some((ip) => ipFamily(ip) === ipFamily(address));
}

function portsOf(group: PortsByAddress, address: IpAddress): Map<string, L4Port> {
  const known = group.get(address);
  if (known !== undefined) return known;
  const ports = new Map<string, L4Port>();
  group.set(address, ports);
  return ports;
}
