/** The part of a kubelet and a scheduler that the API server sees: pods get a node, an address of each family, and are ready. */
import { setMaxListeners } from 'node:events';
import { type KubernetesApi, openKubernetes } from '../../clustermesh-apiserver/kubernetes/api.ts';
import { KubernetesError } from '../../clustermesh-apiserver/kubernetes/kubernetes-error.ts';
import { reflect } from '../../clustermesh-apiserver/kubernetes/reflector.ts';
import { RESOURCES, resourcePath } from '../../clustermesh-apiserver/kubernetes/resource.ts';
import { systemClock } from '../../mesh/runtime/clock.ts';
import { createLogger } from '../../mesh/runtime/log.ts';
import type { KubeCluster } from './kube-cluster.ts';

/** A pod as far as this looks at it. */
interface Pod {
  readonly key: string;
  readonly namespace: string;
  readonly name: string;
  readonly isBound: boolean;
  readonly isRunning: boolean;
  readonly isLeaving: boolean;
}

/** Runs every pod of a cluster on its node `n1`, at `10.<id>.` and `fd00:10:<id>::`. Disposing ends that. */
export async function openPodRunner(
  cluster: KubeCluster,
  id: number,
): Promise<AsyncDisposable & { readonly problems: readonly string[] }> {
  const api = await openKubernetes({ kubeconfig: cluster.adminKubeconfig, clock: systemClock });
  const ending = new AbortController();
  setMaxListeners(0, ending.signal);
  const problems: string[] = [];
  const running = run(api, { id, problems, signal: ending.signal });
  running.catch((error: unknown) => problems.push(String(error)));
  return {
    problems,
    async [Symbol.asyncDispose]() {
      ending.abort();
      await running.catch(() => undefined);
      await api[Symbol.asyncDispose]();
    },
  };
}

async function run(
  api: KubernetesApi,
  { id, problems, signal }: { id: number; problems: string[]; signal: AbortSignal },
): Promise<void> {
  const addresses = new Map<string, number>();
  const send = async (
    method: 'POST' | 'PATCH' | 'DELETE',
    place: { namespace: string; name: string; subresource?: string },
    body: object,
  ): Promise<void> => {
    try {
      await api.request({
        method,
        path: resourcePath(RESOURCES.pods, place),
        body,
        ...(method === 'PATCH' ? { contentType: 'application/merge-patch+json' } : {}),
        signal,
      });
    } catch (error) {
      // It has gone, or is gone on with at its next change.
      const isHarmless =
        error instanceof KubernetesError && ['not-found', 'conflict'].includes(error.code);
      if (!isHarmless && !signal.aborted) problems.push(String(error));
    }
  };
  const take = async ({ key, namespace, name, ...state }: Pod): Promise<void> => {
    const place = { namespace, name };
    if (state.isLeaving) return send('DELETE', place, { gracePeriodSeconds: 0 });
    if (!state.isBound) {
      return send(
        'POST',
        { ...place, subresource: 'binding' },
        {
          apiVersion: 'v1',
          kind: 'Binding',
          metadata: { name },
          target: { apiVersion: 'v1', kind: 'Node', name: 'n1' },
        },
      );
    }
    if (state.isRunning) return;
    const number = addresses.get(key) ?? addresses.size + 1;
    addresses.set(key, number);
    const podIPs = [
      { ip: `10.${id}.${number >> 8}.${number & 255}` },
      { ip: `fd00:10:${id}::${number.toString(16)}` },
    ];
    await send(
      'PATCH',
      { ...place, subresource: 'status' },
      {
        status: {
          phase: 'Running',
          podIP: podIPs[0]?.ip,
          podIPs,
          conditions: [{ type: 'Ready', status: 'True' }],
        },
      },
    );
  };
  const batches = reflect(api, RESOURCES.pods, {
    parse: parsePod,
    clock: systemClock,
    logger: createLogger('pod-runner', { level: 'silent' }),
    signal,
  });
  for await (const batch of batches) {
    await Promise.all(
      batch.map((event) => (event.kind === 'upsert' ? take(event.object) : undefined)),
    );
  }
}

function parsePod(input: unknown): Pod {
  const { metadata, spec, status } = input as {
    metadata: { namespace: string; name: string; deletionTimestamp?: string };
    spec: { nodeName?: string };
    status?: { phase?: string; podIP?: string };
  };
  return {
    key: `${metadata.namespace}/${metadata.name}`,
    namespace: metadata.namespace,
    name: metadata.name,
    isBound: spec.nodeName !== undefined,
    isRunning: status?.podIP !== undefined,
    isLeaving: metadata.deletionTimestamp !== undefined,
  };
}
