/** A CiliumNode (`cilium.io/v2`), cut down to what is used: what each Cilium agent says of its own node. */
import { z } from 'zod';
import { type IpAddress, type IpPrefix, parseIpPrefix } from '../../mesh/wire/ip.ts';
import type { NodeAddress } from '../../mesh/wire/node.ts';
import { WireError } from '../../mesh/wire/wire-error.ts';
import { checkObject } from './object-error.ts';
import { addressOrNull, listOf, metadataField } from './object-fields.ts';

/** A node of a cluster that runs Cilium. */
export interface CiliumNodeObject {
  readonly kind: 'CiliumNode';
  readonly name: string;
  /** Null for none, which is written apart from an empty map. */
  readonly labels: Readonly<Record<string, string>> | null;
  readonly annotations: Readonly<Record<string, string>> | null;
  readonly addresses: readonly NodeAddress[];
  /** Those of the node itself, then those of its pools. */
  readonly podCidrs: readonly IpPrefix[];
  readonly ipv4HealthIp: IpAddress | null;
  readonly ipv6HealthIp: IpAddress | null;
  readonly ipv4IngressIp: IpAddress | null;
  readonly ipv6IngressIp: IpAddress | null;
  readonly encryptionKey: number;
  readonly bootId: string;
}

const text = z.string().nullish();
const nullableRecord = z
  .record(z.string(), z.string())
  .nullish()
  .transform((value) => value ?? null);
const pair = z.object({ ipv4: text, ipv6: text }).nullish();

const schema = z.object({
  kind: z.literal('CiliumNode'),
  metadata: metadataField.extend({ labels: nullableRecord, annotations: nullableRecord }),
  spec: z
    .object({
      addresses: listOf(z.object({ type: z.string().default(''), ip: z.string().default('') })),
      health: pair,
      ingress: pair,
      bootid: text,
      encryption: z.object({ key: z.number().int().nullish() }).nullish(),
      ipam: z
        .object({
          podCIDRs: listOf(z.string()),
          pools: z.object({ allocated: listOf(z.object({ cidrs: listOf(z.string()) })) }).nullish(),
        })
        .nullish(),
    })
    .nullish(),
});

/** Parses a CiliumNode. What is no address is passed over, as Cilium does. Throws ObjectError naming the field. */
export function parseCiliumNodeObject(input: unknown): CiliumNodeObject {
  const { metadata: meta, spec } = checkObject(schema, input);
  const pools = spec?.ipam?.pools?.allocated.flatMap(({ cidrs }) => cidrs) ?? [];
  return {
    kind: 'CiliumNode',
    name: meta.name,
    labels: meta.labels,
    annotations: meta.annotations,
    addresses: (spec?.addresses ?? []).flatMap(({ type, ip }) => {
      const address = addressOrNull(ip);
      return address === null ? [] : [{ type, ip: address }];
    }),
    podCidrs: [...(spec?.ipam?.podCIDRs ?? []), ...pools].flatMap(readPrefix),
    ipv4HealthIp: addressOrNull(spec?.health?.ipv4 ?? undefined),
    ipv6HealthIp: addressOrNull(spec?.health?.ipv6 ?? undefined),
    ipv4IngressIp: addressOrNull(spec?.ingress?.ipv4 ?? undefined),
    ipv6IngressIp: addressOrNull(spec?.ingress?.ipv6 ?? undefined),
    encryptionKey: (spec?.encryption?.key ?? 0) & 0xff,
    bootId: spec?.bootid ?? '',
  };
}

function readPrefix(text: string): IpPrefix[] {
  try {
    return [parseIpPrefix(text)];
  } catch (error) {
    if (error instanceof WireError) return [];
    throw error;
  }
}
