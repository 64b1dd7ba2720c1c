import fc from 'fast-check';
import { test } from 'tap';
import type { DatapathTable } from '../datapath/desired.ts';
import { createReconciler } from './reconciler.ts';
import { createDesiredTable } from './table.ts';

interface Row {
  readonly id: string;
  readonly value: number;
}
type Key = Pick<Row, 'id'>;

const row = (id: string, value = 0): Row => ({ id, value });
const sameRow = (a: Row, b: Row): boolean => a.value === b.value;

/** A kernel table that refuses what `bad` says, after having tried the rest. */
function createKernel(rows: readonly Row[] = []) {
  const held = new Map(rows.map((item) => [item.id, item]));
  const calls: { upserts: number; deletes: number }[] = [];
  const kernel: DatapathTable<Row, Key> & {
    bad: Set<string>;
    held: Map<string, Row>;
    calls: typeof calls;
  } = {
    name: 'ipcache',
    bad: new Set(),
    held,
    calls,
    keyOf: ({ id }) => id,
    rows: () => [...held.values()],
    apply({ upserts, deletes }) {
      calls.push({ upserts: upserts.length, deletes: deletes.length });
      const failed: string[] = [];
      for (const item of upserts) {
        if (kernel.bad.has(item.id)) failed.push(item.id);
        else held.set(item.id, item);
      }
      for (const { id } of deletes) {
        if (kernel.bad.has(id)) failed.push(id);
        else held.delete(id);
      }
      if (failed.length > 0) throw new Error(`cannot write ${failed[0]}`);
    },
  };
  return kernel;
}

test('a row is written once, and again only when it differs', async (t) => {
  const kernel = createKernel();
  const { table, flush } = createReconciler(kernel, { sameRow });
  table.set(row('a'));
  t.match(table.counts(), { desired: 1, pending: 1 });
  flush(0);
  t.match(table.counts(), { desired: 1, pending: 0 });
  table.set(row('a'));
  flush(0);
  t.equal(kernel.calls.length, 1);
  table.set(row('a', 1));
  flush(0);
  t.same(kernel.held.get('a'), row('a', 1));
  table.remove({ id: 'a' });
  table.remove({ id: 'never' });
  flush(0);
  t.equal(kernel.held.size, 0);
  t.equal(kernel.calls.length, 3, 'what was never there is not deleted');
});

test('adopted rows: equal ones cost no write, others are overwritten, the rest waits for prune', async (t) => {
  const kernel = createKernel([row('equal'), row('differs'), row('left'), row('kept')]);
  const { table, flush } = createReconciler(kernel, { sameRow });
  table.set(row('equal'));
  table.set(row('differs', 9));
  flush(0);
  t.same(kernel.calls, [{ upserts: 1, deletes: 0 }]);
  t.match(table.counts(), { desired: 2, adopted: 2 });
  t.equal(
    table.prune(({ id }) => id === 'kept'),
    1,
  );
  flush(0);
  t.same([...kernel.held.keys()].sort(), ['differs', 'equal', 'kept']);
  table.remove({ id: 'kept' });
  flush(0);
  t.notOk(kernel.held.has('kept'), 'an adopted row that somebody takes back goes at once');
});

test('a row wanted again after it was pruned is written', async (t) => {
  const kernel = createKernel([row('a')]);
  const { table, flush } = createReconciler(kernel, { sameRow });
  table.prune(() => false);
  table.set(row('a'));
  flush(0);
  t.ok(kernel.held.has('a'));
});

test('one bad row among many fails alone, is retried with growing delays, and can be replaced', async (t) => {
  const kernel = createKernel();
  kernel.bad.add('7');
  const { table, flush, status } = createReconciler(kernel, { sameRow });
  for (let id = 0; id < 50; id += 1) table.set(row(String(id)));
  flush(0);
  t.equal(kernel.held.size, 49);
  t.match(status(), { failed: 1, pending: 0, lastError: 'cannot write 7' });
  t.equal(table.failureOf('7')?.message, 'cannot write 7');
  t.equal(table.nextRetryAt(), 100);
  const calls = kernel.calls.length;
  flush(99);
  t.equal(kernel.calls.length, calls, 'not before its time');
  flush(100);
  t.equal(table.nextRetryAt(), 300);
  kernel.bad.clear();
  flush(300);
  t.match(status(), { failed: 0, pending: 0, lastError: undefined });
  t.equal(kernel.held.size, 50);
  t.equal(table.nextRetryAt(), undefined);
});

test('a failed delete is retried, and forgotten when the row is wanted again', async (t) => {
  const kernel = createKernel();
  const { table, flush } = createReconciler(kernel, { sameRow });
  table.set(row('a'));
  flush(0);
  kernel.bad.add('a');
  table.remove({ id: 'a' });
  flush(0);
  t.match(table.counts(), { failed: 1, desired: 0 });
  kernel.bad.clear();
  table.set(row('a', 2));
  flush(0);
  t.same(kernel.held.get('a'), row('a', 2));
  t.match(table.counts(), { failed: 0, pending: 0 });
});

test('flush() can be told to write some changes only', async (t) => {
  const kernel = createKernel();
  const { table, flush } = createReconciler(kernel, { sameRow });
  table.set(row('a'));
  flush(0);
  table.set(row('b'));
  table.remove({ id: 'a' });
  table.set(row('c'));
  flush(0, { upserts: ({ id }) => id === 'b' });
  t.same([...kernel.held.keys()], ['a', 'b']);
  flush(0, { deletes: ({ id }) => id !== 'a' });
  t.same([...kernel.held.keys()], ['a', 'b']);
  flush(0, { deletes: () => true });
  t.same([...kernel.held.keys()], ['b']);
  flush(0);
  t.same([...kernel.held.keys()], ['b', 'c']);
});

test('large changes are written in batches', async (t) => {
  const kernel = createKernel();
  const { table, flush } = createReconciler(kernel, { sameRow });
  for (let id = 0; id < 10_000; id += 1) table.set(row(String(id)));
  flush(0);
  t.same(
    kernel.calls.map(({ upserts }) => upserts),
    [4096, 4096, 1808],
  );
});

test('the result of a write counts only if the row has not changed meanwhile', async (t) => {
  const table = createDesiredTable<Row, Key>({ keyOf: ({ id }) => id, sameRow });
  table.set(row('a', 1));
  const [change] = table.due(0);
  table.set(row('a', 2));
  if (change !== undefined) table.succeeded(change);
  t.equal(table.counts().pending, 1, 'the newer row is still to be written');
  if (change !== undefined) table.failed(change, { error: new Error('late'), now: 0 });
  t.match(table.counts(), { pending: 1, failed: 0 });
});

test('whatever is asked, and whatever fails on the way, the kernel ends with what is desired', async (t) => {
  const step = fc.oneof(
    fc.record({
      kind: fc.constant('set' as const),
      id: fc.integer({ min: 0, max: 5 }),
      value: fc.integer({ min: 0, max: 2 }),
    }),
    fc.record({ kind: fc.constant('remove' as const), id: fc.integer({ min: 0, max: 5 }) }),
    fc.record({ kind: fc.constant('break' as const), id: fc.integer({ min: 0, max: 5 }) }),
    fc.record({ kind: fc.constant('flush' as const) }),
  );
  t.doesNotThrow(() =>
    fc.assert(
      fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
        const kernel = createKernel([row('0'), row('1', 1), row('9')]);
        const { table, flush } = createReconciler(kernel, { sameRow });
        const wanted = new Map<string, number>();
        let now = 0;
        for (const action of steps) {
          if (action.kind === 'set') {
            table.set(row(String(action.id), action.value));
            wanted.set(String(action.id), action.value);
          } else if (action.kind === 'remove') {
            table.remove({ id: String(action.id) });
            wanted.delete(String(action.id));
          } else if (action.kind === 'break') {
            kernel.bad.add(String(action.id));
          } else {
            now += 50;
            flush(now);
          }
        }
        kernel.bad.clear();
        table.prune(() => false);
        flush(now + 100_000);
        const held = [...kernel.held.values()].map(({ id, value }) => `${id}=${value}`).sort();
        return (
          held.join() ===
          [...wanted]
            .map(([id, value]) => `${id}=${value}`)
            .sort()
            .join()
        );
      }),
    ),
  );
});
