/**
 * The file by which a lab outlives the process that made it: who made it, from what, and which pods it has. A later run finds
 * there what a killed one left.
 */
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { mkdir, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { LabError } from './lab-error.ts';
import { LABS_FOLDER } from './plan.ts';
import { parseTopology, type Topology } from './topology.ts';

const STATE_FILE = 'state.json';
/** A folder without a state file is being torn down by somebody; after this long they must have died at it. */
const ABANDONED_MS = 60_000;

const stateSchema = z.strictObject({
  schema: z.literal(1),
  name: z.string(),
  /** The process that made it; a number comes back, the pair does not. */
  owner: z.strictObject({ pid: z.int(), startTime: z.string() }),
  /** Lives on without its owner, until somebody takes it down. */
  persistent: z.boolean(),
  createdAt: z.string(),
  topology: z.unknown(),
  /** Pods that run, with their addresses. */
  pods: z.record(z.string(), z.array(z.string())),
});

/** What is known about a lab on this machine. */
export interface LabState extends Omit<z.infer<typeof stateSchema>, 'topology'> {
  readonly topology: Topology;
}

/** Makes the folder of a new lab, with its state in it from the first moment on. Throws LabError `busy`. */
export async function claimLab(
  state: Omit<LabState, 'schema' | 'owner' | 'createdAt'>,
): Promise<LabState> {
  const whole: LabState = {
    schema: 1,
    ...state,
    owner: thisProcess(),
    createdAt: new Date().toISOString(),
  };
  const fresh = join(LABS_FOLDER, `.new-${randomBytes(6).toString('hex')}`);
  await mkdir(fresh, { recursive: true, mode: 0o700 });
  await writeFile(join(fresh, STATE_FILE), JSON.stringify(whole), { mode: 0o600 });
  try {
    await rename(fresh, join(LABS_FOLDER, state.name));
  } catch (cause) {
    await rm(fresh, { recursive: true, force: true });
    throw new LabError(
      'busy',
      `cannot make lab ${state.name}: there is one of that name; run "clustermesh lab down --name ${state.name}" or take another --name`,
      { cause },
    );
  }
  return whole;
}

/** Writes a lab's state in place of what was there. */
export async function writeLabState(state: LabState): Promise<void> {
  const path = join(LABS_FOLDER, state.name, STATE_FILE);
  const temporary = `${path}.${randomBytes(4).toString('hex')}`;
  await writeFile(temporary, JSON.stringify(state), { mode: 0o600 });
  await rename(temporary, path);
}

/** State of a lab. Throws LabError `unknown-name`. */
export async function readLabState(name: string): Promise<LabState> {
  try {
    const text = await readFile(join(LABS_FOLDER, name, STATE_FILE), 'utf8');
    const state = stateSchema.parse(JSON.parse(text));
    return { ...state, topology: parseTopology(state.topology, `state of lab ${name}`) };
  } catch (cause) {
    const known = (await labNames()).join(', ') || 'none';
    throw new LabError('unknown-name', `cannot find lab ${name}: labs on this machine: ${known}`, {
      cause,
    });
  }
}

/** Names of all labs on this machine, wrecks included. */
export async function labNames(): Promise<string[]> {
  try {
    return (await readdir(LABS_FOLDER)).filter((name) => !name.startsWith('.')).sort();
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return [];
    throw error;
  }
}

/** True when nobody owns the lab any more and it was not meant to live on. */
export async function isWreck(name: string): Promise<boolean> {
  try {
    const state = await readLabState(name);
    return !state.persistent && !isRunning(state.owner);
  } catch (error) {
    if (!(error instanceof LabError)) throw error;
    const folder = await stat(join(LABS_FOLDER, name)).catch(() => undefined);
    return folder !== undefined && Date.now() - folder.mtimeMs > ABANDONED_MS;
  }
}

/** Takes a lab's state away, so that one of several cleaners does the work. False when another one was first. */
export async function claimTeardown(name: string): Promise<boolean> {
  const path = join(LABS_FOLDER, name, STATE_FILE);
  try {
    await rename(path, `${path}.down`);
    return true;
  } catch {
    const folder = await stat(join(LABS_FOLDER, name)).catch(() => undefined);
    return folder !== undefined && Date.now() - folder.mtimeMs > ABANDONED_MS;
  }
}

/** True while the lab's owner lives. */
export function isRunning(owner: LabState['owner']): boolean {
  return startTimeOf(owner.pid) === owner.startTime;
}

function thisProcess(): LabState['owner'] {
  return { pid: process.pid, startTime: startTimeOf(process.pid) ?? '' };
}

/** When a process started, in clock ticks since boot; undefined when there is none of that number. */
function startTimeOf(pid: number): string | undefined {
  try {
    // The name may hold blanks and parentheses: count from the last one. Start time is field 22, the 20th behind it.
    const text = readFileSync(`/proc/${pid}/stat`, 'utf8');
    return text.slice(text.lastIndexOf(')') + 2).split(' ')[19];
  } catch {
    return undefined;
  }
}
