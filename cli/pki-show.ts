/** `clustermesh pki show`: the tree of certificates in files, until when each is valid, and who uses it. */
import type { X509Certificate } from 'node:crypto';
import { Command, Option } from 'commander';
import { fingerprintOf } from '../pki/ca.ts';
import {
  type CertificateFile,
  type CertificateFiles,
  findCertificateFiles,
  openModeOf,
} from '../pki/certificate-files.ts';
import { hasSigned } from '../pki/issued-files.ts';
import { renewalTime, type ValidityState, validityOf } from '../pki/validity.ts';

/** A certificate with every file that holds it, and what it has signed. */
interface ShownCertificate {
  readonly subject: string;
  readonly fingerprint: string;
  readonly notBefore: string;
  readonly notAfter: string;
  readonly renewAt: string;
  readonly state: ValidityState;
  readonly files: readonly { readonly path: string; readonly use: string }[];
  readonly issued: readonly ShownCertificate[];
}

const PROBLEMS: readonly ValidityState[] = ['expired', 'not-yet-valid', 'ending'];

/** Builds the command. `setProblem` is called when something is expired or about to be. */
export function pkiShowCommand(print: (line: string) => void, setProblem: () => void): Command {
  return new Command('show')
    .description('show the certificates of files and folders: the tree, until when, used by whom')
    .argument('<path...>', 'files, and folders whose files below are looked at')
    .addOption(
      new Option('-o, --output <format>', 'how to print').choices(['tree', 'json']).default('tree'),
    )
    .action((paths: string[], flags: { output: 'tree' | 'json' }) =>
      show(paths, { ...flags, print, setProblem }),
    );
}

async function show(
  paths: readonly string[],
  options: {
    readonly output: 'tree' | 'json';
    readonly print: (line: string) => void;
    readonly setProblem: () => void;
  },
): Promise<void> {
  const { output, print, setProblem } = options;
  const found = await findCertificateFiles(paths);
  const tree = treeOf(found.files, Date.now());
  const problems = [...found.problems, ...(await keyProblems(found)), ...dateProblems(tree)];
  if (output === 'json') print(JSON.stringify({ certificates: tree, problems }, undefined, 2));
  else {
    for (const line of treeLines(tree)) print(line);
    if (problems.length > 0) print('');
    for (const problem of problems) print(`warning: ${problem}`);
  }
  if (problems.length > 0) setProblem();
}

/** Roots first, below each what it has signed; what nobody here has signed stands beside them. */
function treeOf(files: readonly CertificateFile[], now: number): readonly ShownCertificate[] {
  const all = new Map<string, { certificate: X509Certificate; files: CertificateFile[] }>();
  for (const file of files) {
    for (const certificate of file.certificates) {
      // What comes along between a leaf and its root is said where it is used itself.
      const entry = all.get(certificate.fingerprint256) ?? { certificate, files: [] };
      if (file.kind === 'bundle' || certificate === file.certificates[0] || isRoot(certificate)) {
        entry.files.push(file);
      }
      all.set(certificate.fingerprint256, entry);
    }
  }
  const entries = [...all.values()];
  const shown = (entry: (typeof entries)[number]): ShownCertificate => {
    const { certificate } = entry;
    const issued = entries.filter((other) => hasSigned(certificate, other.certificate));
    return {
      subject: certificate.subject.replaceAll('\n', ', '),
      fingerprint: fingerprintOf(certificate.toString()),
      notBefore: new Date(certificate.validFrom).toISOString(),
      notAfter: new Date(certificate.validTo).toISOString(),
      renewAt: new Date(renewalTime(certificate)).toISOString(),
      state: validityOf(certificate, now),
      files: entry.files.map(({ path, use }) => ({ path, use })),
      issued: issued.filter((other) => !isRoot(other.certificate)).map(shown),
    };
  };
  const isTop = ({ certificate }: (typeof entries)[number]): boolean =>
    isRoot(certificate) || !entries.some((other) => hasSigned(other.certificate, certificate));
  return entries.filter(isTop).map(shown);
}

function isRoot(certificate: X509Certificate): boolean {
  return certificate.ca && certificate.verify(certificate.publicKey);
}

function treeLines(tree: readonly ShownCertificate[], indent = ''): string[] {
  return tree.flatMap((shown) => [
    `${indent}${shown.subject}  ${stateWords(shown)}  SHA-256 ${shown.fingerprint}`,
    ...shown.files.map(({ path, use }) => `${indent}    ${path}: ${use}`),
    ...treeLines(shown.issued, `${indent}  `),
  ]);
}

function stateWords({ state, notBefore, notAfter, renewAt }: ShownCertificate): string {
  const [from, to, due] = [notBefore, notAfter, renewAt].map((time) => time.slice(0, 16));
  switch (state) {
    case 'good':
      return `valid until ${to}Z, renewal due ${due}Z`;
    case 'due':
      return `valid until ${to}Z, renewal was due ${due}Z`;
    case 'ending':
      return `ENDS ${to}Z, renewal was due ${due}Z`;
    case 'expired':
      return `EXPIRED ${to}Z`;
    case 'not-yet-valid':
      return `NOT VALID before ${from}Z`;
    default:
      return state satisfies never;
  }
}

function dateProblems(tree: readonly ShownCertificate[]): string[] {
  const lines = new Set<string>();
  const enter = (shown: ShownCertificate): void => {
    if (PROBLEMS.includes(shown.state)) {
      const where = shown.files.map(({ path }) => path).join(', ');
      const what = `${shown.subject}, SHA-256 ${shown.fingerprint}`;
      lines.add(`${what}: ${stateWords(shown)}${where === '' ? '' : ` (${where})`}`);
    }
    shown.issued.forEach(enter);
  };
  tree.forEach(enter);
  return [...lines];
}

/** Keys that do not fit, and keys that others than their owner may read. */
async function keyProblems({ files }: CertificateFiles): Promise<string[]> {
  const problems: string[] = [];
  for (const { path, keyFile, hasOwnKey } of files) {
    if (keyFile === undefined) continue;
    if (hasOwnKey === false) problems.push(`${keyFile} is not the key of ${path}`);
    const mode = await openModeOf(keyFile);
    if (mode !== undefined) {
      problems.push(`${keyFile} can be read by others (mode ${mode.toString(8)}), expected 600`);
    }
  }
  return problems;
}
