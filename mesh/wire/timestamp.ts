import { checkSize, MAX_VALUE_BYTES } from './json.ts';
import { WireError } from './wire-error.ts';

const RFC_3339 = /^(\d{4})-(\d{2})-(\d{2})T([01]\d|2[0-3]):\d{2}:\d{2}(\.\d+)?(Z|[+-]\d{2}:\d{2})$/;
const FIRST = Date.parse('0000-01-01T00:00:00Z');
const LAST = Date.parse('9999-12-31T23:59:59.999Z');

/** Time as heartbeats and synced markers carry it: RFC 3339 in UTC, whole seconds. `milliseconds` since 1970. */
export function encodeTimestamp(milliseconds: number): string {
  return new Date(milliseconds).toISOString().replace(/\.\d{3}Z$/, 'Z');
}

/** Milliseconds since 1970. Throws WireError `bad-value` or `too-large`; readers of markers ignore the value, so they need not call this. */
export function decodeTimestamp(value: Buffer | string, key: string): number {
  checkSize(value, key, MAX_VALUE_BYTES);
  const text = value.toString();
  const milliseconds = parseTimestamp(text);
  if (Number.isNaN(milliseconds)) {
    throw new WireError(
      'bad-value',
      `cannot parse ${key}: ${JSON.stringify(text.slice(0, 40))} is no time, expected RFC 3339 such as 2026-01-02T03:04:05Z`,
      { key },
    );
  }
  return milliseconds;
}

/** Milliseconds since 1970 of a time in RFC 3339; not a number for any other text. */
export function parseTimestamp(text: string): number {
  const parts = RFC_3339.exec(text);
  if (parts === null) return Number.NaN;
  // `Date.parse` takes the 31st of any month for a day of the next one.
  const lastDay = new Date(Date.UTC(Number(parts[1]), Number(parts[2]), 0)).getUTCDate();
  const milliseconds = Number(parts[3]) > lastDay ? Number.NaN : Date.parse(text);
  // In UTC it may be of a year that does not have four digits.
  return milliseconds < FIRST || milliseconds > LAST ? Number.NaN : milliseconds;
}
