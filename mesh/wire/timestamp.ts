import { WireError } from './wire-error.ts';

const RFC_3339 = /^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d+)?(Z|[+-]\d{2}:\d{2})$/;

/** Time as heartbeats and synced markers carry it: RFC 3339 in UTC, whole seconds. `milliseconds` since 1970. */
export function encodeTimestamp(milliseconds: number): string {
  return new Date(milliseconds).toISOString().replace(/\.\d{3}Z$/, 'Z');
}

/** Milliseconds since 1970. Throws WireError `bad-value`; readers of markers ignore the value, so they need not call this. */
export function decodeTimestamp(value: Buffer | string, key: string): number {
  const text = value.toString();
  const milliseconds = RFC_3339.test(text) ? Date.parse(text) : Number.NaN;
  if (Number.isNaN(milliseconds)) {
    throw new WireError(
      'bad-value',
      `cannot parse ${key}: ${JSON.stringify(text.slice(0, 40))} is no time, expected RFC 3339 such as 2026-01-02T03:04:05Z`,
      { key },
    );
  }
  return milliseconds;
}
