/** Cilium's own reading and writing code, called as the program kvtool (`e2e/peers/kvtool`). */
import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { z } from 'zod';
import { systemClock } from '../../mesh/runtime/clock.ts';

/** A key and its value; whose they are, where the key does not say it. */
export interface PeerPair {
  readonly key: string;
  readonly value: Buffer;
  readonly cluster: string;
  readonly clusterId: number;
}

/** What Cilium's reader makes of a pair. */
export interface PeerVerdict {
  readonly key: string;
  readonly kind: string;
  readonly valid: boolean;
  readonly error?: string | undefined;
  /** The value as this version of Cilium writes it; undefined for keys whose values it does not look into. */
  readonly value: Buffer | undefined;
}

/** What happened at Cilium's reader. */
export interface ReaderEvent {
  readonly event: 'config' | 'accepted' | 'removed' | 'refused' | 'listed' | 'synced';
  readonly kind: string;
  readonly key: string;
  readonly value: Buffer;
  readonly error: string;
}

/** A cluster kept by Cilium's writing code. Disposing ends it and leaves what it wrote until its lease ends. */
export interface PeerPublisher extends AsyncDisposable {
  /** Writes a pair of the cluster; Cilium's types decode and write it anew. */
  put(key: string, value: string): void;
  delete(key: string): void;
}

/** Which cluster, for the programs. */
export interface PeerCluster {
  readonly name: string;
  readonly id: number;
  readonly maxClusters?: 255 | 511;
}

/** How to reach an etcd: its client file, or the URL of one without TLS. */
export type PeerEtcd = { readonly configFile: string } | { readonly endpoint: string };

const encoded = { value: z.string().default(''), encoding: z.string().default('utf8') };
const pairLine = z.object({
  key: z.string(),
  cluster: z.string(),
  clusterId: z.number(),
  ...encoded,
});
const verdictLine = z.object({
  key: z.string(),
  kind: z.string(),
  valid: z.boolean(),
  error: z.string().optional(),
  ...encoded,
});
const eventLine = z.object({
  event: z.enum(['config', 'accepted', 'removed', 'refused', 'listed', 'synced']),
  kind: z.string().default(''),
  key: z.string().default(''),
  error: z.string().default(''),
  ...encoded,
});

/** Random pairs of all kinds, of random clusters up to the highest id, as Cilium's types write them. */
export async function randomPairs(
  kvtool: string,
  options: { readonly count: number; readonly seed: number; readonly maxClusters: 255 | 511 },
): Promise<PeerPair[]> {
  const { count, seed, maxClusters } = options;
  const flags = [`--count=${count}`, `--seed=${seed}`, `--max-clusters=${maxClusters}`];
  const lines = await run(kvtool, ['random', ...flags], []);
  return lines.map((line) => {
    const { key, cluster, clusterId, ...rest } = pairLine.parse(JSON.parse(line));
    return { key, cluster, clusterId, value: bytesOf(rest) };
  });
}

/** Asks Cilium's readers about pairs; one answer a pair, in their order. */
export async function validatePairs(
  kvtool: string,
  pairs: readonly PeerPair[],
  options: { readonly maxClusters: 255 | 511 },
): Promise<PeerVerdict[]> {
  const input = pairs.map(({ value, ...rest }) =>
    JSON.stringify({ ...rest, value: value.toString('base64'), encoding: 'base64' }),
  );
  const lines = await run(kvtool, ['validate', `--max-clusters=${options.maxClusters}`], input);
  return lines.map((line) => {
    const { value, encoding, ...rest } = verdictLine.parse(JSON.parse(line));
    return { ...rest, value: value === '' ? undefined : bytesOf({ value, encoding }) };
  });
}

/** Reads a cluster once as an agent and an operator of Cilium do: everything until every kind is listed. */
export async function readCluster(
  kvtool: string,
  cluster: PeerCluster,
  etcd: PeerEtcd,
): Promise<ReaderEvent[]> {
  const lines = await run(kvtool, ['read', '--once', ...flagsOf(cluster, etcd)], []);
  return lines.map((line) => {
    const { value, encoding, ...rest } = eventLine.parse(JSON.parse(line));
    return { ...rest, value: bytesOf({ value, encoding }) };
  });
}

/** Publishes a random cluster of the given size by Cilium's code; resolves when its synced markers are written. */
export async function openPeerPublisher(
  kvtool: string,
  cluster: PeerCluster,
  options: {
    readonly etcd: PeerEtcd;
    readonly seed?: number;
    /** Entries by kind: `node`, `identity`, `ip`, `service`, `service-export`, from 1.20 on `endpoint-slice`. */
    readonly sizes?: Readonly<Record<string, number>>;
  },
): Promise<PeerPublisher> {
  const { etcd, seed = 1, sizes = {} } = options;
  const counts = Object.entries(sizes).map(([kind, count]) => `--${kind}=${count}`);
  const child = start(kvtool, [
    'publish',
    '--qps=10000',
    `--seed=${seed}`,
    ...counts,
    ...flagsOf(cluster, etcd),
  ]);
  const ended = new Promise<string>((resolve) => {
    let said = '';
    child.stderr.on('data', (chunk: Buffer) => {
      said = (said + chunk.toString('utf8')).slice(-2000);
    });
    child.once('close', () => resolve(said));
    child.once('error', (error) => resolve(error.message));
  });
  const synced = new Promise<void>((resolve) => {
    createInterface({ input: child.stdout }).once('line', () => resolve());
  });
  const early = await Promise.race([synced, ended]);
  if (typeof early === 'string') throw new Error(`kvtool publish ended: ${early}`);
  const send = (op: 'put' | 'delete', line: { key: string; value?: string }): void => {
    child.stdin.write(`${JSON.stringify({ op, ...line })}\n`);
  };
  return {
    put: (key, value) => send('put', { key, value }),
    delete: (key) => send('delete', { key }),
    async [Symbol.asyncDispose]() {
      child.stdin.end();
      await ended;
    },
  };
}

function flagsOf({ name, id, maxClusters = 255 }: PeerCluster, etcd: PeerEtcd): string[] {
  return [
    `--cluster=${name}`,
    `--cluster-id=${id}`,
    `--max-clusters=${maxClusters}`,
    'configFile' in etcd ? `--etcd-config=${etcd.configFile}` : `--endpoint=${etcd.endpoint}`,
  ];
}

function bytesOf({ value, encoding }: { value: string; encoding: string }): Buffer {
  return Buffer.from(value, encoding === 'base64' ? 'base64' : 'utf8');
}

/** It ends with us, however we end. */
function start(kvtool: string, args: readonly string[]): ChildProcessWithoutNullStreams {
  return spawn('setpriv', ['--pdeathsig=KILL', '--', kvtool, ...args], {
    stdio: ['pipe', 'pipe', 'pipe'],
  });
}

/** Runs it to its end with lines of input, and resolves to its lines of output. */
async function run(
  kvtool: string,
  args: readonly string[],
  input: readonly string[],
): Promise<string[]> {
  const started = systemClock.monotonic();
  const child = start(kvtool, args);
  const out: Buffer[] = [];
  const said: Buffer[] = [];
  child.stdout.on('data', (chunk: Buffer) => out.push(chunk));
  child.stderr.on('data', (chunk: Buffer) => said.push(chunk));
  // It reads no further once it fails; what it says about that is the error.
  child.stdin.on('error', (error) => said.push(Buffer.from(error.message)));
  child.stdin.end(input.map((line) => `${line}\n`).join(''));
  const code = await new Promise<number | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  });
  if (code !== 0) {
    const seconds = Math.round((systemClock.monotonic() - started) / 1000);
    const why = Buffer.concat(said).toString('utf8').slice(-2000);
    throw new Error(`kvtool ${args.join(' ')} failed after ${seconds} s: ${why}`);
  }
  return Buffer.concat(out).toString('utf8').split('\n').filter(Boolean);
}
