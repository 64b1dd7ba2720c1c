/**
 * The part of a kubelet and of a cloud that releases of our chart, and of Cilium's, need to come to life: the containers of the
 * apiserver's pod and of our Jobs run as processes, with the arguments, Secrets, service accounts and permissions of the
 * release; the Service has an address that leads to them; Deployment and DaemonSet say how they stand. Agents do not run: there
 * are no nodes.
 */
import { createConnection, createServer, type NetConnectOpts, type Server } from 'node:net';
import { untilReady } from '../../mesh/testing/until-ready.ts';
import type { RenderedObject } from '../chart/helm.ts';
import { commandLine, mountVolumes, startContainer } from '../chart/rendered-container.ts';
import type { KubeCluster } from '../peers/kube-cluster.ts';
import { startCiliumPod } from './cilium-pod.ts';

const NAMESPACE = 'kube-system';
const DEPLOYMENTS = `/apis/apps/v1/namespaces/${NAMESPACE}/deployments`;
const DAEMONSETS = `/apis/apps/v1/namespaces/${NAMESPACE}/daemonsets`;
const JOBS = `/apis/batch/v1/namespaces/${NAMESPACE}/jobs`;
const SERVICES = `/api/v1/namespaces/${NAMESPACE}/services`;
const NAME = 'clustermesh-apiserver';
/** Ports of the pod, as they are. */
const POD_PORTS = new Map(
  [2377, 2378, 2379, 2381, 2382, 9880, 9962, 9963].map((port) => [port, port]),
);
/** Ports of a load balancer and of a node, and what of the pod is behind them. */
const PORTS = new Map([
  [2379, 2379],
  [2381, 2381],
  [2382, 2382],
  [32379, 2379],
  [32381, 2381],
  [32382, 2382],
]);
const READY_TIMEOUT_MS = 120_000;
const LOOK_EVERY_MS = 400;

/** It, at work. Disposing ends everything that it has started. */
export interface ReleaseRunner extends AsyncDisposable {
  /** What went wrong last, and may have gone well since. */
  readonly problem: () => string;
}

interface Running {
  /** The pod's template, as text: another one means other processes. */
  readonly template: string;
  /** What ends it, in the order of starting. */
  readonly parts: readonly AsyncDisposable[];
}

/** Starts it. */
export async function openReleaseRunner(
  cluster: KubeCluster,
  options: {
    /** Of the cluster's load balancer and of its node; one of this machine that nobody else uses. */
    readonly address: string;
    /** The same of the apiserver's pod. */
    readonly podAddress: string;
    /** Cilium's own clustermesh-apiserver. */
    readonly cilium: string;
    /** Environment of our containers, to which what leads them to the cluster is added. */
    readonly env: NodeJS.ProcessEnv;
  },
): Promise<ReleaseRunner> {
  const { address, podAddress, cilium, env } = options;
  const ending = new AbortController();
  /** Where the pod is reached, other than at its own address: Cilium's etcd has a port of this machine. */
  let ciliumPort: number | undefined;
  const listeners: Server[] = [];
  for (const [outside, port] of PORTS) {
    const target = (): NetConnectOpts =>
      ciliumPort === undefined ? { host: podAddress, port } : { port: ciliumPort };
    const listener = await forward(address, { port: outside, target }).catch((error) => {
      for (const other of listeners) other.close();
      throw error;
    });
    listeners.push(listener);
  }
  let problem = '';
  let running: Running | undefined;
  const jobsDone = new Set<string>();
  const stop = async (): Promise<void> => {
    const { parts = [] } = running ?? {};
    running = undefined;
    ciliumPort = undefined;
    for (const part of [...parts].reverse()) await part[Symbol.asyncDispose]();
  };
  const look = async (): Promise<void> => {
    for (const job of await list(cluster, JOBS)) {
      const { uid } = job.metadata as { uid?: string };
      if (uid === undefined || jobsDone.has(uid)) continue;
      await runJob(cluster, { job, signal: ending.signal });
      jobsDone.add(uid);
    }
    for (const service of await list(cluster, SERVICES)) {
      const { ingress } = service.status.loadBalancer;
      if (service.spec.type !== 'LoadBalancer' || ingress !== undefined) continue;
      const status = { loadBalancer: { ingress: [{ ip: address }] } };
      await patchStatus(cluster, `${SERVICES}/${service.metadata.name}`, status);
    }
    for (const set of await list(cluster, DAEMONSETS)) await reportDaemonSet(cluster, set);
    const deployment = (await list(cluster, DEPLOYMENTS)).find(
      ({ metadata }) => metadata.name === NAME,
    );
    const template = JSON.stringify(deployment?.spec.template);
    if (running?.template !== template) await stop();
    if (deployment === undefined) return;
    if (running === undefined) {
      const parts: AsyncDisposable[] = [];
      // Known before it is ready, so that disposing ends it.
      running = { template, parts };
      const { signal } = ending;
      try {
        if (isOurs(deployment)) {
          await startPod(cluster, { deployment, host: podAddress, parts, env, signal });
        } else {
          const pod = await startCiliumPod(cluster, { binary: cilium, deployment, signal });
          parts.push(pod);
          ciliumPort = pod.port;
        }
      } catch (error) {
        await stop();
        throw error;
      }
    }
    await reportDeployment(cluster, deployment);
  };
  const work = async (): Promise<void> => {
    while (!ending.signal.aborted) {
      try {
        await look();
      } catch (error) {
        problem = error instanceof Error ? error.message : String(error);
      }
      await new Promise((resolve) => setTimeout(resolve, LOOK_EVERY_MS));
    }
  };
  const working = work();
  return {
    problem: () => problem,
    async [Symbol.asyncDispose]() {
      ending.abort();
      await working;
      await stop();
      for (const listener of listeners) listener.close();
    },
  };
}

/** Cilium's has the full path of its program. */
function isOurs({ spec }: RenderedObject): boolean {
  return spec.template.spec.containers[0].command?.[0] === NAME;
}

async function startPod(
  cluster: KubeCluster,
  options: {
    readonly deployment: RenderedObject;
    readonly host: string;
    readonly parts: AsyncDisposable[];
    readonly env: NodeJS.ProcessEnv;
    readonly signal: AbortSignal;
  },
): Promise<void> {
  const { deployment, host, parts, env, signal } = options;
  const { spec: pod } = deployment.spec.template;
  const user = await cluster.addUser(pod.serviceAccountName, { namespace: NAMESPACE });
  const folder = cluster.dir.file('apiserver-pod');
  const folders = await mountVolumes(pod, { cluster, folder, namespace: NAMESPACE });
  const start = async (container: RenderedObject, path: string): Promise<void> => {
    const variables = { POD_UID: 'a-pod' };
    const line = commandLine(container, { folders, ports: POD_PORTS, host, variables });
    const child = startContainer(line, {
      name: container.name,
      env: { ...env, ISTHMUS_KUBECONFIG: user.kubeconfig },
      signal,
    });
    parts.push(child);
    const probe = async (): Promise<void> => {
      const answer = await fetch(path, { signal });
      await answer.body?.cancel();
      if (!answer.ok) throw new Error(`${path} answers ${answer.status}`);
    };
    await untilReady(child, probe, { what: container.name, timeoutMs: READY_TIMEOUT_MS });
  };
  const at = (port: number): string => `http://${host}:${port}`;
  const [etcd] = pod.initContainers;
  const [apiserver] = pod.containers;
  await start(etcd, `${at(9963)}/health`);
  await start(apiserver, `${at(9880)}${apiserver.readinessProbe.httpGet.path}`);
}

async function runJob(
  cluster: KubeCluster,
  { job, signal }: { readonly job: RenderedObject; readonly signal: AbortSignal },
): Promise<void> {
  const { spec: pod } = job.spec.template;
  const user = await cluster.addUser(pod.serviceAccountName, { namespace: NAMESPACE });
  const folder = cluster.dir.file(`pod-of-${job.metadata.name}`);
  const folders = await mountVolumes(pod, { cluster, folder, namespace: NAMESPACE });
  const line = commandLine(pod.containers[0], { folders, ports: new Map() });
  // In a pod it is found by itself.
  const child = startContainer([...line, `--kubeconfig=${user.kubeconfig}`], {
    name: job.metadata.name,
    signal,
  });
  const { code } = await child.exited;
  if (code !== 0) throw new Error(`${job.metadata.name}: ${child.lastLines.join(' | ')}`);
}

async function reportDeployment(
  cluster: KubeCluster,
  { metadata, status }: RenderedObject,
): Promise<void> {
  const { generation } = metadata as { generation?: number };
  if (status?.observedGeneration === generation) return;
  const counts = { replicas: 1, updatedReplicas: 1, readyReplicas: 1, availableReplicas: 1 };
  await patchStatus(cluster, `${DEPLOYMENTS}/${metadata.name}`, {
    observedGeneration: generation,
    ...counts,
  });
}

/** On a cluster without nodes it is complete with nothing. */
async function reportDaemonSet(
  cluster: KubeCluster,
  { metadata, status }: RenderedObject,
): Promise<void> {
  const { generation } = metadata as { generation?: number };
  if (status?.observedGeneration === generation) return;
  await patchStatus(cluster, `${DAEMONSETS}/${metadata.name}`, { observedGeneration: generation });
}

async function list(cluster: KubeCluster, path: string): Promise<RenderedObject[]> {
  const { items } = (await cluster.ask('GET', path)) as { items: RenderedObject[] };
  return items;
}

async function patchStatus(cluster: KubeCluster, path: string, status: object): Promise<void> {
  await cluster.ask('PATCH', `${path}/status`, {
    body: { status },
    contentType: 'application/merge-patch+json',
  });
}

/** Passes connections on, as a load balancer does; resolves when it listens. */
async function forward(
  host: string,
  { port, target }: { readonly port: number; readonly target: () => NetConnectOpts },
): Promise<Server> {
  const server = createServer((socket) => {
    const behind = createConnection(target());
    socket.pipe(behind);
    behind.pipe(socket);
    socket.on('error', () => behind.destroy());
    behind.on('error', () => socket.destroy());
    socket.on('close', () => behind.destroy());
    behind.on('close', () => socket.destroy());
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(port, host, resolve);
  });
  return server;
}
