/** Lays out the data directory of the embedded etcd: modes, token, private certificates. */
import { randomBytes } from 'node:crypto';
import { access, chmod, constants, mkdir, readFile } from 'node:fs/promises';
import { createCa, issueCertificate } from '../../pki/ca.ts';
import { writePrivateFile } from '../../pki/layout.ts';
import type { EtcdFiles } from './etcd-command.ts';
import { EtcdError } from './etcd-error.ts';

const VALIDITY_DAYS = 3650;

/** What a client of the embedded etcd shows and trusts, PEM. Held in memory only. */
export interface EtcdClientTls {
  readonly ca: Buffer;
  readonly cert: Buffer;
  readonly key: Buffer;
}

/** Makes the directories, for the owner alone. Throws EtcdError `data-directory` when that cannot be. */
export async function prepareDataDirectory(dataDir: string, files: EtcdFiles): Promise<void> {
  try {
    for (const folder of [dataDir, files.data, files.tls]) {
      await mkdir(folder, { recursive: true, mode: 0o700 });
      await chmod(folder, 0o700);
      await access(folder, constants.W_OK | constants.X_OK);
    }
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new EtcdError(
      'data-directory',
      `cannot use data directory ${dataDir}: ${why}; make it writable or choose another with --data-dir`,
      { retryable: false, cause },
    );
  }
}

/**
 * The token of this data directory. etcd computes its cluster id from it, and readers notice by that id that they talk to
 * another etcd than before: so each fresh directory gets a token of its own.
 */
export async function clusterToken(files: EtcdFiles): Promise<string> {
  const isFresh = await access(`${files.data}/member`).then(
    () => false,
    () => true,
  );
  if (!isFresh) {
    const kept = await readFile(files.token, 'utf8').catch(() => '');
    // etcd reads the token only when it makes its data: a lost file costs nothing.
    if (kept !== '') return kept;
  }
  const token = `isthmus-${randomBytes(16).toString('hex')}`;
  await writePrivateFile(files.token, token);
  return token;
}

/** What certifies one embedded etcd and its only client: the client's key never touches the disk. */
export interface EtcdCertificates {
  readonly client: EtcdClientTls;
  /** What etcd itself shows, PEM. */
  readonly server: { readonly certificate: string; readonly privateKey: string };
}

/** Makes a CA for this etcd alone, and what it signs; the CA's own key is forgotten. */
export async function makeEtcdCertificates(): Promise<EtcdCertificates> {
  const ca = await createCa({ commonName: 'isthmus embedded etcd', validityDays: VALIDITY_DAYS });
  const [server, client] = await Promise.all([
    issueCertificate(ca, {
      commonName: 'etcd',
      usage: 'server',
      dnsNames: ['localhost'],
      ipAddresses: ['127.0.0.1'],
      validityDays: VALIDITY_DAYS,
    }),
    issueCertificate(ca, {
      commonName: 'clustermesh-apiserver',
      usage: 'client',
      validityDays: VALIDITY_DAYS,
    }),
  ]);
  return {
    client: {
      ca: Buffer.from(ca.root),
      cert: Buffer.from(client.certificate),
      key: Buffer.from(client.privateKey),
    },
    server,
  };
}

/** Writes the server's part where etcd reads it. */
export async function writeEtcdCertificates(
  files: EtcdFiles,
  { client, server }: EtcdCertificates,
): Promise<void> {
  await writePrivateFile(files.ca, client.ca.toString());
  await writePrivateFile(files.privateKey, server.privateKey);
  await writePrivateFile(files.certificate, server.certificate);
}
