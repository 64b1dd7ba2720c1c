/** `npm run bench -- NAME [options]`: runs one benchmark. Exit code 0 when it ran, whether or not its budgets were met. */
import { privately } from './private-run.ts';
import type { Bench } from './result.ts';

const BENCHES: Readonly<Record<string, () => Promise<Bench>>> = {
  datapath: async () => (await import('./datapath.ts')).benchDatapath,
  kubernetes: async () => privately(async () => (await import('./kubernetes.ts')).benchKubernetes),
  kv: async () => (await import('./kv.ts')).benchKv,
  kvstoremesh: async () =>
    privately(async () => (await import('./kvstoremesh.ts')).benchKvstoremesh),
  list: async () => privately(async () => (await import('./list.ts')).benchList),
  programs: async () => (await import('./programs.ts')).benchPrograms,
  policy: async () => (await import('./policy.ts')).benchPolicy,
  restart: async () => privately(async () => (await import('./restart.ts')).benchRestart),
  service: async () => (await import('./service.ts')).benchService,
  'services-load': async () => (await import('./services-load.ts')).benchServicesLoad,
  services: async () => privately(async () => (await import('./services.ts')).benchServices),
  mesh: async () => privately(async () => (await import('./mesh.ts')).benchMesh),
  'vm-sessions': async () =>
    privately(async () => (await import('./vm-sessions.ts')).benchVmSessions),
  'vm-join': async () => (await import('./vm-join.ts')).benchVmJoin,
};

/** `--agent-flag=--cpu-prof`: a flag of Node for the processes that are measured. May be given more than once. */
const AGENT_FLAG = '--agent-flag=';

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
  const flagged = args.filter((arg) => arg.startsWith(AGENT_FLAG));
  await bench({
    args: args.filter((arg) => !arg.startsWith(AGENT_FLAG)),
    program: [process.execPath, ...process.execArgv, ...process.argv.slice(1)],
    agentFlags: flagged.map((arg) => arg.slice(AGENT_FLAG.length)),
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
