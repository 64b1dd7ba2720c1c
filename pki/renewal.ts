/** Renewing the certificates of folders that `clustermesh pki` has made. */
import type { X509Certificate } from 'node:crypto';
import { readCa } from './authority-file.ts';
import { findCertificateFiles } from './certificate-files.ts';
import { authorityOf, issuedBy, renewFile } from './issued-files.ts';
import { renewalTime, validityOf } from './validity.ts';

/** What became of one file. */
export type Renewal =
  | { readonly kind: 'renewed'; readonly path: string; readonly certificate: X509Certificate }
  /** Two thirds of its life are not over; `due` is when they are, in milliseconds since 1970. */
  | { readonly kind: 'good'; readonly path: string; readonly due: number }
  | { readonly kind: 'failed'; readonly path: string; readonly reason: string };

/**
 * Renews every certificate below `paths` that the authority of `caFolder` has issued and that is due, or whose key does not
 * fit; `all`: also those that are not due. One that cannot be renewed stops none of the others. Throws PkiError when the
 * authority cannot sign, or a path cannot be looked at.
 */
export async function renewCertificates(
  paths: readonly string[],
  options: { readonly caFolder: string; readonly all: boolean; readonly now?: number },
): Promise<readonly Renewal[]> {
  const { now = Date.now() } = options;
  const ca = await readCa(options.caFolder, now);
  const { files, problems } = await findCertificateFiles(paths);
  const renewals: Renewal[] = problems.map((reason) => ({ kind: 'failed', path: '', reason }));
  for (const file of issuedBy([authorityOf(ca)], files)) {
    const [certificate] = file.certificates;
    const { path } = file;
    const isDue = validityOf(certificate, now) !== 'good' || file.hasOwnKey === false;
    if (!isDue && !options.all) {
      renewals.push({ kind: 'good', path, due: renewalTime(certificate) });
      continue;
    }
    try {
      renewals.push({ kind: 'renewed', path, certificate: await renewFile(ca, file, now) });
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      renewals.push({ kind: 'failed', path, reason });
    }
  }
  return renewals;
}
