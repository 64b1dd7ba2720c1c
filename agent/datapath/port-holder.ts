/** Who has a UDP port in this network namespace, read from /proc. */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { join } from 'node:path';

/** A program with its pid and name (pid undefined: it runs where we cannot look), or a device of the kernel's. */
export type PortHolder =
  | { readonly kind: 'program'; readonly pid: number | undefined; readonly name: string }
  | { readonly kind: 'kernel' };

const TABLES = ['net/udp', 'net/udp6'];
/** Columns of these tables: the local address, and the inode of the socket, which is 0 for the kernel's own. */
const LOCAL_ADDRESS = 1;
const INODE = 9;

/** Finds whoever has a port, on whatever address; undefined: nobody. */
export function findPortHolder(
  port: number,
  { self = '/proc/self', processes = '/proc' } = {},
): PortHolder | undefined {
  const inodes = TABLES.flatMap((table) => inodesOf(join(self, table), port));
  const [inode] = inodes.filter((candidate) => candidate !== '0');
  if (inode !== undefined) return programOf(inode, processes);
  return inodes.length > 0 ? { kind: 'kernel' } : undefined;
}

/** A holder as part of a sentence. */
export function holderText(holder: PortHolder): string {
  if (holder.kind === 'kernel')
    return 'a tunnel device that was made here and moved to another network namespace';
  return holder.pid === undefined
    ? 'a program outside of what this process can see (ss -lunp on the host shows it)'
    : `program ${holder.name} (pid ${holder.pid})`;
}

function inodesOf(table: string, port: number): string[] {
  const wanted = `:${port.toString(16).toUpperCase().padStart(4, '0')}`;
  return linesOf(table).flatMap((line) => {
    const columns = line.trim().split(/\s+/);
    const inode = columns[INODE];
    return columns[LOCAL_ADDRESS]?.endsWith(wanted) && inode !== undefined ? [inode] : [];
  });
}

function linesOf(table: string): string[] {
  try {
    return readFileSync(table, 'utf8').split('\n').slice(1);
  } catch {
    // A kernel without IPv6 has no such table.
    return [];
  }
}

function programOf(inode: string, processes: string): PortHolder {
  const target = `socket:[${inode}]`;
  for (const pid of namesIn(processes)) {
    if (!/^\d+$/.test(pid)) continue;
    const folder = join(processes, pid, 'fd');
    if (!namesIn(folder).some((fd) => linkOf(join(folder, fd)) === target)) continue;
    return { kind: 'program', pid: Number(pid), name: nameOf(join(processes, pid, 'comm')) };
  }
  return { kind: 'program', pid: undefined, name: '' };
}

// Processes end while they are looked at, and some may not be looked at: both are as if they were not there.

function namesIn(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return [];
  }
}

function linkOf(path: string): string {
  try {
    return readlinkSync(path);
  } catch {
    return '';
  }
}

function nameOf(path: string): string {
  try {
    return readFileSync(path, 'utf8').trim();
  } catch {
    return '?';
  }
}
