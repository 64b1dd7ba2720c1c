/** How many jobs run at a time: some always, and more while the machine has nothing to do. */
import { cpus } from 'node:os';

/** What `runInLanes` needs to know of the machine. */
export interface LaneOptions {
  /** So many run always. */
  readonly lanes: number;
  /** So many at most, while processors idle. */
  readonly most: number;
}

/** Between two looks at the processors; a job that has just begun gets so long to be felt. */
const LOOK_MS = 2000;
/** Idle processors, in parts of one, that let one job more begin. */
const IDLE_ENOUGH = 0.5;

/**
 * Runs all jobs. The lanes take them from the front; while processors idle, because what runs waits for something, further ones
 * begin from the back: long jobs wait much, short ones compute.
 */
export async function runInLanes<Job>(
  jobs: readonly Job[],
  run: (job: Job) => Promise<void>,
  { lanes, most }: LaneOptions,
): Promise<void> {
  const waiting = [...jobs];
  let extra = 0;
  const lane = async (): Promise<void> => {
    for (let job = waiting.shift(); job !== undefined; job = waiting.shift()) await run(job);
  };
  const further = new Set<Promise<void>>();
  let before = idleMs();
  const look = setInterval(() => {
    const now = idleMs();
    const idle = (now - before) / LOOK_MS;
    before = now;
    if (idle < IDLE_ENOUGH || lanes + extra >= most) return;
    const job = waiting.pop();
    if (job === undefined) return;
    extra += 1;
    const ended = run(job).finally(() => {
      extra -= 1;
      further.delete(ended);
    });
    further.add(ended);
  }, LOOK_MS);
  try {
    await Promise.all(Array.from({ length: Math.min(lanes, jobs.length) }, lane));
    await Promise.all(further);
  } finally {
    clearInterval(look);
  }
}

/** What all processors together have idled since the machine was started. */
function idleMs(): number {
  return cpus().reduce((sum, { times }) => sum + times.idle, 0);
}
