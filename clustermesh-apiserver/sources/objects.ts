/**
 * The Kubernetes objects that a cluster is published from, cut down to what is used. Each has one parser from the object as
 * it stands in YAML or comes from an API server; unknown fields are ignored.
 */
import { z } from 'zod';
import {
  type IpAddress,
  type IpPrefix,
  parseIpAddress,
  parseIpPrefix,
} from '../../mesh/wire/ip.ts';
import { POLICY_KINDS } from '../../mesh/wire/local-policy.ts';
import {
  NODE_ADDRESS_TYPES,
  type NodeAddress,
  type NodeAddressType,
} from '../../mesh/wire/node.ts';
import { PROTOCOLS } from '../../mesh/wire/service.ts';

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

const record = z
  .record(z.string(), z.string())
  .nullish()
  .transform((value) => value ?? {});
const ip = z
  .string()
  .transform((text, context): IpAddress => parsed(context, () => parseIpAddress(text)));
const prefix = z
  .string()
  .transform((text, context): IpPrefix => parsed(context, () => parseIpPrefix(text)));
const protocol = z.enum(PROTOCOLS).default('TCP');
const portNumber = z.number().int().min(1).max(65535);
const name = z.string().regex(/^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$/, 'expected a lower-case DNS name');
const metadata = z.object({
  name,
  namespace: name.optional(),
  labels: record,
  annotations: record,
  generation: z.number().int().nonnegative().default(0),
});
const listOf = <T extends z.ZodType>(item: T) =>
  z
    .array(item)
    .nullish()
    .transform((value) => value ?? []);

const nodeSchema = z.object({
  kind: z.literal('Node'),
  metadata,
  spec: z
    .object({ podCIDR: prefix.optional(), podCIDRs: listOf(prefix) })
    .default({ podCIDRs: [] }),
  status: z
    .object({
      addresses: listOf(z.object({ type: z.enum(NODE_ADDRESS_TYPES), address: z.string() })),
      nodeInfo: z.object({ bootID: z.string().default('') }).optional(),
    })
    .default({ addresses: [] }),
});

const podSchema = z.object({
  kind: z.literal('Pod'),
  metadata,
  spec: z
    .object({
      nodeName: z.string().default(''),
      serviceAccountName: z.string().default('default'),
      hostNetwork: z.boolean().default(false),
      containers: listOf(
        z.object({
          ports: listOf(
            z.object({ name: z.string().default(''), containerPort: portNumber, protocol }),
          ),
        }),
      ),
    })
    .default({ nodeName: '', serviceAccountName: 'default', hostNetwork: false, containers: [] }),
  status: z
    .object({
      phase: z.string().default('Running'),
      hostIP: ip.optional(),
      podIP: ip.optional(),
      podIPs: listOf(z.object({ ip })),
      conditions: listOf(z.object({ type: z.string(), status: z.string() })),
    })
    .default({ phase: 'Running', podIPs: [], conditions: [] }),
});

const namespaceSchema = z.object({ kind: z.literal('Namespace'), metadata });

const serviceSchema = z.object({
  kind: z.literal('Service'),
  metadata,
  spec: z.object({
    type: z.string().default('ClusterIP'),
    clusterIP: z.string().optional(),
    clusterIPs: listOf(z.string()),
    selector: record,
    ports: listOf(
      z.object({
        name: z.string().default(''),
        protocol,
        port: portNumber,
        targetPort: z.union([portNumber, z.string()]).optional(),
      }),
    ),
  }),
});

const endpointSliceSchema = z.object({
  kind: z.literal('EndpointSlice'),
  metadata,
  addressType: z.enum(['IPv4', 'IPv6', 'FQDN']),
  endpoints: listOf(
    z.object({
      addresses: z.array(z.string()),
      conditions: z
        .object({
          ready: z.boolean().nullish(),
          serving: z.boolean().nullish(),
          terminating: z.boolean().nullish(),
        })
        .nullish()
        .transform((value) => value ?? {}),
      hostname: z.string().optional(),
      zone: z.string().optional(),
      hints: z.object({ forZones: listOf(z.object({ name: z.string() })) }).nullish(),
    }),
  ),
  ports: listOf(
    z.object({
      name: z.string().nullish(),
      protocol: z.enum(PROTOCOLS).nullish(),
      port: portNumber.nullish(),
    }),
  ),
});

const policySchema = z.looseObject({ kind: z.enum(POLICY_KINDS), metadata });

interface ObjectName {
  readonly namespace: string;
  readonly name: string;
}

export interface NodeObject {
  readonly kind: 'Node';
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
  readonly podCidrs: readonly IpPrefix[];
  readonly addresses: readonly NodeAddress[];
  readonly bootId: string;
}

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

export interface NamespaceObject {
  readonly kind: 'Namespace';
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
}

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

export interface PolicyObject extends ObjectName {
  readonly kind: (typeof POLICY_KINDS)[number];
  readonly generation: number;
  readonly manifest: unknown;
}

export type ClusterObject =
  | NodeObject
  | PodObject
  | NamespaceObject
  | ServiceObject
  | EndpointSliceObject
  | PolicyObject;

export type ClusterObjectKind = ClusterObject['kind'];

/** Text that names an object among all: `Pod demo/web-0`. */
export function objectId(object: ClusterObject): string {
  return 'namespace' in object
    ? `${object.kind} ${object.namespace}/${object.name}`
    : `${object.kind} ${object.name}`;
}

/** Parses an object of a supported kind. Throws ObjectError naming the field. */
export function parseObject(input: unknown): ClusterObject {
  const kind =
    typeof input === 'object' && input !== null && 'kind' in input ? input.kind : undefined;
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
        `kind is ${JSON.stringify(kind)}, which is not published`,
      );
  }
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

function isIpType(type: NodeAddressType): boolean {
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
    `field ${path}: ${issue?.message ?? 'not as expected'}`,
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

function parsed<T>(context: z.RefinementCtx, parse: () => T): T {
  try {
    return parse();
  } catch (error) {
    context.addIssue({
      code: 'custom',
      message: error instanceof Error ? error.message : String(error),
    });
    return z.NEVER;
  }
}
