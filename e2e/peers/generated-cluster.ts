/**
 * A whole Kubernetes cluster out of a seed: nodes, namespaces, identities, pods, Services of every sort with their slices
 * and exports, as Cilium's agents and operator, or kubelets, would have written them; and changes to it, step by step.
 */
import type { KubernetesObject } from '../lab/kubernetes-object.ts';
import {
  ciliumEndpointObject,
  ciliumEndpointSliceObject,
  ciliumIdentityObject,
  ciliumNodeObject,
  type EndpointStyle,
  type GeneratedIdentity,
  type GeneratedNode,
  type GeneratedPlace,
  type GeneratedPod,
  nodeObject,
  podObject,
  SLOTS_A_NODE,
} from './generated-objects.ts';
import {
  endpointSliceObjects,
  type GeneratedEndpoint,
  type GeneratedService,
  GLOBAL_SORT,
  PLAIN_SORT,
  randomEndpoint,
  SERVICE_SORTS,
  serviceExportObject,
  serviceObject,
} from './generated-services.ts';
import { type SeededRandom, seededRandom } from './seeded-random.ts';

/** How much there is of everything. */
export interface GeneratedSizes {
  readonly nodes: number;
  readonly namespaces: number;
  readonly identities: number;
  readonly pods: number;
  readonly services: number;
  /** Endpoints of each Service. */
  readonly endpoints: number;
}

/** What happens to an object. */
export interface ObjectChange {
  readonly kind: 'put' | 'delete';
  readonly object: KubernetesObject;
}

/** A cluster that is changed as it is asked to. */
export interface GeneratedCluster {
  readonly place: GeneratedPlace;
  /** All objects as they are now, in an order in which they can be created. */
  objects(): KubernetesObject[];
  /** Makes some changes of every kind and returns them, in the order in which they happen. */
  step(): ObjectChange[];
  /** Changes of pods alone: each goes and another one comes, with its address where `reuse` says so. */
  churnPods(count: number, options?: { readonly reuse?: number }): ObjectChange[];
  /** Takes a namespace out of the mesh, or back in by the annotation's absence. */
  setGlobal(namespace: string, global: string | undefined): ObjectChange;
  namespaces(): string[];
  /** Pods and identities that there are now. */
  pods(): readonly GeneratedPod[];
  identities(): readonly GeneratedIdentity[];
}

/** What it is made from. */
export interface GeneratedOptions extends GeneratedPlace {
  readonly seed: number;
  readonly sizes: GeneratedSizes;
  readonly style: EndpointStyle;
  /** Version of the exports; undefined: there are none. */
  readonly exports?: 'v1alpha1' | 'v1beta1' | undefined;
  /** Every Service is of the sort that most are of, with ready endpoints: for benchmarks. Default false. */
  readonly plain?: boolean;
}

const ZONES = ['zone-a', 'zone-b', 'zone-c'];
const FIRST_IDENTITY = 256;
const PODS_A_SLICE = 100;
const GLOBAL_NAMESPACE = 'clustermesh.cilium.io/global';
const APPS = ['web', 'api', 'cache', 'queue', 'worker'];

interface Namespace {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
}

/** Makes one. The same options make the same cluster and the same steps. */
export function generateCluster(options: GeneratedOptions): GeneratedCluster {
  const random = seededRandom(options.seed);
  const { sizes, style, plain = false } = options;
  const nodes: GeneratedNode[] = [];
  const namespaces = new Map<string, Namespace>();
  const identities: GeneratedIdentity[] = [];
  const pods: GeneratedPod[] = [];
  const services: GeneratedService[] = [];
  const endpointsOf = new Map<string, GeneratedEndpoint[]>();
  const sliceOf = new Map<GeneratedPod, string>();
  const slices = new Map<string, { namespace: string; pods: Set<GeneratedPod> }>();
  const openSlice = new Map<string, string>();
  const free = new Map<GeneratedNode, number[]>();
  const nodeLabels = new Map<GeneratedNode, GeneratedNode['labels']>();
  let nextNode = 0;
  let made = 0;
  const number = (): number => {
    made += 1;
    return made;
  };

  const addNode = (): GeneratedNode => {
    const node = makeNode(nextNode, random);
    nextNode += 1;
    nodes.push(node);
    free.set(
      node,
      Array.from({ length: SLOTS_A_NODE }, (_, slot) => slot),
    );
    return node;
  };
  const addIdentity = (): GeneratedIdentity => {
    const namespace = random.pick([...namespaces.keys()]);
    const index = identities.length;
    const identity: GeneratedIdentity = {
      id: (options.clusterId << 16) + FIRST_IDENTITY + index,
      namespace,
      labels: {
        app: random.pick(APPS),
        'example.org/release': `r${index}`,
        ...(random.chance(0.2) ? { empty: '' } : {}),
      },
      serviceAccount: random.chance(0.5) ? 'default' : `account-${index % 5}`,
    };
    identities.push(identity);
    return identity;
  };
  const addPod = (at?: { node: GeneratedNode; slot: number }): GeneratedPod | undefined => {
    const node = at?.node ?? random.pick(nodes);
    const slot = at?.slot ?? free.get(node)?.shift();
    if (slot === undefined) return undefined;
    const identity = random.pick(identities);
    const name = `${identity.labels.app}-${number().toString(36)}`;
    const { namespace } = identity;
    const pod = { namespace, name, node, slot, identity, namedPorts: random.chance(0.3) };
    pods.push(pod);
    return pod;
  };
  const dropPod = (index: number): GeneratedPod | undefined => {
    const pod = pods[index];
    const last = pods.pop();
    if (last !== undefined && pod !== last) pods[index] = last;
    return pod;
  };
  const addService = (sort = random.chance(0.5) ? GLOBAL_SORT : PLAIN_SORT): GeneratedService => {
    const namespace = random.pick([...namespaces.keys()]);
    const name = `svc-${sort.name}-${number()}`;
    const exported = options.exports !== undefined && random.chance(0.3);
    const service = { namespace, name, sort, annotations: sort.annotations ?? {}, exported };
    services.push(service);
    endpointsOf.set(name, plain ? plainEndpoints() : randomEndpoints(service));
    return service;
  };
  const plainEndpoints = (): GeneratedEndpoint[] => {
    const first = pods.length === 0 ? 0 : random.integer(pods.length);
    return Array.from({ length: Math.min(sizes.endpoints, pods.length) }, (_, index) => ({
      pod: pods[(first + index) % pods.length] as GeneratedPod,
      ready: true,
      serving: true,
      terminating: false,
      hostname: false,
      zone: true,
      hints: false,
    }));
  };
  const randomEndpoints = ({ sort }: GeneratedService): GeneratedEndpoint[] => {
    if (sort.name === 'external-name') return [];
    const dual = pods.filter((pod) => sort.dualStack !== true || pod.node.dualStack);
    // A pod is in a Service once: Cilium takes the later of two slices, in no order.
    const chosen = new Set(Array.from({ length: sizes.endpoints }, () => random.pick(dual)));
    return [...chosen].map((pod) => randomEndpoint(pod, random));
  };

  const packed = (pod: GeneratedPod): string => {
    const open = openSlice.get(pod.namespace);
    const held = open === undefined ? undefined : slices.get(open);
    if (open !== undefined && held !== undefined && held.pods.size < PODS_A_SLICE) {
      held.pods.add(pod);
      sliceOf.set(pod, open);
      return open;
    }
    const name = `ces-${number().toString(36)}`;
    slices.set(name, { namespace: pod.namespace, pods: new Set([pod]) });
    openSlice.set(pod.namespace, name);
    sliceOf.set(pod, name);
    return name;
  };
  const sliceChange = (name: string): ObjectChange => {
    const slice = slices.get(name);
    const { namespace = '', pods: held = new Set<GeneratedPod>() } = slice ?? {};
    const object = ciliumEndpointSliceObject(name, namespace, [...held]);
    if (held.size > 0) return { kind: 'put', object };
    slices.delete(name);
    if (openSlice.get(namespace) === name) openSlice.delete(namespace);
    return { kind: 'delete', object };
  };
  const podPut = (pod: GeneratedPod): ObjectChange => {
    if (style === 'cilium-endpoint-slices') return sliceChange(packed(pod));
    return { kind: 'put', object: style === 'pods' ? podObject(pod) : ciliumEndpointObject(pod) };
  };
  const podDelete = (pod: GeneratedPod): ObjectChange => {
    if (style === 'cilium-endpoint-slices') {
      const name = sliceOf.get(pod) ?? '';
      slices.get(name)?.pods.delete(pod);
      sliceOf.delete(pod);
      return sliceChange(name);
    }
    return {
      kind: 'delete',
      object: style === 'pods' ? podObject(pod) : ciliumEndpointObject(pod),
    };
  };
  const nodeObjects = (node: GeneratedNode): KubernetesObject[] => {
    const labelled = { ...node, labels: nodeLabels.get(node) ?? node.labels };
    return style === 'pods'
      ? [nodeObject(labelled)]
      : [nodeObject(labelled), ciliumNodeObject(labelled)];
  };
  const exportObjects = (service: GeneratedService): KubernetesObject[] =>
    service.exported && options.exports !== undefined
      ? [serviceExportObject(service, options.exports)]
      : [];
  const serviceObjects = (service: GeneratedService): KubernetesObject[] => [
    serviceObject(service),
    ...endpointSliceObjects(service, endpointsOf.get(service.name) ?? []),
    ...exportObjects(service),
  ];
  const putAll = (objects: readonly KubernetesObject[]): ObjectChange[] =>
    objects.map((object) => ({ kind: 'put', object }));
  const deleteAll = (objects: readonly KubernetesObject[]): ObjectChange[] =>
    objects.map((object) => ({ kind: 'delete', object }));

  const churnPods: GeneratedCluster['churnPods'] = (count, { reuse = 0.5 } = {}) =>
    Array.from({ length: count }, () => {
      const gone = dropPod(random.integer(pods.length));
      if (gone === undefined) return [];
      const isReused = random.chance(reuse);
      if (!isReused) free.get(gone.node)?.push(gone.slot);
      // A Service's endpoints follow later, as in a real cluster.
      const deleted = podDelete(gone);
      const added = addPod(isReused ? gone : undefined);
      return added === undefined ? [deleted] : [deleted, podPut(added)];
    }).flat();
  const changeNode = (): ObjectChange[] => {
    const node = random.pick(nodes);
    nodeLabels.set(node, { ...node.labels, changed: `c${number()}` });
    return putAll(nodeObjects(node));
  };
  /** Its pods stay a while, as when a node is lost. */
  const dropNode = (): ObjectChange[] => {
    if (nodes.length < 2) return [];
    const [gone] = nodes.splice(random.integer(nodes.length), 1);
    return gone === undefined ? [] : deleteAll(nodeObjects(gone));
  };
  const changeService = (): ObjectChange[] => {
    const index = random.integer(services.length);
    const old = services[index];
    if (old === undefined) return [];
    const { annotations } = random.pick([GLOBAL_SORT, PLAIN_SORT, ...SERVICE_SORTS]);
    const service = { ...old, annotations: annotations ?? {} };
    services[index] = service;
    return [{ kind: 'put', object: serviceObject(service) }];
  };
  const changeEndpoints = (): ObjectChange[] => {
    const service = random.pick(services);
    endpointsOf.set(service.name, randomEndpoints(service));
    return putAll(endpointSliceObjects(service, endpointsOf.get(service.name) ?? []));
  };
  const replaceService = (): ObjectChange[] => {
    const index = random.integer(services.length);
    const [gone] = services.splice(index, 1);
    if (gone === undefined) return [];
    const deleted = deleteAll(serviceObjects(gone));
    endpointsOf.delete(gone.name);
    return [...deleted, ...putAll(serviceObjects(addService(gone.sort)))];
  };
  const changeExport = (): ObjectChange[] => {
    const index = random.integer(services.length);
    const old = services[index];
    if (old === undefined || options.exports === undefined) return [];
    const service = { ...old, exported: !old.exported };
    services[index] = service;
    const object = serviceExportObject(service, options.exports);
    return [{ kind: old.exported ? 'delete' : 'put', object }];
  };
  const changeNamespace = (
    name: string,
    change: (old: Namespace) => Pick<Namespace, 'labels' | 'annotations'>,
  ): ObjectChange => {
    const old = namespaces.get(name) ?? { name, labels: {}, annotations: {} };
    const changed = { name, ...change(old) };
    namespaces.set(name, changed);
    return { kind: 'put', object: namespaceObject(changed) };
  };
  const setGlobal: GeneratedCluster['setGlobal'] = (name, global) =>
    changeNamespace(name, ({ labels, annotations: { [GLOBAL_NAMESPACE]: _, ...others } }) => ({
      labels,
      annotations: global === undefined ? others : { ...others, [GLOBAL_NAMESPACE]: global },
    }));

  for (let index = 0; index < sizes.namespaces; index += 1) {
    const name = `team-${index}`;
    namespaces.set(name, { name, labels: { team: String(index) }, annotations: {} });
  }
  for (let index = 0; index < sizes.nodes; index += 1) addNode();
  for (let index = 0; index < sizes.identities; index += 1) addIdentity();
  for (let index = 0; index < sizes.pods; index += 1) {
    const pod = addPod();
    if (pod !== undefined && style === 'cilium-endpoint-slices') packed(pod);
  }
  const sorts = plain ? [] : SERVICE_SORTS;
  for (const sort of sorts.slice(0, sizes.services)) addService(sort);
  while (services.length < sizes.services) addService(plain ? GLOBAL_SORT : undefined);

  return {
    place: options,
    namespaces: () => [...namespaces.keys()],
    pods: () => pods,
    identities: () => identities,
    objects: () => [
      ...[...namespaces.values()].map(namespaceObject),
      ...(style === 'pods' ? accountObjects(identities) : []),
      ...nodes.flatMap(nodeObjects),
      ...(style === 'pods'
        ? []
        : identities.map((identity) => ciliumIdentityObject(identity, options))),
      ...(style === 'cilium-endpoint-slices'
        ? [...slices].map(([name, slice]) =>
            ciliumEndpointSliceObject(name, slice.namespace, [...slice.pods]),
          )
        : pods.map((pod) => (style === 'pods' ? podObject(pod) : ciliumEndpointObject(pod)))),
      ...services.flatMap(serviceObjects),
    ],
    churnPods,
    setGlobal,
    step: () => {
      const identity = style === 'pods' ? [] : [ciliumIdentityObject(addIdentity(), options)];
      return [
        ...putAll(nodeObjects(addNode())),
        ...changeNode(),
        ...dropNode(),
        ...putAll(identity),
        ...churnPods(Math.ceil(sizes.pods / 20)),
        ...Array.from({ length: 3 }, changeService).flat(),
        ...Array.from({ length: 5 }, changeEndpoints).flat(),
        ...replaceService(),
        ...changeExport(),
        changeNamespace(random.pick([...namespaces.keys()]), (old) => ({
          ...old,
          labels: { ...old.labels, step: String(number()) },
        })),
      ];
    },
  };
}

function makeNode(index: number, random: SeededRandom): GeneratedNode {
  const zone = random.pick(ZONES);
  const name = `node-${index}`;
  return {
    index,
    name,
    zone,
    labels: {
      'kubernetes.io/arch': 'amd64',
      'kubernetes.io/hostname': name,
      'topology.kubernetes.io/zone': zone,
    },
    annotations: random.chance(0.3)
      ? { 'network.cilium.io/wg-pub-key': `key-of-${name}<&>=` }
      : { 'example.org/rack': String(index % 7) },
    dualStack: index % 2 === 0,
    encryptionKey: random.chance(0.2) ? 1 + random.integer(15) : 0,
    hasIngress: random.chance(0.3),
    bootId: `5a3e1a56-8a1f-4a6e-9b1e-${index.toString(16).padStart(12, '0')}`,
  };
}

function namespaceObject({ name, labels, annotations }: Namespace): KubernetesObject {
  return { apiVersion: 'v1', kind: 'Namespace', metadata: { name, labels, annotations } };
}

/** Without its service account no pod is let in. */
function accountObjects(identities: readonly GeneratedIdentity[]): KubernetesObject[] {
  const names = new Set(
    identities.map(({ namespace, serviceAccount }) => `${namespace}/${serviceAccount}`),
  );
  return [...names].map((text) => {
    const [namespace = '', name = ''] = text.split('/');
    return { apiVersion: 'v1', kind: 'ServiceAccount', metadata: { namespace, name } };
  });
}
