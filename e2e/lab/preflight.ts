/** What a lab needs of the machine, checked without changing anything. */
import { accessSync, constants, existsSync } from 'node:fs';
import { release } from 'node:os';
import { delimiter, join } from 'node:path';
import { findCgroupRoot } from '../../agent/datapath/cgroup-root.ts';
import { DatapathError } from '../../agent/datapath/datapath-error.ts';
import { OBJECT_FILES } from '../../agent/datapath/preflight.ts';
import { projectPath } from '../../mesh/runtime/project-path.ts';
import { DISTRIBUTION_PLUGINS } from './cni.ts';
import { LabError } from './lab-error.ts';

/** Folder with the built clustermesh-cni. */
export const PLUGIN_FOLDER = projectPath('dist/bin');
/** Folder with the compiled eBPF objects. */
export const OBJECT_FOLDER = projectPath('dist/bpf');

/** What the checks look at; tests put in what no test machine lacks. */
export interface Surroundings {
  readonly userId: number;
  readonly kernelRelease: string;
  exists(path: string): boolean;
  hasProgram(name: string): boolean;
  /** Mount point of the cgroup v2 hierarchy; throws when there is none. */
  cgroupRoot(): string;
}

/** Programs that a lab runs, and the Debian package of each. */
const PROGRAMS = {
  etcd: 'etcd-server',
  ip: 'iproute2',
  nsenter: 'util-linux',
  setpriv: 'util-linux',
  sysctl: 'procps',
  mount: 'mount',
  curl: 'curl',
} as const;

/** One line for each thing that is missing, with the command that helps; empty when all is well. */
export function labProblems(surroundings: Surroundings = thisMachine()): string[] {
  // As another user nothing else can be told for sure.
  if (surroundings.userId !== 0) {
    return [`a lab makes network namespaces and loads eBPF programs: run as root (sudo)`];
  }
  return [
    ...kernelProblems(surroundings),
    ...cgroupProblems(surroundings),
    ...Object.entries(PROGRAMS).flatMap(([program, debianPackage]) =>
      surroundings.hasProgram(program)
        ? []
        : [`${program} is missing: apt-get install ${debianPackage}`],
    ),
    ...['ptp', 'bridge', 'host-local', 'portmap'].flatMap((plugin) =>
      surroundings.exists(join(DISTRIBUTION_PLUGINS, plugin))
        ? []
        : [
            `CNI plugin ${plugin} is missing in ${DISTRIBUTION_PLUGINS}: apt-get install containernetworking-plugins`,
          ],
    ),
    ...[
      join(PLUGIN_FOLDER, 'clustermesh-cni'),
      ...OBJECT_FILES.map((name) => join(OBJECT_FOLDER, name)),
    ].flatMap((path) => (surroundings.exists(path) ? [] : [`${path} is missing: npm run build`])),
  ];
}

/** Throws LabError `preflight` with all problems, a line each. */
export function checkLab(surroundings: Surroundings = thisMachine()): void {
  const problems = labProblems(surroundings);
  if (problems.length > 0) {
    throw new LabError(
      'preflight',
      ['cannot make a lab on this machine:', ...problems].join('\n  '),
    );
  }
}

/** Why tests on a lab must be skipped, or false. In CI (`CI=true`) never: there they shall fail. To be given `process.env`. */
export function labSkipReason(env: Readonly<Record<string, string | undefined>>): string | false {
  if (env.CI === 'true') return false;
  return labProblems().join('; ') || false;
}

function thisMachine(): Surroundings {
  const folders = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'.split(delimiter);
  return {
    userId: process.geteuid?.() ?? -1,
    kernelRelease: release(),
    exists: existsSync,
    hasProgram: (name) => folders.some((folder) => isExecutable(join(folder, name))),
    cgroupRoot: () => findCgroupRoot(),
  };
}

function kernelProblems({ kernelRelease }: Surroundings): string[] {
  const [major = 0, minor = 0] = kernelRelease.split('.').map((part) => Number.parseInt(part, 10));
  if (major > 6 || (major === 6 && minor >= 6)) return [];
  return [`kernel ${kernelRelease} is too old: Linux 6.6 or newer is needed for tcx links`];
}

function cgroupProblems(surroundings: Surroundings): string[] {
  try {
    surroundings.cgroupRoot();
    return [];
  } catch (error) {
    if (error instanceof DatapathError) return [error.message];
    throw error;
  }
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}
