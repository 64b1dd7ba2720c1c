/**
 * libbpf 1.x by koffi: the only file that calls C. Functions take and return plain values and throw DatapathError
 * `kernel` with the kernel's error name. All calls are synchronous and short; batches bound the long ones.
 */
import { constants } from 'node:os';
import koffi from 'koffi';
import { DatapathError } from './datapath-error.ts';

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

/** How far a batch came: `done` entries, then `errno` if it stopped early. */
export interface BatchResult {
  readonly done: number;
  readonly errno: string | undefined;
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
  tcxIngress: 46,
  tcxEgress: 47,
} as const;

/** Values of `enum bpf_link_type`. */
export const LINK_TYPES = { cgroup: 3, tcx: 11 } as const;

/** Bytes kept of what the verifier said. */
const VERIFIER_LOG_SIZE = 1 << 20;
const VERIFIER_LOG_LINES = 12;

/** The kernel refuses the call when the struct is not whole. */
const TEST_RUN_OPTS_SIZE = 80;
const TEST_RUN_OPTS = {
  sz: 'size_t',
  data_in: 'const void *',
  data_out: 'void *',
  data_size_in: 'uint32_t',
  data_size_out: 'uint32_t',
  ctx_in: 'const void *',
  ctx_out: 'void *',
  ctx_size_in: 'uint32_t',
  ctx_size_out: 'uint32_t',
  retval: 'uint32_t',
  repeat: 'int',
  duration: 'uint32_t',
  flags: 'uint32_t',
  cpu: 'uint32_t',
  batch_size: 'uint32_t',
} as const;

const ERRNO_NAMES = new Map(Object.entries(constants.errno).map(([name, value]) => [value, name]));

type Library = ReturnType<typeof bindLibrary>;
let loaded: Library | undefined;

function library(): Library {
  loaded ??= bindLibrary();
  return loaded;
}

function bindLibrary() {
  let bpf: ReturnType<typeof koffi.load>;
  try {
    bpf = koffi.load('libbpf.so.1');
  } catch (cause) {
    throw new DatapathError(
      'preflight',
      'cannot load libbpf.so.1: install libbpf 1.0 or newer (Debian: apt-get install libbpf1)',
      { cause },
    );
  }
  const libc = koffi.load('libc.so.6');
  koffi.struct('bpf_test_run_opts', TEST_RUN_OPTS);
  const bound = {
    objectOpen: bpf.func('void *bpf_object__open_file(const char *path, const void *opts)'),
    objectLoad: bpf.func('int bpf_object__load(void *object)'),
    objectClose: bpf.func('void bpf_object__close(void *object)'),
    nextMap: bpf.func('void *bpf_object__next_map(const void *object, const void *map)'),
    mapName: bpf.func('const char *bpf_map__name(const void *map)'),
    mapType: bpf.func('int bpf_map__type(const void *map)'),
    mapKeySize: bpf.func('uint32_t bpf_map__key_size(const void *map)'),
    mapValueSize: bpf.func('uint32_t bpf_map__value_size(const void *map)'),
    mapMaxEntries: bpf.func('uint32_t bpf_map__max_entries(const void *map)'),
    mapFlags: bpf.func('uint32_t bpf_map__map_flags(const void *map)'),
    setMapMaxEntries: bpf.func('int bpf_map__set_max_entries(void *map, uint32_t entries)'),
    setPinPath: bpf.func('int bpf_map__set_pin_path(void *map, const char *path)'),
    nextProgram: bpf.func('void *bpf_object__next_program(const void *object, void *program)'),
    findProgram: bpf.func(
      'void *bpf_object__find_program_by_name(const void *object, const char *name)',
    ),
    programName: bpf.func('const char *bpf_program__name(const void *program)'),
    programFd: bpf.func('int bpf_program__fd(const void *program)'),
    setLogBuffer: bpf.func(
      'int bpf_program__set_log_buf(void *program, void *buffer, size_t size)',
    ),
    objGet: bpf.func('int bpf_obj_get(const char *path)'),
    objPin: bpf.func('int bpf_obj_pin(int fd, const char *path)'),
    objInfo: bpf.func('int bpf_obj_get_info_by_fd(int fd, void *info, void *size)'),
    linkCreate: bpf.func(
      'int bpf_link_create(int program, int target, int type, const void *opts)',
    ),
    linkUpdate: bpf.func('int bpf_link_update(int link, int program, const void *opts)'),
    linkDetach: bpf.func('int bpf_link_detach(int link)'),
    lookup: bpf.func('int bpf_map_lookup_elem(int fd, const void *key, void *value)'),
    update: bpf.func(
      'int bpf_map_update_elem(int fd, const void *key, const void *value, uint64_t flags)',
    ),
    remove: bpf.func('int bpf_map_delete_elem(int fd, const void *key)'),
    updateBatch: bpf.func(
      'int bpf_map_update_batch(int fd, const void *keys, const void *values, void *count, const void *opts)',
    ),
    deleteBatch: bpf.func(
      'int bpf_map_delete_batch(int fd, const void *keys, void *count, const void *opts)',
    ),
    lookupBatch: bpf.func(
      'int bpf_map_lookup_batch(int fd, void *from, void *next, void *keys, void *values, void *count, const void *opts)',
    ),
    testRun: bpf.func('int bpf_prog_test_run_opts(int fd, _Inout_ bpf_test_run_opts *opts)'),
    possibleCpus: bpf.func('int libbpf_num_possible_cpus()'),
    ifNameToIndex: libc.func('unsigned int if_nametoindex(const char *name)'),
    trim: optional(() => libc.func('int malloc_trim(size_t keep)')),
    ifIndexToName: libc.func('void *if_indextoname(unsigned int index, void *name)'),
  };
  // libbpf would print to standard error; what it has to say comes back in our errors instead.
  bpf.func('void *libbpf_set_print(void *callback)')(null);
  return bound;
}

/** A function that not every C library has. */
function optional<T>(bind: () => T): T | undefined {
  try {
    return bind();
  } catch {
    return undefined;
  }
}

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
    });
  }
  return maps;
}

/** Loads maps and programs into the kernel. Throws `load-failed` with the last lines of the verifier's log. */
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
  const result: number = bpf.objectLoad(object.pointer);
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
      },
    );
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

/** Writes `count` entries in order; stops at the first that fails. */
export function updateBatch(
  fd: number,
  keys: Uint8Array,
  values: Uint8Array,
  count: number,
): BatchResult {
  const counter = new Uint32Array([count]);
  return batchResult(library().updateBatch(fd, keys, values, counter, null), counter, count);
}

/** Deletes `count` entries in order; stops at the first that fails, a missing one (ENOENT) included. */
export function deleteBatch(fd: number, keys: Uint8Array, count: number): BatchResult {
  const counter = new Uint32Array([count]);
  return batchResult(library().deleteBatch(fd, keys, counter, null), counter, count);
}

/**
 * Reads up to `count` entries from position `from` (undefined: the beginning) and leaves the next position in `next`.
 * The last batch ends with ENOENT and a valid count; ENOSPC means that `count` was too small for one hash bucket.
 */
export function lookupBatch(
  fd: number,
  position: { from: Uint8Array | undefined; next: Uint8Array },
  entries: { keys: Uint8Array; values: Uint8Array; count: number },
): BatchResult {
  const counter = new Uint32Array([entries.count]);
  const result: number = library().lookupBatch(
    fd,
    position.from ?? null,
    position.next,
    entries.keys,
    entries.values,
    counter,
    null,
  );
  return { done: counter[0] ?? 0, errno: result < 0 ? errnoName(-result) : undefined };
}

function batchResult(result: number, counter: Uint32Array, count: number): BatchResult {
  if (result >= 0) return { done: count, errno: undefined };
  const errno = errnoName(-result);
  // Nothing can be said of the count after EFAULT; calling it nothing makes the caller see the error.
  return { done: errno === 'EFAULT' ? 0 : (counter[0] ?? 0), errno };
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

/** Outcome of a program that ran on a packet without a network. */
export interface TestRunResult {
  readonly verdict: number;
  readonly packet: Buffer;
}

/** Runs a tc program on a packet (BPF_PROG_TEST_RUN). `ifindex` is the interface that it seems to come from. */
export function testRun(
  program: number,
  packet: Uint8Array,
  options: { ifindex?: number; ingressIfindex?: number; repeat?: number } = {},
): TestRunResult {
  const output = Buffer.alloc(packet.length + 256);
  // struct __sk_buff of linux/bpf.h: ingress_ifindex at 36, ifindex at 40.
  const context = Buffer.alloc(192);
  context.writeUInt32LE(options.ingressIfindex ?? 0, 36);
  context.writeUInt32LE(options.ifindex ?? 1, 40);
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
  return { verdict: opts.retval | 0, packet: output.subarray(0, opts.data_size_out) };
}

function check(result: number, action: string): number {
  if (result >= 0) return result;
  const errno = errnoName(-result);
  const retryable = errno === 'EAGAIN' || errno === 'EBUSY' || errno === 'ENOMEM';
  throw new DatapathError('kernel', `cannot ${action}: ${errno}`, { errno, retryable });
}

function errnoName(value: number): string {
  return ERRNO_NAMES.get(value) ?? `error ${value}`;
}
