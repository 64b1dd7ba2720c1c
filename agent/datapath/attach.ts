/**
 * Attachment by pinned links: they outlive the process, and a new program replaces the old one in one step
 * (BPF_LINK_UPDATE), so that no packet meets a hook without a program. Where the kernel has no links for interfaces
 * (before Linux 6.6), by a filter of the clsact qdisc, which outlives the process too and is replaced in one step as well.
 */
import { closeSync, constants, existsSync, mkdirSync, openSync, rmSync, statSync } from 'node:fs';
import { dirname } from 'node:path';
import {
  createLink,
  detachLink,
  interfaceIndex,
  isProgram,
  LINK_TYPES,
  linkInfo,
  openPinned,
  pin,
  updateLink,
} from './bpf.ts';
import { attachFilter, detachFilter, isFilterAttached } from './clsact.ts';
import { DatapathError } from './datapath-error.ts';

/** What to attach, and where its link is pinned. */
export interface Attachment {
  readonly programFd: number;
  readonly attachType: number;
  readonly pinPath: string;
}

/** The same for an interface. */
export interface InterfaceAttachment extends Attachment {
  /** Whether the kernel has links for interfaces. */
  readonly hasTcx: boolean;
}

/** Part of a pin's path for an interface: a bpffs refuses dots in names. */
export function pinNameOfInterface(name: string): string {
  return name.replaceAll('%', '%25').replaceAll('.', '%2e');
}

/** The interface that pinNameOfInterface made a part of. */
export function interfaceOfPinName(part: string): string {
  return part.replaceAll('%2e', '.').replaceAll('%25', '%');
}

/** Attaches to the ingress or egress of an interface, or replaces what an earlier process attached. Throws `no-interface`. */
export function attachToInterface(name: string, attachment: InterfaceAttachment): void {
  const index = interfaceIndex(name);
  if (index === undefined) {
    throw new DatapathError(
      'no-interface',
      `cannot attach to interface ${name}: it does not exist here`,
      { retryable: true },
    );
  }
  const description = `interface ${name}`;
  if (!attachment.hasTcx) {
    orExplain(description, () => {
      mkdirSync(dirname(attachment.pinPath), { recursive: true, mode: 0o700 });
      attachFilter(index, attachment);
    });
    return;
  }
  attach(attachment, { type: LINK_TYPES.tcx, target: index, id: BigInt(index) }, description);
}

/** Attaches to the sockets of a cgroup v2 folder, or replaces what an earlier process attached. */
export function attachToCgroup(folder: string, attachment: Attachment): void {
  const fd = openSync(folder, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    // The inode number of a cgroup folder is the cgroup's id.
    const id = statSync(folder, { bigint: true }).ino;
    attach(attachment, { type: LINK_TYPES.cgroup, target: fd, id }, `cgroup ${folder}`);
  } finally {
    closeSync(fd);
  }
}

/** Whether what is pinned holds a program on an interface of that name now. */
export function isAttachedToInterface(name: string, pinPath: string, attachType: number): boolean {
  const index = interfaceIndex(name);
  if (index === undefined) return false;
  return isPinOfProgram(pinPath)
    ? isFilterAttached(index, { attachType, pinPath })
    : targetOf(pinPath) === BigInt(index);
}

/** Whether a pinned link holds a program on the sockets of a cgroup folder now. */
export function isAttachedToCgroup(folder: string, pinPath: string): boolean {
  const stat = statSync(folder, { bigint: true, throwIfNoEntry: false });
  return stat !== undefined && targetOf(pinPath) === stat.ino;
}

/** What a pinned link is attached to; undefined: nothing is pinned there. */
function targetOf(pinPath: string): bigint | undefined {
  const fd = existsSync(pinPath) ? openPinned(pinPath) : undefined;
  if (fd === undefined) return undefined;
  try {
    return linkInfo(fd).target;
  } finally {
    closeSync(fd);
  }
}

/** Detaches at once and removes the pin. A pin that is not there is no error. */
export function detachPinned(pinPath: string): void {
  if (isPinOfProgram(pinPath)) {
    detachFilter(pinPath);
    return;
  }
  const fd = existsSync(pinPath) ? openPinned(pinPath) : undefined;
  if (fd !== undefined) {
    try {
      detachLink(fd);
    } finally {
      closeSync(fd);
    }
  }
  rmSync(pinPath, { force: true });
}

function attach(
  attachment: Attachment,
  to: { type: number; target: number; id: bigint },
  description: string,
): void {
  orExplain(description, () => {
    if (replace(attachment, to)) return;
    mkdirSync(dirname(attachment.pinPath), { recursive: true, mode: 0o700 });
    const link = createLink(attachment.programFd, to.target, attachment.attachType);
    try {
      pin(link, attachment.pinPath);
    } finally {
      closeSync(link);
    }
  });
}

function orExplain(description: string, act: () => void): void {
  try {
    act();
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new DatapathError('kernel', `cannot attach to ${description}: ${reason}`, {
      retryable: true,
      cause,
    });
  }
}

/** Updates the pinned link if it still is attached there; a stale one (interface made anew, cgroup too) is removed. */
function replace(attachment: Attachment, to: { type: number; id: bigint }): boolean {
  if (!existsSync(attachment.pinPath)) return false;
  if (isPinOfProgram(attachment.pinPath)) {
    detachFilter(attachment.pinPath);
    return false;
  }
  const link = openPinned(attachment.pinPath);
  if (link === undefined) return false;
  try {
    const info = linkInfo(link);
    const isSame =
      info.type === to.type && info.target === to.id && info.attachType === attachment.attachType;
    if (isSame) {
      updateLink(link, attachment.programFd);
      return true;
    }
  } finally {
    closeSync(link);
  }
  detachPinned(attachment.pinPath);
  return false;
}

/** Whether a filter's program is pinned there, and not a link. */
function isPinOfProgram(pinPath: string): boolean {
  const fd = existsSync(pinPath) ? openPinned(pinPath) : undefined;
  if (fd === undefined) return false;
  try {
    return isProgram(fd);
  } finally {
    closeSync(fd);
  }
}
