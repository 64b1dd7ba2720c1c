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
  options: {
    readonly cluster: KubeCluster;
    readonly folder: string;
    /** Of the pod. Default: that of the chart's tests. */
    readonly namespace?: string;
  },
): Promise<ReadonlyMap<string, string>> {
  const { cluster, folder, namespace = NAMESPACE } = options;
  const folders = new Map<string, string>();
  for (const volume of pod.volumes) {
    const path = join(folder, volume.name);
    await mkdir(path, { recursive: true });
    folders.set(volume.name, path);
    for (const [file, content] of await filesOf(volume, { cluster, namespace })) {
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
  place: { readonly cluster: KubeCluster; readonly namespace: string },
): Promise<[name: string, content: Buffer][]> {
  const sources: RenderedObject[] = volume.projected?.sources ?? [volume];
  return (await Promise.all(sources.map((source) => filesOfSource(source, place)))).flat();
}

async function filesOfSource(
  { secret, configMap }: RenderedObject,
  { cluster, namespace }: { readonly cluster: KubeCluster; readonly namespace: string },
): Promise<[name: string, content: Buffer][]> {
  const source = secret ?? configMap;
  if (source === undefined) return [];
  const plural = secret === undefined ? 'configmaps' : 'secrets';
  const name = source.secretName ?? source.name;
  const path = `/api/v1/namespaces/${namespace}/${plural}/${name}`;
  if (source.optional === true && (await cluster.send('GET', path)).status === 404) return [];
  const { data = {} } = (await cluster.ask('GET', path)) as { data?: Record<string, string> };
  const items: { key: string; path: string }[] =
    source.items ?? Object.keys(data).map((key) => ({ key, path: key }));
  return items.map(({ key, path: file }) => {
    const content = data[key];
    if (content === undefined) throw new Error(`${plural} ${name} has no ${key}`);
    return [file, Buffer.from(content, secret === undefined ? 'utf8' : 'base64')];
  });
}

/** How what a container is told is told on this machine. */
export interface ArgumentPlace {
  /** Folders that stand for those of the container. */
  readonly folders: ReadonlyMap<string, string>;
  /** Free ports of `host` by those of the container. */
  readonly ports: ReadonlyMap<number, number>;
  readonly variables?: Readonly<Record<string, string>>;
  /** Default 127.0.0.1. */
  readonly host?: string;
}

/** A container's command line on this machine. */
export function commandLine(container: RenderedObject, place: ArgumentPlace): string[] {
  const program = PROGRAMS[container.command[0]];
  if (program === undefined) throw new Error(`the image has no program ${container.command[0]}`);
  return [...program, ...mappedArguments(container, place)];
}

/** A container's arguments on this machine; folders that are not in `folders` stay as they are. */
export function mappedArguments(container: RenderedObject, place: ArgumentPlace): string[] {
  const { folders, ports, variables = {}, host = '127.0.0.1' } = place;
  // The longest first: one mount may lie in another.
  const paths = [...folders].sort(([a], [b]) => b.length - a.length);
  return container.args.map((arg: string) => {
    const text = arg.replace(/\$\((\w+)\)/g, (whole, name) => variables[name] ?? whole);
    const mounted = paths.find(([path]) => new RegExp(`=${path}(/|$)`).test(text));
    const mapped = mounted === undefined ? text : text.replace(`=${mounted[0]}`, `=${mounted[1]}`);
    return mapped.replace(/(\[::\]|127\.0\.0\.1):(\d+)/g, (_, __, port) => {
      const free = ports.get(Number(port));
      if (free === undefined) throw new Error(`${arg} has a port that the test does not know`);
      return `${host}:${free}`;
    });
  });
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
