/** `clustermesh describe service`: who offers it, where it is reached, and why each backend is used or not. */
import { Command } from 'commander';
import { z } from 'zod';
import { askAgent } from './agent-client.ts';
import { type AskingFlags, addAgentOptions, askEachAgent } from './agent-options.ts';
import type { CliContext } from './cli-context.ts';
import { backendMood, backendSchema, portText } from './get-kinds.ts';
import { formatValue, type OutputFormat, outputOption, renderRows } from './policy-output.ts';
import { createPaint, type Paint } from './terminal-paint.ts';

type DescribeContext = Pick<
  CliContext,
  'print' | 'say' | 'setProblem' | 'hasColours' | 'isWatched' | 'signal'
>;

interface DescribeFlags extends AskingFlags {
  readonly output: OutputFormat;
  readonly namespace: string;
}

const serviceSchema = z.looseObject({
  agent: z.object({ cluster: z.string(), node: z.string() }),
  namespace: z.string(),
  name: z.string(),
  exists: z.boolean(),
  type: z.string(),
  global: z.boolean(),
  shared: z.boolean(),
  affinity: z.string(),
  notTranslated: z.string(),
  frontends: z.array(
    z.looseObject({
      address: z.string(),
      port: z.number(),
      protocol: z.string(),
      scope: z.string(),
      backends: z.number(),
      heldBy: z.string().optional(),
    }),
  ),
  clusters: z.array(
    z.looseObject({
      cluster: z.string(),
      own: z.boolean(),
      offers: z.boolean(),
      backends: z.number(),
      used: z.number(),
      notes: z.array(z.string()),
    }),
  ),
  backends: z.array(backendSchema),
});
type ServiceAnswer = z.infer<typeof serviceSchema>;

/** Builds the command. */
export function describeCommand(context: DescribeContext): Command {
  const command = new Command('describe');
  addAgentOptions(command.command('service'))
    .description(
      'say of a Service which clusters offer it, where it is reached, and of each backend whether it is used and why',
    )
    .argument('<service>', 'NAME or NAMESPACE/NAME')
    .option('-n, --namespace <name>', 'its namespace, where the name has none', 'default')
    .addOption(outputOption())
    .action(async (wanted: string, flags: DescribeFlags) => {
      const name = wanted.includes('/') ? wanted : `${flags.namespace}/${wanted}`;
      const path = `/v1/inspect/service?${new URLSearchParams({ name })}`;
      const { signal } = context;
      const question = { path, timeoutMs: flags.timeout * 1000, signal };
      const answers = await askEachAgent(
        flags,
        async (socketPath) => serviceSchema.parse(await askAgent(socketPath, question)),
        context,
      );
      const paint = createPaint(context.hasColours);
      context.print(
        formatValue(answers, flags.output, (all) =>
          all.map((answer) => renderService(answer, paint)).join('\n'),
        ),
      );
    });
  return command;
}

/** A Service as one node sees it, as text. */
function renderService(service: ServiceAnswer, paint: Paint): string {
  const { agent, namespace, name, frontends, clusters, backends } = service;
  const notes = clusters.flatMap((cluster) =>
    cluster.notes.map((note) => `${cluster.cluster}: ${note}\n`),
  );
  return [
    `${namespace}/${name} on node ${agent.node} of cluster ${agent.cluster}: ${summary(service)}\n`,
    ...(service.notTranslated === ''
      ? []
      : [`${paint.bad(`not translated: ${service.notTranslated}`)}\n`]),
    ...section(
      ['ADDRESS', 'PORT', 'CALLED FROM', 'BACKENDS', 'HELD BY'],
      frontends.map(({ address, port, protocol, scope, backends: count, heldBy }) => [
        address,
        `${port}/${protocol}`,
        scope === 'internal' ? 'this node' : 'outside',
        count,
        heldBy ?? 'this Service',
      ]),
    ),
    ...section(
      ['CLUSTER', 'HAS IT', 'BACKENDS', 'USED HERE'],
      clusters.map(({ cluster, own, offers, backends: count, used }) => [
        own ? `${cluster} (own)` : cluster,
        offers ? 'yes' : 'no',
        count,
        used,
      ]),
    ),
    ...section(
      ['CLUSTER', 'BACKEND', 'PORT', 'STATE', 'WHY'],
      backends.map((backend) => {
        const mood = backendMood(backend.state);
        return [
          backend.cluster,
          backend.address,
          portText(backend),
          mood === undefined ? backend.state : paint[mood](backend.state),
          backend.reason || 'as good as the others',
        ];
      }),
    ),
    ...(backends.length === 0 ? ['\nno backends\n'] : []),
    ...(notes.length === 0 ? [] : ['\n', ...notes]),
  ].join('');
}

function summary({ exists, type, global, shared, affinity }: ServiceAnswer): string {
  if (!exists) return 'not there in this cluster';
  if (!global) return `${type}, not global`;
  return `${type}, global, ${shared ? 'shared' : 'not shared'}, affinity ${affinity}`;
}

function section(
  head: readonly string[],
  rows: readonly (readonly (string | number)[])[],
): readonly string[] {
  return rows.length === 0 ? [] : ['\n', renderRows(head, rows)];
}
