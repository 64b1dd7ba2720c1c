/**
 * eBPF objects, maps, links and programs. Functions take and return plain values and throw DatapathError `kernel` with
 * the kernel's error name. All calls are synchronous and short; batches bound the long ones.
 */
import { closeSync, readFileSync, readlinkSync } from 'node:fs';
import { constants } from 'node:os';
import koffi from 'koffi';
import { DatapathError } from './datapath-error.ts';
import {
  check,
  EMPTY_PROGRAM_INFO,
  errnoName,
  library,
  PROGRAM_INFO_SIZE,
  TEST_RUN_OPTS_SIZE,
} from './libbpf.ts';

/** Bytes of an eBPF instruction. */
const INSTRUCTION_SIZE = 8;

/** A `struct bpf_object`, between openObject and closeObject. */
export interface BpfObject {
  readonly path: string;
  readonly pointer: bigint;
}

/** What the kernel says of a map. */
export interface MapInfo {
  readonly type: number;
  readonly id: number;
  readonly keySize: number;
  readonly valueSize: number;
  readonly maxEntries: number;
  readonly flags: number;
}

/** What the kernel says of a link: `target` is an interface index (tcx) or a cgroup id. */
export interface LinkInfo {
  readonly type: number;
  readonly id: number;
  readonly programId: number;
  readonly target: bigint;
  readonly attachType: number;
}

/** Values of `enum bpf_attach_type`. libbpf 1.1 has no names for tcx. */
export const ATTACH_TYPES = {
  cgroupInet4Connect: 10,
  cgroupInet6Connect: 11,
  cgroupUdp4Sendmsg: 14,
  cgroupUdp6Sendmsg: 15,
  cgroupUdp4Recvmsg: 19,
  cgroupUdp6Recvmsg: 20,
  cgroupInet4Getpeername: 29,
  cgroupInet6Getpeername: 30,
  cgroupInetSockRelease: 34,
  tcxIngress: 46,
  tcxEgress: 47,
} as const;

/** Values of `enum bpf_prog_type`. */
export const PROGRAM_TYPES = { tc: 3, cgroupSockAddr: 18 } as const;

/** Values of `enum bpf_map_type`. */
export const MAP_TYPES = {
  hash: 1,
  array: 2,
  perCpuArray: 6,
  lruHash: 9,
  prefixTrie: 11,
  ringBuffer: 27,
} as const;

/** Values of `enum bpf_link_type`. */
export const LINK_TYPES = { cgroup: 3, tcx: 11 } as const;

/** More than any program of ours uses; the kernel allows 64. */
const MOST_MAPS_OF_PROGRAM = 64;

/** IF_NAMESIZE: a name with its end. */
const INTERFACE_NAME_SIZE = 16;

/** Bytes kept of what the verifier said. */
const VERIFIER_LOG_SIZE = 1 << 20;
const VERIFIER_LOG_LINES = 12;

/** Gives memory that the C library keeps for later back to the kernel, where the library can (glibc). */
export function trimMemory(): void {
  library().trim?.(0);
}

/** Opens a compiled object without loading it. Throws `load-failed`. */
export function openObject(path: string): BpfObject {
  const pointer = library().objectOpen(path, null);
  if (pointer === null) {
    const errno = errnoName(koffi.errno());
    throw new DatapathError('load-failed', `cannot open eBPF object ${path}: ${errno}`, { errno });
  }
  return { path, pointer };
}

/** Frees the object and its handles; what is pinned or attached by a pinned link stays. */
export function closeObject(object: BpfObject): void {
  library().objectClose(object.pointer);
}

/** A map as the object declares it, before it is loaded. */
export interface DeclaredMap extends Omit<MapInfo, 'id'> {
  readonly name: string;
  /** The kernel's map of this path is used if there is one, else one is made and pinned there. */
  setPinPath(path: string): void;
  setMaxEntries(entries: number): void;
  /** Contents of a data section (`.rodata`), of the size of the map's value; before the object is loaded. */
  setInitialValue(value: Uint8Array): void;
}

/** Maps that an object declares. */
export function declaredMaps(object: BpfObject): DeclaredMap[] {
  const bpf = library();
  const maps: DeclaredMap[] = [];
  for (
    let map = bpf.nextMap(object.pointer, null);
    map !== null;
    map = bpf.nextMap(object.pointer, map)
  ) {
    const pointer = map;
    const name: string = bpf.mapName(pointer);
    maps.push({
      name,
      type: bpf.mapType(pointer),
      keySize: bpf.mapKeySize(pointer),
      valueSize: bpf.mapValueSize(pointer),
      maxEntries: bpf.mapMaxEntries(pointer),
      flags: bpf.mapFlags(pointer),
      setPinPath: (path) => check(bpf.setPinPath(pointer, path), `set pin path of map ${name}`),
      setMaxEntries: (entries) => check(bpf.setMapMaxEntries(pointer, entries), `size map ${name}`),
      setInitialValue: (value) =>
        check(bpf.setInitialValue(pointer, value, value.length), `set contents of map ${name}`),
    });
  }
  return maps;
}

/**
 * Loads maps and programs into the kernel. Throws `load-failed` with the last lines of the verifier's log; after
 * `retryable` the same file can be opened again and tried once more.
 */
export function loadObject(object: BpfObject): void {
  const bpf = library();
  const log = Buffer.alloc(VERIFIER_LOG_SIZE);
  for (
    let program = bpf.nextProgram(object.pointer, null);
    program !== null;
    program = bpf.nextProgram(object.pointer, program)
  ) {
    bpf.setLogBuffer(program, log, log.length);
  }
  const result: number = withoutSignals(() => bpf.objectLoad(object.pointer));
  if (result < 0) {
    const errno = errnoName(-result);
    const end = log.indexOf(0);
    const lines = log
      .toString('utf8', 0, end === -1 ? log.length : end)
      .trimEnd()
      .split('\n');
    const tail = lines.slice(-VERIFIER_LOG_LINES).join('\n');
    const detail = tail === '' ? '' : `; the verifier's last lines:\n${tail}`;
    throw new DatapathError(
      'load-failed',
      `cannot load eBPF object ${object.path}: ${errno}${detail}`,
      {
        errno,
        retryable: errno === 'EAGAIN',
      },
    );
  }
}

/** First argument of pthread_sigmask(), as Linux has it on all but MIPS, SPARC and Alpha. */
const SIGNAL_MASK = { block: 0, set: 2 } as const;
/** Bytes of a sigset_t, a bit a signal, from number 1. */
const SIGNAL_SET_SIZE = 128;
/** What a thread brings upon itself cannot wait. */
const FAULTS = [
  constants.signals.SIGILL,
  constants.signals.SIGTRAP,
  constants.signals.SIGBUS,
  constants.signals.SIGFPE,
  constants.signals.SIGSEGV,
];

/**
 * Runs a call while signals wait, or go to other threads. The verifier gives up with EAGAIN when a signal is pending; a
 * profiler sends one each millisecond, which is less than a program takes.
 */
function withoutSignals(call: () => number): number {
  const bpf = library();
  const blocked = Buffer.alloc(SIGNAL_SET_SIZE, 0xff);
  for (const signal of FAULTS) {
    const byte = (signal - 1) >> 3;
    blocked.writeUInt8(blocked.readUInt8(byte) & ~(1 << ((signal - 1) & 7)), byte);
  }
  const before = Buffer.alloc(SIGNAL_SET_SIZE);
  const failed = bpf.signalMask(SIGNAL_MASK.block, blocked, before) !== 0;
  try {
    return call();
  } finally {
    if (!failed) bpf.signalMask(SIGNAL_MASK.set, before, null);
  }
}

/** File descriptor of a loaded program, which belongs to the object; undefined when the object has no such program. */
export function programFd(object: BpfObject, name: string): number | undefined {
  const program = library().findProgram(object.pointer, name);
  return program === null ? undefined : check(library().programFd(program), `get program ${name}`);
}

/** Opens a pinned map, link or program; undefined when nothing is pinned there. The caller closes the descriptor. */
export function openPinned(path: string): number | undefined {
  const result: number = library().objGet(path);
  if (result === -constants.errno.ENOENT) return undefined;
  return check(result, `open pin ${path}`);
}

/** Pins a map, link or program in a bpffs. */
export function pin(fd: number, path: string): void {
  check(library().objPin(fd, path), `pin to ${path}`);
}

/** Describes an open map. */
export function mapInfo(fd: number): MapInfo {
  const info = objectInfo(fd);
  return {
    type: info.readUInt32LE(0),
    id: info.readUInt32LE(4),
    keySize: info.readUInt32LE(8),
    valueSize: info.readUInt32LE(12),
    maxEntries: info.readUInt32LE(16),
    flags: info.readUInt32LE(20),
  };
}

/** Describes an open link. A tcx link whose interface is gone has target 0. */
export function linkInfo(fd: number): LinkInfo {
  const info = objectInfo(fd);
  const type = info.readUInt32LE(0);
  const isTcx = type === LINK_TYPES.tcx;
  return {
    type,
    id: info.readUInt32LE(4),
    programId: info.readUInt32LE(8),
    target: isTcx ? BigInt(info.readUInt32LE(16)) : info.readBigUInt64LE(16),
    attachType: info.readUInt32LE(isTcx ? 20 : 24),
  };
}

/** Id of the program behind a pin: a program's own, or that of the program which a link holds. */
export function pinnedProgramId(fd: number): number {
  return isProgram(fd) ? objectInfo(fd).readUInt32LE(4) : linkInfo(fd).programId;
}

/** Whether a descriptor is a program, and not a link or a map. */
export function isProgram(fd: number): boolean {
  return readlinkSync(`/proc/self/fd/${fd}`) === 'anon_inode:bpf-prog';
}

/** Ids of the maps that a loaded program uses. Throws `kernel` when no program has that id any more. */
export function mapsOfProgram(programId: number): number[] {
  const bpf = library();
  const fd = check(bpf.programById(programId), `open program ${programId}`);
  try {
    const ids = new Uint32Array(MOST_MAPS_OF_PROGRAM);
    const info = { ...EMPTY_PROGRAM_INFO, nr_map_ids: ids.length, map_ids: ids };
    const size = new Uint32Array([PROGRAM_INFO_SIZE]);
    check(bpf.programInfo(fd, info, size), 'read program info');
    return [...ids.subarray(0, Math.min(info.nr_map_ids, ids.length))];
  } finally {
    closeSync(fd);
  }
}

/** How much a loaded program is: its instructions, and those that the verifier went through for it. */
export function programSize(fd: number): { instructions: number; verified: number } {
  const verified = /^verified_insns:\s+(\d+)/m.exec(
    readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8'),
  );
  return {
    instructions: objectInfo(fd).readUInt32LE(20) / INSTRUCTION_SIZE,
    verified: Number(verified?.[1] ?? Number.NaN),
  };
}

/** How often a loaded program ran and how long, while the kernel counted (sysctl kernel.bpf_stats_enabled). */
export function programStatistics(programId: number): { runs: number; nanoseconds: number } {
  const fd = check(library().programById(programId), `open program ${programId}`);
  try {
    const text = readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8');
    const field = (name: string): number =>
      Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(text)?.[1] ?? Number.NaN);
    return { runs: field('run_cnt'), nanoseconds: field('run_time_ns') };
  } finally {
    closeSync(fd);
  }
}

/** Makes a hash map of its own, which no object declares. The caller closes the descriptor. */
export function createHashMap(
  name: string,
  sizes: { readonly key: number; readonly value: number; readonly maxEntries: number },
): number {
  const { key, value, maxEntries } = sizes;
  return check(
    library().mapCreate(MAP_TYPES.hash, name, key, value, maxEntries, null),
    `make map ${name}`,
  );
}

function objectInfo(fd: number): Buffer {
  const info = Buffer.alloc(256);
  const size = Buffer.alloc(4);
  size.writeUInt32LE(info.length);
  check(library().objInfo(fd, info, size), 'read object info');
  return info;
}

/** Attaches a program to an interface index (tcx) or an open cgroup folder. The caller closes the descriptor. */
export function createLink(program: number, target: number, attachType: number): number {
  return check(library().linkCreate(program, target, attachType, null), 'create link');
}

/** Replaces a link's program without a moment in which none is attached. */
export function updateLink(link: number, program: number): void {
  check(library().linkUpdate(link, program, null), 'update link');
}

/** Takes effect at once, whoever else holds the link. A link that is already detached is no error. */
export function detachLink(link: number): void {
  const result: number = library().linkDetach(link);
  if (result !== -constants.errno.ENOLINK) check(result, 'detach link');
}

/** Reads one entry into `value`; false when there is none. */
export function lookupElement(fd: number, key: Uint8Array, value: Uint8Array): boolean {
  const result: number = library().lookup(fd, key, value);
  if (result === -constants.errno.ENOENT) return false;
  check(result, 'look up map entry');
  return true;
}

/** Writes one entry. */
export function updateElement(fd: number, key: Uint8Array, value: Uint8Array): void {
  check(library().update(fd, key, value, 0), 'write map entry');
}

/** Deletes one entry; false when there was none. */
export function deleteElement(fd: number, key: Uint8Array): boolean {
  const result: number = library().remove(fd, key);
  if (result === -constants.errno.ENOENT) return false;
  check(result, 'delete map entry');
  return true;
}

/**
 * Reads one entry of a hash into `value` and deletes it in one step; false when there is none. Before Linux 5.14 in two:
 * what is written between them is lost.
 */
export function takeElement(fd: number, key: Uint8Array, value: Uint8Array): boolean {
  const result: number = library().lookupAndDelete(fd, key, value);
  if (result === -constants.errno.ENOENT) return false;
  if (result < 0 && errnoName(-result) === 'ENOTSUPP') {
    return lookupElement(fd, key, value) && deleteElement(fd, key);
  }
  check(result, 'take out map entry');
  return true;
}

/** How many values each entry of a per-CPU map has. */
export function possibleCpus(): number {
  return check(library().possibleCpus(), 'count CPUs');
}

/** Index of an interface of the process's network namespace, undefined when it does not exist. */
export function interfaceIndex(name: string): number | undefined {
  const index: number = library().ifNameToIndex(name);
  return index === 0 ? undefined : index;
}

/** Name of an interface of the process's network namespace, undefined when it does not exist. */
export function interfaceName(index: number): string | undefined {
  const name = Buffer.alloc(INTERFACE_NAME_SIZE);
  if (library().ifIndexToName(index, name) === null) return undefined;
  return name.toString('utf8', 0, name.indexOf(0));
}

/** Outcome of a program that ran on a packet without a network. */
export interface TestRunResult {
  readonly verdict: number;
  readonly packet: Buffer;
  /** Nanoseconds of one run, on average over all repetitions. */
  readonly nanoseconds: number;
}

/** Runs a tc program on a packet (BPF_PROG_TEST_RUN). `ifindex` is the interface that it seems to come from. */
export function testRun(
  program: number,
  packet: Uint8Array,
  options: { ifindex?: number; ingressIfindex?: number; gsoSize?: number; repeat?: number } = {},
): TestRunResult {
  const output = Buffer.alloc(packet.length + 256);
  // struct __sk_buff of linux/bpf.h: ingress_ifindex at 36, ifindex at 40, gso_size at 176.
  const context = Buffer.alloc(192);
  context.writeUInt32LE(options.ingressIfindex ?? 0, 36);
  context.writeUInt32LE(options.ifindex ?? 1, 40);
  context.writeUInt32LE(options.gsoSize ?? 0, 176);
  const opts = {
    sz: TEST_RUN_OPTS_SIZE,
    data_in: packet,
    data_out: output,
    data_size_in: packet.length,
    data_size_out: output.length,
    ctx_in: context,
    ctx_out: null,
    ctx_size_in: context.length,
    ctx_size_out: 0,
    retval: 0,
    repeat: options.repeat ?? 1,
    duration: 0,
    flags: 0,
    cpu: 0,
    batch_size: 0,
  };
  check(library().testRun(program, opts), 'run program on a test packet');
  // The kernel's number is unsigned, verdicts are not.
  return {
    verdict: opts.retval | 0,
    packet: output.subarray(0, opts.data_size_out),
    nanoseconds: opts.duration,
  };
}
