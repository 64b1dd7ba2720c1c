/** `clustermesh kv dump`: what an etcd of the mesh holds, as far as the caller may read it. */
import Table from 'cli-table3';
import { KvError, type KvPair, type KvStore } from '../mesh/kvstore/kvstore.ts';
import { type MaxConnectedClusters, parseClusterName } from '../mesh/wire/ids.ts';
import { inspectPair } from '../mesh/wire/inspect.ts';
import {
  CLUSTER_CONFIG_PREFIX,
  clusterConfigKey,
  HEARTBEAT_KEY,
  LOCAL_DIGEST_PREFIX,
  LOCAL_IDENTITIES_PREFIX,
  LOCAL_IPS_PREFIX,
  LOCAL_POLICIES_PREFIX,
  LOCAL_SERVICES_PREFIX,
  MESH_PREFIX,
  SYNCED_PREFIX,
  syncedPrefix,
} from '../mesh/wire/keys.ts';
import { CliError } from './cli-error.ts';
import { pairLine } from './kv-decode.ts';
import type { PipeWriter } from './pipe-writer.ts';

const EXCERPT_LENGTH = 60;

/** Something to read: everything below a prefix, or one key. */
type Target = { readonly prefix: string } | { readonly key: string };

/** Options of `dumpStore`. */
export interface DumpOptions {
  /** What to read; empty for all that anybody of the mesh may read. */
  readonly prefixes: readonly string[];
  /** Whose etcd it is: a remote reader may read only this cluster's configuration and markers. */
  readonly cluster: string | undefined;
  readonly output: 'jsonl' | 'table';
  readonly max: MaxConnectedClusters;
  /** Says something that is no answer, such as what may not be read. */
  readonly say: (text: string) => void;
  readonly signal: AbortSignal;
}

/**
 * Writes every pair, in the order of their keys within each prefix. Throws CliError `unreachable` when nobody answers,
 * `problem` when nothing of what was asked for may be read.
 */
export async function dumpStore(
  store: KvStore,
  writer: PipeWriter,
  options: DumpOptions,
): Promise<void> {
  const rows: string[][] = [];
  let denied = 0;
  const targets = targetsOf(options);
  for (const target of targets) {
    const pairs = await readTarget(store, target, options);
    if (pairs === undefined) {
      denied += 1;
      options.say(`cannot read ${nameOf(target)}: permission denied\n`);
      continue;
    }
    for (const pair of pairs) {
      if (options.output === 'table') rows.push(tableRow(pair, options.max));
      else await writer.write(`${JSON.stringify(pairLine(pair.key, pair.value))}\n`);
      if (writer.isClosed) return;
    }
  }
  if (denied === targets.length) {
    throw new CliError(
      'problem',
      'nothing of this may be read: use the certificate of a remote, a node or an administrator',
    );
  }
  if (options.output === 'table') await writer.write(`${renderTable(rows)}\n`);
  await writer.flush();
}

function targetsOf({ prefixes, cluster }: DumpOptions): Target[] {
  if (prefixes.length > 0) {
    // A prefix may be meant as the name of one key, too; both are asked for.
    return prefixes.flatMap((prefix): Target[] =>
      prefix.endsWith('/') ? [{ prefix }] : [{ key: prefix }, { prefix: `${prefix}/` }],
    );
  }
  const name = cluster === undefined ? undefined : parseClusterName(cluster);
  return [
    { key: HEARTBEAT_KEY },
    name === undefined ? { prefix: CLUSTER_CONFIG_PREFIX } : { key: clusterConfigKey(name) },
    { prefix: name === undefined ? SYNCED_PREFIX : syncedPrefix(name) },
    { prefix: 'cilium/state/' },
    { prefix: 'cilium/cache/' },
    { prefix: MESH_PREFIX },
    { prefix: LOCAL_IPS_PREFIX },
    { prefix: LOCAL_IDENTITIES_PREFIX },
    { prefix: LOCAL_DIGEST_PREFIX },
    { prefix: LOCAL_SERVICES_PREFIX },
    { prefix: LOCAL_POLICIES_PREFIX },
  ];
}

/** Undefined for what may not be read. */
async function readTarget(
  store: KvStore,
  target: Target,
  { signal }: DumpOptions,
): Promise<readonly KvPair[] | undefined> {
  try {
    if ('prefix' in target) return (await store.list(target.prefix, { signal })).pairs;
    const pair = await store.get(target.key, { signal });
    return pair === undefined ? [] : [pair];
  } catch (cause) {
    if (!(cause instanceof KvError)) throw cause;
    switch (cause.code) {
      case 'permission-denied':
        return undefined;
      case 'unavailable':
        throw new CliError('unreachable', cause.message, { cause });
      case 'timeout':
        throw new CliError('timeout', cause.message, { cause });
      default:
        throw new CliError('problem', cause.message, { cause });
    }
  }
}

function tableRow({ key, value }: KvPair, max: MaxConnectedClusters): string[] {
  const { kind, cluster, error } = inspectPair(key, value, max);
  const { value: text } = pairLine(key, value);
  const excerpt = text.length > EXCERPT_LENGTH ? `${text.slice(0, EXCERPT_LENGTH)}…` : text;
  return [key, kind, cluster ?? '', String(value.length), error?.message ?? excerpt];
}

function renderTable(rows: readonly string[][]): string {
  const table = new Table({
    head: ['key', 'kind', 'cluster', 'bytes', 'value, or what is wrong with it'],
    style: { head: [], border: [], compact: true },
    colAligns: ['left', 'left', 'left', 'right', 'left'],
  });
  for (const row of rows) table.push(row);
  return table.toString();
}

function nameOf(target: Target): string {
  return 'prefix' in target ? target.prefix : target.key;
}
