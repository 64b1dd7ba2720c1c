import { CLUSTER_OPTIONS } from '../mesh/runtime/cluster-options.ts';
import {
  choiceParser,
  integerParser,
  parseBoolean,
  parseHostPort,
  parseLogLevel,
  parseText,
} from '../mesh/runtime/option-parsers.ts';
import { defineOptions } from '../mesh/runtime/options.ts';
import { parseIpAddress } from '../mesh/wire/ip.ts';

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
  logLevel: {
    flag: '--log-level LEVEL',
    env: 'ISTHMUS_LOG_LEVEL',
    default: 'info',
    parse: parseLogLevel,
    help: 'trace, debug, info, warn, error, fatal or silent',
  },
  objectDir: {
    flag: '--object-dir DIR',
    env: 'ISTHMUS_OBJECT_DIR',
    parse: parseText,
    help: 'folder of the compiled eBPF programs; default: dist/bpf of this package',
  },
});

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
