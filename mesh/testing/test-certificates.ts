import { execFile } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import { promisify } from 'node:util';
import type { TempDir } from './temp-dir.ts';

const run = promisify(execFile);

/** Files of one certificate and of the CA that signed it. */
export interface CertificateFiles {
  readonly caFile: string;
  readonly certFile: string;
  readonly keyFile: string;
}

/** A certificate authority made for one test. */
export interface TestAuthority {
  readonly caFile: string;
  /** Signs a certificate for both server (localhost, 127.0.0.1, ::1 and `names`) and client use. */
  issue(commonName: string, options?: { names?: readonly string[] }): Promise<CertificateFiles>;
}

/** Makes a CA with the system's openssl in a directory. `name` tells several of one directory apart. */
export async function createTestAuthority(dir: TempDir, name = 'ca'): Promise<TestAuthority> {
  const caFile = dir.file(`${name}.crt`);
  const caKey = dir.file(`${name}.key`);
  const newKey = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'];
  const subject = ['-subj', `/CN=Test CA ${name}`];
  await run('openssl', [
    'req',
    '-x509',
    ...newKey,
    ...subject,
    '-days',
    '2',
    '-keyout',
    caKey,
    '-out',
    caFile,
  ]);
  let serial = 0;
  return {
    caFile,
    async issue(commonName, { names = [] } = {}) {
      serial += 1;
      const base = dir.file(`${name}-${serial}`);
      const alternative = [
        'DNS:localhost',
        'IP:127.0.0.1',
        'IP:::1',
        ...names.map((n) => `DNS:${n}`),
      ];
      await writeFile(
        `${base}.ext`,
        `subjectAltName=${alternative.join(',')}\nextendedKeyUsage=serverAuth,clientAuth\n`,
      );
      const request = [
        '-subj',
        `/CN=${commonName}`,
        '-keyout',
        `${base}.key`,
        '-out',
        `${base}.csr`,
      ];
      await run('openssl', ['req', ...newKey, ...request]);
      const sign = ['-CA', caFile, '-CAkey', caKey, '-set_serial', `${serial}`, '-days', '2'];
      const files = ['-in', `${base}.csr`, '-extfile', `${base}.ext`, '-out', `${base}.crt`];
      await run('openssl', ['x509', '-req', ...sign, ...files]);
      return { caFile, certFile: `${base}.crt`, keyFile: `${base}.key` };
    },
  };
}
