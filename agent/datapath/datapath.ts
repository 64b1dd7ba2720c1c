/** The kernel side of a node: device, maps, programs and tables put together. */
import { existsSync, mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { clusterLocalIdentityBits } from '../../mesh/wire/ids.ts';
import { CONFIG, LAYOUT_VERSION } from '../../mesh/wire/maps.ts';
import { updateElement } from './bpf.ts';
import { readCounters } from './counters.ts';
import type { Datapath, DatapathOptions } from './desired.ts';
import { ensureTunnelDevice, removeTunnelDevice } from './devices.ts';
import {
  attachEndpoint,
  attachOverlay,
  attachSockets,
  detachAll,
  detachEndpoint,
  findDetached,
} from './hooks.ts';
import { type LoadedObjects, loadObjects, MAP_NAMES, type MapSizes } from './object.ts';
import { openEndpointsTable } from './ops/endpoints.ts';
import { openIpcacheTable } from './ops/ipcache.ts';
import { openPolicyTable } from './ops/policy.ts';
import { openServicesTable } from './ops/services.ts';
import { checkPreflight, OBJECT_FILES } from './preflight.ts';

/** DatapathOptions and what has a default. */
export interface OpenDatapathOptions extends DatapathOptions {
  /** Most entries of maps that are made now; maps that exist keep their size. Defaults are in `docs/datapath.md`. */
  readonly mapSizes?: MapSizes | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** Datapath, and what is known once it is open. */
export interface OpenedDatapath extends Datapath {
  /** What fits through the tunnel: the MTU that endpoints should have at most. */
  readonly tunnelMtu: number;
}

/**
 * Opens the node's datapath: checks the machine, makes or takes over the tunnel device, the maps and the links that an
 * earlier process left, and swaps in this build's programs. Throws DatapathError; what worked before goes on working.
 */
export async function openDatapath(options: OpenDatapathOptions): Promise<OpenedDatapath> {
  checkPreflight(options);
  const root = join(options.bpfRoot, 'isthmus');
  const links = join(root, 'links');
  mkdirSync(links, { recursive: true, mode: 0o700 });
  const objects = loadObjects(
    OBJECT_FILES.map((name) => join(options.objectDir, name)),
    { pinFolder: join(root, 'maps'), mapSizes: options.mapSizes },
  );
  try {
    const device = await ensureTunnelDevice(options);
    writeConfig(objects, device.ifindex, options);
    attachOverlay(objects, device.name, links);
    attachSockets(objects, options.cgroupRoot, links);
    return buildDatapath(objects, { ...options, root, links, tunnelMtu: device.mtu });
  } catch (error) {
    objects[Symbol.dispose]();
    throw error;
  }
}

function buildDatapath(
  objects: LoadedObjects,
  options: OpenDatapathOptions & { root: string; links: string; tunnelMtu: number },
): OpenedDatapath {
  const { maps } = objects;
  return {
    tunnelMtu: options.tunnelMtu,
    ipcache: openIpcacheTable(maps),
    endpoints: openEndpointsTable(maps),
    policy: openPolicyTable(maps),
    services: openServicesTable(maps),
    attachEndpoint: (hostInterface) => attachEndpoint(objects, hostInterface, options.links),
    detachEndpoint: (hostInterface) => detachEndpoint(hostInterface, options.links),
    counters: () => readCounters(maps.get('mesh_metrics')),
    capacities: () =>
      MAP_NAMES.map((name) => ({ map: name, maxEntries: maps.get(name).maxEntries })),
    detached: (hostInterfaces) =>
      findDetached(options.links, {
        device: options.tunnelDevice,
        cgroup: options.cgroupRoot,
        hostInterfaces,
      }),
    async uninstall() {
      objects[Symbol.dispose]();
      await uninstallDatapath(options);
    },
    async [Symbol.asyncDispose]() {
      objects[Symbol.dispose]();
    },
  };
}

/** Removes what a node's datapath left, whether or not a process still has it open. */
export async function uninstallDatapath(
  options: Pick<OpenDatapathOptions, 'bpfRoot' | 'tunnelDevice' | 'signal'>,
): Promise<void> {
  const root = join(options.bpfRoot, 'isthmus');
  const links = join(root, 'links');
  if (existsSync(links)) detachAll(links);
  rmSync(root, { recursive: true, force: true });
  await removeTunnelDevice(options.tunnelDevice, options.signal);
}

function writeConfig(
  objects: LoadedObjects,
  tunnelIfindex: number,
  options: Pick<DatapathOptions, 'clusterId' | 'maxConnectedClusters'>,
): void {
  const value = Buffer.alloc(CONFIG.size);
  value.writeUInt32LE(LAYOUT_VERSION, CONFIG.fields.layoutVersion);
  value.writeUInt32LE(tunnelIfindex, CONFIG.fields.tunnelIfindex);
  value.writeUInt16LE(options.clusterId, CONFIG.fields.clusterId);
  value.writeUInt8(
    clusterLocalIdentityBits(options.maxConnectedClusters),
    CONFIG.fields.clusterShift,
  );
  updateElement(objects.maps.get('mesh_config').fd, Buffer.alloc(4), value);
}
