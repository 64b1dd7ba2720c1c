/**
 * One agent a folder: a lock on the folder itself, which the kernel gives up when its holder ends, however that happens.
 * Nothing is written, so nothing can be stale.
 */
import { closeSync, constants, openSync, readFileSync, statSync } from 'node:fs';
import koffi from 'koffi';
import { DatapathError } from './datapath-error.ts';
import { errnoName, library } from './libbpf.ts';

const LOCK_EXCLUSIVE = 2;
const LOCK_AT_ONCE = 4;

/** Locks a folder that exists until disposed. Throws `already-running` with the process that has it. */
export function lockFolder(folder: string): Disposable {
  const fd = openSync(folder, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    const result: number = library().flock(fd, LOCK_EXCLUSIVE | LOCK_AT_ONCE);
    if (result !== 0) throw refusal(folder, errnoName(koffi.errno()));
  } catch (error) {
    closeSync(fd);
    throw error;
  }
  let isHeld = true;
  return {
    [Symbol.dispose]() {
      if (isHeld) closeSync(fd);
      isHeld = false;
    },
  };
}

function refusal(folder: string, errno: string): DatapathError {
  if (errno !== 'EAGAIN') {
    return new DatapathError('kernel', `cannot lock ${folder}: ${errno}`, { errno });
  }
  const pid = holderOf(folder);
  const who = pid === undefined ? 'another process' : `process ${pid}`;
  return new DatapathError(
    'already-running',
    `another agent runs here: ${who} holds ${folder}: stop it first, or give this one a --state-dir and a --bpf-root of its own`,
  );
}

/** Process that holds a folder's lock; undefined where it cannot be seen (another PID namespace). */
function holderOf(folder: string): number | undefined {
  const { ino, dev } = statSync(folder);
  const major = (dev >> 8) & 0xfff;
  const minor = (dev & 0xff) | ((dev >> 12) & 0xfff00);
  for (const line of readFileSync('/proc/locks', 'utf8').split('\n')) {
    // 1: FLOCK  ADVISORY  WRITE 4711 00:1c:5678 0 EOF
    const match = /^\d+: FLOCK +ADVISORY +WRITE +(\d+) ([0-9a-f]+):([0-9a-f]+):(\d+) /.exec(line);
    if (match === null) continue;
    const [, pid = '', ...file] = match;
    const isIt =
      Number.parseInt(file[0] ?? '', 16) === major &&
      Number.parseInt(file[1] ?? '', 16) === minor &&
      Number(file[2]) === ino;
    if (isIt && pid !== '0') return Number(pid);
  }
  return undefined;
}
