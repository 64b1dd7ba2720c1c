/** A real agent in a node of network namespaces, without a cluster to read: pods and drops are its own. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { until } from '../../mesh/remote/testing/until.ts';
import type { TempDir } from '../../mesh/testing/temp-dir.ts';
import { type ApiAnswer, callAgent } from '../api/client.ts';
import type { TestNode } from '../datapath/testing/nodes.ts';

/** The agent's program. */
export const AGENT_MAIN = fileURLToPath(new URL('../main.js', import.meta.url));

/** A running agent. */
export interface NodeProcess extends AsyncDisposable {
  readonly socketPath: string;
  readonly child: ChildProcess;
  /** Asks for the node's pod as the container runtime does. */
  cni(command: 'ADD' | 'DEL'): Promise<ApiAnswer>;
}

/** Starts an agent and waits until it answers. Disposing ends it; what it made is the node's, and goes with that. */
export async function openNodeProcess(
  node: TestNode,
  dir: TempDir,
  flags: readonly string[] = [],
): Promise<NodeProcess> {
  const { options } = node;
  const socketPath = dir.file('agent.sock');
  writeFileSync(dir.file('own.yaml'), 'endpoints:\n- http://127.0.0.1:9\n');
  const args = [
    'run',
    '--cluster-name=alpha',
    '--cluster-id=1',
    '--node-name=n1',
    ...options.nodeIps.map((ip) => `--node-ip=${ip}`),
    `--etcd-config=${dir.file('own.yaml')}`,
    `--bpf-root=${options.bpfRoot}`,
    `--cgroup-root=${options.cgroupRoot}`,
    `--object-dir=${options.objectDir}`,
    `--state-dir=${dir.file('state')}`,
    `--socket-path=${socketPath}`,
    '--log-level=error',
    ...flags,
  ];
  const child = spawn(
    'nsenter',
    [`--net=/run/netns/${node.namespace}`, process.execPath, AGENT_MAIN, ...args],
    { stdio: ['ignore', 'ignore', 'inherit'] },
  );
  const exited = once(child, 'exit');
  const end = async (): Promise<void> => {
    if (child.exitCode === null && child.signalCode === null) child.kill('SIGTERM');
    await exited;
  };
  try {
    await until(
      'the agent answers',
      async () => {
        if (child.exitCode !== null) throw new Error(`the agent ended with ${child.exitCode}`);
        const answer = await callAgent(socketPath, { path: '/healthz' }).catch(() => undefined);
        return answer !== undefined;
      },
      60_000,
    );
  } catch (error) {
    await end();
    throw error;
  }
  return {
    socketPath,
    child,
    cni: (command) =>
      callAgent(socketPath, {
        path: '/v1/cni',
        method: 'POST',
        body: JSON.stringify({
          command,
          containerId: 'c1',
          netns: `/run/netns/${node.podNamespace}`,
          ifName: 'eth0',
          args: 'K8S_POD_NAMESPACE=demo;K8S_POD_NAME=web',
          path: '',
          config: {
            cniVersion: '1.0.0',
            name: 'lab',
            prevResult: {
              ips: [{ address: `${node.podIp}/32` }, { address: `${node.podIp6}/128` }],
            },
          },
        }),
      }),
    [Symbol.asyncDispose]: end,
  };
}
