import { test } from 'tap';
import { createManualClock } from '../../mesh/testing/manual-clock.ts';
import { createCallerUses, DEFAULT_CALLER_LIMITS } from './caller-limits.ts';
import { decodeWatchResponse, encodeCancel, encodeWatchCreate } from './etcd-messages.ts';
import { prefixRange } from './key-range.ts';
import { createSharedWatches } from './shared-watches.ts';
import { createSlots } from './slots.ts';
import type { Upstream, UpstreamWatchHandlers } from './upstream.ts';
import { serveWatchStream } from './watch-stream.ts';

const HEADER = {
  ids: Buffer.from('08011002', 'hex'),
  revision: 10,
  term: Buffer.from('2001', 'hex'),
};

/** An etcd that says what the test wants. */
function fakeUpstream() {
  const watches: (UpstreamWatchHandlers & { paused: boolean; canceled: boolean })[] = [];
  let latest = HEADER;
  const upstream: Upstream = {
    call: () => Promise.reject(new Error('not called here')),
    watch(_create, handlers) {
      const watch = { ...handlers, paused: false, canceled: false };
      watches.push(watch);
      setImmediate(() => handlers.onMessage(answer({ created: true })));
      return {
        send: () => undefined,
        pause: () => {
          watch.paused = true;
        },
        resume: () => {
          watch.paused = false;
        },
        cancel: () => {
          watch.canceled = true;
        },
      };
    },
    get latest() {
      return latest;
    },
    readCurrent: () => Promise.resolve(latest),
    renewTls: () => undefined,
    endpoint: 'fake',
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
  const answer = (rest: { created?: boolean; events?: { revision: number; size: number }[] }) => ({
    header: latest,
    watchId: 0,
    created: rest.created ?? false,
    canceled: false,
    compactRevision: 0,
    cancelReason: '',
    fragment: false,
    events: (rest.events ?? []).map(({ revision, size }) => ({
      revision,
      isDelete: false,
      field: Buffer.concat([Buffer.from([0x5a, 0x80, 0x80, 0x04]), Buffer.alloc(size)]),
    })),
  });
  return {
    upstream,
    watches,
    tell(watch: UpstreamWatchHandlers | undefined, revision: number, size: number): void {
      latest = { ...latest, revision };
      watch?.onMessage(answer({ events: [{ revision, size }] }));
    },
  };
}

async function turns(): Promise<void> {
  for (let count = 0; count < 5; count += 1) await new Promise((resolve) => setImmediate(resolve));
}

const CREATE = encodeWatchCreate({
  key: Buffer.from('a/'),
  rangeEnd: Buffer.from('a0'),
  startRevision: 11,
  prevKv: false,
});
const RANGES = [prefixRange('a/')];

test('a client that reads nothing costs a bounded amount', async (t) => {
  const { upstream, watches, tell } = fakeUpstream();
  const clock = createManualClock();
  const shared = createSharedWatches(upstream, clock);
  const slots = createSlots(4);
  const sent: { bytes: Buffer; onSent: () => void }[] = [];
  const stream = serveWatchStream(
    {
      write: (bytes, onSent) => void sent.push({ bytes, onSent }),
      end: () => undefined,
      fail: () => t.fail('the stream must not fail'),
    },
    { upstream, shared, slots, clock },
    {
      ranges: RANGES,
      refuse: () => t.fail('nothing is refused'),
      use: createCallerUses(DEFAULT_CALLER_LIMITS).of('a'),
    },
  );
  await stream.receive(CREATE);
  t.equal(sent.length, 1);
  sent[0]?.onSent();
  // 100 MiB of events, of which the client takes nothing.
  for (let revision = 11; revision < 1611; revision += 1) {
    tell(watches[0], revision, 64 * 1024);
    await turns();
    await clock.advance(20);
  }
  const outstanding = sent.slice(1).reduce((sum, { bytes }) => sum + bytes.length, 0);
  t.ok(outstanding < 2.2 * 1024 * 1024, `${outstanding} bytes are under way`);
  t.equal(watches.length, 1);

  // It wakes up: what is no longer in the history is fetched from etcd anew.
  for (const { onSent } of sent.slice(1)) onSent();
  await turns();
  t.equal(watches.length, 2, 'a private watch');
  t.equal(slots.taken, 1);
  for (let revision = 11; revision < 200; revision += 1) tell(watches[1], revision, 64 * 1024);
  await turns();
  t.ok(watches[1]?.paused, 'etcd is told to wait');
  await clock.advance(11_000);
  t.ok(watches[1]?.canceled, 'one that does not read keeps nothing for itself');
  t.equal(slots.taken, 0);

  const done = sent.length;
  for (const { onSent } of sent.slice(1, done)) onSent();
  await turns();
  t.equal(watches.length, 3, 'when it reads again it gets another one');
  t.equal(slots.taken, 1);
  stream.close();
  t.equal(slots.taken, 0);
  shared[Symbol.dispose]();
});

test('the number of watches on one stream is limited, and so are silent floods', async (t) => {
  const { upstream } = fakeUpstream();
  const clock = createManualClock();
  const shared = createSharedWatches(upstream, clock);
  const refused: string[] = [];
  const sent: Buffer[] = [];
  const stream = serveWatchStream(
    {
      write: (bytes, onSent) => {
        sent.push(bytes);
        onSent();
      },
      end: () => undefined,
      fail: ({ details }) => refused.push(details),
    },
    { upstream, shared, slots: createSlots(4), clock },
    {
      ranges: RANGES,
      refuse: (reason) => refused.push(reason),
      use: createCallerUses(DEFAULT_CALLER_LIMITS).of('a'),
    },
  );
  for (let count = 0; count < 257; count += 1) await stream.receive(CREATE);
  t.equal(stream.watchCount, 256);
  t.same(refused, ['too-many-watches']);
  t.match(decodeWatchResponse(sent.at(-1) ?? Buffer.alloc(0)), {
    watchId: -1,
    created: true,
    canceled: true,
    cancelReason: /more than 256 watches/,
  });
  await stream.receive(encodeCancel(3));
  t.equal(stream.watchCount, 255);
  await stream.receive(encodeCancel(3));
  await stream.receive(Buffer.from([0xff]));
  t.same(refused.slice(1), [
    'malformed',
    'cannot read the request: a number is cut short or too long',
  ]);
  t.equal(stream.watchCount, 0);
  shared[Symbol.dispose]();
});

test('the id of a watch is never given again: a late cancellation would hit another one', async (t) => {
  const { upstream } = fakeUpstream();
  const clock = createManualClock();
  const shared = createSharedWatches(upstream, clock);
  const ids: number[] = [];
  const stream = serveWatchStream(
    {
      write: (bytes, onSent) => {
        const { created, watchId } = decodeWatchResponse(bytes);
        if (created) ids.push(watchId);
        onSent();
      },
      end: () => undefined,
      fail: () => t.fail('the stream must not fail'),
    },
    { upstream, shared, slots: createSlots(4), clock },
    {
      ranges: RANGES,
      refuse: () => t.fail('nothing is refused'),
      use: createCallerUses(DEFAULT_CALLER_LIMITS).of('a'),
    },
  );
  await stream.receive(CREATE);
  await stream.receive(encodeCancel(0));
  await stream.receive(CREATE);
  await stream.receive(CREATE);
  await stream.receive(encodeCancel(2));
  await stream.receive(CREATE);
  t.same(ids, [0, 1, 2, 3]);
  await stream.receive(encodeCancel(0));
  t.equal(stream.watchCount, 2);
  stream.close();
  shared[Symbol.dispose]();
});

test('a shared watch outlives its last reader for a while', async (t) => {
  const { upstream, watches } = fakeUpstream();
  const clock = createManualClock();
  const shared = createSharedWatches(upstream, clock);
  const range = { key: Buffer.from('a/'), rangeEnd: Buffer.from('a0'), prevKv: false };
  const reader = { onChange: () => undefined, onEnd: () => undefined };
  const first = shared.join(range, reader, { startRevision: 11 });
  await first.opened;
  first.leave();
  await clock.advance(9000);
  const second = shared.join(range, reader, { startRevision: 11 });
  await clock.advance(60_000);
  t.equal(watches.length, 1, 'it was found again');
  second.leave();
  second.leave();
  await clock.advance(11_000);
  t.equal(shared.count, 0);
  t.ok(watches[0]?.canceled);
  shared.join(range, reader, { startRevision: 11 });
  t.equal(watches.length, 2);
  shared[Symbol.dispose]();
});
