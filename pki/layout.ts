/** Files in which certificates reach programs: folders that look like mounted secrets, and the directory of peers that agents watch. */
import { randomBytes } from 'node:crypto';
import { chmod, mkdir, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { stringify } from 'yaml';
import type { CertificateAuthority, KeyPair } from './ca.ts';
import { SECRET_NAMES } from './names.ts';

/** Paths of the files of one secret. */
export interface SecretFiles {
  readonly ca: string;
  readonly certificate: string;
  readonly privateKey: string;
}

/** How an agent reaches one peer, and as whom. */
export interface PeerOptions {
  /** etcd endpoints such as `https://beta.mesh.cilium.io:2379`. */
  readonly endpoints: readonly string[];
  /** PEM of the peer's authority, which verifies its server. */
  readonly ca: string;
  /** What we show to the peer. */
  readonly client: KeyPair;
  /** Addresses of the names in `endpoints`, where no name server knows them. */
  readonly hostAliases?: readonly { readonly hostname: string; readonly ips: readonly string[] }[];
  /** Folder the files will be seen in, where it differs from the folder they are written to. */
  readonly mountPath?: string;
}

/** Writes a file of mode 0600 so that a reader sees the old content or the new, and never a part. */
export async function writePrivateFile(path: string, content: string): Promise<void> {
  const temporary = `${path}.${randomBytes(4).toString('hex')}.tmp`;
  try {
    await writeFile(temporary, content, { mode: 0o600 });
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
}

/** Writes the authority's certificate and key as `ca.crt` and `ca.key`. */
export async function writeCa(folder: string, ca: CertificateAuthority): Promise<void> {
  await makePrivateFolder(folder);
  await writePrivateFile(join(folder, 'ca.crt'), ca.root);
  await writePrivateFile(join(folder, 'ca.key'), ca.privateKey);
}

/**
 * Writes an enrollment authority as the secret `clustermesh-apiserver-enrollment-ca`: `tls.crt` holds its certificate with what is
 * between it and the root.
 */
export async function writeEnrollmentCa(
  folder: string,
  ca: CertificateAuthority,
): Promise<SecretFiles> {
  const pair = { certificate: ca.chain.join(''), privateKey: ca.privateKey };
  return writeSecret(folder, SECRET_NAMES.enrollment, { ca: ca.root, pair });
}

/** Writes a certificate as a mounted secret looks: `<folder>/<name>/{ca.crt,tls.crt,tls.key}`. */
export async function writeSecret(
  folder: string,
  name: string,
  options: { readonly ca: string; readonly pair: KeyPair },
): Promise<SecretFiles> {
  const files = secretFiles(folder, name);
  await makePrivateFolder(join(folder, name));
  await writePrivateFile(files.ca, options.ca);
  // The key first: a reader that reloads on the certificate's change then finds the key that belongs to it.
  await writePrivateFile(files.privateKey, options.pair.privateKey);
  await writePrivateFile(files.certificate, options.pair.certificate);
  return files;
}

/** Paths of a secret's files, written or not. */
export function secretFiles(folder: string, name: string): SecretFiles {
  return {
    ca: join(folder, name, 'ca.crt'),
    certificate: join(folder, name, 'tls.crt'),
    privateKey: join(folder, name, 'tls.key'),
  };
}

/**
 * Writes what an agent needs for one peer into its directory: `<peer>.etcd-client{-ca.crt,.crt,.key}` and then `<peer>`, the
 * etcd client configuration whose presence makes the peer known.
 */
export async function writePeer(folder: string, peer: string, options: PeerOptions): Promise<void> {
  await makePrivateFolder(folder);
  const seenIn = options.mountPath ?? folder;
  const names = {
    ca: `${peer}.etcd-client-ca.crt`,
    key: `${peer}.etcd-client.key`,
    certificate: `${peer}.etcd-client.crt`,
  };
  await writePrivateFile(join(folder, names.ca), options.ca);
  await writePrivateFile(join(folder, names.key), options.client.privateKey);
  await writePrivateFile(join(folder, names.certificate), options.client.certificate);
  await writePrivateFile(
    join(folder, peer),
    stringify({
      endpoints: options.endpoints,
      'trusted-ca-file': join(seenIn, names.ca),
      'key-file': join(seenIn, names.key),
      'cert-file': join(seenIn, names.certificate),
      ...(options.hostAliases === undefined ? {} : { 'cilium-host-aliases': options.hostAliases }),
    }),
  );
}

/** Removes a peer: first the file that makes it known. */
export async function removePeer(folder: string, peer: string): Promise<void> {
  for (const suffix of ['', '.etcd-client.crt', '.etcd-client.key', '.etcd-client-ca.crt']) {
    await rm(join(folder, peer + suffix), { force: true });
  }
}

async function makePrivateFolder(folder: string): Promise<void> {
  await mkdir(folder, { recursive: true, mode: 0o700 });
  await chmod(folder, 0o700);
}
