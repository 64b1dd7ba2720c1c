/** What the gate believes, kept up to date from files: its own certificate, CAs, revocations. */
import type { X509Certificate } from 'node:crypto';
import { createSecureContext } from 'node:tls';
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import { watchDirectory } from '../../mesh/runtime/watch-directory.ts';
import { parseClusterName } from '../../mesh/wire/ids.ts';
import { findSharedCas, parseBundle, type TrustBundles } from './certificate-chain.ts';
import { GateError } from './gate-error.ts';
import type { MachineTrust } from './machine-trust.ts';
import type { NodeTrust } from './node-trust.ts';
import type { PeerTrust } from './peer-trust.ts';
import { NO_REVOCATIONS, parseRevocations, type Revocations } from './revocations.ts';
import { type FileContents, watchFiles } from './watch-files.ts';

const PEER_FILE = /^(.+)\.crt$/;

/** Files that the gate's trust is read from. */
export interface TrustFiles {
  /** Our certificate with its intermediates, and its key. */
  readonly certFile: string;
  readonly keyFile: string;
  /** Our own cluster's CA, one or more certificates. */
  readonly ownCaFile: string;
  /** Folder with `<peer>.crt`, that peer's CA. Without it no peer's CA is believed. */
  readonly peerTrustDir?: string | undefined;
  /** YAML list of `{ fingerprint }` and `{ commonName }`. */
  readonly revokedFile?: string | undefined;
}

/** A state of trust. It is replaced as a whole. */
export interface Trust {
  readonly cert: Buffer;
  readonly key: Buffer;
  readonly bundles: TrustBundles;
  readonly revocations: Revocations;
  /** What is known of machines; undefined: their certificates alone count. */
  readonly machines?: MachineTrust | undefined;
  /** What is known of nodes that enrolled; undefined: their certificates alone count. */
  readonly nodes?: NodeTrust | undefined;
  /** Which peers there are; undefined: certificates that we gave to peers count until they run out. */
  readonly peers?: PeerTrust | undefined;
}

/** Trust that follows its files. Disposing stops the following. */
export interface TrustStore extends AsyncDisposable {
  readonly trust: Trust;
  /** What a person should know: unusable files, CAs that do not tell peers apart. */
  readonly warnings: readonly string[];
  /** Called after each change. */
  onChange(callback: () => void): void;
}

/**
 * Reads the files and follows them. A file that becomes unreadable or broken keeps its last good content and is warned of; a
 * peer's file that is removed takes its trust along. Throws GateError `file` when there is nothing good to begin with.
 */
export async function openTrust(
  files: TrustFiles,
  options: {
    readonly clock: Clock;
    readonly signal: AbortSignal;
    readonly logger?: Logger;
    readonly machines?: MachineTrust | undefined;
    readonly nodes?: NodeTrust | undefined;
    readonly peers?: PeerTrust | undefined;
  },
): Promise<TrustStore> {
  const { clock, logger } = options;
  const known = { machines: options.machines, nodes: options.nodes, peers: options.peers };
  const stopping = new AbortController();
  const signal = AbortSignal.any([options.signal, stopping.signal]);
  const callbacks: (() => void)[] = [];
  const fileWarnings = new Map<string, string>();
  let trust: Trust | undefined;
  let peers: TrustBundles['peers'] = new Map();

  const warn = (subject: string, message: string | undefined): void => {
    if (message === undefined) fileWarnings.delete(subject);
    else if (fileWarnings.get(subject) !== message) {
      fileWarnings.set(subject, message);
      logger?.warn({ file: subject, reason: message }, 'a file of the gate cannot be used');
    }
  };
  const publish = (next: Trust): void => {
    trust = next;
    for (const callback of callbacks) callback();
  };

  const ownPaths = [files.certFile, files.keyFile, files.ownCaFile];
  const watched = files.revokedFile === undefined ? ownPaths : [...ownPaths, files.revokedFile];
  const ownFiles = watchFiles(watched, { signal, clock });
  const first = await ownFiles.next();
  if (first.done) throw signal.reason;
  const { cert, key, own } = readOwn(files, first.value);
  const revocations = readFirstRevocations(files.revokedFile, first.value);
  publish({ cert, key, bundles: { own, peers }, revocations, ...known });
  for (const knowledge of [known.machines, known.nodes, known.peers]) {
    knowledge?.onChange(() => {
      if (trust !== undefined && !signal.aborted) publish({ ...trust });
    });
  }

  const followOwn = async (): Promise<void> => {
    for await (const contents of ownFiles) {
      if (trust === undefined) continue;
      const revocations = readRevocations(files.revokedFile, contents, warn) ?? trust.revocations;
      try {
        const { cert, key, own } = readOwn(files, contents);
        warn(files.certFile, undefined);
        publish({ cert, key, bundles: { own, peers }, revocations, ...known });
      } catch (error) {
        warn(files.certFile, messageOf(error));
        publish({ ...trust, revocations });
      }
    }
  };
  let firstPeers = (): void => undefined;
  const peersRead = new Promise<void>((resolve) => {
    firstPeers = resolve;
  });
  const followPeers = async (folder: string): Promise<void> => {
    const onError = (error: Error, file?: string): void => {
      warn(file ?? folder, messageOf(error));
      firstPeers();
    };
    for await (const contents of watchDirectory(folder, { signal, clock, onError })) {
      warn(folder, undefined);
      peers = readPeers(contents, peers, warn);
      if (trust !== undefined) publish({ ...trust, bundles: { own: trust.bundles.own, peers } });
      firstPeers();
    }
  };
  const following = [followOwn()];
  if (files.peerTrustDir !== undefined) {
    following.push(followPeers(files.peerTrustDir));
    signal.addEventListener('abort', firstPeers, { once: true });
    await peersRead;
  }

  return {
    get trust() {
      if (trust === undefined) throw new Error('trust is set before it is handed out');
      return trust;
    },
    get warnings() {
      const shared = trust === undefined ? [] : findSharedCas(trust.bundles);
      return [...fileWarnings.values(), ...shared.map(sharedCaWarning)];
    },
    onChange(callback) {
      callbacks.push(callback);
    },
    async [Symbol.asyncDispose]() {
      stopping.abort();
      await Promise.all(following);
    },
  };
}

function readOwn(
  files: TrustFiles,
  contents: FileContents,
): { cert: Buffer; key: Buffer; own: readonly X509Certificate[] } {
  const cert = readable(contents, files.certFile);
  const key = readable(contents, files.keyFile);
  const ca = readable(contents, files.ownCaFile);
  try {
    createSecureContext({ cert, key });
  } catch (cause) {
    throw unusable(`${files.certFile} and ${files.keyFile}`, cause);
  }
  try {
    return { cert, key, own: parseBundle(ca) };
  } catch (cause) {
    throw unusable(files.ownCaFile, cause);
  }
}

function readable(contents: FileContents, path: string): Buffer {
  const content = contents.get(path);
  if (Buffer.isBuffer(content)) return content;
  throw unusable(path, content ?? new Error('it was not read'));
}

function unusable(what: string, cause: unknown): GateError {
  return new GateError('file', `cannot use ${what}: ${messageOf(cause)}`, {
    retryable: false,
    cause,
  });
}

/** A list that is not there yet revokes nothing; a broken one might revoke anything, so it is an error. */
function readFirstRevocations(path: string | undefined, contents: FileContents): Revocations {
  const content = path === undefined ? undefined : contents.get(path);
  if (path === undefined || content === undefined) return NO_REVOCATIONS;
  if (content instanceof Error && 'code' in content && content.code === 'ENOENT') {
    return NO_REVOCATIONS;
  }
  try {
    return parseRevocations(readable(contents, path).toString());
  } catch (cause) {
    throw cause instanceof GateError ? cause : unusable(path, cause);
  }
}

/** Undefined when the list cannot be read: the one before stays in force. */
function readRevocations(
  path: string | undefined,
  contents: FileContents,
  warn: (subject: string, message: string | undefined) => void,
): Revocations | undefined {
  if (path === undefined) return NO_REVOCATIONS;
  try {
    const revocations = parseRevocations(readable(contents, path).toString());
    warn(path, undefined);
    return revocations;
  } catch (error) {
    const reason =
      error instanceof GateError ? error.message : `cannot use ${path}: ${messageOf(error)}`;
    warn(path, `${reason}; the list before it stays in force`);
    return undefined;
  }
}

function readPeers(
  contents: ReadonlyMap<string, Buffer>,
  before: TrustBundles['peers'],
  warn: (subject: string, message: string | undefined) => void,
): TrustBundles['peers'] {
  const peers = new Map<string, readonly X509Certificate[]>();
  for (const [file, content] of contents) {
    const name = PEER_FILE.exec(file)?.[1];
    if (name === undefined) continue;
    try {
      const peer = parseClusterName(name);
      peers.set(peer, parseBundle(content));
      warn(file, undefined);
    } catch (error) {
      const last = before.get(name);
      if (last !== undefined) peers.set(name, last);
      warn(file, `cannot use the CA of a peer, ${file}: ${messageOf(error)}`);
    }
  }
  return peers;
}

function sharedCaWarning(shared: ReturnType<typeof findSharedCas>[number]): string {
  const owners = shared.owners.map((owner) =>
    owner === undefined ? 'this cluster' : `peer ${owner}`,
  );
  return `the CA "${shared.ca}" is trusted for ${owners.join(' and ')}: callers with the same name cannot be told apart`;
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
