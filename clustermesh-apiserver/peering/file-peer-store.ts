/** Peers in a directory: a file a peer, `NAME.yaml`. */
import { readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Clock } from '../../mesh/runtime/clock.ts';
import { createFreshLook } from '../../mesh/runtime/fresh-look.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import { watchDirectory } from '../../mesh/runtime/watch-directory.ts';
import type { ClusterName } from '../../mesh/wire/ids.ts';
import { ObjectError } from '../sources/object-error.ts';
import { formatMeshPeer, parseMeshPeerText } from './mesh-peer.ts';
import type { PeerListing, PeerProblem, PeerStore, StoredPeer } from './peer-store.ts';
import { PeeringError } from './peering-error.ts';

const PEER_FILE = /^([^.].*)\.(ya?ml|json)$/;

/** Makes the store; nothing is read before it is watched. */
export function createFilePeerStore(
  directory: string,
  options: { readonly clock: Clock; readonly logger: Logger; readonly rescanMs?: number },
): PeerStore {
  const { clock, logger, rescanMs } = options;
  const freshLook = createFreshLook();
  /** Files of the latest look, by peer. */
  let files: ReadonlyMap<ClusterName, string> = new Map();

  const fail = (what: string, cause: unknown): PeeringError =>
    new PeeringError(
      'read-only',
      `cannot ${what} in ${directory} (--peers-dir): ${messageOf(cause)}; where the files come from elsewhere, such as Git, change them there`,
      { cause },
    );

  // One name: what a process that was killed has left is taken by the next one.
  const temporaryOf = (file: string): string => join(directory, `.${file}.tmp`);

  return {
    async *watch(signal) {
      let before: ReadonlyMap<string, StoredPeer> = new Map();
      const onError = (error: Error, file?: string): void =>
        logger.warn(
          { file: file === undefined ? directory : join(directory, file), err: error },
          'peers cannot be read, what was read before stays in force',
        );
      const watching = { signal, clock, freshLook, onError };
      const snapshots = watchDirectory(
        directory,
        rescanMs === undefined ? watching : { ...watching, rescanMs },
      );
      for await (const snapshot of snapshots) {
        const { listing, stored } = readAll(snapshot, before);
        before = stored;
        files = new Map([...stored].map(([file, { peer }]) => [peer.name, file]));
        yield listing;
      }
    },
    look: (signal) => freshLook.ask(signal),
    async put(peer) {
      const file = files.get(peer.name) ?? `${peer.name}.yaml`;
      const path = join(directory, file);
      const temporary = temporaryOf(file);
      try {
        await writeFile(temporary, formatMeshPeer(peer), { mode: 0o644, flush: true });
        await rename(temporary, path);
      } catch (cause) {
        await rm(temporary, { force: true }).catch(() => undefined);
        throw fail(`write ${file}`, cause);
      }
    },
    async remove(name) {
      const file = files.get(name) ?? `${name}.yaml`;
      try {
        await rm(join(directory, file), { force: true });
        await rm(temporaryOf(file), { force: true });
      } catch (cause) {
        throw fail(`remove ${file}`, cause);
      }
    },
    async readClientCertificate({ name, spec }) {
      const { clientCertificate } = spec;
      if (clientCertificate?.kind !== 'files') {
        throw new Error(
          `peer ${name} names a Secret: a cluster without Kubernetes needs clientCertificate with certFile and keyFile`,
        );
      }
      const [certificate, privateKey] = await Promise.all([
        readFile(clientCertificate.certFile, 'utf8'),
        readFile(clientCertificate.keyFile, 'utf8'),
      ]);
      return { certificate, privateKey };
    },
  };
}

/** Reads what there is. `stored`: what counts of each file. */
function readAll(
  snapshot: ReadonlyMap<string, Buffer>,
  before: ReadonlyMap<string, StoredPeer>,
): { readonly listing: PeerListing; readonly stored: ReadonlyMap<string, StoredPeer> } {
  const stored = new Map<string, StoredPeer>();
  const peers = new Map<ClusterName, StoredPeer>();
  const problems: PeerProblem[] = [];
  for (const [file, content] of [...snapshot].sort(([a], [b]) => (a < b ? -1 : 1))) {
    const name = PEER_FILE.exec(file)?.[1];
    if (name === undefined) continue;
    const source = `file ${file}`;
    let found = before.get(file);
    try {
      const peer = parseMeshPeerText(content.toString('utf8'));
      if (peer.name !== name) {
        throw new ObjectError(
          'bad-object',
          'metadata.name',
          `it is of peer ${peer.name}: a file is named like its peer, ${peer.name}.yaml`,
        );
      }
      if (peers.has(peer.name)) {
        throw new ObjectError('bad-object', '', `peer ${peer.name} has another file`);
      }
      found = { peer, source };
    } catch (error) {
      if (!(error instanceof ObjectError)) throw error;
      problems.push({ name, source, message: error.message });
      if (found !== undefined && peers.has(found.peer.name)) found = undefined;
    }
    if (found === undefined) continue;
    stored.set(file, found);
    peers.set(found.peer.name, found);
  }
  return { listing: { peers, problems }, stored };
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
