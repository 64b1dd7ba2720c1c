import fc from 'fast-check';
import { test } from 'tap';
import { createDigest, hashEntry } from '../wire/digest.ts';
import { toDigest } from './digest-check.ts';
import { createLedger } from './ledger.ts';

test('a ledger counts, sums and remembers as a map would, whatever is done to it', async () => {
  const step = fc.record({
    kind: fc.constantFrom('put', 'delete', 'touch', 'list', 'clear'),
    name: fc.nat(20),
    host: fc.nat(3),
    value: fc.string({ maxLength: 3 }),
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 200 }), (steps) => {
      const ledger = createLedger();
      const model = new Map<string, { host: number; value: string; list: number }>();
      let list = 0;
      for (const { kind, name: number, host, value } of steps) {
        const name = `k${number}`;
        const hash = hashEntry(name, value);
        const known = model.get(name);
        if (kind === 'list') {
          ledger.beginList();
          list += 1;
        } else if (kind === 'clear' && number === 0) {
          ledger.clear();
          model.clear();
        } else if (kind === 'delete') {
          if (ledger.delete(name) !== model.delete(name)) return false;
        } else if (kind === 'touch') {
          ledger.touch(name, hash);
          if (known !== undefined) model.set(name, { ...known, value, list });
        } else {
          if (ledger.put(name, { host, hash }) !== (known === undefined)) return false;
          model.set(name, { host, value, list });
        }
      }
      const digest = createDigest();
      for (const [name, { value }] of model) digest.add(name, value);
      const sorted = (names: Iterable<string>): string => [...names].sort().join();
      const of = (wanted: (one: { host: number; list: number }) => boolean): string =>
        sorted([...model].filter(([, one]) => wanted(one)).map(([name]) => name));
      return (
        ledger.size === model.size &&
        toDigest({ count: ledger.size, sum: ledger.sum }).sum === digest.sum &&
        sorted(ledger.names()) === sorted(model.keys()) &&
        sorted(ledger.unlisted()) === of((one) => one.list !== list) &&
        sorted(ledger.ofHost(2)) === of((one) => one.host === 2)
      );
    }),
    { numRuns: 500 },
  );
});
