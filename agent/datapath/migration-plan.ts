/** How each map of this build gets what earlier processes left in theirs. */
import { type DeclaredMap, MAP_TYPES, type MapInfo } from './bpf.ts';
import { DatapathError } from './datapath-error.ts';
import { schemaOf } from './map-schema.ts';
import { CONVERTERS_FROM_1, type Converter } from './migration-from-1.ts';
import {
  countEntries,
  type Entries,
  type MapSource,
  readEntries,
  type SourceMap,
} from './migration-source.ts';

/** A map as this build wants it. */
export interface WantedMap extends Omit<MapInfo, 'id'> {
  readonly name: string;
}

/** One map's way from what is pinned to what is wanted. */
export type MapPlan =
  /** The pinned map itself goes on being used. */
  | { readonly kind: 'share'; readonly wanted: WantedMap; readonly from: SourceMap }
  /** A new map, filled with the entries of old ones: the first source wins where two have the same key. */
  | { readonly kind: 'fill'; readonly wanted: WantedMap; readonly fills: readonly Fill[] }
  /** A new map that begins empty; nothing that could be carried over was there. */
  | { readonly kind: 'begin'; readonly wanted: WantedMap }
  /** A new map; what the old one holds cannot be read by this build. */
  | { readonly kind: 'replace'; readonly wanted: WantedMap; readonly found: SourceMap };

/** Entries for a new map, read anew at each call. */
export type Fill = () => Iterable<Entries>;

/** Maps whose rows the agent writes: what cannot be carried over is written anew before programs see it. */
const WRITTEN_BY_AGENT: ReadonlySet<string> = new Set([
  'mesh_ipcache4',
  'mesh_ipcache6',
  'mesh_endpoints',
  'mesh_policy',
  'mesh_services',
  'mesh_backends',
  'mesh_affinity_members',
  'mesh_maglev',
]);

/** Whether programs write a map, so that it changes while the agent does nothing. */
export function isWrittenByPrograms(name: string): boolean {
  return !WRITTEN_BY_AGENT.has(name);
}

const WITH_ENTRIES: ReadonlySet<number> = new Set([
  MAP_TYPES.hash,
  MAP_TYPES.lruHash,
  MAP_TYPES.prefixTrie,
]);

/** A declared map with the size that it is wanted to have. */
export function wantedMap(map: DeclaredMap, maxEntries: number | undefined): WantedMap {
  const { name, type, keySize, valueSize, flags } = map;
  return { name, type, keySize, valueSize, flags, maxEntries: maxEntries ?? map.maxEntries };
}

/** Whether a folder holds every wanted map as it is wanted: nothing is to be done then. */
export function isAsWanted(source: MapSource, wanted: readonly WantedMap[]): boolean {
  return wanted.every((map) => {
    const found = source.maps.get(map.name);
    return found !== undefined && isSame(found, map);
  });
}

/** Plans one map. `sources` are in the order of preference. Throws `bad-option` for a size that is too small. */
export function planMap(wanted: WantedMap, sources: readonly MapSource[]): MapPlan {
  const found = distinct(sources.map(({ maps }) => maps.get(wanted.name)));
  const [only, ...others] = found;
  if (only !== undefined && others.length === 0 && isSame(only, wanted)) {
    return { kind: 'share', wanted, from: only };
  }
  for (const map of found) checkSize(map, wanted);
  const fills = fillsOf(wanted, sources);
  if (fills.length > 0) return { kind: 'fill', wanted, fills };
  const unreadable = found.find((map) => isMeaningful(map));
  return unreadable === undefined
    ? { kind: 'begin', wanted }
    : { kind: 'replace', wanted, found: unreadable };
}

/** What can be read from sources for a map, but for what they hold in that map itself. */
export function fillsOf(
  wanted: WantedMap,
  sources: readonly MapSource[],
  itself?: SourceMap,
): Fill[] {
  return sources
    .filter(({ maps }) => itself === undefined || maps.get(wanted.name)?.id !== itself.id)
    .map((source) => fillOf(wanted, source))
    .filter((fill) => fill !== undefined);
}

/** Whether a plan leaves rows out that the agent has to write before programs may use the map. */
export function needsRefill(plan: MapPlan): boolean {
  return plan.kind === 'replace' && !isWrittenByPrograms(plan.wanted.name);
}

function fillOf(wanted: WantedMap, source: MapSource): Fill | undefined {
  const map = source.maps.get(wanted.name);
  if (map !== undefined && isReadable(map, wanted)) {
    // Counters and other arrays are whole from the beginning: there is nothing to carry over but their size.
    return WITH_ENTRIES.has(map.type) ? () => readEntries(map) : undefined;
  }
  const converter: Converter | undefined = CONVERTERS_FROM_1[wanted.name];
  if (converter === undefined || !converter.needs.every((name) => hasFirstSchema(source, name))) {
    return undefined;
  }
  return () => converter.convert(source);
}

function hasFirstSchema(source: MapSource, name: string): boolean {
  return source.maps.get(name)?.schema === 1;
}

/** The same bytes with the same meaning, whatever the size. */
function isReadable(found: SourceMap, wanted: WantedMap): boolean {
  return (
    found.schema === schemaOf(wanted.name) &&
    found.type === wanted.type &&
    found.keySize === wanted.keySize &&
    found.valueSize === wanted.valueSize
  );
}

function isSame(found: SourceMap, wanted: WantedMap): boolean {
  return (
    isReadable(found, wanted) &&
    found.flags === wanted.flags &&
    found.maxEntries === wanted.maxEntries
  );
}

/** Arrays hold counters and what is written at each start: losing them loses no connection. */
function isMeaningful(map: SourceMap): boolean {
  return WITH_ENTRIES.has(map.type);
}

function checkSize(found: SourceMap, wanted: WantedMap): void {
  const canForget = found.type === MAP_TYPES.lruHash || !WITH_ENTRIES.has(found.type);
  if (canForget || found.maxEntries <= wanted.maxEntries) return;
  const held = countEntries(found);
  if (held <= wanted.maxEntries) return;
  throw new DatapathError(
    'bad-option',
    `cannot make map ${wanted.name} smaller, to ${wanted.maxEntries} entries: it holds ${held}; give it at least as many`,
  );
}

function distinct(maps: readonly (SourceMap | undefined)[]): SourceMap[] {
  const byId = new Map<number, SourceMap>();
  for (const map of maps) if (map !== undefined) byId.set(map.id, map);
  return [...byId.values()];
}
