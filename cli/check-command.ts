/** `clustermesh check`: whether a host can carry the mesh, and whether what runs on it does. */
import { Command, Option } from 'commander';
import { type Problem, problemOf } from '../mesh/diagnosis/problem.ts';
import { projectPath } from '../mesh/runtime/project-path.ts';
import { askAgent } from './agent-client.ts';
import { DEFAULT_SOCKET } from './agent-sockets.ts';
import type { CliContext } from './cli-context.ts';
import { CliError } from './cli-error.ts';
import { checkHost, type HostCheck } from './host-check.ts';
import { formatValue, type OutputFormat } from './policy-output.ts';
import { printable, renderProblems } from './status-mesh.ts';
import { createPaint, type Paint } from './terminal-paint.ts';

/** What an apiserver listens on unless its flags say otherwise. */
const APISERVER_PORTS = [
  { port: 2379, what: 'the gate of an apiserver' },
  { port: 2381, what: 'the registry of an apiserver' },
  { port: 2382, what: 'enrollment at an apiserver' },
] as const;
const ASK_TIMEOUT_MS = 10_000;

interface Flags {
  readonly pre?: boolean;
  readonly apiserver?: boolean;
  readonly socketPath: string;
  readonly output: OutputFormat;
}

/** Builds the command. */
export function checkCommand(context: CliContext): Command {
  return new Command('check')
    .option('--pre', 'before anything is installed: the host alone')
    .option('--apiserver', 'with --pre: an apiserver is to run here, too')
    .option('--socket-path <path>', 'socket of the agent', DEFAULT_SOCKET)
    .addOption(
      new Option('-o, --output <format>', 'how to print it')
        .choices(['table', 'json', 'yaml'])
        .default('table'),
    )
    .addHelpText(
      'after',
      `
Examples:
  $ clustermesh check --pre               # as root: can this host be a node?
  $ clustermesh check --pre --apiserver   # and run an apiserver?
  $ clustermesh check                     # is the node that runs here all right?`,
    )
    .action(async (flags: Flags) => {
      const { signal, print, setProblem, hasColours } = context;
      const isPre = flags.pre === true;
      const checks = [
        ...(await checkHost({
          objectDir: projectPath('dist/bpf'),
          ports: isPre && flags.apiserver === true ? APISERVER_PORTS : [],
          signal,
        })),
        ...(isPre ? [] : await checkAgent(flags.socketPath, signal)),
      ];
      print(formatValue(checks, flags.output, () => renderChecks(checks, createPaint(hasColours))));
      if (checks.some(({ problem }) => problem?.severity === 'error')) setProblem();
    });
}

/** What the agent says of itself. */
async function checkAgent(socketPath: string, signal: AbortSignal): Promise<HostCheck[]> {
  const check = (title: string, problem?: Problem): HostCheck => ({
    section: 'agent',
    title,
    problem,
  });
  const subject = 'this host';
  try {
    const answer = await askAgent(socketPath, {
      path: '/v1/status',
      timeoutMs: ASK_TIMEOUT_MS,
      signal,
    });
    const missing = missingOf(answer);
    return [
      check('the agent answers on its socket'),
      ...(missing.length === 0 ? [check('the agent is ready')] : []),
      ...missing.map((cause) =>
        check('the agent is ready', problemOf('agent-not-ready', { subject, cause })),
      ),
    ];
  } catch (error) {
    if (signal.aborted || !(error instanceof CliError)) throw error;
    const problem = problemOf('agent-unreachable', { subject, cause: error.message });
    return [check('the agent answers on its socket', problem)];
  }
}

/** Field `missing` of an agent's status. */
function missingOf(status: unknown): string[] {
  if (typeof status !== 'object' || status === null || !('missing' in status)) {
    return ['the agent does not say whether it is ready: bring both to one version'];
  }
  return Array.isArray(status.missing) ? status.missing.map(String) : [];
}

function renderChecks(checks: readonly HostCheck[], paint: Paint): string {
  const lines: string[] = [];
  let section = '';
  for (const check of checks) {
    if (check.section !== section)
      lines.push(...(section === '' ? [] : ['']), paint.strong(check.section));
    section = check.section;
    const { problem } = check;
    const mark =
      problem === undefined
        ? paint.good('ok')
        : problem.severity === 'error'
          ? paint.bad('failed')
          : paint.warn('odd');
    lines.push(`  ${mark}  ${printable(check.title)}`);
  }
  const problems = checks.flatMap(({ problem }) => (problem === undefined ? [] : [problem]));
  return `${lines.join('\n')}\n\n${renderProblems(problems, paint)}\n`;
}
