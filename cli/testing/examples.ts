/** Examples in the help of commands. */
import type { Command } from 'commander';

/** Lines `clustermesh …` under "Example" in the help of a command. */
export function examplesOf(command: Command): string[] {
  let text = '';
  const before = command.configureOutput();
  command.configureOutput({ writeOut: (part) => (text += part) });
  command.outputHelp();
  command.configureOutput(before);
  const [, ...after] = text.split(/^Examples?:$/m);
  return after
    .join('\n')
    .split('\n')
    .flatMap((line) => {
      const found = /^\s+(?:\$ )?(clustermesh .+?)(?:\s{2,}# .*)?$/.exec(line)?.[1];
      return found === undefined ? [] : [found];
    });
}

/** Words of an example, as a shell would part them; what goes to a file or to another program is left out. */
export function exampleArguments(example: string): string[] {
  const [ours = ''] = example.replace(/ \\$/, '').split(/ [<>|] ?/);
  const words = ours.match(/"[^"]*"|'[^']*'|\S+/g) ?? [];
  return words.slice(1).map((word) => word.replace(/^(["'])(.*)\1$/, '$2'));
}
