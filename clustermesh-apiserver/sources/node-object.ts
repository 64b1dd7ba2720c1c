/** A Node, cut down to what is used. */
import { z } from 'zod';
import { type IpPrefix, parseIpAddress } from '../../mesh/wire/ip.ts';
import type { NodeAddress } from '../../mesh/wire/node.ts';
import { atField, checkObject } from './object-error.ts';
import { listOf, metadataField, prefixField } from './object-fields.ts';

/** A node of the cluster. */
export interface NodeObject {
  readonly kind: 'Node';
  readonly name: string;
  /** Differs for each Node that had this name; empty when unknown. */
  readonly uid: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
  readonly podCidrs: readonly IpPrefix[];
  readonly addresses: readonly NodeAddress[];
  readonly bootId: string;
}

const schema = z.object({
  kind: z.literal('Node'),
  metadata: metadataField,
  spec: z
    .object({ podCIDR: prefixField.optional(), podCIDRs: listOf(prefixField) })
    .default({ podCIDRs: [] }),
  status: z
    .object({
      addresses: listOf(z.object({ type: z.string(), address: z.string() })),
      nodeInfo: z.object({ bootID: z.string().default('') }).optional(),
    })
    .default({ addresses: [] }),
});

/** Types of addresses that are addresses; the others are names. */
const IP_TYPES: readonly string[] = ['InternalIP', 'ExternalIP', 'CiliumInternalIP'];

/** Parses a Node. Throws ObjectError naming the field. */
export function parseNodeObject(input: unknown): NodeObject {
  const object = checkObject(schema, input);
  const { podCIDR, podCIDRs } = object.spec;
  const addresses: NodeAddress[] = [];
  for (const [index, { type, address }] of object.status.addresses.entries()) {
    if (!IP_TYPES.includes(type)) continue;
    addresses.push({
      type,
      ip: atField(`status.addresses[${index}].address`, () => parseIpAddress(address)),
    });
  }
  return {
    kind: 'Node',
    name: object.metadata.name,
    uid: object.metadata.uid,
    labels: object.metadata.labels,
    annotations: object.metadata.annotations,
    podCidrs: podCIDRs.length > 0 || podCIDR === undefined ? podCIDRs : [podCIDR],
    addresses,
    bootId: object.status.nodeInfo?.bootID ?? '',
  };
}
