/** Running a benchmark in namespaces of its own, so that its devices, mounts and processes end with it. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { openTempDir } from '../mesh/testing/temp-dir.ts';
import type { Bench, BenchContext } from './result.ts';

/** Flag that a benchmark is started with when it is in its namespaces. */
export const PRIVATE_FLAG = '--in-private-namespaces';

/**
 * Mounts: a tmpfs for everything that the benchmark writes, since a disk's flushes are not what is measured. The network
 * has a loopback, and an underlay link with nobody at its other end.
 */
const PREPARE = `set -e
mount -t tmpfs -o mode=700 tmpfs "$1"
export TMPDIR="$1"
ip link set dev lo up
ip link add name underlay type veth peer name beyond
ip address add 192.0.2.250/24 dev underlay
ip link set dev underlay up
ip link set dev beyond up
shift
exec "$@"`;

/**
 * Makes a benchmark run in a mount, network and process namespace of its own: it is started there as a program, and what
 * it prints goes where ours goes. Needs root.
 */
export async function privately(load: () => Promise<Bench>): Promise<Bench> {
  return async (context) => {
    if (context.args.includes(PRIVATE_FLAG)) {
      const bench = await load();
      return bench({ ...context, args: context.args.filter((arg) => arg !== PRIVATE_FLAG) });
    }
    await using mountPoint = await openTempDir('bench');
    await runAgain(context, mountPoint.path);
  };
}

async function runAgain({ program = [], signal }: BenchContext, mountPoint: string): Promise<void> {
  const unshare = ['--mount', '--net', '--pid', '--fork', '--kill-child', '--mount-proc'];
  const child = spawn(
    'unshare',
    [...unshare, 'sh', '-c', PREPARE, 'sh', mountPoint, ...program, PRIVATE_FLAG],
    { stdio: 'inherit' },
  );
  const stop = (): void => void child.kill('SIGTERM');
  signal.addEventListener('abort', stop, { once: true });
  const [code] = (await once(child, 'close')) as [number | null];
  signal.removeEventListener('abort', stop);
  if (code !== 0) throw new Error(`the benchmark ended with ${code ?? 'a signal'}`);
}
