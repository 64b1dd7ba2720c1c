/** `clustermesh peer`: the peers of a cluster, as MeshPeer objects. */
import { readFile } from 'node:fs/promises';
import { Command, InvalidArgumentError } from 'commander';
import { parseAllDocuments, parse as parseYaml } from 'yaml';
import type { CliContext } from './cli-context.ts';
import { CliError } from './cli-error.ts';
import {
  addClusterOptions,
  type ClusterAccess,
  type ClusterFlags,
  openClusterAccess,
} from './cluster-access.ts';
import { readWhole } from './lines.ts';
import {
  applyPeer,
  type ChangeHow,
  deletePeer,
  exportPeer,
  IGNORABLE_FINDINGS,
  listPeers,
  type PeerAnswer,
  type PeerChangeAnswer,
  rollbackPeer,
} from './peer-client.ts';
import { renderChange } from './peer-text.ts';
import { formatValue, type OutputFormat, outputOption, renderRows } from './policy-output.ts';
import { beginProgress } from './progress.ts';
import { collectTexts, listText } from './vm-text.ts';

/** What the command needs of the process. */
export type PeerContext = Pick<
  CliContext,
  'input' | 'print' | 'say' | 'setProblem' | 'signal' | 'isWatched'
>;

interface OutputFlags extends ClusterFlags {
  readonly output: OutputFormat;
}

interface ChangeFlags extends OutputFlags {
  readonly dryRun?: boolean;
  readonly ignore?: readonly string[];
}

/** Longer input is no MeshPeer. */
const MOST_INPUT_BYTES = 4 * 1024 * 1024;

/** Builds the command. */
export function peerCommand(context: PeerContext): Command {
  return new Command('peer')
    .addCommand(exportCommand(context))
    .addCommand(applyCommand(context))
    .addCommand(listCommand(context))
    .addCommand(deleteCommand(context))
    .addCommand(rollbackCommand(context));
}

function exportCommand(context: PeerContext): Command {
  return addClusterOptions(new Command('export'))
    .description(
      'print this cluster as a MeshPeer for others: it holds nothing secret, and may be kept in Git',
    )
    .option('-o, --output <format>', 'yaml or json', 'yaml')
    .addHelpText(
      'after',
      '\nExample:\n  clustermesh peer export --context a > a.yaml\n  clustermesh peer apply --context b -f a.yaml',
    )
    .action(async (flags: ClusterFlags & { readonly output: string }) => {
      if (flags.output !== 'yaml' && flags.output !== 'json') {
        throw new CliError('usage', `--output ${flags.output}: expected yaml or json`);
      }
      using progress = beginProgress('asking the cluster', context);
      using access = await openClusterAccess(flags, context);
      const { manifest, notes } = await exportPeer(access, context.signal);
      progress[Symbol.dispose]();
      for (const note of notes) context.say(`note: ${note}\n`);
      const isJson = flags.output === 'json';
      context.print(isJson ? `${JSON.stringify(parseYaml(manifest), null, 2)}\n` : manifest);
    });
}

function applyCommand(context: PeerContext): Command {
  return changing(new Command('apply'))
    .description(
      'take a cluster as a peer, or change one: looks first whether it can work, and refuses what cannot',
    )
    .requiredOption(
      '-f, --filename <file>',
      'what "clustermesh peer export" has printed there; -: standard input',
    )
    .addHelpText(
      'after',
      '\nExamples:\n  clustermesh peer apply --context a -f b.yaml --dry-run\n  clustermesh peer export --context b | clustermesh peer apply --context a -f -',
    )
    .action(async (flags: ChangeFlags & { readonly filename: string }) => {
      const manifests = await readManifests(flags.filename, context);
      await makeChanges(flags, context, (access, how) =>
        inTurn(manifests, (manifest) => applyPeer(access, manifest, how)),
      );
    });
}

function deleteCommand(context: PeerContext): Command {
  return addClusterOptions(new Command('delete'))
    .description(
      'part with a peer: asks nothing of it, so it may be dead; to be done on both sides',
    )
    .argument('<name...>', 'as in "clustermesh peer list"')
    .option('--dry-run', 'say what would change, change nothing')
    .addOption(outputOption())
    .action(async (names: string[], flags: ChangeFlags) => {
      await makeChanges(flags, context, (access, how) =>
        inTurn(names, (name) => deletePeer(access, name, how)),
      );
    });
}

function rollbackCommand(context: PeerContext): Command {
  return changing(new Command('rollback'))
    .description(
      'undo a change of a peer that was made by apply, delete, connect, disconnect or rollback',
    )
    .argument('<name>', 'name of the peer, which may be gone')
    .option(
      '--revision <number>',
      'the change to undo, with all after it, as in "clustermesh peer list -o yaml" (default: the latest)',
      wholeNumber,
      0,
    )
    .action(async (name: string, flags: ChangeFlags & { readonly revision: number }) => {
      const { revision } = flags;
      await makeChanges(flags, context, async (access, how) => [
        await rollbackPeer(access, { name, revision }, how),
      ]);
    });
}

function listCommand(context: PeerContext): Command {
  return addClusterOptions(new Command('list'))
    .description('show the peers and how they stand; exit code 1 when one is not ready')
    .addOption(outputOption())
    .action(async (flags: OutputFlags) => {
      using progress = beginProgress('asking the cluster', context);
      using access = await openClusterAccess(flags, context);
      const peers = await listPeers(access, context.signal);
      progress[Symbol.dispose]();
      context.print(formatValue(peers, flags.output, renderPeers));
      if (peers.some((peer) => !isReady(peer))) context.setProblem();
    });
}

/** Whether everything of a peer is in force and read. */
export function isReady({ conditions }: PeerAnswer): boolean {
  return conditions.some(({ type, status }) => type === 'Ready' && status);
}

function changing(command: Command): Command {
  return addClusterOptions(command)
    .option('--dry-run', 'say what would change, with the differences; change nothing')
    .option(
      '--ignore <id...>',
      `findings not to mind: ${IGNORABLE_FINDINGS.join(', ')}`,
      collectTexts,
      [],
    )
    .addOption(outputOption());
}

async function makeChanges(
  flags: ChangeFlags,
  context: PeerContext,
  make: (access: ClusterAccess, how: ChangeHow) => Promise<readonly PeerChangeAnswer[]>,
): Promise<void> {
  const { dryRun = false, ignore } = flags;
  using progress = beginProgress('asking the cluster', context);
  using access = await openClusterAccess(flags, context);
  progress.tell(`${dryRun ? 'looking at' : 'changing'} the peers of ${access.where}`);
  const changes = await make(access, { dryRun, ignore, signal: context.signal });
  progress[Symbol.dispose]();
  const asText = (all: readonly PeerChangeAnswer[]): string =>
    all.map((change) => renderChange(change, { dryRun })).join('');
  context.print(formatValue(changes, flags.output, asText));
  if (changes.some(({ outcome }) => outcome === 'refused')) context.setProblem();
}

/** One after the other: the second of two peers is judged beside the first. */
async function inTurn<T>(
  items: readonly T[],
  change: (item: T) => Promise<PeerChangeAnswer>,
): Promise<PeerChangeAnswer[]> {
  const changes: PeerChangeAnswer[] = [];
  for (const item of items) changes.push(await change(item));
  return changes;
}

/** The documents of a file, each as text. */
async function readManifests(file: string, { input }: PeerContext): Promise<string[]> {
  let text: string;
  try {
    text = file === '-' ? await readWhole(input, MOST_INPUT_BYTES) : await readFile(file, 'utf8');
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new CliError('usage', `cannot read ${file}: ${why}`, { cause });
  }
  const documents = parseAllDocuments(text);
  const manifests = [...documents].flatMap((document) => {
    const [error] = document.errors;
    if (error !== undefined) throw new CliError('usage', `${file} is not YAML: ${error.message}`);
    const value: unknown = document.toJS();
    return value === null ? [] : [JSON.stringify(value)];
  });
  if (manifests.length === 0) throw new CliError('usage', `${file} holds no MeshPeer`);
  return manifests;
}

function renderPeers(peers: readonly PeerAnswer[]): string {
  const rows = peers.map((peer) => {
    const ready = peer.conditions.find(({ type }) => type === 'Ready');
    return [
      peer.name,
      peer.clusterId === 0 ? '-' : String(peer.clusterId),
      ready?.status === true ? 'ready' : (ready?.reason ?? '-'),
      ready?.since ?? '-',
      listText(peer.endpoints),
      peer.certificateNotAfter ?? '-',
      peer.source,
    ];
  });
  const head = ['NAME', 'ID', 'STATE', 'SINCE', 'ENDPOINTS', 'CERTIFICATE UNTIL', 'FROM'];
  const table = renderRows(head, rows);
  const causes = peers.flatMap(({ name, conditions }) =>
    conditions
      .filter(({ type, status }) => type === 'Ready' && !status)
      .map(({ message }) => `${name}: ${message}\n`),
  );
  return [table === '' ? 'no peers\n' : table, ...causes].join('');
}

function wholeNumber(text: string): number {
  const number = Number(text);
  if (Number.isSafeInteger(number) && number > 0) return number;
  throw new InvalidArgumentError('expected a whole number of 1 or more');
}
