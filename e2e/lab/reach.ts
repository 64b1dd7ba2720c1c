/** A way from this process to a server in a node's network namespace. */
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { findFreePort } from '../../mesh/testing/free-port.ts';
import type { Lab } from './lab.ts';
import { LabError } from './lab-error.ts';
import { startProcess } from './process.ts';
import { connectSockets } from './relay.ts';

const RELAY_MAIN = fileURLToPath(new URL('./relay/main.js', import.meta.url));

/** A port of our loopback that leads there. Disposing ends it. */
export interface ReachedPort extends AsyncDisposable {
  readonly port: number;
}

/** Reaches a TCP port of a node. The server there sees a caller from its own loopback. */
export async function reachNode(lab: Lab, node: string, port: number): Promise<ReachedPort> {
  const { namespace: netns, cgroup, folder } = lab.node(node);
  const path = join(folder, `reach-${port}.sock`);
  const relay = startProcess([process.execPath, RELAY_MAIN, path, `127.0.0.1:${port}`], {
    netns,
    cgroup: join(cgroup, 'system'),
    log: join(folder, `reach-${port}.log`),
  });
  await lab.waitFor(`the relay to port ${port} of ${node}`, () => {
    if (relay.output().includes('ready')) return true;
    if (!relay.isRunning()) throw new LabError('command', `it ended: ${relay.output()}`);
    return false;
  });
  const ours = await findFreePort();
  const listening = await connectSockets({ host: '127.0.0.1', port: ours }, { path });
  return {
    port: ours,
    async [Symbol.asyncDispose]() {
      await listening[Symbol.asyncDispose]();
      await relay[Symbol.asyncDispose]();
    },
  };
}
