/**
 * Who owns a data directory: a file names the process that supervises etcd and, once started, etcd itself, both with
 * their start times, because numbers of processes are used again.
 */
import { readFile, rm, writeFile } from 'node:fs/promises';
import { type Clock, systemClock } from '../../mesh/runtime/clock.ts';
import { EtcdError } from './etcd-error.ts';

const GRACE_MS = 5000;
const POLL_MS = 20;

/** A process, in such a way that another one with its number is not taken for it. */
export interface ProcessName {
  readonly pid: number;
  /** Start time in clock ticks since boot, as the kernel tells it. */
  readonly startTicks: string;
}

/** What the file holds. */
interface Ownership {
  readonly supervisor: ProcessName;
  readonly etcd?: ProcessName;
}

/** The claim on a data directory. Disposing gives it up. */
export interface OwnerFile extends AsyncDisposable {
  /** Notes the etcd that now runs, so that a successor can end it if it should survive us. */
  noteEtcd(pid: number): Promise<void>;
}

/**
 * Claims a data directory for this process. Throws EtcdError `data-directory-in-use` while another live process has it;
 * an etcd that has outlived its supervisor is ended first.
 */
export async function claimDataDirectory(
  path: string,
  options: { readonly dataDir: string; readonly clock?: Clock },
): Promise<OwnerFile> {
  const { dataDir, clock = systemClock } = options;
  const supervisor = await nameProcess(process.pid);
  if (supervisor === undefined) throw new Error('cannot read /proc/self/stat: /proc must be there');
  for (let attempt = 1; !(await tryCreate(path, { supervisor })); attempt += 1) {
    const owner = await readOwner(path);
    if (owner !== undefined && (await isAlive(owner.supervisor))) {
      throw new EtcdError(
        'data-directory-in-use',
        `cannot use ${dataDir}: clustermesh-apiserver (process ${owner.supervisor.pid}) is using it; stop it or choose another --data-dir`,
        { retryable: false },
      );
    }
    if (owner?.etcd !== undefined) await endProcess(owner.etcd, clock);
    await rm(path, { force: true });
    if (attempt === 5) {
      throw new EtcdError('data-directory-in-use', `cannot claim ${dataDir}: others claim it too`, {
        retryable: true,
      });
    }
  }
  return {
    async noteEtcd(pid) {
      const etcd = await nameProcess(pid);
      const content: Ownership = etcd === undefined ? { supervisor } : { supervisor, etcd };
      await writeFile(path, JSON.stringify(content), { mode: 0o600 });
    },
    async [Symbol.asyncDispose]() {
      const owner = await readOwner(path);
      if (owner === undefined || sameProcess(owner.supervisor, supervisor)) {
        await rm(path, { force: true });
      }
    },
  };
}

async function tryCreate(path: string, content: Ownership): Promise<boolean> {
  try {
    await writeFile(path, JSON.stringify(content), { mode: 0o600, flag: 'wx' });
    return true;
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'EEXIST') return false;
    throw error;
  }
}

/** Undefined when there is no file, or one cut short by a crash. */
async function readOwner(path: string): Promise<Ownership | undefined> {
  let content: unknown;
  try {
    content = JSON.parse(await readFile(path, 'utf8'));
  } catch (error) {
    if (error instanceof SyntaxError) return undefined;
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined;
    throw error;
  }
  const supervisor = parseProcessName(content, 'supervisor');
  const etcd = parseProcessName(content, 'etcd');
  if (supervisor === undefined) return undefined;
  return etcd === undefined ? { supervisor } : { supervisor, etcd };
}

function parseProcessName(content: unknown, field: string): ProcessName | undefined {
  const value = (content as Record<string, unknown> | null)?.[field];
  const { pid, startTicks } = (value ?? {}) as Record<string, unknown>;
  if (typeof pid !== 'number' || typeof startTicks !== 'string') return undefined;
  return { pid, startTicks };
}

function sameProcess(a: ProcessName, b: ProcessName): boolean {
  return a.pid === b.pid && a.startTicks === b.startTicks;
}

/** Whether a process of this host still runs. */
export async function isAlive(name: ProcessName): Promise<boolean> {
  const now = await nameProcess(name.pid);
  return now !== undefined && sameProcess(now, name);
}

/** The process that now has this number; undefined when there is none, or only its remains. */
export async function nameProcess(pid: number): Promise<ProcessName | undefined> {
  let stat: string;
  try {
    stat = await readFile(`/proc/${pid}/stat`, 'utf8');
  } catch {
    return undefined;
  }
  // The second field is the program's name in parentheses, which may hold anything; state is the third, start the 22nd.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  const startTicks = fields[19];
  if (startTicks === undefined || fields[0] === 'Z') return undefined;
  return { pid, startTicks };
}

async function endProcess(name: ProcessName, clock: Clock): Promise<void> {
  for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
    if (!(await isAlive(name))) return;
    process.kill(name.pid, signal);
    const deadline = clock.monotonic() + GRACE_MS;
    while ((await isAlive(name)) && clock.monotonic() < deadline) await clock.sleep(POLL_MS);
  }
}
