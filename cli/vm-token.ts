/** `clustermesh vm token`: what lets machines in. */
import { Command, InvalidArgumentError, Option } from 'commander';
import type { z } from 'zod';
import { CliError } from './cli-error.ts';
import { addClusterOptions, type ClusterFlags } from './cluster-access.ts';
import { formatValue, type OutputFormat, outputOption, renderRows } from './policy-output.ts';
import { type ANSWERS, askRegistry, type TokenAnswer } from './vm-client.ts';
import {
  collectLabels,
  collectTexts,
  labelsText,
  listText,
  spanText,
  toPlace,
  toSeconds,
  type VmContext,
} from './vm-text.ts';

interface CreateFlags extends ClusterFlags {
  readonly name?: string;
  readonly namePattern?: string;
  readonly labels: Readonly<Record<string, string>>;
  /** Of the machines. */
  readonly namespace: string;
  readonly apiserverNamespace?: string;
  readonly addressRange: readonly string[];
  readonly ttl: number;
  readonly uses: number;
  readonly enrollment?: string;
  readonly output: 'text' | 'json';
}

/** Builds the command. */
export function vmTokenCommand(context: VmContext): Command {
  const command = new Command('token').description('make, list and revoke tokens for machines');
  command.addCommand(createCommand(context));
  command.addCommand(
    addClusterOptions(new Command('list'))
      .description('list tokens, and who used them')
      .addOption(outputOption())
      .action(async (flags: ClusterFlags & { output: OutputFormat }) => {
        const { tokens } = await askRegistry('ListTokens', {}, { flags, ...context });
        context.print(formatValue(tokens, flags.output, renderTokens));
      }),
  );
  command.addCommand(
    addClusterOptions(new Command('revoke'))
      .description('end a token at once; machines that used it stay')
      .argument('<id>', 'as in `clustermesh vm token list`')
      .action(async (id: string, flags: ClusterFlags) => {
        const { token } = await askRegistry('RevokeToken', { id }, { flags, ...context });
        const users = token.usedBy.map(({ machine }) => machine);
        const stay = users.length === 0 ? 'nobody used it' : `it was used by ${users.join(', ')}`;
        context.print(`token ${id} is revoked, ${stay}\n`);
      }),
  );
  return command;
}

function createCommand(context: VmContext): Command {
  return addClusterOptions(new Command('create'), { namespaceFlag: 'apiserver-namespace' })
    .description('make a token: prints the one line to paste on the machine')
    .option('--name <name>', 'the machine that may use it')
    .option('--name-pattern <pattern>', 'machines that may use it, such as web-*')
    .option('--labels <key=value,...>', 'what they are labelled with', collectLabels, {})
    .option('--namespace <name>', 'namespace that they are in', 'default')
    .option(
      '--address-range <cidr>',
      'network that their addresses have to be in (may be repeated; default: any)',
      collectTexts,
      [],
    )
    .option('--ttl <duration>', 'how long it can be used', toSeconds, 3600)
    .option('--uses <number>', 'how many machines may use it', wholeNumber, 1)
    .option(
      '--enrollment <host:port>',
      'where machines reach the enrollment listener (default: as the apiserver says)',
      toPlace,
    )
    .addOption(
      new Option('-o, --output <format>', 'how to print it')
        .choices(['text', 'json'])
        .default('text'),
    )
    .action((flags: CreateFlags) => create(flags, context));
}

async function create(flags: CreateFlags, context: VmContext): Promise<void> {
  const { name, namePattern, labels, namespace, addressRange, ttl, uses } = flags;
  if ((name === undefined) === (namePattern === undefined)) {
    throw new CliError('usage', 'give --name for one machine, or --name-pattern for several');
  }
  if (name?.includes('*')) {
    throw new CliError('usage', `--name ${name} is a pattern: give it as --name-pattern`);
  }
  const answer = await askRegistry(
    'CreateToken',
    {
      names: name ?? namePattern,
      labels,
      namespace,
      address_ranges: addressRange,
      ttl_seconds: ttl,
      uses,
    },
    { flags: { ...flags, namespace: flags.apiserverNamespace }, signal: context.signal },
  );
  const line = joinLine(answer, { name, endpoint: flags.enrollment });
  const { report: token } = answer;
  if (flags.output === 'json') {
    const { token: secret } = answer;
    context.print(`${JSON.stringify({ token: secret, command: line, ...token }, null, 2)}\n`);
    return;
  }
  context.print(`${line}\n`);
  const whose = `${token.names}, ${token.uses === 1 ? 'one use' : `${token.uses} uses`}`;
  const addresses =
    token.addressRanges.length === 0
      ? ' It may claim any address that nobody else has; --address-range narrows that.'
      : '';
  context.say(
    `Paste this line on the machine. Token ${token.id} (${whose}) is good until ${token.expiresAt}; whoever has it can join.${addresses}\n`,
  );
}

/** What a person pastes. A pattern leaves the name to the machine, which has one of its own. */
function joinLine(
  answer: z.infer<typeof ANSWERS.CreateToken>,
  chosen: { readonly name: string | undefined; readonly endpoint: string | undefined },
): string {
  const where = chosen.endpoint ?? answer.enrollment_endpoint;
  const name = chosen.name === undefined ? '' : ` --name ${chosen.name}`;
  return `echo '${answer.token}' | sudo clustermesh vm join ${where}${name} --token-file -`;
}

function renderTokens(tokens: readonly TokenAnswer[]): string {
  const now = Date.now();
  const rows = tokens.map((token) => [
    token.id,
    token.state,
    token.names,
    token.namespace,
    labelsText(token.labels),
    listText(token.addressRanges),
    `${token.usesLeft}/${token.uses}`,
    token.state === 'usable' ? `in ${spanText(Date.parse(token.expiresAt ?? '') - now)}` : '-',
    listText(token.usedBy.map(({ machine, from }) => `${machine} (${from})`)),
  ]);
  const head = ['ID', 'STATE', 'NAMES', 'NAMESPACE', 'LABELS', 'ADDRESSES', 'USES LEFT', 'ENDS'];
  const table = renderRows([...head, 'USED BY'], rows);
  return table === '' ? 'no tokens\n' : table;
}

function wholeNumber(text: string): number {
  if (!/^[1-9]\d{0,4}$/.test(text)) throw new InvalidArgumentError('expected 1 to 10000');
  return Number(text);
}
