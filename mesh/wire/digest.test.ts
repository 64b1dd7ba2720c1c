import fc from 'fast-check';
import { test } from 'tap';
import { createDigest, decodeMeshDigest, encodeMeshDigest, hashEntry } from './digest.ts';
import { meshDigestKey } from './keys.ts';
import { refusalOf } from './testing/refusal.ts';

const KEY = meshDigestKey('cilium/state/nodes/v1/alpha/');
const entries = fc.uniqueArray(fc.tuple(fc.string(), fc.string({ unit: 'grapheme' })), {
  maxLength: 20,
  selector: ([key]) => key,
});

test('the hash is part of the format: it never changes', async (t) => {
  const cases: readonly (readonly [string, string, string])[] = [
    ['', '', 'a70154afc41e107f'],
    ['a', '', '095d00c9a64436ed'],
    ['', 'a', '58b99c73e8c449fc'],
    ['cilium/state/nodes/v1/alpha/n1', '{"Name":"n1"}', 'bd4c1a6f99af706f'],
    ['k', 'v'.repeat(4999), 'd42c183793319674'],
  ];
  for (const [key, value, expected] of cases) {
    const [high, low] = hashEntry(key, value);
    const text = [high, low].map((half) => half.toString(16).padStart(8, '0')).join('');
    t.equal(text, expected, `${key} ${value.length}`);
  }
  t.strictSame(hashEntry('k', Buffer.from('wert')), hashEntry('k', 'wert'), 'text is its UTF-8');
  t.strictSame(hashEntry('k', Buffer.from('ü')), hashEntry('k', 'ü'));
});

test('nothing is taken for something else: lengths and order count', async (t) => {
  const seen = new Set<string>();
  const texts = ['', 'a', 'b', 'ab', 'ba', 'a\0', '\0a', '\0', '\0\0', 'abcd', 'abcde', 'abcd\0'];
  for (const key of texts) for (const value of texts) seen.add(hashEntry(key, value).join());
  t.equal(seen.size, texts.length ** 2);
});

test('hashes of values that differ little are spread over all 64 bits', async (t) => {
  const highs = new Set<number>();
  const lows = new Set<number>();
  let differing = 0;
  const count = 50_000;
  for (let index = 0; index < count; index += 1) {
    const [high, low] = hashEntry(
      `cilium/state/ip/v1/default/10.0.${index >> 8}.${index & 255}`,
      'x',
    );
    highs.add(high);
    lows.add(low);
    const [other] = hashEntry(`cilium/state/ip/v1/default/10.0.${index >> 8}.${index & 255}`, 'y');
    differing += bitCount(high ^ other);
  }
  // Of 50,000 numbers of 32 bits, 0.29 pairs are expected to be equal.
  t.ok(highs.size > count - 8 && lows.size > count - 8);
  t.ok(Math.abs(differing / count - 16) < 0.2, 'half of the bits change');
});

test('a digest has no order, and what is removed was never there', async (t) => {
  fc.assert(
    fc.property(entries, fc.func(fc.integer()), (list, order) => {
      const there = createDigest();
      for (const [key, value] of list) there.add(key, value);
      const shuffled = [...list].sort((a, b) => order(a) - order(b));
      const back = createDigest();
      for (const [key, value] of shuffled) back.add(key, Buffer.from(value));
      const same = there.sum === back.sum && there.count === back.count;
      for (const [key, value] of shuffled) there.remove(key, value);
      return same && there.sum === '0000000000000000' && there.count === 0;
    }),
  );
  const digest = createDigest();
  digest.add('a', '1');
  const one = digest.sum;
  digest.add('b', '2');
  t.not(digest.sum, one);
  digest.remove('b', '2');
  t.equal(digest.sum, one);
  digest.remove('a', '1');
  digest.add('a', '2');
  t.not(digest.sum, one, 'another value under the same key');
  digest.clear();
  t.strictSame([digest.count, digest.sum], [0, '0000000000000000']);
  digest.remove('x', '');
  digest.add('x', '');
  t.equal(digest.sum, '0000000000000000', 'carries go both ways');
});

test('the sum is that of the hashes modulo 2^64', async (t) => {
  fc.assert(
    fc.property(entries, (list) => {
      const digest = createDigest();
      let expected = 0n;
      for (const [key, value] of list) {
        digest.add(key, value);
        const [high, low] = hashEntry(key, value);
        expected += (BigInt(high) << 32n) | BigInt(low);
      }
      return digest.sum === BigInt.asUintN(64, expected).toString(16).padStart(16, '0');
    }),
  );
  t.pass();
});

test('a digest is written and read', async (t) => {
  const text = '{"schema":1,"count":2,"sum":"00ff00ff00ff00ff"}';
  t.equal(encodeMeshDigest({ count: 2, sum: '00ff00ff00ff00ff' }), text);
  t.strictSame(decodeMeshDigest(Buffer.from(text), KEY), { count: 2, sum: '00ff00ff00ff00ff' });
  for (const [value, field] of [
    ['{"schema":2,"count":2,"sum":"00ff00ff00ff00ff"}', 'schema'],
    ['{"count":2,"sum":"00ff00ff00ff00ff"}', 'schema'],
    ['{"schema":1,"count":-1,"sum":"00ff00ff00ff00ff"}', 'count'],
    ['{"schema":1,"count":2,"sum":"00FF00ff00ff00ff"}', 'sum'],
    ['{"schema":1,"count":2,"sum":"ff"}', 'sum'],
    ['{"schema":1,"count":2}', 'sum'],
  ] as const) {
    const error = refusalOf(() => decodeMeshDigest(value, KEY));
    t.strictSame([error.code, error.field, error.key], ['bad-field', field, KEY], value);
  }
});

function bitCount(word: number): number {
  return (word >>> 0).toString(2).replaceAll('0', '').length;
}
