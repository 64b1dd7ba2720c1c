/** Services of every sort of a generated cluster, with their EndpointSlices and exports. */
import type { KubernetesObject } from '../lab/kubernetes-object.ts';
import { type GeneratedPod, podIpv4, podIpv6 } from './generated-objects.ts';
import type { SeededRandom } from './seeded-random.ts';

/** A Service that is not like the plain one, in what way. */
export interface ServiceSort {
  readonly name: string;
  readonly annotations?: Readonly<Record<string, string>>;
  readonly labels?: Readonly<Record<string, string>>;
  readonly spec?: Readonly<Record<string, unknown>>;
  readonly ports?: readonly ServicePort[];
  /** Its slices say which of their endpoints have names of their own. */
  readonly hostnames?: boolean;
  readonly dualStack?: boolean;
  /** Has a further slice, of a peer's backends, as the synchronisation of slices writes them. */
  readonly peerSlice?: boolean;
}

interface ServicePort {
  readonly name?: string;
  readonly port: number;
  readonly targetPort: number | string;
  readonly protocol?: 'TCP' | 'UDP' | 'SCTP';
}

/** A Service of a generated cluster. */
export interface GeneratedService {
  readonly namespace: string;
  readonly name: string;
  readonly sort: ServiceSort;
  readonly annotations: Readonly<Record<string, string>>;
  readonly exported: boolean;
}

/** An endpoint in a slice. A flag that is undefined is left out. */
export interface GeneratedEndpoint {
  readonly pod: GeneratedPod;
  readonly ready: boolean | undefined;
  readonly serving: boolean | undefined;
  readonly terminating: boolean | undefined;
  readonly hostname: boolean;
  readonly zone: boolean;
  readonly hints: boolean;
}

const GLOBAL = { 'service.cilium.io/global': 'true' };
const HTTP: ServicePort = { name: 'http', port: 80, targetPort: 8080 };

/** Most of a cluster's services are one of these two. */
export const PLAIN_SORT: ServiceSort = { name: 'plain' };
export const GLOBAL_SORT: ServiceSort = { name: 'global', annotations: GLOBAL };

/** Every other sort. */
export const SERVICE_SORTS: readonly ServiceSort[] = [
  { name: 'alias', annotations: { 'io.cilium/global-service': 'true' } },
  { name: 'capitals', annotations: { 'service.cilium.io/global': 'TRUE' } },
  { name: 'misspelt', annotations: { 'service.cilium.io/global': 'yes' } },
  {
    name: 'both-names',
    annotations: { 'service.cilium.io/global': 'false', 'io.cilium/global-service': 'true' },
  },
  { name: 'unshared', annotations: { ...GLOBAL, 'service.cilium.io/shared': 'false' } },
  { name: 'shared', annotations: { ...GLOBAL, 'service.cilium.io/shared': 'True' } },
  { name: 'shared-alias', annotations: { ...GLOBAL, 'io.cilium/shared-service': 'false' } },
  { name: 'shared-alone', annotations: { 'service.cilium.io/shared': 'true' } },
  { name: 'local', annotations: { ...GLOBAL, 'service.cilium.io/affinity': 'local' } },
  { name: 'remote', annotations: { ...GLOBAL, 'service.cilium.io/affinity': 'remote' } },
  { name: 'affinity-typo', annotations: { ...GLOBAL, 'service.cilium.io/affinity': 'lokal' } },
  { name: 'headless', annotations: GLOBAL, spec: { clusterIP: 'None' }, hostnames: true },
  {
    name: 'dual',
    annotations: GLOBAL,
    spec: { ipFamilyPolicy: 'PreferDualStack' },
    dualStack: true,
  },
  {
    name: 'external-name',
    annotations: GLOBAL,
    spec: { type: 'ExternalName', externalName: 'example.org', selector: undefined },
  },
  { name: 'peer-slice', annotations: GLOBAL, peerSlice: true },
  { name: 'no-selector', annotations: GLOBAL, spec: { selector: undefined } },
  { name: 'one-port', annotations: GLOBAL, ports: [{ port: 80, targetPort: 8080 }] },
  {
    name: 'many-ports',
    annotations: GLOBAL,
    labels: { tier: 'edge', 'example.org/team': 'net' },
    ports: [
      HTTP,
      { name: 'http-too', port: 8000, targetPort: 8080 },
      { name: 'dns', port: 53, targetPort: 5353, protocol: 'UDP' },
      { name: 'sctp', port: 3868, targetPort: 3868, protocol: 'SCTP' },
    ],
  },
  { name: 'node-port', annotations: GLOBAL, spec: { type: 'NodePort' } },
  { name: 'sticky', annotations: GLOBAL, spec: { sessionAffinity: 'ClientIP' } },
  {
    name: 'other-proxy',
    annotations: GLOBAL,
    labels: { 'service.kubernetes.io/service-proxy-name': 'other' },
  },
  {
    name: 'policies',
    annotations: { ...GLOBAL, 'example.org/note': '<a> & "b"\u2028' },
    spec: { internalTrafficPolicy: 'Local', trafficDistribution: 'PreferClose' },
  },
];

/** The Service object. */
export function serviceObject(service: GeneratedService): KubernetesObject {
  const { namespace, name, sort, annotations } = service;
  const spec: Record<string, unknown> = {
    selector: { app: name },
    ports: sort.ports ?? [HTTP],
    ...sort.spec,
  };
  if (spec.selector === undefined) delete spec.selector;
  return {
    apiVersion: 'v1',
    kind: 'Service',
    metadata: { namespace, name, labels: { app: name, ...sort.labels }, annotations },
    spec,
  };
}

/** Its slices, one for each family. */
export function endpointSliceObjects(
  service: GeneratedService,
  endpoints: readonly GeneratedEndpoint[],
): KubernetesObject[] {
  const families =
    service.sort.dualStack === true ? (['IPv4', 'IPv6'] as const) : (['IPv4'] as const);
  const slices = families.map((family) => sliceOf(service, family, endpoints));
  return service.sort.peerSlice === true ? [...slices, peerSliceOf(service)] : slices;
}

/** The object that exports a Service, in the version that every Cilium with the MCS-API reads. */
export function serviceExportObject(
  { namespace, name }: GeneratedService,
  version: 'v1alpha1' | 'v1beta1',
): KubernetesObject {
  return {
    apiVersion: `multicluster.x-k8s.io/${version}`,
    kind: 'ServiceExport',
    metadata: { namespace, name },
    spec: {
      exportedLabels: { exported: 'yes' },
      exportedAnnotations: { 'example.org/exported-by': name },
    },
  };
}

/** An endpoint of a pod with random flags, as controllers leave them. */
export function randomEndpoint(pod: GeneratedPod, random: SeededRandom): GeneratedEndpoint {
  const state = random.integer(10);
  return {
    pod,
    ready: state === 0 ? undefined : state > 2,
    serving: state === 1 ? undefined : state !== 2,
    terminating: state === 3 ? undefined : state === 4,
    hostname: random.chance(0.5),
    zone: random.chance(0.7),
    hints: random.chance(0.5),
  };
}

function sliceOf(
  service: GeneratedService,
  family: 'IPv4' | 'IPv6',
  endpoints: readonly GeneratedEndpoint[],
): KubernetesObject {
  const { namespace, name, sort } = service;
  return {
    apiVersion: 'discovery.k8s.io/v1',
    kind: 'EndpointSlice',
    metadata: {
      namespace,
      name: `${name}-${family.toLowerCase()}`,
      labels: {
        'kubernetes.io/service-name': name,
        'endpointslice.kubernetes.io/managed-by': 'endpointslice-controller.k8s.io',
        ...sort.labels,
      },
    },
    addressType: family,
    ports: (sort.ports ?? [HTTP]).map(({ name: port, targetPort, protocol }) => ({
      ...(port === undefined ? {} : { name: port }),
      port: targetPort,
      protocol: protocol ?? 'TCP',
    })),
    endpoints: endpoints.map((endpoint) => endpointOf(endpoint, { family, sort })),
  };
}

function peerSliceOf({ namespace, name }: GeneratedService): KubernetesObject {
  return {
    apiVersion: 'discovery.k8s.io/v1',
    kind: 'EndpointSlice',
    metadata: {
      namespace,
      name: `${name}-of-peer`,
      labels: {
        'kubernetes.io/service-name': name,
        'endpointslice.kubernetes.io/managed-by': 'endpointslice-mesh-controller.cilium.io',
        'multicluster.kubernetes.io/source-cluster': 'peer',
      },
    },
    addressType: 'IPv4',
    ports: [{ name: 'http', port: 8080, protocol: 'TCP' }],
    endpoints: [{ addresses: ['10.250.0.9'], conditions: { ready: true }, nodeName: 'peer' }],
  };
}

function endpointOf(
  endpoint: GeneratedEndpoint,
  { family, sort }: { family: 'IPv4' | 'IPv6'; sort: ServiceSort },
): unknown {
  const { pod, ready, serving, terminating } = endpoint;
  return {
    addresses: [family === 'IPv4' ? podIpv4(pod) : podIpv6(pod)],
    conditions: {
      ...(ready === undefined ? {} : { ready }),
      ...(serving === undefined ? {} : { serving }),
      ...(terminating === undefined ? {} : { terminating }),
    },
    nodeName: pod.node.name,
    targetRef: { kind: 'Pod', namespace: pod.namespace, name: pod.name },
    ...(sort.hostnames === true && endpoint.hostname ? { hostname: pod.name } : {}),
    ...(endpoint.zone ? { zone: pod.node.zone } : {}),
    ...(endpoint.zone && endpoint.hints ? { hints: { forZones: [{ name: pod.node.zone }] } } : {}),
  };
}
