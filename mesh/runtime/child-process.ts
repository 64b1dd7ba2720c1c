import { type ChildProcess, spawn } from 'node:child_process';
import { statSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { createInterface } from 'node:readline';
import { type Clock, systemClock } from './clock.ts';
import type { Logger } from './log.ts';

const SEARCH_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';
const KEPT_LINES = 20;

/** Why a child process cannot be started. */
export class ChildError extends Error {
  readonly code: 'not-found';
  readonly retryable = false;

  constructor(code: 'not-found', message: string, options: { cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'ChildError';
    this.code = code;
  }
}

/** How a child process ended: one of the two is set. */
export interface ChildExit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

/** A running child process. Disposing stops it. */
export interface ChildHandle extends AsyncDisposable {
  readonly pid: number;
  /** Resolves when it has ended, for whatever reason. Never rejects. */
  readonly exited: Promise<ChildExit>;
  /** The last 20 lines it wrote, oldest first: what to show when it ended unasked. */
  readonly lastLines: readonly string[];
  /** SIGTERM to its whole process group, SIGKILL after the grace time; resolves when it has ended. */
  stop(): Promise<ChildExit>;
  /** Sends a signal to its process group; nothing when it has ended. */
  kill(signal: NodeJS.Signals): void;
}

/** Options of `startChild`. */
export interface StartChildOptions {
  /** Stops the child when it aborts. */
  readonly signal: AbortSignal;
  readonly logger?: Logger;
  /** What it is called in the logs. */
  readonly name: string;
  /** Folder of the cgroup (v2) that it starts in, before it can open a socket. Default: ours. */
  readonly cgroup?: string;
  readonly cwd?: string;
  /** Environment; default: ours. */
  readonly env?: Readonly<Record<string, string | undefined>>;
  /** Time between SIGTERM and SIGKILL. Default 10,000. */
  readonly graceMs?: number;
  /** Gets every line it writes to standard output or error. Default: the logger, at `debug`. */
  readonly onLine?: (line: string) => void;
  /** Folders to look for `command` in, separated by colons. Default: those of a Debian root user. */
  readonly searchPath?: string;
  readonly clock?: Clock;
}

/**
 * Starts a program that must not outlive us: the kernel kills it when we die, however we die (`setpriv --pdeathsig`,
 * so it must be started from the main thread). It runs in a process group of its own, so that ctrl-C in a terminal
 * reaches us alone and we stop it in order. Throws ChildError `not-found` when there is no such program.
 */
export function startChild(
  command: string,
  args: readonly string[],
  options: StartChildOptions,
): ChildHandle {
  const { signal, logger, name, graceMs = 10_000, clock = systemClock } = options;
  signal.throwIfAborted();
  const searchPath = options.searchPath ?? SEARCH_PATH;
  const guarded = [
    findProgram('setpriv', SEARCH_PATH),
    '--pdeathsig=KILL',
    '--',
    findProgram(command, searchPath),
    ...args,
  ];
  const child = spawnGuarded(guarded, options);
  const lastLines: string[] = [];
  const onLine = options.onLine ?? ((line) => logger?.debug({ child: name, line }, 'child wrote'));
  followLines(child, (line) => {
    lastLines.push(line);
    if (lastLines.length > KEPT_LINES) lastLines.shift();
    onLine(line);
  });

  const kill = (what: NodeJS.Signals): void => {
    if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
    try {
      process.kill(-child.pid, what);
    } catch (error) {
      // It ended just now.
      if (!(error instanceof Error && 'code' in error && error.code === 'ESRCH')) throw error;
    }
  };
  const ended = new AbortController();
  const exited = new Promise<ChildExit>((resolve) => {
    child.once('exit', (code, exitSignal) => resolve({ code, signal: exitSignal }));
    child.once('error', (error) => {
      lastLines.push(error.message);
      resolve({ code: 127, signal: null });
    });
  }).finally(() => {
    ended.abort();
    signal.removeEventListener('abort', stopOnAbort);
  });
  const stop = async (): Promise<ChildExit> => {
    kill('SIGTERM');
    clock.sleep(graceMs, ended.signal).then(
      () => kill('SIGKILL'),
      () => undefined,
    );
    return exited;
  };
  const stopOnAbort = (): void => {
    void stop();
  };
  signal.addEventListener('abort', stopOnAbort, { once: true });

  return {
    pid: child.pid ?? 0,
    exited,
    lastLines,
    stop,
    kill,
    [Symbol.asyncDispose]: async () => {
      await stop();
    },
  };
}

/** Absolute path of a program. Throws ChildError `not-found` naming it. */
export function findProgram(command: string, searchPath: string = SEARCH_PATH): string {
  const candidates = command.includes('/')
    ? [command]
    : searchPath.split(delimiter).map((folder) => join(folder, command));
  for (const candidate of candidates) {
    const file = statSync(candidate, { throwIfNoEntry: false });
    if (file?.isFile() && (file.mode & 0o111) !== 0) return candidate;
  }
  const where = command.includes('/')
    ? 'expected an executable file'
    : `it is not in ${searchPath}`;
  throw new ChildError(
    'not-found',
    `cannot start ${command}: ${where}; install it or give its path`,
  );
}

function spawnGuarded(guarded: readonly string[], options: StartChildOptions): ChildProcess {
  const spawnOptions = {
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe'] satisfies ['ignore', 'pipe', 'pipe'],
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    ...(options.env === undefined ? {} : { env: { ...options.env } }),
  };
  if (options.cgroup === undefined) {
    const [program = '', ...rest] = guarded;
    return spawn(program, rest, spawnOptions);
  }
  // The shell joins the cgroup and becomes the program: a socket belongs to the cgroup that its maker was in.
  const script = 'echo $$ > "$1" && shift && exec "$@"';
  const procs = join(options.cgroup, 'cgroup.procs');
  return spawn('/bin/sh', ['-c', script, 'sh', procs, ...guarded], spawnOptions);
}

function followLines(child: ChildProcess, onLine: (line: string) => void): void {
  for (const stream of [child.stdout, child.stderr]) {
    if (stream !== null) createInterface({ input: stream }).on('line', onLine);
  }
}
