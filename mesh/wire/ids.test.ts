import { test } from 'tap';
import {
  clusterIdOfIdentity,
  clusterLocalIdentityBits,
  identityRange,
  makeIdentity,
  parseClusterId,
  parseClusterName,
  parseMaxConnectedClusters,
  parseNumericIdentity,
  RESERVED_IDENTITIES,
  reservedIdentity,
  reservedIdentityName,
} from './ids.ts';
import { refusalOf } from './testing/refusal.ts';

test('parseClusterName() takes what Cilium takes', async (t) => {
  for (const name of ['a', '0', 'a-b', 'alpha', 'defaults', 'a--b', 'a'.repeat(32)]) {
    t.equal(parseClusterName(name), name);
  }
  const refused = [
    '',
    '-a',
    'a-',
    'A',
    'a_b',
    'a.b',
    'a/b',
    'é',
    'a\n',
    'a'.repeat(33),
    null,
    7,
    [],
  ];
  for (const name of refused) {
    const error = refusalOf(() => parseClusterName(name));
    t.equal(error.code, 'bad-value');
    t.match(error.message, /cluster name .*expected 1 to 32 of a-z/);
  }
  t.match(refusalOf(() => parseClusterName('default')).message, /"default": it is reserved/);
});

test('a message quotes no more than the beginning of what was found', async (t) => {
  for (const value of ['x'.repeat(100_000), Array.from({ length: 10_000 }, () => 1)]) {
    t.ok(refusalOf(() => parseClusterName(value)).message.length < 300);
    t.ok(refusalOf(() => parseNumericIdentity(value)).message.length < 300);
  }
});

test('parseClusterId() knows the size of the mesh', async (t) => {
  t.equal(parseClusterId(1), 1);
  t.equal(parseClusterId(511), 511);
  t.equal(parseClusterId(255, 255), 255);
  t.match(refusalOf(() => parseClusterId(256, 255)).message, /cluster id 256: expected 1 to 255/);
  for (const value of [
    0,
    512,
    -1,
    1.5,
    Number.NaN,
    Number.POSITIVE_INFINITY,
    '1',
    null,
    undefined,
  ]) {
    t.equal(refusalOf(() => parseClusterId(value)).code, 'bad-value');
  }
});

test('parseMaxConnectedClusters() takes 255 and 511', async (t) => {
  t.equal(parseMaxConnectedClusters(255), 255);
  t.equal(parseMaxConnectedClusters(511), 511);
  for (const value of [0, 254, 256, 510, 512, '255', null]) {
    t.match(refusalOf(() => parseMaxConnectedClusters(value)).message, /expected 255 or 511/);
  }
});

test('parseNumericIdentity() takes 24 bits', async (t) => {
  t.equal(parseNumericIdentity(0), 0);
  t.equal(parseNumericIdentity(2 ** 24 - 1), 16_777_215);
  for (const value of [2 ** 24, -1, 0.5, '1', null, { toString: 1 }]) {
    t.match(
      refusalOf(() => parseNumericIdentity(value)).message,
      /expected an integer below 2\^24/,
    );
  }
});

test('identities carry the cluster in their high bits', async (t) => {
  const cases = [
    { max: 255, bits: 16, cluster: 1, first: 65_536, last: 131_071 },
    { max: 255, bits: 16, cluster: 255, first: 16_711_680, last: 16_777_215 },
    { max: 511, bits: 15, cluster: 1, first: 32_768, last: 65_535 },
    { max: 511, bits: 15, cluster: 511, first: 16_744_448, last: 16_777_215 },
  ] as const;
  for (const { max, bits, cluster, first, last } of cases) {
    const id = parseClusterId(cluster);
    t.equal(clusterLocalIdentityBits(max), bits);
    t.same(identityRange(id, max), { first, last });
    t.equal(makeIdentity(id, 0, max), first);
    t.equal(makeIdentity(id, 2 ** bits - 1, max), last);
    t.equal(clusterIdOfIdentity(parseNumericIdentity(first), max), cluster);
    t.equal(clusterIdOfIdentity(parseNumericIdentity(last), max), cluster);
    t.equal(clusterIdOfIdentity(parseNumericIdentity(first - 1), max), cluster - 1);
    for (const local of [-1, 0.5, 2 ** bits]) {
      t.match(refusalOf(() => makeIdentity(id, local, max)).message, /does not fit/);
    }
  }
  t.equal(clusterIdOfIdentity(reservedIdentity('host'), 255), 0);
});

test('reserved identities have names', async (t) => {
  for (const [name, id] of Object.entries(RESERVED_IDENTITIES)) {
    t.equal(reservedIdentityName(id), name);
  }
  t.equal(reservedIdentity('remote-node'), 6);
  t.equal(reservedIdentity('world-ipv6'), 10);
  t.equal(reservedIdentityName(11), undefined);
  t.equal(reservedIdentityName(256), undefined);
});
