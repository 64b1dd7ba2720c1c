/** A Namespace, cut down to what is used. */
import { z } from 'zod';
import { checkObject } from './object-error.ts';
import { metadataField } from './object-fields.ts';

/** A namespace: its labels are part of the identities of its pods, its annotations say whether the mesh may know them. */
export interface NamespaceObject {
  readonly kind: 'Namespace';
  readonly name: string;
  /** For Events about it; empty where it comes from a file. */
  readonly uid: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
}

const schema = z.object({ kind: z.literal('Namespace'), metadata: metadataField });

/** Parses a Namespace. Throws ObjectError naming the field. */
export function parseNamespaceObject(input: unknown): NamespaceObject {
  const { metadata: meta } = checkObject(schema, input);
  const { name, uid, labels, annotations } = meta;
  return { kind: 'Namespace', name, uid, labels, annotations };
}
