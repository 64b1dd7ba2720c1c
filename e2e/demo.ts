/** `npm run demo`: two clusters and a machine beside them, and what a mesh does for them, in a minute. `--keep` leaves them running. */
import { readFile } from 'node:fs/promises';
import { Listr } from 'listr2';
import { parseBoolean } from '../mesh/runtime/option-parsers.ts';
import { defineOptions, OptionsError, parseOptions } from '../mesh/runtime/options.ts';
import { projectPath } from '../mesh/runtime/project-path.ts';
import { renderKept, renderReport } from './demo/report.ts';
import {
  callService,
  joinMachine,
  killAgents,
  MACHINE_NAME,
  type Row,
  removeBackend,
  type Story,
  tryPolicy,
  waitUntilJoined,
} from './demo/story.ts';
import { type Lab, openLab } from './lab/lab.ts';
import { checkLab } from './lab/preflight.ts';
import { tearDownLab } from './lab/teardown.ts';
import { parseTopology, parseTopologyText } from './lab/topology.ts';

const TOPOLOGY = 'e2e/topologies/two-clusters.yaml';
const KEPT_NAME = 'demo';
const EXIT_INTERRUPTED = 130;

/** A machine outside Kubernetes, which joins alpha while the demo runs. */
const MACHINE = {
  name: MACHINE_NAME,
  cluster: 'alpha',
  namespace: 'shop',
  labels: { app: 'legacy' },
  joined: false,
  role: 'server',
  ports: [{ port: 8080 }],
};

const DESCRIPTION =
  'Two clusters and a machine, all on this host: joined, used, and taken down. Needs root.';
const OPTIONS = defineOptions({
  keep: {
    flag: '--keep',
    switch: true,
    parse: parseBoolean,
    help: 'leave the clusters running, to look around',
  },
});

process.exitCode = await main(process.argv.slice(2));

async function main(argv: readonly string[]): Promise<number> {
  const flags = parseFlags(argv);
  if ('code' in flags) return flags.code;
  const { keep } = flags;
  const stopping = new AbortController();
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.on(signal, () => stopping.abort(new Error('interrupted')));
  }
  // Whoever read our output has gone, as with `| head`.
  for (const stream of [process.stdout, process.stderr]) {
    stream.on('error', () => stopping.abort(new Error('nobody reads the output')));
  }
  const rows: Row[] = [];
  const propagation = new Map<string, number>();
  let lab: Lab | undefined;
  let failure: unknown;
  try {
    checkLab();
    await tell({
      rows,
      propagation,
      keep,
      signal: stopping.signal,
      onLab: (made) => {
        lab = made;
      },
    });
  } catch (error) {
    failure = error;
  }
  if (rows.length > 0) console.log(`\n${renderReport(rows, propagation)}`);
  if (failure !== undefined) {
    const text = failure instanceof Error ? failure.message : String(failure);
    console.error(`demo: ${stopping.signal.aborted ? 'interrupted' : text}`);
  }
  if (lab !== undefined) {
    if (keep && !stopping.signal.aborted) console.log(renderKept(lab.name));
    else await tearDownLab(lab.name);
  }
  if (failure === undefined) console.log('All of it happened.');
  return stopping.signal.aborted ? EXIT_INTERRUPTED : failure === undefined ? 0 : 1;
}

/** Runs every step with its progress shown. Throws what the first failing step throws. */
async function tell(options: {
  rows: Row[];
  propagation: Map<string, number>;
  keep: boolean;
  signal: AbortSignal;
  onLab: (lab: Lab) => void;
}): Promise<void> {
  const { rows, propagation, keep, signal } = options;
  const clusters = parseTopologyText(await readFile(projectPath(TOPOLOGY), 'utf8'), TOPOLOGY);
  const topology = parseTopology({ ...clusters, machines: [MACHINE] });
  let story: Story | undefined;
  const step = (title: string, run: (story: Story) => Promise<void>) => ({
    title,
    task: async (): Promise<void> => {
      signal.throwIfAborted();
      if (story !== undefined) await run(story);
    },
  });
  await new Listr(
    [
      {
        title: 'Build two clusters of two nodes (etcd, apiserver, agents, pods) and a machine',
        task: async (_, task): Promise<void> => {
          const lab = await openLab(topology, {
            ...(keep ? { name: KEPT_NAME } : {}),
            persistent: keep,
            signal,
            onStep: (text) => {
              task.output = text;
            },
          });
          options.onLab(lab);
          story = { lab, rows, propagation };
        },
      },
      step('Wait until every agent has read both clusters', waitUntilJoined),
      step('Call a global service from alpha', callService),
      step('Let the machine join alpha', joinMachine),
      step('Remove the backend in alpha', removeBackend),
      step('Try the policy of a pod in beta', tryPolicy),
      step('Kill agents, and go on', killAgents),
    ],
    { renderer: process.stdout.isTTY ? 'default' : 'simple', registerSignalListeners: false },
  ).run();
}

/** What is asked for: `--keep`, or only the exit code when help was shown or the call is wrong. */
function parseFlags(
  argv: readonly string[],
): { readonly keep: boolean } | { readonly code: number } {
  try {
    const { keep } = parseOptions(OPTIONS, argv, {}, { name: 'demo', description: DESCRIPTION });
    return { keep: keep ?? false };
  } catch (error) {
    if (!(error instanceof OptionsError)) throw error;
    if (error.code === 'help') console.log(error.message);
    else console.error(`demo: ${error.message}`);
    return { code: error.exitCode };
  }
}
