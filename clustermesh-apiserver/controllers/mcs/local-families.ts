/** Address families that Services of this cluster get: asked of the API server, by a Service that is not kept. */
import type { Clock } from '../../../mesh/runtime/clock.ts';
import type { KubernetesApi } from '../../kubernetes/api.ts';
import { KubernetesError } from '../../kubernetes/kubernetes-error.ts';
import { RESOURCES, resourcePath } from '../../kubernetes/resource.ts';
import { listOf, recordOf } from '../kubernetes-object.ts';
import { type IpFamily, isIpFamily } from './ip-families.ts';

/** A cluster gets a second family by a restart of its API server, with which we lose the connection anyway. */
const KEEP_MS = 300_000;

/** Tells the families of this cluster. */
export interface LocalFamilies {
  /** Families, the cluster's own order. Rejects as `KubernetesApi.request`. */
  of(namespace: string, signal: AbortSignal): Promise<readonly IpFamily[]>;
}

/** Makes one that knows nothing yet. */
export function createLocalFamilies(
  api: KubernetesApi,
  options: { readonly clock: Clock },
): LocalFamilies {
  let known: { readonly families: readonly IpFamily[]; readonly until: number } | undefined;
  return {
    async of(namespace, signal) {
      const now = options.clock.monotonic();
      if (known !== undefined && now < known.until) return known.families;
      try {
        known = { families: await askFamilies(api, namespace, signal), until: now + KEEP_MS };
      } catch (error) {
        // What was so a while ago is better than nothing: a quota or a webhook may refuse a Service today.
        const isRefusal = error instanceof KubernetesError && !error.retryable;
        if (known === undefined || !isRefusal) throw error;
        known = { ...known, until: now + KEEP_MS };
      }
      return known.families;
    },
  };
}

async function askFamilies(
  api: KubernetesApi,
  namespace: string,
  signal: AbortSignal,
): Promise<readonly IpFamily[]> {
  const { body } = await api.request({
    method: 'POST',
    path: resourcePath(RESOURCES.services, { namespace }),
    query: { dryRun: 'All' },
    body: {
      apiVersion: 'v1',
      kind: 'Service',
      metadata: { generateName: 'isthmus-families-' },
      spec: { ipFamilyPolicy: 'PreferDualStack', ports: [{ port: 80 }] },
    },
    signal,
  });
  return listOf(recordOf(recordOf(body)?.spec)?.ipFamilies).flatMap((family) =>
    typeof family === 'string' && isIpFamily(family) ? [family] : [],
  );
}
