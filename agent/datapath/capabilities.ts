/**
 * Capabilities that an agent needs, and what for: where it runs as root of a container, it has those alone that the container was
 * given. The chart gives exactly these (a test compares), and the datapath does not open without them: the kernel's own errors would
 * name anything but what is missing.
 */

/** A capability by its name in Kubernetes, without `CAP_`. */
export interface NeededCapability {
  readonly name: string;
  /** Bit in the masks of /proc/<pid>/status (`linux/capability.h`). */
  readonly bit: number;
  /** What cannot be done without it. */
  readonly purpose: string;
  /** It is needed by kernels before this release; undefined: by all. */
  readonly before?: string;
}

/** All of them. CAP_SYS_ADMIN holds what CAP_BPF and CAP_PERFMON would give, and there is no other way into a pod's namespace. */
export const NEEDED_CAPABILITIES: readonly NeededCapability[] = [
  { name: 'NET_ADMIN', bit: 12, purpose: 'devices, routes and hooks on interfaces' },
  {
    name: 'NET_RAW',
    bit: 13,
    purpose: 'echo requests to nodes, and reading the rules of iptables',
  },
  {
    name: 'SYS_ADMIN',
    bit: 21,
    purpose: 'eBPF programs and maps, and the network namespaces of pods',
  },
  {
    name: 'SYS_RESOURCE',
    bit: 24,
    purpose: 'eBPF maps, which this kernel counts as locked memory',
    before: '5.11',
  },
];

/** Those that are missing. `effective`: the mask of what this process may do; `kernelRelease`: as `uname -r` tells it. */
export function missingCapabilities(
  effective: bigint,
  kernelRelease: string,
): readonly NeededCapability[] {
  return NEEDED_CAPABILITIES.filter(
    ({ bit, before }) =>
      (effective & (1n << BigInt(bit))) === 0n &&
      (before === undefined || isOlder(kernelRelease, before)),
  );
}

/** Reads the mask of effective capabilities from the text of /proc/<pid>/status; undefined: it does not say. */
export function parseEffective(status: string): bigint | undefined {
  const mask = /^CapEff:\s*([0-9a-f]+)$/m.exec(status)?.[1];
  return mask === undefined ? undefined : BigInt(`0x${mask}`);
}

function isOlder(kernelRelease: string, than: string): boolean {
  const [major = 0, minor = 0] = numbersOf(kernelRelease);
  const [wantedMajor = 0, wantedMinor = 0] = numbersOf(than);
  return major < wantedMajor || (major === wantedMajor && minor < wantedMinor);
}

function numbersOf(release: string): number[] {
  return release.split(/[.-]/).slice(0, 2).map(Number);
}
