#!/usr/bin/env node
import { Command } from 'commander';
import { backupCommand, restoreCommand } from './backup-command.ts';
import { CliError, EXIT_CODES } from './cli-error.ts';
import { drainCommand } from './drain-command.ts';
import { errorLines, exitCodeOf } from './exit-code.ts';
import { kvCommand } from './kv-command.ts';
import { labCommand } from './lab-command.ts';
import { monitorCommand } from './monitor-command.ts';
import { createPipeWriter } from './pipe-writer.ts';
import { pkiCommand } from './pki-command.ts';
import { policyCommand } from './policy-command.ts';
import { statusCommand } from './status-command.ts';
import { vmCommand } from './vm-command.ts';

const print = (text: string): void => {
  process.stdout.write(text);
};
const setExitCode = (code: number): void => {
  process.exitCode = code;
};
const ending = new AbortController();
const backupContext = {
  input: process.stdin,
  print: (line: string) => print(`${line}\n`),
  setProblem: () => setExitCode(EXIT_CODES.problem),
};

const program = new Command('clustermesh')
  .description('multi-cluster mesh federation that speaks Cilium ClusterMesh')
  .addCommand(statusCommand(print, () => setExitCode(EXIT_CODES.problem)))
  .addCommand(
    labCommand({
      print,
      say: (text) => process.stderr.write(text),
      setExitCode,
      signal: ending.signal,
    }),
  )
  .addCommand(
    monitorCommand({ writer: () => createPipeWriter(process.stdout), signal: ending.signal }),
  )
  .addCommand(backupCommand(backupContext))
  .addCommand(restoreCommand(backupContext))
  .addCommand(drainCommand('drain', print))
  .addCommand(drainCommand('undrain', print))
  .addCommand(
    policyCommand({
      print,
      say: (text) => process.stderr.write(text),
      setExitCode: (code) => setExitCode(EXIT_CODES[code]),
      signal: ending.signal,
    }),
  )
  .addCommand(
    pkiCommand(
      (line) => print(`${line}\n`),
      () => setExitCode(EXIT_CODES.problem),
    ),
  )
  .addCommand(
    kvCommand({
      input: process.stdin,
      output: () => createPipeWriter(process.stdout),
      say: (text) => process.stderr.write(text),
      setProblem: () => setExitCode(EXIT_CODES.problem),
      signal: ending.signal,
    }),
  )
  .addCommand(
    vmCommand({
      input: process.stdin,
      print,
      say: (text) => process.stderr.write(text),
      setProblem: () => setExitCode(EXIT_CODES.problem),
      signal: ending.signal,
    }),
  )
  .addHelpText(
    'after',
    '\nExit codes: 0 fine, 1 a problem found, 2 usage, 3 cannot reach, 4 a verdict would change, 124 timeout',
  );
exitByThrowing(program);

const interrupt = (): void => ending.abort(new CliError('problem', 'interrupted'));
process.once('SIGINT', interrupt);
process.once('SIGTERM', interrupt);
try {
  await program.parseAsync(process.argv);
} catch (error) {
  setExitCode(report(error));
}

/** Commander would end the process itself, with 1 for wrong usage. */
function exitByThrowing(command: Command): void {
  command.exitOverride();
  for (const sub of command.commands) exitByThrowing(sub);
}

/** Says what went wrong, a line each thing; the exit code. */
function report(error: unknown): number {
  for (const line of errorLines(error)) process.stderr.write(`clustermesh: ${line}\n`);
  return exitCodeOf(error);
}
