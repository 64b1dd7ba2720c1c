import { readFileSync } from 'node:fs';
import { DatapathError } from './datapath-error.ts';

/**
 * Mount point of the cgroup v2 hierarchy: `/sys/fs/cgroup`, or on systems with both versions often
 * `/sys/fs/cgroup/unified`. Throws `preflight` when none is mounted.
 */
export function findCgroupRoot(options: { mountTable?: string } = {}): string {
  const table = options.mountTable ?? readFileSync('/proc/self/mounts', 'utf8');
  for (const line of table.split('\n')) {
    const [, folder, type] = line.split(' ');
    if (type === 'cgroup2' && folder !== undefined) return unescapeMount(folder);
  }
  throw new DatapathError(
    'preflight',
    'cannot find a cgroup v2 mount: run "mount -t cgroup2 none /sys/fs/cgroup/unified" (make the folder first), or set --cgroup-root',
  );
}

/** The mount table writes blanks, tabs, line ends and backslashes as three octal digits. */
function unescapeMount(path: string): string {
  return path.replace(/\\([0-7]{3})/g, (_, digits: string) =>
    String.fromCharCode(Number.parseInt(digits, 8)),
  );
}
