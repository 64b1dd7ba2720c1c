/** Checksums of test frames: written into what tests send, and verified in full in what programs made of it. */

const LINK_HEADER = 14;
const IPV4_HEADER = 20;
const IPV6_HEADER = 40;
const ICMP_HEADER = 8;
const PROTOCOLS = { icmp: 1, tcp: 6, udp: 17, icmp6: 58 } as const;
/** IPv6 extension headers that test frames have. */
const EXTENSIONS: ReadonlySet<number> = new Set([0, 43, 44, 60]);
const FRAGMENT_EXTENSION = 44;

/** An IP packet inside of a buffer. */
interface Layout {
  readonly family: 4 | 6;
  readonly protocol: number;
  readonly transport: number;
  readonly end: number;
  /** Some other fragment has the rest of what the transport checksum covers. */
  readonly isFragment: boolean;
}

/** The frame with its IPv4 and transport checksums filled in, of the packet that an ICMP error carries too. */
export function withChecksums(frame: Buffer): Buffer {
  const filled = Buffer.from(frame);
  fill(filled, LINK_HEADER, filled.length);
  return filled;
}

/** What is wrong with a frame's checksums and lengths, a sentence each; those of the packet in an ICMP error too. */
export function checksumProblems(frame: Buffer): string[] {
  return problems(frame, LINK_HEADER, { end: frame.length, isQuoted: false });
}

function layoutOf(bytes: Buffer, offset: number, end: number): Layout {
  if (bytes.readUInt8(offset) >> 4 === 4) {
    const length = bytes.readUInt16BE(offset + 2);
    return {
      family: 4,
      protocol: bytes.readUInt8(offset + 9),
      transport: offset + (bytes.readUInt8(offset) & 15) * 4,
      end: Math.min(end, offset + length),
      isFragment: (bytes.readUInt16BE(offset + 6) & 0x3fff) !== 0,
    };
  }
  let protocol = bytes.readUInt8(offset + 6);
  let transport = offset + IPV6_HEADER;
  let isFragment = false;
  while (EXTENSIONS.has(protocol)) {
    if (protocol === FRAGMENT_EXTENSION) isFragment = true;
    protocol = bytes.readUInt8(transport);
    transport += 8;
  }
  const length = bytes.readUInt16BE(offset + 4);
  return {
    family: 6,
    protocol,
    transport,
    end: Math.min(end, offset + IPV6_HEADER + length),
    isFragment,
  };
}

function checksumOffset(layout: Layout): number | undefined {
  switch (layout.protocol) {
    case PROTOCOLS.tcp:
      return layout.transport + 16;
    case PROTOCOLS.udp:
      return layout.transport + 6;
    case PROTOCOLS.icmp:
    case PROTOCOLS.icmp6:
      return layout.transport + 2;
    default:
      return undefined;
  }
}

function isIcmpError(bytes: Buffer, layout: Layout): boolean {
  const type = bytes.readUInt8(layout.transport);
  if (layout.protocol === PROTOCOLS.icmp) return [3, 11, 12].includes(type);
  return layout.protocol === PROTOCOLS.icmp6 && type >= 1 && type <= 4;
}

function fill(bytes: Buffer, offset: number, end: number): void {
  const layout = layoutOf(bytes, offset, end);
  const field = checksumOffset(layout);
  if (field !== undefined && !layout.isFragment && field + 2 <= layout.end) {
    if (isIcmpError(bytes, layout)) fill(bytes, layout.transport + ICMP_HEADER, layout.end);
    bytes.writeUInt16BE(0, field);
    const checksum = transportChecksum(bytes, offset, layout);
    bytes.writeUInt16BE(
      checksum === 0 && layout.protocol === PROTOCOLS.udp ? 0xffff : checksum,
      field,
    );
  }
  if (layout.family === 4) {
    bytes.writeUInt16BE(0, offset + 10);
    bytes.writeUInt16BE(fold(sum(bytes, offset, offset + IPV4_HEADER)), offset + 10);
  }
}

function problems(
  bytes: Buffer,
  offset: number,
  { end, isQuoted }: { end: number; isQuoted: boolean },
): string[] {
  const layout = layoutOf(bytes, offset, end);
  const found: string[] = [];
  const what = isQuoted ? 'inner ' : '';
  if (layout.family === 4 && fold(sum(bytes, offset, offset + IPV4_HEADER)) !== 0) {
    found.push(`${what}IPv4 header checksum is wrong`);
  }
  if (!isQuoted && layout.end !== end)
    found.push('length of the IP packet is not that of the frame');
  const field = checksumOffset(layout);
  // What an error quotes may be cut off behind the header: then its checksum cannot be verified.
  const length =
    layout.family === 4
      ? bytes.readUInt16BE(offset + 2)
      : IPV6_HEADER + bytes.readUInt16BE(offset + 4);
  const isWhole = offset + length <= end;
  if (field === undefined || layout.isFragment || !isWhole) return found;
  const isWithout =
    layout.protocol === PROTOCOLS.udp && layout.family === 4 && bytes.readUInt16BE(field) === 0;
  if (!isWithout && transportChecksum(bytes, offset, layout) !== 0) {
    found.push(`${what}checksum of protocol ${layout.protocol} is wrong`);
  }
  if (isIcmpError(bytes, layout)) {
    found.push(
      ...problems(bytes, layout.transport + ICMP_HEADER, { end: layout.end, isQuoted: true }),
    );
  }
  return found;
}

/** 0 when the field in it is right. */
function transportChecksum(bytes: Buffer, offset: number, layout: Layout): number {
  const { family, protocol, transport, end } = layout;
  const body = sum(bytes, transport, end);
  if (protocol === PROTOCOLS.icmp) return fold(body);
  const addresses =
    family === 4 ? sum(bytes, offset + 12, offset + 20) : sum(bytes, offset + 8, offset + 40);
  return fold(body + addresses + protocol + (end - transport));
}

function sum(bytes: Buffer, from: number, to: number): number {
  let total = 0;
  for (let at = from; at < to; at += 2) {
    total += at + 1 < to ? bytes.readUInt16BE(at) : bytes.readUInt8(at) << 8;
  }
  return total;
}

function fold(total: number): number {
  let folded = total;
  while (folded > 0xffff) folded = (folded & 0xffff) + Math.floor(folded / 0x10000);
  return ~folded & 0xffff;
}
