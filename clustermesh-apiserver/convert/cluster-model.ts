/**
 * The cluster as its objects describe it, and what has to be published of it. Feeding it an event gives the records that
 * changed, and only those: work is proportional to the change. Nothing here waits or knows etcd.
 */
import type { Labels } from '../../mesh/wire/identity.ts';
import type { ClusterId, ClusterName } from '../../mesh/wire/ids.ts';
import type { IpAddress } from '../../mesh/wire/ip.ts';
import type { NamedPort } from '../../mesh/wire/ip-identity.ts';
import type { LocalPolicy } from '../../mesh/wire/local-policy.ts';
import type { Node } from '../../mesh/wire/node.ts';
import type {
  ClusterObject,
  EndpointSliceObject,
  NamespaceObject,
  NodeObject,
  PodObject,
  ServiceObject,
} from '../sources/objects.ts';
import { createAddressOwners } from './address-owners.ts';
import {
  convertNode,
  findOverlap,
  type NodeConflict,
  type NodeFacts,
  nodeHoldings,
} from './node.ts';
import { podIdentityLabels } from './pod-labels.ts';
import { type ConvertedService, convertService } from './service.ts';

/** An address to publish; its identity is still a set of labels, because only etcd can give it a number. */
export interface EndpointRecord {
  readonly address: IpAddress;
  readonly hostIp: IpAddress | null;
  readonly labels: Labels;
  readonly namespace: string;
  readonly podName: string;
  readonly serviceAccount: string;
  readonly namedPorts: readonly NamedPort[] | undefined;
}

/** A record to publish or, with `value` undefined, to withdraw. */
export type RecordChange =
  | { readonly kind: 'node'; readonly name: string; readonly value: Node | undefined }
  | {
      readonly kind: 'endpoint';
      readonly address: IpAddress;
      readonly value: EndpointRecord | undefined;
    }
  | {
      readonly kind: 'service';
      readonly namespace: string;
      readonly name: string;
      readonly value: ConvertedService | undefined;
    }
  | {
      readonly kind: 'policy';
      readonly policyKind: LocalPolicy['kind'];
      readonly namespace: string;
      readonly name: string;
      readonly value: LocalPolicy | undefined;
    };

/** The cluster as known so far. */
export interface ClusterModel {
  /** Takes objects that changed (`true`) or went (`false`) and returns what changed for it. */
  apply(
    changes: readonly { readonly object: ClusterObject; readonly exists: boolean }[],
  ): RecordChange[];
  /** Takes what a node's own agent says of it, or undefined when that counts no more. */
  setNodeFacts(name: string, facts: NodeFacts | undefined): RecordChange[];
  /** What of `facts` another node or a pod holds already; undefined when nothing is. */
  findNodeConflict(name: string, facts: NodeFacts): NodeConflict | undefined;
}

/** Makes the model of an empty cluster. */
export function createClusterModel(cluster: {
  readonly name: ClusterName;
  readonly id: ClusterId;
}): ClusterModel {
  const nodes = new Map<string, NodeObject>();
  const nodeFacts = new Map<string, NodeFacts>();
  const namespaces = new Map<string, NamespaceObject>();
  const pods = new Map<string, PodObject>();
  const podsByNamespace = new Map<string, Map<string, PodObject>>();
  const services = new Map<string, ServiceObject>();
  const servicesByNamespace = new Map<string, Map<string, ServiceObject>>();
  const slices = new Map<string, EndpointSliceObject>();
  const slicesByService = new Map<string, Map<string, EndpointSliceObject>>();
  const owners = createAddressOwners<IpAddress>();

  const endpointOf = (address: IpAddress): EndpointRecord | undefined => {
    const pod = pods.get(owners.ownerOf(address) ?? '');
    if (pod === undefined) return undefined;
    const named = pod.ports.filter((port) => port.name !== '');
    return {
      address,
      hostIp: pod.hostIp ?? null,
      labels: podIdentityLabels(pod, namespaces.get(pod.namespace), cluster.name),
      namespace: pod.namespace,
      podName: pod.name,
      serviceAccount: pod.serviceAccount,
      namedPorts:
        named.length === 0 ? undefined : [...named].sort((a, b) => (a.name < b.name ? -1 : 1)),
    };
  };

  const takePod = (pod: PodObject, exists: boolean, dirty: Dirty): void => {
    const id = pathOf(pod);
    const before = pods.get(id);
    const held = exists ? addressesOf(pod) : [];
    for (const address of addressesOf(before)) {
      // What it keeps it does not let go of: another claimant would come first.
      if (!held.includes(address)) owners.release(address, id);
      dirty.addresses.add(address);
    }
    if (exists) pods.set(id, pod);
    else pods.delete(id);
    setNested(podsByNamespace, pod.namespace, id, exists ? pod : undefined);
    for (const address of held) {
      owners.claim(address, id);
      dirty.addresses.add(address);
    }
    for (const service of servicesByNamespace.get(pod.namespace)?.values() ?? []) {
      if ((slicesByService.get(pathOf(service))?.size ?? 0) > 0) continue;
      if (
        [before, pod].some((candidate) => candidate !== undefined && isSelected(service, candidate))
      ) {
        dirty.services.add(pathOf(service));
      }
    }
  };

  const takeSlice = (slice: EndpointSliceObject, exists: boolean, dirty: Dirty): void => {
    const id = pathOf(slice);
    const before = slices.get(id);
    for (const owner of [before, slice]) {
      if (owner?.service === undefined) continue;
      const service = `${owner.namespace}/${owner.service}`;
      setNested(slicesByService, service, id, exists && owner === slice ? slice : undefined);
      dirty.services.add(service);
    }
    if (exists) slices.set(id, slice);
    else slices.delete(id);
  };

  const take = (object: ClusterObject, exists: boolean, dirty: Dirty): void => {
    switch (object.kind) {
      case 'Node':
        if (exists) nodes.set(object.name, object);
        else nodes.delete(object.name);
        dirty.nodes.add(object.name);
        return;
      case 'Namespace':
        if (exists) namespaces.set(object.name, object);
        else namespaces.delete(object.name);
        for (const pod of podsByNamespace.get(object.name)?.values() ?? []) {
          for (const address of addressesOf(pod)) dirty.addresses.add(address);
        }
        return;
      case 'Pod':
        takePod(object, exists, dirty);
        return;
      case 'Service':
        if (exists) services.set(pathOf(object), object);
        else services.delete(pathOf(object));
        setNested(servicesByNamespace, object.namespace, object.name, exists ? object : undefined);
        dirty.services.add(pathOf(object));
        return;
      case 'EndpointSlice':
        takeSlice(object, exists, dirty);
        return;
      case 'NetworkPolicy':
      case 'CiliumNetworkPolicy':
      case 'CiliumClusterwideNetworkPolicy': {
        const { kind, namespace, name, generation, manifest } = object;
        const value = exists ? { kind, namespace, name, generation, manifest } : undefined;
        dirty.records.push({ kind: 'policy', policyKind: kind, namespace, name, value });
        return;
      }
      default:
        object satisfies never;
    }
  };

  const serviceRecord = (path: string): RecordChange => {
    const service = services.get(path);
    const [namespace = '', name = ''] = path.split('/');
    if (service === undefined) return { kind: 'service', namespace, name, value: undefined };
    const ofService = [...(slicesByService.get(path)?.values() ?? [])];
    const candidates = [...(podsByNamespace.get(namespace)?.values() ?? [])];
    const input = {
      service,
      slices: ofService,
      pods: candidates.filter((pod) => isSelected(service, pod)),
    };
    return { kind: 'service', namespace, name, value: convertService(input, cluster) };
  };

  const nodeRecord = (name: string): RecordChange => ({
    kind: 'node',
    name,
    value: convertNode(name, { object: nodes.get(name), facts: nodeFacts.get(name) }, cluster),
  });

  return {
    setNodeFacts(name, facts) {
      if (facts === undefined) nodeFacts.delete(name);
      else nodeFacts.set(name, facts);
      return [nodeRecord(name)];
    },
    findNodeConflict(name, facts) {
      for (const address of facts.addresses) {
        const pod = owners.ownerOf(address);
        if (pod !== undefined)
          return { field: 'addresses', reason: `${address} is held by pod ${pod}` };
      }
      for (const other of new Set([...nodes.keys(), ...nodeFacts.keys()])) {
        if (other === name) continue;
        const held = nodeHoldings({ object: nodes.get(other), facts: nodeFacts.get(other) });
        const conflict = findOverlap(facts, held, `node ${other}`);
        if (conflict !== undefined) return conflict;
      }
      return undefined;
    },
    apply(changes) {
      const dirty: Dirty = {
        records: [],
        nodes: new Set(),
        addresses: new Set(),
        services: new Set(),
      };
      for (const { object, exists } of changes) take(object, exists, dirty);
      const endpoints = [...dirty.addresses].map(
        (address): RecordChange => ({ kind: 'endpoint', address, value: endpointOf(address) }),
      );
      return [
        ...[...dirty.nodes].map(nodeRecord),
        ...dirty.records,
        ...endpoints,
        ...[...dirty.services].map(serviceRecord),
      ];
    },
  };
}

/** What a batch of changes touched. */
interface Dirty {
  readonly records: RecordChange[];
  readonly nodes: Set<string>;
  readonly addresses: Set<IpAddress>;
  readonly services: Set<string>;
}

/** Addresses that a pod holds: none on the host's network, and none when it has finished. */
function addressesOf(pod: PodObject | undefined): readonly IpAddress[] {
  return pod === undefined || pod.hostNetwork || pod.finished ? [] : pod.ips;
}

function isSelected(service: ServiceObject, pod: PodObject): boolean {
  const wanted = Object.entries(service.selector);
  return wanted.length > 0 && wanted.every(([key, value]) => pod.labels[key] === value);
}

function pathOf(object: { readonly namespace: string; readonly name: string }): string {
  return `${object.namespace}/${object.name}`;
}

function setNested<T>(
  map: Map<string, Map<string, T>>,
  outer: string,
  inner: string,
  value: T | undefined,
): void {
  const nested = map.get(outer) ?? new Map<string, T>();
  if (value === undefined) nested.delete(inner);
  else nested.set(inner, value);
  if (nested.size === 0) map.delete(outer);
  else map.set(outer, nested);
}
