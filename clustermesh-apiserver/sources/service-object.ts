/** A Service, cut down to what is used. */
import { z } from 'zod';
import { type IpAddress, parseIpAddress } from '../../mesh/wire/ip.ts';
import type { Protocol } from '../../mesh/wire/service.ts';
import { atField, checkObject } from './object-error.ts';
import {
  addressOrNull,
  listOf,
  metadataField,
  type ObjectName,
  portField,
  protocolField,
  recordField,
} from './object-fields.ts';

/** A port of a Service. */
export interface ServicePortObject {
  /** Empty for a port without a name. */
  readonly name: string;
  readonly protocol: Protocol;
  readonly port: number;
  /** The port on every node; undefined: it has none. */
  readonly nodePort: number | undefined;
  /** Number, or name of a port of the pods; undefined is the same as `port`. */
  readonly targetPort: number | string | undefined;
  readonly appProtocol: string | undefined;
}

/** A Service; what its annotations mean is decided in the conversion. */
export interface ServiceObject extends ObjectName {
  readonly kind: 'Service';
  /** For Events about it; empty where it comes from a file. */
  readonly uid: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
  readonly type: string;
  /** It has asked for no cluster address. */
  readonly headless: boolean;
  readonly clusterIps: readonly IpAddress[];
  /** Further addresses that nodes answer for; what is no address is left out. */
  readonly externalIps: readonly IpAddress[];
  /** Addresses of its load balancer, without those that the load balancer keeps to itself (`ipMode: Proxy`). */
  readonly loadBalancerIps: readonly IpAddress[];
  readonly loadBalancerSourceRanges: readonly string[];
  readonly selector: Readonly<Record<string, string>>;
  readonly ports: readonly ServicePortObject[];
  readonly sessionAffinity: 'None' | 'ClientIP';
  readonly sessionAffinityTimeoutSeconds: number | undefined;
  readonly internalTrafficPolicy: 'Cluster' | 'Local' | undefined;
  readonly externalTrafficPolicy: 'Cluster' | 'Local' | undefined;
  /** As it was written: newer versions of Kubernetes know more words. */
  readonly trafficDistribution: string | undefined;
  readonly ipFamilies: readonly string[];
  /** Milliseconds since 1970; undefined where it comes from a file. */
  readonly createdAt: number | undefined;
}

const schema = z.object({
  kind: z.literal('Service'),
  metadata: metadataField.extend({
    creationTimestamp: z.iso.datetime({ offset: true }).nullish(),
  }),
  spec: z.object({
    type: z.string().default('ClusterIP'),
    clusterIP: z.string().optional(),
    clusterIPs: listOf(z.string()),
    selector: recordField,
    ports: listOf(
      z.object({
        name: z.string().default(''),
        protocol: protocolField,
        port: portField,
        nodePort: z.number().int().min(0).max(65535).nullish(),
        targetPort: z.union([portField, z.string()]).optional(),
        appProtocol: z.string().optional(),
      }),
    ),
    sessionAffinity: z.enum(['None', 'ClientIP']).default('None'),
    sessionAffinityConfig: z
      .object({ clientIP: z.object({ timeoutSeconds: z.number().int().nullish() }).nullish() })
      .nullish(),
    internalTrafficPolicy: z.enum(['Cluster', 'Local']).nullish(),
    externalTrafficPolicy: z.enum(['Cluster', 'Local', '']).nullish(),
    trafficDistribution: z.string().nullish(),
    ipFamilies: listOf(z.string()),
    externalIPs: listOf(z.string()),
    loadBalancerSourceRanges: listOf(z.string()),
  }),
  status: z
    .object({
      loadBalancer: z
        .object({
          ingress: listOf(z.object({ ip: z.string().nullish(), ipMode: z.string().nullish() })),
        })
        .nullish(),
    })
    .nullish(),
});

/** Parses a Service. Throws ObjectError naming the field. */
export function parseServiceObject(input: unknown): ServiceObject {
  const { metadata: meta, spec, status } = checkObject(schema, input);
  const listed =
    spec.clusterIPs.length > 0 || spec.clusterIP === undefined ? spec.clusterIPs : [spec.clusterIP];
  const isNone = (text: string): boolean => text.toLowerCase() === 'none';
  return {
    kind: 'Service',
    namespace: meta.namespace ?? 'default',
    name: meta.name,
    uid: meta.uid,
    labels: meta.labels,
    annotations: meta.annotations,
    type: spec.type,
    headless: listed.some(isNone),
    clusterIps: listed
      .filter((text) => !isNone(text) && text !== '')
      .map((text, index) => atField(`spec.clusterIPs[${index}]`, () => parseIpAddress(text))),
    externalIps: addressesOf(spec.externalIPs),
    loadBalancerIps: addressesOf(
      (status?.loadBalancer?.ingress ?? []).flatMap(({ ip, ipMode }) =>
        ip === undefined || ip === null || ipMode === 'Proxy' ? [] : [ip],
      ),
    ),
    loadBalancerSourceRanges: spec.loadBalancerSourceRanges,
    selector: spec.selector,
    ports: spec.ports.map(({ name, protocol, port, nodePort, targetPort, appProtocol }) => ({
      name,
      protocol,
      port,
      nodePort: nodePort || undefined,
      targetPort,
      appProtocol,
    })),
    sessionAffinity: spec.sessionAffinity,
    sessionAffinityTimeoutSeconds:
      spec.sessionAffinityConfig?.clientIP?.timeoutSeconds ?? undefined,
    internalTrafficPolicy: spec.internalTrafficPolicy ?? undefined,
    externalTrafficPolicy: spec.externalTrafficPolicy || undefined,
    trafficDistribution: spec.trafficDistribution ?? undefined,
    ipFamilies: spec.ipFamilies,
    createdAt:
      typeof meta.creationTimestamp === 'string' ? Date.parse(meta.creationTimestamp) : undefined,
  };
}

function addressesOf(texts: readonly string[]): IpAddress[] {
  return texts.map(addressOrNull).filter((address) => address !== null);
}
