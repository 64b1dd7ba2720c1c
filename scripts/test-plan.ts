/** In which order test files run, and which of them share a process. Pure. */
import { SLOW_TESTS } from './slow-tests.ts';

/** Files that one process runs, one after the other; most often a single one. */
export type TestJob = readonly string[];

/** So many short files share a process: starting Node and loading tap takes longer than most of them. */
const FILES_TOGETHER = 16;
/** Here every file has a process of its own: what it starts, and what it makes in the kernel, is not for others. */
const ALONE = /^dist\/(e2e|bench|agent\/datapath)\//;
/** What ranks before the rest although nobody has measured it: whole labs. */
const LAB = /^dist\/e2e\//;

const order = new Map(SLOW_TESTS.map((name, index) => [`dist/${name}.test.js`, index]));

/** The files as jobs, the longest first. `apart`: none shares a process. */
export function planJobs(
  files: readonly string[],
  options: { readonly apart: boolean },
): TestJob[] {
  const isAlone = (file: string): boolean =>
    options.apart || ALONE.test(file) || order.has(file) || files.length <= FILES_TOGETHER;
  const rank = (file: string): number => order.get(file) ?? (LAB.test(file) ? -1 : order.size);
  const alone = files.filter(isAlone).sort((a, b) => rank(a) - rank(b) || a.localeCompare(b));
  const together = files.filter((file) => !isAlone(file)).sort();
  const shared = Array.from({ length: Math.ceil(together.length / FILES_TOGETHER) }, (_, index) =>
    together.slice(index * FILES_TOGETHER, (index + 1) * FILES_TOGETHER),
  );
  return [...alone.map((file) => [file]), ...shared];
}

/** Whether a file belongs into the list of slow ones and is not there. */
export function isUnexpectedlySlow(name: string, seconds: number): boolean {
  return seconds > UNEXPECTED_SECONDS && !order.has(name);
}

/** Well above the 3 s of the list: a busy machine is no reason to name a file. */
const UNEXPECTED_SECONDS = 10;
