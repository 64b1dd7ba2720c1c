/** `clustermesh get`: what an agent knows of the mesh, in rows. */
import { Argument, Command, Option } from 'commander';
import { z } from 'zod';
import { askAgentLines } from './agent-client.ts';
import { type AskingFlags, addAgentOptions, askEachAgent } from './agent-options.ts';
import type { CliContext } from './cli-context.ts';
import { CliError } from './cli-error.ts';
import { GET_KINDS, type GetKind, type GetRow } from './get-kinds.ts';
import { type LabelSelector, parseLabelSelector } from './label-selector.ts';
import { formatValue, renderRows } from './policy-output.ts';
import { createPaint, type Paint } from './terminal-paint.ts';

type GetContext = Pick<
  CliContext,
  'print' | 'say' | 'setProblem' | 'hasColours' | 'isWatched' | 'signal'
>;

interface GetFlags extends AskingFlags {
  readonly output: 'table' | 'wide' | 'json' | 'yaml';
  readonly cluster?: readonly string[];
  readonly namespace?: string;
  readonly selector?: LabelSelector;
}

/** What one agent says; the form of JSON and YAML. */
interface GetAnswer {
  readonly agent: { readonly cluster: string; readonly node: string };
  readonly kind: string;
  readonly rows: readonly GetRow[];
}

const headSchema = z.object({ agent: z.object({ cluster: z.string(), node: z.string() }) });
const labelsSchema = z.record(z.string(), z.string());

/** Builds the command. */
export function getCommand(context: GetContext): Command {
  const command = new Command('get')
    .addArgument(
      new Argument('<kind>', GET_KINDS.map(({ name }) => name).join(', ')).choices(
        GET_KINDS.map(({ name }) => name),
      ),
    )
    .addOption(
      new Option('-o, --output <format>', 'how to print it; JSON and YAML are a list of agents')
        .choices(['table', 'wide', 'json', 'yaml'])
        .default('table'),
    )
    .option('--cluster <name...>', 'only what is of these clusters')
    .option('-n, --namespace <name>', 'only what is in this namespace')
    .option(
      '-l, --selector <labels>',
      'only what has these labels: key=value, key!=value, key, !key, "key in (a,b)", with commas between',
      parseLabelSelector,
    );
  return addAgentOptions(command).action(async (name: string, flags: GetFlags) => {
    const kind = GET_KINDS.find((known) => known.name === name);
    if (kind === undefined) throw new CliError('usage', `there is no kind ${name}`);
    checkFilters(kind, flags);
    const { signal } = context;
    const answers = await askEachAgent(
      flags,
      (socketPath) => ask(socketPath, kind, { flags, signal }),
      context,
    );
    context.print(format(answers, kind, { flags, paint: createPaint(context.hasColours) }));
  });
}

function checkFilters(kind: GetKind, { namespace, selector }: GetFlags): void {
  const not = (what: string): CliError =>
    new CliError('usage', `${kind.name} have no ${what}: leave the option out`);
  if (namespace !== undefined && !kind.hasNamespace) throw not('namespace');
  if (selector !== undefined && !kind.hasLabels) throw not('labels');
}

async function ask(
  socketPath: string,
  kind: GetKind,
  { flags, signal }: { readonly flags: GetFlags; readonly signal: AbortSignal },
): Promise<GetAnswer> {
  const question = { path: `/v1/inspect/${kind.name}`, timeoutMs: flags.timeout * 1000, signal };
  const rows: GetRow[] = [];
  let agent: GetAnswer['agent'] | undefined;
  for await (const line of askAgentLines(socketPath, question)) {
    if (agent === undefined) {
      ({ agent } = headSchema.parse(line));
      continue;
    }
    const row = kind.read(line);
    if (isWanted(row, kind, flags)) rows.push(row);
  }
  if (agent === undefined) {
    throw new CliError('problem', `agent on ${socketPath}: does not say who it is`);
  }
  return { agent, kind: kind.name, rows: sorted(rows, kind) };
}

function isWanted({ fields }: GetRow, kind: GetKind, flags: GetFlags): boolean {
  const { cluster, namespace, selector } = flags;
  if (cluster !== undefined && !cluster.includes(String(fields[kind.clusterField]))) return false;
  if (namespace !== undefined && fields.namespace !== namespace) return false;
  return selector === undefined || selector(labelsSchema.parse(fields.labels));
}

/** Numbers as numbers, all else as text: the same rows are always in the same order. */
function sorted(rows: readonly GetRow[], { sortBy }: GetKind): readonly GetRow[] {
  const keyed = rows.map((row) => ({ row, keys: sortBy.map((field) => row.fields[field]) }));
  keyed.sort((a, b) => {
    for (const [index, left] of a.keys.entries()) {
      const right = b.keys[index];
      const order =
        typeof left === 'number' && typeof right === 'number'
          ? left - right
          : String(left).localeCompare(String(right), 'en', { numeric: true });
      if (order !== 0) return order;
    }
    return 0;
  });
  return keyed.map(({ row }) => row);
}

function format(
  answers: readonly GetAnswer[],
  kind: GetKind,
  { flags, paint }: { readonly flags: GetFlags; readonly paint: Paint },
): string {
  const { output } = flags;
  if (output === 'json' || output === 'yaml') {
    const value = answers.map(({ agent, kind: name, rows }) => ({
      agent,
      kind: name,
      items: rows.map(({ fields }) => fields),
    }));
    return formatValue(value, output, () => '');
  }
  const columns = kind.columns.flatMap(({ head, isWide }, index) =>
    isWide && output !== 'wide' ? [] : [{ head, index }],
  );
  const tables = answers.map(({ agent, rows }) => {
    const table = renderRows(
      columns.map(({ head }) => head),
      rows.map(({ cells }) =>
        columns.map(({ index }) => {
          const { text = '', mood } = cells[index] ?? {};
          return mood === undefined ? text : paint[mood](text);
        }),
      ),
    );
    const title = answers.length === 1 ? '' : `node ${agent.node} of cluster ${agent.cluster}:\n`;
    return `${title}${table === '' ? `no ${kind.name}\n` : table}`;
  });
  return tables.join('\n');
}
