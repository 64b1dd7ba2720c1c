/** The pod of Cilium's own clustermesh-apiserver, as Cilium's chart has made it: its etcd with its Secrets, and its program. */

import { openTempDir } from '../../mesh/testing/temp-dir.ts';
import { type SecretFiles, secretFiles } from '../../pki/layout.ts';
import type { RenderedObject } from '../chart/helm.ts';
import { mountVolumes } from '../chart/rendered-container.ts';
import { startCiliumApiserver } from '../peers/cilium-apiserver.ts';
import { startCiliumEtcd } from '../peers/cilium-etcd.ts';
import type { KubeCluster } from '../peers/kube-cluster.ts';

/** It, running. Disposing ends it. */
export interface CiliumPod extends AsyncDisposable {
  /** Port of its etcd on loopback. */
  readonly port: number;
}

/** Starts it; resolves when it has published its cluster once. */
export async function startCiliumPod(
  cluster: KubeCluster,
  options: {
    /** Cilium's `clustermesh-apiserver`. */
    readonly binary: string;
    readonly deployment: RenderedObject;
    readonly signal: AbortSignal;
  },
): Promise<CiliumPod> {
  const { binary, deployment, signal } = options;
  const { namespace = '' } = deployment.metadata;
  const { spec: pod } = deployment.spec.template;
  const { data } = (await cluster.ask(
    'GET',
    `/api/v1/namespaces/${namespace}/configmaps/cilium-config`,
  )) as { data: Record<string, string> };
  const name = data['cluster-name'] ?? '';
  const dir = await openTempDir(`cilium-pod-${name}`);
  const ends: AsyncDisposable[] = [dir];
  const end = async (): Promise<void> => {
    for (let part = ends.pop(); part !== undefined; part = ends.pop()) {
      await part[Symbol.asyncDispose]();
    }
  };
  try {
    await mountVolumes(pod, { cluster, folder: dir.file('volumes'), namespace });
    const files = (volume: string): SecretFiles => secretFiles(dir.file('volumes'), volume);
    const etcd = await startCiliumEtcd(binary, {
      cluster: name,
      dir,
      server: files('etcd-server-secrets'),
      admin: files('etcd-admin-client'),
      signal,
    });
    ends.push(etcd);
    const user = await cluster.addUser(pod.serviceAccountName, { namespace });
    const apiserver = await startCiliumApiserver(binary, {
      cluster: { name, id: Number(data['cluster-id']) },
      kubeconfig: user.kubeconfig,
      etcdConfigFile: etcd.adminFile,
      serviceExports: false,
      dir,
      signal,
    });
    ends.push(apiserver);
    await apiserver.ready;
    return { port: Number(new URL(etcd.endpoint).port), [Symbol.asyncDispose]: end };
  } catch (error) {
    await end();
    throw error;
  }
}
