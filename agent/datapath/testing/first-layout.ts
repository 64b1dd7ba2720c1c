/** A node as a release with the first layout left it: pinned maps with rows in them, and programs over them. */
import { closeSync } from 'node:fs';
import { join } from 'node:path';
import { type IpAddress, parseIpAddress } from '../../../mesh/wire/ip.ts';
import { writeAddress } from '../../../mesh/wire/maps.ts';
import { attachToCgroup, attachToInterface } from '../attach.ts';
import { ATTACH_TYPES, openPinned, possibleCpus, updateElement } from '../bpf.ts';
import { ensureTunnelDevice } from '../devices.ts';
import { loadObjects } from '../object.ts';
import { OBJECT_DIR } from './bpffs.ts';
import type { DatapathProcessOptions } from './datapath-process.ts';
import { HOST_INTERFACE } from './nodes.ts';

const SOCKETS = {
  connect4: ATTACH_TYPES.cgroupInet4Connect,
  connect6: ATTACH_TYPES.cgroupInet6Connect,
  sendmsg4: ATTACH_TYPES.cgroupUdp4Sendmsg,
  sendmsg6: ATTACH_TYPES.cgroupUdp6Sendmsg,
  recvmsg4: ATTACH_TYPES.cgroupUdp4Recvmsg,
  recvmsg6: ATTACH_TYPES.cgroupUdp6Recvmsg,
  getpeername4: ATTACH_TYPES.cgroupInet4Getpeername,
  getpeername6: ATTACH_TYPES.cgroupInet6Getpeername,
} as const;

/** Loads and attaches it in this process's network namespace, under the names of pins that the first layout had. */
export async function attachFirstLayout(options: DatapathProcessOptions): Promise<void> {
  const root = join(options.bpfRoot, 'isthmus');
  const pinOf = (name: string): string => join(root, 'links', name);
  const device = await ensureTunnelDevice(options);
  using objects = loadObjects([join(OBJECT_DIR, 'test/layout1.bpf.o')], {
    pinFolder: join(root, 'maps'),
    mapSizes: { mesh_ct: 4096, mesh_translations: 256, mesh_choices: 256 },
  });
  const config = Buffer.alloc(12);
  config.writeUInt32LE(1, 0);
  config.writeUInt32LE(device.ifindex, 4);
  config.writeUInt16LE(options.clusterId, 8);
  config.writeUInt8(16, 10);
  updateElement(objects.maps.get('mesh_config').fd, Buffer.alloc(4), config);
  const at = (name: string, program: string, pin: string, attachType: number): void =>
    attachToInterface(name, {
      programFd: objects.program(program),
      attachType,
      pinPath: pinOf(pin),
      hasTcx: true,
    });
  at(device.name, 'mesh_from_overlay', 'overlay-from', ATTACH_TYPES.tcxIngress);
  at(HOST_INTERFACE, 'mesh_from_endpoint', 'endpoint-pod%2e0-from', ATTACH_TYPES.tcxIngress);
  at(HOST_INTERFACE, 'mesh_to_endpoint', 'endpoint-pod%2e0-to', ATTACH_TYPES.tcxEgress);
  for (const [name, attachType] of Object.entries(SOCKETS)) {
    attachToCgroup(options.cgroupRoot, {
      programFd: objects.program(`mesh_${name}`),
      attachType,
      pinPath: pinOf(`socket-${name}`),
    });
  }
}

/** Writes rows as the first layout had them into the pinned maps of a node. */
export function openFirstLayoutMaps(bpfRoot: string) {
  const write = (name: string, key: Buffer, value: Buffer): void => {
    const fd = openPinned(join(bpfRoot, 'isthmus/maps', name));
    if (fd === undefined) throw new Error(`no map ${name}`);
    try {
      updateElement(fd, key, value);
    } finally {
      closeSync(fd);
    }
  };
  return {
    /** A frontend with its backends, whose numbers are given. */
    service(
      frontend: { address: string; port: number; protocol: number },
      backends: readonly { id: number; address: string; port: number }[],
    ): void {
      for (const { id, address, port } of backends) {
        const key = Buffer.alloc(4);
        key.writeUInt32LE(id);
        const value = Buffer.alloc(24);
        putAddress(value, 0, address);
        value.writeUInt16BE(port, 16);
        value.writeUInt16LE(2, 18);
        value.writeUInt8(frontend.protocol, 20);
        write('mesh_backends', key, value);
      }
      for (let slot = 0; slot <= backends.length; slot += 1) {
        const key = Buffer.alloc(24);
        putAddress(key, 0, frontend.address);
        key.writeUInt16BE(frontend.port, 16);
        key.writeUInt8(frontend.protocol, 18);
        key.writeUInt32LE(slot, 20);
        const value = Buffer.alloc(8);
        if (slot === 0) value.writeUInt32LE(backends.length, 0);
        else value.writeUInt32LE(backends[slot - 1]?.id ?? 0, 4);
        write('mesh_services', key, value);
      }
    },
    /** A UDP socket's choice of a slot. */
    choice(
      socket: { cookie: bigint; address: string; port: number },
      { slot, backendId }: { slot: number; backendId: number },
    ): void {
      const value = Buffer.alloc(8);
      value.writeUInt32LE(slot, 0);
      value.writeUInt32LE(backendId, 4);
      write('mesh_choices', socketKey(socket), value);
    },
    /** An answered TCP flow that an endpoint began, kept for an hour. */
    flow(
      source: { address: string; port: number },
      destination: { address: string; port: number },
    ) {
      const key = Buffer.alloc(40);
      putAddress(key, 0, source.address);
      putAddress(key, 16, destination.address);
      key.writeUInt16BE(source.port, 32);
      key.writeUInt16BE(destination.port, 34);
      key.writeUInt8(6, 36);
      key.writeUInt8(1, 37);
      const value = Buffer.alloc(16);
      value.writeBigUInt64LE(process.hrtime.bigint() + 3_600_000_000_000n, 0);
      value.writeUInt32LE(2, 8);
      value.writeUInt8(1, 12);
      write('mesh_ct', key, value);
    },
    /** A counter of the ingress direction, as one CPU counted it. */
    counter(reason: number, { packets, bytes }: { packets: bigint; bytes: bigint }): void {
      const key = Buffer.alloc(4);
      key.writeUInt32LE(reason * 2, 0);
      const value = Buffer.alloc(16 * possibleCpus());
      value.writeBigUInt64LE(packets, 0);
      value.writeBigUInt64LE(bytes, 8);
      write('mesh_metrics', key, value);
    },
    /** What the ipcache knows of a prefix of either family. */
    prefix(address: string, bits: number, identity: number): void {
      const isFour = !address.includes(':');
      const key = Buffer.alloc(isFour ? 8 : 20);
      key.writeUInt32LE(bits, 0);
      const full = Buffer.alloc(16);
      putAddress(full, 0, address);
      full.copy(key, 4, isFour ? 12 : 0);
      const value = Buffer.alloc(24);
      value.writeUInt32LE(identity, 0);
      write(isFour ? 'mesh_ipcache4' : 'mesh_ipcache6', key, value);
    },
    /** The endpoint behind the host interface. */
    endpoint(
      addresses: readonly IpAddress[],
      fields: { ifindex: number; identity: number; endpointId: number; mac: string },
    ): void {
      for (const address of addresses) {
        const key = Buffer.alloc(16);
        putAddress(key, 0, address);
        const value = Buffer.alloc(36);
        value.writeUInt32LE(fields.ifindex, 0);
        value.writeUInt32LE(fields.identity, 4);
        value.writeUInt16LE(fields.endpointId, 8);
        // Ingress is enforced, and no row allows anything.
        value.writeUInt16LE(1, 10);
        Buffer.from(fields.mac.replaceAll(':', ''), 'hex').copy(value, 12);
        value.write(HOST_INTERFACE, 20);
        write('mesh_endpoints', key, value);
      }
    },
  };
}

/** Key of the maps of translations and choices, the same in both layouts. */
export function socketKey(socket: { cookie: bigint; address: string; port: number }): Buffer {
  const key = Buffer.alloc(32);
  key.writeBigUInt64LE(socket.cookie, 0);
  putAddress(key, 8, socket.address);
  key.writeUInt16BE(socket.port, 24);
  return key;
}

function putAddress(bytes: Buffer, offset: number, address: string): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  writeAddress(view, offset, parseIpAddress(address));
}
