/** The one entry of mesh_config: what every program of this node needs to know. */
import { clusterLocalIdentityBits } from '../../mesh/wire/ids.ts';
import { ipFamily } from '../../mesh/wire/ip.ts';
import {
  CONFIG,
  CONFIG_EXTERNAL_SERVICES,
  CONFIG_NATIVE_ROUTING,
  LAYOUT_VERSION,
  OVERLAY_SOURCE_CHECKS,
  writeAddress,
} from '../../mesh/wire/maps.ts';
import { lookupElement, updateElement } from './bpf.ts';
import type { DatapathOptions } from './desired.ts';

/** Above the ports that Linux gives to local sockets by default (net.ipv4.ip_local_port_range ends at 60999). */
export const DEFAULT_NAT_PORTS = { first: 61_000, last: 65_535 } as const;

/** What writeConfig writes: the part of DatapathOptions that programs see, and the tunnel device. */
export interface ConfigOptions
  extends Pick<
    DatapathOptions,
    | 'clusterId'
    | 'maxConnectedClusters'
    | 'nodeIps'
    | 'overlaySourceCheck'
    | 'traceLevel'
    | 'externalServices'
    | 'natPorts'
    | 'routingMode'
  > {
  readonly tunnelIfindex: number;
  /** Largest inner IP packet, in bytes. */
  readonly tunnelMtu: number;
}

/** Bytes of the entry. */
function encodeConfig(options: ConfigOptions): Buffer {
  const { fields } = CONFIG;
  const value = Buffer.alloc(CONFIG.size);
  const view = new DataView(value.buffer, value.byteOffset, value.length);
  const ports = options.natPorts ?? DEFAULT_NAT_PORTS;
  value.writeUInt32LE(LAYOUT_VERSION, fields.layoutVersion);
  value.writeUInt32LE(options.tunnelIfindex, fields.tunnelIfindex);
  value.writeUInt16LE(options.clusterId, fields.clusterId);
  value.writeUInt8(clusterLocalIdentityBits(options.maxConnectedClusters), fields.clusterShift);
  value.writeUInt8(
    OVERLAY_SOURCE_CHECKS.indexOf(options.overlaySourceCheck ?? 'cluster'),
    fields.overlaySourceCheck,
  );
  value.writeUInt32LE(options.tunnelMtu, fields.tunnelMtu);
  value.writeUInt8(options.traceLevel ?? 0, fields.traceLevel);
  value.writeUInt8(
    (options.externalServices === true ? CONFIG_EXTERNAL_SERVICES : 0) |
      (options.routingMode === 'native' ? CONFIG_NATIVE_ROUTING : 0),
    fields.flags,
  );
  value.writeUInt16BE(ports.first, fields.natPortFirst);
  value.writeUInt16BE(ports.last, fields.natPortLast);
  for (const address of options.nodeIps) {
    writeAddress(view, ipFamily(address) === 4 ? fields.node4 : fields.node6, address);
  }
  return value;
}

/** Writes the whole entry; programs without a valid one drop every packet. */
export function writeConfig(map: { readonly fd: number }, options: ConfigOptions): void {
  updateElement(map.fd, Buffer.alloc(4), encodeConfig(options));
}

/** The level that is in effect. */
export function readTraceLevel(map: { readonly fd: number }): number {
  const value = Buffer.alloc(CONFIG.size);
  lookupElement(map.fd, Buffer.alloc(4), value);
  return value.readUInt8(CONFIG.fields.traceLevel);
}

/** Switches the tracing of forwarded packets, 0 to 255, while programs run. */
export function writeTraceLevel(map: { readonly fd: number }, level: number): void {
  const value = Buffer.alloc(CONFIG.size);
  lookupElement(map.fd, Buffer.alloc(4), value);
  value.writeUInt8(level, CONFIG.fields.traceLevel);
  updateElement(map.fd, Buffer.alloc(4), value);
}
