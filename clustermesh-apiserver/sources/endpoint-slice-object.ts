/** An EndpointSlice, cut down to what is used. */
import { z } from 'zod';
import { type IpAddress, parseIpAddress } from '../../mesh/wire/ip.ts';
import { PROTOCOLS, type Protocol } from '../../mesh/wire/service.ts';
import { atField, checkObject } from './object-error.ts';
import { listOf, metadataField, type ObjectName, portField } from './object-fields.ts';

/** Addresses of a slice that have everything else in common: those of one pod. */
export interface SliceEndpoint {
  readonly addresses: readonly IpAddress[];
  readonly ready: boolean;
  /** Still answers although it may be about to end; undefined when nobody says. */
  readonly serving: boolean | undefined;
  /** About to end; undefined when nobody says. */
  readonly terminating: boolean | undefined;
  readonly hostname: string | undefined;
  readonly nodeName: string | undefined;
  readonly zone: string | undefined;
  readonly forZones: readonly { readonly name: string }[] | undefined;
  readonly forNodes: readonly { readonly name: string }[] | undefined;
}

/** A part of the backends of a Service. */
export interface EndpointSliceObject extends ObjectName {
  readonly kind: 'EndpointSlice';
  /** Name of the Service it belongs to, from its label; undefined for a slice of nobody. */
  readonly service: string | undefined;
  readonly managedBy: string | undefined;
  /** Name of the proxy that alone shall serve it, as its label says; undefined for everybody's. */
  readonly proxyName: string | undefined;
  readonly endpoints: readonly SliceEndpoint[];
  readonly ports: readonly {
    readonly name: string;
    readonly port: number;
    readonly protocol: Protocol;
  }[];
}

const schema = z.object({
  kind: z.literal('EndpointSlice'),
  metadata: metadataField,
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
      hostname: z.string().nullish(),
      nodeName: z.string().nullish(),
      zone: z.string().nullish(),
      deprecatedTopology: z.record(z.string(), z.string()).nullish(),
      hints: z
        .object({
          forZones: listOf(z.object({ name: z.string() })),
          forNodes: listOf(z.object({ name: z.string() })),
        })
        .nullish(),
    }),
  ),
  ports: listOf(
    z.object({
      name: z.string().nullish(),
      protocol: z.enum(PROTOCOLS).nullish(),
      port: portField.nullish(),
    }),
  ),
});

/** Parses an EndpointSlice. Throws ObjectError naming the field. */
export function parseEndpointSliceObject(input: unknown): EndpointSliceObject {
  const object = checkObject(schema, input);
  const { labels } = object.metadata;
  return {
    kind: 'EndpointSlice',
    namespace: object.metadata.namespace ?? 'default',
    name: object.metadata.name,
    service: labels['kubernetes.io/service-name'],
    managedBy: labels['endpointslice.kubernetes.io/managed-by'],
    proxyName: labels['service.kubernetes.io/service-proxy-name'],
    endpoints:
      object.addressType === 'FQDN'
        ? []
        : object.endpoints.map((endpoint, index) => ({
            addresses: endpoint.addresses.map((text, at) =>
              atField(`endpoints[${index}].addresses[${at}]`, () => parseIpAddress(text)),
            ),
            // Absent means ready, by the API's own words.
            ready: endpoint.conditions.ready ?? true,
            serving: endpoint.conditions.serving ?? undefined,
            terminating: endpoint.conditions.terminating ?? undefined,
            hostname: endpoint.hostname || undefined,
            nodeName: endpoint.nodeName || undefined,
            zone:
              (endpoint.zone ?? endpoint.deprecatedTopology?.['topology.kubernetes.io/zone']) ||
              undefined,
            forZones: endpoint.hints?.forZones,
            forNodes: endpoint.hints?.forNodes,
          })),
    ports: object.ports.flatMap((port) =>
      typeof port.port === 'number'
        ? [{ name: port.name ?? '', port: port.port, protocol: port.protocol ?? ('TCP' as const) }]
        : [],
    ),
  };
}
