/** Whether our own parser takes a call, with nothing done. */
import type { Command } from 'commander';
import { programFor } from '../program.ts';
import { createCliContext } from './cli-run.ts';

/** What the parser has against some words; undefined: it takes them. */
export async function parseProblem(words: readonly string[]): Promise<string | undefined> {
  const program = await programFor(words, createCliContext());
  let ran = false;
  const said: string[] = [];
  const quiet = (command: Command): void => {
    command.configureOutput({ writeOut: () => undefined, writeErr: (text) => said.push(text) });
    command.exitOverride();
    if (command.commands.length === 0) {
      command.action(() => {
        ran = true;
      });
    }
    for (const sub of command.commands) quiet(sub);
  };
  quiet(program);
  try {
    await program.parseAsync([...words], { from: 'user' });
  } catch (error) {
    said.push(String(error));
  }
  if (ran && said.length === 0) return undefined;
  return said.length === 0 ? 'it names no command' : said.join(' ').trim();
}
