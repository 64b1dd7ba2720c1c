/** The kernel side of a node: device, maps, programs and tables put together. */
import { existsSync, mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { readTraceLevel, writeConfig, writeTraceLevel } from './config.ts';
import { readCounters } from './counters.ts';
import type { Datapath, DatapathOptions } from './desired.ts';
import { ensureTunnelDevice, findFirewallDevices, removeTunnelDevice } from './devices.ts';
import { createDatapathEvents } from './events.ts';
import { probeSwitches } from './features.ts';
import { type DatapathFirewall, openFirewall } from './firewall.ts';
import {
  attachEndpoint,
  attachMissing,
  attachNodeDevices,
  attachOverlay,
  attachSockets,
  detachAll,
  detachEndpoint,
  findDetached,
  replaceEndpoints,
} from './hooks.ts';
import { findHostDevices, type HostDevices, withHostDevices } from './host-devices.ts';
import { createHostRoutes } from './host-routes.ts';
import { DEFAULT_OPEN_PORTS } from './host-settings.ts';
import type { KernelSwitches } from './kernel-switches.ts';
import { lockFolder } from './lock.ts';
import { type Migration, type MigrationStep, openMigration } from './migration.ts';
import { MAP_NAMES, type MapSizes } from './object.ts';
import { isHostJudged, isHostRow, openEndpointsTable } from './ops/endpoints.ts';
import { openIpcacheTable } from './ops/ipcache.ts';
import { openPolicyTable } from './ops/policy.ts';
import { openServicesTable, type ServicesTable } from './ops/services.ts';
import { checkPreflight, OBJECT_FILES } from './preflight.ts';
import { inSlices } from './slices.ts';
import { createSocketOrphans } from './socket-orphans.ts';
import { createUpkeep } from './upkeep.ts';

/** DatapathOptions and what has a default. */
export interface OpenDatapathOptions extends DatapathOptions {
  /** Most entries of maps. Defaults are in `docs/datapath.md`. Maps of another size are copied to new ones. */
  readonly mapSizes?: MapSizes | undefined;
  /** What the kernel is said to have, in place of what it has; for tests. */
  readonly kernel?: KernelSwitches | undefined;
  /** Called when a step of an upgrade is done; for tests. */
  readonly onStep?: ((step: MigrationStep | HookStep) => void) | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** Hooks of an upgrade that have their new programs. */
export type HookStep = 'overlay' | 'sockets' | 'endpoints';

/** Datapath, and what is known once it is open. */
export interface OpenedDatapath extends Datapath {
  /** What fits through the tunnel: the MTU that endpoints should have at most. */
  readonly tunnelMtu: number;
  readonly firewall: DatapathFirewall;
  /** Maps that began empty because this build cannot read what an earlier one left in them. */
  readonly lost: readonly string[];
}

/** What the parts of an open datapath share. */
interface OpenParts {
  readonly options: OpenDatapathOptions;
  readonly links: string;
  readonly migration: Migration;
  readonly lock: Disposable;
  readonly endpoints: ReturnType<typeof openEndpointsTable>;
  tunnelMtu: number;
  /** Where others reach the host without the tunnel. */
  hostDevices: HostDevices;
  /** Those that the firewall of the host wants besides. */
  firewallDevices: readonly string[];
  /** Maps that an upgrade waits for. */
  pending: readonly string[];
}

/**
 * Opens the node's datapath: checks the machine, makes or takes over the tunnel device, the maps and the links that an
 * earlier process left, and swaps in this build's programs. Throws DatapathError; what worked before goes on working.
 */
export async function openDatapath(options: OpenDatapathOptions): Promise<OpenedDatapath> {
  checkPreflight(options);
  const root = rootOf(options.bpfRoot);
  const links = join(root, 'links');
  mkdirSync(links, { recursive: true, mode: 0o700 });
  const lock = lockFolder(root);
  let migration: Migration | undefined;
  try {
    migration = openMigration(
      OBJECT_FILES.map((name) => join(options.objectDir, name)),
      {
        root,
        links,
        mapSizes: options.mapSizes,
        kernel: options.kernel ?? probeSwitches(),
        conntrackTimeouts: options.conntrackTimeouts,
        host: {
          tunnelPort: options.tunnelPort,
          openPorts: options.openPorts ?? DEFAULT_OPEN_PORTS,
        },
        onStep: options.onStep,
      },
    );
    const parts: OpenParts = {
      options,
      links,
      migration,
      lock,
      endpoints: openEndpointsTable(migration.objects.maps),
      tunnelMtu: 0,
      hostDevices: await findHostDevices(options),
      firewallDevices: [],
      pending: migration.refill,
    };
    // Before any program is attached: a host that is a firewall for good is one from its first packet on.
    const firewall = openFirewallOf(parts);
    if (options.firewall !== undefined) {
      const others = [options.tunnelDevice, ...endpointInterfaces(parts)];
      parts.firewallDevices = (await findFirewallDevices(others, options.signal)).judged;
    }
    const device = await ensureDevice(parts);
    if (parts.pending.length === 0) replacePrograms(parts);
    else {
      const wanted = { ...hooksOf(parts), device, hostInterfaces: [], isUpgrading: true };
      attachMissing(migration.objects, links, wanted);
    }
    const services = openServicesTable(migration.objects.maps, options);
    await inSlices(services.takeOver(), options.signal);
    return buildDatapath(parts, { services, firewall });
  } catch (error) {
    migration?.[Symbol.dispose]();
    lock[Symbol.dispose]();
    throw error;
  }
}

/** Makes the tunnel device if it is not there, and tells the programs about it. Returns its name. */
async function ensureDevice(parts: OpenParts): Promise<string> {
  const { options, migration } = parts;
  const device = await ensureTunnelDevice(options);
  parts.tunnelMtu = device.mtu;
  parts.hostDevices = await findHostDevices(options);
  // As an earlier process, or this one before, had it.
  if (parts.endpoints.rows().some((row) => isHostRow(row) && isHostJudged(row))) {
    parts.hostDevices.setJudged(true);
  }
  writeConfig(migration.objects.maps.get('mesh_config'), {
    ...options,
    tunnelIfindex: device.ifindex,
    tunnelMtu: device.mtu,
  });
  return device.name;
}

/** Gives every hook this build's program, and then the maps their place. */
function replacePrograms(parts: OpenParts): void {
  const { options, links, migration } = parts;
  const { objects } = migration;
  attachOverlay(objects, options.tunnelDevice, links);
  options.onStep?.('overlay');
  attachSockets(objects, options.cgroupRoot, links);
  options.onStep?.('sockets');
  attachNodeDevices(objects, nodeDevicesOf(parts), links);
  // Those of an adopted datapath get theirs when the agent has looked at them.
  if (migration.kind === 'migrated') replaceEndpoints(objects, links);
  options.onStep?.('endpoints');
  migration.finish();
}

function hooksOf(parts: OpenParts) {
  const { options } = parts;
  return {
    device: options.tunnelDevice,
    cgroup: options.cgroupRoot,
    nodeDevices: nodeDevicesOf(parts),
  };
}

function nodeDevicesOf({ hostDevices, firewallDevices }: OpenParts): readonly string[] {
  return [...new Set([...hostDevices.wanted(), ...firewallDevices])];
}

/** Programs of an earlier build know nothing of the host; this build's come with the others. */
function attachHost(parts: OpenParts): void {
  const { migration, links } = parts;
  if (parts.pending.length > 0) return;
  attachNodeDevices(migration.objects, nodeDevicesOf(parts), links);
}

function endpointInterfaces({ endpoints }: OpenParts): readonly string[] {
  return endpoints.rows().map(({ hostInterface }) => hostInterface);
}

function openFirewallOf(parts: OpenParts): DatapathFirewall {
  const { options, migration } = parts;
  return openFirewall(
    {
      maps: migration.objects.maps,
      tunnelDevice: options.tunnelDevice,
      endpointInterfaces: () => endpointInterfaces(parts),
      attach(devices) {
        if (devices.join() === parts.firewallDevices.join()) return;
        parts.firewallDevices = devices;
        attachHost(parts);
      },
    },
    options.firewall,
  );
}

function buildDatapath(
  parts: OpenParts,
  { services, firewall }: { readonly services: ServicesTable; readonly firewall: DatapathFirewall },
): OpenedDatapath {
  const { options, links, migration, lock } = parts;
  const { objects } = migration;
  const { maps } = objects;
  const tables = {
    ipcache: openIpcacheTable(maps),
    endpoints: withHostDevices(parts.endpoints, {
      devices: {
        wanted: () => parts.hostDevices.wanted(),
        setJudged: (isJudged) => parts.hostDevices.setJudged(isJudged),
      },
      attach: () => attachHost(parts),
    }),
  };
  const wantedHooks = (hostInterfaces: readonly string[]) => ({
    ...hooksOf(parts),
    hostInterfaces,
    isUpgrading: parts.pending.length > 0,
  });
  const dispose = (): void => {
    migration[Symbol.dispose]();
    lock[Symbol.dispose]();
  };
  return {
    tunnelMtu: parts.tunnelMtu,
    lost: migration.lost,
    ...tables,
    upkeep: createUpkeep({
      maps,
      tables,
      routingMode: options.routingMode ?? 'tunnel',
      tunnelMtu: parts.tunnelMtu,
      gcIntervalMs: options.conntrackGcIntervalMs,
    }),
    firewall,
    hostRoutes: createHostRoutes({ device: options.tunnelDevice, nodeIps: options.nodeIps }),
    policy: openPolicyTable(maps),
    services,
    orphans: createSocketOrphans(maps.get('mesh_translations'), services),
    attachEndpoint: (hostInterface) => {
      const hooks = wantedHooks([hostInterface]);
      if (parts.pending.length === 0) attachEndpoint(objects, hostInterface, links);
      else attachMissing(objects, links, hooks);
    },
    detachEndpoint: (hostInterface) => detachEndpoint(hostInterface, links),
    counters: () => readCounters(maps.get('mesh_metrics')),
    events: createDatapathEvents(maps, options.eventRate),
    // The ring of events has bytes, not entries.
    capacities: () =>
      MAP_NAMES.filter((name) => name !== 'mesh_events').map((name) => ({
        map: name,
        maxEntries: maps.get(name).maxEntries,
      })),
    detached: (hostInterfaces) => findDetached(links, wantedHooks(hostInterfaces)),
    async heal(hostInterfaces) {
      const wanted = wantedHooks(hostInterfaces);
      if (findDetached(links, wanted).length === 0) return [];
      const config = maps.get('mesh_config');
      const traceLevel = readTraceLevel(config);
      await ensureDevice(parts);
      writeTraceLevel(config, traceLevel);
      return attachMissing(objects, links, wanted);
    },
    upgrade: {
      pending: () => parts.pending,
      finish() {
        if (parts.pending.length === 0) return;
        replacePrograms(parts);
        parts.pending = [];
      },
    },
    async uninstall() {
      migration[Symbol.dispose]();
      await removeDatapath(options);
      lock[Symbol.dispose]();
    },
    async [Symbol.asyncDispose]() {
      dispose();
    },
  };
}

function rootOf(bpfRoot: string): string {
  return join(bpfRoot, 'isthmus');
}

/**
 * Removes what a node's datapath left. `onLocked` is called when it is sure that no agent has it open. Throws
 * `already-running` otherwise.
 */
export async function uninstallDatapath(
  options: Pick<OpenDatapathOptions, 'bpfRoot' | 'tunnelDevice' | 'signal'>,
  onLocked: () => void = () => undefined,
): Promise<void> {
  const root = rootOf(options.bpfRoot);
  using _lock = existsSync(root) ? lockFolder(root) : undefined;
  onLocked();
  await removeDatapath(options);
}

async function removeDatapath(
  options: Pick<OpenDatapathOptions, 'bpfRoot' | 'tunnelDevice' | 'signal'>,
): Promise<void> {
  const root = rootOf(options.bpfRoot);
  const links = join(root, 'links');
  if (existsSync(links)) detachAll(links);
  rmSync(root, { recursive: true, force: true });
  await removeTunnelDevice(options.tunnelDevice, options.signal);
}
