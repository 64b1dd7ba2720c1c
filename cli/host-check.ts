/** What a host must have to carry the mesh, looked at without changing anything. */
import { execFile } from 'node:child_process';
import { createServer } from 'node:net';
import { type Surroundings, thisMachine, usualPlace } from '../agent/machine/surroundings.ts';
import type { Check } from '../mesh/diagnosis/check.ts';
import { type Problem, problemOf } from '../mesh/diagnosis/problem.ts';
import type { ProblemId } from '../mesh/diagnosis/problems.ts';

const CNI_FOLDER = '/etc/cni/net.d';
const TUNNEL_PORT = 8472;
/** CNIs that enforce policies themselves, by their files. */
const ENFORCING_CNI = /cilium|calico|antrea|kube-router|weave/i;
const PROGRAM_TIMEOUT_MS = 5_000;

/** What the checks look at. */
export interface HostCheckOptions {
  /** eBPF programs as installed. */
  readonly objectDir: string;
  /** TCP ports that will be listened on, with who does. */
  readonly ports: readonly { readonly port: number; readonly what: string }[];
  /** Nothing runs here yet: what an agent would do is told. Default false. */
  readonly isPre?: boolean;
  readonly surroundings?: Surroundings;
  readonly signal: AbortSignal;
}

/** Looks. Rejects only when `signal` aborts. */
export async function checkHost(options: HostCheckOptions): Promise<Check[]> {
  const { surroundings = thisMachine(), ports, objectDir, signal } = options;
  const checks: Check[] = [];
  const note = (section: string, title: string, problem?: Problem): void => {
    checks.push({ section, title, ...(problem === undefined ? {} : { problem }) });
  };
  const make = (id: ProblemId, cause: string): Problem =>
    problemOf(id, { subject: 'this host', cause });
  const { userId } = surroundings;
  const isRoot = userId === 0;
  note(
    'host',
    'the check runs as root',
    isRoot
      ? undefined
      : make('host-permission', `this is user ${userId}, who cannot look at the kernel`),
  );
  if (isRoot) {
    const problems = surroundings.datapathProblems(usualPlace(objectDir));
    if (problems.length === 0)
      note('kernel', 'the kernel and its mounts have what the datapath needs');
    for (const text of problems) {
      const id = problemId(text);
      note('kernel', 'the kernel and its mounts have what the datapath needs', make(id, text));
    }
  }
  const hasIp = await succeeds('ip', ['-V'], signal);
  note(
    'host',
    'iproute2 is installed',
    hasIp ? undefined : make('host-tool', '`ip` cannot be run'),
  );
  note('clock', 'the clock is kept by NTP', await clockProblem(make, signal));
  const holder = surroundings.udpPortHolder(TUNNEL_PORT);
  const isOurs = holder === undefined || /isthmus/.test(holder);
  note(
    'network',
    `UDP ${TUNNEL_PORT} is free for the tunnel, or ours`,
    isOurs
      ? undefined
      : make('host-port', `UDP ${TUNNEL_PORT} is held by ${holder}: free it, or use --tunnel-port`),
  );
  for (const { port, what } of ports) {
    const why = await listenProblem(port);
    note(
      'network',
      `TCP ${port} is free for ${what}`,
      why === undefined
        ? undefined
        : make('host-port', `TCP ${port}, for ${what}, cannot be listened on: ${why}`),
    );
  }
  const own = surroundings.ownAddresses();
  note(
    'network',
    'the host has an address that others can reach',
    own.length > 0
      ? undefined
      : make('underlay-blocked', 'the host has no address but loopback and link-local ones'),
  );
  note('cni', 'no CNI that enforces policies itself', cniProblem(surroundings, make));
  if (options.isPre === true) note('services', await foretellServices(surroundings));
  signal.throwIfAborted();
  return checks;
}

function problemId(text: string): ProblemId {
  if (text.startsWith('the capability ')) return 'host-permission';
  return /mount|bpffs|cgroup2/i.test(text) ? 'host-mount' : 'host-kernel';
}

/** What an agent will decide, where none has yet. */
async function foretellServices(surroundings: Surroundings): Promise<string> {
  const found = await surroundings.kubeProxy();
  return found === undefined
    ? 'nothing of a kube-proxy is here: an agent will translate every Service'
    : `${found}: an agent will translate global Services alone`;
}

function cniProblem(
  surroundings: Surroundings,
  make: (id: ProblemId, cause: string) => Problem,
): Problem | undefined {
  const found = surroundings.namesIn(CNI_FOLDER).find((name) => ENFORCING_CNI.test(name));
  if (found === undefined) return undefined;
  return make(
    'host-cni',
    `${CNI_FOLDER}/${found} is of a CNI that enforces policies itself: it drops what it does not know`,
  );
}

async function clockProblem(
  make: (id: ProblemId, cause: string) => Problem,
  signal: AbortSignal,
): Promise<Problem | undefined> {
  const answer = await run('timedatectl', ['show', '--property=NTPSynchronized'], signal);
  // Without systemd nobody here can tell; `troubleshoot` compares with the peers' clocks.
  if (answer === undefined || !answer.includes('=no')) return undefined;
  const problem = make('clock-skew', 'the clock of this host is not synchronised');
  return { ...problem, severity: 'warning' };
}

/** Why a port cannot be listened on; undefined: it can. */
function listenProblem(port: number): Promise<string | undefined> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once('error', (error) => resolve(error.message));
    server.listen({ port, host: '::', exclusive: true }, () =>
      server.close(() => resolve(undefined)),
    );
  });
}

async function succeeds(
  program: string,
  args: readonly string[],
  signal: AbortSignal,
): Promise<boolean> {
  return (await run(program, args, signal)) !== undefined;
}

/** What a program prints; undefined when it cannot be run or fails. */
function run(
  program: string,
  args: readonly string[],
  signal: AbortSignal,
): Promise<string | undefined> {
  return new Promise((resolve) => {
    execFile(program, [...args], { timeout: PROGRAM_TIMEOUT_MS, signal }, (error, stdout) =>
      resolve(error === null ? stdout : undefined),
    );
  });
}
