/** Stands in for the scheduler and the kubelets of a test cluster: pods "run" on one node, and nothing runs in them. */
import { systemClock } from '../../mesh/runtime/clock.ts';
import type { KubeCluster } from './kube-cluster.ts';

/** Options of `runPods`. */
export interface PodRunnerOptions {
  /** Node that pods are bound to; it must be there. */
  readonly node: string;
  /** Addresses of the pod with this number, counted from 1: one, or one of each family. */
  readonly addresses: (pod: number) => readonly string[];
  readonly signal: AbortSignal;
}

interface Pod {
  readonly metadata: {
    readonly namespace: string;
    readonly name: string;
    readonly deletionTimestamp?: string;
  };
  readonly spec: { readonly nodeName?: string };
  readonly status: { readonly phase?: string };
}

const INTERVAL_MS = 200;

/**
 * Looks for pods five times a second until `signal` aborts: binds those without a node, gives those that are pending
 * addresses and makes them ready, and lets go of those that are being deleted.
 */
export async function runPods(cluster: KubeCluster, options: PodRunnerOptions): Promise<void> {
  const { node, addresses, signal } = options;
  let started = 0;
  const serve = async (pod: Pod): Promise<void> => {
    const { namespace, name, deletionTimestamp } = pod.metadata;
    const path = `/api/v1/namespaces/${namespace}/pods/${name}`;
    if (deletionTimestamp !== undefined) {
      await cluster.send('DELETE', path, { body: { gracePeriodSeconds: 0 } });
      return;
    }
    if (pod.spec.nodeName === undefined) {
      const body = { metadata: { name }, target: { kind: 'Node', name: node } };
      await cluster.send('POST', `${path}/binding`, { body });
    }
    if (pod.status.phase !== 'Pending') return;
    started += 1;
    const podIPs = addresses(started).map((ip) => ({ ip }));
    const conditions = [{ type: 'Ready', status: 'True' }];
    // One that has gone meanwhile is no matter.
    await cluster.send('PATCH', `${path}/status`, {
      contentType: 'application/merge-patch+json',
      body: { status: { phase: 'Running', podIP: podIPs[0]?.ip, podIPs, conditions } },
    });
  };
  try {
    for (;;) {
      const list = (await cluster.ask('GET', '/api/v1/pods', { signal })) as { items: Pod[] };
      for (const pod of list.items) await serve(pod);
      await systemClock.sleep(INTERVAL_MS, signal);
    }
  } catch (error) {
    if (!signal.aborted) throw error;
  }
}
