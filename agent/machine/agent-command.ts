/** How the agent of a machine is started, and what it takes from what joining has left. */
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import type { HostPort } from '../../mesh/runtime/option-parsers.ts';
import { parseOptions } from '../../mesh/runtime/options.ts';
import { projectPath } from '../../mesh/runtime/project-path.ts';
import { findCgroupRoot } from '../datapath/cgroup-root.ts';
import { RUN_OPTIONS } from '../options.ts';
import { MachineError, reasonOf } from './machine-error.ts';
import { MACHINE_FILES } from './machine-files.ts';
import { MACHINE_DNS_ADDRESS } from './machine-options.ts';
import { type MachineRecord, readMachineRecord } from './machine-record.ts';
import { hostPortText } from './server-probe.ts';
import type { DatapathPlace } from './surroundings.ts';

/** Where a machine's state is unless somebody says otherwise: it is kept over restarts of the machine. */
export const DEFAULT_MACHINE_STATE_DIR = '/var/lib/isthmus';

type Environment = Readonly<Record<string, string | undefined>>;

/**
 * The environment with what `machine.json` says added, where an agent is to run as a machine; what is set already wins. Throws
 * MachineError `state` when the machine has not joined.
 */
export function machineEnvironment(argv: readonly string[], env: Environment): Environment {
  const { values } = parseArgs({
    args: [...argv],
    strict: false,
    options: { machine: { type: 'boolean' }, 'state-dir': { type: 'string' } },
  });
  const machine = values.machine ?? env.ISTHMUS_MACHINE;
  if (machine !== true && machine !== 'true') return env;
  const given = values['state-dir'] ?? env.ISTHMUS_STATE_DIR;
  const stateDir = typeof given === 'string' && given !== '' ? given : DEFAULT_MACHINE_STATE_DIR;
  const record = readMachineRecord(stateDir);
  if (record === undefined) {
    throw new MachineError(
      'state',
      `cannot run as a machine: ${join(stateDir, MACHINE_FILES.machine)} is missing; run clustermesh vm join first`,
    );
  }
  const set = Object.entries(env).filter(([, value]) => value !== undefined && value !== '');
  return { ...recordEnvironment(stateDir, record), ...Object.fromEntries(set) };
}

/** Settings of the agent that joining has found out, as environment variables. */
function recordEnvironment(stateDir: string, record: MachineRecord): Record<string, string> {
  const [registry] = record.registries;
  return {
    ISTHMUS_CLUSTER_NAME: record.clusterName,
    ISTHMUS_CLUSTER_ID: String(record.clusterId),
    ISTHMUS_MAX_CONNECTED_CLUSTERS: String(record.maxConnectedClusters),
    ISTHMUS_NODE_NAME: record.name,
    ISTHMUS_NODE_IP: record.addresses.join(','),
    ISTHMUS_ETCD_CONFIG: join(stateDir, MACHINE_FILES.etcdConfig),
    ISTHMUS_CLUSTERMESH_CONFIG: join(stateDir, MACHINE_FILES.peers),
    ...(registry === undefined ? {} : { ISTHMUS_REGISTRY_ADDRESS: hostPortText(registry) }),
    ISTHMUS_TUNNEL_PORT: String(record.tunnelPort),
    ISTHMUS_STATE_DIR: stateDir,
    // Nobody else translates Services or routes to pods here.
    ISTHMUS_SERVICES: 'all',
    ISTHMUS_HOST_ROUTES: 'all',
  };
}

/** Program and arguments of the agent. */
export function agentCommand(stateDir: string, flags: readonly string[]): readonly string[] {
  const program = projectPath('dist/agent/main.js');
  return [process.execPath, program, 'run', '--machine', `--state-dir=${stateDir}`, ...flags];
}

/** What the agent's flags say of where it works. */
export interface AgentPlace extends DatapathPlace {
  readonly socketPath: string;
  readonly tunnelDevice: string;
  /** Where names of Services will be answered; undefined: nowhere. */
  readonly dnsAddress: HostPort | undefined;
  readonly dnsClusterDomain: string;
}

/** Reads the flags as the agent will. Throws MachineError `usage` for those that it would refuse, `preflight` without cgroups. */
export function agentPlace(flags: readonly string[]): AgentPlace {
  try {
    const values = parseOptions(RUN_OPTIONS, flags, {
      ISTHMUS_CLUSTER_NAME: 'unknown',
      ISTHMUS_CLUSTER_ID: '1',
      ISTHMUS_NODE_NAME: 'unknown',
      ISTHMUS_NODE_IP: '192.0.2.1',
      ISTHMUS_ETCD_CONFIG: 'unknown',
    });
    const dnsAddress = values.dnsAddress ?? MACHINE_DNS_ADDRESS;
    return {
      bpfRoot: values.bpfRoot,
      cgroupRoot: values.cgroupRoot ?? findCgroupRoot(),
      objectDir: values.objectDir ?? projectPath('dist/bpf'),
      socketPath: values.socketPath,
      tunnelDevice: values.tunnelDevice,
      dnsAddress: dnsAddress === 'off' ? undefined : dnsAddress,
      dnsClusterDomain: values.dnsClusterDomain,
    };
  } catch (cause) {
    const code = cause instanceof Error && 'code' in cause ? cause.code : undefined;
    const isUsage = code === 'usage' || code === 'help';
    throw new MachineError(
      isUsage ? 'usage' : 'preflight',
      isUsage ? `flags of the agent, behind "--": ${reasonOf(cause)}` : reasonOf(cause),
      { cause },
    );
  }
}
