import { PEER_CIDR_MODES } from '../mesh/remote/announced.ts';
import { CLUSTER_OPTIONS } from '../mesh/runtime/cluster-options.ts';
import {
  choiceParser,
  integerParser,
  parseBoolean,
  parseDuration,
  parseHostPort,
  parseText,
} from '../mesh/runtime/option-parsers.ts';
import { defineOptions } from '../mesh/runtime/options.ts';
import { PROCESS_OPTIONS } from '../mesh/runtime/process-options.ts';
import { parseIpAddress } from '../mesh/wire/ip.ts';
import { LB_ALGORITHMS } from '../mesh/wire/local-service.ts';
import { TRACE_LEVELS } from '../mesh/wire/maps.ts';
import { AGENT_DOWN_POLICIES } from './cni/conf-list.ts';
import { DEFAULT_EVENT_RATE } from './datapath/event-rate.ts';
import { MAP_SIZE_OPTIONS } from './datapath/map-size-options.ts';
import {
  DEFAULT_MAGLEV_TABLE_SIZE,
  MAGLEV_TABLE_SIZES,
  type MaglevTableSize,
} from './datapath/ops/maglev.ts';
import { PATH_OPTIONS } from './datapath/path-options.ts';
import { POLICY_OPTIONS } from './datapath/policy-options.ts';
import { NODE_ENROLLMENT_OPTIONS } from './enrollment/enrollment-options.ts';
import { MACHINE_OPTIONS } from './machine/machine-options.ts';
import { SERVICE_SCOPES } from './merge/service-rules.ts';
import { WITHDRAW_MODES } from './withdrawal/decision.ts';

const socketPath = {
  flag: '--socket-path PATH',
  env: 'ISTHMUS_SOCKET_PATH',
  default: '/run/isthmus/agent.sock',
  parse: parseText,
  help: "unix socket of the agent's API",
} as const;

const stateDir = {
  flag: '--state-dir DIR',
  env: 'ISTHMUS_STATE_DIR',
  default: '/run/isthmus',
  parse: parseText,
  help: 'folder where endpoints are kept over restarts',
} as const;

const bpfRoot = {
  flag: '--bpf-root DIR',
  env: 'ISTHMUS_BPF_ROOT',
  default: '/sys/fs/bpf',
  parse: parseText,
  help: 'folder inside a mounted bpffs; maps and links are pinned below isthmus/ there',
} as const;

const tunnelDevice = {
  flag: '--tunnel-device NAME',
  env: 'ISTHMUS_TUNNEL_DEVICE',
  default: 'isthmus_vxlan',
  parse: parseText,
  help: 'name of the VXLAN device',
} as const;

/** A peer is asked for a sign of life three times in this time: more often than each 300 ms would be a load. */
function parseStaleAfter(text: string): number {
  const milliseconds = parseDuration(text);
  if (milliseconds < 1000) throw new Error(`${text} is too short: expected at least 1s`);
  return milliseconds;
}

function parseMaglevTableSize(text: string): MaglevTableSize {
  const found = MAGLEV_TABLE_SIZES.find((size) => String(size) === text);
  if (found !== undefined) return found;
  throw new Error(
    `cannot parse ${JSON.stringify(text)}: expected one of ${MAGLEV_TABLE_SIZES.join(', ')}`,
  );
}

/** The plugin itself refuses longer ones: a container runtime gives up before. */
const MAX_AGENT_DOWN_TIMEOUT_MS = 600_000;

function parseAgentDownTimeout(text: string): number {
  const milliseconds = parseDuration(text);
  if (milliseconds <= MAX_AGENT_DOWN_TIMEOUT_MS && Number.isInteger(milliseconds))
    return milliseconds;
  throw new Error(`${text} is too long: expected at most 10m, in whole milliseconds`);
}

const cniPlugin = {
  cniBinDir: {
    flag: '--cni-bin-dir DIR',
    env: 'ISTHMUS_CNI_BIN_DIR',
    default: '/opt/cni/bin',
    parse: parseText,
    help: 'folder of CNI plugins, where the container runtime looks for ours',
  },
  cniWhenAgentDown: {
    flag: '--cni-when-agent-down POLICY',
    env: 'ISTHMUS_CNI_WHEN_AGENT_DOWN',
    default: 'wait',
    parse: choiceParser(AGENT_DOWN_POLICIES),
    help: 'what becomes of a pod that is started while no agent answers: wait: its start waits and then fails, to be tried again; open: it starts without the mesh and its policies, and is taken over later',
  },
  cniAgentDownTimeout: {
    flag: '--cni-agent-down-timeout DURATION',
    env: 'ISTHMUS_CNI_AGENT_DOWN_TIMEOUT',
    parse: parseAgentDownTimeout,
    help: 'how long the start of a pod waits for an agent; at most 10m; default 30s, or 0s with open',
  },
} as const;

const cniConfDir = {
  flag: '--cni-conf-dir DIR',
  env: 'ISTHMUS_CNI_CONF_DIR',
  parse: parseText,
} as const;

/** A ring's size must be pages, and a power of two. */
function parseRingSize(text: string): number {
  const bytes = integerParser(4096, 1 << 28)(text);
  if ((bytes & (bytes - 1)) === 0) return bytes;
  throw new Error(`cannot parse ${JSON.stringify(text)}: expected a power of two`);
}

/** Options of `clustermesh-agent run`. */
export const RUN_OPTIONS = defineOptions({
  ...CLUSTER_OPTIONS,
  nodeName: {
    flag: '--node-name NAME',
    env: 'ISTHMUS_NODE_NAME',
    parse: parseText,
    required: true,
    help: 'name of this node',
  },
  nodeIps: {
    flag: '--node-ip ADDRESS',
    env: 'ISTHMUS_NODE_IP',
    parse: (text: string) => parseIpAddress(text),
    required: true,
    repeatable: true,
    help: 'underlay address of this node, one for each family',
  },
  etcdConfig: {
    flag: '--etcd-config FILE',
    env: 'ISTHMUS_ETCD_CONFIG',
    parse: parseText,
    required: true,
    help: "etcd client file of the own cluster, in Cilium's format; not with --enrollment-address",
  },
  clustermeshConfig: {
    flag: '--clustermesh-config DIR',
    env: 'ISTHMUS_CLUSTERMESH_CONFIG',
    parse: parseText,
    help: 'directory with an etcd client file for each peer, named like its cluster; without it there are no peers',
  },
  peerStaleAfter: {
    flag: '--peer-stale-after DURATION',
    env: 'ISTHMUS_PEER_STALE_AFTER',
    default: '30s',
    parse: parseStaleAfter,
    help: "silence of a peer's control plane after which its backends are used last; at least 1s",
  },
  cacheTtl: {
    flag: '--clustermesh-cache-ttl DURATION',
    env: 'ISTHMUS_CLUSTERMESH_CACHE_TTL',
    default: '2m',
    parse: parseDuration,
    help: "silence of a peer's control plane after which its backends go if its nodes do not answer either; 0 keeps them for ever",
  },
  withdraw: {
    flag: '--withdraw MODE',
    env: 'ISTHMUS_WITHDRAW',
    default: 'auto',
    parse: choiceParser(WITHDRAW_MODES),
    help: 'auto: never the last backends of a service; always: those, too; never: silent peers keep being used like any other',
  },
  peerCidrs: {
    flag: '--peer-cidrs MODE',
    env: 'ISTHMUS_PEER_CIDRS',
    default: 'learn',
    parse: choiceParser(PEER_CIDR_MODES),
    help: 'learn: peers may announce what no other cluster holds, and those listed in announced.json of the state directory what is listed there; strict: only what is listed; open: everything but what nobody may have',
  },
  registryAddress: {
    flag: '--registry-address HOST:PORT',
    env: 'ISTHMUS_REGISTRY_ADDRESS',
    parse: parseHostPort,
    help: "registry of the own cluster's apiserver; without it this node is published by its YAML alone",
  },
  ...NODE_ENROLLMENT_OPTIONS,
  ...MACHINE_OPTIONS,
  bpfRoot,
  cgroupRoot: {
    flag: '--cgroup-root DIR',
    env: 'ISTHMUS_CGROUP_ROOT',
    parse: parseText,
    help: 'cgroup v2 folder whose sockets reach services; default: where the hierarchy is mounted',
  },
  stateDir,
  socketPath,
  tunnelPort: {
    flag: '--tunnel-port PORT',
    env: 'ISTHMUS_TUNNEL_PORT',
    default: '8472',
    parse: integerParser(1, 65_535),
    help: 'UDP port of VXLAN; the same on every node of the mesh',
  },
  tunnelDevice,
  ...PATH_OPTIONS,
  ...MAP_SIZE_OPTIONS,
  services: {
    flag: '--services SCOPE',
    env: 'ISTHMUS_SERVICES',
    parse: choiceParser(SERVICE_SCOPES),
    help: 'which Services this node translates by their cluster addresses: global: those of the mesh, the others are left to kube-proxy; all: every one; default: global where something of a kube-proxy is found on the node, else all',
  },
  kubeProxyReplacement: {
    flag: '--kube-proxy-replacement BOOLEAN',
    env: 'ISTHMUS_KUBE_PROXY_REPLACEMENT',
    default: 'false',
    parse: parseBoolean,
    help: 'translates every Service, also at externalIPs, load balancer addresses and node ports, and for clients outside the node; for nodes without kube-proxy',
  },
  devices: {
    flag: '--devices NAME',
    env: 'ISTHMUS_DEVICES',
    parse: parseText,
    repeatable: true,
    help: 'with --kube-proxy-replacement: interface of this node by which clients outside come in; default: those with the node addresses',
  },
  lbAlgorithm: {
    flag: '--bpf-lb-algorithm ALGORITHM',
    env: 'ISTHMUS_BPF_LB_ALGORITHM',
    default: 'random',
    parse: choiceParser(LB_ALGORITHMS),
    help: 'how a backend is picked where the annotation service.cilium.io/lb-algorithm of a Service says nothing: random, or maglev, by which most clients keep theirs when others come and go',
  },
  maglevTableSize: {
    flag: '--bpf-lb-maglev-table-size PLACES',
    env: 'ISTHMUS_BPF_LB_MAGLEV_TABLE_SIZE',
    default: String(DEFAULT_MAGLEV_TABLE_SIZE),
    parse: parseMaglevTableSize,
    help: `places in the table of each Service picked by maglev, at least a hundred times as many as backends: ${MAGLEV_TABLE_SIZES.join(', ')}`,
  },
  cniConfDir: {
    ...cniConfDir,
    help: "folder of the container runtime's CNI configuration: clustermesh-cni is chained behind its first file, and again whenever somebody rewrites that; default: nothing is touched",
  },
  ...cniPlugin,
  policyDefaultLocalCluster: {
    flag: '--policy-default-local-cluster BOOLEAN',
    env: 'ISTHMUS_POLICY_DEFAULT_LOCAL_CLUSTER',
    default: 'true',
    parse: parseBoolean,
    help: 'a selector of peers that names no cluster means the own one',
  },
  ...POLICY_OPTIONS,
  traceLevel: {
    flag: '--trace-level LEVEL',
    env: 'ISTHMUS_TRACE_LEVEL',
    default: 'none',
    parse: choiceParser(TRACE_LEVELS),
    help: 'which packets that went on are told to `clustermesh monitor` while somebody listens: none; low: those that open or reset a flow; medium: FIN, ICMP and translations of services, too; maximum: every packet. Changed at run time by `clustermesh-agent trace-level`',
  },
  eventsPerSecond: {
    flag: '--bpf-events-default-rate-limit EVENTS',
    env: 'ISTHMUS_BPF_EVENTS_DEFAULT_RATE_LIMIT',
    default: String(DEFAULT_EVENT_RATE.perSecond),
    parse: integerParser(1, 1_000_000),
    help: 'events (drops, traces, services: of each) that each CPU may tell in a second; the others are counted',
  },
  eventsBurst: {
    flag: '--bpf-events-default-burst-limit EVENTS',
    env: 'ISTHMUS_BPF_EVENTS_DEFAULT_BURST_LIMIT',
    default: String(DEFAULT_EVENT_RATE.burst),
    parse: integerParser(1, 1_000_000),
    help: 'events of each kind that each CPU may tell at once, after a silence',
  },
  monitorBufferBytes: {
    flag: '--monitor-buffer-size BYTES',
    env: 'ISTHMUS_MONITOR_BUFFER_SIZE',
    default: '1048576',
    parse: parseRingSize,
    help: 'ring between the eBPF programs and the agent, a power of two; takes effect when the datapath is first made',
  },
  monitorQueueSize: {
    flag: '--monitor-queue-size EVENTS',
    env: 'ISTHMUS_MONITOR_QUEUE_SIZE',
    default: '4096',
    parse: integerParser(1, 1_000_000),
    help: 'events that wait for a slow listener of `clustermesh monitor`; what comes then is lost to it, and it is told how much',
  },
  monitorHistory: {
    flag: '--monitor-history EVENTS',
    env: 'ISTHMUS_MONITOR_HISTORY',
    default: '0',
    parse: integerParser(0, 1_000_000),
    help: 'newest drops that are remembered for `clustermesh monitor --last`; 0: events are read only while somebody listens',
  },
  ...PROCESS_OPTIONS,
  objectDir: {
    flag: '--object-dir DIR',
    env: 'ISTHMUS_OBJECT_DIR',
    parse: parseText,
    help: 'folder of the compiled eBPF programs; default: dist/bpf of this package',
  },
});

function kindSwitch(flag: string, help: string) {
  return { flag, default: 'false', parse: parseBoolean, switch: true, help } as const;
}

function repeatedText(flag: string, help: string) {
  return { flag, parse: parseText, repeatable: true, help } as const;
}

/** Options of `clustermesh-agent monitor`. */
export const MONITOR_OPTIONS = defineOptions({
  drops: kindSwitch('--drops', 'packets that were dropped and calls that were refused'),
  audit: kindSwitch('--audit', 'packets that went on although policy denies them: audit mode'),
  trace: kindSwitch('--trace', 'packets that went on, as many as --trace-level of the agent says'),
  services: kindSwitch(
    '--services',
    "sockets' calls to services; translations from level medium on",
  ),
  from: repeatedText('--from SOURCE', 'address, prefix, or namespace/name of a pod of this node'),
  to: repeatedText('--to DESTINATION', 'the same of the destination, or of the backend of a call'),
  identity: repeatedText('--identity NUMBER', 'of either side'),
  endpoint: repeatedText('--endpoint ID', 'endpoint of this node, as in status'),
  cluster: repeatedText('--cluster NAME', 'cluster of either side'),
  port: repeatedText('--port PORT', 'of either side'),
  output: {
    flag: '-o,--output FORMAT',
    default: 'compact',
    parse: choiceParser(['compact', 'json', 'dict']),
    help: 'compact: a line each; json: a line of JSON each; dict: a block each',
  },
  last: {
    flag: '--last EVENTS',
    parse: integerParser(1, 1_000_000),
    help: 'the newest remembered drops, and no others unless --follow is given; needs --monitor-history of the agent',
  },
  follow: kindSwitch('--follow', 'with --last: go on with what happens from now on'),
  withNode: kindSwitch('--with-node', "the node's name in each line of compact"),
  socketPath,
});

/** Options of `clustermesh-agent trace-level`. */
export const TRACE_LEVEL_OPTIONS = defineOptions({ socketPath });

/** Options of `clustermesh-agent drain` and `undrain`. */
export const DRAIN_OPTIONS = defineOptions({ socketPath });

/** Options of `clustermesh-agent status`. */
export const STATUS_OPTIONS = defineOptions({
  socketPath,
  output: {
    flag: '-o,--output FORMAT',
    default: 'table',
    parse: choiceParser(['table', 'json']),
    help: 'table or json',
  },
});

/** Options of `clustermesh-agent cleanup`. */
export const CLEANUP_OPTIONS = defineOptions({
  bpfRoot,
  tunnelDevice,
  stateDir,
  socketPath,
  cniConfDir: {
    ...cniConfDir,
    default: '/etc/cni/net.d',
    help: "folder of the container runtime's CNI configuration, which clustermesh-cni is taken out of",
  },
  cniBinDir: cniPlugin.cniBinDir,
});

/** Options of `clustermesh-agent features`. */
export const FEATURES_OPTIONS = defineOptions({
  output: {
    flag: '-o,--output FORMAT',
    default: 'table',
    parse: choiceParser(['table', 'json']),
    help: 'table or json',
  },
});

/** Options of `clustermesh-agent cni install`. */
export const CNI_INSTALL_OPTIONS = defineOptions({
  cniConfDir: {
    ...cniConfDir,
    default: '/etc/cni/net.d',
    help: "folder of the container runtime's CNI configuration: clustermesh-cni is chained behind its first file",
  },
  ...cniPlugin,
  socketPath,
});

/** Options of `clustermesh-agent cni uninstall`. */
export const CNI_UNINSTALL_OPTIONS = defineOptions({
  cniConfDir: {
    ...cniConfDir,
    default: '/etc/cni/net.d',
    help: "folder of the container runtime's CNI configuration",
  },
  cniBinDir: cniPlugin.cniBinDir,
  socketPath,
});
