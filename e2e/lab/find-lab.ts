/** Labs that another process made: what the command line works on. */
import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { findCgroupRoot } from '../../agent/datapath/cgroup-root.ts';
import { placed } from './command.ts';
import { LabError } from './lab-error.ts';
import { isRunning, isWreck, labNames, readLabState } from './lab-state.ts';
import { type LabPlan, planLab, planPod } from './plan.ts';

/** A lab as its state file tells it. */
export interface FoundLab {
  readonly plan: LabPlan;
  readonly createdAt: string;
  readonly state: 'running' | 'owned' | 'abandoned';
  /** Addresses of the pods that run, by name. */
  readonly pods: Readonly<Record<string, readonly string[]>>;
}

/** Finds a lab; without a name the only one there is. Throws LabError `unknown-name`. */
export async function findLab(name: string | undefined): Promise<FoundLab> {
  const wanted = name ?? (await onlyLab());
  const state = await readLabState(wanted);
  return {
    plan: planLab(state.topology, { name: wanted, cgroupRoot: findCgroupRoot() }),
    createdAt: state.createdAt,
    state: state.persistent ? 'running' : isRunning(state.owner) ? 'owned' : 'abandoned',
    pods: state.pods,
  };
}

/** All labs of this machine, without those that are just being taken down. */
export async function findLabs(): Promise<FoundLab[]> {
  const found: FoundLab[] = [];
  for (const name of await labNames()) {
    try {
      found.push(await findLab(name));
    } catch (error) {
      if (!(error instanceof LabError) || (await isWreck(name))) throw error;
    }
  }
  return found;
}

/**
 * Runs a program in a pod or on a machine, on this terminal; resolves to its exit code. Throws LabError `unknown-name` when
 * there is none of that name.
 */
export async function runInLab(
  lab: FoundLab,
  name: string,
  argv: readonly string[],
): Promise<number> {
  const { netns, cgroup } = placeOf(lab, name);
  const [program = '', ...args] = placed(argv, { netns, cgroup });
  const child = spawn(program, args, { stdio: 'inherit' });
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('exit', (code, signal) => resolve(code ?? (signal === null ? 1 : 128)));
  });
}

async function onlyLab(): Promise<string> {
  const names = await labNames();
  const [name] = names;
  if (name !== undefined && names.length === 1) return name;
  throw new LabError(
    'unknown-name',
    names.length === 0
      ? 'cannot find a lab: there is none; run "clustermesh lab up TOPOLOGY"'
      : `cannot tell which lab is meant: there are ${names.join(', ')}; give --name`,
  );
}

function placeOf(
  { plan, pods }: FoundLab,
  name: string,
): { readonly netns: string; readonly cgroup: string } {
  const machine = plan.machines.find((candidate) => candidate.name === name);
  if (machine !== undefined) {
    return { netns: machine.netns, cgroup: join(machine.cgroup, 'system') };
  }
  const pod = plan.topology.pods.find((candidate) => candidate.name === name);
  if (pod !== undefined && pods[name] !== undefined) return planPod(pod, plan);
  const known = [...Object.keys(pods), ...plan.machines.map((one) => one.name)];
  throw new LabError(
    'unknown-name',
    `cannot find pod ${name}: lab ${plan.name} has ${known.join(', ') || 'none'}`,
  );
}
