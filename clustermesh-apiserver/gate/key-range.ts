/** Ranges of etcd keys, and whether one lies within another. Pure. */

/** `[start, end)` in etcd's byte order; `end` undefined is everything from `start` on. */
export interface KeyRange {
  readonly start: Buffer;
  readonly end: Buffer | undefined;
}

/** Every key that begins with `prefix`. */
export function prefixRange(prefix: string): KeyRange {
  const start = Buffer.from(prefix);
  const end = Buffer.from(prefix);
  for (let index = end.length - 1; index >= 0; index -= 1) {
    const byte = end[index] ?? 0;
    if (byte < 0xff) {
      end[index] = byte + 1;
      return { start, end: end.subarray(0, index + 1) };
    }
  }
  return { start, end: undefined };
}

/** Exactly one key. */
export function singleKey(key: string): KeyRange {
  return requestedRange(Buffer.from(key), Buffer.alloc(0));
}

/**
 * The range that etcd understands by the two fields of a request: no `rangeEnd` is the key alone, one zero byte is everything
 * from the key on.
 */
export function requestedRange(key: Buffer, rangeEnd: Buffer): KeyRange {
  if (rangeEnd.length === 0) return { start: key, end: Buffer.concat([key, Buffer.from([0])]) };
  if (rangeEnd.length === 1 && rangeEnd[0] === 0) return { start: key, end: undefined };
  return { start: key, end: rangeEnd };
}

/** Whether every key of `inner` is in `outer`. An inverted inner range, which etcd answers with nothing, has to lie in it, too. */
export function rangeWithin(inner: KeyRange, outer: KeyRange): boolean {
  if (inner.start.compare(outer.start) < 0) return false;
  if (outer.end === undefined) return true;
  if (inner.end === undefined) return false;
  return inner.start.compare(outer.end) < 0 && inner.end.compare(outer.end) <= 0;
}

/** Whether `key` is in `range`. */
export function rangeHolds(range: KeyRange, key: Buffer): boolean {
  return key.compare(range.start) >= 0 && (range.end === undefined || key.compare(range.end) < 0);
}
