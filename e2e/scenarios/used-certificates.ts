/** The certificates that programs of a lab use: where they are, replaced, and whether they are in use. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { lookAtServer } from '../../mesh/runtime/server-look.ts';
import {
  type CertificateAuthority,
  fingerprintOf,
  issueCertificate,
  type KeyPair,
} from '../../pki/ca.ts';
import { commonNameOf, findCertificateFiles } from '../../pki/certificate-files.ts';
import { writePrivateFile } from '../../pki/layout.ts';
import { SECRET_NAMES, serverLeaf } from '../../pki/names.ts';
import { renewCertificates } from '../../pki/renewal.ts';
import { pkiFolder } from '../lab/certificates.ts';
import { execute } from '../lab/command.ts';
import type { Lab } from '../lab/lab.ts';
import { callersOf } from './rotation-lab.ts';

const CLI = fileURLToPath(new URL('../../cli/main.js', import.meta.url));
const COMMAND_TIMEOUT_MS = 120_000;
/** Those of the lab. */
export const CLUSTERS = ['alpha', 'beta'] as const;

/** Folders with what the authority of a cluster has signed and programs use. */
export function usedFolders(lab: Lab, name: string): string[] {
  const { first } = lab.cluster(name);
  return [
    join(pkiFolder(lab.cluster(name)), SECRET_NAMES.server),
    join(first.folder, 'etcd'),
    join(first.folder, 'clustermesh'),
  ];
}

/** Puts certificates of another life where there are some, by the authority that the lab began with. */
export async function reissueAll(lab: Lab, name: string, lifeMs: number): Promise<void> {
  const ca = lab.certificates.get(name)?.ca;
  if (ca === undefined) throw new Error(`no cluster is named ${name}`);
  const notAfter = Date.now() + lifeMs;
  const { files } = await findCertificateFiles(usedFolders(lab, name));
  for (const { kind, path, keyFile, certificates } of files) {
    if (kind !== 'leaf' || keyFile === undefined) continue;
    const commonName = commonNameOf(certificates[0]) ?? '';
    const leaf = certificates[0].keyUsage?.includes('1.3.6.1.5.5.7.3.1')
      ? serverLeaf(name, { ipAddresses: lab.cluster(name).first.addresses })
      : { commonName, usage: 'client' as const };
    const pair = await issueCertificate(ca, { ...leaf, notAfter });
    await writePrivateFile(keyFile, pair.privateKey);
    await writePrivateFile(path, pair.certificate);
  }
}

/** SHA-256 of the certificates that are in these folders now, by file. */
export async function shownIn(folders: readonly string[]): Promise<string[]> {
  const { files } = await findCertificateFiles(folders);
  return files
    .filter(({ kind }) => kind === 'leaf')
    .map(({ certificates }) => fingerprintOf(certificates[0].raw));
}

/** Waits until gates, registries and their callers have gone over to what the files hold. */
export async function untilInUse(lab: Lab, what: string): Promise<void> {
  for (const name of CLUSTERS) {
    const { first } = lab.cluster(name);
    const other = lab.cluster(name === 'alpha' ? 'beta' : 'alpha').first;
    const wanted = [
      ...(await shownIn([join(first.folder, 'etcd')])),
      ...(await shownIn([join(other.folder, 'clustermesh')])),
    ];
    await lab.waitFor(`callers of ${name} to show the new ones: ${what}`, async () => {
      const callers = await callersOf(lab, name);
      const replaced = callers.filter((caller) => /^(node|remote)-/.test(caller.name));
      const shown = replaced.map(({ fingerprint }) => fingerprint);
      return (
        wanted.every((fingerprint) => shown.includes(fingerprint)) &&
        shown.every((fingerprint) => wanted.includes(fingerprint))
      );
    });
  }
}

/** Waits until servers of alpha show the certificate that is in its file. */
export async function untilShown(
  lab: Lab,
  servers: readonly { readonly port: number }[],
): Promise<void> {
  const folder = join(pkiFolder(lab.cluster('alpha')), SECRET_NAMES.server);
  const [wanted] = await shownIn([folder]);
  for (const { port } of servers) {
    await lab.waitFor(`port ${port} to show the new certificate`, async () => {
      const { chain } = await lookAtServer({ host: '127.0.0.1', port, name: 'localhost' });
      return chain[0] !== undefined && fingerprintOf(chain[0].raw) === wanted;
    });
  }
}

/** Puts new certificates in the place of all that clusters use; resolves to what the files held before. */
export async function renewAll(lab: Lab, names: readonly string[]): Promise<string[]> {
  const spent: string[] = [];
  for (const name of names) {
    const folders = usedFolders(lab, name);
    spent.push(...(await shownIn(folders)));
    const caFolder = pkiFolder(lab.cluster(name));
    const renewals = await renewCertificates(folders, { caFolder, all: true });
    const failed = renewals.filter(({ kind }) => kind !== 'renewed');
    if (failed.length > 0) throw new Error(`cannot renew: ${JSON.stringify(failed)}`);
  }
  return spent;
}

/** Runs a step of `clustermesh pki rotate-ca` for one cluster over the files of both. */
export async function rotate(
  lab: Lab,
  name: string,
  stage: 'add' | 'switch' | 'remove',
): Promise<string> {
  const clusters = CLUSTERS.map((cluster) => lab.cluster(cluster));
  const paths = clusters.flatMap(({ folder, first }) => [folder, first.folder]);
  const ca = pkiFolder(lab.cluster(name));
  const argv = [process.execPath, CLI, 'pki', 'rotate-ca', ...paths, '--ca', ca];
  const { code, stdout, stderr } = await execute([...argv, '--stage', stage], {
    timeoutMs: COMMAND_TIMEOUT_MS,
  });
  if (code !== 0) throw new Error(`rotate-ca --stage ${stage} of ${name}: ${stderr}`);
  return stdout;
}

/** A certificate of a client, by an authority. */
export async function keyPairOf(ca: CertificateAuthority, commonName: string): Promise<KeyPair> {
  return issueCertificate(ca, { commonName, usage: 'client' });
}

/** The certificates of the machine db, as they are now. */
export async function machinePair(lab: Lab): Promise<KeyPair & { readonly ca: string }> {
  const folder = join(lab.machine('db').plan.stateDir, 'certs');
  const [certificate = '', privateKey = '', ca = ''] = await Promise.all(
    ['tls.crt', 'tls.key', 'ca.crt'].map((file) => readFile(join(folder, file), 'utf8')),
  );
  return { certificate, privateKey, ca };
}
