/** Programs that a lab runs to their end. */
import { execFile } from 'node:child_process';
import { constants } from 'node:os';
import { LabError } from './lab-error.ts';

const DEFAULT_TIMEOUT_MS = 30_000;
const MAX_OUTPUT = 32 * 1024 * 1024;
const SEARCH_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

/** How a program ended, and what it wrote. */
export interface CommandResult {
  /** Exit code; 124 when it was ended because its time was up, 128 + n when signal n ended it. */
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Where and how long a program runs. */
export interface CommandOptions {
  readonly signal?: AbortSignal | undefined;
  /** Default 30,000. */
  readonly timeoutMs?: number | undefined;
  /** Written to its standard input, which is empty otherwise. */
  readonly input?: string | undefined;
  readonly env?: Readonly<Record<string, string>> | undefined;
  /** Name of the network namespace it runs in. Default: ours. */
  readonly netns?: string | undefined;
  /** Folder of the cgroup it joins before it starts. Default: ours. */
  readonly cgroup?: string | undefined;
}

/** Runs a program to its end, whatever its exit code. Throws LabError when it cannot be started or the signal aborts. */
export async function execute(
  argv: readonly string[],
  options: CommandOptions = {},
): Promise<CommandResult> {
  const { signal, timeoutMs = DEFAULT_TIMEOUT_MS } = options;
  signal?.throwIfAborted();
  const [program = '', ...args] = placed(argv, options);
  return new Promise((resolve, reject) => {
    const child = execFile(
      program,
      args,
      {
        timeout: timeoutMs,
        killSignal: 'SIGKILL',
        maxBuffer: MAX_OUTPUT,
        ...(signal === undefined ? {} : { signal }),
        ...(options.env === undefined ? {} : { env: { PATH: SEARCH_PATH, ...options.env } }),
      },
      (error, stdout, stderr) => {
        if (error === null) resolve({ code: 0, stdout, stderr });
        else if (signal?.aborted) reject(signal.reason);
        else if (typeof error.code === 'number') resolve({ code: error.code, stdout, stderr });
        else if (error.killed) resolve({ code: 124, stdout, stderr });
        else if (error.signal)
          resolve({ code: 128 + constants.signals[error.signal], stdout, stderr });
        else {
          const message = `cannot run ${argv[0]}: ${error.message}`;
          reject(new LabError('command', message, { cause: error }));
        }
      },
    );
    // A program may end without reading what it is given.
    child.stdin?.on('error', () => undefined);
    child.stdin?.end(options.input ?? '');
  });
}

/** Runs a program that must succeed; resolves to its standard output. Throws LabError `command` with what it wrote. */
export async function run(argv: readonly string[], options: CommandOptions = {}): Promise<string> {
  const result = await execute(argv, options);
  if (result.code === 0) return result.stdout;
  const said = (result.stderr.trim() || result.stdout.trim()).replaceAll('\n', '; ');
  throw new LabError('command', `${argv.join(' ')} ended with ${result.code}: ${said}`);
}

/** Gives `ip` several commands at once, in a network namespace. Throws LabError `command` naming the line that failed. */
export async function ipBatch(
  lines: readonly string[],
  options: { readonly netns?: string; readonly signal?: AbortSignal | undefined },
): Promise<void> {
  const where = options.netns === undefined ? [] : ['-n', options.netns];
  await run(['ip', ...where, '-batch', '-'], {
    input: `${lines.join('\n')}\n`,
    signal: options.signal,
  });
}

/**
 * The same command in another place. The cgroup is joined by a shell that then becomes the program: a socket belongs to the
 * cgroup its maker was in. Only the network namespace changes; `ip netns exec` would hide bpffs and cgroups.
 */
export function placed(
  argv: readonly string[],
  place: { readonly netns?: string | undefined; readonly cgroup?: string | undefined },
): string[] {
  const inside =
    place.netns === undefined
      ? [...argv]
      : ['nsenter', `--net=/run/netns/${place.netns}`, '--', ...argv];
  if (place.cgroup === undefined) return inside;
  const script = 'echo 0 > "$1" && shift && exec "$@"';
  return ['/bin/sh', '-c', script, 'sh', `${place.cgroup}/cgroup.procs`, ...inside];
}
