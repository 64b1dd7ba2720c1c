/** Real API servers that Helm charts are installed to: ours, and Cilium's own. There are no nodes, so nothing that they install runs. */
import { writeFile } from 'node:fs/promises';
import type { Test } from 'tap';
import type { TempDir } from '../../mesh/testing/temp-dir.ts';
import { CHART, type HelmResult, runHelm } from '../chart/helm.ts';
import { ciliumChart } from '../peers/cilium-chart.ts';
import { type KubeCluster, openKubeCluster } from '../peers/kube-cluster.ts';
import type { KubePrograms } from '../peers/kube-programs.ts';

/** Where Cilium's tools, and ours, look when they are told nothing else. */
const NAMESPACE = 'kube-system';

/** A cluster of such a test. */
export interface ChartCluster {
  readonly name: string;
  readonly cluster: KubeCluster;
  /** Runs helm in the namespace of all that is installed. */
  helm(...args: readonly string[]): Promise<HelmResult>;
}

/** Opens one; it ends with the test. */
export async function openChartCluster(
  t: Test,
  name: string,
  options: {
    readonly helm: string;
    readonly dir: TempDir;
    readonly programs: KubePrograms;
    readonly controllers?: readonly string[];
  },
): Promise<ChartCluster> {
  const { helm, dir, programs, controllers } = options;
  const cluster = await openKubeCluster({
    name,
    programs,
    ...(controllers === undefined ? {} : { controllers }),
  });
  t.teardown(() => cluster[Symbol.asyncDispose]());
  const context = { program: helm, home: dir.path, kubeconfig: cluster.adminKubeconfig };
  return {
    name,
    cluster,
    helm: (...args) => runHelm([...args, '--namespace', NAMESPACE], context),
  };
}

/** Installs Cilium 1.20, with or without its own clustermesh-apiserver behind a load balancer. */
export async function installCilium(
  t: Test,
  { name, cluster, helm }: ChartCluster,
  options: { readonly id: number; readonly isMeshed: boolean; readonly release?: string },
): Promise<void> {
  const { id, isMeshed, release = 'cilium' } = options;
  const values = {
    cluster: { name, id },
    clustermesh: {
      useAPIServer: isMeshed,
      config: { enabled: true },
      apiserver: { service: { type: 'LoadBalancer' }, tls: { auto: { method: 'helm' } } },
    },
  };
  const file = cluster.dir.file('cilium-values.json');
  await writeFile(file, JSON.stringify(values));
  const done = await helm(
    ...['install', release, await ciliumChart('cilium-1.20'), '--values', file],
  );
  t.equal(done.code, 0, `helm install of Cilium in ${name}: ${done.stderr.slice(-500)}`);
}

/** Installs ours, behind a load balancer. */
export async function installOurs(
  t: Test,
  { name, helm }: ChartCluster,
  options: { readonly id: number; readonly mode: string; readonly release?: string },
): Promise<void> {
  const { id, mode, release = 'clustermesh' } = options;
  const done = await helm(
    ...['install', release, CHART],
    ...['--set', `mode=${mode},cluster.name=${name},cluster.id=${id}`],
    ...['--set', 'clustermesh.apiserver.service.type=LoadBalancer'],
  );
  t.equal(done.code, 0, `helm install of ours in ${name}: ${done.stderr.slice(-500)}`);
}

/** Reports what a cloud and a kubelet would of the clustermesh-apiserver: its address, and that it runs. */
export async function reportReady({ cluster }: ChartCluster, address: string): Promise<void> {
  const patch = async (kind: string, status: object): Promise<void> => {
    await cluster.kubectl([
      ...['patch', kind, 'clustermesh-apiserver', '-n', NAMESPACE, '--subresource=status'],
      ...['--type=merge', '-p', JSON.stringify({ status })],
    ]);
  };
  await patch('service', { loadBalancer: { ingress: [{ ip: address }] } });
  const counts = { replicas: 1, updatedReplicas: 1, readyReplicas: 1, availableReplicas: 1 };
  await patch('deployment', { observedGeneration: 1, ...counts });
}

/** Everything that an upgrade by Helm could touch, with the versions of the objects. */
export function everything({ cluster }: ChartCluster): Promise<string> {
  const kinds = 'secrets,configmaps,services,deployments,daemonsets';
  return cluster.kubectl(['get', kinds, '-A', '-o', 'json']);
}
