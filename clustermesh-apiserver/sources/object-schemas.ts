/** What is read of each Kubernetes object; fields that are not named are ignored, absent ones get Kubernetes' defaults. */
import { z } from 'zod';
import {
  type IpAddress,
  type IpPrefix,
  parseIpAddress,
  parseIpPrefix,
} from '../../mesh/wire/ip.ts';
import { POLICY_KINDS } from '../../mesh/wire/local-policy.ts';
import { PROTOCOLS } from '../../mesh/wire/service.ts';

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

/** A Node. */
export const nodeSchema = z.object({
  kind: z.literal('Node'),
  metadata,
  spec: z
    .object({ podCIDR: prefix.optional(), podCIDRs: listOf(prefix) })
    .default({ podCIDRs: [] }),
  status: z
    .object({
      addresses: listOf(z.object({ type: z.string(), address: z.string() })),
      nodeInfo: z.object({ bootID: z.string().default('') }).optional(),
    })
    .default({ addresses: [] }),
});

/** A Pod. */
export const podSchema = z.object({
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

/** A Namespace. */
export const namespaceSchema = z.object({ kind: z.literal('Namespace'), metadata });

/** A Service. */
export const serviceSchema = z.object({
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

/** An EndpointSlice. */
export const endpointSliceSchema = z.object({
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

/** A policy of any kind: what it says is for the agents to read. */
export const policySchema = z.looseObject({ kind: z.enum(POLICY_KINDS), metadata });

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
