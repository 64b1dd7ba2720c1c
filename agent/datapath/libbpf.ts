/**
 * libbpf 1.x and the C library by koffi: declarations of the C functions that are called, and nothing else. All calls
 * are synchronous and short; batches bound the long ones.
 */
import { existsSync } from 'node:fs';
import { constants } from 'node:os';
import koffi from 'koffi';
import { projectPath } from '../../mesh/runtime/project-path.ts';
import { DatapathError } from './datapath-error.ts';

/** The kernel refuses the call when the struct is not whole. */
export const TEST_RUN_OPTS_SIZE = 80;
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

/** `struct bpf_prog_info` as far as the ids of maps: later kernels fill in more, for who asks. */
const PROGRAM_INFO = {
  type: 'uint32_t',
  id: 'uint32_t',
  tag: 'uint64_t',
  jited_prog_len: 'uint32_t',
  xlated_prog_len: 'uint32_t',
  jited_prog_insns: 'uint64_t',
  xlated_prog_insns: 'uint64_t',
  load_time: 'uint64_t',
  created_by_uid: 'uint32_t',
  nr_map_ids: 'uint32_t',
  map_ids: 'void *',
} as const;

/** Bytes of it. */
export const PROGRAM_INFO_SIZE = 64;

/** All fields of it but those that a caller sets. */
export const EMPTY_PROGRAM_INFO = {
  type: 0,
  id: 0,
  tag: 0,
  jited_prog_len: 0,
  xlated_prog_len: 0,
  jited_prog_insns: 0,
  xlated_prog_insns: 0,
  load_time: 0,
  created_by_uid: 0,
};

/** In kernels only: a map type that has no such operation. */
const ENOTSUPP = 524;

const ERRNO_NAMES = new Map(Object.entries(constants.errno).map(([name, value]) => [value, name]));
ERRNO_NAMES.set(ENOTSUPP, 'ENOTSUPP');
// It has two names.
ERRNO_NAMES.set(constants.errno.EAGAIN, 'EAGAIN');

/** What libbpf is linked with where it is packaged, each after those that it needs itself. */
const LIBRARIES_OF_LIBBPF = ['libzstd.so.1', 'libz.so.1', 'libelf.so.1'];

/** The C functions, by names of ours. */
type Library = ReturnType<typeof bindLibrary>;

let loaded: Library | undefined;

/** Loads the libraries at the first call. Throws `preflight` when libbpf is missing. */
export function library(): Library {
  loaded ??= bindLibrary();
  return loaded;
}

/**
 * Opens libbpf: the one that a package brings in `lib/`, else the machine's own. Throws `preflight` when there is none.
 */
export function loadLibbpf(): ReturnType<typeof koffi.load> {
  try {
    if (!existsSync(projectPath('lib/libbpf.so.1'))) return koffi.load('libbpf.so.1');
    // What it needs goes first: the dynamic linker takes what is open already by its name, wherever it lies.
    for (const name of LIBRARIES_OF_LIBBPF) {
      const path = projectPath(`lib/${name}`);
      if (existsSync(path)) koffi.load(path);
    }
    return koffi.load(projectPath('lib/libbpf.so.1'));
  } catch (cause) {
    throw new DatapathError(
      'preflight',
      'cannot load libbpf.so.1: install libbpf 1.0 or newer (Debian: apt-get install libbpf1)',
      { cause },
    );
  }
}

function bindLibrary() {
  const bpf = loadLibbpf();
  const libc = koffi.load('libc.so.6');
  koffi.struct('bpf_test_run_opts', TEST_RUN_OPTS);
  koffi.struct('bpf_prog_info', PROGRAM_INFO);
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
    lookupAndDelete: bpf.func(
      'int bpf_map_lookup_and_delete_elem(int fd, const void *key, void *value)',
    ),
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
    programInfo: bpf.func(
      'int bpf_obj_get_info_by_fd(int fd, _Inout_ bpf_prog_info *info, void *size)',
    ),
    nextKey: bpf.func('int bpf_map_get_next_key(int fd, const void *key, void *next)'),
    mapCreate: bpf.func(
      'int bpf_map_create(int type, const char *name, uint32_t keySize, uint32_t valueSize, uint32_t entries, const void *opts)',
    ),
    setInitialValue: bpf.func(
      'int bpf_map__set_initial_value(void *map, const void *data, size_t size)',
    ),
    programById: bpf.func('int bpf_prog_get_fd_by_id(uint32_t id)'),
    programLoad: bpf.func(
      'int bpf_prog_load(int type, const char *name, const char *license, const void *insns, size_t count, const void *opts)',
    ),
    probeProgramType: bpf.func('int libbpf_probe_bpf_prog_type(int type, const void *opts)'),
    probeMapType: bpf.func('int libbpf_probe_bpf_map_type(int type, const void *opts)'),
    probeHelper: bpf.func('int libbpf_probe_bpf_helper(int type, int helper, const void *opts)'),
    tcHookCreate: bpf.func('int bpf_tc_hook_create(void *hook)'),
    tcHookDestroy: bpf.func('int bpf_tc_hook_destroy(void *hook)'),
    tcAttach: bpf.func('int bpf_tc_attach(const void *hook, void *opts)'),
    tcDetach: bpf.func('int bpf_tc_detach(const void *hook, const void *opts)'),
    tcQuery: bpf.func('int bpf_tc_query(const void *hook, void *opts)'),
    flock: libc.func('int flock(int fd, int operation)'),
    signalMask: libc.func('int pthread_sigmask(int how, const void *set, void *old)'),
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

/** Throws DatapathError `kernel` for a negative result, which is an error's number. */
export function check(result: number, action: string): number {
  if (result >= 0) return result;
  const errno = errnoName(-result);
  const retryable = errno === 'EAGAIN' || errno === 'EBUSY' || errno === 'ENOMEM';
  throw new DatapathError('kernel', `cannot ${action}: ${errno}`, { errno, retryable });
}

/** Name of an error, such as `ENOSPC`. */
export function errnoName(value: number): string {
  return ERRNO_NAMES.get(value) ?? `error ${value}`;
}
