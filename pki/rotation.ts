/**
 * Replacing a cluster's root authority while everything goes on: the new one is believed everywhere first, then it signs, then
 * the old one is believed no more. Each step can be repeated, and ended at any point: where it stands is read from the files.
 *
 * `ca.crt` of the authority's folder holds every root that is to be believed, `ca.key` is of the one that signs. Between `add`
 * and `switch` the new root waits in `next.crt` and `next.key`.
 */
import type { X509Certificate } from 'node:crypto';
import { existsSync } from 'node:fs';
import { readFile, rename, rm } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { PkiError, parseCertificates, readAuthority, readCa } from './authority-file.ts';
import { type CertificateAuthority, createCa } from './ca.ts';
import { type CertificateFile, commonNameOf, findCertificateFiles } from './certificate-files.ts';
import { authorityOf, hasSigned, issuedBy, renewFile } from './issued-files.ts';
import { writePrivateFile } from './layout.ts';

/** What `rotateCa` does: a step, all of which are needed in this order. */
export type RotationStep = 'add' | 'switch' | 'remove';

/** How far a folder's authority is. */
export interface RotationState {
  /**
   * `steady`: one root, nothing is being replaced; `added`: a new root waits for `switch`; `switched`: it signs, the old one is
   * still believed.
   */
  readonly stage: 'steady' | 'added' | 'switched';
  /** The root that signs. */
  readonly signing: X509Certificate;
  /** The root that is to sign; only while `added`. */
  readonly next: X509Certificate | undefined;
  /** Roots that are believed and do not sign, other than `next`. */
  readonly old: readonly X509Certificate[];
}

/** What a step is done with. */
export interface RotationOptions {
  /** Files, and folders whose files below are looked at: bundles and certificates of the cluster, on this machine. */
  readonly paths: readonly string[];
  /** Life of a new root. Default 1095. */
  readonly validityDays?: number;
  /** Milliseconds since 1970. Default: the time that it is. */
  readonly now?: number;
}

/** Reads how far a replacement is. Throws PkiError as `readCa`. */
export async function readRotation(
  folder: string,
  now: number = Date.now(),
): Promise<RotationState> {
  const signing = authorityOf(await readCa(folder, now));
  const next = await readNext(folder, now);
  const waiting = next === undefined ? undefined : authorityOf(next);
  const isWaiting = waiting !== undefined && waiting.fingerprint256 !== signing.fingerprint256;
  const bundle = parseCertificates(await readFile(join(folder, 'ca.crt'), 'latin1'));
  const current = [signing, ...(isWaiting ? [waiting] : [])].map(idOf);
  const old = bundle.filter((root) => !current.includes(idOf(root)));
  const stage = isWaiting ? 'added' : old.length > 0 ? 'switched' : 'steady';
  return { stage, signing, next: isWaiting ? waiting : undefined, old };
}

/**
 * Does a step; what it did, a line each. A step that is done already does what of it was left undone. Throws PkiError
 * `wrong-stage` when the step before has not been done, and, for `remove`, while a file needs the old root.
 */
export async function rotateCa(
  folder: string,
  step: RotationStep,
  options: RotationOptions,
): Promise<readonly string[]> {
  const { now = Date.now() } = options;
  switch (step) {
    case 'add':
      return addRoot(folder, { ...options, now });
    case 'switch':
      return switchRoot(folder, { ...options, now });
    case 'remove':
      return removeRoots(folder, { ...options, now });
    default:
      return step satisfies never;
  }
}

type StepOptions = RotationOptions & { readonly now: number };

async function addRoot(folder: string, options: StepOptions): Promise<string[]> {
  const { now, paths, validityDays } = options;
  const before = await readRotation(folder, now);
  if (before.stage === 'switched') {
    throw new PkiError(
      'wrong-stage',
      `cannot add another authority in ${folder}: the replacement before is at its last step, do "--stage remove" first`,
    );
  }
  const lines: string[] = [];
  if (before.stage === 'steady') {
    const commonName = commonNameOf(before.signing) ?? 'Cilium CA';
    const next = await createCa({
      commonName,
      ...(validityDays === undefined ? {} : { validityDays }),
    });
    // The certificate last: with it the new root is there.
    await writePrivateFile(join(folder, 'next.key'), next.privateKey);
    await writePrivateFile(join(folder, 'next.crt'), next.root);
    lines.push(`${join(folder, 'next.crt')}: the new authority ${idOf(authorityOf(next))}`);
  }
  const { signing, next } = await readRotation(folder, now);
  if (next === undefined) throw new Error('the authority that was added is there');
  const bundles = await findBundles(folder, { paths, roots: [signing, next] });
  for (const bundle of bundles) {
    if (await writeRoots(bundle, { add: [signing, next], remove: [] })) {
      lines.push(`${bundle.path}: believes the new authority, too`);
    }
  }
  return lines;
}

async function switchRoot(folder: string, options: StepOptions): Promise<string[]> {
  const { now, paths } = options;
  const state = await readRotation(folder, now);
  if (state.stage === 'steady') {
    throw new PkiError(
      'wrong-stage',
      `cannot switch in ${folder}: no authority waits there, do "--stage add" first`,
    );
  }
  const lines: string[] = [];
  const next = state.next === undefined ? undefined : await readNext(folder, now);
  const ca = next ?? (await readCa(folder, now));
  const bundles = await findBundles(folder, { paths, roots: [state.signing] });
  const late = bundles.filter(
    ({ certificates }) => !certificates.some((root) => idOf(root) === idOf(authorityOf(ca))),
  );
  if (late.length > 0) {
    throw new PkiError(
      'wrong-stage',
      `cannot switch in ${folder}: ${late.map(({ path }) => path).join(', ')} does not believe the new authority yet, repeat "--stage add"`,
    );
  }
  const old = state.next === undefined ? state.old : [state.signing, ...state.old];
  const { files } = await findCertificateFiles(paths);
  for (const file of issuedBy(old, files)) {
    await renewFile(ca, file, now);
    lines.push(`${file.path}: signed by the new authority`);
  }
  // Half renewed before: the certificate is of the new authority, its key of another certificate.
  for (const file of issuedBy([authorityOf(ca)], files)) {
    if (file.hasOwnKey !== false) continue;
    await renewFile(ca, file, now);
    lines.push(`${file.path}: made again, its key did not belong to it`);
  }
  if (next !== undefined) {
    // From here on the folder's key is the new one; that the other is still there is only untidy.
    await rename(join(folder, 'next.key'), join(folder, 'ca.key'));
    lines.push(`${join(folder, 'ca.key')}: the new authority signs`);
  }
  await rm(join(folder, 'next.crt'), { force: true });
  return lines;
}

async function removeRoots(folder: string, options: StepOptions): Promise<string[]> {
  const { now, paths } = options;
  const state = await readRotation(folder, now);
  if (state.stage === 'added') {
    throw new PkiError(
      'wrong-stage',
      `cannot remove the old authority in ${folder}: it signs still, do "--stage switch" first`,
    );
  }
  const { files } = await findCertificateFiles(paths);
  const needed = files.filter(
    ({ kind, certificates }) => kind !== 'bundle' && needsOneOf(state.old, certificates),
  );
  if (needed.length > 0) {
    throw new PkiError(
      'wrong-stage',
      `cannot remove the old authority: it vouches for ${needed.map(({ path }) => path).join(', ')}, repeat "--stage switch"`,
    );
  }
  const lines: string[] = [];
  // The authority's own last: by it the step before is known to be done.
  const own = resolve(folder, 'ca.crt');
  const bundles = await findBundles(folder, { paths, roots: state.old });
  const isOwn = ({ path }: CertificateFile): boolean => resolve(path) === own;
  const others = bundles.filter((bundle) => !isOwn(bundle));
  for (const bundle of [...others, ...bundles.filter(isOwn)]) {
    if (await writeRoots(bundle, { add: [state.signing], remove: state.old })) {
      lines.push(`${bundle.path}: believes the old authority no more`);
    }
  }
  return lines;
}

/** The root that waits, whole; undefined when there is none, or a part of one. */
async function readNext(folder: string, now: number): Promise<CertificateAuthority | undefined> {
  const [certificate, key] = [join(folder, 'next.crt'), join(folder, 'next.key')];
  return existsSync(certificate) && existsSync(key)
    ? readAuthority({ certificate, key }, now)
    : undefined;
}

/** Files that hold one of these roots and are there to be believed: `ca.crt` of the folder itself, and others below the paths. */
async function findBundles(
  folder: string,
  options: { readonly paths: readonly string[]; readonly roots: readonly X509Certificate[] },
): Promise<CertificateFile[]> {
  const { files } = await findCertificateFiles([...options.paths, join(folder, 'ca.crt')]);
  const wanted = options.roots.map(idOf);
  const waiting = resolve(folder, 'next.crt');
  return files.filter(
    ({ path, kind, certificates }) =>
      kind !== 'leaf' &&
      resolve(path) !== waiting &&
      certificates.some((certificate) => wanted.includes(idOf(certificate))),
  );
}

/** Whether a file had to be written. */
async function writeRoots(
  bundle: CertificateFile,
  change: { readonly add: readonly X509Certificate[]; readonly remove: readonly X509Certificate[] },
): Promise<boolean> {
  const removed = change.remove.map(idOf);
  const kept = bundle.certificates.filter((root) => !removed.includes(idOf(root)));
  const present = kept.map(idOf);
  const added = change.add.filter((root) => !present.includes(idOf(root)));
  if (added.length === 0 && kept.length === bundle.certificates.length) return false;
  await writePrivateFile(bundle.path, [...kept, ...added].map(String).join(''));
  return true;
}

/** Whether a chain of certificates, its own first, ends at one of these roots. */
function needsOneOf(
  roots: readonly X509Certificate[],
  certificates: CertificateFile['certificates'],
): boolean {
  const [first] = certificates;
  const isRoot = roots.some((root) => idOf(root) === idOf(first));
  return !isRoot && roots.some((root) => certificates.some((link) => hasSigned(root, link)));
}

function idOf(certificate: X509Certificate): string {
  return certificate.fingerprint256;
}
