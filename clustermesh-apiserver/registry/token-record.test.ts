import { test } from 'tap';
import { parseIpPrefix } from '../../mesh/wire/ip.ts';
import {
  decodeToken,
  encodeToken,
  matchesNames,
  type TokenRecord,
  tokenState,
} from './token-record.ts';
import { parseTokenWish } from './token-wish.ts';

const record: TokenRecord = {
  id: '0123456789abcdef0123',
  hash: 'ab'.repeat(32),
  createdAt: 1000,
  createdBy: 'admin-alpha',
  expiresAt: 5000,
  uses: 3,
  usesLeft: 2,
  names: 'web-*',
  namespace: 'shop',
  labels: { app: 'web' },
  addressRanges: [parseIpPrefix('192.0.2.0/24'), parseIpPrefix('2001:db8::/32')],
  revoked: undefined,
};

test('matchesNames() takes * for any number of characters', (t) => {
  const cases: readonly [string, string, boolean][] = [
    ['db', 'db', true],
    ['db', 'db1', false],
    ['*', 'anything', true],
    ['web-*', 'web-1', true],
    ['web-*', 'web-', true],
    ['web-*', 'web', false],
    ['*-db', 'eu-db', true],
    ['*-db', 'eu-db1', false],
    ['a*a', 'a', false],
    ['a*a', 'aa', true],
    ['a*b*c', 'a-b-c', true],
    ['a*b*c', 'acb', false],
    ['a*bc*c', 'abc', false],
    ['a**b', 'ab', true],
    // Characters of regular expressions mean themselves.
    ['web.1', 'web-1', false],
  ];
  for (const [pattern, name, expected] of cases) {
    t.equal(matchesNames(pattern, name), expected, `${pattern} ${name}`);
  }
  const evil = `${'a*'.repeat(31)}b`;
  const began = performance.now();
  t.equal(matchesNames(evil, 'a'.repeat(63)), false);
  t.ok(performance.now() - began < 1000, 'work does not grow with the number of stars squared');
  t.end();
});

test('a token is read back as it was, and anything else is none', (t) => {
  t.same(decodeToken(encodeToken(record)), record);
  const revoked = { ...record, revoked: { at: 7, by: 'admin-alpha' } };
  t.same(decodeToken(encodeToken(revoked)), revoked);
  const value = encodeToken(record);
  for (let length = 0; length < value.length; length += 1) {
    t.equal(decodeToken(value.slice(0, length)), undefined);
  }
  for (const bad of [
    { ...record, schema: 2 },
    { ...record, schema: 1, hash: '' },
    { ...record, schema: 1, id: '../x' },
    { ...record, schema: 1, addressRanges: ['x'] },
  ]) {
    t.equal(decodeToken(JSON.stringify(bad)), undefined);
  }
  t.end();
});

test('tokenState() puts what people did before what time did', (t) => {
  t.equal(tokenState(record, 4999), 'usable');
  t.equal(tokenState(record, 5000), 'expired');
  t.equal(tokenState({ ...record, usesLeft: 0 }, 4999), 'used-up');
  t.equal(tokenState({ ...record, revoked: { at: 1, by: '' } }, 9999), 'revoked');
  t.end();
});

test('parseTokenWish() fills in what is safe, and says what it cannot take', (t) => {
  t.same(parseTokenWish({ names: 'db1' }), {
    names: 'db1',
    namespace: 'default',
    labels: {},
    addressRanges: [],
    ttlSeconds: 3600,
    uses: 1,
  });
  const cases: readonly [object, RegExp][] = [
    [{}, /names: cannot take "": expected a machine's name/],
    [{ names: 'A' }, /names: /],
    [{ names: '-a' }, /names: /],
    [{ names: 'a'.repeat(64) }, /names: /],
    [{ names: 'a', uses: 2 }, /uses: 2 machines cannot all be called a/],
    [{ names: 'a*', uses: 10_001 }, /uses: expected 1 to 10000/],
    [{ names: 'a', ttl_seconds: 91 * 86_400 }, /ttl: expected at most 90 days/],
    [{ names: 'a', namespace: 'A/b' }, /namespace: /],
    [{ names: 'a', address_ranges: ['192.0.2.0/33'] }, /address ranges: /],
    [{ names: 'a', labels: { 'a b': 'c' } }, /labels: "a b" is no key/],
    [{ names: 'a', labels: { a: 'b c' } }, /labels: "a" has a value/],
    [
      { names: 'a', labels: { 'io.kubernetes.pod.namespace': 'kube-system' } },
      /labels: "io.kubernetes.pod.namespace" is for the cluster to say/,
    ],
    [{ names: 'a', labels: { 'io.cilium.k8s.policy.cluster': 'beta' } }, /is for the cluster/],
  ];
  for (const [request, message] of cases) {
    t.throws(() => parseTokenWish(request), { code: 'invalid', message });
  }
  t.end();
});
