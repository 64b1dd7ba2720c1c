/** Kubernetes objects as an API server gives them, for tests. */
import { type KubernetesObject, parseKubernetesObject } from '../../kubernetes-object.ts';
import { type McsService, parseWholeSlice, readService, type WholeSlice } from '../mcs-objects.ts';

/** Metadata of an object of `data`. */
export function metadataOf(name: string, fields: object = {}): object {
  return {
    name,
    namespace: 'data',
    uid: `uid-of-${name}`,
    resourceVersion: '1',
    generation: 1,
    creationTimestamp: '2026-01-02T03:04:05Z',
    ...fields,
  };
}

/** An object of `data`. */
export function objectOf(
  name: string,
  { metadata = {}, ...fields }: TestFields = {},
): KubernetesObject {
  return parseKubernetesObject({ metadata: metadataOf(name, metadata), ...fields });
}

interface TestFields {
  readonly metadata?: object;
  readonly [field: string]: unknown;
}

/** A Service of `data` with an address and one port. */
export function serviceOf(name: string, { metadata = {}, ...spec }: TestFields = {}): McsService {
  return readService(
    objectOf(name, {
      metadata,
      spec: {
        type: 'ClusterIP',
        clusterIP: '10.96.0.7',
        clusterIPs: ['10.96.0.7'],
        ipFamilies: ['IPv4'],
        sessionAffinity: 'None',
        ports: [{ name: 'pg', port: 5432, protocol: 'TCP' }],
        ...spec,
      },
    }),
  );
}

/** A slice of the Service `db` with one endpoint. */
export function sliceOf(name: string, { metadata = {}, ...fields }: TestFields = {}): WholeSlice {
  return parseWholeSlice({
    metadata: metadataOf(name, {
      labels: {
        'kubernetes.io/service-name': 'db',
        'endpointslice.kubernetes.io/managed-by': 'endpointslice-controller.k8s.io',
      },
      ...metadata,
    }),
    addressType: 'IPv4',
    endpoints: [{ addresses: ['10.1.0.5'], conditions: { ready: true }, hostname: 'db-0' }],
    ports: [{ name: 'pg', port: 5432, protocol: 'TCP' }],
    ...fields,
  });
}
