/** Connections to the gate: mutual TLS, who is at the other end, and cutting those who may no longer be there. */
import { constants, createHash, type X509Certificate } from 'node:crypto';
import { createServer, type Server, type TLSSocket, type TlsOptions } from 'node:tls';
import { describeCertificate, findDateFault } from '../../mesh/runtime/certificate-words.ts';
import {
  type Caller,
  type ChainEnds,
  identifyCaller,
  mayBeNamed,
  type RefusalReason,
} from './caller.ts';
import { createChainMemory } from './chain-memory.ts';
import { GateError } from './gate-error.ts';
import { nodeUidOf } from './node-uid.ts';
import type { PeerTrust } from './peer-trust.ts';
import { isRevoked, plainFingerprint } from './revocations.ts';
import type { Trust } from './trust.ts';

const HANDSHAKE_TIMEOUT_MS = 10_000;
const MAX_INTERMEDIATES = 8;
/**
 * What OpenSSL says of a chain that is sound but ends at an intermediate authority of a trust file, whose own issuer is not
 * known. Go takes such a chain, and so do we, if our own check finds the end.
 */
const PARTIAL_CHAIN = new Set<unknown>([
  'UNABLE_TO_GET_ISSUER_CERT',
  'UNABLE_TO_GET_ISSUER_CERT_LOCALLY',
]);

const DATE_REASONS = {
  expired: 'expired-certificate',
  'not-yet-valid': 'not-yet-valid-certificate',
} as const;

/** What a certificate amounts to under the present trust. */
export type Verdict =
  | { readonly kind: 'known'; readonly caller: Caller }
  | { readonly kind: 'refused'; readonly reason: RefusalReason; readonly name: string };

/** The holder of one certificate, with all of its connections. */
export interface Client {
  readonly fingerprint: string;
  readonly verdict: Verdict;
  readonly connections: number;
}

/** The listening side. Disposing ends every connection. */
export interface Connections extends AsyncDisposable {
  readonly address: { readonly host: string; readonly port: number };
  /** The client whose certificate has this SHA-256 fingerprint; undefined when none is connected with it. */
  find(fingerprint256: string): Client | undefined;
  readonly clients: Iterable<Client>;
  /** Bytes sent to all clients so far. */
  readonly sentBytes: number;
  /** Takes a new state of trust: new connections meet it, and those that it does not bear are cut. */
  update(trust: Trust): void;
  /** Cuts the connections whose certificates have run out. */
  cutExpired(): void;
}

/** What a client has shown. */
interface ShownChain {
  readonly leaf: X509Certificate;
  readonly intermediates: readonly X509Certificate[];
  readonly commonName: string;
}

interface Entry {
  readonly fingerprint: string;
  readonly leaf: X509Certificate;
  readonly intermediates: readonly X509Certificate[];
  readonly commonName: string;
  readonly look: ReturnType<typeof createChainMemory>;
  readonly sockets: Set<TLSSocket>;
  verdict: Verdict;
}

/** Listens. Connections that cannot be anybody's are ended here; all others are handed to `onConnection`. */
export async function listenConnections(options: {
  readonly host: string;
  readonly port: number;
  readonly trust: Trust;
  readonly clusterName: string;
  readonly now: () => number;
  /** Connections with the same certificate; further ones are refused. Default: any number. */
  readonly maxConnectionsPerCaller?: number;
  readonly onConnection: (socket: TLSSocket) => void;
  /** `certificate` describes what was shown, with what is wrong with it, for people; empty when nothing was shown. */
  readonly onRefused: (
    reason: RefusalReason,
    caller: { readonly name: string; readonly certificate: string },
    socket: TLSSocket,
  ) => void;
  /** Connections can for the moment not be accepted. */
  readonly onError: (error: Error) => void;
  /** Connections of a caller were cut. */
  readonly onCut: (name: string, reason: RefusalReason | 'other-caller', count: number) => void;
}): Promise<Connections> {
  const { clusterName, now, onConnection, onRefused, onCut } = options;
  const entries = new Map<string, Entry>();
  /** Of connections that have ended. */
  let sentBytes = 0;
  let trust = options.trust;

  const judge = (entry: Omit<Entry, 'verdict'>): Verdict => {
    const { leaf, intermediates, fingerprint, commonName } = entry;
    const refused = (reason: RefusalReason): Verdict => ({
      kind: 'refused',
      reason,
      name: commonName,
    });
    const { dateFault, ends } = entry.look(trust.bundles, now());
    if (dateFault !== undefined) return refused(DATE_REASONS[dateFault]);
    if (!ends.own && ends.peers.length === 0) return refused('untrusted-certificate');
    const authorities = intermediates.map((one) => plainFingerprint(one.fingerprint256));
    const fingerprints = [fingerprint, ...authorities];
    if (isRevoked({ fingerprints, commonName }, trust.revocations)) return refused('revoked');
    if (!mayBeNamed(commonName, ends)) return refused('name-beyond-enrollment');
    const caller = identifyCaller(commonName, ends, { clusterName });
    if (caller === undefined) return refused('unknown-name');
    if (isFormerPeer(caller, ends, trust.peers)) return refused('unknown-peer');
    const reason = judgeOwn({ caller, leaf, ends }, trust);
    return reason === undefined ? { kind: 'known', caller } : refused(reason);
  };
  const admit = (socket: TLSSocket): void => {
    // HTTP/2 tells of errors in its own way; one on a socket that nobody has yet must not end the process.
    socket.on('error', () => undefined);
    const chain = readChain(socket);
    if (chain === undefined) {
      refuse(socket, 'no-certificate');
      return;
    }
    const { leaf, intermediates, commonName } = chain;
    if (!socket.authorized && !PARTIAL_CHAIN.has(socket.authorizationError)) {
      refuse(socket, reasonOf(socket), chain);
      return;
    }
    const fingerprint = plainFingerprint(leaf.fingerprint256);
    const known = entries.get(fingerprint);
    const base = known ?? {
      fingerprint,
      leaf,
      intermediates,
      commonName,
      look: createChainMemory(leaf, intermediates),
      sockets: new Set(),
    };
    const verdict = judge(base);
    if (verdict.kind === 'refused' && verdict.reason === 'untrusted-certificate') {
      refuse(socket, verdict.reason, chain);
      return;
    }
    if (base.sockets.size >= (options.maxConnectionsPerCaller ?? Number.POSITIVE_INFINITY)) {
      refuse(socket, 'too-many-connections', chain);
      return;
    }
    // gRPC's server shows certificates of authorised connections only.
    socket.authorized = true;
    const entry = known ?? { ...base, verdict };
    entries.set(fingerprint, entry);
    entry.sockets.add(socket);
    socket.once('close', () => {
      sentBytes += socket.bytesWritten;
      entry.sockets.delete(socket);
      if (entry.sockets.size === 0 && entries.get(fingerprint) === entry)
        entries.delete(fingerprint);
    });
    onConnection(socket);
  };
  const refuse = (socket: TLSSocket, reason: RefusalReason, chain?: ShownChain): void => {
    const certificate = chain === undefined ? '' : describeChain(chain, now());
    onRefused(reason, { name: chain?.commonName ?? '', certificate }, socket);
    socket.destroy();
  };
  const judgeAgain = (): void => {
    for (const [fingerprint, entry] of [...entries]) {
      const verdict = judge(entry);
      if (entry.verdict.kind === 'refused' || sameVerdict(verdict, entry.verdict)) {
        entry.verdict = verdict;
        continue;
      }
      entries.delete(fingerprint);
      const reason = verdict.kind === 'refused' ? verdict.reason : 'other-caller';
      onCut(entry.commonName, reason, entry.sockets.size);
      for (const socket of entry.sockets) socket.destroy();
    }
  };

  const server = createServer(tlsOptions(trust), admit);
  // A failed handshake is the client's affair; without a listener the error would end the process.
  server.on('tlsClientError', () => undefined);
  await listen(server, options);
  // Such as too many open files: the connections that are there go on.
  server.on('error', options.onError);
  const bound = server.address();
  return {
    address: {
      host: typeof bound === 'object' && bound !== null ? bound.address : options.host,
      port: typeof bound === 'object' && bound !== null ? bound.port : options.port,
    },
    find: (fingerprint256) => {
      const entry = entries.get(plainFingerprint(fingerprint256));
      return entry === undefined ? undefined : toClient(entry);
    },
    get clients() {
      return [...entries.values()].map(toClient);
    },
    get sentBytes() {
      let sum = sentBytes;
      for (const { sockets } of entries.values()) {
        for (const socket of sockets) sum += socket.bytesWritten;
      }
      return sum;
    },
    update(next) {
      trust = next;
      server.setSecureContext(tlsOptions(next));
      judgeAgain();
    },
    cutExpired: judgeAgain,
    async [Symbol.asyncDispose]() {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      for (const entry of entries.values()) for (const socket of entry.sockets) socket.destroy();
      await closed;
    },
  };
}

function tlsOptions(trust: Trust): TlsOptions {
  const { own, peers } = trust.bundles;
  const ca = [own, ...peers.values()].flat().map((certificate) => certificate.toString());
  return {
    cert: trust.cert,
    key: trust.key,
    ca: [...new Set(ca)],
    requestCert: true,
    // Judged in `admit`, which can tell why.
    rejectUnauthorized: false,
    ALPNProtocols: ['h2'],
    minVersion: 'TLSv1.2',
    handshakeTimeout: HANDSHAKE_TIMEOUT_MS,
    // A resumed session would skip the certificate.
    secureOptions: constants.SSL_OP_NO_TICKET,
  };
}

function listen(server: Server, options: { host: string; port: number }): Promise<void> {
  const { host, port } = options;
  return new Promise((resolve, reject) => {
    server.once('error', (cause: NodeJS.ErrnoException) => {
      const where = `${host.includes(':') ? `[${host}]` : host}:${port}`;
      reject(
        cause.code === 'EADDRINUSE'
          ? new GateError(
              'port-taken',
              `cannot listen on ${where}: the port is taken; free it or choose another with --gate-address`,
              { retryable: true, cause },
            )
          : new GateError('address', `cannot listen on ${where}: ${cause.message}`, {
              retryable: false,
              cause,
            }),
      );
    });
    server.listen({ host, port }, () => {
      server.removeAllListeners('error');
      resolve();
    });
  });
}

/** Undefined when the client has shown no certificate. What `getPeerCertificate(true)` makes of the same costs three times as much. */
function readChain(socket: TLSSocket): ShownChain | undefined {
  const leaf = socket.getPeerX509Certificate();
  if (leaf === undefined) return undefined;
  const intermediates: X509Certificate[] = [];
  const seen = new Set<string>([leaf.fingerprint256]);
  for (
    let issuer = leaf.issuerCertificate;
    issuer !== undefined && !seen.has(issuer.fingerprint256);
    issuer = issuer.issuerCertificate
  ) {
    if (intermediates.length === MAX_INTERMEDIATES) break;
    seen.add(issuer.fingerprint256);
    intermediates.push(issuer);
  }
  const commonName: unknown = leaf.toLegacyObject().subject?.CN;
  // Of several names a reader could take any: so it has none.
  return { leaf, intermediates, commonName: typeof commonName === 'string' ? commonName : '' };
}

function reasonOf(socket: TLSSocket): RefusalReason {
  const code: unknown = socket.authorizationError;
  switch (code) {
    case 'CERT_HAS_EXPIRED':
      return 'expired-certificate';
    case 'CERT_NOT_YET_VALID':
      return 'not-yet-valid-certificate';
    default:
      return 'untrusted-certificate';
  }
}

/** What was shown: its first fault of dates, from the leaf up; without one, the leaf and who has signed it. */
function describeChain({ leaf, intermediates }: ShownChain, now: number): string {
  for (const certificate of [leaf, ...intermediates]) {
    const fault = findDateFault(certificate, now);
    if (fault !== undefined) return fault.text;
  }
  return `${describeCertificate(leaf)}, issued by ${leaf.issuer.replaceAll('\n', ', ')}`;
}

/** What else is known of the holder of a certificate of our own. Nodes whose certificates people gave have no Node to end with. */
function judgeOwn(
  shown: { readonly caller: Caller; readonly leaf: X509Certificate; readonly ends: ChainEnds },
  { machines, nodes }: Trust,
): RefusalReason | undefined {
  const { caller, leaf, ends } = shown;
  if (caller.kind === 'machine') return machines?.judge(caller.name, () => publicKeyHash(leaf));
  if (caller.kind !== 'node' || !ends.own || !ends.enrolled) return undefined;
  return nodes?.judge(caller.name, nodeUidOf(leaf));
}

function publicKeyHash({ publicKey }: X509Certificate): string {
  return createHash('sha256')
    .update(publicKey.export({ type: 'spki', format: 'der' }))
    .digest('hex');
}

/** Whether a certificate is one that we gave to a peer that is a peer no more. Those of its own authority end with our trust in that. */
function isFormerPeer(caller: Caller, ends: ChainEnds, peers: PeerTrust | undefined): boolean {
  if (peers === undefined || caller.kind !== 'remote' || !ends.own || !ends.enrolled) return false;
  return !caller.peers.some((name) => peers.isPeer(name));
}

function sameVerdict(a: Verdict, b: Verdict): boolean {
  if (a.kind === 'refused' || b.kind === 'refused') {
    return a.kind === 'refused' && b.kind === 'refused' && a.reason === b.reason;
  }
  return a.caller.kind === b.caller.kind && peersOf(a.caller) === peersOf(b.caller);
}

function peersOf(caller: Caller): string {
  return caller.kind === 'remote' ? caller.peers.join() : '';
}

function toClient(entry: Entry): Client {
  const { fingerprint, verdict, sockets } = entry;
  return { fingerprint, verdict, connections: sockets.size };
}
