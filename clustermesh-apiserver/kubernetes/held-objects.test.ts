import fc from 'fast-check';
import { test } from 'tap';
import { createHeldObjects, isOlder } from './held-objects.ts';

interface Thing {
  readonly name: string;
  readonly value: number;
}

const parse = (object: unknown): Thing => {
  const { metadata, value } = object as { metadata: { name: string }; value: unknown };
  if (typeof value !== 'number') throw new Error('field value: expected a number');
  return { name: metadata.name, value };
};
const raw = (name: string, value: unknown, version = '1', uid = `uid-${name}`) => ({
  metadata: { name, namespace: 'ns', uid, resourceVersion: version },
  value,
});
const TRUST = { trustVersions: true };

test('take() tells what is new, and nothing twice', async (t) => {
  const held = createHeldObjects({ parse });
  t.same(held.take(raw('a', 1), TRUST), { kind: 'upsert', object: { name: 'a', value: 1 } });
  t.equal(held.take(raw('a', 1), TRUST), undefined, 'the same version');
  t.equal(held.take(raw('a', 1, '2'), TRUST), undefined, 'another version of the same');
  t.same(held.take(raw('a', 2, '3'), TRUST), { kind: 'upsert', object: { name: 'a', value: 2 } });
  t.same(held.remove(raw('a', 2, '4')), { kind: 'delete', object: { name: 'a', value: 2 } });
  t.equal(held.remove(raw('a', 2, '4')), undefined);
  t.equal(held.size, 0);
});

test('take() looks at the content where versions are not to be trusted', async (t) => {
  const held = createHeldObjects({ parse });
  held.take(raw('a', 1, '7'), TRUST);
  t.equal(held.take(raw('a', 2, '7'), TRUST), undefined);
  t.same(held.take(raw('a', 2, '7'), { trustVersions: false }), {
    kind: 'upsert',
    object: { name: 'a', value: 2 },
  });
});

test('an object that cannot be used keeps its last good version, and is named', async (t) => {
  const held = createHeldObjects({ parse });
  held.take(raw('a', 1), TRUST);
  t.equal(held.take(raw('a', 'x', '2'), TRUST), undefined);
  t.same([...held.problems], [['ns/a', 'field value: expected a number']]);
  t.equal(held.take(raw('b', 'x'), TRUST), undefined);
  t.equal(held.take({ value: 1 }, TRUST), undefined, 'one without a name harms nothing');
  t.equal(held.problems.size, 3);
  held.beginList();
  held.take(raw('a', 'x', '2'), TRUST);
  t.same(held.endList(), [], 'b was never told, so nobody is told that it went');
  t.same([...held.problems.keys()], ['ns/a']);
  t.same(held.take(raw('a', 5, '3'), TRUST), { kind: 'upsert', object: { name: 'a', value: 5 } });
  t.equal(held.problems.size, 0);
});

test('an object that matters no more is told as deleted', async (t) => {
  const held = createHeldObjects({ parse, keep: ({ value }) => value > 0 });
  t.equal(held.take(raw('a', 0), TRUST), undefined);
  t.equal(held.take(raw('a', 1, '2'), TRUST)?.kind, 'upsert');
  t.equal(held.take(raw('a', 0, '3'), TRUST)?.kind, 'delete');
  t.equal(held.remove(raw('a', 0, '4')), undefined);
});

test('what a list does not have is deleted, or kept for a time', async (t) => {
  const held = createHeldObjects({ parse });
  for (const name of ['a', 'b', 'c']) held.take(raw(name, 1), TRUST);
  held.beginList();
  held.take(raw('a', 1), TRUST);
  t.equal(held.endListKeeping(100), 2);
  t.equal(held.kept, 2);
  held.beginList();
  held.take(raw('a', 1), TRUST);
  held.take(raw('b', 1), TRUST);
  t.same(held.endList(), [], 'c is kept through another list');
  t.same(held.sweep(99), []);
  t.same(
    held.sweep(100).map(({ object }) => object.name),
    ['c'],
    'b has come back',
  );
  t.equal(held.kept, 0);
  held.beginList();
  t.equal(held.endList().length, 2);
});

test('after any history of lists and changes the consumer knows what the server has', async (t) => {
  const step = fc.record({
    name: fc.constantFrom('a', 'b', 'c', 'd'),
    value: fc.integer({ min: 0, max: 3 }),
    what: fc.constantFrom('put', 'put', 'delete', 'missed-put', 'missed-delete', 'list'),
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      const held = createHeldObjects({ parse });
      const server = new Map<string, ReturnType<typeof raw>>();
      const known = new Map<string, number>();
      let version = 0;
      const tell = (change: ReturnType<typeof held.take>): void => {
        if (change?.kind === 'upsert') known.set(change.object.name, change.object.value);
        if (change?.kind === 'delete') known.delete(change.object.name);
      };
      const list = (): void => {
        held.beginList();
        for (const object of server.values()) tell(held.take(object, TRUST));
        for (const change of held.endList()) tell(change);
      };
      for (const { name, value, what } of steps) {
        version += 1;
        const object = raw(name, value, String(version), `uid-${version}`);
        if (what === 'list') list();
        else if (what.endsWith('put')) server.set(name, object);
        else server.delete(name);
        if (what === 'put') tell(held.take(object, TRUST));
        if (what === 'delete') tell(held.remove(object));
      }
      list();
      t.same([...known].sort(), [...server].map(([name, { value }]) => [name, value]).sort());
    }),
    { numRuns: 200 },
  );
});

test('isOlder() compares numbers of etcd, and believes nothing else', async (t) => {
  const cases: readonly [string, string, boolean][] = [
    ['9', '10', true],
    ['10', '9', false],
    ['10', '10', false],
    ['12345678901234567890', '12345678901234567891', true],
    ['', '10', false],
    ['10', '', false],
    ['abc', 'abd', false],
  ];
  for (const [version, than, older] of cases)
    t.equal(isOlder(version, than), older, `${version} ${than}`);
});
