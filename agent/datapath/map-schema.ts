/**
 * What the bytes of each map mean: a number that rises when a map's key or value changes its meaning. The numbers of the
 * maps in a folder of pins are kept in a map of their own beside them, so that a later build knows which ones it can go on
 * using, whatever else has changed.
 */
import { closeSync, existsSync } from 'node:fs';
import { join } from 'node:path';
import { LAYOUT_VERSION } from '../../mesh/wire/maps.ts';
import { createHashMap, openPinned, pin, updateElement } from './bpf.ts';
import { readMap } from './map.ts';

/** Schemas of this build's maps; what is not here has the first one. */
const CHANGED_SCHEMAS: Readonly<Record<string, number>> = {
  mesh_services: 2,
  mesh_backends: 2,
  mesh_choices: 2,
  mesh_ct: 2,
  mesh_metrics: 2,
  // Programs accept no entry of another layout: each has a map of its own.
  mesh_config: LAYOUT_VERSION,
};

/** What a map has when nothing is known of it: pins of the first layout had no numbers beside them. */
const FIRST_SCHEMA = 1;

const PIN_NAME = 'mesh_schemas';
/** Name of a map, zero-terminated, to its schema. */
const SCHEMAS = { name: PIN_NAME, keySize: 32, valueSize: 4, maxEntries: 64 } as const;

/** Schema of a map in this build. */
export function schemaOf(name: string): number {
  return CHANGED_SCHEMAS[name] ?? FIRST_SCHEMA;
}

/** Writes the schemas of a folder that has none yet. */
export function writeSchemas(folder: string, names: readonly string[]): void {
  const { keySize, valueSize, maxEntries } = SCHEMAS;
  const fd = createHashMap(PIN_NAME, { key: keySize, value: valueSize, maxEntries });
  try {
    for (const name of names) {
      const key = Buffer.alloc(keySize);
      key.write(name);
      const value = Buffer.alloc(valueSize);
      value.writeUInt32LE(schemaOf(name));
      updateElement(fd, key, value);
    }
    pin(fd, join(folder, PIN_NAME));
  } finally {
    closeSync(fd);
  }
}

/** Schemas of the maps in a folder, by name; those of the first layout where none were written. */
export function readSchemas(folder: string): (name: string) => number {
  const path = join(folder, PIN_NAME);
  const fd = existsSync(path) ? openPinned(path) : undefined;
  if (fd === undefined) return () => FIRST_SCHEMA;
  const schemas = new Map<string, number>();
  try {
    readMap(fd, SCHEMAS, (keys, values, count) => {
      for (let index = 0; index < count; index += 1) {
        const bytes = Buffer.from(keys.buffer, keys.byteOffset + index * SCHEMAS.keySize, 32);
        const name = bytes.toString('utf8', 0, bytes.indexOf(0));
        schemas.set(name, values.getUint32(index * SCHEMAS.valueSize, true));
      }
    });
  } finally {
    closeSync(fd);
  }
  // A map that the writer did not know: nobody can say what its bytes are.
  return (name) => schemas.get(name) ?? 0;
}

/** Whether a pin is a map of the datapath, and not what is kept beside them. */
export function isMapPin(name: string): boolean {
  return name !== PIN_NAME;
}
