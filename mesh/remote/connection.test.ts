import { utimesSync, writeFileSync } from 'node:fs';
import { test } from 'tap';
import { systemClock } from '../runtime/clock.ts';
import { openTempDir } from '../testing/temp-dir.ts';
import { createTestAuthority } from '../testing/test-certificates.ts';
import { connectionReader } from './connection.ts';

/** A clock by which everything on disk was written long ago. */
const LATER = { ...systemClock, now: () => Date.now() + 60_000 };

test('a file is read again only when it or a certificate that it names has changed', async (t) => {
  await using dir = await openTempDir('connection');
  const authority = await createTestAuthority(dir, 'ours');
  const first = await authority.issue('first');
  const path = dir.file('beta');
  const write = (ca: string): void =>
    writeFileSync(
      path,
      `endpoints:\n- https://192.0.2.1:2379\ntrusted-ca-file: ${ca}\ncert-file: ${first.certFile}\nkey-file: ${first.keyFile}\n`,
    );
  write(authority.caFile);
  const read = connectionReader({ clock: LATER });
  const { fingerprint } = await read(path);
  const settled = await read(path);
  t.equal(settled.fingerprint, fingerprint);
  t.equal(await read(path), settled, 'nothing has changed: the same connection');
  utimesSync(first.certFile, 1, 1);
  const touched = await read(path);
  t.not(touched, settled);
  t.equal(touched.fingerprint, fingerprint);
  const other = await createTestAuthority(dir, 'theirs');
  write(other.caFile);
  t.not((await read(path)).fingerprint, fingerprint, 'another file, another connection');
  writeFileSync(path, 'endpoints: []');
  await t.rejects(read(path), { code: 'bad-field' });
  await t.rejects(read(path), { code: 'bad-field' }, 'what cannot be read is not remembered');
});

test('what has only just changed is not remembered', async (t) => {
  await using dir = await openTempDir('connection');
  const path = dir.file('beta');
  const read = connectionReader({ clock: systemClock });
  const fingerprints = new Set<string>();
  for (const port of [2379, 2380, 2381]) {
    writeFileSync(path, `endpoints:\n- http://192.0.2.1:${port}\n`);
    fingerprints.add((await read(path)).fingerprint);
    t.equal((await read(path)).endpoints[0], `http://192.0.2.1:${port}`);
  }
  t.equal(fingerprints.size, 3);
});
