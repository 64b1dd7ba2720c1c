/** What a test frame says, in words that a test can compare. */
import { ipFromBytes } from '../../../mesh/wire/ip.ts';
import { checksumProblems } from './checksum.ts';

const LINK_HEADER = 14;
const TCP_FLAGS = ['F', 'S', 'R', 'P', 'A'] as const;

/** A packet's ends and what it is: `10.0.0.1:1 > 10.0.0.2:2 tcp S`, an ICMP error with what it is about in brackets. */
export function readFrame(frame: Buffer): string {
  return readPacket(frame, LINK_HEADER);
}

/** As readFrame(), after what is wrong with its checksums, which is nothing when a program has done its work. */
export function readVerified(frame: Buffer): string {
  return [...checksumProblems(frame), readFrame(frame)].join('; ');
}

function readPacket(bytes: Buffer, offset: number): string {
  const isIpv4 = bytes.readUInt8(offset) >> 4 === 4;
  const size = isIpv4 ? 4 : 16;
  const addresses = offset + (isIpv4 ? 12 : 8);
  const from = ipFromBytes(new Uint8Array(bytes.subarray(addresses, addresses + size)));
  const to = ipFromBytes(new Uint8Array(bytes.subarray(addresses + size, addresses + 2 * size)));
  const [protocol, transport] = isIpv4
    ? [bytes.readUInt8(offset + 9), offset + (bytes.readUInt8(offset) & 15) * 4]
    : transport6(bytes, offset);
  if (protocol === 1 || protocol === 58) {
    return `${from} > ${to} ${readIcmp(bytes, transport)}`;
  }
  const isLater = isIpv4 && (bytes.readUInt16BE(offset + 6) & 0x1fff) !== 0;
  if (isLater) return `${from} > ${to} fragment`;
  const ports = [bytes.readUInt16BE(transport), bytes.readUInt16BE(transport + 2)];
  const ends = `[${from}]:${ports[0]} > [${to}]:${ports[1]}`;
  switch (protocol) {
    case 6:
      return `${ends} tcp ${readFlags(bytes, transport)}`.trimEnd();
    case 17:
      return `${ends} udp`;
    case 132:
      return `${ends} sctp`;
    default:
      return `${ends} ${protocol}`;
  }
}

function transport6(bytes: Buffer, offset: number): [number, number] {
  let protocol = bytes.readUInt8(offset + 6);
  let transport = offset + 40;
  while ([0, 43, 44, 60].includes(protocol)) {
    protocol = bytes.readUInt8(transport);
    transport += 8;
  }
  return [protocol, transport];
}

function readFlags(bytes: Buffer, transport: number): string {
  if (transport + 13 >= bytes.length) return '';
  const flags = bytes.readUInt8(transport + 13);
  return TCP_FLAGS.filter((_, bit) => (flags & (1 << bit)) !== 0).join('');
}

function readIcmp(bytes: Buffer, transport: number): string {
  const [type, code] = [bytes.readUInt8(transport), bytes.readUInt8(transport + 1)];
  const isError = [3, 11, 12].includes(type) || (type >= 1 && type <= 4);
  if (!isError) return `icmp ${type}/${code}`;
  const mtu = bytes.readUInt32BE(transport + 4);
  const about = readPacket(bytes, transport + 8);
  return `icmp ${type}/${code}${mtu === 0 ? '' : ` mtu ${mtu}`} (${about})`;
}
