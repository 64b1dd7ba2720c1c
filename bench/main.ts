/** `npm run bench -- NAME [options]`: runs one benchmark. Exit code 0 when it ran, whether or not its budgets were met. */
import type { BenchContext } from './result.ts';

const BENCHES: Readonly<Record<string, () => Promise<(context: BenchContext) => Promise<void>>>> = {
  kv: async () => (await import('./kv.ts')).benchKv,
};

async function main(argv: readonly string[]): Promise<number> {
  const [name = '', ...args] = argv;
  const load = Object.hasOwn(BENCHES, name) ? BENCHES[name] : undefined;
  if (load === undefined) {
    const names = Object.keys(BENCHES).join(', ');
    process.stderr.write(
      `usage: npm run bench -- NAME [options], where NAME is one of: ${names}\n`,
    );
    return 2;
  }
  const stopping = new AbortController();
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => stopping.abort());
  const bench = await load();
  await bench({
    args,
    signal: stopping.signal,
    emit: (result) => void process.stdout.write(`${JSON.stringify(result)}\n`),
    say: (text) => void process.stderr.write(`${text}\n`),
  });
  return 0;
}

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  process.stderr.write(`bench: ${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 1;
}
