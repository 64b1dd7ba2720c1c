/**
 * Maps over upgrades. Where pinned maps are as this build wants them, they are used as they are. Otherwise a second folder
 * of pins is built beside the first: maps that have not changed are in both, changed ones are made anew and filled. Then
 * programs over the second folder replace the old ones hook by hook, and only when none is left is the second folder put
 * in the first one's place:
 *
 *     maps-building   being filled; thrown away by the next start
 *     maps-next       whole; programs over it may be attached
 *     maps            what all attached programs use, unless there is a maps-next
 *     maps-previous   a maps-next that yet another build took over from
 *     maps-old        on its way out
 *
 * Each step is one rename or one BPF_LINK_UPDATE, so that whoever dies leaves programs with whole maps, and the next start
 * goes on from there.
 */
import { closeSync, existsSync, mkdirSync, readdirSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { updateBatch } from './batch.ts';
import {
  closeObject,
  declaredMaps,
  MAP_TYPES,
  mapsOfProgram,
  openObject,
  openPinned,
  pin,
  pinnedProgramId,
  possibleCpus,
} from './bpf.ts';
import { DatapathError } from './datapath-error.ts';
import type { ConntrackTimeouts } from './desired.ts';
import type { HostSettings } from './host-settings.ts';
import type { KernelSwitches } from './kernel-switches.ts';
import { writeSchemas } from './map-schema.ts';
import {
  fillsOf,
  isAsWanted,
  isWrittenByPrograms,
  type MapPlan,
  needsRefill,
  planMap,
  type WantedMap,
  wantedMap,
} from './migration-plan.ts';
import { type Entries, type MapSource, openMapSource } from './migration-source.ts';
import { type LoadedObjects, loadObjects, type MapSizes } from './object.ts';

/** Where a migration stands; each is reached once, in this order. */
export type MigrationStep =
  | 'made'
  | 'filled'
  | 'ready'
  | 'replaced'
  | 'merged'
  | 'retired'
  | 'placed';

/** What openMigration needs to know. */
export interface MigrationOptions {
  /** Folder with the folders of pins, inside a bpffs. */
  readonly root: string;
  /** Folder of the pinned links. */
  readonly links: string;
  readonly mapSizes?: MapSizes | undefined;
  readonly kernel?: KernelSwitches | undefined;
  readonly conntrackTimeouts?: ConntrackTimeouts | undefined;
  readonly host?: HostSettings | undefined;
  /** Called when a step is done. */
  readonly onStep?: ((step: MigrationStep) => void) | undefined;
}

/** This build's programs over maps that hold what earlier ones held, until disposed. */
export interface Migration extends Disposable {
  readonly objects: LoadedObjects;
  /** `adopted`: the maps are the pinned ones. `migrated`: attached programs use others, until `finish`. */
  readonly kind: 'adopted' | 'migrated';
  /** Maps whose rows must be written before programs are replaced; none: they may be replaced at once. */
  readonly refill: readonly string[];
  /** Maps that programs fill, and that begin empty because this build cannot read the old ones. */
  readonly lost: readonly string[];
  /** When every hook has its new program: carries over what the old ones wrote last, and puts the maps in place. */
  finish(): void;
}

const BUILDING = 'maps-building';
const NEXT = 'maps-next';
const PREVIOUS = 'maps-previous';
const CURRENT = 'maps';
const OLD = 'maps-old';

/** Loads objects over maps of the layout they want. Throws DatapathError; what is attached goes on working. */
export function openMigration(paths: readonly string[], options: MigrationOptions): Migration {
  const { root, kernel, conntrackTimeouts, host } = options;
  mkdirSync(root, { recursive: true, mode: 0o700 });
  recover(root);
  const wanted = wantedMaps(paths, options.mapSizes);
  const load = (folder: string): LoadedObjects =>
    loadObjects(paths, {
      pinFolder: join(root, folder),
      mapSizes: Object.fromEntries(wanted.map(({ name, maxEntries }) => [name, maxEntries])),
      kernel,
      conntrackTimeouts,
      host,
    });
  const opened = [NEXT, PREVIOUS, CURRENT].map((name) => openMapSource(join(root, name)));
  const dispose = (): void => {
    for (const source of opened) source[Symbol.dispose]();
  };
  try {
    const [next, , current] = opened;
    const used = usedSources(opened, options.links);
    const canGoOn = next !== undefined && used.includes(next) && isAsWanted(next, wanted);
    if (!canGoOn && used.every((source) => source === current) && isCurrent(current, wanted)) {
      for (const name of [NEXT, PREVIOUS]) removeFolder(join(root, name));
      dispose();
      return settled(load(CURRENT));
    }
    const others = canGoOn ? used.filter((source) => source !== next) : used;
    const plans = wanted.map((map) => planMap(map, others));
    const objects = canGoOn ? load(NEXT) : build(plans, { ...options, load });
    if (used.length === 0) {
      renameSync(join(root, NEXT), join(root, CURRENT));
      dispose();
      return settled(objects);
    }
    const names = (some: readonly MapPlan[]): string[] => some.map((plan) => plan.wanted.name);
    return {
      objects,
      kind: 'migrated',
      refill: names(plans.filter(needsRefill)),
      lost: names(plans.filter((plan) => plan.kind === 'replace' && !needsRefill(plan))),
      finish() {
        options.onStep?.('replaced');
        merge(objects, wanted, { sources: others, next: canGoOn ? next : undefined });
        options.onStep?.('merged');
        place(options);
        dispose();
      },
      [Symbol.dispose]() {
        objects[Symbol.dispose]();
        dispose();
      },
    };
  } catch (error) {
    dispose();
    throw error;
  }
}

function isCurrent(current: MapSource | undefined, wanted: readonly WantedMap[]): boolean {
  return current !== undefined && isAsWanted(current, wanted);
}

function settled(objects: LoadedObjects): Migration {
  return {
    objects,
    kind: 'adopted',
    refill: [],
    lost: [],
    finish() {},
    [Symbol.dispose]: () => objects[Symbol.dispose](),
  };
}

/** Brings the folders of a process that died to a state that openMigration knows. */
function recover(root: string): void {
  removeFolder(join(root, BUILDING));
  const current = join(root, CURRENT);
  // Between the two renames of `place`: every hook had its new program.
  if (!existsSync(current) && existsSync(join(root, NEXT))) renameSync(join(root, NEXT), current);
  removeFolder(join(root, OLD));
}

/** Folders whose maps count: the current one, and others while an attached program uses a map of theirs alone. */
function usedSources(sources: readonly MapSource[], links: string): MapSource[] {
  const attached = mapsOfAttached(links);
  const current = sources.at(-1);
  const currentIds = new Set([...(current?.maps.values() ?? [])].map(({ id }) => id));
  return sources.filter((source) =>
    source === current
      ? source.maps.size > 0
      : [...source.maps.values()].some(({ id }) => attached.has(id) && !currentIds.has(id)),
  );
}

/** Ids of the maps that attached programs use. */
function mapsOfAttached(links: string): Set<number> {
  const ids = new Set<number>();
  if (!existsSync(links)) return ids;
  for (const name of readdirSync(links)) {
    const fd = openPinned(join(links, name));
    if (fd === undefined) continue;
    try {
      for (const id of mapsOfProgram(pinnedProgramId(fd))) ids.add(id);
    } finally {
      closeSync(fd);
    }
  }
  return ids;
}

/** Maps as all objects together declare them, with the sizes that are wanted. */
function wantedMaps(paths: readonly string[], sizes: MapSizes | undefined): WantedMap[] {
  const size = new Map(Object.entries(sizes ?? {}));
  const wanted = new Map<string, WantedMap>();
  for (const path of paths) {
    const object = openObject(path);
    try {
      for (const map of declaredMaps(object)) {
        if (!map.name.includes('.')) wanted.set(map.name, wantedMap(map, size.get(map.name)));
      }
    } finally {
      closeObject(object);
    }
  }
  return [...wanted.values()];
}

/** Makes and fills the folder of the next maps, and loads the programs over it. Nothing of a failed try stays. */
function build(
  plans: readonly MapPlan[],
  options: MigrationOptions & { readonly load: (folder: string) => LoadedObjects },
): LoadedObjects {
  const { root, onStep } = options;
  const folder = join(root, BUILDING);
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  let objects: LoadedObjects | undefined;
  try {
    for (const plan of plans) {
      if (plan.kind === 'share') pin(plan.from.fd, join(folder, plan.wanted.name));
    }
    const loaded = options.load(BUILDING);
    objects = loaded;
    writeSchemas(
      folder,
      plans.map(({ wanted }) => wanted.name),
    );
    onStep?.('made');
    for (const plan of plans) {
      if (plan.kind !== 'fill') continue;
      plan.fills.forEach((fill, index) => {
        fillMap(loaded, plan.wanted, { parts: fill(), isEmpty: index === 0 });
      });
    }
    onStep?.('filled');
    removeFolder(join(root, PREVIOUS));
    if (existsSync(join(root, NEXT))) renameSync(join(root, NEXT), join(root, PREVIOUS));
    renameSync(folder, join(root, NEXT));
    onStep?.('ready');
    return loaded;
  } catch (error) {
    objects?.[Symbol.dispose]();
    removeFolder(folder);
    throw error;
  }
}

/** What the old programs wrote between the filling and their end; what the new ones know already is newer. */
function merge(
  objects: LoadedObjects,
  wanted: readonly WantedMap[],
  {
    sources,
    next,
  }: { readonly sources: readonly MapSource[]; readonly next: MapSource | undefined },
): void {
  for (const map of wanted) {
    if (!isWrittenByPrograms(map.name) || isArray(map)) continue;
    const plan = planMap(map, sources);
    if (plan.kind === 'share' && next === undefined) continue;
    for (const fill of fillsOf(map, sources, next?.maps.get(map.name))) {
      fillMap(objects, map, { parts: fill(), isEmpty: false });
    }
  }
}

/** Puts the next maps in the place of the current ones. */
function place({ root, onStep }: MigrationOptions): void {
  removeFolder(join(root, PREVIOUS));
  if (existsSync(join(root, CURRENT))) renameSync(join(root, CURRENT), join(root, OLD));
  onStep?.('retired');
  renameSync(join(root, NEXT), join(root, CURRENT));
  onStep?.('placed');
  removeFolder(join(root, OLD));
}

function isArray({ type }: WantedMap): boolean {
  return type === MAP_TYPES.array || type === MAP_TYPES.perCpuArray;
}

/** Writes entries that are not there yet; all of them into an empty map. Throws `map-full`, `kernel`. */
function fillMap(
  objects: LoadedObjects,
  map: WantedMap,
  { parts, isEmpty }: { readonly parts: Iterable<Entries>; readonly isEmpty: boolean },
): void {
  const { fd } = objects.maps.get(map.name);
  const { keySize } = map;
  const valueSize =
    map.type === MAP_TYPES.perCpuArray ? map.valueSize * possibleCpus() : map.valueSize;
  for (const { keys, values, count } of parts) {
    const keyBytes = new Uint8Array(keys.buffer, keys.byteOffset);
    const valueBytes = new Uint8Array(values.buffer, values.byteOffset);
    for (let start = 0; start < count; ) {
      const result = updateBatch(
        { fd, keySize, valueSize },
        {
          keys: keyBytes.subarray(start * keySize),
          values: valueBytes.subarray(start * valueSize),
        },
        { count: count - start, isNew: !isEmpty },
      );
      start += result.done;
      if (result.errno === undefined) break;
      if (result.errno !== 'EEXIST' && !isForgetful(map, result.errno)) {
        throw fillError(map, result.errno);
      }
      start += 1;
    }
  }
}

/** A table that forgets by itself may have no room for a moment: one flow less, which is what it is for. */
function isForgetful({ type }: WantedMap, errno: string): boolean {
  return type === MAP_TYPES.lruHash && errno === 'ENOMEM';
}

function fillError({ name, maxEntries }: WantedMap, errno: string): DatapathError {
  const isFull = errno === 'E2BIG' || errno === 'ENOSPC';
  return new DatapathError(
    isFull ? 'map-full' : 'kernel',
    isFull
      ? `cannot carry over the entries of map ${name}: its ${maxEntries} entries are not enough, give it more`
      : `cannot carry over the entries of map ${name}: ${errno}`,
    { errno, retryable: !isFull },
  );
}

function removeFolder(path: string): void {
  rmSync(path, { recursive: true, force: true });
}
