/** CiliumEndpoint (`cilium.io/v2`) and CiliumEndpointSlice (`cilium.io/v2alpha1`), cut down to what is used. */
import { z } from 'zod';
import { type NumericIdentity, parseNumericIdentity } from '../../mesh/wire/ids.ts';
import { type IpAddress, parseIpAddress } from '../../mesh/wire/ip.ts';
import type { NamedPort } from '../../mesh/wire/ip-identity.ts';
import { atField, checkObject } from './object-error.ts';
import { addressOrNull, listOf, metadataField, type ObjectName } from './object-fields.ts';

/** What Cilium says of the endpoint of a pod, in whichever of the two forms. */
export interface CiliumEndpointFacts {
  readonly addresses: readonly IpAddress[];
  readonly hostIp: IpAddress | null;
  /** 0 before it has one. */
  readonly identity: NumericIdentity;
  readonly encryptionKey: number;
  readonly serviceAccount: string | undefined;
  readonly namedPorts: readonly NamedPort[] | undefined;
}

/** The endpoint of one pod, whose name it has. */
export interface CiliumEndpointObject extends ObjectName, CiliumEndpointFacts {
  readonly kind: 'CiliumEndpoint';
}

/** Endpoints of several pods of one namespace. */
export interface CiliumEndpointSliceObject {
  readonly kind: 'CiliumEndpointSlice';
  readonly name: string;
  /** The slice itself is in none. */
  readonly endpointsNamespace: string;
  readonly endpoints: readonly (CiliumEndpointFacts & { readonly podName: string })[];
}

const networking = z
  .object({
    addressing: listOf(z.object({ ipv4: z.string().nullish(), ipv6: z.string().nullish() })),
    node: z.string().nullish(),
  })
  .nullish();
const encryption = z.object({ key: z.number().int().nullish() }).nullish();
const namedPorts = listOf(
  z.object({
    name: z.string().default(''),
    port: z.number().int().min(0).max(65535).default(0),
    protocol: z.string().default(''),
  }),
);

const endpointSchema = z.object({
  kind: z.literal('CiliumEndpoint'),
  metadata: metadataField,
  status: z
    .object({
      identity: z.object({ id: z.number().int().nullish() }).nullish(),
      networking,
      encryption,
      'named-ports': namedPorts,
      'service-account': z.string().nullish(),
    })
    .nullish(),
});

const sliceSchema = z.object({
  kind: z.literal('CiliumEndpointSlice'),
  metadata: metadataField,
  namespace: z.string().default(''),
  endpoints: listOf(
    z.object({
      name: z.string().default(''),
      id: z.number().int().nullish(),
      networking,
      encryption,
      'named-ports': namedPorts,
      'service-account': z.string().nullish(),
    }),
  ),
});

/** Parses a CiliumEndpoint. Throws ObjectError naming the field. */
export function parseCiliumEndpointObject(input: unknown): CiliumEndpointObject {
  const { metadata: meta, status } = checkObject(endpointSchema, input);
  return {
    kind: 'CiliumEndpoint',
    namespace: meta.namespace ?? 'default',
    name: meta.name,
    ...readFacts('status', {
      id: status?.identity?.id,
      networking: status?.networking,
      encryption: status?.encryption,
      'named-ports': status?.['named-ports'] ?? [],
      'service-account': status?.['service-account'],
    }),
  };
}

/** Parses a CiliumEndpointSlice. Throws ObjectError naming the field. */
export function parseCiliumEndpointSliceObject(input: unknown): CiliumEndpointSliceObject {
  const object = checkObject(sliceSchema, input);
  return {
    kind: 'CiliumEndpointSlice',
    name: object.metadata.name,
    endpointsNamespace: object.namespace,
    endpoints: object.endpoints.map((endpoint, index) => ({
      podName: endpoint.name,
      ...readFacts(`endpoints[${index}]`, endpoint),
    })),
  };
}

interface WrittenFacts {
  readonly id?: number | null | undefined;
  readonly networking?: z.infer<typeof networking>;
  readonly encryption?: z.infer<typeof encryption>;
  readonly 'named-ports': z.infer<typeof namedPorts>;
  readonly 'service-account'?: string | null | undefined;
}

function readFacts(path: string, written: WrittenFacts): CiliumEndpointFacts {
  const ports = written['named-ports'];
  const texts = (written.networking?.addressing ?? []).flatMap(({ ipv4, ipv6 }) => [ipv4, ipv6]);
  const addresses = texts.flatMap((text) =>
    typeof text === 'string' && text !== ''
      ? [atField(`${path}.networking.addressing`, () => parseIpAddress(text))]
      : [],
  );
  return {
    addresses,
    hostIp: addressOrNull(written.networking?.node ?? undefined),
    identity: atField(`${path}.id`, () => parseNumericIdentity(written.id ?? 0)),
    encryptionKey: (written.encryption?.key ?? 0) & 0xff,
    serviceAccount: written['service-account'] || undefined,
    namedPorts: ports.length === 0 ? undefined : ports,
  };
}
