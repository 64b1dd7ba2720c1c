/** Leaving a cluster: say so, then remove what joining and the agent have left. Harmless to repeat, and after any interruption. */

import { randomUUID } from 'node:crypto';
import { existsSync, readdirSync, rmdirSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { systemClock } from '../../mesh/runtime/clock.ts';
import { createLogger } from '../../mesh/runtime/log.ts';
import { isAnswering } from '../api/client.ts';
import { cleanNode } from '../cleanup.ts';
import { createNodeSession } from '../registry/session.ts';
import { agentPlace } from './agent-command.ts';
import { MachineError, reasonOf } from './machine-error.ts';
import { readCertificates, removeMachineFiles } from './machine-files.ts';
import { type MachineRecord, readMachineRecord } from './machine-record.ts';

const FAREWELL_TIMEOUT_MS = 5000;
const LOOK_EACH_MS = 50;

/** How leaving ended. */
export interface LeaveResult {
  /** What the machine was; undefined: nothing told so. */
  readonly record: MachineRecord | undefined;
  /** Why the cluster could not be told; undefined: it was, or there was nothing to tell. */
  readonly untold: string | undefined;
  /** What lies in the state directory and is not ours. */
  readonly left: readonly string[];
}

/** Leaves. The service must have been stopped. Throws MachineError `other` while an agent runs, and then changes nothing. */
export async function leaveCluster(options: {
  readonly stateDir: string;
  /** Flags of the agent, where joining has not noted them. */
  readonly agentFlags: readonly string[];
  readonly onStep: (text: string) => void;
  readonly signal: AbortSignal;
}): Promise<LeaveResult> {
  const { stateDir, onStep, signal } = options;
  const record = readOrForget(stateDir, onStep);
  const flags = [...(record?.agentFlags ?? []), ...options.agentFlags];
  const place = agentPlace(flags);
  if (await isAnswering(place.socketPath)) {
    throw new MachineError(
      'other',
      `an agent still answers on ${place.socketPath}: stop it first, then run the command again`,
    );
  }
  let untold: string | undefined;
  if (record !== undefined) {
    onStep(`telling cluster ${record.clusterName}`);
    untold = await sayFarewell(stateDir, { record, signal }).then(
      () => undefined,
      (error: unknown) => {
        signal.throwIfAborted();
        return reasonOf(error);
      },
    );
  }
  onStep('removing programs, maps and the tunnel');
  await cleanNode({ ...place, stateDir, cniConfDir: NO_FOLDER, cniBinDir: NO_FOLDER });
  onStep(`removing ${stateDir}`);
  removeMachineFiles(stateDir);
  return { record, untold, left: removeFolder(stateDir) };
}

/** A machine has no containers of the mesh, so nothing of a container runtime is looked at. */
const NO_FOLDER = '/nonexistent';

/** What cannot be read must not keep anybody from removing it. */
function readOrForget(stateDir: string, onStep: (text: string) => void): MachineRecord | undefined {
  try {
    return readMachineRecord(stateDir);
  } catch (error) {
    onStep(`going on without it: ${reasonOf(error)}`);
    return undefined;
  }
}

/** A last session, in which the machine claims no address any more: what was published for it goes at once. */
async function sayFarewell(
  stateDir: string,
  options: { readonly record: MachineRecord; readonly signal: AbortSignal },
): Promise<void> {
  const { record } = options;
  const certificates = readCertificates(stateDir);
  const [registry, ...others] = record.registries;
  if (certificates === undefined || registry === undefined) {
    throw new Error('its certificates are gone');
  }
  const session = createNodeSession({
    registry,
    otherRegistries: others,
    readTls: async () => ({
      ca: Buffer.from(certificates.ca),
      cert: Buffer.from(certificates.certificate),
      key: Buffer.from(certificates.key),
    }),
    machine: {
      // As the agent that was here before: the registry takes it for the same machine.
      instanceId: await readBootId(),
      runId: randomUUID(),
      onConfig: () => undefined,
      async *results() {},
    },
    clusterName: record.clusterName,
    serverName: record.serverName,
    nodeName: record.name,
    agentVersion: '',
    facts: { addresses: [], podCidrs: [], bootId: await readBootId() },
    clock: systemClock,
    logger: createLogger('clustermesh', { level: 'silent' }),
  });
  const ending = new AbortController();
  const signal = AbortSignal.any([options.signal, ending.signal]);
  const running = session.run(signal);
  const deadline = systemClock.monotonic() + FAREWELL_TIMEOUT_MS;
  try {
    while (session.state.kind !== 'accepted') {
      const { state } = session;
      const isRefused = state.kind === 'rejected';
      if (isRefused || systemClock.monotonic() > deadline) throw new Error(session.describe());
      await systemClock.sleep(LOOK_EACH_MS, options.signal);
    }
  } finally {
    ending.abort();
    await running;
  }
}

async function readBootId(): Promise<string> {
  return (await readFile('/proc/sys/kernel/random/boot_id', 'utf8')).trim();
}

function removeFolder(folder: string): readonly string[] {
  if (!existsSync(folder)) return [];
  const rest = readdirSync(folder).map((name) => join(folder, name));
  if (rest.length === 0) rmdirSync(folder);
  return rest;
}
