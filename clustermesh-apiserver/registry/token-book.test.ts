import { Writable } from 'node:stream';
import { type Test, test } from 'tap';
import { openEtcd } from '../../mesh/kvstore/etcd.ts';
import { createLogger } from '../../mesh/runtime/log.ts';
import { etcdSkipReason, openEtcdServer } from '../../mesh/testing/etcd-server.ts';
import { createManualClock } from '../../mesh/testing/manual-clock.ts';
import { createTokenBook, type TokenBook } from './token-book.ts';
import { TOKEN_USES_PREFIX, TOKENS_PREFIX } from './token-record.ts';
import { parseTokenWish } from './token-wish.ts';

const skip = etcdSkipReason(process.env);
const signal = new AbortController().signal;
const actor = { by: 'admin-alpha', from: '192.0.2.9' };
const START = Date.parse('2026-01-01T00:00:00Z');

function useBy(machine: string, keyHash = `key of ${machine}`) {
  return { machine, keyHash, from: '192.0.2.1' };
}

/** Two replicas' books on one real etcd, with one clock, and what they log. */
async function openRig(t: Test) {
  const server = await openEtcdServer();
  t.teardown(() => server[Symbol.asyncDispose]());
  const clock = createManualClock({ now: START });
  const lines: string[] = [];
  const destination = new Writable({
    write(chunk, _encoding, done) {
      lines.push(String(chunk));
      done();
    },
  });
  const logger = createLogger('test', { destination });
  const open = async () => {
    const store = await openEtcd({ endpoints: [server.endpoint] });
    t.teardown(() => store[Symbol.asyncDispose]());
    return { store, book: createTokenBook({ store, clock, logger }) };
  };
  const [one, two] = [await open(), await open()];
  return { server, clock, lines, store: one.store, book: one.book, other: two.book };
}

async function make(book: TokenBook, request: object) {
  return book.create(parseTokenWish(request), actor, signal);
}

test('tokens in a real etcd', { skip, timeout: 120_000 }, async (t) => {
  const { server, clock, lines, store, book, other } = await openRig(t);

  await t.test('the secret finds the token, and is in neither etcd nor log', async (t) => {
    const { record, secret } = await make(book, { names: 'db1', labels: { app: 'db' } });
    t.equal(secret.length, 32);
    t.match(await other.find(record.id, secret, signal), { names: 'db1', labels: { app: 'db' } });
    const wrong = Buffer.from(secret);
    wrong[31] = (wrong[31] ?? 0) ^ 1;
    for (const [id, bytes] of [
      [record.id, wrong],
      [record.id, Buffer.alloc(0)],
      [record.id, secret.subarray(0, 31)],
      ['0'.repeat(20), secret],
      ['', secret],
      [`../${record.id}`, secret],
      [`${record.id}/`, secret],
    ] as const) {
      t.equal(await book.find(id, bytes, signal), undefined, id);
    }
    const dump = await server.etcdctl('get', '', '--prefix');
    const shown = `${dump}${lines.join('')}`;
    for (const encoding of ['hex', 'base64', 'base64url'] as const) {
      t.notOk(shown.includes(secret.toString(encoding)));
    }
    t.match(lines.join(''), /"token":"[0-9a-f]{20}".*"by":"admin-alpha","from":"192.0.2.9"/);
  });

  await t.test('of many who race for the last uses, as many win', async (t) => {
    const { record } = await make(book, { names: 'web-*', uses: 3 });
    const takings = await Promise.all(
      Array.from({ length: 20 }, (_, index) =>
        (index % 2 === 0 ? book : other).take(
          record.id,
          useBy(`web-${index}`),
          new AbortController().signal,
        ),
      ),
    );
    t.equal(takings.filter(({ kind }) => kind === 'taken').length, 3);
    t.equal(takings.filter((one) => one.kind === 'refused' && one.state === 'used-up').length, 17);
    const [listing] = (await other.list(signal)).filter((one) => one.record.id === record.id);
    t.equal(listing?.state, 'used-up');
    t.equal(listing?.uses.length, 3);
  });

  await t.test('one use for one machine: its key may ask again, no other', async (t) => {
    const { record } = await make(book, { names: '*', uses: 1 });
    const both = await Promise.all([
      book.take(record.id, useBy('a'), signal),
      other.take(record.id, useBy('a'), signal),
    ]);
    t.same(both.map(({ kind }) => kind).sort(), ['repeated', 'taken']);
    t.match(await other.take(record.id, useBy('a', 'another key'), signal), { state: 'used-up' });
    t.match(await other.take(record.id, useBy('b'), signal), { state: 'used-up' });
    await clock.advance(3_600_000);
    t.match(await book.take(record.id, useBy('a'), signal), { state: 'expired' });
  });

  await t.test('a revoked token is of no use at once and everywhere', async (t) => {
    const { record, secret } = await make(book, { names: '*', uses: 2 });
    t.match(await book.take(record.id, useBy('a'), signal), { kind: 'taken' });
    t.match(await other.revoke(record.id, actor, signal), {
      state: 'revoked',
      uses: [{ machine: 'a', from: '192.0.2.1' }],
    });
    t.match(await book.find(record.id, secret, signal), { revoked: { by: 'admin-alpha' } });
    t.match(await book.take(record.id, useBy('a'), signal), { state: 'revoked' });
    t.match(await book.take(record.id, useBy('b'), signal), { state: 'revoked' });
    await t.rejects(book.revoke('f'.repeat(20), actor, signal), { code: 'unknown' });
    await t.rejects(book.revoke('../x', actor, signal), { code: 'unknown' });
  });

  await t.test('tokens outlive etcd being restarted and compacted', async (t) => {
    const { record, secret } = await make(book, { names: 'db2' });
    await server.kill();
    await server.start();
    await server.compact();
    t.match(await book.find(record.id, secret, signal), { names: 'db2' });
    t.match(await other.take(record.id, useBy('db2'), signal), { kind: 'taken' });
  });

  await t.test('what is over is kept for those who ask, and then forgotten', async (t) => {
    const { record } = await make(book, { names: 'db3' });
    await book.take(record.id, useBy('db3'), signal);
    const stopping = new AbortController();
    await clock.advance(2 * 3_600_000);
    t.ok((await book.list(signal)).some((one) => one.record.id === record.id));
    await clock.advance(31 * 86_400_000);
    const { record: young } = await make(book, { names: 'db4' });
    const running = book.run(stopping.signal);
    while ((await store.count(TOKENS_PREFIX)).count > 1) {
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    stopping.abort();
    await running;
    t.same(
      (await other.list(signal)).map((one) => one.record.id),
      [young.id],
    );
    t.equal((await store.count(TOKEN_USES_PREFIX)).count, 0);
  });

  await t.test('tokens of an etcd that was wiped are unknown', async (t) => {
    const { record, secret } = await make(book, { names: 'db5' });
    await server.wipe();
    t.equal(await book.find(record.id, secret, signal), undefined);
    t.match(await book.take(record.id, useBy('db5'), signal), { state: 'unknown' });
    t.same(await book.list(signal), []);
  });
});
