import { test } from 'tap';
import type { KvPair } from '../../mesh/kvstore/kvstore.ts';
import { createMirrorTable, type MirrorEntry } from './mirror-table.ts';

const PREFIX = 'cilium/cache/ip/v1/beta/';

function pair(suffix: string, value: string, lease = 7n): KvPair {
  return { key: PREFIX + suffix, value: Buffer.from(value), modRevision: 1n, lease };
}

/** A table whose queue is carried out by hand, into a map that stands for etcd. */
function createRig() {
  const queue: MirrorEntry[] = [];
  const table = createMirrorTable({
    prefix: PREFIX,
    enqueue: (entry) => queue.push(entry),
    nameOf: (suffix) => (suffix.startsWith('?') ? undefined : suffix.replace(/\/32$/, '')),
  });
  const etcd = new Map<string, string>();
  const log: string[] = [];
  /** Sends what is queued; the answer comes when the function it returns is called. */
  const send = (): (() => void) => {
    const sent = queue.splice(0).flatMap((entry) => table.take(entry) ?? []);
    const values = sent.map(({ value }) => value);
    return () => {
      sent.forEach((entry, index) => {
        const value = values[index];
        log.push(`${value === undefined ? '-' : '+'}${entry.suffix}`);
        if (value === undefined) etcd.delete(entry.suffix);
        else etcd.set(entry.suffix, value.toString());
        table.written(entry, value);
      });
    };
  };
  const put = (name: string, value: string, suffix = name): void =>
    table.put(name, suffix, Buffer.from(value));
  return { table, queue, etcd, log, send, put };
}

test('put() writes what differs, once', async (t) => {
  const { put, send, etcd, log, table } = createRig();
  put('a', '1');
  put('a', '2');
  send()();
  t.same([...etcd], [['a', '2']]);
  put('a', '2');
  send()();
  t.same(log, ['+a'], 'equal bytes are no work');
  t.ok(table.holds('a'));
  table.remove('a');
  t.notOk(table.has('a'));
  send()();
  t.same([...etcd], []);
  t.equal(table.size, 0);
});

test('a change while the one before is on its way follows it', async (t) => {
  const { put, send, etcd, table } = createRig();
  put('a', '1');
  const answer = send();
  put('a', '2');
  send()();
  t.notOk(etcd.has('a'), 'never two writes of one key at a time');
  answer();
  t.notOk(table.holds('a'));
  send()();
  t.equal(etcd.get('a'), '2');
  table.remove('a');
  const deleting = send();
  put('a', '3');
  deleting();
  send()();
  t.equal(etcd.get('a'), '3');
  t.equal(table.size, 1);
});

test('awaiting counts the writes that were outstanding, and none that came later', async (t) => {
  const { put, send, table } = createRig();
  put('a', '1');
  const first = send();
  put('a', '2');
  put('b', '1');
  table.awaitPending();
  t.equal(table.awaiting, 2);
  put('c', '1');
  first();
  t.equal(table.awaiting, 2, 'the value behind the one on its way counts');
  const second = send();
  put('a', '3');
  put('b', '3');
  second();
  t.equal(table.awaiting, 0, 'values that came later do not');
  send()();
  t.equal(table.awaiting, 0);
});

test('adopt() takes what stands for written, sweep() deletes what nobody named', async (t) => {
  const { put, send, etcd, log, table } = createRig();
  put('told', '1');
  put('changed', '2');
  put('new', '1');
  table.adopt(
    [
      pair('told', '1'),
      pair('changed', '1'),
      pair('left', '1'),
      pair('foreign', '1', 8n),
      pair('?stray', '1'),
    ],
    7n,
  );
  send()();
  t.same(
    log.sort(),
    ['+changed', '+foreign', '+new'],
    'what is equal and on our lease is not written',
  );
  log.length = 0;
  put('left', '1');
  send()();
  t.same(log, [], 'what is told now and stands is no work');
  t.equal(table.sweep(), 2);
  send()();
  t.same(log.sort(), ['-?stray', '-foreign']);
  t.same([...etcd.keys()].sort(), ['changed', 'new']);
  t.equal(table.size, 4);
});

test('adopt() again finds out what somebody else changed', async (t) => {
  const { put, send, log, table } = createRig();
  put('a', '1');
  put('b', '1');
  put('c', '1');
  send()();
  table.remove('c');
  log.length = 0;
  table.adopt([pair('a', 'other'), pair('c', '1'), pair('d', '1')], 7n);
  send()();
  t.same(log.sort(), ['+a', '+b', '-c']);
  t.equal(table.sweep(), 1);
  send()();
  t.same(log.sort(), ['+a', '+b', '-c', '-d']);
});

test('rewrite() writes everything again, also what is on its way', async (t) => {
  const { put, send, etcd, log, table } = createRig();
  put('a', '1');
  put('b', '1');
  send()();
  put('b', '2');
  const answer = send();
  etcd.clear();
  log.length = 0;
  table.rewrite();
  table.awaitPending();
  t.equal(table.awaiting, 2);
  answer();
  t.equal(table.awaiting, 2, 'an answer from before the loss is no proof');
  send()();
  t.equal(table.awaiting, 0);
  t.same([...etcd].sort(), [
    ['a', '1'],
    ['b', '2'],
  ]);
});

test('forget() drops what is not on its way, and withdraws what is', async (t) => {
  const { put, send, etcd, table } = createRig();
  put('clean', '1');
  send()();
  put('sent', '1');
  const answer = send();
  put('queued', '1');
  table.forget();
  t.notOk(table.has('clean') || table.has('sent') || table.has('queued'));
  answer();
  send()();
  t.same([...etcd.keys()], ['clean']);
  t.equal(table.size, 0);
  put('queued', '2');
  send()();
  t.equal(etcd.get('queued'), '2');
});

test('the same name under another key: one key goes, the other comes', async (t) => {
  const { put, send, etcd, table } = createRig();
  put('10.0.0.1', '1', '10.0.0.1');
  send()();
  put('10.0.0.1', '2', '10.0.0.1/32');
  put('10.0.0.1', '3', '10.0.0.1');
  put('10.0.0.1', '4', '10.0.0.1/32');
  send()();
  t.same([...etcd], [['10.0.0.1/32', '4']]);
  t.equal(table.size, 1);
});

test('failed() and refused() leave the table usable', async (t) => {
  const { put, queue, etcd, send, table } = createRig();
  put('a', '1');
  put('big', 'x');
  table.awaitPending();
  const taken = queue.splice(0).flatMap((entry) => table.take(entry) ?? []);
  for (const entry of taken) table.failed(entry);
  queue.push(...taken);
  const [a, big] = queue.splice(0).flatMap((entry) => table.take(entry) ?? []);
  table.written(a!, a!.value);
  table.refused(big!);
  t.equal(table.awaiting, 0, 'a value that etcd will never take holds no marker back');
  put('big', 'y');
  send()();
  t.equal(etcd.get('big'), 'y');
});
