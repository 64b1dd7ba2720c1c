/** What can be found wrong before anything is started. */
import { createPrivateKey, X509Certificate } from 'node:crypto';
import { readdir, readFile } from 'node:fs/promises';
import type { Clock } from '../mesh/runtime/clock.ts';
import { ApiserverError } from './apiserver-error.ts';
import { openCredentials } from './kubernetes/credentials.ts';

/** Files of a certificate and what it is checked with. */
export interface ServerFiles {
  readonly certFile: string;
  readonly keyFile: string;
  readonly ownCaFile: string;
}

/** Throws ApiserverError `manifests` unless the directory can be listed: an absent one would publish an empty cluster. */
export async function checkManifests(directory: string): Promise<void> {
  try {
    await readdir(directory);
  } catch (cause) {
    throw new ApiserverError(
      'manifests',
      `cannot read the manifests in ${directory}: ${reasonOf(cause)}; make the directory or choose another with --manifests`,
      { cause },
    );
  }
}

/** Throws KubernetesError `configuration` naming the file or context that cannot be used; the API server is not asked. */
export async function checkKubernetes(
  settings: { readonly kubeconfig?: string | undefined; readonly context?: string | undefined },
  clock: Clock,
): Promise<void> {
  using _credentials = await openCredentials({ ...settings, clock });
}

/** Throws ApiserverError `certificate` naming the flag and file that cannot be used. */
export async function checkServerFiles(files: ServerFiles): Promise<void> {
  const certificate = await readCertificate('--tls-cert-file', files.certFile);
  await readCertificate('--trusted-ca-file', files.ownCaFile);
  const pem = await readPem('--tls-key-file', files.keyFile);
  let key: ReturnType<typeof createPrivateKey>;
  try {
    key = createPrivateKey(pem);
  } catch (cause) {
    throw unusable('--tls-key-file', files.keyFile, 'it is not a private key in PEM form', cause);
  }
  if (!certificate.checkPrivateKey(key)) {
    const why = `it does not belong to the certificate in ${files.certFile}; give the pair that was issued together`;
    throw unusable('--tls-key-file', files.keyFile, why);
  }
}

async function readCertificate(flag: string, path: string): Promise<X509Certificate> {
  const pem = await readPem(flag, path);
  try {
    return new X509Certificate(pem);
  } catch (cause) {
    throw unusable(flag, path, 'it is not a certificate in PEM form', cause);
  }
}

async function readPem(flag: string, path: string): Promise<Buffer> {
  try {
    return await readFile(path);
  } catch (cause) {
    throw unusable(flag, path, reasonOf(cause), cause);
  }
}

function unusable(flag: string, path: string, why: string, cause?: unknown): ApiserverError {
  return new ApiserverError('certificate', `cannot use ${path} (${flag}): ${why}`, { cause });
}

function reasonOf(error: unknown): string {
  const code = error instanceof Error && 'code' in error ? error.code : undefined;
  switch (code) {
    case 'ENOENT':
      return 'it does not exist';
    case 'EACCES':
      return 'permission denied';
    case 'ENOTDIR':
      return 'it is not a directory';
    case 'EISDIR':
      return 'it is a directory';
    default:
      return error instanceof Error ? error.message : String(error);
  }
}
