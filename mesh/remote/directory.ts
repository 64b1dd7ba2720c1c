import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createBell } from '../runtime/bell.ts';
import type { Clock } from '../runtime/clock.ts';
import { watchDirectory } from '../runtime/watch-directory.ts';
import { type ClusterName, parseClusterName } from '../wire/ids.ts';
import type { PeerConnection } from './peer.ts';

/** Files are read again this often, since certificates that they name may lie elsewhere. */
const RESCAN_MS = 5000;
/** What Cilium takes a file for a peer's by. */
const PEER_MARK = 'endpoints:';

/** A peer by its file. At least one of the two is there. */
export interface PeerFile {
  /** From the last content that could be read. */
  readonly connection: PeerConnection | undefined;
  /** Why the file as it is now cannot be used. */
  readonly problem: string | undefined;
}

/** The directory at one time. */
export interface PeerDirectory {
  readonly peers: ReadonlyMap<ClusterName, PeerFile>;
  /** Files that are no peers, and why, where somebody may have meant otherwise. */
  readonly notes: readonly string[];
}

/**
 * Yields the peers of a directory of etcd client files in Cilium's layout (a file a peer, named like the cluster; Cilium
 * `pkg/clustermesh/common/config.go`): first as it is, then on each change of a file or of a certificate it names. A
 * file that cannot be read keeps the connection of its last good content. Yields nothing while the directory itself
 * cannot be read, except a note in `onUnreadable`. Ends when `signal` aborts.
 */
export async function* watchPeerDirectory(
  directory: string,
  options: {
    readonly ownName: ClusterName;
    readonly readConnection: (path: string) => Promise<PeerConnection>;
    readonly onUnreadable: (problem: string) => void;
    readonly signal: AbortSignal;
    readonly clock: Clock;
    readonly rescanMs?: number;
  },
): AsyncGenerator<PeerDirectory, void, undefined> {
  const { signal, clock, rescanMs = RESCAN_MS } = options;
  const bell = createBell();
  let files: ReadonlyMap<string, Buffer> | undefined;
  const watching = (async () => {
    const snapshots = watchDirectory(directory, {
      signal,
      clock,
      rescanMs,
      onError: (error, file) => {
        if (file === undefined) {
          options.onUnreadable(`cannot read the directory of peers ${directory}: ${error.message}`);
        }
      },
    });
    for await (const snapshot of snapshots) {
      files = snapshot;
      bell.ring();
    }
  })();
  signal.addEventListener('abort', () => bell.ring(), { once: true });
  let before: PeerDirectory | undefined;
  try {
    while (!signal.aborted) {
      await bell.wait(rescanMs, clock);
      bell.clear();
      if (files === undefined || signal.aborted) continue;
      const view = await readPeers(directory, files, { ...options, before });
      if (before !== undefined && sameView(before, view)) continue;
      before = view;
      yield view;
    }
  } finally {
    if (signal.aborted) await watching;
  }
}

/** Names of the files in such a directory that are peers', the own cluster's included, sorted. Rejects when it cannot be read. */
export async function listPeerFiles(directory: string): Promise<ClusterName[]> {
  const names = (await readdir(directory)).flatMap((file) => clusterNameOf(file) ?? []).sort();
  const marked = await Promise.all(
    names.map(async (name) => {
      // Gone or not readable since: it is a peer's by its name, and whoever uses it says what is wrong.
      const content = await readFile(join(directory, name)).catch(() => Buffer.from(PEER_MARK));
      return content.includes(PEER_MARK);
    }),
  );
  return names.filter((_, index) => marked[index] === true);
}

async function readPeers(
  directory: string,
  files: ReadonlyMap<string, Buffer>,
  options: {
    ownName: ClusterName;
    readConnection: (path: string) => Promise<PeerConnection>;
    before: PeerDirectory | undefined;
  },
): Promise<PeerDirectory> {
  const peers = new Map<ClusterName, PeerFile>();
  const notes: string[] = [];
  for (const [file, content] of files) {
    const name = clusterNameOf(file);
    const isPeer = content.includes(PEER_MARK);
    const last = name === undefined ? undefined : options.before?.peers.get(name);
    if (name === undefined || (!isPeer && last === undefined)) {
      if (isPeer)
        notes.push(`file ${file} is ignored: a peer's file must bear the name of its cluster`);
      else if (name !== undefined && !file.includes('.') && !isPem(content)) {
        notes.push(`file ${file} is ignored: it has no "${PEER_MARK}"`);
      }
      continue;
    }
    if (name === options.ownName) {
      notes.push(
        `file ${file} is ignored: it is named like this cluster, which is not its own peer`,
      );
      continue;
    }
    try {
      if (!isPeer) throw new Error(`it has no "${PEER_MARK}", it may be half written`);
      peers.set(name, {
        connection: await options.readConnection(join(directory, file)),
        problem: undefined,
      });
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      const path = join(directory, file);
      const where = reason.includes(path) ? reason : `cannot use ${path}: ${reason}`;
      const kept = last?.connection === undefined ? '' : ' (its last good content stays in use)';
      peers.set(name, { connection: last?.connection, problem: `${where}${kept}` });
    }
  }
  return { peers, notes };
}

function clusterNameOf(file: string): ClusterName | undefined {
  try {
    return parseClusterName(file);
  } catch {
    // Certificates and keys lie in the same directory; their names are no cluster's.
    return undefined;
  }
}

function isPem(content: Buffer): boolean {
  return content.includes('-----BEGIN ');
}

function sameView(a: PeerDirectory, b: PeerDirectory): boolean {
  if (a.notes.join('\n') !== b.notes.join('\n') || a.peers.size !== b.peers.size) return false;
  for (const [name, file] of b.peers) {
    const other = a.peers.get(name);
    if (other === undefined || other.problem !== file.problem) return false;
    if (other.connection?.fingerprint !== file.connection?.fingerprint) return false;
  }
  return true;
}
