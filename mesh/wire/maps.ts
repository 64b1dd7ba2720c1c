/**
 * Bytes of the eBPF maps: the twin of `bpf/lib/wire.h`. A test compares both through the BTF of the compiled objects.
 * Numbers are in the host's order, which is little-endian on every machine that Isthmus supports; ports and addresses
 * are in network order.
 */
import { type IpAddress, type IpPrefix, ipFamily, ipFromBytes, ipToBytes } from './ip.ts';

/** Size of a C struct, and where each of its fields begins. */
export interface StructLayout {
  readonly size: number;
  readonly fields: Readonly<Record<string, number>>;
}

/** Changes with every change of a layout that keeps the size: pinned maps of another version are refused. */
export const LAYOUT_VERSION = 1;

/** `struct mesh_address`: either family, IPv4 as ::ffff:a.b.c.d. */
export const ADDRESS_SIZE = 16;

export const IPCACHE4_KEY = {
  size: 8,
  fields: { prefixlen: 0, address: 4 },
} as const satisfies StructLayout;

export const IPCACHE6_KEY = {
  size: 20,
  fields: { prefixlen: 0, address: 4 },
} as const satisfies StructLayout;

export const IPCACHE_VALUE = {
  size: 24,
  fields: { identity: 0, tunnelEndpoint: 4, clusterId: 20, flags: 22, pad: 23 },
} as const satisfies StructLayout;

/** Flag of IPCACHE_VALUE: the tunnel endpoint counts. */
export const IPCACHE_HAS_TUNNEL = 1;

export const ENDPOINT = {
  size: 36,
  fields: { ifindex: 0, identity: 4, endpointId: 8, flags: 10, mac: 12, pad: 18, interface: 20 },
} as const satisfies StructLayout;

/** Flags of ENDPOINT. */
export const ENDPOINT_INGRESS_ENFORCED = 1;
export const ENDPOINT_EGRESS_ENFORCED = 2;

export const POLICY_KEY = {
  size: 16,
  fields: {
    prefixlen: 0,
    identity: 4,
    endpointId: 8,
    direction: 10,
    protocol: 11,
    port: 12,
    pad: 14,
  },
} as const satisfies StructLayout;

/** Bits of POLICY_KEY that always count: identity, endpoint, direction. Then 8 of protocol and up to 16 of the port. */
export const POLICY_STATIC_BITS = 56;
export const POLICY_PROTOCOL_BITS = 8;
export const POLICY_FULL_BITS = 80;

export const POLICY_VALUE = {
  size: 4,
  fields: { flags: 0, width: 1, pad: 2 },
} as const satisfies StructLayout;

/** Flag of POLICY_VALUE. */
export const POLICY_DENY = 1;

/** Direction as the maps count it, from the endpoint's point of view. */
export const DIRECTIONS = ['ingress', 'egress'] as const;

export const SERVICE_KEY = {
  size: 24,
  fields: { address: 0, port: 16, protocol: 18, pad: 19, slot: 20 },
} as const satisfies StructLayout;

export const SERVICE_VALUE = {
  size: 8,
  fields: { count: 0, backendId: 4 },
} as const satisfies StructLayout;

export const BACKEND = {
  size: 24,
  fields: { address: 0, port: 16, clusterId: 18, protocol: 20, pad: 21 },
} as const satisfies StructLayout;

export const SOCKET_KEY = {
  size: 32,
  fields: { cookie: 0, address: 8, port: 24, pad: 26 },
} as const satisfies StructLayout;

export const TRANSLATION = {
  size: 20,
  fields: { address: 0, port: 16, pad: 18 },
} as const satisfies StructLayout;

export const CHOICE = {
  size: 8,
  fields: { slot: 0, backendId: 4 },
} as const satisfies StructLayout;

export const CT_KEY = {
  size: 40,
  fields: {
    source: 0,
    destination: 16,
    sourcePort: 32,
    destinationPort: 34,
    protocol: 36,
    direction: 37,
    pad: 38,
  },
} as const satisfies StructLayout;

export const CT_VALUE = {
  size: 16,
  fields: { expiresNs: 0, identity: 8, flags: 12, pad: 13 },
} as const satisfies StructLayout;

export const FRAGMENT_KEY = {
  size: 40,
  fields: { source: 0, destination: 16, id: 32, protocol: 36, pad: 37 },
} as const satisfies StructLayout;

export const FRAGMENT_VALUE = {
  size: 4,
  fields: { sourcePort: 0, destinationPort: 2 },
} as const satisfies StructLayout;

export const CONFIG = {
  size: 12,
  fields: { layoutVersion: 0, tunnelIfindex: 4, clusterId: 8, clusterShift: 10, pad: 11 },
} as const satisfies StructLayout;

export const COUNTER = {
  size: 16,
  fields: { packets: 0, bytes: 8 },
} as const satisfies StructLayout;

/** The structs by their name in C. */
export const STRUCT_LAYOUTS: Readonly<Record<string, StructLayout>> = {
  mesh_ipcache4_key: IPCACHE4_KEY,
  mesh_ipcache6_key: IPCACHE6_KEY,
  mesh_ipcache_value: IPCACHE_VALUE,
  mesh_endpoint: ENDPOINT,
  mesh_policy_key: POLICY_KEY,
  mesh_policy_value: POLICY_VALUE,
  mesh_service_key: SERVICE_KEY,
  mesh_service_value: SERVICE_VALUE,
  mesh_backend: BACKEND,
  mesh_socket_key: SOCKET_KEY,
  mesh_translation: TRANSLATION,
  mesh_choice: CHOICE,
  mesh_ct_key: CT_KEY,
  mesh_ct_value: CT_VALUE,
  mesh_fragment_key: FRAGMENT_KEY,
  mesh_fragment_value: FRAGMENT_VALUE,
  mesh_config: CONFIG,
  mesh_counter: COUNTER,
};

/** Entries of the metrics map for each direction, used or not. */
export const REASON_LIMIT = 64;

/**
 * What a packet was counted under, by number. Numbers and names are kept for ever. Below 16: the packet went on;
 * from 16: it was dropped, or the connection refused. `docs/datapath.md` says what to do about each.
 */
export const REASONS: ReadonlyMap<number, string> = new Map([
  [0, 'forwarded'],
  [1, 'forwarded-overlay'],
  [2, 'passed-to-stack'],
  [3, 'service-translated'],
  [16, 'policy-denied'],
  [17, 'policy-deny-rule'],
  [18, 'invalid-source'],
  [19, 'invalid-packet'],
  [20, 'unsupported-protocol'],
  [21, 'fragment-not-found'],
  [22, 'no-endpoint'],
  [23, 'invalid-identity'],
  [24, 'no-tunnel-key'],
  [25, 'overlay-source-unknown'],
  [26, 'overlay-source-mismatch'],
  [27, 'overlay-cluster-mismatch'],
  [28, 'tunnel-failed'],
  [29, 'no-config'],
  [30, 'service-no-backend'],
]);

/** First number of REASONS that stands for a drop. */
export const FIRST_DROP_REASON = 16;

const ZERO = 48;
const NINE = 57;
const SLASH = 47;

const IANA_PROTOCOLS = { TCP: 6, UDP: 17, SCTP: 132 } as const;

/** IANA number of a transport protocol. */
export function protocolNumber(protocol: keyof typeof IANA_PROTOCOLS): number {
  return IANA_PROTOCOLS[protocol];
}

/** Name of an IANA number that services may have, or undefined. */
export function protocolName(number: number): keyof typeof IANA_PROTOCOLS | undefined {
  switch (number) {
    case 6:
      return 'TCP';
    case 17:
      return 'UDP';
    case 132:
      return 'SCTP';
    default:
      return undefined;
  }
}

/** Writes an address as `struct mesh_address` into zeroed memory. */
export function writeAddress(view: DataView, offset: number, address: IpAddress): void {
  if (ipFamily(address) === 4) {
    view.setUint16(offset + 10, 0xffff);
    writeIpv4(view, offset + 12, address);
    return;
  }
  ipToBytes(address).forEach((byte, index) => {
    view.setUint8(offset + index, byte);
  });
}

/** Writes the 4 bytes of an IPv4 address or of a prefix's address. By hand, because maps are filled by the 100,000. */
export function writeIpv4(view: DataView, offset: number, text: IpAddress | IpPrefix): void {
  let byte = 0;
  let position = offset;
  for (let index = 0; index < text.length; index += 1) {
    const code = text.charCodeAt(index);
    if (code >= ZERO && code <= NINE) {
      byte = byte * 10 + code - ZERO;
    } else {
      view.setUint8(position, byte);
      position += 1;
      byte = 0;
      if (code === SLASH) return;
    }
  }
  view.setUint8(position, byte);
}

/** Reads a `struct mesh_address`. */
export function readAddress(view: DataView, offset: number): IpAddress {
  const bytes = new Uint8Array(view.buffer, view.byteOffset + offset, ADDRESS_SIZE);
  return isMapped4(bytes) ? ipFromBytes(bytes.slice(12)) : ipFromBytes(bytes.slice());
}

function isMapped4(bytes: Uint8Array): boolean {
  for (let index = 0; index < 10; index += 1) {
    if (bytes[index] !== 0) return false;
  }
  return bytes[10] === 0xff && bytes[11] === 0xff;
}
