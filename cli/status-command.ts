/** `clustermesh status`: what the agents on this machine say. Each is asked by its own program, which knows how to show it. */
import { Command, Option } from 'commander';
import { failureOf, runAgentProgram } from './agent-program.ts';
import { type AgentFlags, agentSockets, DEFAULT_SOCKET } from './agent-sockets.ts';
import { EXIT_CODES } from './cli-error.ts';

interface Flags extends AgentFlags {
  readonly output: 'table' | 'json';
}

/** Builds the command. `print` gets the answers, `setProblem` is called when one of them needs attention. */
export function statusCommand(print: (text: string) => void, setProblem: () => void): Command {
  return new Command('status')
    .description('show what the agents of this machine know, and what needs attention')
    .option('--socket-path <path...>', `sockets of the agents (default: ${DEFAULT_SOCKET})`)
    .option('--lab <name>', "all agents of a lab, instead of the machine's own")
    .addOption(
      new Option('-o, --output <format>', 'how to print it; JSON is a list')
        .choices(['table', 'json'])
        .default('table'),
    )
    .action(async (flags: Flags) => {
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
    });
}
