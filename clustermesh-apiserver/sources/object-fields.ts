/** Fields that several kinds of objects have; absent ones get Kubernetes' defaults. */
import { z } from 'zod';
import {
  type IpAddress,
  type IpPrefix,
  parseIpAddress,
  parseIpPrefix,
} from '../../mesh/wire/ip.ts';
import { PROTOCOLS } from '../../mesh/wire/service.ts';

/** What names a namespaced object. */
export interface ObjectName {
  readonly namespace: string;
  readonly name: string;
}

/** Text by text; absent and null are empty. */
export const recordField = z
  .record(z.string(), z.string())
  .nullish()
  .transform((value) => value ?? {});

/** An address. */
export const ipField = z
  .string()
  .transform((text, context): IpAddress => parsed(context, () => parseIpAddress(text)));

/** A network. */
export const prefixField = z
  .string()
  .transform((text, context): IpPrefix => parsed(context, () => parseIpPrefix(text)));

/** A protocol of a port. */
export const protocolField = z.enum(PROTOCOLS).default('TCP');

/** Number of a port. */
export const portField = z.number().int().min(1).max(65535);

const name = z.string().regex(/^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$/, 'expected a lower-case DNS name');

/** An object's metadata. */
export const metadataField = z.object({
  name,
  namespace: name.optional(),
  uid: z.string().default(''),
  labels: recordField,
  annotations: recordField,
  generation: z.number().int().nonnegative().default(0),
});

/** A list; absent and null are empty. */
export const listOf = <T extends z.ZodType>(item: T) =>
  z
    .array(item)
    .nullish()
    .transform((value) => value ?? []);

/** Address that a text says, or null when it says none: where Cilium reads with Go's `net.ParseIP` and takes what comes. */
export function addressOrNull(text: string | undefined): IpAddress | null {
  if (text === undefined || text === '') return null;
  try {
    return parseIpAddress(text);
  } catch {
    return null;
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
