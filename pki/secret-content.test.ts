import { X509Certificate } from 'node:crypto';
import { test } from 'tap';
import { createCa } from './ca.ts';
import { localLeaf, nodeLeaf, serverLeaf } from './names.ts';
import { judgeSecret, makeSecret, type WantedCertificate } from './secret-content.ts';

const DAY_MS = 86_400_000;
const ca = await createCa({ validityDays: 1000 });
const other = await createCa();
const now = Date.now();
const rules = { ca, roots: ca.root, now };
const wanted: WantedCertificate = {
  kind: 'leaf',
  leaf: serverLeaf('alpha', { ipAddresses: ['2001:db8::7', '192.0.2.7'] }),
};
const made = await makeSecret(wanted, rules, 300);

test('makeSecret() makes what judgeSecret() keeps', async (t) => {
  t.same(judgeSecret(made, wanted, rules), { kind: 'keep' });
  const enrollment = await makeSecret({ kind: 'enrollment' }, rules, 300);
  t.same(judgeSecret(enrollment, { kind: 'enrollment' }, rules), { kind: 'keep' });
  t.ok(new X509Certificate(enrollment['tls.crt'] ?? '').ca);
});

test('judgeSecret() says why something is made anew', async (t) => {
  const foreign = await makeSecret(wanted, { ca: other, roots: other.root, now }, 300);
  const cases = [
    [undefined, wanted, 'it is not there'],
    [{ 'tls.crt': 'x' }, wanted, 'it lacks tls.crt or tls.key'],
    [{ ...made, 'tls.crt': 'x' }, wanted, /^it cannot be read/],
    [
      { ...made, 'tls.key': foreign['tls.key'] ?? '' },
      wanted,
      /key is not that of its certificate/,
    ],
    [foreign, wanted, 'another authority has signed it'],
    [made, { kind: 'leaf', leaf: localLeaf('alpha') }, 'it is not for local-alpha'],
    [made, { kind: 'leaf', leaf: serverLeaf('alpha') }, 'it has other names'],
    [made, { kind: 'enrollment' }, 'it is no authority'],
  ] as const;
  for (const [content, want, reason] of cases) {
    t.match(judgeSecret(content, want, rules), { kind: 'make', reason }, String(reason));
  }
});

test('judgeSecret() renews at two thirds of a life, and not when another would not last longer', async (t) => {
  t.same(judgeSecret(made, wanted, { ...rules, now: now + 190 * DAY_MS }), { kind: 'keep' });
  t.match(judgeSecret(made, wanted, { ...rules, now: now + 210 * DAY_MS }), {
    kind: 'make',
    reason: /^it ends /,
  });
  const leaf: WantedCertificate = { kind: 'leaf', leaf: nodeLeaf('a') };
  const long = await makeSecret(leaf, rules, 5000);
  const end = Date.parse(new X509Certificate(long['tls.crt'] ?? '').validTo);
  t.ok(end <= Date.parse(new X509Certificate(ca.root).validTo), 'it ends with its authority');
  t.same(judgeSecret(long, leaf, { ...rules, now: now + 900 * DAY_MS }), { kind: 'keep' });
});

test('judgeSecret() lets the certificate be when only the bundle is another', (t) => {
  const both = { ...rules, roots: ca.root + other.root };
  t.same(judgeSecret(made, wanted, both), { kind: 'change-bundle' });
  t.end();
});
