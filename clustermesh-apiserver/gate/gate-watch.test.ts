import { test } from 'tap';
import { etcdSkipReason } from '../../mesh/testing/etcd-server.ts';
import { nodeLeaf, remoteLeaf } from '../../pki/names.ts';
import { openGateFixture, until } from './testing/gate-fixture.ts';
import type { RawClient, RawWatch, SeenEvent } from './testing/raw-client.ts';

const skip = etcdSkipReason(process.env);
const PREFIX = 'cilium/state/nodes/v1/';
const RANGE = { key: Buffer.from(PREFIX), range_end: Buffer.from('cilium/state/nodes/v10') };

async function put(client: RawClient, key: string, value: string): Promise<number> {
  const answer = await client.call('KV', 'Put', {
    key: Buffer.from(key),
    value: Buffer.from(value),
  });
  return Number((answer.header as { revision: string }).revision);
}

async function remove(client: RawClient, key: string): Promise<void> {
  await client.call('KV', 'DeleteRange', { key: Buffer.from(key) });
}

function summary(events: readonly SeenEvent[]): string[] {
  return events.map(({ type, key, value, revision }) => `${revision} ${type} ${key} ${value}`);
}

function revisionsFall(watch: RawWatch): boolean {
  return watch.answers.some(
    ({ revision }, index) => revision < (watch.answers[index - 1]?.revision ?? 0),
  );
}

test('watches through the gate', { skip, timeout: 180_000 }, async (t) => {
  const fixture = await openGateFixture();
  t.teardown(() => fixture[Symbol.asyncDispose]());
  const direct = fixture.direct();
  const node = await fixture.client(fixture.own, nodeLeaf('n1'));
  const first = await put(direct, `${PREFIX}alpha/first`, 'x');

  await t.test('a watch tells what etcd tells, from now or from an old revision', async (t) => {
    const watches = [direct, node].flatMap((client) => [
      client.watch({ ...RANGE, start_revision: first }),
      client.watch(RANGE),
    ]);
    await until('all are created', () => watches.every(({ answers }) => answers[0]?.created));
    await put(direct, `${PREFIX}alpha/a`, '1');
    await put(direct, 'cilium/state/ip/v1/default/10.0.0.1', 'elsewhere');
    await remove(direct, `${PREFIX}alpha/a`);
    await put(direct, `${PREFIX}alpha/b`, 'end');
    await until('all are told', () =>
      watches.every(({ events }) => events.at(-1)?.value === 'end'),
    );
    const [directOld, directNew, gateOld, gateNew] = watches;
    t.same(gateOld?.events, directOld?.events);
    t.same(gateNew?.events, directNew?.events);
    t.equal(gateOld?.events.length, 4);
    t.equal(gateOld?.answers[0]?.clusterId, directOld?.answers[0]?.clusterId);
    t.notOk(watches.some(revisionsFall), 'revisions in headers never fall');
    t.ok(
      gateOld?.answers.every(({ revision, events }) => revision >= (events.at(-1)?.revision ?? 0)),
    );
    for (const watch of watches) watch.cancel();
  });

  await t.test('filters, values before, and ids of watches on one stream', async (t) => {
    const watch = node.watch({ ...RANGE, filters: ['NOPUT'], prev_kv: true });
    watch.send({ create_request: { ...RANGE, filters: ['NODELETE'], watch_id: '7' } });
    watch.send({ create_request: RANGE });
    watch.send({ create_request: { ...RANGE, watch_id: '7' } });
    await until('all are answered', () => watch.answers.length === 4);
    t.same(
      watch.answers.map(({ watchId, created, canceled }) => [watchId, created, canceled]),
      [
        [0, true, false],
        [7, true, false],
        [1, true, false],
        [-1, true, true],
      ],
    );
    await put(direct, `${PREFIX}alpha/c`, 'before');
    await remove(direct, `${PREFIX}alpha/c`);
    const told = (id: number): string[] =>
      watch.answers
        .filter(({ watchId, created }) => watchId === id && !created)
        .flatMap(({ events }) => events.map(({ type, prevValue }) => `${type} ${prevValue ?? ''}`));
    await until('the last is told', () => told(1).length === 2 && told(0).length === 1);
    await until('the other is told', () => told(7).length === 1);
    t.same(told(0), ['DELETE before']);
    t.same(told(7), ['PUT ']);
    t.same(told(1), ['PUT ', 'DELETE ']);
    watch.send({ cancel_request: { watch_id: '1' } });
    await until('it is cancelled', () => watch.answers.at(-1)?.canceled ?? false);
    t.equal(watch.answers.at(-1)?.watchId, 1);
    await put(direct, `${PREFIX}alpha/c`, 'after');
    await until('the remaining one is told', () => told(7).length === 2);
    t.equal(told(1).length, 2, 'a cancelled watch is told nothing more');
    watch.cancel();
  });

  await t.test('progress is answered once etcd has vouched for it', async (t) => {
    const watch = node.watch({ ...RANGE, start_revision: first });
    await until('it has caught up', () => watch.events.at(-1)?.value === 'after');
    const latest = await put(direct, 'cilium/state/ip/v1/default/10.0.0.2', 'elsewhere');
    watch.send({ progress_request: {} });
    await until('progress is told', () => watch.answers.at(-1)?.watchId === -1);
    t.ok((watch.answers.at(-1)?.revision ?? 0) >= latest, 'up to the revision of another prefix');
    t.same(watch.answers.at(-1)?.events, []);
    t.notOk(revisionsFall(watch));
    watch.cancel();
    const empty = node.watch();
    empty.send({ progress_request: {} });
    await until('a stream without watches is told, too', () => empty.answers.length === 1);
    t.ok((empty.answers[0]?.revision ?? 0) >= latest);
    empty.cancel();
  });

  await t.test('a watch outside the ranges is refused in the way of etcd', async (t) => {
    const peer = await fixture.client(fixture.beta, remoteLeaf('beta'));
    const watch = peer.watch({ key: Buffer.from('isthmus/local/'), range_end: Buffer.from('j') });
    watch.send({ create_request: { key: Buffer.from([0]), range_end: Buffer.from([0]) } });
    watch.send({ create_request: { ...RANGE, key: RANGE.range_end } });
    watch.send({ create_request: RANGE });
    await until('all are answered', () => watch.answers.length === 4);
    t.same(
      watch.answers.map(({ canceled, cancelReason }) => [canceled, cancelReason]),
      [
        [true, 'rpc error: code = PermissionDenied desc = etcdserver: permission denied'],
        [true, 'rpc error: code = PermissionDenied desc = etcdserver: permission denied'],
        [true, 'mvcc: watcher range is empty'],
        [false, ''],
      ],
    );
    watch.cancel();
  });

  await t.test('watchers that join at random revisions under churn miss nothing', async (t) => {
    const from = await put(direct, `${PREFIX}alpha/churn`, 'begin');
    const all = direct.watch({ ...RANGE, start_revision: from, fragment: true });
    const watchers: { watch: RawWatch; start: number }[] = [];
    let latest = from;
    for (let round = 0; round < 400; round += 1) {
      const writes = Array.from({ length: 5 }, (_, index) =>
        (round + index) % 7 === 0
          ? remove(direct, `${PREFIX}alpha/k${(round * 5 + index) % 50}`)
          : put(direct, `${PREFIX}alpha/k${(round * 5 + index) % 50}`, `${round}.${index}`).then(
              (revision) => {
                latest = Math.max(latest, revision);
              },
            ),
      );
      if (round % 5 === 0) {
        const start = from + Math.floor(Math.random() * (latest - from + 3));
        const watch = node.watch({ ...RANGE, start_revision: start, fragment: round % 2 === 0 });
        watchers.push({ watch, start });
      }
      await Promise.all(writes);
    }
    await put(direct, `${PREFIX}alpha/churn`, 'end');
    await until('etcd has told all', () => all.events.at(-1)?.value === 'end');
    for (const { watch, start } of watchers) {
      await until('a watcher is told all', () => watch.events.at(-1)?.value === 'end');
      const expected = summary(all.events.filter(({ revision }) => revision >= start));
      t.same(summary(watch.events), expected, `from revision ${start}`);
      t.notOk(revisionsFall(watch));
      watch.cancel();
    }
    t.equal(watchers.length, 80);
    const { sharedWatches, privateWatches } = fixture.gate.status;
    t.ok(sharedWatches <= 4, `${sharedWatches} shared watches`);
    t.equal(privateWatches, 0);
  });

  await t.test('a watch from a compacted revision is told so', async (t) => {
    const at = await put(direct, `${PREFIX}alpha/old`, '1');
    for (let index = 0; index < 5; index += 1) await put(direct, `${PREFIX}alpha/old`, `${index}`);
    await direct.call('KV', 'Compact', { revision: String(at + 3) });
    const [viaEtcd, viaGate] = [direct, node].map((client) =>
      client.watch({
        key: Buffer.from(`${PREFIX}alpha/o`),
        range_end: Buffer.from(`${PREFIX}alpha/p`),
        start_revision: at,
      }),
    );
    await until('both are cancelled', () =>
      [viaEtcd, viaGate].every((watch) => watch?.answers.some(({ canceled }) => canceled)),
    );
    const last = (watch: RawWatch | undefined): unknown => {
      const { created, canceled, compactRevision } = watch?.answers.at(-1) ?? {};
      return { count: watch?.answers.length, created, canceled, compactRevision };
    };
    t.same(last(viaGate), last(viaEtcd));
    t.equal(viaGate?.answers.at(-1)?.compactRevision, at + 3);
  });

  await t.test('a value of 3 MiB and a large transaction pass', async (t) => {
    const whole = node.watch(RANGE);
    const pieces = node.watch({ ...RANGE, fragment: true });
    await until('both are created', () => [whole, pieces].every((w) => w.answers[0]?.created));
    const big = 'x'.repeat(3 * 1024 * 1024);
    await put(direct, `${PREFIX}alpha/big`, big);
    const success = Array.from({ length: 6 }, (_, index) => ({
      request_put: {
        key: Buffer.from(`${PREFIX}alpha/part${index}`),
        value: Buffer.from('y'.repeat(700_000)),
      },
    }));
    await direct.call('KV', 'Txn', { success });
    await until('both are told', () => [whole, pieces].every((w) => w.events.length === 7));
    t.equal(whole.events[0]?.value.length, big.length);
    t.equal(whole.answers.at(-1)?.events.length, 6, 'one revision stays in one answer');
    t.ok(pieces.answers.filter(({ fragment }) => fragment).length >= 3, 'or comes in pieces');
    t.notOk(pieces.answers.at(-1)?.fragment);
    t.same(summary(pieces.events), summary(whole.events));
    whole.cancel();
    pieces.cancel();
  });

  await t.test('one who reads slowly gets all in the end, and the gate holds little', async (t) => {
    const slow = node.watch(RANGE);
    const quick = node.watch(RANGE);
    await until('both are created', () => [slow, quick].every((w) => w.answers[0]?.created));
    slow.pause();
    const value = 'z'.repeat(1024 * 1024);
    const before = process.memoryUsage().rss;
    // More than the shared history and the windows of HTTP/2 hold together.
    for (let index = 0; index < 120; index += 1) {
      await put(direct, `${PREFIX}alpha/slow`, `${index} ${value}`);
      // What the test itself keeps is not what the gate holds.
      quick.events.length = 0;
      quick.answers.length = 0;
    }
    await put(direct, `${PREFIX}alpha/slow`, 'end');
    await until('the quick one is told all', () => quick.events.at(-1)?.value === 'end');
    const grown = (process.memoryUsage().rss - before) / 1024 / 1024;
    t.comment(`memory grew by ${Math.round(grown)} MiB`);
    slow.resume();
    await until('the slow one is told all', () => slow.events.at(-1)?.value === 'end');
    t.same(
      slow.events.map(({ value: text }) => text.split(' ')[0]),
      [...Array.from({ length: 120 }, (_, index) => `${index}`), 'end'],
    );
    slow.cancel();
    quick.cancel();
    await until('nothing is left open', () => fixture.gate.status.watches === 0);
    t.equal(fixture.gate.status.privateWatches, 0);
  });
});
