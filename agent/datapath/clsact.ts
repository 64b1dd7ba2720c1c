/**
 * Programs on interfaces by filters of the clsact qdisc, for kernels without tcx links (before Linux 6.6). The kernel keeps
 * a filter as long as its interface; the pinned program beside it only says which one it should be. A filter's program is
 * replaced in one step.
 */
import { execFileSync } from 'node:child_process';
import { closeSync, existsSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { constants } from 'node:os';
import { ATTACH_TYPES, interfaceIndex, openPinned, pin, pinnedProgramId } from './bpf.ts';
import { check, library } from './libbpf.ts';

/** Where our filters stand: early, and recognised by their number. A verdict of UNSPEC goes on to the filters behind. */
const PRIORITY = 10;
const HANDLE = 0x4953;

const INGRESS = 1;
const EGRESS = 2;
const REPLACE = 1;
/** Sizes of struct bpf_tc_hook and struct bpf_tc_opts. */
const HOOK_SIZE = 24;
const OPTS_SIZE = 32;

/** Attaches a program to an interface, or replaces ours there. Throws `kernel`. */
export function attachFilter(
  ifindex: number,
  { programFd, attachType, pinPath }: FilterAttachment,
): void {
  const hook = hookOf(ifindex, attachType);
  const made: number = library().tcHookCreate(hook);
  if (made !== -constants.errno.EEXIST) check(made, 'make the clsact qdisc');
  // Under a second name until it is attached: whoever looks knows both, should we die between the steps.
  const draft = draftOf(pinPath);
  rmSync(draft, { force: true });
  pin(programFd, draft);
  check(library().tcAttach(hook, optsOf(programFd, REPLACE)), 'attach a filter');
  renameSync(draft, pinPath);
}

/** What attachFilter needs to know: `attachType` is that of tcx. */
export interface FilterAttachment {
  readonly programFd: number;
  readonly attachType: number;
  readonly pinPath: string;
}

/** Whether the pinned program is the one that our filter has. */
export function isFilterAttached(
  ifindex: number,
  { attachType, pinPath }: Pick<FilterAttachment, 'attachType' | 'pinPath'>,
): boolean {
  const wanted = programIdOf(pinPath);
  return wanted !== undefined && filterProgram(hookOf(ifindex, attachType)) === wanted;
}

/** Removes the filter that holds a pinned program, wherever it is, and the qdisc if nothing is left in it; then the pin. */
export function detachFilter(pinPath: string): void {
  const programs = [pinPath, draftOf(pinPath)].map(programIdOf);
  for (const name of interfaceNames()) {
    const ifindex = interfaceIndex(name);
    if (ifindex === undefined) continue;
    for (const attachType of [ATTACH_TYPES.tcxIngress, ATTACH_TYPES.tcxEgress]) {
      const hook = hookOf(ifindex, attachType);
      const held = filterProgram(hook);
      if (held === undefined || !programs.includes(held)) continue;
      const result: number = library().tcDetach(hook, optsOf(0, 0));
      if (result !== -constants.errno.ENOENT) check(result, `detach a filter from ${name}`);
      removeEmptyQdisc(name, ifindex);
    }
  }
  rmSync(draftOf(pinPath), { force: true });
  rmSync(pinPath, { force: true });
}

/** Of this process's network namespace, which sysfs need not be that of. */
function interfaceNames(): string[] {
  return readFileSync('/proc/self/net/dev', 'utf8')
    .split('\n')
    .map((line) => /^\s*([^\s:]+):/.exec(line)?.[1])
    .filter((name) => name !== undefined);
}

function removeEmptyQdisc(name: string, ifindex: number): void {
  const isEmpty = ['ingress', 'egress'].every(
    (side) => execFileSync('tc', ['filter', 'show', 'dev', name, side]).length === 0,
  );
  if (!isEmpty) return;
  const hook = hookOf(ifindex, undefined);
  check(library().tcHookDestroy(hook), `remove the clsact qdisc of ${name}`);
}

function draftOf(pinPath: string): string {
  return `${pinPath}-next`;
}

function programIdOf(pinPath: string): number | undefined {
  const fd = existsSync(pinPath) ? openPinned(pinPath) : undefined;
  if (fd === undefined) return undefined;
  try {
    return pinnedProgramId(fd);
  } finally {
    closeSync(fd);
  }
}

/** Program of our filter at a hook; undefined: there is none. */
function filterProgram(hook: Buffer): number | undefined {
  const opts = optsOf(0, 0);
  const result: number = library().tcQuery(hook, opts);
  // No filter, no qdisc, no interface any more.
  if (result === -constants.errno.ENOENT || result === -constants.errno.EINVAL) return undefined;
  if (result === -constants.errno.ENODEV) return undefined;
  check(result, 'read a filter');
  return opts.readUInt32LE(16);
}

/** struct bpf_tc_hook; without a type, both sides. */
function hookOf(ifindex: number, attachType: number | undefined): Buffer {
  const hook = Buffer.alloc(HOOK_SIZE);
  hook.writeBigUInt64LE(BigInt(HOOK_SIZE), 0);
  hook.writeInt32LE(ifindex, 8);
  hook.writeUInt32LE(sideOf(attachType), 12);
  return hook;
}

function sideOf(attachType: number | undefined): number {
  if (attachType === undefined) return INGRESS | EGRESS;
  return attachType === ATTACH_TYPES.tcxIngress ? INGRESS : EGRESS;
}

/** struct bpf_tc_opts: program, flags, (id), handle and priority. */
function optsOf(programFd: number, flags: number): Buffer {
  const opts = Buffer.alloc(OPTS_SIZE);
  opts.writeBigUInt64LE(BigInt(OPTS_SIZE), 0);
  opts.writeInt32LE(programFd, 8);
  opts.writeUInt32LE(flags, 12);
  opts.writeUInt32LE(HANDLE, 20);
  opts.writeUInt32LE(PRIORITY, 24);
  return opts;
}
