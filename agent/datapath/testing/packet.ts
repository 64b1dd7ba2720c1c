/** Frames for test runs: only what the programs read, checksums left 0. */
import { type IpAddress, ipFamily, ipToBytes, parseIpAddress } from '../../../mesh/wire/ip.ts';

/** What to put into a frame; addresses decide the family. */
export interface PacketSpec {
  readonly from: string;
  readonly to: string;
  readonly protocol: 'tcp' | 'udp' | 'sctp' | 'icmp' | number;
  readonly sourcePort?: number;
  readonly destinationPort?: number;
  /** TCP: letters of S, A, F, R. Default S. */
  readonly flags?: string;
  /** ICMP type. Default: echo request. The source port is the echo identifier. */
  readonly type?: number;
  /** Offset in bytes (a multiple of 8), and whether more follow. */
  readonly fragment?: { readonly id: number; readonly offset: number; readonly more: boolean };
  /** IPv4: nobody but the sender may fragment the packet. */
  readonly dontFragment?: boolean;
  /** IPv6: headers between the fixed one and the transport, by number; each 8 bytes long. */
  readonly extensions?: readonly number[];
  readonly payload?: Uint8Array;
}

const TCP_BITS: Readonly<Record<string, number>> = { F: 1, S: 2, R: 4, A: 16 };
const FRAGMENT_HEADER = 44;

/** An Ethernet frame with the packet. */
export function frame(spec: PacketSpec): Buffer {
  const family = ipFamily(parseIpAddress(spec.from));
  const type = family === 4 ? '0800' : '86dd';
  return Buffer.concat([Buffer.from(`020000000001020000000002${type}`, 'hex'), ipPacket(spec)]);
}

/** The packet without a link header, such as an ICMP error carries. */
export function ipPacket(spec: PacketSpec): Buffer {
  const from = parseIpAddress(spec.from);
  const to = parseIpAddress(spec.to);
  const isFirst = spec.fragment === undefined || spec.fragment.offset === 0;
  const payload = Buffer.from(spec.payload ?? new Uint8Array(16));
  const body = isFirst ? Buffer.concat([transport(spec), payload]) : payload;
  return ipFamily(from) === 4 ? ipv4(spec, { from, to, body }) : ipv6(spec, { from, to, body });
}

interface Parts {
  readonly from: IpAddress;
  readonly to: IpAddress;
  readonly body: Buffer;
}

function ipv4(spec: PacketSpec, { from, to, body }: Parts): Buffer {
  const header = Buffer.alloc(20);
  header.writeUInt8(0x45, 0);
  header.writeUInt16BE(header.length + body.length, 2);
  if (spec.fragment !== undefined) {
    header.writeUInt16BE(spec.fragment.id, 4);
    header.writeUInt16BE((spec.fragment.more ? 0x2000 : 0) | (spec.fragment.offset >> 3), 6);
  }
  if (spec.dontFragment) header.writeUInt16BE(header.readUInt16BE(6) | 0x4000, 6);
  header.writeUInt8(64, 8);
  header.writeUInt8(protocolOf(spec, 4), 9);
  header.set(ipToBytes(from), 12);
  header.set(ipToBytes(to), 16);
  return Buffer.concat([header, body]);
}

function ipv6(spec: PacketSpec, { from, to, body }: Parts): Buffer {
  const chain = [...(spec.extensions ?? []), ...(spec.fragment ? [FRAGMENT_HEADER] : [])];
  const numbers = [...chain, protocolOf(spec, 6)];
  const extensions = chain.map((kind, index) => {
    const header = Buffer.alloc(8);
    header.writeUInt8(numbers[index + 1] ?? 59, 0);
    if (kind === FRAGMENT_HEADER && spec.fragment !== undefined) {
      header.writeUInt16BE(spec.fragment.offset | (spec.fragment.more ? 1 : 0), 2);
      header.writeUInt32BE(spec.fragment.id, 4);
    }
    return header;
  });
  const rest = Buffer.concat([...extensions, body]);
  const header = Buffer.alloc(40);
  header.writeUInt8(0x60, 0);
  header.writeUInt16BE(rest.length, 4);
  header.writeUInt8(numbers[0] ?? 59, 6);
  header.writeUInt8(64, 7);
  header.set(ipToBytes(from), 8);
  header.set(ipToBytes(to), 24);
  return Buffer.concat([header, rest]);
}

function protocolOf(spec: PacketSpec, family: 4 | 6): number {
  switch (spec.protocol) {
    case 'tcp':
      return 6;
    case 'udp':
      return 17;
    case 'sctp':
      return 132;
    case 'icmp':
      return family === 4 ? 1 : 58;
    default:
      return spec.protocol;
  }
}

function transport(spec: PacketSpec): Buffer {
  if (spec.protocol === 'icmp') return icmp(spec);
  if (typeof spec.protocol === 'number') return Buffer.alloc(0);
  const header = Buffer.alloc(spec.protocol === 'tcp' ? 20 : spec.protocol === 'udp' ? 8 : 12);
  header.writeUInt16BE(spec.sourcePort ?? 40000, 0);
  header.writeUInt16BE(spec.destinationPort ?? 80, 2);
  if (spec.protocol === 'tcp') {
    header.writeUInt8(0x50, 12);
    const flags = [...(spec.flags ?? 'S')].reduce((bits, flag) => bits | (TCP_BITS[flag] ?? 0), 0);
    header.writeUInt8(flags, 13);
  }
  return header;
}

function icmp(spec: PacketSpec): Buffer {
  const family = ipFamily(parseIpAddress(spec.from));
  const header = Buffer.alloc(8);
  header.writeUInt8(spec.type ?? (family === 4 ? 8 : 128), 0);
  header.writeUInt16BE(spec.sourcePort ?? 0, 4);
  return header;
}
