import fc from 'fast-check';
import { test } from 'tap';
import { compareBytes, readStringMap } from './json.ts';

const byBytes = (a: string, b: string): number => Buffer.compare(Buffer.from(a), Buffer.from(b));

test('compareBytes() has the order of UTF-8, whatever the strings are made of', (t) => {
  for (const [a, b] of [
    ['\uffff', '\u{10000}'],
    ['\u{1f600}', '\u{1f601}'],
    ['a\ud83d', 'a\ud83d\ude00'],
    ['\ud800', '\ufffd'],
    ['\udc00b', '\ud800a'],
    ['', 'a'],
    ['same', 'same'],
  ] as const) {
    t.equal(compareBytes(a, b), byBytes(a, b), JSON.stringify([a, b]));
    t.equal(compareBytes(b, a), byBytes(b, a));
  }
  const unit = fc.oneof(
    fc.constantFrom(...'ab./_', '\u00e9', '\uffff', '\ud83d', '\ude00', '\ufffd'),
    fc.integer({ min: 0, max: 0xffff }).map((code) => String.fromCharCode(code)),
  );
  const text = fc.array(unit, { maxLength: 6 }).map((units) => units.join(''));
  fc.assert(fc.property(text, text, (a, b) => compareBytes(a, b) === byBytes(a, b)));
  fc.assert(
    fc.property(
      text,
      text,
      text,
      (a, b, c) => compareBytes(a + b, a + c) === byBytes(a + b, a + c),
    ),
  );
  t.end();
});

test('readStringMap() names the entry that is no string', (t) => {
  const at = { key: 'some/key', field: 'Labels' };
  t.strictSame(readStringMap(at, { a: 'b', c: null }), { a: 'b', c: '' });
  t.throws(() => readStringMap(at, { a: 'b', 'c d': 7 }), /Labels\["c d"\]/);
  t.equal(readStringMap(at, undefined), null);
  t.end();
});
