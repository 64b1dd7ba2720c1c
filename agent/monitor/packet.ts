/** What the first bytes of a packet say: pure, and content with whatever is there of it. */
import { type IpAddress, ipFromBytes } from '../../mesh/wire/ip.ts';

/** A packet as far as its first bytes tell. What they do not say is undefined. */
export interface PacketSummary {
  /** `IPv4`, `IPv6`, `ARP`, or the EtherType as `0x88cc`. */
  readonly network: string;
  readonly source: IpAddress | undefined;
  readonly destination: IpAddress | undefined;
  /** `TCP`, `UDP`, `SCTP`, `ICMPv4`, `ICMPv6`, or `protocol 47`. */
  readonly protocol: string | undefined;
  readonly sourcePort: number | undefined;
  readonly destinationPort: number | undefined;
  /** TCP flags that are set, in the order of TCP_FLAGS. */
  readonly flags: readonly string[] | undefined;
  readonly icmp: IcmpSummary | undefined;
  /** A fragment after the first: it carries no ports. */
  readonly isLaterFragment: boolean;
  /** A header did not fit into the bytes that there are. */
  readonly isCutOff: boolean;
}

/** An ICMP message. */
export interface IcmpSummary {
  readonly type: number;
  readonly code: number;
  /** What the type is called; undefined for rare ones. */
  readonly name: string | undefined;
  /** Identifier of an echo. */
  readonly id: number | undefined;
  /** The packet that an error is about. */
  readonly about: PacketSummary | undefined;
}

const ETHERNET_HEADER = 14;
const ETHERTYPES: ReadonlyMap<number, string> = new Map([
  [0x0800, 'IPv4'],
  [0x86dd, 'IPv6'],
  [0x0806, 'ARP'],
]);

const PROTOCOLS: ReadonlyMap<number, string> = new Map([
  [1, 'ICMPv4'],
  [6, 'TCP'],
  [17, 'UDP'],
  [58, 'ICMPv6'],
  [132, 'SCTP'],
]);

/** Those that have ports. */
const PORTED: readonly string[] = ['TCP', 'UDP', 'SCTP'];

const TCP_FLAGS = ['FIN', 'SYN', 'RST', 'PSH', 'ACK', 'URG', 'ECE', 'CWR'] as const;

const ICMP4_NAMES: ReadonlyMap<number, string> = new Map([
  [0, 'echo reply'],
  [3, 'destination unreachable'],
  [5, 'redirect'],
  [8, 'echo request'],
  [11, 'time exceeded'],
  [12, 'parameter problem'],
]);
const ICMP6_NAMES: ReadonlyMap<number, string> = new Map([
  [1, 'destination unreachable'],
  [2, 'packet too big'],
  [3, 'time exceeded'],
  [4, 'parameter problem'],
  [128, 'echo request'],
  [129, 'echo reply'],
  [133, 'router solicitation'],
  [134, 'router advertisement'],
  [135, 'neighbour solicitation'],
  [136, 'neighbour advertisement'],
  [137, 'redirect'],
]);
/** Types that carry the packet they are about. */
const ICMP4_ERRORS: readonly number[] = [3, 5, 11, 12];
const ICMP6_ERRORS: readonly number[] = [1, 2, 3, 4];
/** Hop-by-hop, routing, fragment, authentication and destination options: in front of the transport's header. */
const IPV6_EXTENSIONS: readonly number[] = [0, 43, 44, 51, 60];

type Summary = { -readonly [Field in keyof PacketSummary]: PacketSummary[Field] };

/** Reads a packet from its Ethernet header on. Never throws: a broken packet is what a drop may be about. */
export function summarizePacket(bytes: Uint8Array): PacketSummary {
  if (bytes.length < ETHERNET_HEADER) return { ...emptySummary('unknown'), isCutOff: true };
  const type = viewOf(bytes).getUint16(12);
  const network = ETHERTYPES.get(type) ?? `0x${type.toString(16).padStart(4, '0')}`;
  return summarizeNetwork(network, bytes.subarray(ETHERNET_HEADER), { isInner: false });
}

function summarizeNetwork(
  network: string,
  bytes: Uint8Array,
  how: { readonly isInner: boolean },
): PacketSummary {
  const summary = emptySummary(network);
  try {
    if (network === 'IPv4') readIpv4(summary, bytes, how);
    else if (network === 'IPv6') readIpv6(summary, bytes, how);
  } catch (error) {
    // Reading beyond the end of a view is the one thing that can go wrong.
    if (!(error instanceof RangeError)) throw error;
    summary.isCutOff = true;
  }
  return summary;
}

function emptySummary(network: string): Summary {
  return {
    network,
    source: undefined,
    destination: undefined,
    protocol: undefined,
    sourcePort: undefined,
    destinationPort: undefined,
    flags: undefined,
    icmp: undefined,
    isLaterFragment: false,
    isCutOff: false,
  };
}

function readIpv4(summary: Summary, bytes: Uint8Array, how: { isInner: boolean }): void {
  const view = viewOf(bytes);
  summary.isLaterFragment = (view.getUint16(6) & 0x1fff) !== 0;
  const protocol = view.getUint8(9);
  summary.source = addressAt(bytes, 12, 4);
  summary.destination = addressAt(bytes, 16, 4);
  const headerLength = (view.getUint8(0) & 0x0f) * 4;
  readTransport(summary, protocol, bytes.subarray(headerLength), how);
}

function readIpv6(summary: Summary, bytes: Uint8Array, how: { isInner: boolean }): void {
  const view = viewOf(bytes);
  let next = view.getUint8(6);
  summary.source = addressAt(bytes, 8, 16);
  summary.destination = addressAt(bytes, 24, 16);
  let offset = 40;
  while (IPV6_EXTENSIONS.includes(next) && !summary.isLaterFragment) {
    const kind = next;
    next = view.getUint8(offset);
    const length = view.getUint8(offset + 1);
    if (kind === 44) summary.isLaterFragment = (view.getUint16(offset + 2) & 0xfff8) !== 0;
    offset += kind === 44 ? 8 : kind === 51 ? (length + 2) * 4 : (length + 1) * 8;
  }
  readTransport(summary, next, bytes.subarray(offset), how);
}

function readTransport(
  summary: Summary,
  protocol: number,
  bytes: Uint8Array,
  how: { readonly isInner: boolean },
): void {
  const name = PROTOCOLS.get(protocol) ?? `protocol ${protocol}`;
  summary.protocol = name;
  if (summary.isLaterFragment) return;
  if (name === 'ICMPv4' || name === 'ICMPv6') {
    summary.icmp = readIcmp(name, bytes, how);
    return;
  }
  if (!PORTED.includes(name)) return;
  const view = viewOf(bytes);
  summary.sourcePort = view.getUint16(0);
  summary.destinationPort = view.getUint16(2);
  // An error promises eight bytes of what it is about.
  if (name === 'TCP' && !how.isInner) summary.flags = tcpFlags(view.getUint8(13));
}

function readIcmp(
  name: 'ICMPv4' | 'ICMPv6',
  bytes: Uint8Array,
  { isInner }: { readonly isInner: boolean },
): IcmpSummary {
  const view = viewOf(bytes);
  const type = view.getUint8(0);
  const isV4 = name === 'ICMPv4';
  const isEcho = isV4 ? type === 0 || type === 8 : type === 128 || type === 129;
  const isError = (isV4 ? ICMP4_ERRORS : ICMP6_ERRORS).includes(type);
  return {
    type,
    code: view.getUint8(1),
    name: (isV4 ? ICMP4_NAMES : ICMP6_NAMES).get(type),
    id: isEcho ? view.getUint16(4) : undefined,
    about:
      isError && !isInner
        ? summarizeNetwork(isV4 ? 'IPv4' : 'IPv6', bytes.subarray(8), { isInner: true })
        : undefined,
  };
}

function tcpFlags(bits: number): string[] {
  return TCP_FLAGS.filter((_name, index) => (bits & (1 << index)) !== 0);
}

function addressAt(bytes: Uint8Array, offset: number, length: 4 | 16): IpAddress {
  if (offset + length > bytes.length) throw new RangeError('an address is cut off');
  return ipFromBytes(bytes.slice(offset, offset + length));
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
