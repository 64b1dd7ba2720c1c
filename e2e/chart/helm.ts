/** The real helm, which `scripts/helm.sh` fetches, and our chart as it renders it. */
import { execFile } from 'node:child_process';
import { parseAllDocuments } from 'yaml';
import { projectPath } from '../../mesh/runtime/project-path.ts';
import { needPeers } from '../peers/peer-binary.ts';

/** Folder of the chart. */
export const CHART = projectPath('helm/clustermesh');
/** Namespace that tests install it to. */
export const NAMESPACE = 'mesh-system';
/** Name of the release. */
export const RELEASE = 'mesh';

/** Values by their path: `cluster.name`. */
export type ChartValues = Readonly<Record<string, string | number | boolean | object | undefined>>;

/** What must be given, for each mode. */
export const LEAST = {
  'any-cni': { mode: 'any-cni', 'cluster.name': 'alpha', 'cluster.id': 1 },
  cilium: { mode: 'cilium', 'cluster.name': 'alpha', 'cluster.id': 1 },
} as const satisfies Record<string, ChartValues>;

/** A Kubernetes object, as far as tests look at all of them. */
export interface RenderedObject {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: {
    readonly name: string;
    readonly namespace?: string;
    readonly labels?: Readonly<Record<string, string>>;
    readonly annotations?: Readonly<Record<string, string>>;
  };
  // biome-ignore lint/suspicious/noExplicitAny: objects of many kinds, which tests look into
  readonly [field: string]: any;
}

/** helm for a test, or why it must be skipped; to be given `process.env`. */
export function needHelm(env: Readonly<Record<string, string | undefined>>): {
  readonly skip: string | false;
  readonly program: string;
} {
  const { skip, paths } = needPeers(['helm/helm'], env);
  const [program = ''] = paths;
  return { skip: skip === false ? false : 'helm is not there: run scripts/helm.sh', program };
}

/** How helm ended. */
export interface HelmResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs helm. `home` is a folder for what it keeps. */
export function runHelm(
  args: readonly string[],
  options: { readonly program: string; readonly home: string; readonly kubeconfig?: string },
): Promise<HelmResult> {
  const { program, home, kubeconfig } = options;
  return new Promise((resolve) => {
    execFile(
      program,
      [...args],
      {
        env: {
          HOME: home,
          PATH: '/usr/bin:/bin',
          ...(kubeconfig === undefined ? {} : { KUBECONFIG: kubeconfig }),
        },
        maxBuffer: 64 * 1024 * 1024,
        timeout: 120_000,
      },
      (error, stdout, stderr) => {
        const code = error === null ? 0 : typeof error.code === 'number' ? error.code : 1;
        resolve({ code, stdout, stderr });
      },
    );
  });
}

/** Flags that set values: each as JSON, so that a number stays one. */
export function valueFlags(values: ChartValues): string[] {
  return Object.entries(values).flatMap(([path, value]) =>
    value === undefined ? [] : ['--set-json', `${path}=${JSON.stringify(value)}`],
  );
}

/** Renders the chart without a cluster. Throws with helm's words when it refuses. */
export async function render(
  values: ChartValues,
  options: {
    readonly program: string;
    readonly home: string;
    readonly kubeVersion?: string;
    /** Default: NAMESPACE. */
    readonly namespace?: string;
  },
): Promise<RenderedObject[]> {
  const { kubeVersion, namespace = NAMESPACE } = options;
  const args = ['template', RELEASE, CHART, '--namespace', namespace, ...valueFlags(values)];
  if (kubeVersion !== undefined) args.push('--kube-version', kubeVersion);
  const { code, stdout, stderr } = await runHelm(args, options);
  if (code !== 0) throw new Error(stderr);
  return parseObjects(stdout);
}

/** The objects of YAML with several documents. */
export function parseObjects(text: string): RenderedObject[] {
  return parseAllDocuments(text)
    .map((document) => document.toJS() as RenderedObject | null)
    .filter((object) => object !== null);
}

/** The object of a kind and name. Throws when there is none. */
export function objectOf(
  objects: readonly RenderedObject[],
  kind: string,
  name: string,
): RenderedObject {
  const found = objects.find((object) => object.kind === kind && object.metadata.name === name);
  if (found !== undefined) return found;
  const there = objects.map((object) => `${object.kind} ${object.metadata.name}`);
  throw new Error(`there is no ${kind} ${name} among ${there.join(', ')}`);
}
