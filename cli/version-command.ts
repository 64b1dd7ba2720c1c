/** `clustermesh version`: of this command, and of what runs in a cluster or on this machine. */
import { Command } from 'commander';
import { z } from 'zod';
import { findMeshProblems } from '../mesh/diagnosis/mesh-problems.ts';
import type { MeshView } from '../mesh/diagnosis/mesh-view.ts';
import { type Problem, problemOf } from '../mesh/diagnosis/problem.ts';
import { packageVersion } from '../mesh/runtime/package-version.ts';
import { askAgent } from './agent-client.ts';
import { type AgentFlags, agentSockets, DEFAULT_SOCKET } from './agent-sockets.ts';
import type { CliContext } from './cli-context.ts';
import { CliError } from './cli-error.ts';
import { addClusterOptions, type ClusterFlags } from './cluster-access.ts';
import { lookPlace } from './look-place.ts';
import { formatValue, type OutputFormat, outputOption, renderRows } from './policy-output.ts';
import { askMesh } from './status-command.ts';
import { printable, renderProblems } from './status-mesh.ts';
import { createPaint } from './terminal-paint.ts';

const ASK_TIMEOUT_MS = 10_000;
const statusSchema = z.looseObject({ node: z.string(), version: z.string() });

/** Versions of everything that was found. */
export interface Versions {
  readonly client: string;
  /** The apiserver that answered. */
  readonly server?: {
    readonly cluster: string;
    readonly replica: string;
    readonly version: string;
  };
  readonly agents: readonly { readonly node: string; readonly version: string }[];
  /** Who differs from whom. */
  readonly problems: readonly Problem[];
}

interface Flags extends AgentFlags, ClusterFlags {
  readonly client?: boolean;
  readonly output: OutputFormat;
}

/** Builds the command. */
export function versionCommand(
  context: Pick<CliContext, 'print' | 'signal' | 'hasColours'>,
): Command {
  const { print, signal, hasColours } = context;
  return addClusterOptions(new Command('version'))
    .option(
      '--socket-path <path...>',
      `agents on these sockets (default without a cluster: ${DEFAULT_SOCKET})`,
    )
    .option('--lab <name>', 'all agents of a lab')
    .option('--client', 'of this command alone')
    .addOption(outputOption())
    .action(async (flags: Flags, command: Command) => {
      const client = packageVersion();
      const show = (versions: Versions): void =>
        print(formatValue(versions, flags.output, (value) => renderVersions(value, hasColours)));
      if (flags.client === true) {
        show({ client, agents: [], problems: [] });
        return;
      }
      try {
        const isCluster = lookPlace(flags, command) === 'cluster';
        show(
          isCluster
            ? clusterVersions(client, await askMesh(flags, signal))
            : await agentVersions(client, flags, signal),
        );
      } catch (error) {
        if (!(error instanceof CliError) || error.code === 'usage') throw error;
        // What is known is told whoever does not answer.
        show({ client, agents: [], problems: [] });
        throw error;
      }
    });
}

/** What a cluster says of its programs, beside the version of this command. Pure. */
export function clusterVersions(client: string, view: MeshView): Versions {
  const { cluster, replica, version } = view.status;
  const agents = view.agents.flatMap(({ row, report }) =>
    report === undefined ? [] : [{ node: row.name, version: report.version }],
  );
  const skew = findMeshProblems(view).filter(({ id }) => id === 'version-skew');
  const own =
    version === client
      ? []
      : [
          problemOf('version-skew', {
            subject: `cluster ${cluster.name}`,
            cause: `the apiserver is ${version}, this command ${client}`,
          }),
        ];
  return {
    client,
    server: { cluster: cluster.name, replica, version },
    agents,
    problems: [...own, ...skew],
  };
}

async function agentVersions(
  client: string,
  flags: AgentFlags,
  signal: AbortSignal,
): Promise<Versions> {
  const isMeant = flags.socketPath !== undefined || flags.lab !== undefined;
  const agents: { node: string; version: string }[] = [];
  for (const socket of await agentSockets(flags)) {
    try {
      const question = { path: '/v1/status', timeoutMs: ASK_TIMEOUT_MS, signal };
      const { node, version } = statusSchema.parse(await askAgent(socket, question));
      agents.push({ node, version });
    } catch (error) {
      // Nobody said that there is an agent here.
      if (isMeant || !(error instanceof CliError) || error.code !== 'unreachable') throw error;
    }
  }
  const problems = agents.flatMap(({ node, version }) =>
    version === client
      ? []
      : [
          problemOf('version-skew', {
            subject: `node ${node}`,
            cause: `the agent is ${version}, this command ${client}`,
          }),
        ],
  );
  return { client, agents, problems };
}

/** Text for people. */
export function renderVersions(
  { client, server, agents, problems }: Versions,
  hasColours: boolean,
): string {
  const seen = [...new Set(agents.map(({ version }) => version))].sort();
  const rows = [
    ['command', client, ''],
    ...(server === undefined
      ? []
      : [['apiserver', server.version, `${server.replica} of cluster ${server.cluster}`]]),
    ...seen.map((version) => [
      'agents',
      version,
      agents.flatMap((agent) => (agent.version === version ? [agent.node] : [])).join(', '),
    ]),
  ];
  const table = renderRows(
    ['PROGRAM', 'VERSION', 'WHERE'],
    rows.map((row) => row.map(printable)),
  );
  return problems.length === 0
    ? table
    : `${table}\n${renderProblems(problems, createPaint(hasColours))}\n`;
}
