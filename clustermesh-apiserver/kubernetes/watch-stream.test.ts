import { PassThrough } from 'node:stream';
import { setImmediate } from 'node:timers/promises';
import { test } from 'tap';
import { createManualClock } from '../../mesh/testing/manual-clock.ts';
import { readWatch, type WatchEvent } from './watch-stream.ts';

/** A watch over a stream that the test writes, on a clock that the test turns. */
function openWatch(options: { readonly timeoutSeconds?: number } = {}) {
  const clock = createManualClock();
  const stream = new PassThrough();
  const ending = new AbortController();
  const events: WatchEvent[] = [];
  const batches: number[] = [];
  const ended = (async () => {
    const watch = readWatch({
      open: async (signal) => {
        signal.addEventListener('abort', () => stream.destroy());
        return stream;
      },
      what: 'WATCH /x',
      timeoutSeconds: options.timeoutSeconds ?? 300,
      silenceMs: 60_000,
      clock,
      signal: ending.signal,
    });
    for (;;) {
      const next = await watch.next();
      if (next.done) return next.value;
      batches.push(next.value.length);
      events.push(...next.value);
    }
  })();
  ended.catch(() => undefined);
  return { clock, stream, ending, events, batches, ended };
}

const line = (type: string, object: unknown): string => `${JSON.stringify({ type, object })}\n`;

test('readWatch() yields together what came together, however it was cut', async (t) => {
  const { stream, events, batches } = openWatch();
  const text = line('ADDED', { name: 'ä' }) + line('BOOKMARK', { name: 'b' });
  stream.write(text);
  while (events.length < 2) await setImmediate();
  t.same(batches, [0, 2], 'nothing once when it is open');
  for (const byte of Buffer.from(text)) {
    stream.write(Buffer.from([byte]));
    await setImmediate();
  }
  while (events.length < 4) await setImmediate();
  t.same(events.slice(2), events.slice(0, 2));
  t.same(events[0], { type: 'ADDED', object: { name: 'ä' } });
});

test('readWatch() throws what the server says, with its code', async (t) => {
  const gone = { kind: 'Status', code: 410, reason: 'Expired', message: 'too old' };
  const cases: readonly [string, string, RegExp][] = [
    [line('ERROR', gone), 'gone', /too old/],
    [line('ERROR', { code: 500, message: 'etcd' }), 'unavailable', /etcd/],
    [line('ERROR', undefined), 'unavailable', /WATCH \/x: 500/],
    ['no JSON\n', 'unavailable', /not JSON/],
    ['null\n', 'unavailable', /not an event/],
    [line('SURPRISE', {}), 'unavailable', /not an event of a watch/],
  ];
  for (const [text, code, message] of cases) {
    const { stream, ended } = openWatch();
    stream.write(text);
    await t.rejects(ended, { name: 'KubernetesError', code, message });
  }
});

test('readWatch() ends with `over` after its time, and fails when it ends before', async (t) => {
  const early = openWatch({ timeoutSeconds: 100 });
  await setImmediate();
  early.stream.end();
  await t.rejects(early.ended, { code: 'unavailable', message: /ended it after 0 s/ });
  const late = openWatch({ timeoutSeconds: 50 });
  await setImmediate();
  await late.clock.advance(49_000);
  late.stream.end();
  t.equal(await late.ended, 'over');
});

test('readWatch() ends with `silent` when nothing came for long', async (t) => {
  const { clock, stream, ended, events } = openWatch();
  await setImmediate();
  await clock.advance(50_000);
  stream.write(line('BOOKMARK', {}));
  while (events.length === 0) await setImmediate();
  await clock.advance(50_000);
  await setImmediate();
  t.notOk(stream.destroyed, 'a bookmark is a sign of life');
  await clock.advance(20_000);
  t.equal(await ended, 'silent');
  t.ok(stream.destroyed, 'its connection is closed');
});

test('readWatch() tells a cut from an end, and ends with its signal', async (t) => {
  const cut = openWatch();
  await setImmediate();
  cut.stream.destroy(new Error('read ECONNRESET'));
  await t.rejects(cut.ended, { code: 'unavailable', message: /ECONNRESET/ });
  const aborted = openWatch();
  await setImmediate();
  aborted.ending.abort(new Error('enough'));
  await t.rejects(aborted.ended, /enough/);
  t.ok(aborted.stream.destroyed);
});

test('readWatch() waits for the head of the answer only so long', async (t) => {
  const clock = createManualClock();
  const watch = readWatch({
    open: (signal) =>
      new Promise((_, reject) => {
        signal.addEventListener('abort', () => reject(new Error('aborted')));
      }),
    what: 'WATCH /x',
    timeoutSeconds: 300,
    silenceMs: 60_000,
    clock,
    signal: new AbortController().signal,
  });
  const first = watch.next();
  first.catch(() => undefined);
  await setImmediate();
  await clock.advance(30_000);
  await t.rejects(first, { code: 'timeout', message: 'WATCH /x: no answer for 30 s' });
});
