import { failField, type JsonObject } from './json.ts';

/** Checks the schema number of a value of our own: the current one and the one before are read, so that a cluster can be upgraded node by node. */
export function readSchema(key: string, object: JsonObject, current: number): number {
  const { schema } = object;
  const oldest = Math.max(1, current - 1);
  if (
    typeof schema !== 'number' ||
    !Number.isInteger(schema) ||
    schema < oldest ||
    schema > current
  ) {
    const known = oldest === current ? `${current}` : `${oldest} or ${current}`;
    failField(
      { key, field: 'schema' },
      schema,
      `${known}: this version reads no other, upgrade the older side`,
    );
  }
  return schema;
}
