/**
 * The Kubernetes objects that a cluster is published from, cut down to what is used. Each has one parser from the object as
 * it stands in YAML or comes from an API server; unknown fields are ignored.
 */
import {
  type CiliumEndpointObject,
  type CiliumEndpointSliceObject,
  parseCiliumEndpointObject,
  parseCiliumEndpointSliceObject,
} from './cilium-endpoint-object.ts';
import { type CiliumIdentityObject, parseCiliumIdentityObject } from './cilium-identity-object.ts';
import { type CiliumNodeObject, parseCiliumNodeObject } from './cilium-node-object.ts';
import { type EndpointSliceObject, parseEndpointSliceObject } from './endpoint-slice-object.ts';
import { type NamespaceObject, parseNamespaceObject } from './namespace-object.ts';
import { type NodeObject, parseNodeObject } from './node-object.ts';
import { ObjectError } from './object-error.ts';
import { type PodObject, parsePodObject } from './pod-object.ts';
import { type PolicyObject, parsePolicyObject } from './policy-object.ts';
import { parseServiceExportObject, type ServiceExportObject } from './service-export-object.ts';
import { parseServiceObject, type ServiceObject } from './service-object.ts';

export type {
  CiliumEndpointObject,
  CiliumEndpointSliceObject,
  CiliumIdentityObject,
  CiliumNodeObject,
  EndpointSliceObject,
  NamespaceObject,
  NodeObject,
  PodObject,
  PolicyObject,
  ServiceExportObject,
  ServiceObject,
};
export { ObjectError };

/** An object that is published, or that something published depends on. */
export type ClusterObject =
  | NodeObject
  | PodObject
  | NamespaceObject
  | ServiceObject
  | EndpointSliceObject
  | PolicyObject
  | CiliumNodeObject
  | CiliumIdentityObject
  | CiliumEndpointObject
  | CiliumEndpointSliceObject
  | ServiceExportObject;

/** Kinds that are read. */
export type ClusterObjectKind = ClusterObject['kind'];

/** Text that names an object among all: `Pod demo/web-0`. */
export function objectId(object: ClusterObject): string {
  return 'namespace' in object
    ? `${object.kind} ${object.namespace}/${object.name}`
    : `${object.kind} ${object.name}`;
}

/** What is to be known of a kind before one of its objects is. */
interface KindFacts {
  /** API group: a Service of another group (Knative has one) is another thing. */
  readonly group: string;
  readonly parse: (input: unknown) => ClusterObject;
}

const KINDS: Readonly<Record<ClusterObjectKind, KindFacts>> = {
  Node: { group: '', parse: parseNodeObject },
  Pod: { group: '', parse: parsePodObject },
  Namespace: { group: '', parse: parseNamespaceObject },
  Service: { group: '', parse: parseServiceObject },
  EndpointSlice: { group: 'discovery.k8s.io', parse: parseEndpointSliceObject },
  NetworkPolicy: { group: 'networking.k8s.io', parse: parsePolicyObject },
  CiliumNetworkPolicy: { group: 'cilium.io', parse: parsePolicyObject },
  CiliumClusterwideNetworkPolicy: { group: 'cilium.io', parse: parsePolicyObject },
  CiliumCIDRGroup: { group: 'cilium.io', parse: parsePolicyObject },
  CiliumNode: { group: 'cilium.io', parse: parseCiliumNodeObject },
  CiliumIdentity: { group: 'cilium.io', parse: parseCiliumIdentityObject },
  CiliumEndpoint: { group: 'cilium.io', parse: parseCiliumEndpointObject },
  CiliumEndpointSlice: { group: 'cilium.io', parse: parseCiliumEndpointSliceObject },
  ServiceExport: { group: 'multicluster.x-k8s.io', parse: parseServiceExportObject },
};

/** Kinds that a directory of manifests describes a cluster with. */
export const MANIFEST_KINDS: readonly ClusterObjectKind[] = [
  'Node',
  'Pod',
  'Namespace',
  'Service',
  'EndpointSlice',
  'NetworkPolicy',
  'CiliumNetworkPolicy',
  'CiliumClusterwideNetworkPolicy',
  'CiliumCIDRGroup',
];

/** Kinds whose objects are in no namespace. */
export const CLUSTER_SCOPED_KINDS: readonly ClusterObjectKind[] = [
  'Node',
  'Namespace',
  'CiliumClusterwideNetworkPolicy',
  'CiliumCIDRGroup',
  'CiliumNode',
  'CiliumIdentity',
  'CiliumEndpointSlice',
];

/** Parses an object of one of `kinds`, by default of every kind. Throws ObjectError naming the field. */
export function parseObject(
  input: unknown,
  kinds: readonly ClusterObjectKind[] = ALL_KINDS,
): ClusterObject {
  const fields: Readonly<Record<string, unknown>> =
    typeof input === 'object' && input !== null ? { ...input } : {};
  const kind = kinds.find((candidate) => candidate === fields.kind);
  if (kind === undefined) {
    throw new ObjectError(
      'unknown-kind',
      'kind',
      `kind is ${JSON.stringify(fields.kind)}, which is not published`,
    );
  }
  checkGroup(kind, fields.apiVersion);
  return KINDS[kind].parse(input);
}

const ALL_KINDS = Object.keys(KINDS) as ClusterObjectKind[];

/** Throws unless an object's group is that of its kind; an absent version is the kind's own. */
function checkGroup(kind: ClusterObjectKind, apiVersion: unknown): void {
  if (apiVersion === undefined) return;
  const { group } = KINDS[kind];
  const expected = group === '' ? 'v1' : `${group}/<version>`;
  const text = typeof apiVersion === 'string' ? apiVersion : '';
  const slash = text.lastIndexOf('/');
  if (text !== '' && (slash === -1 ? '' : text.slice(0, slash)) === group) return;
  throw new ObjectError(
    'unknown-kind',
    'apiVersion',
    `field apiVersion: ${JSON.stringify(apiVersion)} is not published, expected ${expected} for kind ${kind}`,
  );
}
