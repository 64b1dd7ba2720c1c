/** Writes many objects to an API server quickly, as all the kubelets, agents and controllers of a cluster together do. */
import { setMaxListeners } from 'node:events';
import type { KubernetesApi } from '../../clustermesh-apiserver/kubernetes/api.ts';
import { KubernetesError } from '../../clustermesh-apiserver/kubernetes/kubernetes-error.ts';
import {
  type KubernetesResource,
  RESOURCES,
  resourcePath,
} from '../../clustermesh-apiserver/kubernetes/resource.ts';
import { systemClock } from '../../mesh/runtime/clock.ts';
import type { KubernetesObject } from '../lab/kubernetes-object.ts';
import type { ObjectChange } from './generated-cluster.ts';

/** A writer; it remembers the versions of what it wrote. */
export interface KubeWriter {
  /** Writes changes side by side, those of one object in order; resolves when all are done. */
  apply(changes: readonly ObjectChange[]): Promise<void>;
  /** Writes one change; resolves when the API server has it. */
  write(change: ObjectChange): Promise<void>;
}

/** Options of `createKubeWriter`. */
export interface KubeWriterOptions {
  /** Requests under way at once. Default 32. */
  readonly concurrency?: number;
  readonly signal: AbortSignal;
}

/** What others live in must be there before them. */
const FIRST_KINDS: readonly string[] = ['Namespace', 'ServiceAccount'];
/** Kinds whose status the API server takes only on its own path. */
const STATUS_KINDS: readonly string[] = ['Pod', 'Node'];
const MOST_TRIES = 20;

/** Makes one over a connection that stays the caller's. */
export function createKubeWriter(
  api: Pick<KubernetesApi, 'request'>,
  options: KubeWriterOptions,
): KubeWriter {
  const { concurrency = 32, signal } = options;
  // Each request under way listens to it.
  setMaxListeners(0, signal);
  const versions = new Map<string, string>();

  const send = async (
    method: 'POST' | 'PUT' | 'DELETE' | 'GET',
    path: string,
    body?: unknown,
  ): Promise<unknown> => {
    for (let tries = 1; ; tries += 1) {
      try {
        return (await api.request({ method, path, body, signal })).body;
      } catch (error) {
        if (!(error instanceof KubernetesError) || !error.retryable || tries === MOST_TRIES) {
          throw error;
        }
        await systemClock.sleep(error.retryAfterMs ?? 50 * tries, signal);
      }
    }
  };
  const put = async (object: KubernetesObject): Promise<void> => {
    const { collection, item } = pathsOf(object);
    const known = versions.get(item);
    let written: unknown;
    if (known === undefined) {
      written = await send('POST', collection, object).catch(async (error: unknown) => {
        if (!(error instanceof KubernetesError) || error.reason !== 'AlreadyExists') throw error;
        return send('PUT', item, versioned(object, versionOf(await send('GET', item))));
      });
    } else {
      written = await send('PUT', item, versioned(object, known));
    }
    if (STATUS_KINDS.includes(object.kind)) {
      written = await send('PUT', `${item}/status`, versioned(object, versionOf(written)));
    }
    versions.set(item, versionOf(written));
  };
  const remove = async (object: KubernetesObject): Promise<void> => {
    const { item } = pathsOf(object);
    versions.delete(item);
    // Nobody would confirm the end of a pod.
    await send('DELETE', item, { gracePeriodSeconds: 0, propagationPolicy: 'Background' }).catch(
      (error: unknown) => {
        if (!(error instanceof KubernetesError) || error.code !== 'not-found') throw error;
      },
    );
  };
  const write = ({ kind, object }: ObjectChange): Promise<void> =>
    kind === 'put' ? put(object) : remove(object);

  const run = async (changes: readonly ObjectChange[]): Promise<void> => {
    const last = new Map<string, Promise<void>>();
    let next = 0;
    const work = async (): Promise<void> => {
      while (next < changes.length) {
        const change = changes[next] as ObjectChange;
        next += 1;
        const { item } = pathsOf(change.object);
        const done = (last.get(item) ?? Promise.resolve()).then(() => write(change));
        last.set(item, done);
        await done;
      }
    };
    await Promise.all(Array.from({ length: Math.min(concurrency, changes.length) }, work));
  };
  return {
    write,
    async apply(changes) {
      for (const kind of FIRST_KINDS) {
        await run(changes.filter(({ object }) => object.kind === kind));
      }
      await run(changes.filter(({ object }) => !FIRST_KINDS.includes(object.kind)));
    },
  };
}

/** Path of the collection that an object is created in, and its own. */
export function pathsOf(object: KubernetesObject): { collection: string; item: string } {
  const resource = resourceOf(object);
  const { namespace, name } = object.metadata;
  return {
    collection: resourcePath(resource, { namespace }),
    item: resourcePath(resource, { namespace, name }),
  };
}

function resourceOf(object: KubernetesObject): KubernetesResource {
  const found = Object.values(RESOURCES).find(({ kind }) => kind === object.kind);
  if (found === undefined) throw new Error(`cannot write a ${object.kind}: it has no path`);
  return { ...found, version: object.apiVersion.split('/').at(-1) ?? found.version };
}

function versioned(object: KubernetesObject, resourceVersion: string): KubernetesObject {
  return { ...object, metadata: { ...object.metadata, resourceVersion } };
}

function versionOf(written: unknown): string {
  const { metadata } = written as { metadata?: { resourceVersion?: string } };
  return metadata?.resourceVersion ?? '';
}
