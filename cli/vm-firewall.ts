/** `clustermesh vm firewall`: this machine as its own firewall, tried out first. */
import { Command, InvalidArgumentError } from 'commander';
import { z } from 'zod';
import { askAgent } from './agent-client.ts';
import { parseSeconds } from './agent-options.ts';
import { DEFAULT_SOCKET } from './agent-sockets.ts';
import { formatValue, type OutputFormat, outputOption, renderRows } from './policy-output.ts';
import { listText, type VmContext } from './vm-text.ts';

/** An answer may wait for names that the agent looks up. */
const TIMEOUT_SECONDS = 20;
const DEFAULT_CONFIRM_SECONDS = 60;

const answerSchema = z.object({
  mode: z.enum(['default', 'trial', 'full']),
  endsInMs: z.number().optional(),
  confirmedAt: z.string().optional(),
  adminPorts: z.array(z.number()),
  devices: z.array(z.string()),
  host: z
    .object({
      ingressEnforced: z.boolean(),
      egressEnforced: z.boolean(),
      policies: z.array(z.string()),
    })
    .optional(),
  problems: z.array(z.string()),
  fixed: z.array(
    z.object({
      name: z.string(),
      passes: z.string(),
      why: z.string(),
      calls: z.array(z.string()),
    }),
  ),
});

/** Host policy as an agent tells of it. */
export type FirewallAnswer = z.infer<typeof answerSchema>;

interface Flags {
  readonly socketPath: string;
  readonly output: OutputFormat;
  readonly timeout: number;
}

type FirewallContext = Pick<VmContext, 'print' | 'say' | 'setProblem' | 'signal'>;

/** Builds the command with all that is below it. */
export function vmFirewallCommand(context: FirewallContext): Command {
  const { say } = context;
  return new Command('firewall')
    .description(
      'on the machine: whether its policies judge all of its traffic (full), or only that with the mesh (default)',
    )
    .addCommand(
      withFlags(new Command('enable'))
        .description(
          'switch host policy to full, on trial: unless confirmed in time it is taken back by itself, whatever becomes of the agent',
        )
        .option(
          '--admin-port <port>',
          'TCP port by which operators come in, kept open whatever policies say; may be given several times (default: 22)',
          collectPort,
        )
        .option(
          '--confirm-within <seconds>',
          'how long the trial lasts, 5 to 3600',
          parseSeconds,
          DEFAULT_CONFIRM_SECONDS,
        )
        .action(async (flags: Flags & { adminPort?: readonly number[]; confirmWithin: number }) => {
          const body = {
            action: 'enable',
            adminPorts: flags.adminPort,
            confirmWithinSeconds: flags.confirmWithin,
          };
          show(await ask(flags, context, body), flags, context);
          say(
            `open a new session to this machine now, and there run: clustermesh vm firewall confirm\n`,
          );
        }),
    )
    .addCommand(
      withFlags(new Command('confirm'))
        .description('keep host policy full, over restarts of the agent and of the machine')
        .action(async (flags: Flags) =>
          show(await ask(flags, context, { action: 'confirm' }), flags, context),
        ),
    )
    .addCommand(
      withFlags(new Command('disable'))
        .description('set host policy back to default, at once and for good; harmless to repeat')
        .action(async (flags: Flags) =>
          show(await ask(flags, context, { action: 'disable' }), flags, context),
        ),
    )
    .addCommand(
      withFlags(new Command('status'))
        .description(
          'show host policy, and what passes whatever policies say; exit code 1 when something is wrong',
        )
        .action(async (flags: Flags) => show(await ask(flags, context), flags, context)),
    );
}

function withFlags(command: Command): Command {
  return command
    .option('--socket-path <path>', 'socket of the agent', DEFAULT_SOCKET)
    .option('--timeout <seconds>', 'how long an answer may take', parseSeconds, TIMEOUT_SECONDS)
    .addOption(outputOption());
}

async function ask(
  { socketPath, timeout }: Flags,
  { signal }: FirewallContext,
  body?: object,
): Promise<FirewallAnswer> {
  const answer = await askAgent(socketPath, {
    path: '/v1/firewall',
    ...(body === undefined ? {} : { method: 'POST', body }),
    timeoutMs: timeout * 1000,
    signal,
  });
  return answerSchema.parse(answer);
}

function show(answer: FirewallAnswer, { output }: Flags, context: FirewallContext): void {
  context.print(formatValue(answer, output, renderFirewall));
  if (answer.problems.length > 0) context.setProblem();
}

/** Host policy as text. */
export function renderFirewall(answer: FirewallAnswer): string {
  const { mode, endsInMs = 0, confirmedAt, adminPorts, devices, fixed, problems } = answer;
  const problemLines = problems.map((problem) => `problem: ${problem}\n`).join('');
  if (mode === 'default') {
    return `host policy: default: only what has a mesh identity at its other end is judged\n${problemLines}`;
  }
  const state =
    mode === 'full'
      ? `confirmed ${confirmedAt}`
      : `on trial, taken back in ${Math.ceil(endsInMs / 1000)} s unless confirmed`;
  const passes = fixed.map(({ name, passes: what, calls }) => [
    `  ${name}`,
    [what, ...calls].join('\n'),
  ]);
  return [
    `host policy: full, ${state}\n`,
    `  admin ports  ${listText(adminPorts.map(String))}\n`,
    `  devices      ${listText(devices)}\n`,
    `  ingress      ${enforcement(answer, 'ingress')}\n`,
    `  egress       ${enforcement(answer, 'egress')}\n`,
    renderRows(['always passes', ''], passes),
    problemLines,
  ].join('');
}

function enforcement({ host }: FirewallAnswer, direction: 'ingress' | 'egress'): string {
  if (host === undefined) return 'policies are not known yet';
  const isEnforced = direction === 'ingress' ? host.ingressEnforced : host.egressEnforced;
  return isEnforced
    ? `what policies allow: ${listText(host.policies)}`
    : 'open: no policy limits it';
}

function collectPort(text: string, before: readonly number[] | undefined): number[] {
  const port = /^\d{1,5}$/.test(text) ? Number(text) : 0;
  if (port >= 1 && port <= 65_535) return [...(before ?? []), port];
  throw new InvalidArgumentError('expected a port, 1 to 65535');
}
