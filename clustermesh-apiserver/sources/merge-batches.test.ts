import { test } from 'tap';
import { mergeBatches } from './merge-batches.ts';

async function* counting(name: string, count: number): AsyncGenerator<string, void> {
  for (let i = 0; i < count; i += 1) {
    await Promise.resolve();
    yield `${name}${i}`;
  }
}

test('mergeBatches() yields everything, each stream in its order', async (t) => {
  const seen: string[] = [];
  for await (const item of mergeBatches([counting('a', 50), counting('b', 3), counting('c', 0)])) {
    seen.push(item);
  }
  t.equal(seen.length, 53);
  t.same(
    seen.filter((item) => item.startsWith('b')),
    ['b0', 'b1', 'b2'],
  );
});

test('mergeBatches() lets no stream run ahead of who reads', async (t) => {
  let asked = 0;
  async function* eager(): AsyncGenerator<number, void> {
    for (;;) {
      asked += 1;
      yield asked;
    }
  }
  const merged = mergeBatches([eager()]);
  await merged.next();
  await merged.next();
  await new Promise((resolve) => setImmediate(resolve));
  t.equal(asked, 2);
  await merged.return();
});

test('mergeBatches() goes on while one stream says nothing, and fails with the first that does', async (t) => {
  let fail: (error: Error) => void = () => undefined;
  async function* stuck(): AsyncGenerator<string, void> {
    await new Promise((_, reject) => {
      fail = reject;
    });
  }
  const merged = mergeBatches([stuck(), counting('a', 2)]);
  t.equal((await merged.next()).value, 'a0');
  t.equal((await merged.next()).value, 'a1');
  const next = merged.next();
  await new Promise((resolve) => setImmediate(resolve));
  fail(new Error('a fault'));
  await t.rejects(next, /a fault/);
});
