/** `clustermesh status`: the whole mesh, as the apiserver of one of its clusters tells it; or what the agents of this machine say. */
import { Command, InvalidArgumentError, Option } from 'commander';
import { z } from 'zod';
import { findMeshProblems } from '../mesh/diagnosis/mesh-problems.ts';
import { isMeshReady, type MeshView, viewMesh } from '../mesh/diagnosis/mesh-view.ts';
import { parseDuration } from '../mesh/runtime/option-parsers.ts';
import { decodeMeshStatus } from '../mesh/wire/mesh-status.ts';
import { failureOf, runAgentProgram } from './agent-program.ts';
import { type AgentFlags, agentSockets, DEFAULT_SOCKET } from './agent-sockets.ts';
import type { CliContext } from './cli-context.ts';
import { CliError, EXIT_CODES } from './cli-error.ts';
import { addClusterOptions, type ClusterFlags, openClusterAccess } from './cluster-access.ts';
import { lookPlace } from './look-place.ts';
import { formatValue, type OutputFormat } from './policy-output.ts';
import { meshOutput, renderMesh } from './status-mesh.ts';

/** How often the mesh is looked at again. */
const LOOK_EVERY_MS = 2_000;
const ASK_TIMEOUT_MS = 10_000;

type Context = Pick<CliContext, 'print' | 'say' | 'setProblem' | 'signal' | 'hasColours'>;

interface Flags extends AgentFlags, ClusterFlags {
  readonly output: OutputFormat;
  readonly wait?: boolean;
  readonly waitDuration: number;
  readonly watch?: boolean;
}

/** Builds the command. */
export function statusCommand(context: Context): Command {
  return addClusterOptions(new Command('status'))
    .option(
      '--socket-path <path...>',
      `only what agents say on these sockets (default without a cluster: ${DEFAULT_SOCKET})`,
    )
    .option('--lab <name>', "all agents of a lab, instead of the machine's own")
    .addOption(
      new Option('-o, --output <format>', 'how to print it; of agents JSON is a list')
        .choices(['table', 'json', 'yaml'])
        .default('table'),
    )
    .option('--wait', 'wait until the mesh is ready; exit code 124 when it does not get so far')
    .addOption(
      new Option('--wait-duration <duration>', 'how long to wait')
        .default(5 * 60_000, '5m')
        .argParser(toMilliseconds),
    )
    .option('--watch', 'show it again every 2 s, until interrupted')
    .addHelpText(
      'after',
      `
Examples:
  $ clustermesh status --context alpha                  # the whole mesh, as cluster alpha sees it
  $ clustermesh status --context alpha --wait           # until all clusters and agents are ready
  $ clustermesh status --registry 10.0.0.1:2381 --certificates ./admin -o json
  $ clustermesh status                                  # the agent of this machine
  $ clustermesh status --lab demo`,
    )
    .action(async (flags: Flags, command: Command) => {
      if (lookPlace(flags, command) === 'agents') await showAgents(flags, context);
      else await showMesh(flags, context);
    });
}

async function showAgents(flags: Flags, { print, setProblem }: Context): Promise<void> {
  if (flags.wait === true || flags.watch === true) {
    throw new CliError(
      'usage',
      '--wait and --watch look at a whole mesh: say which with --registry or --context',
    );
  }
  if (flags.output === 'yaml') {
    throw new CliError('usage', 'agents print a table or JSON: give -o json');
  }
  const sockets = await agentSockets(flags);
  const answers = await Promise.all(
    sockets.map((socket) =>
      runAgentProgram(['status', `--socket-path=${socket}`, `--output=${flags.output}`]),
    ),
  );
  const texts = answers.flatMap((answer) => (answer.text === '' ? [] : [answer.text]));
  print(flags.output === 'json' ? `[\n${texts.join(',\n')}\n]\n` : texts.join('\n'));
  const failed = answers.filter(({ text }) => text === '');
  if (failed.length > 0) throw failureOf(failed);
  if (answers.some(({ code }) => code !== EXIT_CODES.fine)) setProblem();
}

async function showMesh(flags: Flags, context: Context): Promise<void> {
  const { print, signal, hasColours } = context;
  const show = (view: MeshView): string =>
    formatValue(meshOutput(view), flags.output, () => renderMesh(view, { hasColours }));
  if (flags.watch === true) {
    for (;;) {
      const text = await askMesh(flags, signal).then(show, (error: unknown) => {
        if (signal.aborted) return '';
        if (!(error instanceof CliError) || error.code === 'usage') throw error;
        return `${error.message}\n`;
      });
      if (signal.aborted) return;
      // Home, and clear what was there; where nobody looks each is printed after the other.
      print(hasColours ? `\u001b[H\u001b[2J${text}` : text);
      if (!(await pause(signal))) return;
    }
  }
  const view =
    flags.wait === true ? await waitForMesh(flags, context) : await askMesh(flags, signal);
  print(show(view));
  if (findMeshProblems(view).some(({ severity }) => severity === 'error')) context.setProblem();
}

/** Resolves when everybody is ready. Throws CliError `timeout` with what is still missing. */
async function waitForMesh(flags: Flags, { say, signal }: Context): Promise<MeshView> {
  const ends = Date.now() + flags.waitDuration;
  let last = '';
  for (;;) {
    let missing: string;
    try {
      const view = await askMesh(flags, signal);
      if (isMeshReady(view)) return view;
      const [first] = findMeshProblems(view);
      missing = first === undefined ? 'some are not ready' : `${first.subject}: ${first.cause}`;
    } catch (error) {
      if (signal.aborted || !(error instanceof CliError) || error.code === 'usage') throw error;
      missing = error.message;
    }
    if (Date.now() >= ends) {
      throw new CliError(
        'timeout',
        `the mesh is not ready after ${flags.waitDuration / 1000} s: ${missing}`,
      );
    }
    if (missing !== last) say(`waiting: ${missing}\n`);
    last = missing;
    if (!(await pause(signal))) throw signal.reason;
  }
}

/** Asks the apiserver of a cluster for the whole mesh. Throws CliError. */
export async function askMesh(flags: ClusterFlags, signal: AbortSignal): Promise<MeshView> {
  using access = await openClusterAccess(flags, { signal });
  const { json } = await access.ask(
    'GetMeshStatus',
    {},
    {
      answer: z.object({ json: z.string() }),
      timeoutMs: ASK_TIMEOUT_MS,
      signal,
    },
  );
  return viewMesh(decodeMeshStatus(json));
}

/** False: `signal` has aborted meanwhile. */
function pause(signal: AbortSignal): Promise<boolean> {
  return new Promise((resolve) => {
    const end = (): void => {
      clearTimeout(timer);
      signal.removeEventListener('abort', end);
      resolve(!signal.aborted);
    };
    const timer = setTimeout(end, LOOK_EVERY_MS);
    signal.addEventListener('abort', end, { once: true });
    if (signal.aborted) end();
  });
}

function toMilliseconds(text: string): number {
  try {
    return parseDuration(text);
  } catch (error) {
    throw new InvalidArgumentError(error instanceof Error ? error.message : String(error));
  }
}
