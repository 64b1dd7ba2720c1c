/** CoreDNS of a lab's cluster with a Kubernetes API server, on the cluster's first node, as a pod of the host's network is. */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { projectPath } from '../../mesh/runtime/project-path.ts';
import { corednsPeer } from '../peers/coredns.ts';
import type { Lab } from './lab.ts';
import { LabError } from './lab-error.ts';
import { startProcess } from './process.ts';

/** A name server that answers. Disposing ends it. */
export interface NameServer extends AsyncDisposable {
  /** Asks it from inside a pod of its node; the answers sorted, none for no such name. */
  resolve(pod: string, name: string, type?: 'A' | 'AAAA'): Promise<readonly string[]>;
}

const RESOLVE_MAIN = fileURLToPath(new URL('./resolve/main.js', import.meta.url));
/** What CoreDNS may do in any cluster. */
const RULES = [
  {
    apiGroups: [''],
    resources: ['namespaces', 'services', 'pods', 'endpoints'],
    verbs: ['list', 'watch'],
  },
  { apiGroups: ['discovery.k8s.io'], resources: ['endpointslices'], verbs: ['list', 'watch'] },
];

/**
 * Starts it for `cluster.local` and `clusterset.local`, with what `kubernetes/manifests/mcs-coredns.yaml` allows; resolves
 * when it answers.
 */
export async function startNameServer(lab: Lab, clusterName: string): Promise<NameServer> {
  const cluster = lab.cluster(clusterName);
  const { kube } = lab.kubernetes(clusterName);
  const { kubeconfig } = await kube.addUser('coredns', { namespace: 'kube-system', rules: RULES });
  const manifest = 'clustermesh-apiserver/kubernetes/manifests/mcs-coredns.yaml';
  await kube.kubectl(['apply', '-f', projectPath(manifest)]);
  const { folder, first } = cluster;
  const corefile = join(folder, 'Corefile');
  await writeFile(
    corefile,
    `.:53 {
    errors
    kubernetes cluster.local clusterset.local {
        kubeconfig ${kubeconfig} test
        ttl 0
        multicluster clusterset.local
    }
}
`,
  );
  const running = startProcess([projectPath(`dist/peers/${corednsPeer}`), `-conf=${corefile}`], {
    netns: first.namespace,
    cgroup: join(first.cgroup, 'system'),
    log: join(folder, 'coredns.log'),
  });
  const server = first.addresses[0] ?? '';
  const address = server.includes(':') ? `[${server}]:53` : server;
  const resolve: NameServer['resolve'] = async (pod, name, type = 'A') => {
    const argv = [process.execPath, RESOLVE_MAIN, address, type, name];
    const { code, stdout, stderr } = await lab.exec(pod, argv);
    if (code !== 0) throw new LabError('command', `cannot resolve ${name}: ${stderr.trim()}`);
    return stdout.split('\n').filter(Boolean).sort();
  };
  const dispose = async (): Promise<void> => {
    await running.stop();
  };
  try {
    const anyPod = lab.pods().find(({ node }) => node === first.name);
    if (anyPod === undefined) throw new LabError('unknown-name', `no pod on ${first.name}`);
    await lab.waitFor(`the name server of ${clusterName}`, async () => {
      if (!running.isRunning()) throw new LabError('command', `it ended: ${running.output()}`);
      const found = await resolve(anyPod.name, 'kubernetes.default.svc.cluster.local').catch(
        () => [],
      );
      return found.length > 0;
    });
  } catch (error) {
    await dispose();
    throw error;
  }
  return { resolve, [Symbol.asyncDispose]: dispose };
}
