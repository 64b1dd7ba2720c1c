/** `clustermesh kv`: what is in an etcd of the mesh, and whether a reader would take it. */
import { readFile } from 'node:fs/promises';
import { basename } from 'node:path';
import { Command, InvalidArgumentError, Option } from 'commander';
import { readEtcdClientConfig } from '../mesh/kvstore/client-config.ts';
import { type EtcdOptions, openEtcd } from '../mesh/kvstore/etcd.ts';
import { type MaxConnectedClusters, parseClusterName } from '../mesh/wire/ids.ts';
import { parseSeconds } from './agent-options.ts';
import { CliError } from './cli-error.ts';
import { decodeLines } from './kv-decode.ts';
import { dumpStore } from './kv-dump.ts';
import type { PipeWriter } from './pipe-writer.ts';

/** What the command needs of the process. */
export interface KvContext {
  readonly input: AsyncIterable<Buffer>;
  readonly output: () => PipeWriter;
  readonly say: (text: string) => void;
  readonly setProblem: () => void;
  readonly signal: AbortSignal;
}

interface DumpFlags {
  readonly config?: string;
  readonly endpoints?: readonly string[];
  readonly ca?: string;
  readonly cert?: string;
  readonly key?: string;
  readonly cluster?: string;
  readonly prefix: readonly string[];
  readonly output: 'jsonl' | 'table';
  readonly maxClusters: MaxConnectedClusters;
  readonly timeout: number;
}

/** Builds the command. */
export function kvCommand(context: KvContext): Command {
  const command = new Command('kv');
  command
    .command('decode')
    .description(
      'judge pairs: reads JSON lines {"key","value"} (with "encoding":"base64" where the value is not text), writes JSON lines {"key","kind","cluster","valid","error","value"}; exit code 1 if one is invalid',
    )
    .addOption(maxClustersOption())
    .action(async (flags: { maxClusters: MaxConnectedClusters }) => {
      const { invalid } = await decodeLines(context.input, context.output(), {
        max: flags.maxClusters,
      });
      if (invalid > 0) context.setProblem();
    });
  command
    .command('dump')
    .description(
      'print every pair of a live etcd, a mirror or a peer that its certificate may read',
    )
    .option('--config <file>', 'client file of a peer, in the format of Cilium')
    .option('--endpoints <url>', 'URL of an etcd (may be repeated, or a list with commas)', collect)
    .option('--ca <file>', 'authority that verifies the server')
    .option('--cert <file>', 'certificate that we show')
    .option('--key <file>', 'its key')
    .option(
      '--cluster <name>',
      'whose etcd it is, for readers that may read one cluster only (default with --config: its file name)',
    )
    .option('--prefix <prefix>', 'what to read (may be repeated; default: all)', collect, [])
    .addOption(
      new Option('-o, --output <format>', 'how to print it; jsonl can be given to decode')
        .choices(['jsonl', 'table'])
        .default('jsonl'),
    )
    .option('--timeout <seconds>', 'how long an answer may take', parseSeconds, 10)
    .addOption(maxClustersOption())
    .action(async (flags: DumpFlags) => {
      const { etcd, cluster } = await etcdOf(flags);
      await using store = await openEtcd({ ...etcd, callTimeoutMs: flags.timeout * 1000 });
      await dumpStore(store, context.output(), {
        prefixes: flags.prefix,
        cluster,
        output: flags.output,
        max: flags.maxClusters,
        say: context.say,
        signal: context.signal,
      });
    });
  return command;
}

/** 511 by default: whatever is valid in a mesh of 255 is valid in the larger one. */
function maxClustersOption(): Option {
  return new Option(
    '--max-clusters <count>',
    'size of the mesh, 255 or 511: bounds ids of clusters',
  )
    .argParser((text): MaxConnectedClusters => {
      if (text === '255') return 255;
      if (text === '511') return 511;
      throw new InvalidArgumentError('expected 255 or 511');
    })
    .default(511);
}

async function etcdOf(
  flags: DumpFlags,
): Promise<{ readonly etcd: EtcdOptions; readonly cluster: string | undefined }> {
  if ((flags.config === undefined) === (flags.endpoints === undefined)) {
    throw new CliError('usage', 'give --config, or --endpoints with --ca, --cert and --key');
  }
  if (flags.cluster !== undefined) checkCluster(flags.cluster);
  if (flags.config !== undefined) {
    if ([flags.ca, flags.cert, flags.key].some((file) => file !== undefined)) {
      throw new CliError(
        'usage',
        '--config names certificates itself: leave out --ca, --cert, --key',
      );
    }
    const { endpoints, tls, hostAliases } = await readEtcdClientConfig(flags.config);
    return {
      etcd: { endpoints, hostAliases, ...(tls === undefined ? {} : { tls }) },
      cluster: flags.cluster ?? clusterOfFile(flags.config),
    };
  }
  const endpoints = (flags.endpoints ?? []).flatMap((list) => list.split(','));
  if (endpoints.every((url) => url.startsWith('http://'))) {
    return { etcd: { endpoints }, cluster: flags.cluster };
  }
  const { ca, cert, key } = flags;
  if (ca === undefined || cert === undefined || key === undefined) {
    throw new CliError('usage', 'endpoints with https:// need --ca, --cert and --key');
  }
  const tls = {
    ca: await readFileOf(ca),
    cert: await readFileOf(cert),
    key: await readFileOf(key),
  };
  return { etcd: { endpoints, tls }, cluster: flags.cluster };
}

/** Agents' files of peers are named for the cluster; any other name says nothing. */
function clusterOfFile(path: string): string | undefined {
  try {
    return parseClusterName(basename(path));
  } catch {
    return undefined;
  }
}

function checkCluster(name: string): void {
  try {
    parseClusterName(name);
  } catch (cause) {
    throw new CliError('usage', `--cluster: ${cause instanceof Error ? cause.message : cause}`, {
      cause,
    });
  }
}

async function readFileOf(path: string): Promise<Buffer> {
  try {
    return await readFile(path);
  } catch (cause) {
    throw new CliError(
      'usage',
      `cannot read ${path}: ${cause instanceof Error ? cause.message : String(cause)}`,
      { cause },
    );
  }
}

function collect(text: string, before: readonly string[] | undefined): string[] {
  return [...(before ?? []), text];
}
