/**
 * Objects written into the storage of an API server, past its request handling: kube-apiserver needs several milliseconds of
 * CPU for each request, so that on a small machine it would be what a benchmark measures. It reads them, keeps them and
 * tells watchers as it does with all others.
 */
import { randomUUID } from 'node:crypto';
import type { KubernetesObject } from '../e2e/lab/kubernetes-object.ts';
import type { KvStore } from '../mesh/kvstore/kvstore.ts';

const WRITERS = 8;
const OBJECTS_A_TRANSACTION = 50;

/** Where kinds are, in kube-apiserver's default layout; custom resources are below their group. */
const PLACES: Readonly<Record<string, string>> = {
  Namespace: 'namespaces',
  Node: 'minions',
  Pod: 'pods',
  Service: 'services/specs',
  EndpointSlice: 'endpointslices',
  CiliumNode: 'cilium.io/ciliumnodes',
  CiliumIdentity: 'cilium.io/ciliumidentities',
  CiliumEndpoint: 'cilium.io/ciliumendpoints',
};

/** Key and value of an object, with what the API server would have added. JSON is read whatever it writes itself. */
export function storedObject(object: KubernetesObject): { key: string; value: string } {
  const place = PLACES[object.kind];
  if (place === undefined) throw new Error(`cannot store a ${object.kind}: its place is unknown`);
  const { namespace, name } = object.metadata;
  const path = namespace === undefined ? name : `${namespace}/${name}`;
  const metadata = {
    uid: randomUUID(),
    creationTimestamp: '2026-01-02T03:04:05Z',
    generation: 1,
    ...object.metadata,
  };
  return {
    key: `/registry/${place}/${path}`,
    value: `${JSON.stringify({ ...object, metadata })}\n`,
  };
}

/** Writes many, as fast as etcd takes them. */
export async function storeObjects(
  store: KvStore,
  objects: readonly KubernetesObject[],
  signal: AbortSignal,
): Promise<void> {
  let next = 0;
  const work = async (): Promise<void> => {
    while (next < objects.length) {
      signal.throwIfAborted();
      const some = objects.slice(next, next + OBJECTS_A_TRANSACTION);
      next += some.length;
      const then = some.map((object) => ({ kind: 'put' as const, ...storedObject(object) }));
      await store.transact({ compare: [], then });
    }
  };
  await Promise.all(Array.from({ length: WRITERS }, work));
}
