/** A CiliumIdentity (`cilium.io/v2`), cut down to what is used. */
import { z } from 'zod';
import { type NumericIdentity, parseNumericIdentity } from '../../mesh/wire/ids.ts';
import { atField, checkObject } from './object-error.ts';
import { metadataField, recordField } from './object-fields.ts';

/** An identity that Cilium has allocated. */
export interface CiliumIdentityObject {
  readonly kind: 'CiliumIdentity';
  /** The number, as text. */
  readonly name: string;
  readonly id: NumericIdentity;
  /** Values by `source:key`. */
  readonly securityLabels: Readonly<Record<string, string>>;
}

const schema = z.object({
  kind: z.literal('CiliumIdentity'),
  metadata: metadataField,
  'security-labels': recordField,
});

/** Parses a CiliumIdentity. Throws ObjectError naming the field. */
export function parseCiliumIdentityObject(input: unknown): CiliumIdentityObject {
  const object = checkObject(schema, input);
  const { name } = object.metadata;
  return {
    kind: 'CiliumIdentity',
    name,
    id: atField('metadata.name', () =>
      parseNumericIdentity(/^[1-9]\d*$/.test(name) ? Number(name) : name),
    ),
    securityLabels: object['security-labels'],
  };
}
