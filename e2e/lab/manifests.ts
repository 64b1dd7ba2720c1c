/** Where a lab's Kubernetes objects are kept: files that the apiserver watches, or an API server that kubectl writes to. */
import { randomBytes } from 'node:crypto';
import { mkdir, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { stringify } from 'yaml';
import type { KubeCluster } from '../peers/kube-cluster.ts';
import { type KubernetesObject, manifestFile } from './kubernetes-object.ts';

/** A cluster's Kubernetes objects. */
export interface Manifests {
  /** Writes an object whole; resolves to a name by which people find it. */
  write(object: KubernetesObject): Promise<string>;
  /** Writes several, those that others live in first. */
  writeAll(objects: readonly KubernetesObject[]): Promise<void>;
  /** Writes what kubelets report of an object that is there; `write` would do, too, and takes longer. */
  writeStatus(object: KubernetesObject): Promise<void>;
  /** Removes what `write` wrote; nothing when it is not there. */
  remove(object: KubernetesObject): Promise<void>;
}

/** Runs kubectl with these arguments; throws when it fails. */
export type Kubectl = (args: readonly string[], options?: { input?: string }) => Promise<string>;

/** Sends requests as an administrator; throws when one is refused. */
export type Requester = Pick<KubeCluster, 'ask'>;

/** Objects whose status kubelets write, which an API server takes only on a path of its own. */
const STATUS_KINDS: readonly string[] = ['Node', 'Pod'];

/** Writes and removes manifests in a folder. */
export function createManifests(folder: string): Manifests {
  const write: Manifests['write'] = async (object) => {
    const name = manifestFile(object);
    await mkdir(folder, { recursive: true, mode: 0o700 });
    // Readers leave out names that begin with a dot.
    const temporary = join(folder, `.${name}.${randomBytes(4).toString('hex')}`);
    await writeFile(temporary, stringify(object), { mode: 0o600 });
    await rename(temporary, join(folder, name));
    return name;
  };
  return {
    write,
    async writeStatus(object) {
      await write(object);
    },
    async writeAll(objects) {
      for (const object of objects) await write(object);
    },
    async remove(object) {
      await rm(join(folder, manifestFile(object)), { force: true });
    },
  };
}

/**
 * Writes to an API server by the real kubectl, as users do. What kubelets would report goes to the status, by plain requests, as
 * theirs are.
 */
export function createApiManifests(kubectl: Kubectl, requester: Requester): Manifests {
  const send = async (
    verb: readonly string[],
    objects: readonly KubernetesObject[],
  ): Promise<void> => {
    if (objects.length === 0) return;
    const list = { apiVersion: 'v1', kind: 'List', items: objects };
    await kubectl([...verb, '-f', '-'], { input: JSON.stringify(list) });
  };
  const writeAll: Manifests['writeAll'] = async (objects) => {
    const hasStatus = ({ kind }: KubernetesObject): boolean => STATUS_KINDS.includes(kind);
    const isNamespace = ({ kind }: KubernetesObject): boolean => kind === 'Namespace';
    const apply = ['apply', '--server-side', '--force-conflicts'];
    const specified = objects.map((object) =>
      hasStatus(object) ? { ...object, status: undefined } : object,
    );
    await send(apply, specified.filter(isNamespace));
    await send(
      apply,
      specified.filter((object) => !isNamespace(object)),
    );
    await Promise.all(objects.filter(hasStatus).map(writeStatus));
  };
  /** Lists are replaced, not merged: an applied status cannot have two addresses of one type, as every dual-stack node has. */
  const writeStatus: Manifests['writeStatus'] = async ({ kind, metadata, status }) => {
    const { namespace, name } = metadata;
    const where = namespace === undefined ? '' : `/namespaces/${namespace}`;
    await requester.ask('PATCH', `/api/v1${where}/${kind.toLowerCase()}s/${name}/status`, {
      body: { status },
      contentType: 'application/merge-patch+json',
    });
  };
  return {
    async write(object) {
      await writeAll([object]);
      return `${object.kind.toLowerCase()}/${object.metadata.name}`;
    },
    writeAll,
    writeStatus,
    async remove({ apiVersion, kind, metadata: { namespace, name } }) {
      const group = apiVersion.includes('/') ? `.${apiVersion.split('/')[0]}` : '';
      const where = namespace === undefined ? [] : ['--namespace', namespace];
      // No kubelet is there to confirm the end of a pod.
      const flags = ['--ignore-not-found', '--force', '--grace-period=0'];
      await kubectl(['delete', `${kind.toLowerCase()}${group}`, name, ...where, ...flags]);
    },
  };
}
