import fc from 'fast-check';
import { test } from 'tap';
import { type IpPrefix, ipFamily, ipFromBytes, makePrefix, splitPrefix } from '../wire/ip.ts';
import { createRangeTable } from './range-table.ts';

/** Networks of a small space, so that they often touch. */
const ranges: fc.Arbitrary<IpPrefix> = fc
  .tuple(
    fc.boolean(),
    fc.array(fc.constantFrom(0, 1, 128, 255), { minLength: 3, maxLength: 3 }),
    fc.nat(24),
  )
  .map(([isV6, bytes, bits]) => {
    const address = isV6
      ? ipFromBytes(Uint8Array.from([0xfd, ...bytes, ...Array.from({ length: 12 }, () => 0)]))
      : ipFromBytes(Uint8Array.from([10, ...bytes]));
    return makePrefix(address, 8 + bits);
  });

function contains(outer: IpPrefix, inner: IpPrefix): boolean {
  const { length } = splitPrefix(outer);
  return (
    ipFamily(outer) === ipFamily(inner) &&
    splitPrefix(inner).length >= length &&
    makePrefix(splitPrefix(inner).address, length) === outer
  );
}

test('a question finds a range exactly if one touches', async () => {
  fc.assert(
    fc.property(
      fc.array(fc.tuple(ranges, fc.nat(2), fc.boolean())),
      fc.array(ranges, { minLength: 1 }),
      (changes, questions) => {
        const table = createRangeTable<number>();
        const model = new Map<IpPrefix, number>();
        for (const [range, value, isGone] of changes) {
          if (isGone) {
            table.delete(range);
            model.delete(range);
          } else {
            table.set(range, value);
            model.set(range, value);
          }
          // Questions between changes, since an order of the ranges is kept from one to the next.
          table.touching(range, () => true);
        }
        if (table.size !== model.size) return false;
        return questions.every((question) =>
          [0, 1, 2].every((wanted) => {
            const found = table.touching(question, (value) => value === wanted);
            const touches = (range: IpPrefix): boolean =>
              contains(range, question) || contains(question, range);
            if (found !== undefined) {
              return (
                found.value === wanted && model.get(found.range) === wanted && touches(found.range)
              );
            }
            return ![...model].some(([range, value]) => value === wanted && touches(range));
          }),
        );
      },
    ),
    { numRuns: 500 },
  );
});

test('a hundred thousand ranges answer a question for an address in microseconds', async (t) => {
  const table = createRangeTable<number>();
  for (let index = 0; index < 100_000; index += 1) {
    const bytes = [10 + (index >> 16), (index >> 8) & 255, index & 255, 0];
    table.set(makePrefix(ipFromBytes(Uint8Array.from(bytes)), 24), index);
  }
  const question = makePrefix(ipFromBytes(Uint8Array.from([10, 200, 7, 9])), 32);
  const began = performance.now();
  for (let index = 0; index < 100_000; index += 1) table.touching(question, () => true);
  const each = ((performance.now() - began) / 100_000) * 1000;
  t.comment(`${each.toFixed(2)} microseconds`);
  t.ok(each < 50);
});
