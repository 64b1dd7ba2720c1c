/** The real kubectl. */
import { execFile } from 'node:child_process';

/** Runs it; resolves to its standard output. Throws with what it wrote to standard error. */
export function runKubectl(
  program: string,
  args: readonly string[],
  options: {
    /** Folder for what it caches. */
    readonly home: string;
    /** For its standard input. */
    readonly input?: string | undefined;
  },
): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = execFile(
      program,
      [...args],
      {
        env: { HOME: options.home, PATH: '/usr/bin:/bin' },
        maxBuffer: 256 * 1024 * 1024,
        timeout: 120_000,
      },
      (error, stdout, stderr) => {
        if (error === null) resolve(stdout);
        else reject(new Error(`kubectl ${args.join(' ')}: ${stderr.trim()}`, { cause: error }));
      },
    );
    // It may end before it has read all.
    child.stdin?.on('error', () => undefined);
    child.stdin?.end(options.input ?? '');
  });
}
