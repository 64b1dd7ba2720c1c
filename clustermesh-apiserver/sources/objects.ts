/**
 * The Kubernetes objects that a cluster is published from, cut down to what is used. Each has one parser from the object as
 * it stands in YAML or comes from an API server; unknown fields are ignored.
 */
import type { z } from 'zod';
import { type IpAddress, type IpPrefix, parseIpAddress } from '../../mesh/wire/ip.ts';
import type { POLICY_KINDS } from '../../mesh/wire/local-policy.ts';
import type { NodeAddress } from '../../mesh/wire/node.ts';
import type { PROTOCOLS } from '../../mesh/wire/service.ts';
import {
  endpointSliceSchema,
  namespaceSchema,
  nodeSchema,
  podSchema,
  policySchema,
  serviceSchema,
} from './object-schemas.ts';

/** An object that cannot be used; `field` is the path of what is wrong, empty for the object as a whole. */
export class ObjectError extends Error {
  readonly code: 'bad-object' | 'unknown-kind';
  readonly field: string;
  readonly retryable = false;

  constructor(code: 'bad-object' | 'unknown-kind', field: string, message: string) {
    super(message);
    this.name = 'ObjectError';
    this.code = code;
    this.field = field;
  }
}

interface ObjectName {
  readonly namespace: string;
  readonly name: string;
}

/** A node of the cluster. */
export interface NodeObject {
  readonly kind: 'Node';
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
  readonly podCidrs: readonly IpPrefix[];
  readonly addresses: readonly NodeAddress[];
  readonly bootId: string;
}

/** A pod, as far as it can be an endpoint or a backend. */
export interface PodObject extends ObjectName {
  readonly kind: 'Pod';
  readonly labels: Readonly<Record<string, string>>;
  readonly nodeName: string;
  readonly serviceAccount: string;
  readonly hostNetwork: boolean;
  readonly ports: readonly {
    readonly name: string;
    readonly port: number;
    readonly protocol: (typeof PROTOCOLS)[number];
  }[];
  readonly hostIp: IpAddress | undefined;
  readonly ips: readonly IpAddress[];
  readonly ready: boolean;
  /** Succeeded and failed pods keep their addresses in status but hold them no longer. */
  readonly finished: boolean;
}

/** A namespace: its labels are part of the identities of its pods. */
export interface NamespaceObject {
  readonly kind: 'Namespace';
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
}

/** A Service; what its annotations mean is decided in the conversion. */
export type ServiceObject = ObjectName & {
  readonly kind: 'Service';
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
  readonly type: string;
  readonly headless: boolean;
  readonly clusterIps: readonly IpAddress[];
  readonly selector: Readonly<Record<string, string>>;
  readonly ports: z.infer<typeof serviceSchema>['spec']['ports'];
};

/** A part of the backends of a Service. */
export type EndpointSliceObject = ObjectName & {
  readonly kind: 'EndpointSlice';
  /** Name of the Service it belongs to, from its label; undefined for a slice of nobody. */
  readonly service: string | undefined;
  readonly managedBy: string | undefined;
  readonly endpoints: readonly {
    readonly addresses: readonly IpAddress[];
    /** Ready, or still serving while it terminates. */
    readonly usable: boolean;
    readonly hostname: string | undefined;
    readonly zone: string | undefined;
    readonly forZones: readonly { readonly name: string }[] | undefined;
  }[];
  readonly ports: readonly {
    readonly name: string;
    readonly port: number;
    readonly protocol: (typeof PROTOCOLS)[number];
  }[];
};

/** A policy, passed on as it was written. */
export interface PolicyObject extends ObjectName {
  readonly kind: (typeof POLICY_KINDS)[number];
  readonly generation: number;
  readonly manifest: unknown;
}

/** An object that is published, or that something published depends on. */
export type ClusterObject =
  | NodeObject
  | PodObject
  | NamespaceObject
  | ServiceObject
  | EndpointSliceObject
  | PolicyObject;

/** Kinds that are read. */
export type ClusterObjectKind = ClusterObject['kind'];

/** Text that names an object among all: `Pod demo/web-0`. */
export function objectId(object: ClusterObject): string {
  return 'namespace' in object
    ? `${object.kind} ${object.namespace}/${object.name}`
    : `${object.kind} ${object.name}`;
}

/** API groups of the kinds: a Service of another group (Knative has one) is another thing. */
const GROUPS: Readonly<Record<ClusterObjectKind, string>> = {
  Node: '',
  Pod: '',
  Namespace: '',
  Service: '',
  EndpointSlice: 'discovery.k8s.io',
  NetworkPolicy: 'networking.k8s.io',
  CiliumNetworkPolicy: 'cilium.io',
  CiliumClusterwideNetworkPolicy: 'cilium.io',
};

/** Parses an object of a supported kind. Throws ObjectError naming the field. */
export function parseObject(input: unknown): ClusterObject {
  const fields: Readonly<Record<string, unknown>> =
    typeof input === 'object' && input !== null ? { ...input } : {};
  const kind = Object.keys(GROUPS).find((candidate) => candidate === fields.kind) as
    | ClusterObjectKind
    | undefined;
  if (kind !== undefined) checkGroup(kind, fields.apiVersion);
  switch (kind) {
    case 'Node':
      return parseNode(check(nodeSchema, input));
    case 'Pod':
      return parsePod(check(podSchema, input));
    case 'Namespace': {
      const { metadata: meta } = check(namespaceSchema, input);
      return { kind, name: meta.name, labels: meta.labels, annotations: meta.annotations };
    }
    case 'Service':
      return parseService(check(serviceSchema, input));
    case 'EndpointSlice':
      return parseEndpointSlice(check(endpointSliceSchema, input));
    case 'NetworkPolicy':
    case 'CiliumNetworkPolicy':
    case 'CiliumClusterwideNetworkPolicy': {
      const { metadata: meta } = check(policySchema, input);
      const namespace =
        kind === 'CiliumClusterwideNetworkPolicy' ? '' : (meta.namespace ?? 'default');
      return { kind, namespace, name: meta.name, generation: meta.generation, manifest: input };
    }
    default:
      throw new ObjectError(
        'unknown-kind',
        'kind',
        `kind is ${JSON.stringify(fields.kind)}, which is not published`,
      );
  }
}

/** Throws unless an object's group is that of its kind; an absent version is the kind's own. */
function checkGroup(kind: ClusterObjectKind, apiVersion: unknown): void {
  if (apiVersion === undefined) return;
  const expected = GROUPS[kind] === '' ? 'v1' : `${GROUPS[kind]}/<version>`;
  const text = typeof apiVersion === 'string' ? apiVersion : '';
  const slash = text.lastIndexOf('/');
  if (text !== '' && (slash === -1 ? '' : text.slice(0, slash)) === GROUPS[kind]) return;
  throw new ObjectError(
    'unknown-kind',
    'apiVersion',
    `field apiVersion: ${JSON.stringify(apiVersion)} is not published, expected ${expected} for kind ${kind}`,
  );
}

function parseNode(object: z.infer<typeof nodeSchema>): NodeObject {
  const { podCIDR, podCIDRs } = object.spec;
  const addresses: NodeAddress[] = [];
  for (const [index, { type, address }] of object.status.addresses.entries()) {
    if (!isIpType(type)) continue;
    addresses.push({
      type,
      ip: atField(`status.addresses[${index}].address`, () => parseIpAddress(address)),
    });
  }
  return {
    kind: 'Node',
    name: object.metadata.name,
    labels: object.metadata.labels,
    annotations: object.metadata.annotations,
    podCidrs: podCIDRs.length > 0 || podCIDR === undefined ? podCIDRs : [podCIDR],
    addresses,
    bootId: object.status.nodeInfo?.bootID ?? '',
  };
}

function parsePod(object: z.infer<typeof podSchema>): PodObject {
  const { metadata: meta, spec, status } = object;
  const listed = status.podIPs.map((entry) => entry.ip);
  const ready = status.conditions.find((condition) => condition.type === 'Ready');
  return {
    kind: 'Pod',
    namespace: meta.namespace ?? 'default',
    name: meta.name,
    labels: meta.labels,
    nodeName: spec.nodeName,
    serviceAccount: spec.serviceAccountName,
    hostNetwork: spec.hostNetwork,
    ports: spec.containers.flatMap((container) =>
      container.ports.map((port) => ({
        name: port.name,
        port: port.containerPort,
        protocol: port.protocol,
      })),
    ),
    hostIp: status.hostIP,
    ips: listed.length > 0 || status.podIP === undefined ? listed : [status.podIP],
    ready: ready === undefined || ready.status === 'True',
    finished: status.phase === 'Succeeded' || status.phase === 'Failed',
  };
}

function parseService(object: z.infer<typeof serviceSchema>): ServiceObject {
  const { metadata: meta, spec } = object;
  const listed =
    spec.clusterIPs.length > 0 || spec.clusterIP === undefined ? spec.clusterIPs : [spec.clusterIP];
  return {
    kind: 'Service',
    namespace: meta.namespace ?? 'default',
    name: meta.name,
    labels: meta.labels,
    annotations: meta.annotations,
    type: spec.type,
    headless: listed.includes('None'),
    clusterIps: listed
      .filter((text) => text !== 'None' && text !== '')
      .map((text, index) => atField(`spec.clusterIPs[${index}]`, () => parseIpAddress(text))),
    selector: spec.selector,
    ports: spec.ports,
  };
}

function parseEndpointSlice(object: z.infer<typeof endpointSliceSchema>): EndpointSliceObject {
  const { labels } = object.metadata;
  return {
    kind: 'EndpointSlice',
    namespace: object.metadata.namespace ?? 'default',
    name: object.metadata.name,
    service: labels['kubernetes.io/service-name'],
    managedBy: labels['endpointslice.kubernetes.io/managed-by'],
    endpoints:
      object.addressType === 'FQDN'
        ? []
        : object.endpoints.map((endpoint, index) => ({
            addresses: endpoint.addresses.map((text, at) =>
              atField(`endpoints[${index}].addresses[${at}]`, () => parseIpAddress(text)),
            ),
            // Absent means ready, by the API's own words.
            usable: (endpoint.conditions.ready ?? true) || endpoint.conditions.serving === true,
            hostname: endpoint.hostname,
            zone: endpoint.zone,
            forZones: endpoint.hints?.forZones,
          })),
    ports: object.ports.flatMap((port) =>
      typeof port.port === 'number'
        ? [{ name: port.name ?? '', port: port.port, protocol: port.protocol ?? ('TCP' as const) }]
        : [],
    ),
  };
}

function isIpType(type: string): boolean {
  return type === 'InternalIP' || type === 'ExternalIP' || type === 'CiliumInternalIP';
}

function check<T extends z.ZodType>(schema: T, input: unknown): z.infer<T> {
  const result = schema.safeParse(input);
  if (result.success) return result.data;
  const [issue] = result.error.issues;
  const field = (issue?.path ?? []).map((part) =>
    typeof part === 'number' ? `[${part}]` : `.${String(part)}`,
  );
  const path = field.join('').replace(/^\./, '');
  throw new ObjectError(
    'bad-object',
    path,
    `${path === '' ? 'the object' : `field ${path}`}: ${issue?.message ?? 'not as expected'}`,
  );
}

function atField<T>(field: string, parse: () => T): T {
  try {
    return parse();
  } catch (error) {
    throw new ObjectError(
      'bad-object',
      field,
      `field ${field}: ${error instanceof Error ? error.message : String(error)}`,
    );
  }
}
