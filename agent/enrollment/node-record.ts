/** Which node this is and how it reaches its cluster: `node.json`, written by enrolling. */
import { rmdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';
import { type HostPort, parseHostPort } from '../../mesh/runtime/option-parsers.ts';
import { type ClusterName, parseClusterName } from '../../mesh/wire/ids.ts';
import { etcdClientFile } from '../machine/etcd-client-file.ts';
import { MachineError } from '../machine/machine-error.ts';
import {
  MACHINE_FILES,
  type MachineCertificates,
  makeStateFolder,
  readCertificates,
  readMachineFile,
  removeMachineFiles,
  writeCertificates,
  writeMachineFile,
} from '../machine/machine-files.ts';
import { hostPortText } from '../machine/server-probe.ts';

const NODE_FILE = 'node.json';
const SCHEMA = 1;

/** A node that has enrolled. */
export interface NodeRecord {
  readonly name: string;
  readonly clusterName: ClusterName;
  readonly clusterId: number;
  /** Where it enrolled. */
  readonly enrollment: HostPort;
  readonly registry: HostPort;
  readonly etcdEndpoints: readonly string[];
  /** Name that the servers' certificates bear. */
  readonly serverName: string;
}

const recordSchema = z.object({
  schema: z.literal(SCHEMA),
  name: z.string().min(1),
  clusterName: z.string().transform(parseClusterName),
  clusterId: z.number().int(),
  enrollment: z.string().transform(parseHostPort),
  registry: z.string().transform(parseHostPort),
  etcdEndpoints: z.array(z.string()).min(1),
  serverName: z.string().min(1),
});

/** What enrolling has left, if all of it is there and can be read: what cannot is made anew by enrolling again. */
export function readNodeState(
  stateDir: string,
): { readonly record: NodeRecord; readonly certificates: MachineCertificates } | undefined {
  try {
    const text = readMachineFile(stateDir, NODE_FILE);
    const certificates = readCertificates(stateDir);
    const client = readMachineFile(stateDir, MACHINE_FILES.etcdConfig);
    if (text === undefined || certificates === undefined || client === undefined) return undefined;
    const parsed = recordSchema.safeParse(JSON.parse(text));
    if (!parsed.success) return undefined;
    const { schema, ...record } = parsed.data;
    return { record, certificates };
  } catch (error) {
    if (error instanceof MachineError || error instanceof SyntaxError) return undefined;
    throw error;
  }
}

/** Writes everything that the agent needs; `node.json` first, since it says whose the rest is. Throws MachineError `disk`. */
export function writeNodeState(
  stateDir: string,
  {
    record,
    certificates,
  }: { readonly record: NodeRecord; readonly certificates: MachineCertificates },
): void {
  const { enrollment, registry, ...fields } = record;
  const json = {
    schema: SCHEMA,
    enrollment: hostPortText(enrollment),
    registry: hostPortText(registry),
    ...fields,
  };
  writeIfOther(stateDir, NODE_FILE, `${JSON.stringify(json, null, 2)}\n`);
  writeCertificates(stateDir, certificates);
  writeIfOther(stateDir, MACHINE_FILES.etcdConfig, etcdClientFile(stateDir, record));
}

/** Makes the folder that the peers' files come into. Throws MachineError `disk`. */
export function makePeersFolder(stateDir: string): void {
  makeStateFolder(join(stateDir, MACHINE_FILES.peers));
}

/** Removes what enrolling has written. What is there of a machine, or of others, is left alone. */
export function removeNodeState(stateDir: string): void {
  if (readMachineFile(stateDir, NODE_FILE) === undefined) {
    removeEmpty(join(stateDir, MACHINE_FILES.peers));
    return;
  }
  removeMachineFiles(stateDir);
  rmSync(join(stateDir, NODE_FILE), { force: true });
}

/** The node never got so far that there were peers. */
function removeEmpty(folder: string): void {
  try {
    rmdirSync(folder);
  } catch {
    // It is not there, or somebody else's.
  }
}

/** Readers look at the time of a change: what is the same stays untouched. */
function writeIfOther(stateDir: string, name: string, content: string): void {
  if (readMachineFile(stateDir, name) !== content) writeMachineFile(stateDir, name, content);
}
