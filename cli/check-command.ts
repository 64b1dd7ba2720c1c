/** `clustermesh check`: whether a host can carry the mesh, and whether what runs on it does. */
import { Command, Option } from 'commander';
import type { Check } from '../mesh/diagnosis/check.ts';
import { projectPath } from '../mesh/runtime/project-path.ts';
import { checkAgent } from './agent-check.ts';
import { DEFAULT_SOCKET } from './agent-sockets.ts';
import type { CliContext } from './cli-context.ts';
import { checkHost } from './host-check.ts';
import { formatValue, type OutputFormat } from './policy-output.ts';
import { printable, renderProblems } from './status-mesh.ts';
import { createPaint, type Paint } from './terminal-paint.ts';

/** What an apiserver listens on unless its flags say otherwise. */
const APISERVER_PORTS = [
  { port: 2379, what: 'the gate of an apiserver' },
  { port: 2381, what: 'the registry of an apiserver' },
  { port: 2382, what: 'enrollment at an apiserver' },
] as const;

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
          isPre,
          ports: isPre && flags.apiserver === true ? APISERVER_PORTS : [],
          signal,
        })),
        ...(isPre ? [] : await checkAgent(flags.socketPath, signal)),
      ];
      print(formatValue(checks, flags.output, () => renderChecks(checks, createPaint(hasColours))));
      if (checks.some(({ problem }) => problem?.severity === 'error')) setProblem();
    });
}

function renderChecks(checks: readonly Check[], paint: Paint): string {
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
