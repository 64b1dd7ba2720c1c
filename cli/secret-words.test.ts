import { randomBytes } from 'node:crypto';
import { test } from 'tap';
import { formatEnrollmentToken } from '../mesh/wire/enrollment-token.ts';
import { createCa } from '../pki/ca.ts';
import { redactSecrets } from './secret-words.ts';

test('redactSecrets() takes keys and tokens out, in whatever they come', async (t) => {
  const { privateKey, certificate } = await createCa();
  const token = formatEnrollmentToken({
    id: 'ab'.repeat(10),
    secret: randomBytes(32),
    anchor: randomBytes(32),
  });
  const jwt = `eyJhbGciOiJSUzI1NiJ9.${randomBytes(40).toString('base64url')}.${randomBytes(60).toString('base64url')}`;
  const base64Key = Buffer.from(privateKey).toString('base64');
  const texts = [
    `before\n${privateKey}after`,
    JSON.stringify({ key: privateKey, after: 1 }),
    `a log that ends within\n${privateKey.slice(0, 300)}`,
    `  tls.key: ${base64Key}`,
    `client-key-data: ${base64Key}`,
    `clustermesh vm join --token ${token} alpha`,
    `authorization: Bearer ${jwt}`,
    `token=${jwt}`,
    '{"password":"correct-horse"}',
    'passphrase: "of several words, correct-horse"',
    JSON.stringify({ msg: '{"token":"correct-horse"}' }),
    'backup --passphrase correct-horse --output x',
    'endpoints: [https://root:correct-horse@192.0.2.1:2379]',
  ];
  const secrets = [
    ...privateKey.split('\n').filter((line) => line.length > 40),
    base64Key.slice(0, 200),
    token.split('.')[2]!,
    jwt.split('.')[2]!,
    'correct-horse',
  ];
  for (const text of texts) {
    const left = redactSecrets(text);
    t.match(left, /\[redacted\]/, text.slice(0, 40));
    for (const secret of secrets) t.notOk(left.includes(secret), text.slice(0, 40));
  }
  t.match(redactSecrets(`before\n${privateKey}after`), /^before\n\[redacted\]\s*after$/);
  t.equal(redactSecrets(certificate), certificate, 'certificates are no secret');
  const status = '{"token_id":"ab12","tokens":3,"identity":65537,"name":"secret-web"}';
  t.equal(redactSecrets(status), status, 'nor is what only looks so');
});
