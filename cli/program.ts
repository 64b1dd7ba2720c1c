/** The tree of commands, with as much of it loaded as a call needs. */
import { Command } from 'commander';
import { packageVersion } from '../mesh/runtime/package-version.ts';
import type { CliContext } from './cli-context.ts';
import { addExamples } from './command-examples.ts';
import { COMMANDS, type CommandEntry } from './command-table.ts';

const EXIT_CODE_HELP =
  '\nExit codes: 0 fine, 1 a problem found, 2 usage, 3 cannot reach, 4 a verdict would change, 124 timeout';

/**
 * Builds `clustermesh` for a call: the command that is called is whole, of the others there are name and description.
 * `args` are those after the program's name.
 */
export function programFor(args: readonly string[], context: CliContext): Promise<Command> {
  const called = calledCommand(args);
  return buildProgram(context, ({ name }) => name === called);
}

/** Builds `clustermesh` with everything that is below it. */
export function wholeProgram(context: CliContext): Promise<Command> {
  return buildProgram(context, () => true);
}

async function buildProgram(
  context: CliContext,
  isWanted: (entry: CommandEntry) => boolean,
): Promise<Command> {
  const program = new Command('clustermesh')
    .description('multi-cluster mesh federation that speaks Cilium ClusterMesh')
    .version(`clustermesh ${packageVersion()}`)
    .addHelpText('after', EXIT_CODE_HELP);
  for (const entry of COMMANDS) {
    const isLoaded = isWanted(entry);
    const command = isLoaded ? await entry.load(context) : new Command(entry.name);
    if (isLoaded) addExamples(command, [entry.name]);
    program.addCommand(command.description(entry.description));
  }
  exitByThrowing(program);
  return program;
}

/** `clustermesh kv dump` and `clustermesh help kv` need the same. */
function calledCommand(args: readonly string[]): string | undefined {
  const words = args.filter((arg) => !arg.startsWith('-'));
  return words[0] === 'help' ? words[1] : words[0];
}

/** Commander would end the process itself, with 1 for wrong usage. */
function exitByThrowing(command: Command): void {
  command.exitOverride();
  for (const sub of command.commands) exitByThrowing(sub);
}
