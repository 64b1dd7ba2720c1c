/** The page of the `clustermesh` command, made of its tree of commands. */
import { Readable } from 'node:stream';
import type { Command } from 'commander';
import { createPipeWriter } from '../cli/pipe-writer.ts';
import { wholeProgram } from '../cli/program.ts';
import { markdownTable } from './reference-options.ts';

/** Makes the page. */
export async function cliPage(introduction: string): Promise<string> {
  const program = await wholeProgram({
    input: Readable.from([]),
    print: () => undefined,
    say: () => undefined,
    output: () => createPipeWriter(process.stdout),
    setExitCode: () => undefined,
    setProblem: () => undefined,
    signal: new AbortController().signal,
    hasColours: false,
    isWatched: false,
  });
  return [
    '# The `clustermesh` command\n',
    `${introduction}\n`,
    'Exit codes of every command: 0 fine, 1 a problem found, 2 usage, 3 cannot reach, 4 a verdict would change, 124 timeout.\n',
    ...sections(program, []),
  ].join('\n');
}

function sections(command: Command, path: readonly string[]): string[] {
  const help = command.createHelp();
  const below = help.visibleCommands(command).filter((sub) => sub.name() !== 'help');
  const own = path.length === 0 ? [] : [section(command, path)];
  return [...own, ...below.flatMap((sub) => sections(sub, [...path, sub.name()]))];
}

function section(command: Command, path: readonly string[]): string {
  const help = command.createHelp();
  const name = `clustermesh ${path.join(' ')}`;
  const below = help.visibleCommands(command).filter((sub) => sub.name() !== 'help');
  const parts = [`${path.length === 1 ? '##' : '###'} ${name}\n`, `${command.description()}\n`];
  if (below.length > 0) return parts.join('\n');
  const words = command.registeredArguments.map((argument) => {
    const dots = argument.variadic ? '...' : '';
    return argument.required ? `<${argument.name()}${dots}>` : `[${argument.name()}${dots}]`;
  });
  parts.push(`\`\`\`\n${[name, ...words].join(' ')} [options]\n\`\`\`\n`);
  const args = help
    .visibleArguments(command)
    .map((argument) => [`\`${argument.name()}\``, help.argumentDescription(argument)]);
  if (args.length > 0) parts.push(markdownTable(['Argument', 'What it is'], args));
  const options = help
    .visibleOptions(command)
    .filter((option) => option.long !== '--help')
    .map((option) => [
      `\`${option.flags}\`${option.mandatory ? ' (required)' : ''}`,
      option.envVar === undefined ? '' : `\`${option.envVar}\``,
      defaultText(option.defaultValue),
      choicesText(option.description, option.argChoices),
    ]);
  if (options.length > 0) {
    parts.push(markdownTable(['Option', 'Environment', 'Default', 'What it is'], options));
  }
  const examples = exampleLines(command);
  if (examples.length > 0) parts.push(`\`\`\`\n${examples.join('\n')}\n\`\`\`\n`);
  return parts.join('\n');
}

function defaultText(value: unknown): string {
  if (value === undefined || (Array.isArray(value) && value.length === 0)) return '';
  if (typeof value === 'string' || typeof value === 'number' || typeof value === 'boolean') {
    return `\`${value}\``;
  }
  return '';
}

function choicesText(description: string, choices: readonly string[] | undefined): string {
  return choices === undefined
    ? description
    : `${description}: ${choices.map((choice) => `\`${choice}\``).join(', ')}`;
}

/** What its help shows under "Example". */
function exampleLines(command: Command): string[] {
  let text = '';
  command.configureOutput({
    writeOut: (part) => {
      text += part;
    },
  });
  command.outputHelp();
  const [, ...after] = text.split(/^Examples?:$/m);
  return after
    .join('\n')
    .split('\n')
    .flatMap((line) => (/^\s+(\$ )?clustermesh /.test(line) ? [line.trim()] : []));
}
