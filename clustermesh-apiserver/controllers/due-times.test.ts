import fc from 'fast-check';
import { test } from 'tap';
import { createDueTimes } from './due-times.ts';

test('keys come out in the order of their times, each once, at its earliest', (t) => {
  fc.assert(
    fc.property(
      fc.array(
        fc.tuple(fc.constantFrom('set', 'delete', 'take'), fc.nat({ max: 9 }), fc.nat({ max: 50 })),
        { maxLength: 200 },
      ),
      (steps) => {
        const times = createDueTimes();
        const model = new Map<string, number>();
        for (const [kind, number, at] of steps) {
          const key = `k${number}`;
          if (kind === 'set') {
            times.set(key, at);
            model.set(key, Math.min(model.get(key) ?? at, at));
          } else if (kind === 'delete') {
            times.delete(key);
            model.delete(key);
          } else {
            const due = times.takeDue(at);
            const first = Math.min(...model.values());
            if (due === undefined) {
              if (first <= at) return false;
              continue;
            }
            if (due.dueAt !== first || model.get(due.key) !== first) return false;
            model.delete(due.key);
          }
          if (times.size !== model.size) return false;
          if (times.next() !== Math.min(...model.values())) return false;
        }
        return true;
      },
    ),
  );
  t.end();
});

test('a key that is moved thousands of times does not make the heap grow', (t) => {
  const times = createDueTimes();
  for (let round = 20_000; round > 0; round -= 1) times.set('a', round);
  t.equal(times.size, 1);
  t.same(times.takeDue(5), { key: 'a', dueAt: 1 });
  t.equal(times.takeDue(1e9), undefined, 'its later times count no more');
  t.end();
});
