/** Questions to the kernel that leave nothing behind. */
import { closeSync } from 'node:fs';
import { constants } from 'node:os';
import { ATTACH_TYPES, MAP_TYPES, PROGRAM_TYPES } from './bpf.ts';
import { check, errnoName, library } from './libbpf.ts';

/** r0 = 1, exit: a program that any type accepts. */
const MINIMAL_PROGRAM = Buffer.from('b7000000010000009500000000000000', 'hex');
/** An interface that no machine has. */
const NO_INTERFACE = 0x7fffffff;
const NO_DESCRIPTOR = -1;
const BPF_F_NO_PREALLOC = 1;
/** struct bpf_prog_load_opts and bpf_map_create_opts, as far as the field that is set. */
const LOAD_OPTS_SIZE = 16;
const MAP_OPTS_SIZE = 48;

/** Whether programs of a type can be loaded. */
export function hasProgramType(type: number): boolean {
  return check(library().probeProgramType(type, null), `probe program type ${type}`) === 1;
}

/** Whether maps of a type can be made. */
export function hasMapType(type: number): boolean {
  return check(library().probeMapType(type, null), `probe map type ${type}`) === 1;
}

/** Whether programs of a type may call a helper. */
export function hasHelper(type: number, helper: number): boolean {
  return check(library().probeHelper(type, helper, null), `probe helper ${helper}`) === 1;
}

/** Whether a program on socket calls can be made for a hook. */
export function hasCgroupAttachType(attachType: number): boolean {
  const fd = loadMinimal(PROGRAM_TYPES.cgroupSockAddr, attachType);
  if (fd < 0) return false;
  closeSync(fd);
  return true;
}

/** Asked with a descriptor that is none: who knows links says so, who does not refuses the whole call. */
export function hasCgroupLinks(): boolean {
  const attachType = ATTACH_TYPES.cgroupInet4Connect;
  return linkError(PROGRAM_TYPES.cgroupSockAddr, { attachType, target: NO_DESCRIPTOR }) === 'EBADF';
}

/** Asked with an interface that does not exist. */
export function hasTcx(): boolean {
  const attachType = ATTACH_TYPES.tcxIngress;
  return linkError(PROGRAM_TYPES.tc, { attachType, target: NO_INTERFACE }) === 'ENODEV';
}

/** Whether maps of a type are read in batches. */
export function hasBatches(type: number): boolean {
  const keySize = 8;
  const valueSize = 4;
  const opts = Buffer.alloc(MAP_OPTS_SIZE);
  opts.writeBigUInt64LE(BigInt(MAP_OPTS_SIZE), 0);
  opts.writeUInt32LE(type === MAP_TYPES.prefixTrie ? BPF_F_NO_PREALLOC : 0, 28);
  const fd = library().mapCreate(type, 'mesh_probe', keySize, valueSize, 1, opts);
  check(fd, `make a map of type ${type}`);
  try {
    const counter = new Uint32Array([1]);
    const next = new Uint8Array(keySize);
    const keys = new Uint8Array(keySize);
    const values = new Uint8Array(valueSize);
    const result: number = library().lookupBatch(fd, null, next, keys, values, counter, null);
    return result >= 0 || result === -constants.errno.ENOENT;
  } finally {
    closeSync(fd);
  }
}

function linkError(
  programType: number,
  { attachType, target }: { readonly attachType: number; readonly target: number },
): string | undefined {
  const program = loadMinimal(programType, attachType);
  // The kernel does not know the hook at all: libbpf passes the type on, and the program is refused.
  if (program < 0) return undefined;
  try {
    const result: number = library().linkCreate(program, target, attachType, null);
    if (result < 0) return errnoName(-result);
    closeSync(result);
    return undefined;
  } finally {
    closeSync(program);
  }
}

/** Descriptor of a program, or the negative number of an error. */
function loadMinimal(type: number, attachType: number): number {
  const opts = Buffer.alloc(LOAD_OPTS_SIZE);
  opts.writeBigUInt64LE(BigInt(LOAD_OPTS_SIZE), 0);
  opts.writeUInt32LE(attachType, 12);
  return library().programLoad(
    type,
    'mesh_probe',
    'GPL',
    MINIMAL_PROGRAM,
    MINIMAL_PROGRAM.length / 8,
    opts,
  );
}
