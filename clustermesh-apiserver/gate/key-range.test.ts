import fc from 'fast-check';
import { test } from 'tap';
import { prefixRange, rangeHolds, rangeWithin, requestedRange, singleKey } from './key-range.ts';

test('prefixRange() holds what begins with the prefix, and nothing else', async (t) => {
  fc.assert(
    fc.property(fc.string({ maxLength: 4 }), fc.string({ maxLength: 6 }), (prefix, key) => {
      const holds = rangeHolds(prefixRange(prefix), Buffer.from(key));
      t.equal(
        holds,
        Buffer.from(key).subarray(0, Buffer.byteLength(prefix)).equals(Buffer.from(prefix)),
      );
    }),
  );
  t.same(prefixRange('a/').end, Buffer.from('a0'));
  t.equal(prefixRange('').end, undefined);
});

test('requestedRange() understands the two fields as etcd does', async (t) => {
  const key = Buffer.from('a');
  const one = requestedRange(key, Buffer.alloc(0));
  t.ok(rangeHolds(one, key));
  t.notOk(rangeHolds(one, Buffer.from('a\0')));
  t.same(one, singleKey('a'));
  t.equal(requestedRange(key, Buffer.from([0])).end, undefined);
  t.same(requestedRange(key, Buffer.from('b')).end, Buffer.from('b'));
});

test('rangeWithin() never lets a key through that the outer range does not hold', async (t) => {
  const bytes = fc.uint8Array({ maxLength: 3, max: 3 }).map((array) => Buffer.from(array));
  const range = fc.tuple(bytes, fc.option(bytes)).map(([start, end]) => ({
    start,
    end: end ?? undefined,
  }));
  let checked = 0;
  fc.assert(
    fc.property(range, range, fc.array(bytes, { minLength: 5 }), (inner, outer, keys) => {
      if (!rangeWithin(inner, outer)) return;
      for (const key of keys) {
        if (!rangeHolds(inner, key)) continue;
        checked += 1;
        if (!rangeHolds(outer, key)) throw new Error(`${key.toString('hex')} slips through`);
      }
    }),
    { numRuns: 5000 },
  );
  t.ok(checked > 100, `${checked} keys`);
  const outer = prefixRange('b/');
  t.ok(rangeWithin(outer, outer));
  t.notOk(rangeWithin({ start: Buffer.from('b/'), end: undefined }, outer));
  t.notOk(rangeWithin({ start: Buffer.from('c'), end: Buffer.from('a') }, outer), 'inverted');
});
