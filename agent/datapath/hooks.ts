/** Which program goes where, and the names of the pinned links that keep it there. */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import {
  attachToCgroup,
  attachToInterface,
  detachPinned,
  interfaceOfPinName,
  isAttachedToCgroup,
  isAttachedToInterface,
  pinNameOfInterface,
} from './attach.ts';
import { ATTACH_TYPES, interfaceIndex } from './bpf.ts';
import type { LoadedObjects } from './object.ts';

const SOCKET_HOOKS = [
  { program: 'mesh_connect4', attachType: ATTACH_TYPES.cgroupInet4Connect },
  { program: 'mesh_connect6', attachType: ATTACH_TYPES.cgroupInet6Connect },
  { program: 'mesh_sendmsg4', attachType: ATTACH_TYPES.cgroupUdp4Sendmsg },
  { program: 'mesh_sendmsg6', attachType: ATTACH_TYPES.cgroupUdp6Sendmsg },
  { program: 'mesh_recvmsg4', attachType: ATTACH_TYPES.cgroupUdp4Recvmsg },
  { program: 'mesh_recvmsg6', attachType: ATTACH_TYPES.cgroupUdp6Recvmsg },
  { program: 'mesh_getpeername4', attachType: ATTACH_TYPES.cgroupInet4Getpeername },
  { program: 'mesh_getpeername6', attachType: ATTACH_TYPES.cgroupInet6Getpeername },
  { program: 'mesh_sock_release', attachType: ATTACH_TYPES.cgroupInetSockRelease },
] as const;

type SocketHook = (typeof SOCKET_HOOKS)[number];

const ENDPOINT_HOOKS = [
  { program: 'mesh_from_endpoint', suffix: 'from', attachType: ATTACH_TYPES.tcxIngress },
  { program: 'mesh_to_endpoint', suffix: 'to', attachType: ATTACH_TYPES.tcxEgress },
] as const;

const NODE_HOOKS = [
  { program: 'mesh_from_host', suffix: 'from', attachType: ATTACH_TYPES.tcxIngress },
  { program: 'mesh_to_host', suffix: 'to', attachType: ATTACH_TYPES.tcxEgress },
] as const;

const OVERLAY_HOOKS = [
  { program: 'mesh_from_overlay', suffix: 'from', attachType: ATTACH_TYPES.tcxIngress },
  { program: 'mesh_to_overlay', suffix: 'to', attachType: ATTACH_TYPES.tcxEgress },
] as const;

type OverlayHook = (typeof OVERLAY_HOOKS)[number];

/** Attaches the overlay programs to the tunnel device, or replaces them. */
export function attachOverlay(objects: LoadedObjects, device: string, linkFolder: string): void {
  for (const hook of OVERLAY_HOOKS) attachOverlayHook(objects, hook, { device, linkFolder });
}

function attachOverlayHook(
  objects: LoadedObjects,
  { program, suffix, attachType }: OverlayHook,
  { device, linkFolder }: { readonly device: string; readonly linkFolder: string },
): void {
  attachToInterface(device, {
    programFd: objects.program(program),
    attachType,
    pinPath: overlayPin(linkFolder, suffix),
    hasTcx: objects.kernel.tcx,
  });
}

/** Attaches the socket programs to a cgroup v2 folder, or replaces them. */
export function attachSockets(objects: LoadedObjects, cgroup: string, linkFolder: string): void {
  for (const hook of SOCKET_HOOKS) attachSocket(objects, hook, { cgroup, linkFolder });
}

function attachSocket(
  objects: LoadedObjects,
  { program, attachType }: SocketHook,
  { cgroup, linkFolder }: { readonly cgroup: string; readonly linkFolder: string },
): void {
  attachToCgroup(cgroup, {
    programFd: objects.program(program),
    attachType,
    pinPath: socketPin(linkFolder, program),
  });
}

/**
 * Attaches the programs for what reaches the host without the tunnel to these devices of it, or replaces them, and detaches
 * them from all others.
 */
export function attachNodeDevices(
  objects: LoadedObjects,
  devices: readonly string[],
  linkFolder: string,
): void {
  for (const device of devices) {
    for (const { program, suffix, attachType } of NODE_HOOKS) {
      attachToInterface(device, {
        programFd: objects.program(program),
        attachType,
        pinPath: nodePin(linkFolder, device, suffix),
        hasTcx: objects.kernel.tcx,
      });
    }
  }
  const wanted = new Set(
    devices.flatMap((device) => NODE_HOOKS.map(({ suffix }) => nodePinName(device, suffix))),
  );
  for (const name of readdirSync(linkFolder)) {
    if (name.startsWith(NODE_PIN) && !wanted.has(name)) detachPinned(join(linkFolder, name));
  }
}

/** Attaches the endpoint programs to the host side of a veth, or replaces them. */
export function attachEndpoint(
  objects: LoadedObjects,
  hostInterface: string,
  linkFolder: string,
): void {
  for (const { program, suffix, attachType } of ENDPOINT_HOOKS) {
    attachToInterface(hostInterface, {
      programFd: objects.program(program),
      attachType,
      pinPath: endpointPin(linkFolder, hostInterface, suffix),
      hasTcx: objects.kernel.tcx,
    });
  }
}

/** Replaces the programs of every endpoint whose links are pinned, as long as its interface is the one they were made for. */
export function replaceEndpoints(objects: LoadedObjects, linkFolder: string): void {
  const interfaces = new Set(
    readdirSync(linkFolder)
      .map((name) => /^endpoint-(.+)-(?:from|to)$/.exec(name)?.[1])
      .filter((part) => part !== undefined)
      .map(interfaceOfPinName),
  );
  for (const name of interfaces) {
    const isAttached = ENDPOINT_HOOKS.some((hook) =>
      isEndpointHookAttached(name, hook, linkFolder),
    );
    if (isAttached) attachEndpoint(objects, name, linkFolder);
  }
}

/** Detaches them; an interface that is gone, or never was attached, is no error. */
export function detachEndpoint(hostInterface: string, linkFolder: string): void {
  for (const { suffix } of ENDPOINT_HOOKS) {
    detachPinned(endpointPin(linkFolder, hostInterface, suffix));
  }
}

/** Detaches everything whose link is pinned in the folder. */
export function detachAll(linkFolder: string): void {
  for (const name of readdirSync(linkFolder)) detachPinned(join(linkFolder, name));
}

/** Where programs should be. */
export interface WantedHooks {
  readonly device: string;
  readonly cgroup: string;
  /** The node's own, where clients outside come in and the host's policy holds; none: there is nothing to do. */
  readonly nodeDevices: readonly string[];
  /** Those of endpoints; one that is gone is not looked at. */
  readonly hostInterfaces: readonly string[];
  /** Programs of an earlier build go on for now: a hook that those do not have waits. Default: false. */
  readonly isUpgrading?: boolean;
}

/** Attaches what is not attached, and leaves alone what is. Returns what was done, a sentence each. */
export function attachMissing(
  objects: LoadedObjects,
  linkFolder: string,
  wanted: WantedHooks,
): string[] {
  const { device, cgroup, nodeDevices, hostInterfaces } = wanted;
  const done: string[] = [];
  const overlay = missingOverlay(wanted, linkFolder);
  for (const hook of overlay) attachOverlayHook(objects, hook, { device, linkFolder });
  if (overlay.length > 0) done.push(`attached to the tunnel device ${device} again`);
  const sockets = missingSockets(cgroup, linkFolder);
  for (const hook of sockets) attachSocket(objects, hook, { cgroup, linkFolder });
  if (sockets.length > 0) {
    done.push(`attached ${sockets.map(({ program }) => program).join(', ')} to ${cgroup} again`);
  }
  const missing = missingNodeDevices(nodeDevices, linkFolder);
  if (missing.length > 0) {
    attachNodeDevices(objects, nodeDevices, linkFolder);
    done.push(`attached to ${missing.join(', ')} for what comes without the tunnel again`);
  }
  for (const name of missingEndpoints(hostInterfaces, linkFolder)) {
    attachEndpoint(objects, name, linkFolder);
    done.push(`attached to the endpoint on ${name} again`);
  }
  return done;
}

/** What of all that is not in place, a sentence each. */
export function findDetached(linkFolder: string, wanted: WantedHooks): string[] {
  const { device, cgroup, nodeDevices, hostInterfaces } = wanted;
  const problems: string[] = [];
  const overlay = missingOverlay(wanted, linkFolder).map(({ program }) => program);
  if (overlay.includes('mesh_from_overlay')) {
    problems.push(
      `nothing is attached to the tunnel device ${device}: packets of other nodes are lost; restart the agent`,
    );
  } else if (overlay.length > 0) {
    problems.push(
      `nothing is attached to the way out of the tunnel device ${device}: programs of this node itself reach no pods elsewhere; restart the agent`,
    );
  }
  const sockets = missingSockets(cgroup, linkFolder);
  if (sockets.length > 0) {
    const names = sockets.map(({ program }) => program).join(', ');
    problems.push(
      `${names} not attached to ${cgroup}: services are not translated; restart the agent`,
    );
  }
  for (const name of missingNodeDevices(nodeDevices, linkFolder)) {
    problems.push(
      `nothing is attached to ${name}: services are not reached from outside by it, and no policy of this host holds there; restart the agent`,
    );
  }
  for (const name of missingEndpoints(hostInterfaces, linkFolder)) {
    problems.push(`the endpoint on ${name} is not attached: restart the agent`);
  }
  return problems;
}

function missingOverlay(
  { device, isUpgrading = false }: Pick<WantedHooks, 'device' | 'isUpgrading'>,
  linkFolder: string,
): OverlayHook[] {
  return OVERLAY_HOOKS.filter(
    ({ program, suffix, attachType }) =>
      !(isUpgrading && program === 'mesh_to_overlay') &&
      !isAttachedToInterface(device, overlayPin(linkFolder, suffix), attachType),
  );
}

function missingSockets(cgroup: string, linkFolder: string): SocketHook[] {
  return SOCKET_HOOKS.filter(
    ({ program }) => !isAttachedToCgroup(cgroup, socketPin(linkFolder, program)),
  );
}

function missingNodeDevices(devices: readonly string[], linkFolder: string): string[] {
  return devices.filter(
    (device) =>
      !NODE_HOOKS.every(({ suffix, attachType }) =>
        isAttachedToInterface(device, nodePin(linkFolder, device, suffix), attachType),
      ),
  );
}

function missingEndpoints(hostInterfaces: readonly string[], linkFolder: string): string[] {
  return hostInterfaces.filter(
    (name) =>
      interfaceIndex(name) !== undefined &&
      !ENDPOINT_HOOKS.every((hook) => isEndpointHookAttached(name, hook, linkFolder)),
  );
}

function isEndpointHookAttached(
  hostInterface: string,
  { suffix, attachType }: (typeof ENDPOINT_HOOKS)[number],
  linkFolder: string,
): boolean {
  return isAttachedToInterface(
    hostInterface,
    endpointPin(linkFolder, hostInterface, suffix),
    attachType,
  );
}

function overlayPin(linkFolder: string, suffix: string): string {
  return join(linkFolder, `overlay-${suffix}`);
}

function socketPin(linkFolder: string, program: string): string {
  return join(linkFolder, `socket-${program.replace('mesh_', '')}`);
}

const NODE_PIN = 'node-';

function nodePinName(device: string, suffix: string): string {
  return `${NODE_PIN}${pinNameOfInterface(device)}-${suffix}`;
}

function nodePin(linkFolder: string, device: string, suffix: string): string {
  return join(linkFolder, nodePinName(device, suffix));
}

function endpointPin(linkFolder: string, hostInterface: string, suffix: string): string {
  return join(linkFolder, `endpoint-${pinNameOfInterface(hostInterface)}-${suffix}`);
}
