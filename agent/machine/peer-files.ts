/** The directory of peers of a machine: a file for each cluster that its own one mirrors, all of which lead to the own etcd. */
import { readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import type { ClusterName } from '../../mesh/wire/ids.ts';
import { parseClusterName } from '../../mesh/wire/ids.ts';
import { etcdClientFile } from './etcd-client-file.ts';
import {
  MACHINE_FILES,
  makeStateFolder,
  readMachineFile,
  writeMachineFile,
} from './machine-files.ts';
import type { MachineRecord } from './machine-record.ts';

/**
 * Makes the directory agree with the peers that the cluster names, and writes only what differs. Files that are named like no
 * cluster are left alone. Throws MachineError `disk`.
 */
export function writePeerFiles(
  stateDir: string,
  record: Pick<MachineRecord, 'clusterName' | 'etcdEndpoints' | 'serverName'>,
  peers: readonly ClusterName[],
): { readonly added: readonly string[]; readonly removed: readonly string[] } {
  const folder = join(stateDir, MACHINE_FILES.peers);
  makeStateFolder(folder);
  const content = etcdClientFile(stateDir, record);
  const wanted = new Set<string>(peers.filter((name) => name !== record.clusterName));
  const added: string[] = [];
  for (const name of wanted) {
    if (readMachineFile(folder, name) === content) continue;
    writeMachineFile(folder, name, content);
    added.push(name);
  }
  const removed = readdirSync(folder).filter((name) => isClusterName(name) && !wanted.has(name));
  for (const name of removed) rmSync(join(folder, name), { force: true });
  return { added, removed };
}

function isClusterName(text: string): boolean {
  try {
    parseClusterName(text);
    return true;
  } catch {
    // Something of others.
    return false;
  }
}
