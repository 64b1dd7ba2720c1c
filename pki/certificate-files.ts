/** Finds certificates in files, wherever they lie: what each file is, and what its certificates are used for. */
import { createPrivateKey, type X509Certificate } from 'node:crypto';
import { existsSync } from 'node:fs';
import { readdir, readFile, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { PkiError, parseCertificates } from './authority-file.ts';
import { SECRET_NAMES } from './names.ts';

const MAX_DEPTH = 8;
const MAX_FILES = 20_000;
const MAX_FILE_BYTES = 1024 * 1024;
const CERTIFICATE_FILE = /\.(crt|pem)$/;
const PEM_MARK = '-----BEGIN CERTIFICATE-----';

/** A file with certificates, by what its first one is. */
export interface CertificateFile {
  readonly path: string;
  /**
   * `leaf`: a certificate that somebody shows, with what is between it and its root; `authority`: the same for one that signs, with
   * its key beside it; `bundle`: authorities that somebody believes.
   */
  readonly kind: 'leaf' | 'authority' | 'bundle';
  readonly certificates: readonly [X509Certificate, ...X509Certificate[]];
  /** Its private key, where one lies beside it; whether it is there at all is not the same as that it fits. */
  readonly keyFile: string | undefined;
  /** Whether the key belongs to the first certificate; undefined without a key. */
  readonly hasOwnKey: boolean | undefined;
  /** What it is for, in words. */
  readonly use: string;
}

/** What was found, in the order of paths. */
export interface CertificateFiles {
  readonly files: readonly CertificateFile[];
  /** Files that should hold certificates and do not, a sentence each. */
  readonly problems: readonly string[];
}

/**
 * Looks at files, and below folders at every file that ends in `.crt` or `.pem`. Links to folders are not followed, those to
 * files are. Throws PkiError `unreadable` for a path that is not there.
 */
export async function findCertificateFiles(paths: readonly string[]): Promise<CertificateFiles> {
  const files = new Map<string, CertificateFile>();
  const problems: string[] = [];
  for (const { path, isAsked } of await listFiles(paths)) {
    if (files.has(path)) continue;
    try {
      const text = await readText(path);
      if (!isAsked && !text.includes(PEM_MARK)) continue;
      files.set(path, await readFileOf(path, parseCertificates(text)));
    } catch (error) {
      problems.push(`cannot use ${path}: ${error instanceof Error ? error.message : error}`);
    }
  }
  const found = [...files.values()].sort((a, b) => (a.path < b.path ? -1 : 1));
  return { files: found, problems };
}

async function listFiles(
  paths: readonly string[],
): Promise<{ readonly path: string; readonly isAsked: boolean }[]> {
  const found: { path: string; isAsked: boolean }[] = [];
  const enter = async (folder: string, depth: number): Promise<void> => {
    for (const entry of await readdir(folder, { withFileTypes: true })) {
      const path = join(folder, entry.name);
      // A mounted secret shows its files twice, once in a folder of this form.
      if (entry.isDirectory() && !entry.name.startsWith('..') && depth < MAX_DEPTH) {
        await enter(path, depth + 1);
      } else if (!entry.isDirectory() && CERTIFICATE_FILE.test(entry.name)) {
        if (found.length >= MAX_FILES) {
          throw new PkiError(
            'unreadable',
            `cannot look below ${folder}: more than ${MAX_FILES} files`,
          );
        }
        found.push({ path, isAsked: false });
      }
    }
  };
  for (const path of paths) {
    const what = await stat(path).catch((cause: unknown) => {
      const reason = cause instanceof Error ? cause.message : String(cause);
      throw new PkiError('unreadable', `cannot look at ${path}: ${reason}`, { cause });
    });
    if (what.isDirectory()) await enter(path, 1);
    else found.push({ path, isAsked: true });
  }
  return found;
}

async function readText(path: string): Promise<string> {
  const { size } = await stat(path);
  if (size > MAX_FILE_BYTES) throw new Error(`it has ${size} bytes, at most ${MAX_FILE_BYTES}`);
  return readFile(path, 'latin1');
}

async function readFileOf(
  path: string,
  certificates: CertificateFile['certificates'],
): Promise<CertificateFile> {
  const keyFile = keyBeside(path);
  const [first] = certificates;
  let keyOwner: X509Certificate | undefined;
  if (keyFile !== undefined) {
    const key = createPrivateKey(await readText(keyFile));
    keyOwner = certificates.find((certificate) => certificate.checkPrivateKey(key));
  }
  const kind = !first.ca ? 'leaf' : keyFile === undefined ? 'bundle' : 'authority';
  const hasOwnKey =
    keyFile === undefined
      ? undefined
      : kind === 'authority'
        ? keyOwner !== undefined
        : keyOwner === first;
  return { path, kind, certificates, keyFile, hasOwnKey, use: useOf(path, { first, kind }) };
}

/** `tls.crt` has its key in `tls.key`, and so on. */
function keyBeside(path: string): string | undefined {
  const key = path.replace(CERTIFICATE_FILE, '.key');
  return key !== path && existsSync(key) ? key : undefined;
}

const SECRET_USES: Readonly<Record<string, string>> = {
  [SECRET_NAMES.server]: 'shown by gate and registry',
  [SECRET_NAMES.admin]: 'apiserver, administrators',
  [SECRET_NAMES.remote]: 'shown to peers',
  [SECRET_NAMES.local]: 'readers of the mirror',
  [SECRET_NAMES.enrollment]: 'the registry signs machines with it',
};
const CLIENT_USES: readonly (readonly [RegExp, (name: string) => string])[] = [
  [/^node-(.+)$/, (name) => `agent of node ${name}`],
  [/^machine-(.+)$/, (name) => `agent of machine ${name}`],
  [/^remote-(.+)$/, (name) => `${name} shows it to its peers`],
  [/^remote$/, () => 'shown to peers'],
  [/^admin-(.+)$/, (name) => `administrators of ${name}`],
  [/^local-(.+)$/, (name) => `readers of the mirror of ${name}`],
];

function useOf(
  path: string,
  { first, kind }: { readonly first: X509Certificate; readonly kind: CertificateFile['kind'] },
): string {
  const file = basename(path);
  const peer = /^(.+)\.etcd-client(-ca)?\.crt$/.exec(file);
  if (peer !== null) {
    return peer[2] === undefined ? `shown to peer ${peer[1]}` : `verifies the server of ${peer[1]}`;
  }
  const secret = SECRET_USES[basename(dirname(path))];
  if (secret !== undefined) {
    return file === 'ca.crt' ? `believed with ${basename(dirname(path))}` : secret;
  }
  if (kind === 'authority')
    return first.issuer === first.subject ? 'signs' : 'signs below its root';
  if (kind === 'bundle') {
    return file === 'ca.crt' ? 'believed' : `believed for ${file.replace(CERTIFICATE_FILE, '')}`;
  }
  const name = commonNameOf(first);
  for (const [pattern, words] of CLIENT_USES) {
    const match = pattern.exec(name ?? '');
    if (match !== null) return words(match[1] ?? '');
  }
  return 'unknown';
}

/** The common name, when it is the whole subject. */
export function commonNameOf(certificate: X509Certificate): string | undefined {
  return /^CN=([^\n]*)$/.exec(certificate.subject)?.[1];
}

/** Mode bits of a file or folder that more than its owner can read; undefined when it is private. */
export async function openModeOf(path: string): Promise<number | undefined> {
  const mode = (await stat(path)).mode & 0o777;
  return (mode & 0o077) === 0 ? undefined : mode;
}
