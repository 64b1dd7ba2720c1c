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

/**
 * Changes with every change of a layout. Programs accept no configuration of another one; what becomes of pinned maps is
 * said map by map in `agent/datapath/map-schema.ts`.
 */
export const LAYOUT_VERSION = 2;

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
/** What policy denies is told and counted, and passes. */
export const ENDPOINT_AUDIT = 4;

/** Number of the host itself as an endpoint. Its row stands under the address "::", and it has no interface. */
export const HOST_ENDPOINT_ID = 0xffff;

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

/** Flags of POLICY_VALUE. */
export const POLICY_DENY = 1;
/** Of a row that allows any identity: of pods only those that have a row of endpoint 0. */
export const POLICY_KNOWN_ONLY = 2;

/** Direction as the maps count it, from the endpoint's point of view. */
export const DIRECTIONS = ['ingress', 'egress'] as const;

export const SERVICE_KEY = {
  size: 24,
  fields: { address: 0, port: 16, protocol: 18, scope: 19, slot: 20 },
} as const satisfies StructLayout;

/** Values of SERVICE_KEY's scope, by index. */
export const SERVICE_SCOPES = ['internal', 'external'] as const;

export const SERVICE_VALUE = {
  size: 24,
  fields: {
    count: 0,
    backendId: 4,
    serviceId: 8,
    affinitySeconds: 12,
    maglevSize: 16,
    flags: 20,
    pad: 22,
  },
} as const satisfies StructLayout;

/** Flag of SERVICE_VALUE: may be called from outside the node. */
export const SERVICE_EXTERNAL = 1;
/** Flag of SERVICE_VALUE: backends are picked by Maglev, where there are two or more. */
export const SERVICE_MAGLEV = 2;
/** Flag of SERVICE_VALUE: its members or its Maglev table are being written, and cannot be relied on after a crash. */
export const SERVICE_WRITING = 4;

export const BACKEND = {
  size: 24,
  fields: { address: 0, port: 16, clusterId: 18, protocol: 20, flags: 21, pad: 22 },
} as const satisfies StructLayout;

export const AFFINITY_KEY = {
  size: 24,
  fields: { client: 0, serviceId: 16, clientKind: 20, pad: 21 },
} as const satisfies StructLayout;

export const AFFINITY_VALUE = {
  size: 16,
  fields: { usedNs: 0, backendId: 8, pad: 12 },
} as const satisfies StructLayout;

/** Key of the members map; its value is one of MEMBER_ACTIVE and MEMBER_DRAINING, 4 bytes. */
export const MEMBER_KEY = {
  size: 8,
  fields: { serviceId: 0, backendId: 4 },
} as const satisfies StructLayout;

/** Gets new flows of the clients and sockets that remember it. */
export const MEMBER_ACTIVE = 1;
/** Keeps the flows that it has, and gets no new ones. */
export const MEMBER_DRAINING = 2;

export const MAGLEV_KEY = {
  size: 8,
  fields: { serviceId: 0, block: 4 },
} as const satisfies StructLayout;

/** Entries of a Maglev table in one entry of the map. */
export const MAGLEV_BLOCK_ENTRIES = 64;

export const MAGLEV_BLOCK = {
  size: 256,
  fields: { backendIds: 0 },
} as const satisfies StructLayout;

export const SOCKET_KEY = {
  size: 32,
  fields: { cookie: 0, address: 8, port: 24, pad: 26 },
} as const satisfies StructLayout;

export const TRANSLATION = {
  size: 20,
  fields: { address: 0, port: 16, protocol: 18, pad: 19 },
} as const satisfies StructLayout;

export const CHOICE = {
  size: 8,
  fields: { serviceId: 0, backendId: 4 },
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
  size: 32,
  fields: { expiresNs: 0, identity: 8, flags: 12, icmpType: 13, revision: 14, tunnelEndpoint: 16 },
} as const satisfies StructLayout;

/** Flags of CT_VALUE. */
export const CT_REPLIED = 1;
export const CT_ESTABLISHED = 16;
export const CT_VIA_OVERLAY = 32;
export const CT_TRANSLATED = 64;

export const NAT_KEY = {
  size: 40,
  fields: {
    source: 0,
    destination: 16,
    sourcePort: 32,
    destinationPort: 34,
    protocol: 36,
    pad: 37,
  },
} as const satisfies StructLayout;

export const NAT_VALUE = {
  size: 56,
  fields: {
    expiresNs: 0,
    source: 8,
    destination: 24,
    sourcePort: 40,
    destinationPort: 42,
    serviceId: 44,
    backendId: 48,
    kind: 52,
    flags: 53,
    pad: 54,
  },
} as const satisfies StructLayout;

/** Flag of NAT_VALUE's kind: from the backend to the client. */
export const NAT_REVERSE = 1;
/** Flag of NAT_VALUE's kind: the client is outside of the node. */
export const NAT_OUTSIDE = 2;

export const FRAGMENT_KEY = {
  size: 40,
  fields: { source: 0, destination: 16, id: 32, protocol: 36, pad: 37 },
} as const satisfies StructLayout;

export const FRAGMENT_VALUE = {
  size: 4,
  fields: { sourcePort: 0, destinationPort: 2 },
} as const satisfies StructLayout;

export const CONFIG = {
  size: 56,
  fields: {
    layoutVersion: 0,
    tunnelIfindex: 4,
    clusterId: 8,
    clusterShift: 10,
    overlaySourceCheck: 11,
    tunnelMtu: 12,
    traceLevel: 16,
    flags: 17,
    natPortFirst: 18,
    natPortLast: 20,
    policyRevision: 22,
    node4: 24,
    node6: 40,
  },
} as const satisfies StructLayout;

/** Flag of CONFIG: frontends may be called from outside the node. */
export const CONFIG_EXTERNAL_SERVICES = 1;
/** Flag of CONFIG: packets to endpoints of other nodes leave by the node's own routes. */
export const CONFIG_NATIVE_ROUTING = 2;
/** Flag of CONFIG: ENDPOINT_AUDIT for every endpoint. */
export const CONFIG_POLICY_AUDIT = 4;
/** Flag of CONFIG: policy judges what the node itself sends to its endpoints. */
export const CONFIG_LOCALHOST_JUDGED = 8;
/** Flag of CONFIG: the host has a row among the endpoints, whose policy judges it. */
export const CONFIG_HOST_JUDGED = 16;
/** Flag of CONFIG: the host is no node; it has an identity of its own, and is called through the tunnel as a pod is. */
export const CONFIG_MACHINE = 32;
/** Flag of CONFIG: all that the host sends and gets by its own devices is judged; FIREWALL says how long. */
export const CONFIG_FIREWALL = 64;

/** Values of CONFIG's overlaySourceCheck, by index. */
export const OVERLAY_SOURCE_CHECKS = ['off', 'cluster', 'strict'] as const;

export const FIREWALL = {
  size: 8,
  fields: { untilNs: 0 },
} as const satisfies StructLayout;

export const FIREWALL_KEY = {
  size: 20,
  fields: { peer: 0, port: 16, protocol: 18, direction: 19 },
} as const satisfies StructLayout;

export const COUNTER = {
  size: 16,
  fields: { packets: 0, bytes: 8 },
} as const satisfies StructLayout;

/** An event about a packet: EVENT_KINDS `drop`, `trace` and `policy-audit`. */
export const EVENT = {
  size: 160,
  fields: {
    timestampNs: 0,
    kind: 8,
    reason: 9,
    direction: 10,
    state: 11,
    ifindex: 12,
    sourceIdentity: 16,
    destinationIdentity: 20,
    length: 24,
    endpointId: 28,
    captured: 30,
    packet: 32,
  },
} as const satisfies StructLayout;

/** An event about a socket's call: EVENT_KINDS `service`. */
export const SERVICE_EVENT = {
  size: 64,
  fields: {
    timestampNs: 0,
    kind: 8,
    reason: 9,
    direction: 10,
    protocol: 11,
    frontendPort: 12,
    backendPort: 14,
    frontend: 16,
    backend: 32,
    cookie: 48,
    clusterId: 56,
    pad: 58,
  },
} as const satisfies StructLayout;

/** Kinds of events; their numbers begin at 1. */
export const EVENT_KINDS = ['drop', 'trace', 'service', 'policy-audit'] as const;

/** Values of EVENT's state, by index: what connection tracking said of the packet. */
export const FLOW_STATES = ['unknown', 'new', 'established', 'reply', 'related'] as const;

/** Values of CONFIG's traceLevel, by index: which packets that went on are told as events. */
export const TRACE_LEVELS = ['none', 'low', 'medium', 'maximum'] as const;

export const EVENT_CONTROL = {
  size: 16,
  fields: { intervalNs: 0, burstNs: 8 },
} as const satisfies StructLayout;

export const EVENT_BUCKET = {
  size: 24,
  fields: { fullNs: 0, suppressed: 8, lost: 16 },
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
  mesh_affinity_key: AFFINITY_KEY,
  mesh_affinity_value: AFFINITY_VALUE,
  mesh_member_key: MEMBER_KEY,
  mesh_maglev_key: MAGLEV_KEY,
  mesh_maglev_block: MAGLEV_BLOCK,
  mesh_socket_key: SOCKET_KEY,
  mesh_translation: TRANSLATION,
  mesh_choice: CHOICE,
  mesh_ct_key: CT_KEY,
  mesh_ct_value: CT_VALUE,
  mesh_nat_key: NAT_KEY,
  mesh_nat_value: NAT_VALUE,
  mesh_fragment_key: FRAGMENT_KEY,
  mesh_fragment_value: FRAGMENT_VALUE,
  mesh_config: CONFIG,
  mesh_firewall: FIREWALL,
  mesh_firewall_key: FIREWALL_KEY,
  mesh_counter: COUNTER,
  mesh_event: EVENT,
  mesh_service_event: SERVICE_EVENT,
  mesh_event_control: EVENT_CONTROL,
  mesh_event_bucket: EVENT_BUCKET,
};

/** Entries of the metrics map for each direction, used or not. */
export const REASON_LIMIT = 256;

/**
 * What a packet was counted under, by number, in their order. Numbers and names are kept for ever. Below 16: the packet
 * went on. From 130: it was dropped, or the connection refused; under Cilium's number where Cilium has one for it
 * (pkg/monitor/api/drop.go), else under one of ours, from 224. `docs/datapath.md` says what to do about each.
 */
export const REASONS: ReadonlyMap<number, string> = new Map([
  [0, 'forwarded'],
  [1, 'forwarded-overlay'],
  [2, 'passed-to-stack'],
  [3, 'service-translated'],
  [4, 'policy-audited'],
  [132, 'invalid-source'],
  [133, 'policy-denied'],
  [134, 'invalid-packet'],
  [136, 'packet-too-big'],
  [139, 'unsupported-protocol'],
  [141, 'tunnel-failed'],
  [147, 'no-tunnel-key'],
  [152, 'no-endpoint'],
  [158, 'service-no-backend'],
  [160, 'no-tunnel-endpoint'],
  [167, 'nat-exhausted'],
  [168, 'nat-unsupported'],
  [169, 'no-route'],
  [171, 'invalid-identity'],
  [172, 'overlay-source-unknown'],
  [175, 'fragment-not-found'],
  [181, 'policy-deny-rule'],
  [202, 'no-config'],
  [224, 'overlay-source-mismatch'],
  [225, 'overlay-cluster-mismatch'],
  [240, 'overlay-node-unknown'],
  [241, 'overlay-source-cluster'],
  [242, 'overlay-source-ours'],
  [244, 'packet-too-big-silent'],
]);

/** First number of REASONS that stands for a drop; Cilium's DropMin. */
export const FIRST_DROP_REASON = 130;

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
