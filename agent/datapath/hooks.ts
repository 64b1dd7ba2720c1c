/** Which program goes where, and the names of the pinned links that keep it there. */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import {
  attachToCgroup,
  attachToInterface,
  detachPinned,
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
] as const;

const ENDPOINT_HOOKS = [
  { program: 'mesh_from_endpoint', suffix: 'from', attachType: ATTACH_TYPES.tcxIngress },
  { program: 'mesh_to_endpoint', suffix: 'to', attachType: ATTACH_TYPES.tcxEgress },
] as const;

/** Attaches the overlay program to the tunnel device, or replaces it. */
export function attachOverlay(objects: LoadedObjects, device: string, linkFolder: string): void {
  attachToInterface(device, {
    programFd: objects.program('mesh_from_overlay'),
    attachType: ATTACH_TYPES.tcxIngress,
    pinPath: overlayPin(linkFolder),
  });
}

/** Attaches the socket programs to a cgroup v2 folder, or replaces them. */
export function attachSockets(objects: LoadedObjects, cgroup: string, linkFolder: string): void {
  for (const { program, attachType } of SOCKET_HOOKS) {
    attachToCgroup(cgroup, {
      programFd: objects.program(program),
      attachType,
      pinPath: socketPin(linkFolder, program),
    });
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
    });
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

/** What of all that is not in place, a sentence each. */
export function findDetached(
  linkFolder: string,
  wanted: {
    readonly device: string;
    readonly cgroup: string;
    readonly hostInterfaces: readonly string[];
  },
): string[] {
  const { device, cgroup, hostInterfaces } = wanted;
  const problems: string[] = [];
  if (!isAttachedToInterface(device, overlayPin(linkFolder))) {
    problems.push(
      `nothing is attached to the tunnel device ${device}: packets of other nodes are lost; restart the agent`,
    );
  }
  const sockets = SOCKET_HOOKS.filter(
    ({ program }) => !isAttachedToCgroup(cgroup, socketPin(linkFolder, program)),
  );
  if (sockets.length > 0) {
    const names = sockets.map(({ program }) => program).join(', ');
    problems.push(
      `${names} not attached to ${cgroup}: services are not translated; restart the agent`,
    );
  }
  for (const name of hostInterfaces) {
    if (interfaceIndex(name) === undefined) continue;
    const isWhole = ENDPOINT_HOOKS.every(({ suffix }) =>
      isAttachedToInterface(name, endpointPin(linkFolder, name, suffix)),
    );
    if (!isWhole) {
      problems.push(`the endpoint on ${name} is not attached: restart the agent`);
    }
  }
  return problems;
}

function overlayPin(linkFolder: string): string {
  return join(linkFolder, 'overlay-from');
}

function socketPin(linkFolder: string, program: string): string {
  return join(linkFolder, `socket-${program.replace('mesh_', '')}`);
}

function endpointPin(linkFolder: string, hostInterface: string, suffix: string): string {
  return join(linkFolder, `endpoint-${pinNameOfInterface(hostInterface)}-${suffix}`);
}
