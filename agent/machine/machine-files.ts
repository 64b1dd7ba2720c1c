/** What joining leaves on a machine's disk. Folders are 0700, files 0600, and each is replaced as a whole or not at all. */
import { randomBytes } from 'node:crypto';
import {
  closeSync,
  existsSync,
  fsyncSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { MachineError, reasonOf } from './machine-error.ts';

/** Names of everything that joining and the agent of a machine write into the state directory, besides the agent's own. */
export const MACHINE_FILES = {
  machine: 'machine.json',
  environment: 'agent.env',
  etcdConfig: 'etcd.config',
  certificates: 'certs',
  peers: 'clustermesh',
  pending: 'pending',
} as const;

const GENERATION = /^\.certs-[0-9a-f]{8}$/;
const TEMPORARY = /\.[0-9a-f]{8}\.tmp$/;

/** A machine's certificates as PEM. */
export interface MachineCertificates {
  /** Authorities that are believed. */
  readonly ca: string;
  /** The machine's own, and its intermediates. */
  readonly certificate: string;
  readonly key: string;
}

/** Makes the state directory, or takes one that is there. Throws MachineError `disk`. */
export function makeStateFolder(folder: string): void {
  onDisk(folder, () => {
    mkdirSync(folder, { recursive: true, mode: 0o700 });
  });
}

/** Writes a file so that a reader sees the old content or the new, and what is there survives a full disk. Throws `disk`. */
export function writeMachineFile(folder: string, name: string, content: string): void {
  const path = join(folder, name);
  const temporary = `${path}.${randomBytes(4).toString('hex')}.tmp`;
  onDisk(path, () => {
    try {
      writeDurably(temporary, content);
      renameSync(temporary, path);
    } catch (error) {
      rmSync(temporary, { force: true });
      throw error;
    }
  });
}

/** Reads a file; undefined: it is not there. Throws MachineError `state`. */
export function readMachineFile(folder: string, name: string): string | undefined {
  const path = join(folder, name);
  try {
    return readFileSync(path, 'utf8');
  } catch (cause) {
    if (isMissing(cause)) return undefined;
    throw new MachineError('state', `cannot read ${path}: ${reasonOf(cause)}`, { cause });
  }
}

/**
 * Puts certificates into use, all three at once: `certs` is a link to a folder, and a rename leads it to the next. Whoever is
 * killed in between leaves the former ones. `writtenAt`: when the machine's own came here, milliseconds since 1970; default
 * now. Throws MachineError `disk`.
 */
export function writeCertificates(
  folder: string,
  certificates: MachineCertificates,
  writtenAt?: number,
): void {
  const link = join(folder, MACHINE_FILES.certificates);
  const suffix = randomBytes(4).toString('hex');
  const name = `.certs-${suffix}`;
  const generation = join(folder, name);
  const temporary = `${link}.${suffix}.tmp`;
  onDisk(link, () => {
    try {
      mkdirSync(generation, { mode: 0o700 });
      writeDurably(join(generation, 'ca.crt'), certificates.ca);
      writeDurably(join(generation, 'tls.key'), certificates.key);
      const leaf = join(generation, 'tls.crt');
      writeDurably(leaf, certificates.certificate);
      if (writtenAt !== undefined) utimesSync(leaf, writtenAt / 1000, writtenAt / 1000);
      symlinkSync(name, temporary);
      renameSync(temporary, link);
    } catch (error) {
      rmSync(temporary, { force: true });
      rmSync(generation, { recursive: true, force: true });
      throw error;
    }
  });
  removeFormer(folder);
}

/** Reads the certificates in use; undefined: there are none. Throws MachineError `state` for a part of them. */
export function readCertificates(folder: string): MachineCertificates | undefined {
  const names = ['ca.crt', 'tls.crt', 'tls.key'] as const;
  const [ca, certificate, key] = names.map((name) =>
    readMachineFile(folder, join(MACHINE_FILES.certificates, name)),
  );
  if (ca === undefined && certificate === undefined && key === undefined) return undefined;
  if (ca === undefined || certificate === undefined || key === undefined) {
    throw new MachineError(
      'state',
      `${join(folder, MACHINE_FILES.certificates)} does not hold all of ca.crt, tls.crt and tls.key: run clustermesh vm leave and join again`,
    );
  }
  return { ca, certificate, key };
}

/** When the machine's own certificate came here, milliseconds since 1970; 0 where there is none. */
export function certificatesWrittenAt(folder: string): number {
  const path = join(folder, MACHINE_FILES.certificates, 'tls.crt');
  return statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0;
}

/** Takes up space that what follows will need, so that a full disk is met before a token is used. Throws `disk`. */
export function reserveSpace(folder: string, bytes: number): Disposable {
  const path = join(folder, `reserve.${randomBytes(4).toString('hex')}.tmp`);
  onDisk(path, () => {
    try {
      // Random, since a file system may keep zeros or repetitions as next to nothing.
      writeDurably(path, randomBytes(bytes));
    } catch (error) {
      rmSync(path, { force: true });
      throw error;
    }
  });
  return { [Symbol.dispose]: () => rmSync(path, { force: true }) };
}

/** Removes what a process that was killed has left beside what is in use. */
export function removeRemains(folder: string): void {
  if (!existsSync(folder)) return;
  for (const name of readdirSync(folder)) {
    if (TEMPORARY.test(name)) rmSync(join(folder, name), { force: true });
  }
  removeFormer(folder);
}

/** Removes everything that joining has written, the mark that the machine has joined first. Nothing of others is touched. */
export function removeMachineFiles(folder: string): void {
  if (!existsSync(folder)) return;
  const { machine, ...others } = MACHINE_FILES;
  for (const name of [machine, ...Object.values(others)]) {
    rmSync(join(folder, name), { recursive: true, force: true });
  }
  removeRemains(folder);
}

/** Folders of certificates that the link does not lead to. */
function removeFormer(folder: string): void {
  const link = join(folder, MACHINE_FILES.certificates);
  const isLink = lstatSync(link, { throwIfNoEntry: false })?.isSymbolicLink() === true;
  const current = isLink ? readlinkSync(link) : undefined;
  for (const name of readdirSync(folder)) {
    if (GENERATION.test(name) && name !== current) {
      rmSync(join(folder, name), { recursive: true, force: true });
    }
  }
}

function writeDurably(path: string, content: string | Buffer): void {
  const fd = openSync(path, 'wx', 0o600);
  try {
    writeFileSync(fd, content);
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

function onDisk(path: string, write: () => void): void {
  try {
    write();
  } catch (cause) {
    const isFull = cause instanceof Error && 'code' in cause && cause.code === 'ENOSPC';
    throw new MachineError(
      'disk',
      isFull
        ? `cannot write ${path}: the disk is full; free some space (df -h ${path.slice(0, path.lastIndexOf('/'))}) and run the command again: nothing half written was left`
        : `cannot write ${path}: ${reasonOf(cause)}`,
      { retryable: isFull, cause },
    );
  }
}

function isMissing(error: unknown): boolean {
  return (
    error instanceof Error &&
    'code' in error &&
    (error.code === 'ENOENT' || error.code === 'ENOTDIR')
  );
}
