/** A lab in which everybody knows everybody. */
import { type Lab, type LabOptions, openLab } from './lab.ts';
import type { Topology } from './topology.ts';

/** Builds a lab and resolves when every agent has read every cluster and knows all pods. Throws LabError, and leaves nothing then. */
export async function openSettledLab(topology: Topology, options: LabOptions = {}): Promise<Lab> {
  const lab = await openLab(topology, options);
  try {
    options.onStep?.('what every agent has to know of the others');
    for (const { name } of lab.plan.nodes) await waitUntilSettled(lab, name);
    return lab;
  } catch (error) {
    await lab[Symbol.asyncDispose]();
    throw error;
  }
}

/** Waits until the agent of a node has read every cluster, and its kernel holds what it read. */
export async function waitUntilSettled(lab: Lab, node: string): Promise<void> {
  const addresses = lab.pods().flatMap((pod) => [...pod.ips]);
  await lab.waitFor(
    `the agent of ${node} to know every cluster and pod`,
    async () => {
      const status = await lab.agent(node).status();
      const prefixes = (await lab.agent(node).map('ipcache')).map((row) => String(row.prefix));
      return (
        status.clusters.every(({ state }) => state.kind === 'ready') &&
        status.tables.every(({ pending, failed }) => pending === 0 && failed === 0) &&
        status.endpoints.every(({ identity }) => identity > 255) &&
        addresses.every((address) =>
          prefixes.includes(`${address}/${address.includes(':') ? 128 : 32}`),
        )
      );
    },
    { timeoutMs: 30_000 },
  );
}
