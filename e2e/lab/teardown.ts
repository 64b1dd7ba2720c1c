/** Taking a lab down from its name alone, whatever state it is in and whoever made it. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { readdir, rm, rmdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { findCgroupRoot } from '../../agent/datapath/cgroup-root.ts';
import { systemClock } from '../../mesh/runtime/clock.ts';
import { run } from './command.ts';
import { LabError } from './lab-error.ts';
import { claimTeardown, isWreck, labNames } from './lab-state.ts';
import { LABS_FOLDER, labCgroup } from './plan.ts';

const KILL_TIMEOUT_MS = 10_000;

/**
 * Ends every process of a lab, and removes its mounts, namespaces, cgroups and files. Nothing is said when there is no such
 * lab, or another process is already at it.
 */
export async function tearDownLab(name: string): Promise<void> {
  if (!(await claimTeardown(name))) return;
  const cgroup = labCgroup(name, findCgroupRoot());
  await killProcesses(cgroup, name);
  await unmountAll(join(LABS_FOLDER, name));
  for (const namespace of namespacesOf(name)) await run(['ip', 'netns', 'delete', namespace]);
  await removeCgroups(cgroup);
  await rm(join(LABS_FOLDER, name), { recursive: true, force: true, maxRetries: 3 });
}

/** Takes down every lab whose maker was killed; resolves to their names. */
export async function sweepLabs(): Promise<string[]> {
  const wrecks: string[] = [];
  for (const name of await labNames()) {
    if (await isWreck(name)) wrecks.push(name);
  }
  for (const name of wrecks) await tearDownLab(name);
  return wrecks;
}

/** Ends what runs in one cgroup and below, and waits until it is empty. Throws LabError `timeout`. */
export async function killProcesses(cgroup: string, name: string): Promise<void> {
  if (!existsSync(cgroup)) return;
  const deadline = systemClock.monotonic() + KILL_TIMEOUT_MS;
  while (isPopulated(cgroup)) {
    await writeFile(join(cgroup, 'cgroup.kill'), '1');
    if (systemClock.monotonic() > deadline) {
      throw new LabError(
        'timeout',
        `cannot end the processes in ${cgroup} (${name}): they do not die`,
      );
    }
    await systemClock.sleep(10);
  }
}

/** Removes an empty tree of cgroups, children first. */
export async function removeCgroups(cgroup: string): Promise<void> {
  if (!existsSync(cgroup)) return;
  for (const entry of await readdir(cgroup, { withFileTypes: true })) {
    if (entry.isDirectory()) await removeCgroups(join(cgroup, entry.name));
  }
  await rmdir(cgroup);
}

/** Network namespaces of a lab: lab names hold no dash, so the prefix is no other lab's. */
export function namespacesOf(name: string): string[] {
  const folder = '/run/netns';
  if (!existsSync(folder)) return [];
  return readdirSync(folder).filter((entry) => entry.startsWith(`isthmus-${name}-`));
}

function isPopulated(cgroup: string): boolean {
  return /^populated 1$/m.test(readFileSync(join(cgroup, 'cgroup.events'), 'utf8'));
}

/** Unmounts everything below a folder, the innermost first. */
async function unmountAll(folder: string): Promise<void> {
  const mounts = readFileSync('/proc/self/mounts', 'utf8')
    .split('\n')
    .map((line) => line.split(' ')[1] ?? '')
    .filter((path) => path.startsWith(`${folder}/`))
    .reverse();
  for (const path of mounts) await run(['umount', path]);
}
