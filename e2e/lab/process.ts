/** Programs that a lab keeps running: daemons on nodes, servers in pods. */
import { spawn } from 'node:child_process';
import { closeSync, fstatSync, mkdirSync, openSync, readFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { type Clock, systemClock } from '../../mesh/runtime/clock.ts';
import { placed } from './command.ts';

/** How a process ended: one of the two is set. */
export interface ProcessExit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

/** A running process of a lab. Disposing ends it. */
export interface LabProcess extends AsyncDisposable {
  readonly pid: number;
  /** File that gets what it writes. */
  readonly log: string;
  /** Resolves when it has ended, for whatever reason. */
  readonly exited: Promise<ProcessExit>;
  readonly isRunning: () => boolean;
  /** What it has written so far; what others wrote to the same file before is not part of it. */
  output(): string;
  /** Sends a signal; nothing when it has ended. */
  kill(signal: NodeJS.Signals): void;
  /** SIGTERM, and SIGKILL after 5 s; resolves when it has ended. */
  stop(): Promise<ProcessExit>;
}

/** Where a process runs. */
export interface StartOptions {
  readonly netns: string;
  readonly cgroup: string;
  readonly log: string;
  /** Lets it live on when we end. Default: the kernel kills it when we die, however we die. */
  readonly persistent?: boolean | undefined;
  readonly clock?: Clock | undefined;
}

const GRACE_MS = 5000;

/** Starts a program in a network namespace and a cgroup, its output going to a file. */
export function startProcess(argv: readonly string[], options: StartOptions): LabProcess {
  const { log, clock = systemClock } = options;
  mkdirSync(dirname(log), { recursive: true, mode: 0o700 });
  const guarded = options.persistent ? argv : ['setpriv', '--pdeathsig=KILL', '--', ...argv];
  const [program = '', ...args] = placed(guarded, options);
  const output = openSync(log, 'a', 0o600);
  const { size: before } = fstatSync(output);
  // A group of its own: ctrl-C in a terminal reaches us alone, and we end everything in order.
  const child = spawn(program, args, { detached: true, stdio: ['ignore', output, output] });
  closeSync(output);
  if (options.persistent) child.unref();
  const ended = new AbortController();
  const exited = new Promise<ProcessExit>((resolve) => {
    child.once('exit', (code, signal) => resolve({ code, signal }));
    child.once('error', () => resolve({ code: 127, signal: null }));
  }).finally(() => ended.abort());
  const kill = (signal: NodeJS.Signals): void => {
    child.kill(signal);
  };
  const stop = async (): Promise<ProcessExit> => {
    kill('SIGTERM');
    clock.sleep(GRACE_MS, ended.signal).then(
      () => kill('SIGKILL'),
      // It has ended.
      () => undefined,
    );
    return exited;
  };
  return {
    pid: child.pid ?? 0,
    log,
    exited,
    isRunning: () => child.exitCode === null && child.signalCode === null,
    output: () => readFileSync(log).subarray(before).toString('utf8'),
    kill,
    stop,
    [Symbol.asyncDispose]: async () => {
      await stop();
    },
  };
}
