/** `clustermesh policy`: which policies there are, what they come to, what a change of them would do. */
import { Command, InvalidArgumentError, Option } from 'commander';
import type { SimulateAnswer, SimulateRequest } from '../agent/policy/simulate-answer.ts';
import { type ValidateOptions, validatePolicies } from '../agent/policy/validate.ts';
import { parseClusterName } from '../mesh/wire/ids.ts';
import { addAgentOptions } from './agent-options.ts';
import { CliError, type EXIT_CODES } from './cli-error.ts';
import { findPolicyAgents, type PolicyAgents, type PolicyFlags } from './policy-agents.ts';
import { findingLine, readFlows, readManifestFiles, readPolicyFolders } from './policy-files.ts';
import { findEndpoints, listEverywhere, renderEndpoints, renderList } from './policy-list.ts';
import { formatValue, type OutputFormat, outputOption } from './policy-output.ts';
import { readPods } from './policy-pods-file.ts';
import { changesTo, renderSimulation, simulateChange, simulateOffline } from './policy-simulate.ts';
import { traceAcross } from './policy-trace.ts';
import { renderTrace } from './policy-trace-text.ts';

/** What the command needs of the process. */
export interface PolicyContext {
  readonly print: (text: string) => void;
  readonly say: (text: string) => void;
  readonly setExitCode: (code: keyof typeof EXIT_CODES) => void;
  readonly signal: AbortSignal;
}

interface OutputFlags {
  readonly output: OutputFormat;
}

interface TraceFlags extends PolicyFlags, OutputFlags {
  readonly from: string;
  readonly to: string;
  readonly port?: string;
}

interface SimulateFlags extends PolicyFlags, OutputFlags {
  readonly file: readonly string[];
  readonly delete: readonly string[];
  readonly flows: readonly string[];
  readonly cluster?: string;
  readonly failOn: 'any' | 'denied' | 'allowed';
  readonly policies?: readonly string[];
  readonly endpoints?: string;
  readonly policyDefaultLocalCluster: boolean;
}

interface ValidateFlags extends OutputFlags {
  readonly clusterName: string;
  readonly policyDefaultLocalCluster: boolean;
}

/** Builds the command. */
export function policyCommand(context: PolicyContext): Command {
  const command = new Command('policy');
  asking(command.command('list'))
    .description('show the policies of the clusters whose agents run on this machine')
    .action((flags: PolicyFlags & OutputFlags) => list(flags, context));
  asking(command.command('get'))
    .description(
      'show the policy entries of an endpoint, and the rule, file and line that made each',
    )
    .argument('<endpoint>', 'namespace/name of a pod, its address, or the number of the endpoint')
    .action((wanted: string, flags: PolicyFlags & OutputFlags) => get(wanted, flags, context));
  asking(command.command('trace'))
    .description(
      'say what becomes of a packet: what policies of either side say, by which rule, and which way it takes. Exit code 1: it is denied; 3: an agent of the cluster that decides was not asked',
    )
    .requiredOption('--from <source>', 'who sends: a pod, an address, labels, a reserved name')
    .requiredOption('--to <destination>', 'who is called: the same, or a Service')
    .option(
      '--port <port>',
      'NUMBER or NUMBER/PROTOCOL, of ICMP the type (default: the only port of the Service)',
    )
    .action((flags: TraceFlags) => trace(flags, context));
  asking(command.command('simulate'))
    .description(
      'say which verdicts a change of policies would change, between all identities there are, and of recorded flows. Exit code 4: some would; 1: something in the files cannot be enforced',
    )
    .option('-f, --file <file...>', 'YAML with new or changed policies', [])
    .option(
      '--delete <name...>',
      'policy that goes: NAME, NAMESPACE/NAME, with its kind in front if need be',
      [],
    )
    .option('--flows <file...>', 'flows as `clustermesh monitor -o json` recorded them', [])
    .option('--cluster <name>', 'whose policies change, where agents of several are asked')
    .option(
      '--policies <path...>',
      'without an agent: files of the policies there are, or folders of such files; needs --endpoints and --cluster',
    )
    .option(
      '--endpoints <file>',
      'with --policies: YAML or JSON of the pods there are, or what `clustermesh kv dump` printed',
    )
    .option(
      '--policy-default-local-cluster <boolean>',
      'with --policies: a selector of peers that names no cluster means the own one',
      parseBoolean,
      true,
    )
    .addOption(
      new Option(
        '--fail-on <change>',
        'which changes exit code 4 tells of: what would be denied or allowed then',
      )
        .choices(['any', 'denied', 'allowed'])
        .default('any'),
    )
    .action((flags: SimulateFlags) => simulate(flags, context));
  command
    .command('validate')
    .description(
      'check policies in YAML files without a cluster, as an agent would read them. Exit code 1: something cannot be enforced as it is written',
    )
    .argument('<file...>')
    .option('--cluster-name <name>', 'cluster that they are for', 'this-cluster')
    .option(
      '--policy-default-local-cluster <boolean>',
      'a selector of peers that names no cluster means the own one',
      parseBoolean,
      true,
    )
    .addOption(outputOption())
    .action((files: string[], flags: ValidateFlags) => validate(files, flags, context));
  asking(command.command('audit'), { hasOutput: false })
    .description(
      'switch audit mode of an endpoint: what its policies deny passes, and `clustermesh monitor --audit` tells it; kept over restarts',
    )
    .argument('<endpoint>', 'namespace/name of a pod, its address, or the number of the endpoint')
    .argument('<on|off>', 'what is wanted', parseSwitch)
    .action((wanted: string, on: boolean, flags: PolicyFlags) =>
      audit(wanted, { on, flags }, context),
    );
  return command;
}

function asking(
  command: Command,
  { hasOutput }: { hasOutput: boolean } = { hasOutput: true },
): Command {
  addAgentOptions(command, { timeoutSeconds: 60 });
  return hasOutput ? command.addOption(outputOption()) : command;
}

async function list(flags: PolicyFlags & OutputFlags, context: PolicyContext): Promise<void> {
  const agents = await findPolicyAgents(flags, context.signal);
  context.print(formatValue(await listEverywhere(agents), flags.output, renderList));
  complain(agents);
}

async function get(
  wanted: string,
  flags: PolicyFlags & OutputFlags,
  context: PolicyContext,
): Promise<void> {
  const agents = await findPolicyAgents(flags, context.signal);
  const found = (await findEndpoints(agents, wanted)).map(({ endpoint }) => endpoint);
  context.print(formatValue(found, flags.output, renderEndpoints));
  complain(agents);
}

async function trace(flags: TraceFlags, context: PolicyContext): Promise<void> {
  const agents = await findPolicyAgents(flags, context.signal);
  for (const error of agents.silent) context.say(`clustermesh: ${error.message}\n`);
  const result = await traceAcross(agents, { from: flags.from, to: flags.to, port: flags.port });
  context.print(formatValue(result, flags.output, renderTrace));
  const verdicts = result.reports.map(({ verdict }) => verdict);
  const isOdd = result.reports.some(({ problems }) => problems.length > 0);
  if (isOdd || verdicts.includes('denied')) context.setExitCode('problem');
  else if (verdicts.includes('unknown')) context.setExitCode('unreachable');
}

async function simulate(flags: SimulateFlags, context: PolicyContext): Promise<void> {
  if (flags.file.length + flags.delete.length === 0) {
    throw new CliError('usage', 'give --file, --delete or both: without them nothing changes');
  }
  const { policies: before, endpoints, cluster } = flags;
  const isOffline = before !== undefined || endpoints !== undefined;
  if (isOffline && (before === undefined || endpoints === undefined || cluster === undefined)) {
    throw new CliError(
      'usage',
      'give --policies, --endpoints and --cluster together: without an agent files say all of it',
    );
  }
  const files = await readManifestFiles(flags.file);
  const options = {
    clusterName: isOffline
      ? clusterName(cluster ?? '', '--cluster')
      : parseClusterName('this-cluster'),
    // How selectors are read is for the agent to say: here it is only looked at what stands in the files.
    defaultLocalCluster: isOffline ? flags.policyDefaultLocalCluster : true,
  };
  const { policies, findings } = validatePolicies(files, options);
  const change = { manifests: policies, deleted: flags.delete };
  const problems = findings.filter(({ severity }) => severity === 'problem');
  for (const finding of problems) context.say(`${findingLine(finding)}\n`);
  const answer =
    before !== undefined && endpoints !== undefined
      ? await simulateFiles({ ...flags, policies: before, endpoints }, { change, options, context })
      : await simulateChange(await findPolicyAgents(flags, context.signal), {
          ...change,
          cluster,
          flows: await readFlows(flags.flows, context.say),
        });
  context.print(formatValue(answer, flags.output, renderSimulation));
  if (problems.length > 0) context.setExitCode('problem');
  const wanted = flags.failOn === 'any' ? (['denied', 'allowed'] as const) : [flags.failOn];
  if (wanted.some((verdict) => changesTo(answer, verdict))) context.setExitCode('change');
}

/** Simulates without an agent. What stands wrong in the policies there are is said, and is no mistake of the change. */
async function simulateFiles(
  flags: SimulateFlags & { readonly policies: readonly string[]; readonly endpoints: string },
  {
    change,
    options,
    context,
  }: {
    readonly change: Pick<SimulateRequest, 'manifests' | 'deleted'>;
    readonly options: ValidateOptions;
    readonly context: PolicyContext;
  },
): Promise<SimulateAnswer> {
  if (flags.flows.length > 0 || flags.socketPath !== undefined || flags.lab !== undefined) {
    throw new CliError(
      'usage',
      '--flows, --socket-path and --lab need an agent, and --policies none',
    );
  }
  const { policies, findings } = validatePolicies(await readPolicyFolders(flags.policies), options);
  for (const finding of findings) {
    if (finding.severity === 'problem') context.say(`${findingLine(finding)}\n`);
  }
  const [file] = await readManifestFiles([flags.endpoints]);
  const pods = file === undefined ? [] : readPods(file, options.clusterName);
  return simulateOffline(change, {
    cluster: options.clusterName,
    defaultLocalCluster: options.defaultLocalCluster,
    policies,
    pods,
  });
}

async function validate(
  names: readonly string[],
  flags: ValidateFlags,
  context: PolicyContext,
): Promise<void> {
  const { policies, findings } = validatePolicies(await readManifestFiles(names), {
    clusterName: clusterName(flags.clusterName, '--cluster-name'),
    defaultLocalCluster: flags.policyDefaultLocalCluster,
  });
  const problems = findings.filter(({ severity }) => severity === 'problem');
  const summary = { policies: policies.length, problems: problems.length, findings };
  context.print(
    formatValue(summary, flags.output, () =>
      [
        ...findings.map(findingLine),
        `${policies.length} policies, ${problems.length} problems`,
        '',
      ].join('\n'),
    ),
  );
  if (problems.length > 0) context.setExitCode('problem');
}

async function audit(
  wanted: string,
  { on, flags }: { readonly on: boolean; readonly flags: PolicyFlags },
  context: PolicyContext,
): Promise<void> {
  const agents = await findPolicyAgents(flags, context.signal);
  const found = await findEndpoints(agents, wanted);
  const [only] = found;
  if (only === undefined || found.length > 1) {
    const names = found.map(
      ({ agent, endpoint }) => `${endpoint.pod} on ${agent.cluster}/${agent.node}`,
    );
    throw new CliError(
      'usage',
      `${wanted} means several endpoints: ${names.join(', ')}; give one address or one --socket-path`,
    );
  }
  const { agent, endpoint } = only;
  await agents.setAudit(agent, { endpointId: endpoint.endpointId, audit: on });
  const name = endpoint.pod === '' ? `endpoint ${endpoint.endpointId}` : endpoint.pod;
  context.print(
    `audit mode of ${name} on ${agent.cluster}/${agent.node} is ${on ? 'on' : 'off'}\n`,
  );
  complain(agents);
}

/** Some agents did not answer: what was printed is not all. */
function complain({ silent }: PolicyAgents): void {
  const [first] = silent;
  if (first === undefined) return;
  throw new CliError(first.code, silent.map(({ message }) => message).join('\n'), { cause: first });
}

function clusterName(text: string, flag: string) {
  try {
    return parseClusterName(text);
  } catch (cause) {
    throw new CliError('usage', `${flag}: ${cause instanceof Error ? cause.message : cause}`, {
      cause,
    });
  }
}

function parseBoolean(text: string): boolean {
  if (text === 'true' || text === 'false') return text === 'true';
  throw new InvalidArgumentError('expected true or false');
}

function parseSwitch(text: string): boolean {
  if (text === 'on' || text === 'off') return text === 'on';
  throw new InvalidArgumentError('expected on or off');
}
