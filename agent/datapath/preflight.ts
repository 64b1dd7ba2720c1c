/** What must hold before the datapath can start, checked without changing anything. */
import { existsSync, readFileSync, statfsSync } from 'node:fs';
import { release } from 'node:os';
import { dirname, join } from 'node:path';
import { missingCapabilities, parseEffective } from './capabilities.ts';
import { DatapathError } from './datapath-error.ts';
import type { DatapathOptions } from './desired.ts';
import { type Feature, probeFeatures } from './features.ts';

/** Compiled eBPF objects that the datapath loads. */
export const OBJECT_FILES = [
  'mesh_endpoint.bpf.o',
  'mesh_overlay.bpf.o',
  'mesh_host.bpf.o',
  'mesh_socket.bpf.o',
] as const;

/** What the checks look at; tests put in what no test machine has. */
export interface Surroundings {
  readonly userId: number;
  /** Mask of what this process may do; undefined where the kernel does not say. */
  readonly capabilities: bigint | undefined;
  readonly kernelRelease: string;
  /** Value of net.core.bpf_jit_enable, undefined where it cannot be seen (other network namespaces). */
  readonly jitEnabled: string | undefined;
  /** What the kernel has of what the datapath asks for. */
  features(): readonly Feature[];
  /** statfs magic of a folder, undefined when it does not exist. */
  fileSystemOf(folder: string): number | undefined;
  isFile(path: string): boolean;
}

const BPF_FS_MAGIC = 0xcafe4a11;
const CGROUP2_MAGIC = 0x63677270;
/** The oldest kernel that has all that is needed. */
const MINIMUM_KERNEL = '5.10';

/** One line for each thing that is missing, with the command that helps; empty when all is well. */
export function preflightProblems(
  options: Pick<DatapathOptions, 'bpfRoot' | 'cgroupRoot' | 'objectDir'>,
  surroundings: Surroundings = thisMachine(),
): string[] {
  // As another user nothing else can be told for sure.
  if (surroundings.userId !== 0) {
    return [`cannot load eBPF programs as user ${surroundings.userId}: run as root (sudo)`];
  }
  const missing = capabilityProblems(surroundings);
  // The kernel would seem to lack what it only refuses.
  if (missing.length > 0) return missing;
  return [
    kernelProblem(surroundings),
    bpffsProblem(options.bpfRoot, surroundings),
    cgroupProblem(options.cgroupRoot, surroundings),
    ...objectProblems(options.objectDir, surroundings),
  ]
    .flat()
    .filter((problem) => problem !== undefined);
}

/** Throws DatapathError `preflight` with all problems, a line each. */
export function checkPreflight(
  options: Pick<DatapathOptions, 'bpfRoot' | 'cgroupRoot' | 'objectDir'>,
): void {
  const problems = preflightProblems(options);
  if (problems.length > 0) throw new DatapathError('preflight', problems.join('\n'));
}

function thisMachine(): Surroundings {
  const jit = '/proc/sys/net/core/bpf_jit_enable';
  return {
    userId: process.geteuid?.() ?? -1,
    capabilities: parseEffective(readFileSync('/proc/self/status', 'utf8')),
    kernelRelease: release(),
    jitEnabled: existsSync(jit) ? readFileSync(jit, 'utf8').trim() : undefined,
    features: probeFeatures,
    fileSystemOf: (folder) => (existsSync(folder) ? statfsSync(folder).type : undefined),
    isFile: (path) => existsSync(path),
  };
}

function capabilityProblems({ capabilities, kernelRelease }: Surroundings): string[] {
  if (capabilities === undefined) return [];
  return missingCapabilities(capabilities, kernelRelease).map(
    ({ name, purpose }) =>
      `the capability CAP_${name} is missing (${purpose}): run as root with all capabilities, or add ${name} to securityContext.capabilities of the container (agent.capabilities.add in the chart)`,
  );
}

function kernelProblem(surroundings: Surroundings): (string | undefined)[] {
  const { kernelRelease, jitEnabled } = surroundings;
  const missing = surroundings.features().filter(({ isNeeded, isFound }) => isNeeded && !isFound);
  const names = missing.map(({ name, since }) => `${name} (Linux ${since})`).join(', ');
  return [
    missing.length > 0
      ? `kernel ${kernelRelease} lacks what the datapath needs: ${names}; use Linux ${MINIMUM_KERNEL} or newer with BPF, cgroup BPF and BTF configured ("clustermesh-agent features" shows all)`
      : undefined,
    jitEnabled === '0'
      ? 'the eBPF compiler of the kernel is off: run "sysctl -w net.core.bpf_jit_enable=1"'
      : undefined,
  ];
}

function bpffsProblem(folder: string, surroundings: Surroundings): string | undefined {
  const existing = nearestFolder(folder, surroundings);
  if (surroundings.fileSystemOf(existing) === BPF_FS_MAGIC) return undefined;
  return `${folder} is not in a bpf file system: run "mkdir -p ${folder} && mount -t bpf bpf ${folder}", or set --bpf-root`;
}

/** The folder itself is made when the datapath starts, if its parent is in a bpffs already. */
function nearestFolder(folder: string, surroundings: Surroundings): string {
  let existing = folder;
  while (surroundings.fileSystemOf(existing) === undefined && dirname(existing) !== existing) {
    existing = dirname(existing);
  }
  return existing;
}

function cgroupProblem(folder: string, surroundings: Surroundings): string | undefined {
  const magic = surroundings.fileSystemOf(folder);
  if (magic === CGROUP2_MAGIC) return undefined;
  const why = magic === undefined ? 'does not exist' : 'is not a cgroup v2 folder';
  return `cgroup root ${folder} ${why}: run "findmnt -t cgroup2" to see where it is mounted, and set --cgroup-root`;
}

function objectProblems(folder: string, surroundings: Surroundings): string[] {
  const missing = OBJECT_FILES.filter((name) => !surroundings.isFile(join(folder, name)));
  if (missing.length === 0) return [];
  const files = missing.map((name) => join(folder, name)).join(', ');
  return [`compiled eBPF programs are missing: ${files}; run "npm run build", or set --object-dir`];
}
