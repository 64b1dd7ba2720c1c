/** `clustermesh troubleshoot`: what keeps a peer from working, step by step, and a verdict in one sentence. */
import { Argument, Command, Option } from 'commander';
import { z } from 'zod';
import {
  type Diagnosis,
  type DiagnosisStep,
  decodeDiagnoses,
  leadingProblem,
} from '../mesh/diagnosis/diagnosis.ts';
import { askAgent } from './agent-client.ts';
import { type AgentFlags, agentSockets, DEFAULT_SOCKET } from './agent-sockets.ts';
import type { CliContext } from './cli-context.ts';
import { CliError } from './cli-error.ts';
import { addClusterOptions, type ClusterFlags, openClusterAccess } from './cluster-access.ts';
import { type LookPlace, lookPlace } from './look-place.ts';
import { findPolicyAgents } from './policy-agents.ts';
import { formatValue, type OutputFormat } from './policy-output.ts';
import { printable, renderProblems } from './status-mesh.ts';
import { createPaint, type Paint } from './terminal-paint.ts';
import { addPeerPolicy, findAddress } from './troubleshoot-policy.ts';

/** All peers of a cluster are looked at side by side, each within 12 s. */
const TIMEOUT_MS = 20_000;

interface Flags extends AgentFlags, ClusterFlags {
  readonly output: OutputFormat;
  readonly file?: string;
  readonly service?: string;
  readonly from?: string;
  readonly to?: string;
  readonly port?: string;
}

/** Builds the command. */
export function troubleshootCommand(context: CliContext): Command {
  return addClusterOptions(new Command('troubleshoot'))
    .addArgument(
      new Argument(
        '[peer]',
        'name of the cluster; default: all peers, and from an apiserver its own cluster',
      ),
    )
    .option(
      '--socket-path <path...>',
      `ask the agents on these sockets (default without a cluster: ${DEFAULT_SOCKET})`,
    )
    .option('--lab <name>', 'ask all agents of a lab')
    .option(
      '--file <path>',
      'look from this machine, with an etcd client file as in clustermesh-config/<peer>',
    )
    .option(
      '--service <name>',
      'NAMESPACE/NAME of a Service to follow (default: one that uses the peer)',
    )
    .option(
      '--from <source>',
      'pod that sends, by NAMESPACE/NAME or address (default: any of the node)',
    )
    .option('--to <destination>', 'pod that is called, one of the two being of the peer')
    .option('--port <port>', 'with --to: NUMBER or NUMBER/PROTOCOL (default: an echo)')
    .addOption(
      new Option('-o, --output <format>', 'how to print it')
        .choices(['table', 'json', 'yaml'])
        .default('table'),
    )
    .addHelpText(
      'after',
      `
An apiserver looks at the control plane: name, connection, certificates, etcd, identity, data, whether the peer reads us.
An agent looks at the same from its node, and then at the path of packets: nodes, tunnel, size, a pod from a pod, a Service from a
pod, and what policies say. What the other cluster's policies say is known to its agents alone: give the socket of one, too.

Examples:
  $ clustermesh troubleshoot --context alpha beta       # from the apiserver of alpha
  $ clustermesh troubleshoot beta                       # from the agent of this machine
  $ clustermesh troubleshoot beta --service shop/web    # why do calls to it not reach beta?
  $ clustermesh troubleshoot beta --from shop/client --to 10.2.0.5 --port 8080/TCP
  $ clustermesh troubleshoot --lab demo
  $ clustermesh troubleshoot beta --file /var/lib/cilium/clustermesh/beta`,
    )
    .action(async (peer: string | undefined, flags: Flags, command: Command) => {
      const place = flags.file === undefined ? lookPlace(flags, command) : 'here';
      const found = await diagnose(peer ?? '', { ...flags, place }, context);
      const { hasColours } = context;
      context.print(
        formatValue(found, flags.output, () => renderDiagnoses(found, createPaint(hasColours))),
      );
      const isBroken = found.some(({ steps }) => leadingProblem(steps)?.severity === 'error');
      if (isBroken) context.setProblem();
    });
}

async function diagnose(
  peer: string,
  flags: Flags & { readonly place: LookPlace | 'here' },
  context: CliContext,
): Promise<Diagnosis[]> {
  const { signal, say, isWatched } = context;
  const { place, file } = flags;
  refuseUnlooked(flags);
  if (isWatched) say('looking, this takes up to 15 s\n');
  if (place === 'cluster') {
    using access = await openClusterAccess(flags, { signal });
    const { json } = await access.ask(
      'Troubleshoot',
      { peer },
      { answer: z.object({ json: z.string() }), timeoutMs: TIMEOUT_MS, signal },
    );
    return decodeDiagnoses(json);
  }
  if (file !== undefined) {
    if (peer === '') throw new CliError('usage', '--file needs the name of the peer');
    return [await fromHere(peer, file, signal)];
  }
  return askAgents(peer, flags, signal);
}

/** Throws CliError `usage` for what nobody looks at from there, and for half a pair. */
function refuseUnlooked({
  place,
  service,
  from,
  to,
  port,
}: Flags & { readonly place: LookPlace | 'here' }): void {
  const isPath = [service, from, to, port].some((flag) => flag !== undefined);
  if (isPath && place !== 'agents') {
    throw new CliError(
      'usage',
      '--service, --from, --to and --port are about packets, which agents look at: give --socket-path or --lab',
    );
  }
  if (to !== undefined && from === undefined) throw new CliError('usage', '--to needs --from');
  if (from !== undefined && to === undefined && service === undefined) {
    throw new CliError('usage', '--from needs --to or --service');
  }
  if (port !== undefined && to === undefined) throw new CliError('usage', '--port needs --to');
}

/** From agents; where those of both clusters are asked, each says what its own policies decide. */
async function askAgents(peer: string, flags: Flags, signal: AbortSignal): Promise<Diagnosis[]> {
  const sockets = await agentSockets(flags);
  const agents =
    sockets.length < 2
      ? undefined
      : await findPolicyAgents({ ...flags, timeout: TIMEOUT_MS / 1000 }, signal);
  const { service, port } = flags;
  const [from, to] = await Promise.all(
    [flags.from, flags.to].map(async (text) =>
      text === undefined || agents === undefined ? text : await findAddress(agents, text),
    ),
  );
  const asked = new URLSearchParams();
  for (const [name, value] of Object.entries({ peer, service, from, to, port })) {
    if (value !== undefined) asked.set(name, value);
  }
  const path = `/v1/troubleshoot?${asked}`;
  // Nobody is a peer of his own cluster.
  const ofPeer = agents?.names.filter(({ cluster }) => cluster === peer) ?? [];
  const others = sockets.filter(
    (socket) => !ofPeer.some(({ socketPath }) => socketPath === socket),
  );
  const answers = await Promise.all(
    (others.length === 0 ? sockets : others).map((socket) =>
      askAgent(socket, { path, timeoutMs: TIMEOUT_MS, signal }),
    ),
  );
  const found = answers.flatMap((answer) => decodeDiagnoses(JSON.stringify(answer)));
  return agents === undefined ? found : Promise.all(found.map((one) => addPeerPolicy(one, agents)));
}

/** From where the command stands, with nobody's help: who we are is not known then. */
async function fromHere(peer: string, file: string, signal: AbortSignal): Promise<Diagnosis> {
  // etcd's client is loaded only where it is used.
  const { diagnosePeer } = await import('../mesh/diagnosis/peer-path.ts');
  const { systemClock } = await import('../mesh/runtime/clock.ts');
  const from = 'this machine';
  const nobody = { own: undefined, sight: undefined };
  return diagnosePeer({ peer, file, from, ...nobody, clock: systemClock, signal });
}

/** Text for a terminal. */
export function renderDiagnoses(found: readonly Diagnosis[], paint: Paint): string {
  if (found.length === 0) return 'no peers\n';
  return `${found.map((diagnosis) => renderDiagnosis(diagnosis, paint)).join('\n\n')}\n`;
}

function renderDiagnosis({ from, peer, steps, verdict }: Diagnosis, paint: Paint): string {
  const problems = steps.flatMap(({ problem }) => (problem === undefined ? [] : [problem]));
  const leading = leadingProblem(steps);
  const look =
    leading === undefined ? paint.good : leading.severity === 'error' ? paint.bad : paint.warn;
  return [
    `${paint.strong(printable(peer))}, seen from ${printable(from)}`,
    ...steps.flatMap((step) => stepLines(step, paint)),
    ...(problems.length === 0 ? [] : [renderProblems(problems, paint)]),
    `verdict: ${look(printable(verdict))}`,
  ].join('\n');
}

function stepLines({ step, outcome, seen, tookMs }: DiagnosisStep, paint: Paint): string[] {
  const look = { passed: paint.good, warned: paint.warn, failed: paint.bad, skipped: plain }[
    outcome
  ];
  const [first = '', ...more] = seen.map(printable);
  return [
    `  ${step.padEnd(10)} ${look(outcome)} (${tookMs} ms)  ${first}`.trimEnd(),
    ...more.map((line) => `  ${' '.repeat(10)} ${line}`),
  ];
}

function plain(text: string): string {
  return text;
}
