import { readFile } from 'node:fs/promises';
import { test } from 'tap';
import { createCa, issueCertificate } from '../../pki/ca.ts';
import { remoteLeaf } from '../../pki/names.ts';
import { openTempDir } from '../testing/temp-dir.ts';
import { createTestAuthority } from '../testing/test-certificates.ts';
import { certificateDue, certificateExpiry } from './certificate-expiry.ts';

test('certificateExpiry() is when the first certificate of a file runs out', async (t) => {
  const dir = await openTempDir('expiry');
  t.teardown(() => dir[Symbol.asyncDispose]());
  const authority = await createTestAuthority(dir);
  const { certFile, caFile } = await authority.issue('server');
  const leaf = await readFile(certFile);
  const ca = await readFile(caFile);
  const leafEnds = certificateExpiry(leaf) ?? 0;
  t.ok(leafEnds > Date.now(), `${leafEnds}`);
  const both = certificateExpiry(Buffer.concat([ca, leaf]));
  t.equal(both, Math.min(leafEnds, certificateExpiry(ca) ?? Number.NaN));
  t.equal(certificateExpiry('no certificate'), undefined);
  const broken = '-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n';
  t.equal(certificateExpiry(broken), undefined);
  t.equal(certificateExpiry(broken + leaf.toString()), leafEnds);
});

test('certificateDue() is when a quarter of a short life, or two weeks of a long one, are left', async (t) => {
  const day = 24 * 3_600_000;
  const ca = await createCa();
  const make = async (days: number): Promise<{ due: number | undefined; end: number }> => {
    const now = Date.now();
    const { certificate } = await issueCertificate(ca, {
      ...remoteLeaf('beta'),
      notBefore: now,
      notAfter: now + days * day,
    });
    return { due: certificateDue(certificate), end: certificateExpiry(certificate) ?? 0 };
  };
  const short = await make(4);
  t.equal(short.due, short.end - day);
  const long = await make(1000);
  t.equal(long.due, long.end - 14 * day);
  t.equal(certificateDue('no certificate'), undefined);
});
