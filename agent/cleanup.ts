import { existsSync, readdirSync, rmdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { isAnswering } from './api/client.ts';
import { uninstallCni } from './cni/installation.ts';
import { uninstallDatapath } from './datapath/datapath.ts';
import { DatapathError } from './datapath/datapath-error.ts';
import { lockFolder } from './datapath/lock.ts';
import { removeNodeState } from './enrollment/node-record.ts';
import { FIREWALL_FILE } from './host-firewall/firewall-file.ts';

/** Where an agent of this node left something. */
export interface CleanupOptions {
  readonly bpfRoot: string;
  readonly tunnelDevice: string;
  readonly stateDir: string;
  readonly socketPath: string;
  readonly cniConfDir: string;
  readonly cniBinDir: string;
}

/** What agents write into their state directory: it may be shared with others, so nothing else is touched. */
const STATE_FILES = [
  'endpoints',
  'drained.json',
  'peers.json',
  'announced.json',
  FIREWALL_FILE,
] as const;

/**
 * Removes every trace of the agent from the node: the plugin from the CNI configuration, programs, maps, the tunnel device
 * with its routes, and the state directory. Returns what else was found there and was left. Throws DatapathError
 * `already-running` while an agent runs, and then changes nothing.
 */
export async function cleanNode(options: CleanupOptions): Promise<readonly string[]> {
  const { stateDir, socketPath } = options;
  if (await isAnswering(socketPath)) {
    throw new DatapathError('already-running', `an agent answers on ${socketPath}: stop it first`);
  }
  using _lock = existsSync(stateDir) ? lockFolder(stateDir) : undefined;
  await uninstallDatapath(options, () => {
    // First of all, and only once the datapath is known to be nobody's: no new pod is to ask for an agent.
    uninstallCni({ confDir: options.cniConfDir, binDir: options.cniBinDir });
  });
  for (const name of STATE_FILES) {
    rmSync(join(stateDir, name), { recursive: true, force: true });
  }
  removeNodeState(stateDir);
  for (const path of [socketPath, `${socketPath}.opened`]) {
    rmSync(path, { recursive: true, force: true });
  }
  return removeIfEmpty(stateDir);
}

function removeIfEmpty(folder: string): readonly string[] {
  if (!existsSync(folder)) return [];
  const rest = readdirSync(folder).map((name) => join(folder, name));
  if (rest.length === 0) removeFolder(folder);
  return rest;
}

function removeFolder(folder: string): void {
  try {
    rmdirSync(folder);
  } catch (error) {
    // In a container it is mounted, into a root that is read-only: empty is all it can become there.
    const code = error instanceof Error && 'code' in error ? error.code : undefined;
    if (code !== 'EBUSY' && code !== 'EROFS') throw error;
  }
}
