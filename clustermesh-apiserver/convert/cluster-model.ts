/**
 * The cluster as its objects describe it, and what has to be published of it. Feeding it an event gives the records that
 * changed, and only those: work is proportional to the change. Nothing here waits or knows etcd.
 */
import type { ClusterId, ClusterName } from '../../mesh/wire/ids.ts';
import type { IpAddress, IpPrefix } from '../../mesh/wire/ip.ts';
import type { ClusterObject, ClusterObjectKind, NamespaceObject } from '../sources/objects.ts';
import { createCiliumEndpoints } from './cilium-endpoints.ts';
import { createCiliumIdentities } from './cilium-identities.ts';
import type { HealthCheck } from './health-check.ts';
import { DEFAULT_LABEL_FILTER, type LabelFilter } from './label-filter.ts';
import type { Machine } from './machine.ts';
import { createNamespaces } from './namespaces.ts';
import type { NodeConflict, NodeFacts } from './node.ts';
import { createNodes } from './nodes.ts';
import { createPodEndpoints } from './pod-endpoints.ts';
import { type ConversionMode, createCompleteness, type PublishedSet } from './published-sets.ts';
import type { RecordChange } from './records.ts';
import { createServices } from './services.ts';

export type { EndpointRecord, RecordChange } from './records.ts';

/** How a cluster is converted. */
export interface ConversionOptions {
  /** Default `any-cni`. */
  readonly mode?: ConversionMode;
  /** Whether namespaces are known to the mesh that say nothing of it. Default true. */
  readonly globalNamespacesByDefault?: boolean;
  /** Which labels of pods are part of their identities. Default: as Cilium's. */
  readonly labelFilter?: LabelFilter;
  /**
   * Kinds that the source will say are told. Until then no record is made that needs them: it could only be wrong, such as a
   * Service without its backends. Default: none is waited for.
   */
  readonly awaited?: readonly ClusterObjectKind[];
}

/** An object that changed, or went. */
export interface ObjectChange {
  readonly object: ClusterObject;
  readonly exists: boolean;
}

/** The cluster as known so far. */
export interface ClusterModel {
  /** Takes what changed, and returns all that is to be published for it. */
  apply(changes: readonly ObjectChange[]): RecordChange[];
  /** Takes what changed, and leaves it to `records` what is to be published for it. */
  take(changes: readonly ObjectChange[]): void;
  /** Notes that everything of these kinds has been told. */
  complete(kinds: readonly ClusterObjectKind[]): void;
  /**
   * What is to be published for all that was taken, as far as it can be told by now. Each record is made when it is asked
   * for, so that whoever has many may do something else meanwhile.
   */
  records(): Iterable<RecordChange>;
  /** Kinds that a set waits for before it is whole. */
  outstanding(set: PublishedSet): readonly ClusterObjectKind[];
  /** Takes what a node's own agent says of it, or undefined when that counts no more. */
  setNodeFacts(name: string, facts: NodeFacts | undefined): RecordChange[];
  /** What of `facts` another node, a pod or a machine holds already; undefined when nothing is. */
  findNodeConflict(name: string, facts: NodeFacts): NodeConflict | undefined;
  /** Takes a machine, or undefined for one that is gone, and leaves it to `records` what is to be published for it. */
  setMachine(name: string, machine: Machine | undefined): void;
  /** What of a machine's addresses a pod, a node or another machine holds already. */
  findMachineConflict(name: string, addresses: readonly IpAddress[]): NodeConflict | undefined;
  /** Networks of the pods of all nodes, each once. */
  podNetworks(): readonly IpPrefix[];
  /** What is to be checked on a machine, as the Services say it that select what has its labels. */
  checksOf(machine: Machine): readonly HealthCheck[];
  /** Differs after each change that `checksOf` may answer otherwise for. */
  readonly checksRevision: number;
}

/** Makes the model of an empty cluster. */
export function createClusterModel(
  cluster: { readonly name: ClusterName; readonly id: ClusterId },
  options: ConversionOptions = {},
): ClusterModel {
  const { mode = 'any-cni', globalNamespacesByDefault = true } = options;
  const isCilium = mode === 'cilium';
  const completeness = createCompleteness(mode, options.awaited ?? []);
  const namespaces = createNamespaces({
    globalByDefault: globalNamespacesByDefault,
    asCilium: isCilium,
    // Manifests need not describe a namespace; Cilium knows nothing of one that it does not see.
    globalWithoutObject: isCilium ? false : globalNamespacesByDefault,
  });
  const isNamespaceGlobal = namespaces.isGlobal;
  const nodes = createNodes(cluster);
  const pods = createPodEndpoints({
    cluster: cluster.name,
    namespaces,
    labelFilter: options.labelFilter ?? DEFAULT_LABEL_FILTER,
  });
  const endpoints = createCiliumEndpoints({ isNamespaceGlobal });
  const identities = createCiliumIdentities({ isNamespaceGlobal });
  const services = createServices({ cluster, isNamespaceGlobal, isServingUnlessSaid: isCilium });
  const machines = new Map<string, Machine>();
  /** Namespaces whose annotations are not as expected. */
  const warned = new Set<string>();
  /** Records that are made as they come. */
  const ready: RecordChange[] = [];
  const drains: Readonly<Record<PublishedSet, () => Iterable<RecordChange>>> = {
    nodes: nodes.drain,
    'local-policies': () => ready.splice(0),
    identities: identities.drain,
    ips: isCilium ? endpoints.drain : pods.drain,
    services: services.drain,
    // In the records of those before.
    'local-ips': () => [],
    'local-identities': () => [],
    'local-services': () => [],
    serviceexports: services.drainExports,
  };

  const takeNamespace = (object: NamespaceObject, exists: boolean): void => {
    const change = namespaces.take(object, exists);
    const { name } = change;
    if (change.isRelabelled || change.isSwitched) pods.touchNamespace(name);
    if (change.isSwitched) {
      endpoints.touchNamespace(name);
      identities.touchNamespace(name);
      services.switchNamespace(name);
    }
    const about = { kind: 'Namespace', namespace: '', name, uid: object.uid } as const;
    const all = change.warnings.map((warning) => ({ ...warning, object: about }));
    if (all.length > 0) warned.add(name);
    else if (!warned.delete(name)) return;
    ready.push({ kind: 'warnings', object: about, value: all.length === 0 ? undefined : all });
  };
  const take = (object: ClusterObject, exists: boolean): void => {
    switch (object.kind) {
      case 'Node':
      case 'CiliumNode':
        // Of a cluster that Cilium runs its own word of nodes counts, and of no other.
        if ((object.kind === 'CiliumNode') === isCilium) nodes.take(object, exists);
        return;
      case 'Namespace':
        takeNamespace(object, exists);
        return;
      case 'Pod':
        if (isCilium) return;
        pods.take(object, exists);
        services.takePod(object, exists);
        return;
      case 'Service':
        services.takeService(object, exists);
        return;
      case 'EndpointSlice':
        services.takeSlice(object, exists);
        return;
      case 'CiliumEndpoint':
        if (isCilium) endpoints.takeEndpoint(object, exists);
        return;
      case 'CiliumEndpointSlice':
        if (isCilium) endpoints.takeSlice(object, exists);
        return;
      case 'CiliumIdentity':
        if (isCilium) identities.take(object, exists);
        return;
      case 'ServiceExport':
        services.takeExport(object, exists);
        return;
      case 'NetworkPolicy':
      case 'CiliumNetworkPolicy':
      case 'CiliumClusterwideNetworkPolicy':
      case 'CiliumCIDRGroup': {
        const { kind, namespace, name } = object;
        const value = exists ? object : undefined;
        ready.push({ kind: 'policy', policyKind: kind, namespace, name, value });
        return;
      }
      default:
        object satisfies never;
    }
  };
  function* records(): Generator<RecordChange> {
    for (const set of SETS_IN_ORDER) if (completeness.canConvert(set)) yield* drains[set]();
  }
  const takeAll = (changes: readonly ObjectChange[]): void => {
    for (const { object, exists } of changes) take(object, exists);
  };

  /** Who holds an address that is no node's, in words. */
  const holderOf = (address: IpAddress): string | undefined => {
    const pod = endpoints.holderOf(address);
    return pods.holderOf(address) ?? (pod === undefined ? undefined : `pod ${pod}`);
  };

  return {
    apply(changes) {
      takeAll(changes);
      return [...records()];
    },
    take: takeAll,
    complete: completeness.add,
    records,
    outstanding: (set) => completeness.outstanding(set),
    setNodeFacts: (name, facts) => [nodes.setFacts(name, facts)],
    findNodeConflict(name, facts) {
      for (const address of facts.addresses) {
        const holder = holderOf(address);
        if (holder !== undefined)
          return { field: 'addresses', reason: `${address} is held by ${holder}` };
      }
      for (const network of facts.podCidrs) {
        const machine = pods.machineWithin(network);
        if (machine !== undefined)
          return { field: 'pod_cidrs', reason: `${network} contains an address of ${machine}` };
      }
      return nodes.findConflict(name, facts);
    },
    setMachine(name, machine) {
      const before = machines.get(name);
      // In its new namespace, or with its new labels, other Services may select it.
      if (before !== undefined) services.takeMachine(before, false);
      if (machine === undefined) machines.delete(name);
      else {
        machines.set(name, machine);
        services.takeMachine(machine, true);
      }
      pods.setMachine(name, machine);
    },
    findMachineConflict(name, addresses) {
      if (nodes.has(name)) {
        return { field: 'machine_name', reason: `${name} is the name of a node of this cluster` };
      }
      for (const address of addresses) {
        const holder = holderOf(address);
        if (holder !== undefined && holder !== `machine ${name}`)
          return { field: 'addresses', reason: `${address} is held by ${holder}` };
      }
      return nodes.findConflict(name, { addresses, podCidrs: [], bootId: '' });
    },
    podNetworks: nodes.podNetworks,
    checksOf: services.checksOf,
    get checksRevision() {
      return services.checksRevision;
    },
  };
}

/** Identities before the addresses that carry them, addresses before the Services that they are backends of. */
const SETS_IN_ORDER: readonly PublishedSet[] = [
  'nodes',
  'local-policies',
  'identities',
  'local-identities',
  'ips',
  'local-ips',
  'services',
  'local-services',
  'serviceexports',
];
