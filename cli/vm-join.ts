/** `clustermesh vm join`: makes this machine a member of a cluster, in one command. */
import { readFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { Command, InvalidArgumentError } from 'commander';
import type { JoinResult } from '../agent/machine/join.ts';
import type { CheckFinding } from '../agent/machine/preflight.ts';
import { type HostPort, parseHostPort } from '../mesh/runtime/option-parsers.ts';
import { packageVersion } from '../mesh/runtime/package-version.ts';
import { type EnrollmentToken, parseEnrollmentToken } from '../mesh/wire/enrollment-token.ts';
import { type IpAddress, parseIpAddress } from '../mesh/wire/ip.ts';
import { runAgentProgram } from './agent-program.ts';
import { CliError } from './cli-error.ts';

/** A token is some hundred bytes; what is longer is something else. */
const MAX_TOKEN_BYTES = 4096;
const READY_TIMEOUT_MS = 15_000;
const ASK_EACH_MS = 250;
const DEFAULT_STATE_DIR = '/var/lib/isthmus';

/** What the command needs of the process. */
export interface VmJoinContext {
  /** Gets the result. */
  readonly print: (text: string) => void;
  /** Gets steps and what was looked at. */
  readonly say: (text: string) => void;
  /** Where `--token-file -` reads. */
  readonly input: AsyncIterable<Buffer | string>;
  readonly signal: AbortSignal;
}

interface JoinFlags {
  readonly tokenFile: string;
  readonly name?: string;
  readonly address?: readonly IpAddress[];
  readonly stateDir: string;
  readonly service: boolean;
}

/** Builds the command. */
export function vmJoinCommand(context: VmJoinContext): Command {
  return new Command('join')
    .description(
      'make this machine a member of a cluster: looks at the machine, enrols it and starts its agent; harmless to repeat',
    )
    .argument('<host:port>', 'where the cluster enrols machines', parseServer)
    .argument('[agent-flags...]', 'behind "--": further flags of clustermesh-agent run')
    .requiredOption('--token-file <file>', 'file with the token, - for standard input')
    .option('--name <name>', "the machine's name (default: the host's)")
    .option(
      '--address <ip>',
      'address by which the others reach this machine; may be given several times (default: the one that it reaches the cluster from, and the only one of the other family beside it)',
      collectAddress,
    )
    .option('--state-dir <dir>', 'folder for keys, certificates and settings', DEFAULT_STATE_DIR)
    .option(
      '--no-service',
      'do not start the agent as a service: print its command as the last line',
    )
    .action((server: HostPort, agentFlags: readonly string[], flags: JoinFlags) =>
      joinMachine({ server, agentFlags, flags }, context),
    );
}

async function joinMachine(
  asked: {
    readonly server: HostPort;
    readonly agentFlags: readonly string[];
    readonly flags: JoinFlags;
  },
  context: VmJoinContext,
): Promise<void> {
  const { server, agentFlags, flags } = asked;
  const { print, say, signal } = context;
  const { stateDir } = flags;
  const token = await readToken(flags.tokenFile, context.input);
  // Loaded late: other commands need none of the agent's parts.
  const { joinCluster } = await import('../agent/machine/join.ts');
  const joined = await joinCluster({
    server,
    token,
    name: flags.name ?? (hostname().split('.')[0] ?? '').toLowerCase(),
    addresses: flags.address ?? [],
    stateDir,
    agentFlags,
    agentVersion: packageVersion(),
    onStep: (text) => say(`${text}\n`),
    onFinding: (finding) => say(`  ${findingText(finding)}\n`),
    signal,
  });
  print(resultText(joined));
  const { hasSystemd, installService, SERVICE_NAME } = await import('../agent/machine/service.ts');
  if (!flags.service || !hasSystemd()) {
    print(`start the agent as root, at each boot:\n${joined.command.join(' ')}\n`);
    return;
  }
  say(`starting ${SERVICE_NAME}\n`);
  await installService(joined.command, { stateDir, signal });
  const { installResolver } = await import('../agent/machine/resolved.ts');
  const { agentPlace } = await import('../agent/machine/agent-command.ts');
  const { socketPath, dnsAddress, dnsClusterDomain } = agentPlace(joined.record.agentFlags);
  if (dnsAddress !== undefined) {
    const names = { clusterDomain: dnsClusterDomain, address: dnsAddress };
    print(`${(await installResolver({ ...names, signal })).text}\n`);
  }
  print(await readinessText(socketPath, signal));
}

/** Asks the agent until it does its part, or for so long as a person would wait. */
async function readinessText(socketPath: string, signal: AbortSignal): Promise<string> {
  const args = ['status', '--output=json', `--socket-path=${socketPath}`];
  const deadline = performance.now() + READY_TIMEOUT_MS;
  let missing = 'it does not answer yet';
  while (performance.now() < deadline) {
    signal.throwIfAborted();
    const { text, problem } = await runAgentProgram(args);
    const status = text === '' ? undefined : readStatus(text);
    if (status?.ready === true) return 'the agent is ready\n';
    missing = status?.missing.join('; ') ?? problem;
    await new Promise((resolve) => setTimeout(resolve, ASK_EACH_MS));
  }
  throw new CliError(
    'timeout',
    `the machine has joined, and its agent is not ready after ${READY_TIMEOUT_MS / 1000} s: ${missing}; see clustermesh-agent status and journalctl -u isthmus-agent`,
  );
}

function readStatus(text: string): { ready: boolean; missing: readonly string[] } {
  const parsed: { ready?: unknown; missing?: unknown } = JSON.parse(text);
  const missing = Array.isArray(parsed.missing) ? parsed.missing.map(String) : [];
  return { ready: parsed.ready === true, missing };
}

function resultText({ kind, record, certificateEndsAt }: JoinResult): string {
  const { name, clusterName, namespace, labels, addresses } = record;
  const labelled = Object.entries(labels).map(([key, value]) => `${key}=${value}`);
  const begin = kind === 'joined' ? 'joined' : 'already joined';
  const until = new Date(certificateEndsAt).toISOString().replace('.000Z', 'Z');
  return [
    `${begin}: this machine is ${name} of cluster ${clusterName}`,
    `  addresses    ${addresses.join(', ')}`,
    `  namespace    ${namespace}`,
    `  labels       ${labelled.length === 0 ? 'none' : labelled.join(', ')}`,
    `  certificate  valid until ${until}, renewed by the agent\n`,
  ].join('\n');
}

function findingText({ check, verdict, text }: CheckFinding): string {
  const mark = { good: 'ok  ', odd: 'note', bad: 'FAIL' }[verdict];
  return `${mark}  ${check}: ${text}`;
}

async function readToken(file: string, input: VmJoinContext['input']): Promise<EnrollmentToken> {
  const text = file === '-' ? await readInput(input) : await readTokenFile(file);
  const token = parseEnrollmentToken(text);
  if (token === undefined) {
    throw new CliError(
      'usage',
      `${file === '-' ? 'standard input' : file} holds no token: expected imt1.…, as printed by clustermesh vm token create`,
    );
  }
  return token;
}

async function readInput(input: VmJoinContext['input']): Promise<string> {
  let text = '';
  for await (const part of input) {
    text += part.toString();
    if (text.length > MAX_TOKEN_BYTES) break;
  }
  return text;
}

async function readTokenFile(file: string): Promise<string> {
  try {
    return (await readFile(file, 'utf8')).slice(0, MAX_TOKEN_BYTES);
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new CliError('usage', `cannot read the token: ${reason}`, { cause });
  }
}

function parseServer(text: string): HostPort {
  try {
    const server = parseHostPort(text);
    if (server.host === '::' || server.port === 0) throw new Error('expected host:port');
    return server;
  } catch (error) {
    throw new InvalidArgumentError(error instanceof Error ? error.message : String(error));
  }
}

function collectAddress(text: string, before: readonly IpAddress[] | undefined): IpAddress[] {
  try {
    return [...(before ?? []), parseIpAddress(text)];
  } catch (error) {
    throw new InvalidArgumentError(error instanceof Error ? error.message : String(error));
  }
}
