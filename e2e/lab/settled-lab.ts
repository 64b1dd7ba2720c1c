/** A lab in which everybody knows everybody. */
import { ipFamily } from '../../mesh/wire/ip.ts';
import type { LabAgent } from './agent.ts';
import { type Lab, type LabOptions, openLab } from './lab.ts';
import type { Topology } from './topology.ts';

/** Builds a lab and resolves when every agent has read every cluster and knows all pods. Throws LabError, and leaves nothing then. */
export async function openSettledLab(topology: Topology, options: LabOptions = {}): Promise<Lab> {
  const lab = await openLab(topology, options);
  try {
    options.onStep?.('what every agent has to know of the others');
    for (const { name } of lab.plan.nodes) await waitUntilSettled(lab, name);
    for (const { name, joined } of lab.plan.machines) {
      if (joined) await waitUntilMachineSettled(lab, name);
    }
    return lab;
  } catch (error) {
    await lab[Symbol.asyncDispose]();
    throw error;
  }
}

/** Waits until the agent of a node has read every cluster, and its kernel holds what it read. */
export async function waitUntilSettled(lab: Lab, node: string): Promise<void> {
  await waitUntilKnown(lab, lab.agent(node));
}

/** The same of a machine that has joined, whose routes lead to the pods then. */
export async function waitUntilMachineSettled(lab: Lab, name: string): Promise<void> {
  const machine = lab.machine(name);
  await waitUntilKnown(lab, machine.agent);
  const families = machine.addresses.map(ipFamily);
  const ips = lab.pods().flatMap((pod) => pod.ips.filter((ip) => families.includes(ipFamily(ip))));
  const script = ips.map((ip) => `ip route get ${ip}`).join('; ');
  await lab.waitFor(`the routes of ${name} to all pods`, async () => {
    const { stdout } = await machine.exec(['sh', '-c', script]);
    return stdout.split(' dev isthmus_vxlan ').length > ips.length;
  });
}

async function waitUntilKnown(lab: Lab, agent: LabAgent): Promise<void> {
  const addresses = [
    ...lab.pods().flatMap((pod) => [...pod.ips]),
    ...lab.plan.machines
      .filter(({ joined }) => joined)
      .flatMap(({ name }) => lab.machine(name).addresses),
  ];
  await lab.waitFor(
    `the agent of ${agent.name} to know every cluster, pod and machine`,
    async () => {
      const status = await agent.status();
      const prefixes = (await agent.map('ipcache')).map((row) => String(row.prefix));
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
