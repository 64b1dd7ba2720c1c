import { test } from 'tap';
import { refusalOf } from './testing/refusal.ts';
import { decodeTimestamp, encodeTimestamp } from './timestamp.ts';

const KEY = 'cilium/.heartbeat';

test('times are written in whole seconds of UTC', async (t) => {
  t.equal(encodeTimestamp(0), '1970-01-01T00:00:00Z');
  t.equal(encodeTimestamp(Date.UTC(2026, 10, 21, 4, 32, 47, 999)), '2026-11-21T04:32:47Z');
});

test('times are read with fractions and zones', async (t) => {
  const second = Date.UTC(2026, 0, 2, 3, 4, 5);
  for (const [text, expected] of [
    ['2026-01-02T03:04:05Z', second],
    ['2026-01-02T03:04:05.123456789Z', second + 123],
    ['2026-01-02T05:04:05+02:00', second],
    ['2026-01-01T21:34:05-05:30', second],
    ['2024-02-29T00:00:00Z', Date.UTC(2024, 1, 29)],
    ['2000-02-29T23:59:59Z', Date.UTC(2000, 1, 29, 23, 59, 59)],
  ] as const) {
    t.equal(decodeTimestamp(text, KEY), expected, text);
    t.equal(decodeTimestamp(Buffer.from(text), KEY), expected, text);
  }
});

test('what is no time is refused', async (t) => {
  for (const text of [
    '',
    'true',
    '1767323045',
    '2026-01-02',
    '2026-01-02 03:04:05Z',
    '2026-01-02T03:04:05',
    '2026-01-02T03:04Z',
    '2026-13-02T03:04:05Z',
    '2026-00-02T03:04:05Z',
    '2026-01-00T03:04:05Z',
    '2026-01-32T03:04:05Z',
    '2026-02-29T03:04:05Z',
    '1900-02-29T03:04:05Z',
    '2026-02-31T03:04:05Z',
    '2026-04-31T03:04:05+02:00',
    '2026-01-02T24:00:00Z',
    '2026-01-02T03:60:05Z',
    '2026-01-02T03:04:60Z',
    '2026-01-02T03:04:05+24:00',
    '2026-01-02T03:04:05.Z',
    '2026-01-02T03:04:05Z\n',
    '02026-01-02T03:04:05Z',
    '0000-01-01T00:00:00+00:01',
    '9999-12-31T23:59:59-00:01',
  ]) {
    const error = refusalOf(() => decodeTimestamp(text, KEY));
    t.equal(error.code, 'bad-value', text);
    t.equal(error.key, KEY);
    t.match(error.message, /is no time, expected RFC 3339/);
  }
});
