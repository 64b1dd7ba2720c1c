/** Maps that an earlier process left pinned in a folder, with what is known of their bytes. */
import { closeSync, existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { type MapInfo, mapInfo, openPinned } from './bpf.ts';
import { readMapParts } from './map.ts';
import { isMapPin, readSchemas } from './map-schema.ts';

/** A pinned map. The descriptor belongs to the source. */
export interface SourceMap extends MapInfo {
  readonly name: string;
  readonly fd: number;
  readonly schema: number;
}

/** Entries as bytes, one after the other. */
export interface Entries {
  readonly keys: DataView;
  readonly values: DataView;
  readonly count: number;
}

/** A folder of pinned maps, opened until disposed. */
export interface MapSource extends Disposable {
  readonly folder: string;
  readonly maps: ReadonlyMap<string, SourceMap>;
}

/** Opens every map of a folder; one that does not exist has none. */
export function openMapSource(folder: string): MapSource {
  const maps = new Map<string, SourceMap>();
  const source: MapSource = {
    folder,
    maps,
    [Symbol.dispose]() {
      for (const { fd } of maps.values()) closeSync(fd);
      maps.clear();
    },
  };
  if (!existsSync(folder)) return source;
  try {
    const schema = readSchemas(folder);
    for (const name of readdirSync(folder).filter(isMapPin)) {
      const fd = openPinned(join(folder, name));
      if (fd !== undefined) maps.set(name, { ...mapInfo(fd), name, fd, schema: schema(name) });
    }
  } catch (error) {
    source[Symbol.dispose]();
    throw error;
  }
  return source;
}

/** All entries of a hash or trie, a part at a time. */
export function readEntries(map: SourceMap): Iterable<Entries> {
  return readMapParts(map);
}

/** How many entries a hash or trie holds now. */
export function countEntries(map: SourceMap): number {
  let total = 0;
  for (const { count } of readMapParts(map)) total += count;
  return total;
}
