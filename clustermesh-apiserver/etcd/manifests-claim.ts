/**
 * Keeps a second apiserver with an etcd of its own from publishing the same manifests: two of them would give the same labels
 * different numbers, and readers behind one name would see now the one and now the other. Replicas share one etcd; where
 * Kubernetes is the arbiter each may have its own, but then it is Kubernetes that is read, not a directory.
 *
 * The claim is a hidden file in the directory that its owner rewrites again and again. It shows two that share the directory,
 * on one host or over a network. Two that publish copies of it cannot know of each other.
 */
import { readFile, readlink, rename, rm, writeFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { z } from 'zod';
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import { EtcdError } from './etcd-error.ts';
import { isAlive, nameProcess } from './owner-file.ts';

const BEAT_MS = 3_000;
/** Silence after which an owner on another host is taken for dead. */
const SILENCE_MS = 10_000;
const POLL_MS = 250;

const claimSchema = z.object({
  schema: z.literal(1),
  host: z.string(),
  /** Names the host's run and its namespace of process numbers: only within it a number says anything. */
  scope: z.string(),
  pid: z.number(),
  startTicks: z.string(),
  dataDir: z.string(),
  beat: z.number(),
});
type Claim = z.infer<typeof claimSchema>;

/** The claim. Disposing gives it up. */
export interface ManifestsClaim extends AsyncDisposable {
  /** Resolves when it is disposed of or the signal aborts; rejects with EtcdError `second-replica` when another took it. */
  readonly ended: Promise<void>;
}

/**
 * Claims a directory for a cluster's apiserver with an etcd of its own. Throws EtcdError `second-replica` with the reason when
 * another one publishes it. A directory that cannot be written to is not claimed, which is logged.
 */
export async function claimManifests(
  directory: string,
  options: {
    readonly clusterName: string;
    readonly dataDir: string;
    readonly clock: Clock;
    readonly logger: Logger;
    readonly signal: AbortSignal;
  },
): Promise<ManifestsClaim> {
  const { clusterName, dataDir, clock, logger } = options;
  const path = join(directory, `.isthmus-${clusterName}.owner`);
  const self = await nameProcess(process.pid);
  if (self === undefined) throw new Error('cannot read /proc/self/stat: /proc must be there');
  const own = {
    schema: 1 as const,
    host: hostname(),
    scope: await processScope(),
    ...self,
    dataDir,
  };
  const isOwn = (claim: Claim | undefined): boolean =>
    claim?.scope === own.scope &&
    claim.pid === own.pid &&
    claim.startTicks === own.startTicks &&
    claim.dataDir === dataDir;
  const refuse = (by: Claim): EtcdError =>
    new EtcdError(
      'second-replica',
      `cannot publish ${directory}: another apiserver of cluster ${clusterName} with an etcd of its own does (host ${by.host}, process ${by.pid}, data directory ${by.dataDir}); replicas share one etcd: give all of them the same --etcd-endpoints, or stop the other one`,
      { retryable: false },
    );

  const found = await readClaim(path);
  if (found !== undefined && !isOwn(found)) {
    if (await isInUse(found, path, { ...options, scope: own.scope })) throw refuse(found);
    logger.info(
      { path, host: found.host, pid: found.pid },
      'the claim of a dead apiserver is taken',
    );
  }
  let beat = 0;
  const write = async (): Promise<void> => {
    beat += 1;
    const temporary = `${path}.${process.pid}`;
    await writeFile(temporary, JSON.stringify({ ...own, beat } satisfies Claim));
    await rename(temporary, path);
  };
  try {
    await write();
  } catch (error) {
    logger.warn(
      { path, err: error },
      'cannot claim the manifests: a second apiserver with an etcd of its own would not be noticed',
    );
    return { ended: Promise.resolve(), [Symbol.asyncDispose]: () => Promise.resolve() };
  }
  const stopping = new AbortController();
  const stop = AbortSignal.any([options.signal, stopping.signal]);
  const keep = async (): Promise<void> => {
    for (;;) {
      await clock.sleep(BEAT_MS, stop).catch(() => undefined);
      if (stop.aborted) return;
      const now = await readClaim(path);
      if (now !== undefined && !isOwn(now)) throw refuse(now);
      await write().catch((error: unknown) => {
        logger.warn({ path, err: error }, 'cannot renew the claim on the manifests');
      });
    }
  };
  const ended = keep();
  // Whoever does not ask for it need not handle it.
  ended.catch(() => undefined);
  return {
    ended,
    async [Symbol.asyncDispose]() {
      stopping.abort();
      await ended.catch(() => undefined);
      if (isOwn(await readClaim(path))) await rm(path, { force: true });
    },
  };
}

/** Whether the claim's owner lives: known at once on this host, elsewhere by its rewriting the file. */
async function isInUse(
  claim: Claim,
  path: string,
  options: { readonly scope: string; readonly clock: Clock; readonly signal: AbortSignal },
): Promise<boolean> {
  const { scope, clock, signal } = options;
  if (claim.scope === scope) return isAlive({ pid: claim.pid, startTicks: claim.startTicks });
  const deadline = clock.monotonic() + SILENCE_MS;
  while (clock.monotonic() < deadline) {
    await clock.sleep(POLL_MS, signal);
    const now = await readClaim(path);
    if (now === undefined) return false;
    if (now.beat !== claim.beat || now.pid !== claim.pid) return true;
  }
  return false;
}

/** Undefined when there is none, or none of ours. */
async function readClaim(path: string): Promise<Claim | undefined> {
  try {
    const parsed = claimSchema.safeParse(JSON.parse(await readFile(path, 'utf8')));
    return parsed.success ? parsed.data : undefined;
  } catch {
    return undefined;
  }
}

async function processScope(): Promise<string> {
  const boot = await readFile('/proc/sys/kernel/random/boot_id', 'utf8').catch(() => '');
  const namespace = await readlink('/proc/self/ns/pid').catch(() => '');
  return `${boot.trim()} ${namespace}`;
}
