/** `clustermesh policy` in the process of a test. */
import { EXIT_CODES } from '../cli-error.ts';
import { errorLines, exitCodeOf } from '../exit-code.ts';
import { policyCommand } from '../policy-command.ts';

/** Runs the command as the program does, in this process, and says how it ended. */
export async function runPolicy(...args: readonly string[]) {
  let stdout = '';
  let stderr = '';
  let code = 0;
  const print = (text: string): void => {
    stdout += text;
  };
  const say = (text: string): void => {
    stderr += text;
  };
  const command = policyCommand({
    print,
    say,
    setExitCode: (name) => {
      code = EXIT_CODES[name];
    },
    signal: new AbortController().signal,
  });
  for (const one of [command, ...command.commands]) {
    one.exitOverride().configureOutput({ writeOut: print, writeErr: say });
  }
  try {
    await command.parseAsync(args, { from: 'user' });
  } catch (error) {
    code = exitCodeOf(error);
    say(errorLines(error).join('\n'));
  }
  return { code, stdout, stderr };
}
