/** The one entry of mesh_config: what every program of this node needs to know. */
import { clusterLocalIdentityBits } from '../../mesh/wire/ids.ts';
import { ipFamily } from '../../mesh/wire/ip.ts';
import {
  CONFIG,
  CONFIG_EXTERNAL_SERVICES,
  CONFIG_FIREWALL,
  CONFIG_HOST_JUDGED,
  CONFIG_LOCALHOST_JUDGED,
  CONFIG_MACHINE,
  CONFIG_NATIVE_ROUTING,
  CONFIG_POLICY_AUDIT,
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
    | 'policyAudit'
    | 'localhostJudged'
    | 'hostEndpoint'
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
      (options.routingMode === 'native' ? CONFIG_NATIVE_ROUTING : 0) |
      (options.policyAudit === true ? CONFIG_POLICY_AUDIT : 0) |
      (options.localhostJudged === true ? CONFIG_LOCALHOST_JUDGED : 0) |
      (options.hostEndpoint === 'machine' ? CONFIG_MACHINE : 0),
    fields.flags,
  );
  value.writeUInt16BE(ports.first, fields.natPortFirst);
  value.writeUInt16BE(ports.last, fields.natPortLast);
  // Of several of a family the first is the one: it is written last.
  for (const address of [...options.nodeIps].reverse()) {
    writeAddress(view, ipFamily(address) === 4 ? fields.node4 : fields.node6, address);
  }
  return value;
}

/**
 * Writes the whole entry; programs without a valid one drop every packet. The revision of the policy rises: a previous
 * process may have changed policy without having come to say so. Whether the host is judged, and is a firewall, stays as it
 * is: that follows its row among the endpoints, and what an operator has said.
 */
export function writeConfig(map: { readonly fd: number }, options: ConfigOptions): void {
  const value = encodeConfig(options);
  const before = readConfig(map);
  const { flags, policyRevision } = CONFIG.fields;
  value.writeUInt16LE(nextRevision(before), policyRevision);
  const kept = before.readUInt8(flags) & (CONFIG_HOST_JUDGED | CONFIG_FIREWALL);
  value.writeUInt8(value.readUInt8(flags) | kept, flags);
  updateElement(map.fd, Buffer.alloc(4), value);
}

/** Says whether the host's own packets are to be judged by its row among the endpoints. */
export function writeHostJudged(map: { readonly fd: number }, isJudged: boolean): void {
  writeFlag(map, CONFIG_HOST_JUDGED, isJudged);
}

/** Says whether the host is a firewall: whoever is at the other end, its own packets are judged. */
export function writeFirewall(map: { readonly fd: number }, isOn: boolean): void {
  writeFlag(map, CONFIG_FIREWALL, isOn);
}

/** Whether the host is a firewall. */
export function isFirewall(map: { readonly fd: number }): boolean {
  return (readConfig(map).readUInt8(CONFIG.fields.flags) & CONFIG_FIREWALL) !== 0;
}

function writeFlag(map: { readonly fd: number }, flag: number, isSet: boolean): void {
  const value = readConfig(map);
  const { flags } = CONFIG.fields;
  const before = value.readUInt8(flags);
  const after = isSet ? before | flag : before & ~flag;
  if (before === after) return;
  value.writeUInt8(after, flags);
  updateElement(map.fd, Buffer.alloc(4), value);
}

/**
 * Makes programs judge every flow again at its next packet, also those in which only the answering side speaks. To be
 * called when the rows that may deny what was allowed have been written.
 */
export function raisePolicyRevision(map: { readonly fd: number }): void {
  const value = readConfig(map);
  value.writeUInt16LE(nextRevision(value), CONFIG.fields.policyRevision);
  updateElement(map.fd, Buffer.alloc(4), value);
}

function nextRevision(config: Buffer): number {
  return (config.readUInt16LE(CONFIG.fields.policyRevision) + 1) & 0xffff;
}

function readConfig(map: { readonly fd: number }): Buffer {
  const value = Buffer.alloc(CONFIG.size);
  lookupElement(map.fd, Buffer.alloc(4), value);
  return value;
}

/** The level that is in effect. */
export function readTraceLevel(map: { readonly fd: number }): number {
  return readConfig(map).readUInt8(CONFIG.fields.traceLevel);
}

/** Switches the tracing of forwarded packets, 0 to 255, while programs run. */
export function writeTraceLevel(map: { readonly fd: number }, level: number): void {
  const value = readConfig(map);
  value.writeUInt8(level, CONFIG.fields.traceLevel);
  updateElement(map.fd, Buffer.alloc(4), value);
}
