/** The conformance suite of the Multi-Cluster Services API as its project publishes it, as a process of a test. */
import { execFile } from 'node:child_process';
import { readFile, writeFile } from 'node:fs/promises';
import type { TempDir } from '../../mesh/testing/temp-dir.ts';
import type { KubeCluster } from './kube-cluster.ts';
import { contextsOf } from './kubeconfig.ts';

/** Its name for `needPeers`. */
export const mcsConformancePeer = 'mcs-conformance/mcs-conformance';

/** What became of one of its specifications. */
export interface ConformanceResult {
  readonly text: string;
  readonly state: 'passed' | 'failed' | 'skipped' | 'pending' | 'panicked' | 'timedout';
  /** Why it failed, as the suite says it; empty otherwise. */
  readonly message: string;
}

/** Options of `runMcsConformance`. */
export interface ConformanceOptions {
  /** Expression over the labels of its specifications: which to judge. */
  readonly filter: string;
  /** Further ones to leave out: a regular expression over their texts. */
  readonly skip: string;
  readonly dir: TempDir;
  readonly signal: AbortSignal;
}

/** Runs it against clusters, the first of which exports. Resolves to what became of each specification, skipped ones included. */
export async function runMcsConformance(
  binary: string,
  clusters: readonly KubeCluster[],
  options: ConformanceOptions,
): Promise<readonly ConformanceResult[]> {
  const { dir } = options;
  const kubeconfig = dir.file('conformance.kubeconfig');
  await writeFile(kubeconfig, JSON.stringify(contextsOf(clusters)), { mode: 0o600 });
  const report = dir.file('conformance.json');
  const output = await new Promise<string>((resolve) => {
    execFile(
      binary,
      [
        `--kubeconfig=${kubeconfig}`,
        `--contexts=${clusters.map(({ name }) => name).join(',')}`,
        `--ginkgo.label-filter=${options.filter}`,
        `--ginkgo.skip=${options.skip}`,
        `--ginkgo.json-report=${report}`,
        '--ginkgo.no-color',
      ],
      { cwd: dir.path, signal: options.signal, maxBuffer: 64 * 1024 * 1024 },
      // It fails when one specification does; the report tells which.
      (_error, stdout, stderr) => resolve(`${stdout}${stderr}`),
    );
  });
  const text = await readFile(report, 'utf8').catch((cause: unknown) => {
    throw new Error(`the conformance suite ended without a report: ${output.slice(-2000)}`, {
      cause,
    });
  });
  const suites = JSON.parse(text) as Report[];
  return suites.flatMap((suite) =>
    (suite.SpecReports ?? [])
      .filter((spec) => spec.LeafNodeType === 'It')
      .map((spec) => ({
        text: [...(spec.ContainerHierarchyTexts ?? []), spec.LeafNodeText].join(' ').trim(),
        state: spec.State,
        message: spec.Failure?.Message ?? '',
      })),
  );
}

interface Report {
  readonly SpecReports?: readonly {
    readonly ContainerHierarchyTexts?: readonly string[] | null;
    readonly LeafNodeType: string;
    readonly LeafNodeText: string;
    readonly State: ConformanceResult['state'];
    readonly Failure?: { readonly Message?: string };
  }[];
}
