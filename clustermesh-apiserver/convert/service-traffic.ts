/** What our own agents need to know of a Service besides what other clusters are told. */
import { type BackendPlace, type BackendPlaces, placeText } from '../../mesh/wire/backend-place.ts';
import type { IpAddress } from '../../mesh/wire/ip.ts';
import {
  type LbAlgorithm,
  type LocalServicePort,
  SERVICE_KINDS,
  type ServiceTraffic,
} from '../../mesh/wire/local-service.ts';
import type { L4Port } from '../../mesh/wire/service.ts';
import type { SliceEndpoint } from '../sources/endpoint-slice-object.ts';
import type { EndpointSliceObject, ServiceObject } from '../sources/objects.ts';

/** Kubernetes' default for a Service that says `sessionAffinity: ClientIP` and nothing more. */
const DEFAULT_AFFINITY_SECONDS = 10_800;
const MAX_AFFINITY_SECONDS = 86_400;

/** A Service's own words, as an agent reads them. `algorithm` is what its annotation asks for. */
export function convertTraffic(
  service: ServiceObject,
  algorithm: LbAlgorithm | undefined,
): Omit<ServiceTraffic, 'draining' | 'places'> {
  return {
    type: SERVICE_KINDS.find((kind) => kind === service.type) ?? 'ClusterIP',
    externalIps: service.externalIps,
    loadBalancerIps: service.loadBalancerIps,
    hasSourceRanges: service.loadBalancerSourceRanges.length > 0,
    affinitySeconds: affinitySeconds(service),
    internalTrafficPolicy: service.internalTrafficPolicy ?? 'Cluster',
    externalTrafficPolicy: service.externalTrafficPolicy ?? 'Cluster',
    trafficDistribution: service.trafficDistribution || undefined,
    algorithm,
  };
}

/** Ports of a Service, as an agent reads them. */
export function convertPorts(service: ServiceObject): LocalServicePort[] {
  return service.ports.map(({ name, protocol, port, nodePort }) =>
    nodePort === undefined ? { name, protocol, port } : { name, protocol, port, nodePort },
  );
}

function affinitySeconds(service: ServiceObject): number {
  if (service.sessionAffinity !== 'ClientIP') return 0;
  const seconds = service.sessionAffinityTimeoutSeconds ?? DEFAULT_AFFINITY_SECONDS;
  return Math.max(1, Math.min(MAX_AFFINITY_SECONDS, seconds));
}

/** Whether an endpoint is about to end and still answers: Kubernetes sends it nothing new while there are others. */
export function isDraining(endpoint: Pick<SliceEndpoint, 'ready' | 'terminating'>): boolean {
  return !endpoint.ready && endpoint.terminating === true;
}

/** Ports of one address, by name. */
export type PortsByAddress = Map<IpAddress, Map<string, L4Port>>;

/** Notes where backends run. */
export interface PlaceBook {
  note(address: IpAddress, place: BackendPlace): void;
  readonly places: BackendPlaces;
}

/** Whether an agent asks where the backends of a Service run. */
export function needsPlaces(
  service: ServiceObject,
  slices: readonly EndpointSliceObject[],
): boolean {
  const { internalTrafficPolicy, externalTrafficPolicy, trafficDistribution = '' } = service;
  return (
    internalTrafficPolicy === 'Local' ||
    externalTrafficPolicy === 'Local' ||
    trafficDistribution !== '' ||
    slices.some(({ endpoints }) => endpoints.some(hasHints))
  );
}

function hasHints({ forZones = [], forNodes = [] }: SliceEndpoint): boolean {
  return forZones.length > 0 || forNodes.length > 0;
}

/** Makes an empty book; equal places become one object. With `isNeeded` false it stays empty. */
export function createPlaceBook(isNeeded: boolean): PlaceBook {
  const places = new Map<IpAddress, BackendPlace>();
  const known = new Map<string, BackendPlace>();
  return {
    places,
    note(address, place) {
      if (!isNeeded) return;
      const text = placeText(place);
      // What nobody says is told by absence.
      if (text === NOWHERE) return;
      const same = known.get(text) ?? place;
      known.set(text, same);
      places.set(address, same);
    },
  };
}

const NOWHERE = placeText({ node: '', zone: '', forZones: [], forNodes: [] });

/** Where an endpoint of a slice runs. */
export function placeOf(endpoint: SliceEndpoint): BackendPlace {
  return {
    node: endpoint.nodeName ?? '',
    zone: endpoint.zone ?? '',
    forZones: (endpoint.forZones ?? []).map(({ name }) => name),
    forNodes: (endpoint.forNodes ?? []).map(({ name }) => name),
  };
}
