/** A program of the lab that can be killed and started again: what agents and apiservers have in common. */
import { LabError } from './lab-error.ts';
import { type LabProcess, type StartOptions, startProcess } from './process.ts';

/** A restartable program on a node. */
export interface Daemon {
  /** Name of the node or cluster it belongs to. */
  readonly name: string;
  readonly log: string;
  isRunning(): boolean;
  /** Starts it; resolves when it is ready. Nothing when it runs already. */
  start(): Promise<void>;
  /** SIGKILL, and waits for its end. */
  kill(): Promise<void>;
  /** SIGTERM, and waits for its end. */
  stop(): Promise<void>;
  /** Ends it in order and starts it again. */
  restart(): Promise<void>;
}

/** What a daemon is made of. */
export interface DaemonOptions extends StartOptions {
  readonly name: string;
  /** What messages call it. */
  readonly title: string;
  readonly argv: readonly string[];
  /** Resolves when the started process is ready. The signal aborts when it has ended instead. */
  readonly ready: (signal: AbortSignal) => Promise<unknown>;
  readonly signal?: AbortSignal | undefined;
}

/** Puts a daemon together; does not start it. */
export function createDaemon(options: DaemonOptions): Daemon {
  const { name, title, argv, log } = options;
  let current: LabProcess | undefined;
  const isRunning = (): boolean => current?.isRunning() ?? false;
  const start = async (): Promise<void> => {
    if (isRunning()) return;
    const started = startProcess(argv, options);
    current = started;
    const ended = new AbortController();
    void started.exited.then(() => {
      ended.abort(
        new LabError('command', `${title} ended while it was starting: ${lastLines(started)}`),
      );
    });
    const signals = options.signal === undefined ? [] : [options.signal];
    try {
      await options.ready(AbortSignal.any([ended.signal, ...signals]));
    } catch (cause) {
      if (!(cause instanceof LabError) || cause.code !== 'timeout') throw cause;
      const message = `${cause.message}; it wrote last: ${lastLines(started)}`;
      throw new LabError('timeout', message, { cause });
    }
  };
  const end = async (how: (running: LabProcess) => void): Promise<void> => {
    if (current === undefined) return;
    how(current);
    await current.exited;
  };
  const stop = async (): Promise<void> => {
    await current?.stop();
  };
  return {
    name,
    log,
    isRunning,
    start,
    stop,
    kill: () => end((running) => running.kill('SIGKILL')),
    async restart() {
      await stop();
      await start();
    },
  };
}

function lastLines(ended: LabProcess): string {
  return ended.output().trim().split('\n').slice(-5).join(' | ') || 'it wrote nothing';
}
