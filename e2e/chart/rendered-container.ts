/**
 * A container of a rendered pod as a process of this machine: with exactly its arguments, but that ports are free ones on loopback,
 * and folders of the pod are folders of the test, filled from the Secrets and ConfigMaps that the API server has.
 */
import { mkdir, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { type ChildHandle, startChild } from '../../mesh/runtime/child-process.ts';
import { projectPath } from '../../mesh/runtime/project-path.ts';
import type { KubeCluster } from '../peers/kube-cluster.ts';
import { NAMESPACE, type RenderedObject } from './helm.ts';

/** Where the programs of the image are. */
const PROGRAMS: Readonly<Record<string, readonly string[]>> = {
  'clustermesh-apiserver': [process.execPath, projectPath('dist/clustermesh-apiserver/main.js')],
  'clustermesh-agent': [process.execPath, projectPath('dist/agent/main.js')],
  clustermesh: [process.execPath, projectPath('dist/cli/main.js')],
  etcd: ['/usr/bin/etcd'],
};

interface Mount {
  readonly name: string;
  readonly mountPath: string;
}

/** Fills the folders that stand for the volumes of a pod; resolves to the folder of each path in the container. */
export async function mountVolumes(
  pod: RenderedObject,
  options: { readonly cluster: KubeCluster; readonly folder: string },
): Promise<ReadonlyMap<string, string>> {
  const { cluster, folder } = options;
  const folders = new Map<string, string>();
  for (const volume of pod.volumes) {
    const path = join(folder, volume.name);
    await mkdir(path, { recursive: true });
    folders.set(volume.name, path);
    for (const [file, content] of await filesOf(volume, cluster)) {
      await mkdir(dirname(join(path, file)), { recursive: true });
      await writeFile(join(path, file), content, { mode: 0o600 });
    }
  }
  const mounts: Mount[] = [...(pod.initContainers ?? []), ...pod.containers].flatMap(
    (container) => container.volumeMounts ?? [],
  );
  return new Map(mounts.map(({ name, mountPath }) => [mountPath, folders.get(name) ?? '']));
}

/** Files of a volume. What a pod would wait for, because it is not there, fails here. */
async function filesOf(
  volume: RenderedObject,
  cluster: KubeCluster,
): Promise<[name: string, content: Buffer][]> {
  const { secret, configMap } = volume;
  if (secret === undefined && configMap === undefined) return [];
  const [plural, name] =
    secret === undefined ? ['configmaps', configMap.name] : ['secrets', secret.secretName];
  const { data } = (await cluster.ask(
    'GET',
    `/api/v1/namespaces/${NAMESPACE}/${plural}/${name}`,
  )) as { data: Record<string, string> };
  const items: { key: string; path: string }[] =
    (secret ?? configMap).items ?? Object.keys(data).map((key) => ({ key, path: key }));
  return items.map(({ key, path }) => {
    const content = data[key];
    if (content === undefined) throw new Error(`${plural} ${name} has no ${key}`);
    return [path, Buffer.from(content, secret === undefined ? 'utf8' : 'base64')];
  });
}

/** A container's command line on this machine. `ports`: of the container, by free ones here. */
export function commandLine(
  container: RenderedObject,
  options: {
    readonly folders: ReadonlyMap<string, string>;
    readonly ports: ReadonlyMap<number, number>;
    readonly variables?: Readonly<Record<string, string>>;
  },
): string[] {
  const { folders, ports, variables = {} } = options;
  const program = PROGRAMS[container.command[0]];
  if (program === undefined) throw new Error(`the image has no program ${container.command[0]}`);
  // The longest first: one mount may lie in another.
  const paths = [...folders].sort(([a], [b]) => b.length - a.length);
  const args = container.args.map((arg: string) => {
    const text = arg.replace(/\$\((\w+)\)/g, (whole, name) => variables[name] ?? whole);
    const mounted = paths.find(([path]) => new RegExp(`=${path}(/|$)`).test(text));
    const mapped = mounted === undefined ? text : text.replace(`=${mounted[0]}`, `=${mounted[1]}`);
    return mapped.replace(/(\[::\]|127\.0\.0\.1):(\d+)/g, (_, __, port) => {
      const free = ports.get(Number(port));
      if (free === undefined) throw new Error(`${arg} has a port that the test does not know`);
      return `127.0.0.1:${free}`;
    });
  });
  return [...program, ...args];
}

/** Starts it. */
export function startContainer(
  [program = '', ...args]: readonly string[],
  options: {
    readonly name: string;
    /** Default: that of this process. */
    readonly env?: NodeJS.ProcessEnv;
    readonly onLine?: (line: string) => void;
    readonly signal: AbortSignal;
  },
): ChildHandle {
  return startChild(program, args, { onLine: () => undefined, ...options });
}
