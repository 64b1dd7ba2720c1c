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
import { WITHDRAW_MODES } from './withdrawal/decision.ts';

const socketPath = {
  flag: '--socket-path PATH',
  env: 'ISTHMUS_SOCKET_PATH',
  default: '/run/isthmus/agent.sock',
  parse: parseText,
  help: "unix socket of the agent's API",
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
    help: "etcd client file of the own cluster, in Cilium's format",
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
  bpfRoot,
  cgroupRoot: {
    flag: '--cgroup-root DIR',
    env: 'ISTHMUS_CGROUP_ROOT',
    parse: parseText,
    help: 'cgroup v2 folder whose sockets reach services; default: where the hierarchy is mounted',
  },
  stateDir: {
    flag: '--state-dir DIR',
    env: 'ISTHMUS_STATE_DIR',
    default: '/run/isthmus',
    parse: parseText,
    help: 'folder where endpoints are kept over restarts',
  },
  socketPath,
  tunnelPort: {
    flag: '--tunnel-port PORT',
    env: 'ISTHMUS_TUNNEL_PORT',
    default: '8472',
    parse: integerParser(1, 65_535),
    help: 'UDP port of VXLAN; the same on every node of the mesh',
  },
  tunnelDevice,
  policyDefaultLocalCluster: {
    flag: '--policy-default-local-cluster BOOLEAN',
    env: 'ISTHMUS_POLICY_DEFAULT_LOCAL_CLUSTER',
    default: 'true',
    parse: parseBoolean,
    help: 'a selector of peers that names no cluster means the own one',
  },
  ...PROCESS_OPTIONS,
  objectDir: {
    flag: '--object-dir DIR',
    env: 'ISTHMUS_OBJECT_DIR',
    parse: parseText,
    help: 'folder of the compiled eBPF programs; default: dist/bpf of this package',
  },
});

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

/** Options of `clustermesh-agent uninstall`. */
export const UNINSTALL_OPTIONS = defineOptions({ bpfRoot, tunnelDevice, socketPath });
