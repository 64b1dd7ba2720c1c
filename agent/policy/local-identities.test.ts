import fc from 'fast-check';
import { test } from 'tap';
import { createLocalIdentities, LINGER_MS } from './local-identities.ts';

const FIRST = (1 << 24) + 1;

test('a key has one identity for all who name it, and is known until nobody has for a while', async (t) => {
  const told: string[] = [];
  const local = createLocalIdentities('cidr', ({ key, identity }, isThere) =>
    told.push(`${key} ${identity - FIRST} ${isThere}`),
  );
  t.equal(local.hold('a').identity, FIRST);
  t.equal(local.hold('b').identity, FIRST + 1);
  t.equal(local.hold('a').identity, FIRST);
  t.same(
    [...local.takeChanges()],
    [
      ['a', FIRST],
      ['b', FIRST + 1],
    ],
  );
  local.release('a', 1000);
  t.same([...local.takeChanges()], [], 'somebody still names it');
  t.equal(local.nextExpiry(), undefined);
  local.release('a', 2000);
  t.same([...local.takeChanges()], [['a', undefined]]);
  t.equal(local.nextExpiry(), 2000 + LINGER_MS);
  local.expire(2000 + LINGER_MS - 1);
  t.equal(local.size, 2, 'not yet');
  local.expire(2000 + LINGER_MS);
  t.same(
    [...local.all()].map(({ key }) => key),
    ['b'],
  );
  t.same(told, ['a 0 true', 'b 1 true', 'a 0 false']);
  t.equal(
    local.hold('c').identity,
    FIRST + 2,
    'the number that was given back is not the next one',
  );
  local.release('nobody', 0);
  t.equal(local.size, 2);
});

test('numbers of a previous process are kept for who had them, and given to nobody else', async (t) => {
  const local = createLocalIdentities('node', () => undefined);
  const first = (2 << 24) + 1;
  local.adopt('x', first, 0);
  local.reserve(first + 4);
  local.adopt('y', first, 0);
  local.adopt('z', FIRST, 0);
  t.equal(
    local.size,
    1,
    'no number twice, none of another scope, none that nobody is known to have',
  );
  t.same([...local.takeChanges()], [], 'nobody names them yet');
  t.equal(local.hold('x').identity, first);
  t.equal(local.hold('new', first + 4).identity, first + 4, 'known again by its number');
  t.equal(local.hold('other', first).identity, first + 1, 'one that is taken is not to be had');
  t.equal(local.hold('third', 77).identity, first + 2, 'nor one that never was');
});

test('no two keys ever have one number, and none changes while it is named', async () => {
  const key = fc.constantFrom('a', 'b', 'c', 'd');
  const step = fc.tuple(fc.constantFrom('hold', 'release', 'late'), key);
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      const local = createLocalIdentities('cidr', () => undefined);
      const held = new Map<string, { count: number; identity: number }>();
      let now = 0;
      for (const [what, name] of steps) {
        const before = held.get(name);
        if (what === 'hold') {
          const { identity } = local.hold(name);
          if (before !== undefined && before.identity !== identity) return false;
          held.set(name, { count: (before?.count ?? 0) + 1, identity });
        } else if (what === 'release' && before !== undefined) {
          local.release(name, now);
          before.count -= 1;
          if (before.count === 0) held.delete(name);
        } else {
          now += LINGER_MS;
          local.expire(now);
        }
        const numbers = [...local.all()].map(({ identity }) => identity);
        if (new Set(numbers).size !== numbers.length) return false;
        for (const [one, { identity }] of held) {
          if (![...local.all()].some((each) => each.key === one && each.identity === identity)) {
            return false;
          }
        }
      }
      return true;
    }),
    { numRuns: 300 },
  );
});
