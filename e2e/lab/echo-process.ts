/** The lab's echo server as a process in a pod or on a machine. */
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { LabError } from './lab-error.ts';
import { type LabProcess, startProcess } from './process.ts';
import { waitFor } from './wait-for.ts';

/** Ports of an echo server. */
export interface EchoPorts {
  readonly tcp?: readonly number[];
  readonly udp?: readonly number[];
}

/** Where an echo server runs. */
export interface EchoPlace {
  /** What it answers with. */
  readonly name: string;
  readonly netns: string;
  readonly cgroup: string;
  /** Folder of its log. */
  readonly folder: string;
}

const MAIN = fileURLToPath(new URL('./echo/main.js', import.meta.url));

/** Starts it; resolves when it listens. Throws LabError when it ends instead. */
export async function startEcho(
  place: EchoPlace,
  ports: EchoPorts,
  options: { readonly persistent: boolean; readonly signal?: AbortSignal | undefined },
): Promise<LabProcess> {
  const args = [
    ...(ports.tcp ?? []).map((port) => `tcp:${port}`),
    ...(ports.udp ?? []).map((port) => `udp:${port}`),
  ];
  const { name, netns, cgroup, folder } = place;
  const log = join(folder, `echo-${args.join('-').replaceAll(':', '')}.log`);
  const { persistent, signal } = options;
  const started = startProcess([process.execPath, MAIN, name, ...args], {
    netns,
    cgroup,
    log,
    persistent,
  });
  await waitFor(
    `the echo server in ${name} to listen`,
    () => {
      if (started.output().includes('ready')) return true;
      if (!started.isRunning()) throw new LabError('command', `it ended: ${started.output()}`);
      return false;
    },
    { signal },
  );
  return started;
}

/** Ports of a topology, as an echo server takes them. */
export function echoPorts(
  ports: readonly { readonly port: number; readonly protocol: 'TCP' | 'UDP' }[],
): EchoPorts {
  const of = (wanted: 'TCP' | 'UDP'): number[] =>
    ports.filter(({ protocol }) => protocol === wanted).map(({ port }) => port);
  return { tcp: of('TCP'), udp: of('UDP') };
}
