/** `clustermesh map dump`: what the kernel holds, read back and decoded by the agent. */
import { Argument, Command } from 'commander';
import { z } from 'zod';
import { askAgent } from './agent-client.ts';
import { type AskingFlags, addAgentOptions, askEachAgent } from './agent-options.ts';
import type { CliContext } from './cli-context.ts';
import { formatValue, type OutputFormat, outputOption, renderRows } from './policy-output.ts';

interface MapFlags extends AskingFlags {
  readonly output: OutputFormat;
}

const backends = z.array(
  z.looseObject({ address: z.string(), port: z.number(), clusterId: z.number() }),
);

/** Columns of each map; JSON has every field. */
const MAPS = {
  ipcache: columns(
    z.looseObject({
      prefix: z.string(),
      identity: z.number(),
      tunnelEndpoint: z.string().optional(),
      clusterId: z.number(),
    }),
    ['PREFIX', 'IDENTITY', 'TUNNEL TO', 'CLUSTER ID'],
    (row) => [row.prefix, row.identity, row.tunnelEndpoint ?? '-', row.clusterId],
  ),
  endpoints: columns(
    z.looseObject({
      endpointId: z.number(),
      addresses: z.array(z.string()),
      hostInterface: z.string(),
      identity: z.number(),
      ingressEnforced: z.boolean(),
      egressEnforced: z.boolean(),
      audit: z.boolean(),
    }),
    ['ENDPOINT', 'ADDRESSES', 'INTERFACE', 'IDENTITY', 'INGRESS', 'EGRESS', 'AUDIT'],
    (row) => [
      row.endpointId,
      row.addresses.join(',') || '-',
      row.hostInterface || '-',
      row.identity,
      row.ingressEnforced ? 'policy' : 'open',
      row.egressEnforced ? 'policy' : 'open',
      row.audit ? 'on' : 'off',
    ],
  ),
  policy: columns(
    z.looseObject({
      endpointId: z.number(),
      direction: z.string(),
      identity: z.number(),
      protocol: z.number(),
      port: z.number(),
      portPrefixBits: z.number(),
      verdict: z.string(),
    }),
    ['ENDPOINT', 'DIRECTION', 'IDENTITY', 'PROTOCOL', 'PORT', 'VERDICT'],
    (row) => [
      row.endpointId,
      row.direction,
      row.identity === 0 ? 'any' : row.identity,
      row.protocol === 0 ? 'any' : row.protocol,
      portRange(row.port, row.portPrefixBits),
      row.verdict,
    ],
  ),
  services: columns(
    z.looseObject({
      address: z.string(),
      port: z.number(),
      protocol: z.string(),
      scope: z.string(),
      algorithm: z.string(),
      affinitySeconds: z.number(),
      backends,
      draining: backends,
    }),
    ['ADDRESS', 'PORT', 'CALLED FROM', 'ALGORITHM', 'AFFINITY', 'BACKENDS', 'DRAINING'],
    (row) => [
      row.address,
      `${row.port}/${row.protocol}`,
      row.scope === 'internal' ? 'this node' : 'outside',
      row.algorithm,
      row.affinitySeconds === 0 ? '-' : `${row.affinitySeconds} s`,
      backendsText(row.backends),
      backendsText(row.draining),
    ],
  ),
} as const;
type MapName = keyof typeof MAPS;
const MAP_NAMES = Object.keys(MAPS) as readonly MapName[];

const answerSchema = z.object({ name: z.string(), rows: z.array(z.unknown()) });

/** What one agent read from one map. */
interface MapAnswer {
  readonly socketPath: string;
  readonly map: MapName;
  readonly rows: readonly unknown[];
}

/** Builds the command. */
export function mapCommand(
  context: Pick<CliContext, 'print' | 'say' | 'setProblem' | 'isWatched' | 'signal'>,
): Command {
  const command = new Command('map');
  addAgentOptions(command.command('dump'))
    .description("print the rows of the kernel's maps, read from the kernel itself and decoded")
    .addArgument(new Argument('[map]', 'one of them (default: all)').choices([...MAP_NAMES]))
    .addOption(outputOption())
    .action(async (wanted: MapName | undefined, flags: MapFlags) => {
      const { signal } = context;
      const dump = async (socketPath: string): Promise<MapAnswer[]> => {
        const answers: MapAnswer[] = [];
        for (const map of wanted === undefined ? MAP_NAMES : [wanted]) {
          const question = { path: `/v1/maps/${map}`, timeoutMs: flags.timeout * 1000, signal };
          const { rows } = answerSchema.parse(await askAgent(socketPath, question));
          answers.push({ socketPath, map, rows });
        }
        return answers;
      };
      const answers = await askEachAgent(flags, dump, context);
      context.print(formatValue(answers.flat(), flags.output, renderMaps));
    });
  return command;
}

function renderMaps(answers: readonly MapAnswer[]): string {
  return answers
    .map(({ socketPath, map, rows }) => {
      const table = MAPS[map].render(rows);
      const title = answers.length === 1 ? '' : `${map} of ${socketPath}, ${rows.length} rows:\n`;
      return `${title}${table === '' ? 'no rows\n' : table}`;
    })
    .join('\n');
}

function columns<Row>(
  schema: z.ZodType<Row>,
  head: readonly string[],
  cells: (row: Row) => readonly (string | number)[],
): { readonly render: (rows: readonly unknown[]) => string } {
  return {
    render: (rows) =>
      renderRows(
        head,
        // The kernel has an order of its own; people look for a row.
        rows
          .map((row) => cells(schema.parse(row)))
          .sort((a, b) => a.join(' ').localeCompare(b.join(' '), 'en', { numeric: true })),
      ),
  };
}

function backendsText(all: z.infer<typeof backends>): string {
  const texts = all.map(({ address, port }) =>
    address.includes(':') ? `[${address}]:${port}` : `${address}:${port}`,
  );
  return texts.join(',') || '-';
}

/** Ports whose first bits are those of `port`. */
function portRange(port: number, bits: number): string {
  if (bits === 0) return 'any';
  if (bits === 16) return String(port);
  return `${port}-${port + 2 ** (16 - bits) - 1}`;
}
