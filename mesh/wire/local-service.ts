/** A Service of the own cluster as its own agents need it: every one, global or not, with what its annotations say. */
import { type BackendPlaces, encodePlaces, NO_PLACES, readPlaces } from './backend-place.ts';
import { type IpAddress, parseIpAddress } from './ip.ts';
import {
  encodeGoJson,
  type FieldPath,
  failField,
  type JsonObject,
  parseField,
  parseJsonObject,
  readArray,
  readBoolean,
  readObject,
  readOptionalString,
  readRequiredString,
  readString,
  readStringMap,
  readUint,
  sortedRecord,
} from './json.ts';
import { readSchema } from './schema.ts';
import {
  encodePortsByIp,
  MAX_SERVICE_BYTES,
  type PortMap,
  type Protocol,
  readPortsByIp,
  readProtocol,
} from './service.ts';

/** Whose backends are preferred: nobody's, those of the own cluster, or those of the others. */
export const SERVICE_AFFINITIES = ['none', 'local', 'remote'] as const;
/** One of `SERVICE_AFFINITIES`. */
export type ServiceAffinity = (typeof SERVICE_AFFINITIES)[number];

/** Sorts of Services. Those without a cluster address of their own have no frontends at all. */
export const SERVICE_KINDS = ['ClusterIP', 'NodePort', 'LoadBalancer', 'ExternalName'] as const;
/** One of `SERVICE_KINDS`. */
export type ServiceKind = (typeof SERVICE_KINDS)[number];

/** Whose backends serve: everybody's, or only those of the node where the traffic arrives. */
export const TRAFFIC_POLICIES = ['Cluster', 'Local'] as const;
/** One of `TRAFFIC_POLICIES`. */
export type TrafficPolicy = (typeof TRAFFIC_POLICIES)[number];

/** How a backend is picked: Cilium's words of `service.cilium.io/lb-algorithm`. */
export const LB_ALGORITHMS = ['random', 'maglev'] as const;
/** One of `LB_ALGORITHMS`. */
export type LbAlgorithm = (typeof LB_ALGORITHMS)[number];

/** A port of a Service. */
export interface LocalServicePort {
  readonly name: string;
  readonly protocol: Protocol;
  readonly port: number;
  /** The port on every node's own addresses; absent: none. */
  readonly nodePort?: number;
}

/** What a Service says of itself besides its cluster addresses and its part in the mesh. */
export interface ServiceTraffic {
  readonly type: ServiceKind;
  readonly externalIps: readonly IpAddress[];
  /** Addresses that a load balancer gave it, without those whose packets the load balancer itself turns round. */
  readonly loadBalancerIps: readonly IpAddress[];
  /** Only some clients may use `loadBalancerIps`. Which ones is not told: they are not offered by a node then. */
  readonly hasSourceRanges: boolean;
  /** How long a client keeps its backend; 0: it does not. */
  readonly affinitySeconds: number;
  /** Of its cluster addresses. */
  readonly internalTrafficPolicy: TrafficPolicy;
  /** Of its externalIPs, load balancer addresses and node ports, for clients from outside. */
  readonly externalTrafficPolicy: TrafficPolicy;
  /** `PreferClose`, `PreferSameZone`, `PreferSameNode` or a word of a newer Kubernetes; undefined: nothing is preferred. */
  readonly trafficDistribution: string | undefined;
  /** undefined: what the agent takes by default. */
  readonly algorithm: LbAlgorithm | undefined;
  /** Backends of this cluster that are about to end and still answer; none of them is in `backends`. */
  readonly draining: ReadonlyMap<IpAddress, PortMap>;
  /**
   * Where `backends` and `draining` run, as far as anybody says. Told only where it decides something: with a policy
   * `Local`, a `trafficDistribution` or hints; a Service of thousands of backends is large enough without it.
   */
  readonly places: BackendPlaces;
}

/** A Service with its local backends, whether other clusters may use it or not. */
export interface LocalService extends ServiceTraffic {
  readonly namespace: string;
  readonly name: string;
  readonly clusterIps: readonly IpAddress[];
  readonly ports: readonly LocalServicePort[];
  readonly headless: boolean;
  readonly global: boolean;
  readonly shared: boolean;
  readonly affinity: ServiceAffinity;
  /** By which policies select Services; absent: none. */
  readonly labels?: Readonly<Record<string, string>>;
  /** Backends of this cluster that are ready or still serving, and not about to end. */
  readonly backends: ReadonlyMap<IpAddress, PortMap>;
}

/** A Service that says nothing: reached by its cluster addresses, by anybody, at any backend. */
export const PLAIN_TRAFFIC: ServiceTraffic = {
  type: 'ClusterIP',
  externalIps: [],
  loadBalancerIps: [],
  hasSourceRanges: false,
  affinitySeconds: 0,
  internalTrafficPolicy: 'Cluster',
  externalTrafficPolicy: 'Cluster',
  trafficDistribution: undefined,
  algorithm: undefined,
  draining: new Map(),
  places: NO_PLACES,
};

/**
 * Fields that came later (ServiceTraffic, draining, places, labels) are left out where they say nothing, and mean that then: agents and
 * apiservers are upgraded in any order.
 */
const SCHEMA = 1;

/**
 * Encodes a service for the own cluster's agents. Equal services have equal text, so that no needless write follows; what
 * is as in PLAIN_TRAFFIC is left out.
 */
export function encodeLocalService(service: LocalService): string {
  return encodeGoJson({
    schema: SCHEMA,
    namespace: service.namespace,
    name: service.name,
    clusterIps: service.clusterIps,
    ports: service.ports.map(({ name, protocol, port, nodePort }) => ({
      name,
      protocol,
      port,
      nodePort,
    })),
    headless: service.headless,
    global: service.global,
    shared: service.shared,
    affinity: service.affinity,
    labels: service.labels && sortedRecord(Object.entries(service.labels)),
    ...encodeTraffic(service),
    backends: encodePortsByIp(service.backends),
    draining: service.draining.size === 0 ? undefined : encodePortsByIp(service.draining),
    places: encodePlaces(service.places),
  });
}

function encodeTraffic(service: ServiceTraffic): JsonObject {
  const unlessPlain = <Name extends keyof ServiceTraffic>(name: Name): unknown =>
    service[name] === PLAIN_TRAFFIC[name] ? undefined : service[name];
  return {
    type: unlessPlain('type'),
    externalIps: service.externalIps.length === 0 ? undefined : service.externalIps,
    loadBalancerIps: service.loadBalancerIps.length === 0 ? undefined : service.loadBalancerIps,
    hasSourceRanges: unlessPlain('hasSourceRanges'),
    affinitySeconds: unlessPlain('affinitySeconds'),
    internalTrafficPolicy: unlessPlain('internalTrafficPolicy'),
    externalTrafficPolicy: unlessPlain('externalTrafficPolicy'),
    trafficDistribution: unlessPlain('trafficDistribution'),
    algorithm: unlessPlain('algorithm'),
  };
}

/** Decodes one. Throws WireError naming key and field, and for a schema that is not known. */
export function decodeLocalService(value: Buffer | string, key: string): LocalService {
  const object = parseJsonObject(value, key, MAX_SERVICE_BYTES);
  readSchema(key, object, SCHEMA);
  const at = (field: string): FieldPath => ({ key, field });
  const clusterIps = readAddresses(at('clusterIps'), object.clusterIps);
  const ports = readArray(at('ports'), object.ports) ?? [];
  return {
    namespace: readRequiredString(at('namespace'), object.namespace, 'a name'),
    name: readRequiredString(at('name'), object.name, 'a name'),
    clusterIps,
    ports: ports.map((entry, index) => readPort(key, { field: `ports[${index}]`, entry })),
    headless: readBoolean(at('headless'), object.headless),
    global: readBoolean(at('global'), object.global),
    shared: readBoolean(at('shared'), object.shared),
    affinity: readWord(at('affinity'), object.affinity, SERVICE_AFFINITIES),
    ...(object.labels === undefined ? {} : { labels: readLabels(at('labels'), object.labels) }),
    ...readTraffic(object, at),
    backends: readPortsByIp(at('backends'), object.backends),
    draining:
      object.draining === undefined
        ? PLAIN_TRAFFIC.draining
        : readPortsByIp(at('draining'), object.draining),
    places: readPlaces(at('places'), object.places),
  };
}

function readLabels(at: FieldPath, found: unknown): Readonly<Record<string, string>> {
  return readStringMap(at, found) ?? failField(at, found, 'an object of texts');
}

function readTraffic(
  object: JsonObject,
  at: (field: string) => FieldPath,
): Omit<ServiceTraffic, 'draining' | 'places'> {
  const word = <Word extends string>(
    field: 'type' | 'internalTrafficPolicy' | 'externalTrafficPolicy',
    words: readonly Word[],
    otherwise: Word,
  ): Word => readWord(at(field), object[field] ?? otherwise, words);
  return {
    type: word('type', SERVICE_KINDS, 'ClusterIP'),
    externalIps: readAddresses(at('externalIps'), object.externalIps),
    loadBalancerIps: readAddresses(at('loadBalancerIps'), object.loadBalancerIps),
    hasSourceRanges: readBoolean(at('hasSourceRanges'), object.hasSourceRanges),
    affinitySeconds: readUint(at('affinitySeconds'), object.affinitySeconds, MAX_AFFINITY_SECONDS),
    internalTrafficPolicy: word('internalTrafficPolicy', TRAFFIC_POLICIES, 'Cluster'),
    externalTrafficPolicy: word('externalTrafficPolicy', TRAFFIC_POLICIES, 'Cluster'),
    trafficDistribution: readOptionalString(at('trafficDistribution'), object.trafficDistribution),
    algorithm:
      object.algorithm === undefined
        ? undefined
        : readWord(at('algorithm'), object.algorithm, LB_ALGORITHMS),
  };
}

/** Kubernetes allows a day. */
const MAX_AFFINITY_SECONDS = 86_400;

function readPort(
  key: string,
  { field, entry }: { readonly field: string; readonly entry: unknown },
): LocalServicePort {
  const port = readObject({ key, field }, entry) ?? {};
  const nodePort = readUint({ key, field: `${field}.nodePort` }, port.nodePort, 65535);
  return {
    name: readString({ key, field: `${field}.name` }, port.name),
    protocol: readProtocol({ key, field: `${field}.protocol` }, port.protocol),
    port: readUint({ key, field: `${field}.port` }, port.port, 65535),
    ...(nodePort === 0 ? {} : { nodePort }),
  };
}

const NO_ADDRESSES: readonly IpAddress[] = [];

function readAddresses(at: FieldPath, found: unknown): readonly IpAddress[] {
  const list = readArray(at, found) ?? [];
  if (list.length === 0) return NO_ADDRESSES;
  return list.map((ip, index) =>
    parseField({ key: at.key, field: `${at.field}[${index}]` }, ip, parseIpAddress),
  );
}

function readWord<Word extends string>(
  at: FieldPath,
  found: unknown,
  words: readonly Word[],
): Word {
  return words.find((word) => word === found) ?? failField(at, found, words.join(', '));
}
