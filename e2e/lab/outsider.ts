/** A host on the underlay that no cluster knows, and what lies behind it: where ordinary traffic goes and comes from. */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { type IpAddress, parseIpAddress } from '../../mesh/wire/ip.ts';
import { type CommandOptions, type CommandResult, execute } from './command.ts';
import { type EchoPorts, startEcho } from './echo-process.ts';
import type { Lab } from './lab.ts';
import { addUnderlayHost } from './network.ts';
import type { LabProcess } from './process.ts';

/** Such a host. It goes with its lab. */
export interface Outsider {
  /** Its underlay addresses, IPv4 and IPv6. */
  readonly addresses: readonly [IpAddress, IpAddress];
  /** Addresses behind it, to be reached by a route over the ones above. */
  readonly beyond: readonly [IpAddress, IpAddress];
  /** Runs a program on it to its end. */
  exec(argv: readonly string[], options?: CommandOptions): Promise<CommandResult>;
  /** Starts the echo server on it, which answers with the name `outsider`; resolves when it listens. */
  startServer(ports: EchoPorts): Promise<LabProcess>;
}

/** Puts an outsider on the lab's underlay. One a lab. */
export async function addOutsider(lab: Lab, signal?: AbortSignal): Promise<Outsider> {
  const netns = `isthmus-${lab.name}-outsider`;
  const addresses = [parseIpAddress('172.31.2.1'), parseIpAddress('fd00:31::2:1')] as const;
  const beyond = [parseIpAddress('192.0.2.1'), parseIpAddress('2001:db8::1')] as const;
  await addUnderlayHost(lab.plan, { netns, port: 'outsider', addresses }, signal);
  const cgroup = join(lab.plan.cgroup, 'outsider');
  await mkdir(cgroup);
  const exec: Outsider['exec'] = (argv, options = {}) =>
    execute(argv, { signal, ...options, netns, cgroup });
  for (const address of beyond) await exec(['ip', 'address', 'add', address, 'dev', 'lo']);
  return {
    addresses,
    beyond,
    exec,
    startServer: (ports) =>
      startEcho(
        { name: 'outsider', netns, cgroup, folder: join(lab.plan.folder, 'outsider') },
        ports,
        { persistent: false, signal },
      ),
  };
}
