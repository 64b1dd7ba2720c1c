/** What programs ask of the kernel they run on: the twin of `struct kernel_switches` in `bpf/lib/kernel.h`. */
import { type BpfObject, declaredMaps } from './bpf.ts';

/** What not every kernel from the minimum on has, and the datapath does without. */
export interface KernelSwitches {
  /** bpf_ktime_get_coarse_ns() (Linux 5.11); without it the exact clock is read, which costs more. */
  readonly coarseClock: boolean;
  /** bpf_set_retval() (Linux 5.18); without it a refused connect fails with EPERM instead of ECONNREFUSED. */
  readonly setRetval: boolean;
  /** Links for interfaces (Linux 6.6); without them programs are attached by filters of the clsact qdisc. */
  readonly tcx: boolean;
}

/** A kernel that has everything. */
export const ALL_SWITCHES: KernelSwitches = { coarseClock: true, setRetval: true, tcx: true };

const SECTION = '.rodata.kernel';
const SIZE = 8;

/** Tells the programs of an object, before it is loaded, what the kernel has. */
export function setKernelSwitches(object: BpfObject, switches: KernelSwitches): void {
  const value = Buffer.alloc(SIZE);
  value.writeUInt8(switches.coarseClock ? 1 : 0, 0);
  value.writeUInt8(switches.setRetval ? 1 : 0, 1);
  for (const map of declaredMaps(object)) {
    if (map.name === SECTION) map.setInitialValue(value);
  }
}
