import { test } from 'tap';
import { createManualClock } from '../../mesh/testing/manual-clock.ts';
import { createCa, issueCertificate } from '../../pki/ca.ts';
import { remoteLeaf } from '../../pki/names.ts';
import { createClientCertificate } from './client-certificate.ts';

const HOUR_MS = 3_600_000;
// Making one takes a while.
const ca = await createCa();
const SILENT = { text: 'no answer', isUnknownThere: false };

test('a certificate is due when two thirds of its life are over', async (t) => {
  const clock = createManualClock({ now: 1_800_000_000_000 });
  const issue = (notBefore: number, notAfter: number) =>
    issueCertificate(ca, { ...remoteLeaf('alpha'), notBefore, notAfter });
  const now = clock.now();
  const none = createClientCertificate(undefined, { clock });
  t.equal(none.dueIn(), 0, 'where there is none one is due now');
  t.equal(none.notAfter, undefined);
  const pair = await issue(now - 300_000, now + 24 * HOUR_MS);
  none.take(pair);
  t.equal(none.dueIn(), 16 * HOUR_MS);
  t.equal(none.notAfter, now + 24 * HOUR_MS);
  await clock.advance(HOUR_MS);
  t.equal(none.dueIn(), 15 * HOUR_MS);

  const held = createClientCertificate(pair, { clock });
  t.equal(held.dueIn(), 15 * HOUR_MS, 'one from before is as old as it is');
  const expired = createClientCertificate(await issue(now - 3 * HOUR_MS, now), { clock });
  t.equal(expired.dueIn(), 0);
});

test('what fails is tried again, ever more rarely', async (t) => {
  const clock = createManualClock({ now: 1_800_000_000_000 });
  const certificate = createClientCertificate(undefined, { clock });
  certificate.fail(SILENT);
  t.equal(certificate.problem, SILENT);
  const first = certificate.dueIn();
  t.ok(first >= 1000 && first <= 2000, String(first));
  for (let n = 0; n < 10; n += 1) certificate.fail(SILENT);
  const last = certificate.dueIn();
  t.ok(last >= 30_000 && last <= 60_000, String(last));
  const now = Math.floor(clock.now() / 1000) * 1000;
  certificate.take(
    await issueCertificate(ca, { ...remoteLeaf(), notBefore: now, notAfter: now + HOUR_MS }),
  );
  t.equal(certificate.problem, undefined);
});

test('one that is doubted is due soon, and then not at every look', async (t) => {
  const clock = createManualClock({ now: 1_800_000_000_000 });
  const now = Math.floor(clock.now() / 1000) * 1000;
  const pair = await issueCertificate(ca, {
    ...remoteLeaf(),
    notBefore: now,
    notAfter: now + 24 * HOUR_MS,
  });
  const certificate = createClientCertificate(undefined, { clock });
  certificate.take(pair);
  certificate.doubt();
  t.ok(certificate.dueIn() > HOUR_MS, 'it is new');
  await clock.advance(5000);
  certificate.doubt();
  t.equal(certificate.dueIn(), 0);
  certificate.take(pair);
  await clock.advance(4000);
  certificate.doubt();
  t.ok(certificate.dueIn() > HOUR_MS, 'another one has not helped a moment ago');
  await clock.advance(60_000);
  certificate.doubt();
  t.equal(certificate.dueIn(), 0);
  certificate.take(pair);
  certificate.believe();
  await clock.advance(5000);
  certificate.doubt();
  t.equal(certificate.dueIn(), 0, 'it was good meanwhile');
});
