/** `clustermesh monitor`: what the agents on this machine see dropped, and why. Each is asked by its own program. */
import { type ChildProcess, spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { Command, Option } from 'commander';
import { type AgentFlags, agentSockets, DEFAULT_SOCKET } from './agent-sockets.ts';
import { CliError, EXIT_CODES } from './cli-error.ts';
import type { PipeWriter } from './pipe-writer.ts';

const AGENT = fileURLToPath(new URL('../agent/main.js', import.meta.url));

interface Flags extends AgentFlags {
  readonly drops?: true;
  readonly audit?: true;
  readonly trace?: true;
  readonly services?: true;
  readonly from?: readonly string[];
  readonly to?: readonly string[];
  readonly identity?: readonly string[];
  readonly endpoint?: readonly string[];
  readonly cluster?: readonly string[];
  readonly port?: readonly string[];
  readonly last?: string;
  readonly follow?: true;
  readonly output: 'compact' | 'json' | 'dict';
}

/** Where it prints, and when it ends. */
export interface MonitorOutput {
  readonly writer: () => PipeWriter;
  readonly signal: AbortSignal;
}

/** Builds the command. */
export function monitorCommand(output: MonitorOutput): Command {
  return new Command('monitor')
    .option('--drops', 'packets that were dropped and calls that were refused')
    .option('--audit', 'packets that went on although policy denies them: audit mode')
    .option('--trace', 'packets that went on, as many as the trace level of the agent says')
    .option('--services', "sockets' calls to services")
    .option('--from <source...>', 'address, prefix, or namespace/name of a pod of the node')
    .option('--to <destination...>', 'the same of the destination, or of the backend of a call')
    .option('--identity <number...>', 'of either side')
    .option('--endpoint <id...>', 'endpoint of the node, as in `clustermesh status`')
    .option('--cluster <name...>', 'cluster of either side')
    .option('--port <port...>', 'of either side')
    .option(
      '--last <events>',
      'the newest remembered drops, and no others unless --follow is given',
    )
    .option('--follow', 'with --last: go on with what happens from now on')
    .addOption(
      new Option('-o, --output <format>', 'how to print an event: a line, a line of JSON, a block')
        .choices(['compact', 'json', 'dict'])
        .default('compact'),
    )
    .option('--socket-path <path...>', `sockets of the agents (default: ${DEFAULT_SOCKET})`)
    .option('--lab <name>', "all agents of a lab, instead of the machine's own")
    .action(async (flags: Flags) => {
      const sockets = await agentSockets(flags);
      const [only, ...others] = sockets;
      const following = { flags, output };
      const writer = output.writer();
      const codes =
        only !== undefined && others.length === 0
          ? [await follow(only, following)]
          : await Promise.all(
              sockets.map((socket) => followPiped(socket, { ...following, writer })),
            );
      if (output.signal.aborted) return;
      if (codes.includes(EXIT_CODES.unreachable)) {
        throw new CliError('unreachable', 'an agent does not answer, or has left');
      }
      if (codes.includes(EXIT_CODES.timeout)) {
        throw new CliError('timeout', 'an agent did not answer in time');
      }
      if (codes.includes(EXIT_CODES.usage)) throw new CliError('usage', 'nothing to show');
      if (codes.some((code) => code !== EXIT_CODES.fine)) {
        throw new CliError('problem', 'a monitor has failed');
      }
    });
}

function argumentsOf(socket: string, flags: Flags): string[] {
  const repeated = (['from', 'to', 'identity', 'endpoint', 'cluster', 'port'] as const).flatMap(
    (name) => (flags[name] ?? []).map((value) => `--${name}=${value}`),
  );
  const switches = (['drops', 'audit', 'trace', 'services', 'follow'] as const).filter(
    (name) => flags[name],
  );
  return [
    AGENT,
    'monitor',
    ...switches.map((name) => `--${name}`),
    ...repeated,
    ...(flags.last === undefined ? [] : [`--last=${flags.last}`]),
    `--output=${flags.output}`,
    `--socket-path=${socket}`,
  ];
}

interface Following {
  readonly flags: Flags;
  readonly output: MonitorOutput;
}

/** One agent: its program has our terminal. */
function follow(socket: string, { flags, output }: Following): Promise<number> {
  const child = spawn(process.execPath, argumentsOf(socket, flags), { stdio: 'inherit' });
  return exitOf(child, output.signal);
}

/** One of several: lines, or blocks of them, must stay whole. */
async function followPiped(
  socket: string,
  { flags, output, writer }: Following & { readonly writer: PipeWriter },
): Promise<number> {
  const child = spawn(process.execPath, [...argumentsOf(socket, flags), '--with-node'], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const exited = exitOf(child, output.signal);
  let block = '';
  for await (const line of createInterface({ input: child.stdout })) {
    block += `${line}\n`;
    // A block ends with an empty line.
    if (flags.output === 'dict' && line !== '') continue;
    await writer.write(block);
    await writer.flush();
    block = '';
    if (!writer.isClosed) continue;
    // Whoever reads has seen enough, as `head` does.
    child.kill('SIGTERM');
    return EXIT_CODES.fine;
  }
  return exited;
}

function exitOf(child: ChildProcess, signal: AbortSignal): Promise<number> {
  const interrupt = (): void => {
    child.kill('SIGTERM');
  };
  signal.addEventListener('abort', interrupt, { once: true });
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code) => {
      signal.removeEventListener('abort', interrupt);
      resolve(code ?? EXIT_CODES.problem);
    });
  });
}
