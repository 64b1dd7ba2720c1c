/** Asks the API server which version of the Multi-Cluster Services API it serves. */
import type { KubernetesApi } from '../../kubernetes/api.ts';
import { KubernetesError } from '../../kubernetes/kubernetes-error.ts';
import { RESOURCES, resourceName, resourcePath } from '../../kubernetes/resource.ts';
import { listOf, recordOf, textOf } from '../kubernetes-object.ts';
import { MCS_GROUP } from './mcs-names.ts';
import { MCS_VERSIONS, oldestApi, type ServedApi, servedApi } from './mcs-schema.ts';

/** What is served, or what is missing and what to do. */
export type ServedAnswer =
  | { readonly kind: 'served'; readonly api: ServedApi }
  | { readonly kind: 'missing'; readonly reason: string };

const MISSING =
  'CustomResourceDefinitions serviceexports and serviceimports of multicluster.x-k8s.io: apply them, or set --clustermesh-mcs-api-install-crds';

/**
 * Reads both definitions; without permission to, the versions alone, which everybody may read, and then only the oldest fields are
 * written. Rejects as `KubernetesApi.request`.
 */
export async function readServedApi(
  api: KubernetesApi,
  signal: AbortSignal,
): Promise<ServedAnswer> {
  try {
    const [serviceExports, serviceImports] = await Promise.all(
      [RESOURCES.serviceExports, RESOURCES.serviceImports].map(async (resource) => {
        const path = resourcePath(RESOURCES.customResourceDefinitions, {
          name: resourceName(resource),
        });
        return (await api.request({ method: 'GET', path, signal })).body;
      }),
    );
    return answer(servedApi({ serviceExports, serviceImports }));
  } catch (error) {
    if (!(error instanceof KubernetesError)) throw error;
    if (error.code === 'not-found') return { kind: 'missing', reason: MISSING };
    if (error.code !== 'forbidden') throw error;
    return answer(await discover(api, signal));
  }
}

function answer(api: ServedApi | undefined): ServedAnswer {
  return api === undefined ? { kind: 'missing', reason: MISSING } : { kind: 'served', api };
}

/** Versions that have both kinds, from the API server's own list. */
async function discover(api: KubernetesApi, signal: AbortSignal): Promise<ServedApi | undefined> {
  for (const version of MCS_VERSIONS) {
    try {
      const path = `/apis/${MCS_GROUP}/${version}`;
      const { body } = await api.request({ method: 'GET', path, signal });
      const names = listOf(recordOf(body)?.resources).map((entry) =>
        textOf(recordOf(entry), 'name'),
      );
      if (names.includes('serviceexports') && names.includes('serviceimports')) {
        return oldestApi(version);
      }
    } catch (error) {
      if (!(error instanceof KubernetesError) || error.code !== 'not-found') throw error;
    }
  }
  return undefined;
}
