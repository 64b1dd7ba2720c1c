/** A place where machines enrol: real etcd, real authorities, real books, and requests as machines make them. */
import { generateKeyPair, type KeyObject, sign } from 'node:crypto';
import { Writable } from 'node:stream';
import { promisify } from 'node:util';
import { openEtcd } from '../../../mesh/kvstore/etcd.ts';
import type { KvStore } from '../../../mesh/kvstore/kvstore.ts';
import { createLogger, type Logger } from '../../../mesh/runtime/log.ts';
import { type EtcdServer, openEtcdServer } from '../../../mesh/testing/etcd-server.ts';
import { createManualClock, type ManualClock } from '../../../mesh/testing/manual-clock.ts';
import { openTempDir, type TempDir } from '../../../mesh/testing/temp-dir.ts';
import { type IpAddress, parseIpAddress } from '../../../mesh/wire/ip.ts';
import { enrollProofInput, renewProofInput } from '../../../mesh/wire/key-proof.ts';
import {
  type CertificateAuthority,
  createCa,
  createEnrollmentCa,
  issueCertificate,
} from '../../../pki/ca.ts';
import { type SecretFiles, writeEnrollmentCa, writeSecret } from '../../../pki/layout.ts';
import { serverLeaf } from '../../../pki/names.ts';
import { type IssuingAuthority, openIssuingAuthority } from '../certificate-authority.ts';
import { createEnrollment, type Enrollment } from '../enrollment.ts';
import { createEnrollmentLimits, type EnrollmentLimits } from '../enrollment-limits.ts';
import { createMachineBook, type MachineBook } from '../machine-book.ts';
import { createRenewal, type Renewal } from '../renewal.ts';
import { createTokenBook, type TokenBook } from '../token-book.ts';
import type { TokenRecord } from '../token-record.ts';
import { parseTokenWish } from '../token-wish.ts';

const generate = promisify(generateKeyPair);
const HOUR_MS = 3_600_000;

/** Who makes tokens in tests. */
export const ADMIN = { by: 'admin-alpha', from: '192.0.2.250' };
/** Address that a pod holds. */
export const POD_ADDRESS = '192.0.2.99';

/** What one apiserver has of it. */
export interface EnrollmentReplica {
  readonly store: KvStore;
  readonly machines: MachineBook;
  readonly tokens: TokenBook;
  readonly enrollment: Enrollment;
  readonly limits: EnrollmentLimits;
  readonly renewal: Renewal;
}

/** The whole of it. Disposing leaves nothing behind. */
export interface EnrollmentSite extends EnrollmentReplica, AsyncDisposable {
  readonly etcd: EtcdServer;
  readonly clock: ManualClock;
  readonly dir: TempDir;
  readonly ca: CertificateAuthority;
  readonly authority: IssuingAuthority;
  /** Files of the server's certificate, and of the authority that signs machines. */
  readonly server: SecretFiles;
  readonly signing: SecretFiles;
  readonly logger: Logger;
  /** What was logged, a line each. */
  readonly lines: readonly string[];
  /** Another apiserver on the same etcd. */
  openReplica(limits?: EnrollmentLimits): Promise<EnrollmentReplica>;
  /** A token as it was made. */
  token(
    request: object,
  ): Promise<{ readonly record: TokenRecord; readonly id: string; readonly secret: Buffer }>;
}

/** Opens it for cluster `alpha`; certificates are for an hour. */
export async function openEnrollmentSite(): Promise<EnrollmentSite> {
  const dir = await openTempDir('enrollment');
  const etcd = await openEtcdServer();
  const clock = createManualClock({ now: Date.now() });
  const stopping = new AbortController();
  const { signal } = stopping;
  const lines: string[] = [];
  const destination = new Writable({
    write(chunk, _encoding, done) {
      lines.push(String(chunk));
      done();
    },
  });
  const logger = createLogger('test', { destination });
  const ca = await createCa({ commonName: 'CA of alpha' });
  const server = await writeSecret(dir.path, 'server', {
    ca: ca.root,
    pair: await issueCertificate(ca, serverLeaf('alpha')),
  });
  const signing = await writeEnrollmentCa(dir.path, await createEnrollmentCa(ca));
  const authority = await openIssuingAuthority(
    { certFile: signing.certificate, keyFile: signing.privateKey, ownCaFile: server.ca },
    { ttlMs: HOUR_MS, clock, logger, signal },
  );
  const stores: KvStore[] = [];
  const openReplica = async (
    limits = createEnrollmentLimits({ clock }),
  ): Promise<EnrollmentReplica> => {
    const store = await openEtcd({ endpoints: [etcd.endpoint], callTimeoutMs: 3000 });
    stores.push(store);
    const machines = createMachineBook({
      store,
      publish: () => undefined,
      findConflict: (_name, addresses) =>
        addresses.includes(parseIpAddress(POD_ADDRESS))
          ? { field: 'addresses', reason: `${POD_ADDRESS} is held by pod default/web` }
          : undefined,
      ownAddresses: () => [parseIpAddress('192.0.2.250')],
      checksOf: () => [],
      graceMs: 60_000,
      clock,
      logger,
    });
    await machines.load(signal);
    const tokens = createTokenBook({ store, clock, logger });
    const renewal = createRenewal({ machines, authority, logger });
    const enrollment = createEnrollment({ tokens, machines, authority, limits, clock, logger });
    return { store, machines, tokens, limits, renewal, enrollment };
  };
  const first = await openReplica();
  return {
    ...first,
    etcd,
    clock,
    dir,
    ca,
    authority,
    server,
    signing,
    logger,
    lines,
    openReplica,
    async token(request) {
      const { record, secret } = await first.tokens.create(parseTokenWish(request), ADMIN, signal);
      return { record, id: record.id, secret };
    },
    async [Symbol.asyncDispose]() {
      stopping.abort();
      for (const store of stores) await store[Symbol.asyncDispose]();
      await authority[Symbol.asyncDispose]();
      await etcd[Symbol.asyncDispose]();
      await dir[Symbol.asyncDispose]();
    },
  };
}

/** A key pair of a machine; `spki` is what it sends. */
export interface MachineKeys {
  readonly spki: Buffer;
  readonly privateKey: KeyObject;
}

/** Makes an RSA key pair. */
export async function makeMachineKeys(bits = 2048): Promise<MachineKeys> {
  const { publicKey, privateKey } = await generate('rsa', { modulusLength: bits });
  return { spki: publicKey.export({ type: 'spki', format: 'der' }), privateKey };
}

/** An EnrollRequest as a machine makes it; `more` replaces fields after the proof was made. */
export function enrollRequest(
  machine: {
    readonly token: { readonly id: string; readonly secret: Buffer };
    readonly name: string;
    readonly address: string;
    readonly keys: MachineKeys;
  },
  more: object = {},
): object {
  const { token, name, address, keys } = machine;
  const input = enrollProofInput({ tokenId: token.id, machineName: name, publicKey: keys.spki });
  return {
    schema: 1,
    token_id: token.id,
    token_secret: token.secret,
    machine_name: name,
    addresses: [address],
    public_key: keys.spki,
    proof: sign('sha256', input, keys.privateKey),
    agent_version: '1.2.3',
    ...more,
  };
}

/** A RenewRequest as a machine makes it. */
export function renewRequest(commonName: string, keys: MachineKeys, more: object = {}): object {
  const input = renewProofInput({ commonName, publicKey: keys.spki });
  const proof = sign('sha256', input, keys.privateKey);
  return { schema: 1, public_key: keys.spki, proof, ...more };
}

/** A call as it reaches the enrollment. */
export function callFrom(address: string, message: object) {
  const from: IpAddress = parseIpAddress(address);
  return { message, from, signal: new AbortController().signal };
}
