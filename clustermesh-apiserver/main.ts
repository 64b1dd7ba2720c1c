#!/usr/bin/env node
import { createLogger } from '../mesh/runtime/log.ts';
import { OptionsError, parseOptions } from '../mesh/runtime/options.ts';
import { APISERVER_OPTIONS } from './options.ts';
import { runApiserver } from './run.ts';

const EXIT_PROBLEM = 1;
const EXIT_USAGE = 2;

/** Runs the apiserver until it is told to end. */
async function main(argv: readonly string[], env: NodeJS.ProcessEnv): Promise<void> {
  const values = parseOptions(APISERVER_OPTIONS, argv, env, {
    name: 'clustermesh-apiserver',
    description: 'Publishes a cluster into its own etcd and lets the readers of the mesh in.',
  });
  const ending = new AbortController();
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => ending.abort());
  const logger = createLogger('clustermesh-apiserver', { level: values.logLevel });
  await runApiserver(values, { logger, signal: ending.signal });
}

/** What went wrong, as lines for people; a fault of the program itself shows where it is. */
function explain(error: unknown): { readonly text: string; readonly exitCode: number } {
  if (!(error instanceof Error)) return { text: String(error), exitCode: EXIT_PROBLEM };
  if (error instanceof OptionsError) return { text: error.message, exitCode: error.exitCode };
  const code = 'code' in error ? error.code : undefined;
  const text = typeof code === 'string' ? error.message : (error.stack ?? error.message);
  return { text, exitCode: code === 'bad-option' ? EXIT_USAGE : EXIT_PROBLEM };
}

try {
  await main(process.argv.slice(2), process.env);
} catch (error) {
  const { text, exitCode } = explain(error);
  if (exitCode === 0) process.stdout.write(`${text.trimEnd()}\n`);
  else
    for (const line of text.trimEnd().split('\n'))
      process.stderr.write(`clustermesh-apiserver: ${line}\n`);
  process.exitCode = exitCode;
}
