/** What the scenarios share: the example's two clusters, ready for traffic, and calls from its pods. */
import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { projectPath } from '../../mesh/runtime/project-path.ts';
import type { CommandResult } from '../lab/command.ts';
import type { Lab } from '../lab/lab.ts';
import { parseTopologyText, type Topology } from '../lab/topology.ts';

export {
  openSettledLab as openMesh,
  waitUntilSettled as waitUntilReady,
} from '../lab/settled-lab.ts';

const UDP_CLIENT = fileURLToPath(new URL('../lab/udp-client/main.js', import.meta.url));
/** The program that `askUdp` runs, to be followed by an address and a port. */
export const UDP_CALL: readonly string[] = [process.execPath, UDP_CLIENT];
const EXAMPLE = 'e2e/topologies/two-clusters.yaml';

/** The example topology. */
export async function exampleTopology(): Promise<Topology> {
  return parseTopologyText(await readFile(projectPath(EXAMPLE), 'utf8'), EXAMPLE);
}

/** One HTTP request from a pod; exit code 28 is curl's "timed out". */
export function curl(lab: Lab, pod: string, url: string): Promise<CommandResult> {
  return lab.exec(pod, ['curl', '--silent', '--show-error', '--max-time', '2', url]);
}

/** URL of an address. */
export function urlOf(address: string, port: number, path = '/'): string {
  return `http://${address.includes(':') ? `[${address}]` : address}:${port}${path}`;
}

/** Many requests, each over a connection of its own, in one process; the answers by pod, and how many failed. */
export async function curlMany(
  lab: Lab,
  pod: string,
  options: { readonly url: string; readonly times: number },
): Promise<{ readonly byPod: Record<string, number>; readonly failed: number }> {
  const { url, times } = options;
  const argv = ['curl', '--silent', '--max-time', '5', '--header', 'Connection: close'];
  const { stdout } = await lab.exec(pod, [...argv, `${url}?[1-${times}]`], { timeoutMs: 120_000 });
  const byPod: Record<string, number> = {};
  let answered = 0;
  for (const line of stdout.split('\n').filter(Boolean)) {
    const name = line.split(' ')[0] ?? '';
    byPod[name] = (byPod[name] ?? 0) + 1;
    answered += 1;
  }
  return { byPod, failed: times - answered };
}

/** Sends a datagram from a pod and resolves to the answer; empty when none came within two seconds. */
export async function askUdp(
  lab: Lab,
  pod: string,
  address: string,
  port: number,
): Promise<string> {
  return (await lab.exec(pod, [...UDP_CALL, address, String(port)])).stdout.trim();
}

/** Every row of every kernel map of a node, in an order that depends on the rows alone. */
export async function mapsOf(lab: Lab, node: string): Promise<string[]> {
  const rows: string[] = [];
  for (const name of ['ipcache', 'endpoints', 'policy', 'services'] as const) {
    for (const row of await lab.agent(node).map(name)) rows.push(`${name} ${stableJson(row)}`);
  }
  return rows.sort();
}

/** Identity that a pod's own agent has for it. */
export async function identityOf(lab: Lab, podName: string): Promise<number> {
  const pod = lab.pod(podName);
  const { endpoints } = await lab.agent(pod.node).status();
  const found = endpoints.find((endpoint) => endpoint.pod === `${pod.namespace}/${pod.name}`);
  if (found === undefined) throw new Error(`the agent of ${pod.node} has no endpoint ${podName}`);
  return found.identity;
}

function stableJson(value: unknown): string {
  return JSON.stringify(value, (_, inner: unknown) =>
    Array.isArray(inner)
      ? [...inner].sort((a, b) => (JSON.stringify(a) < JSON.stringify(b) ? -1 : 1))
      : inner,
  );
}
