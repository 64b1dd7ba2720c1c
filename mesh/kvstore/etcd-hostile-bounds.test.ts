/** Decision 6: a peer's server may send what it likes, without end; nothing of it costs more than a bounded piece of memory. */
import { test } from 'tap';
import { systemClock } from '../runtime/clock.ts';
import {
  HOSTILE_HEADER,
  type HostileScript,
  openHostileEtcd,
  wirePair,
} from '../testing/hostile-etcd.ts';
import { openWatchLog } from '../testing/watch-log.ts';
import { openEtcd } from './etcd.ts';

const EMPTY = { header: HOSTILE_HEADER, kvs: [], more: false };
const at = (revision: number): object => ({ ...HOSTILE_HEADER, revision: String(revision) });
const change = (key: string, revision: number): object => ({
  type: 'PUT',
  kv: wirePair(key, { revision }),
});

const watches: readonly [
  name: string,
  messages: readonly object[],
  message: RegExp,
  held: readonly string[],
][] = [
  [
    'a change that is newer than its answer',
    [
      { header: at(11), events: [change('a/1', 11)] },
      { header: at(12), events: [change('a/2', 9_000_000)] },
    ],
    /change of revision 9000000, expected one of 12 to 12/,
    ['a/1'],
  ],
  [
    'changes in the wrong order',
    [{ header: at(15), events: [change('a/1', 14), change('a/2', 13)] }],
    /change of revision 13, expected one of 14 to 15/,
    [],
  ],
  [
    'a change from before the list',
    [{ header: at(15), events: [change('a/1', 3)] }],
    /change of revision 3, expected one of 11 to 15/,
    [],
  ],
  [
    'more changes in one message than etcd ever sends',
    [{ header: at(15), events: Array.from({ length: 250_001 }, () => ({})) }],
    /more than 250000 changes in one message/,
    [],
  ],
  [
    'a message larger than is read',
    [
      {
        header: at(15),
        events: [{ kv: { key: Buffer.from('a/1'), value: Buffer.alloc(65 * 1024 * 1024) } }],
      },
    ],
    /larger than max/i,
    [],
  ],
];
for (const [name, messages, message, held] of watches) {
  test(`${name} is not believed`, async (t) => {
    await using server = await openHostileEtcd({
      range: () => EMPTY,
      async watch({ write, signal }) {
        for (const one of messages) write(one);
        await new Promise((resolve) => signal.addEventListener('abort', resolve, { once: true }));
      },
    });
    await using store = await openEtcd({
      endpoints: [server.endpoint],
      retry: { minMs: 50, maxMs: 100 },
    });
    await using log = openWatchLog(store, { prefix: 'a/' });
    await log.until(name, () => log.of('disconnected').length > 0);
    t.match(log.of('disconnected')[0]?.error, { message });
    t.same([...log.held.keys()], held);
  });
}

const lists: readonly [name: string, range: HostileScript['range'], expected: object][] = [
  [
    'an answer without the id of a cluster',
    () => ({ kvs: [], more: false }),
    { message: /without the id/ },
  ],
  [
    'more keys than were asked for',
    () => ({
      header: HOSTILE_HEADER,
      kvs: Array.from({ length: 11 }, (_, index) => wirePair(`a/${index + 10}`)),
      more: true,
    }),
    { message: /more than 10 keys in one message/ },
  ],
  [
    'a key without end',
    () => ({ header: HOSTILE_HEADER, kvs: [wirePair(`a/${'x'.repeat(5000)}`)], more: false }),
    { message: /key of more than 4096 characters/ },
  ],
  [
    'a page of one key that is larger than is read',
    () => ({
      header: HOSTILE_HEADER,
      kvs: [wirePair('a/1', { value: Buffer.alloc(65 * 1024 * 1024) })],
      more: false,
    }),
    { code: 'too-large' },
  ],
  ['no answer', () => undefined, { code: 'timeout' }],
];
for (const [name, range, expected] of lists) {
  test(`${name}: the list fails, and says why`, async (t) => {
    await using server = await openHostileEtcd({ range });
    await using store = await openEtcd({
      endpoints: [server.endpoint],
      pageSize: 10,
      callTimeoutMs: name === 'no answer' ? 1000 : 10_000,
    });
    await t.rejects(store.list('a/'), expected as never);
  });
}

test('pages without end, end', async (t) => {
  let pages = 0;
  await using server = await openHostileEtcd({
    range: () => {
      pages += 1;
      const kvs = Array.from({ length: 10_000 }, (_, index) =>
        wirePair(`a/${String(pages * 10_000 + index).padStart(12, '0')}`, { value: '' }),
      );
      return { header: HOSTILE_HEADER, kvs, more: true };
    },
  });
  await using store = await openEtcd({ endpoints: [server.endpoint], maxKeys: 50_000 });
  await t.rejects(store.keys('a/'), { code: 'too-large', message: /more than 50000 keys/ });
  t.ok(pages <= 7, `${pages} pages were asked for`);
});

test('revisions that fall: the list begins anew, at a pace', async (t) => {
  let revision = 1000;
  await using server = await openHostileEtcd({
    range: () => {
      revision -= 1;
      return { header: at(revision), kvs: [], more: false };
    },
    async watch({ write, signal }) {
      write({ header: at(5) });
      await new Promise((resolve) => signal.addEventListener('abort', resolve, { once: true }));
    },
  });
  await using store = await openEtcd({
    endpoints: [server.endpoint],
    retry: { minMs: 50, maxMs: 100 },
  });
  await using log = openWatchLog(store, { prefix: 'a/' });
  await log.until('it began anew', () => log.of('list-start').length >= 3);
  t.ok(
    log
      .of('list-start')
      .slice(1)
      .every(({ reason }) => reason === 'cluster-changed'),
  );
  const asked = server.ranges('a/');
  await systemClock.sleep(500);
  t.ok(server.ranges('a/') - asked <= 12, 'no more than its delays allow');
});

test('pieces of a revision without end are taken one by one, and none is kept', async (t) => {
  let written = 0;
  await using server = await openHostileEtcd({
    range: () => EMPTY,
    async watch(stream) {
      while (!stream.signal.aborted && written < 2000) {
        written += 1;
        const events = [
          { type: 'PUT', kv: wirePair('a/1', { value: Buffer.alloc(1000), revision: 11 }) },
        ];
        if (!stream.write({ header: at(11), events, fragment: true })) await stream.drained();
      }
      await new Promise((resolve) =>
        stream.signal.addEventListener('abort', resolve, { once: true }),
      );
    },
  });
  await using store = await openEtcd({ endpoints: [server.endpoint] });
  const stopping = new AbortController();
  let seen = 0;
  for await (const event of store.watch({ prefix: 'a/' }, { signal: stopping.signal })) {
    if (event.kind === 'put') seen += 1;
    if (seen === 2000) stopping.abort();
  }
  t.equal(seen, 2000);
});

test('a reader that does not read lets the server wait', async (t) => {
  let written = 0;
  await using server = await openHostileEtcd({
    range: () => EMPTY,
    async watch(stream) {
      for (let revision = 11; !stream.signal.aborted; revision += 1) {
        written += 1;
        const events = [
          { type: 'PUT', kv: wirePair('a/1', { value: Buffer.alloc(1024 * 1024), revision }) },
        ];
        if (!stream.write({ header: at(revision), events })) await stream.drained();
      }
    },
  });
  await using store = await openEtcd({ endpoints: [server.endpoint] });
  const stopping = new AbortController();
  for await (const event of store.watch({ prefix: 'a/' }, { signal: stopping.signal })) {
    if (event.kind !== 'put') continue;
    await systemClock.sleep(700);
    t.comment(`${written} MiB written`);
    t.ok(written < 64, 'of values of 1 MiB only as many as the windows hold');
    break;
  }
});
