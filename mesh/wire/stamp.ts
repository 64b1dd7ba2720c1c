/** The publisher's own time beside its changes: a reader that sees the stamp knows how late it sees what came before. */
import { encodeGoJson, parseJsonObject, readUint } from './json.ts';
import { readSchema } from './schema.ts';

/** A stamp, as it travels under `isthmus/mesh/stamp`. */
export interface MeshStamp {
  /** Milliseconds since 1970 by the publisher's clock, when it wrote the stamp. */
  readonly at: number;
}

const SCHEMA = 1;

/** Encodes a stamp. */
export function encodeMeshStamp({ at }: MeshStamp): string {
  return encodeGoJson({ schema: SCHEMA, at });
}

/** Decodes a stamp. Throws WireError naming key and field, and for a schema that is not known. */
export function decodeMeshStamp(value: Buffer | string, key: string): MeshStamp {
  const object = parseJsonObject(value, key);
  readSchema(key, object, SCHEMA);
  return { at: readUint({ key, field: 'at' }, object.at, Number.MAX_SAFE_INTEGER) };
}
