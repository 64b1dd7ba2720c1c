/** Options of the agent about how packets travel between nodes, and what the programs remember of them. */
import { choiceParser, integerParser, parseDuration } from '../../mesh/runtime/option-parsers.ts';
import { OVERLAY_SOURCE_CHECKS } from '../../mesh/wire/maps.ts';
import { HOST_ROUTE_MODES } from '../merge/host-ranges.ts';
import { CONNTRACK_TIMEOUTS, ROUTING_MODES } from './desired.ts';

const LONGEST_TIMEOUT_SECONDS = 2 ** 31;

/** Whole seconds, as the programs count. */
function parseTimeout(text: string): number {
  const seconds = parseDuration(text) / 1000;
  if (Number.isInteger(seconds) && seconds >= 1 && seconds <= LONGEST_TIMEOUT_SECONDS) {
    return seconds;
  }
  throw new Error(`cannot take ${JSON.stringify(text)}: expected whole seconds, at least 1s`);
}

function parseGcInterval(text: string): number {
  const milliseconds = parseDuration(text);
  if (milliseconds === 0 || milliseconds >= 1000) return milliseconds;
  throw new Error(`${text} is too short: expected at least 1s, or 0`);
}

/** Part of RUN_OPTIONS. Flags are Cilium's where it has them. */
export const PATH_OPTIONS = {
  routingMode: {
    flag: '--routing-mode MODE',
    env: 'ISTHMUS_ROUTING_MODE',
    default: 'tunnel',
    parse: choiceParser(ROUTING_MODES),
    help: "how packets reach pods of other nodes: tunnel: in VXLAN; native: by the node's own routes, which must lead there. What other nodes send through the tunnel is taken and answered in both",
  },
  hostRoutes: {
    flag: '--host-routes RANGE',
    env: 'ISTHMUS_HOST_ROUTES',
    default: 'peers',
    parse: choiceParser(HOST_ROUTE_MODES),
    help: "pods that programs of the node itself reach through the tunnel: peers: those of other clusters; all: also those of this cluster's other nodes, where no CNI carries that; off: none. Without effect with --routing-mode native",
  },
  mtu: {
    flag: '--mtu BYTES',
    env: 'ISTHMUS_MTU',
    parse: integerParser(1280, 65_535),
    help: "MTU of the network between nodes; default: that of the interfaces with the node's addresses",
  },
  overlaySourceCheck: {
    flag: '--overlay-source-check MODE',
    env: 'ISTHMUS_OVERLAY_SOURCE_CHECK',
    default: 'cluster',
    parse: choiceParser(OVERLAY_SOURCE_CHECKS),
    help: 'what a packet from the tunnel must prove: cluster: that it comes from a node of the mesh, under an identity and an address of that cluster as far as the address is known; strict: also that its sender lives behind that node; off: nothing',
  },
  ctTimeoutTcp: {
    flag: '--bpf-ct-timeout-regular-tcp DURATION',
    env: 'ISTHMUS_BPF_CT_TIMEOUT_REGULAR_TCP',
    default: `${CONNTRACK_TIMEOUTS.tcp}s`,
    parse: parseTimeout,
    help: 'silence after which a TCP connection is forgotten, so that policy judges its answers',
  },
  ctTimeoutTcpSyn: {
    flag: '--bpf-ct-timeout-regular-tcp-syn DURATION',
    env: 'ISTHMUS_BPF_CT_TIMEOUT_REGULAR_TCP_SYN',
    default: `${CONNTRACK_TIMEOUTS.tcpSyn}s`,
    parse: parseTimeout,
    help: 'the same until its handshake is over',
  },
  ctTimeoutTcpFin: {
    flag: '--bpf-ct-timeout-regular-tcp-fin DURATION',
    env: 'ISTHMUS_BPF_CT_TIMEOUT_REGULAR_TCP_FIN',
    default: `${CONNTRACK_TIMEOUTS.tcpFin}s`,
    parse: parseTimeout,
    help: 'the same once both sides have closed it, or one has reset it',
  },
  ctTimeoutAny: {
    flag: '--bpf-ct-timeout-regular-any DURATION',
    env: 'ISTHMUS_BPF_CT_TIMEOUT_REGULAR_ANY',
    default: `${CONNTRACK_TIMEOUTS.any}s`,
    parse: parseTimeout,
    help: 'silence after which any other flow is forgotten: UDP, be it one answer or a stream, and ICMP',
  },
  ctMax: {
    flag: '--bpf-ct-global-max FLOWS',
    env: 'ISTHMUS_BPF_CT_GLOBAL_MAX',
    default: '262144',
    parse: integerParser(1024, 16_777_216),
    help: 'most flows that are remembered, of all protocols; of more, those go that were silent longest',
  },
  natMax: {
    flag: '--bpf-nat-global-max ENTRIES',
    env: 'ISTHMUS_BPF_NAT_GLOBAL_MAX',
    default: '131072',
    parse: integerParser(1024, 16_777_216),
    help: 'the same for translated flows, which have two entries each',
  },
  conntrackGcInterval: {
    flag: '--conntrack-gc-interval DURATION',
    env: 'ISTHMUS_CONNTRACK_GC_INTERVAL',
    default: '0',
    parse: parseGcInterval,
    help: 'time between two collections of flows that are over; 0: 15s to 5m, as it is worth while',
  },
} as const;
