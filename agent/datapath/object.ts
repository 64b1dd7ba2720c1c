/** Loading of the compiled objects over maps that outlive the process. */
import { closeSync, existsSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { CONFIG, LAYOUT_VERSION } from '../../mesh/wire/maps.ts';
import {
  type BpfObject,
  closeObject,
  type DeclaredMap,
  declaredMaps,
  loadObject,
  lookupElement,
  mapInfo,
  openObject,
  openPinned,
  programFd,
} from './bpf.ts';
import { setConntrackTimeouts } from './conntrack-timeouts.ts';
import { DatapathError } from './datapath-error.ts';
import { CONNTRACK_TIMEOUTS, type ConntrackTimeouts } from './desired.ts';
import {
  DEFAULT_OPEN_PORTS,
  DEFAULT_TUNNEL_PORT,
  type HostSettings,
  setHostSettings,
} from './host-settings.ts';
import { ALL_SWITCHES, type KernelSwitches, setKernelSwitches } from './kernel-switches.ts';

/** Names of the maps, which are also the names of their pins. */
export const MAP_NAMES = [
  'mesh_ipcache4',
  'mesh_ipcache6',
  'mesh_endpoints',
  'mesh_policy',
  'mesh_services',
  'mesh_backends',
  'mesh_affinity',
  'mesh_affinity_members',
  'mesh_maglev',
  'mesh_translations',
  'mesh_choices',
  'mesh_ct',
  'mesh_icmp_limits',
  'mesh_nat',
  'mesh_fragments',
  'mesh_scratch',
  'mesh_metrics',
  'mesh_config',
  'mesh_firewall',
  'mesh_firewall_open',
  'mesh_events',
  'mesh_event_control',
  'mesh_event_buckets',
] as const;

export type MapName = (typeof MAP_NAMES)[number];

/** Most entries of a map, where the default does not fit. */
export type MapSizes = Partial<Record<MapName, number | undefined>>;

/** A map of the loaded objects. The descriptor belongs to OpenMaps. */
export interface OpenMap {
  readonly name: string;
  readonly fd: number;
  readonly maxEntries: number;
}

/** Open descriptors of all maps, until disposed. */
export interface OpenMaps extends Disposable {
  /** Throws `load-failed` for a map that no object declares. */
  get(name: string): OpenMap;
}

/** Loaded programs, until disposed; what is attached through a pinned link goes on. */
export interface LoadedObjects extends Disposable {
  /** Descriptor of a program, which belongs to this. */
  program(name: string): number;
  readonly maps: OpenMaps;
  /** What the kernel has, as the programs were told. */
  readonly kernel: KernelSwitches;
}

/** What loadObjects() needs to know. */
interface LoadOptions {
  readonly pinFolder: string;
  readonly mapSizes?: MapSizes | undefined;
  readonly kernel?: KernelSwitches | undefined;
  readonly conntrackTimeouts?: ConntrackTimeouts | undefined;
  /** Default: DEFAULT_TUNNEL_PORT and DEFAULT_OPEN_PORTS. */
  readonly host?: HostSettings | undefined;
}

const DEFAULT_HOST = { tunnelPort: DEFAULT_TUNNEL_PORT, openPorts: DEFAULT_OPEN_PORTS };

/** How often an object is loaded that the kernel gives up on for the moment; libbpf itself asks five times each. */
const LOAD_TRIES = 4;

/** Loads objects; maps are taken from `pinFolder` or made and pinned there. Throws `load-failed`, `incompatible-map`. */
export function loadObjects(paths: readonly string[], options: LoadOptions): LoadedObjects {
  const { kernel = ALL_SWITCHES } = options;
  mkdirSync(options.pinFolder, { recursive: true, mode: 0o700 });
  checkLayoutVersion(join(options.pinFolder, 'mesh_config'));
  const objects: BpfObject[] = [];
  const maps = new Map<string, OpenMap>();
  const dispose = (): void => {
    for (const { fd } of maps.values()) closeSync(fd);
    maps.clear();
    for (const object of objects.splice(0)) closeObject(object);
  };
  try {
    for (const path of paths) {
      const { object, declared } = loadAgain(() => loadOne(path, { ...options, kernel }));
      objects.push(object);
      for (const { name } of declared) {
        if (!maps.has(name)) maps.set(name, openMap(join(options.pinFolder, name), name));
      }
    }
  } catch (error) {
    dispose();
    throw error;
  }
  return {
    kernel,
    program(name) {
      for (const object of objects) {
        const fd = programFd(object, name);
        if (fd !== undefined) return fd;
      }
      throw new DatapathError('load-failed', `cannot find program ${name} in ${paths.join(', ')}`);
    },
    maps: {
      get(name) {
        const map = maps.get(name);
        if (map !== undefined) return map;
        throw new DatapathError('load-failed', `cannot find map ${name} in ${paths.join(', ')}`);
      },
      [Symbol.dispose]: dispose,
    },
    [Symbol.dispose]: dispose,
  };
}

/** Opens and loads one object, with the maps that it declares. An object that could not be loaded cannot be used again. */
function loadOne(
  path: string,
  options: LoadOptions & { readonly kernel: KernelSwitches },
): { readonly object: BpfObject; readonly declared: readonly DeclaredMap[] } {
  const object = openObject(path);
  try {
    setKernelSwitches(object, options.kernel);
    setConntrackTimeouts(object, options.conntrackTimeouts ?? CONNTRACK_TIMEOUTS);
    setHostSettings(object, options.host ?? DEFAULT_HOST);
    const declared = declaredMaps(object).filter(({ name }) => !name.includes('.'));
    for (const map of declared) prepareMap(map, options);
    loadObject(object);
    return { object, declared };
  } catch (error) {
    closeObject(object);
    throw error;
  }
}

/** Calls until it works, or fails for good, or has failed LOAD_TRIES times. */
function loadAgain<Loaded>(load: () => Loaded): Loaded {
  for (let tries = 1; ; tries += 1) {
    try {
      return load();
    } catch (error) {
      const isTransient = error instanceof DatapathError && error.errno === 'EAGAIN';
      if (!isTransient || tries === LOAD_TRIES) throw error;
    }
  }
}

function openMap(path: string, name: string): OpenMap {
  const fd = openPinned(path);
  if (fd === undefined) {
    throw new DatapathError('load-failed', `cannot find map ${name} at ${path} after loading it`);
  }
  return { name, fd, maxEntries: mapInfo(fd).maxEntries };
}

function prepareMap(
  map: DeclaredMap,
  options: { pinFolder: string; mapSizes?: MapSizes | undefined },
): void {
  const path = join(options.pinFolder, map.name);
  const wanted = new Map(Object.entries(options.mapSizes ?? {})).get(map.name) ?? map.maxEntries;
  const size = existingSize(path, map) ?? wanted;
  if (size !== map.maxEntries) map.setMaxEntries(size);
  map.setPinPath(path);
}

/** Size of the pinned map, undefined when there is none. Maps of another size or layout are `migration.ts`'s business. */
function existingSize(path: string, wanted: DeclaredMap): number | undefined {
  if (!existsSync(path)) return undefined;
  const fd = openPinned(path);
  if (fd === undefined) return undefined;
  try {
    const found = mapInfo(fd);
    const differences = [
      difference('type', found.type, wanted.type),
      difference('key size', found.keySize, wanted.keySize),
      difference('value size', found.valueSize, wanted.valueSize),
      difference('flags', found.flags, wanted.flags),
    ].filter((text) => text !== undefined);
    if (differences.length === 0) return found.maxEntries;
    throw incompatible(path, differences.join(', '));
  } finally {
    closeSync(fd);
  }
}

function difference(what: string, found: number, wanted: number): string | undefined {
  return found === wanted ? undefined : `${what} ${found}, expected ${wanted}`;
}

function checkLayoutVersion(path: string): void {
  if (!existsSync(path)) return;
  const fd = openPinned(path);
  if (fd === undefined) return;
  try {
    const value = Buffer.alloc(Math.max(mapInfo(fd).valueSize, CONFIG.size));
    lookupElement(fd, Buffer.alloc(4), value);
    const version = value.readUInt32LE(CONFIG.fields.layoutVersion);
    // 0: pinned by a process that died before it wrote the configuration.
    if (version !== 0 && version !== LAYOUT_VERSION) {
      throw incompatible(path, `layout version ${version}, expected ${LAYOUT_VERSION}`);
    }
  } finally {
    closeSync(fd);
  }
}

function incompatible(path: string, difference: string): DatapathError {
  return new DatapathError(
    'incompatible-map',
    `cannot use pinned map ${path}: ${difference}; it belongs to another version: remove the folder above it (rm -r), which ends established connections, and start again`,
  );
}
