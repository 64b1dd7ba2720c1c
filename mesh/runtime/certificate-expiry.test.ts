import { readFile } from 'node:fs/promises';
import { test } from 'tap';
import { openTempDir } from '../testing/temp-dir.ts';
import { createTestAuthority } from '../testing/test-certificates.ts';
import { certificateExpiry } from './certificate-expiry.ts';

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
