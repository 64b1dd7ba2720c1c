/** The agents' DaemonSet as helm renders it, made a container on a node of a lab. */
import { cpSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { secretFiles } from '../../pki/layout.ts';
import { SECRET_NAMES } from '../../pki/names.ts';
import { pkiFolder, tokenFile } from '../lab/certificates.ts';
import type { ClusterPlan, NodePlan } from '../lab/plan.ts';
import { containedCommand } from './contained.ts';
import { type ChartValues, objectOf, type RenderedObject, render } from './helm.ts';

/** Where the release is: the namespace that the server's certificate of a lab names. */
const RELEASE_NAMESPACE = 'kube-system';

/** Folders of a node that pods of the DaemonSet mount. */
export interface HostFolders {
  /** `agent.hostPaths.run`. */
  readonly run: string;
  readonly cniConf: string;
  readonly cniBin: string;
}

/** Folders of a lab's node as chart values take them. */
export function hostFolders(node: NodePlan): HostFolders {
  const file = (name: string): string => join(node.folder, name);
  return { run: file('run'), cniConf: file('cni-conf'), cniBin: file('cni-bin') };
}

/** Renders the DaemonSet of a release whose host paths are the folders of this node of a lab; resolves to the spec of its pods. */
export async function renderAgent(
  cluster: ClusterPlan,
  node: NodePlan,
  options: { readonly program: string; readonly home: string; readonly values?: ChartValues },
): Promise<RenderedObject> {
  const { run, cniConf, cniBin } = hostFolders(node);
  const values: ChartValues = {
    mode: 'any-cni',
    'cluster.name': cluster.name,
    'cluster.id': cluster.id,
    'agent.hostPaths.run': run,
    'agent.hostPaths.bpf': node.bpfRoot,
    'agent.hostPaths.cgroup': node.cgroup,
    'agent.cni.confPath': cniConf,
    'agent.cni.binPath': cniBin,
    ...options.values,
  };
  const objects = await render(values, { ...options, namespace: RELEASE_NAMESPACE });
  return objectOf(objects, 'DaemonSet', 'clustermesh-agent').spec.template.spec;
}

/** What a kubelet does for the pod: fills its volumes, and writes the name of the apiserver's Service into its hosts file. */
export function prepareKubelet(cluster: ClusterPlan, node: NodePlan): void {
  const folder = kubeletFolder(node);
  for (const name of ['token', 'ca', 'tmp', 'root']) {
    mkdirSync(join(folder, name), { recursive: true });
  }
  // Where the lab looks for it.
  symlinkSync(join(hostFolders(node).run, 'agent.sock'), node.socketPath);
  cpSync(tokenFile(node), join(folder, 'token', 'token'));
  cpSync(secretFiles(pkiFolder(cluster), SECRET_NAMES.server).ca, join(folder, 'ca', 'ca.crt'));
  const service = `clustermesh-apiserver.${RELEASE_NAMESPACE}.svc`;
  // Of both families: nobody is there to be asked for the other one.
  const lines = cluster.first.addresses.map((address) => `${address} ${service}\n`);
  writeFileSync(join(folder, 'hosts'), ['127.0.0.1 localhost\n', ...lines].join(''));
}

/** The command that runs a container of the pod on a node of a lab. */
export function nodeCommand(
  pod: RenderedObject,
  container: RenderedObject,
  place: { readonly node: NodePlan; readonly refuseCalls: string },
): string[] {
  const { node, refuseCalls } = place;
  const folder = kubeletFolder(node);
  return containedCommand(pod, container, {
    refuseCalls,
    root: join(folder, 'root'),
    volumes: new Map(['token', 'ca', 'tmp'].map((name) => [name, join(folder, name)])),
    hostsFile: join(folder, 'hosts'),
    fields: { 'spec.nodeName': node.name, 'status.hostIPs': node.addresses.join() },
  });
}

function kubeletFolder(node: NodePlan): string {
  return join(node.folder, 'kubelet');
}
