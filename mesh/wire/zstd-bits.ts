/**
 * Bits and FSE tables of Zstandard (RFC 8878, section 4). Everything here is bounded by the sizes of its tables, whatever
 * the bytes say. Throws `ZstdError`.
 */

/** Bytes that are no Zstandard frame, or one that is too large. */
export class ZstdError extends Error {
  /** `corrupt`: no encoder writes this; `too-large`: the content is larger than the reader allows. */
  readonly code: 'corrupt' | 'too-large';
  readonly retryable = false;

  constructor(code: ZstdError['code'], message: string) {
    super(message);
    this.name = 'ZstdError';
    this.code = code;
  }
}

/** Reads bits from the end of a piece of bytes to its beginning, as all but the headers of Zstandard are read. */
export interface BackwardBits {
  /** Bits that are left; below 0 when more were read than there are, and those read as zeros. */
  readonly left: number;
  /** The next `count` bits, at most 31. */
  read(count: number): number;
}

/** A decoding table: what each state stands for and how the next one is found. */
export interface FseTable {
  /** The number of states is 2 to this power. */
  readonly accuracy: number;
  readonly symbols: Uint8Array;
  readonly bits: Uint8Array;
  readonly base: Uint16Array;
}

/** What of a header was read, and how many bytes it took. */
export interface Sized<T> {
  readonly value: T;
  readonly size: number;
}

/** Opens bits that are read backwards; the highest bit that is set in the last byte marks their end. */
export function openBackwardBits(bytes: Uint8Array): BackwardBits {
  const last = bytes[bytes.length - 1] ?? 0;
  if (last === 0) throw new ZstdError('corrupt', 'bits without their end mark');
  let left = (bytes.length - 1) * 8 + highestBit(last);
  return {
    get left() {
      return left;
    },
    read(count) {
      left -= count;
      if (left >= 0) return bitsAt(bytes, left, count);
      // What lies before the first byte is zeros.
      const there = count + left;
      return there <= 0 ? 0 : bitsAt(bytes, 0, there) * 2 ** -left;
    },
  };
}

/** Reads the description of a table (section 4.1.1). */
export function readFseTable(
  bytes: Uint8Array,
  limits: { readonly maxAccuracy: number; readonly maxSymbol: number },
): Sized<FseTable> {
  const accuracy = ((bytes[0] ?? 0) & 15) + 5;
  if (accuracy > limits.maxAccuracy) throw new ZstdError('corrupt', 'a table that is too large');
  const probabilities: number[] = [];
  let position = 4;
  let remaining = 2 ** accuracy;
  const read = (count: number): number => {
    const value = bitsAt(bytes, position, count);
    position += count;
    return value;
  };
  while (remaining > 0) {
    const width = highestBit(remaining + 1) + 1;
    const low = 2 ** (width - 1) - 1;
    const threshold = 2 ** width - 1 - (remaining + 1);
    let value = read(width);
    if ((value & low) < threshold) {
      // One bit less says as much.
      value &= low;
      position -= 1;
    } else if (value > low) value -= threshold;
    const probability = value - 1;
    remaining -= Math.abs(probability);
    probabilities.push(probability);
    for (let zeros = 3; probability === 0 && zeros === 3; ) {
      zeros = read(2);
      for (let count = 0; count < zeros; count += 1) probabilities.push(0);
      if (probabilities.length > limits.maxSymbol + 1) break;
    }
    if (probabilities.length > limits.maxSymbol + 1 || remaining < 0) {
      throw new ZstdError('corrupt', 'a table whose symbols do not fit');
    }
  }
  const size = Math.ceil(position / 8);
  if (size > bytes.length) throw new ZstdError('corrupt', 'a table that is cut off');
  return { value: buildFseTable(probabilities, accuracy), size };
}

/** Builds a table of probabilities that add up to its number of states, -1 standing for "less than one". */
export function buildFseTable(probabilities: readonly number[], accuracy: number): FseTable {
  const states = 2 ** accuracy;
  const symbols = new Uint8Array(states);
  const bits = new Uint8Array(states);
  const base = new Uint16Array(states);
  const next = probabilities.map((probability) => Math.abs(probability));
  let high = states;
  for (const [symbol, probability] of probabilities.entries()) {
    if (probability === -1) symbols[--high] = symbol;
  }
  const step = (states >> 1) + (states >> 3) + 3;
  let state = 0;
  for (const [symbol, probability] of probabilities.entries()) {
    for (let count = 0; count < probability; count += 1) {
      symbols[state] = symbol;
      do state = (state + step) & (states - 1);
      while (state >= high);
    }
  }
  for (let index = 0; index < states; index += 1) {
    const symbol = symbols[index] ?? 0;
    const order = next[symbol] ?? 0;
    next[symbol] = order + 1;
    const width = accuracy - highestBit(order);
    bits[index] = width;
    base[index] = order * 2 ** width - states;
  }
  return { accuracy, symbols, bits, base };
}

/** A table of one state, which always gives the same symbol. */
export function constantTable(symbol: number): FseTable {
  return {
    accuracy: 0,
    symbols: Uint8Array.of(symbol),
    bits: new Uint8Array(1),
    base: new Uint16Array(1),
  };
}

/** Position of the highest bit that is set in a number above 0. */
export function highestBit(value: number): number {
  return 31 - Math.clz32(value);
}

/** `count` bits, at most 31, from bit `position` on, in little-endian order. Behind the end they are zeros. */
function bitsAt(bytes: Uint8Array, position: number, count: number): number {
  if (count > 24) {
    return bitsAt(bytes, position, 16) + bitsAt(bytes, position + 16, count - 16) * 65_536;
  }
  const at = position >>> 3;
  const word =
    (bytes[at] ?? 0) |
    ((bytes[at + 1] ?? 0) << 8) |
    ((bytes[at + 2] ?? 0) << 16) |
    ((bytes[at + 3] ?? 0) << 24);
  return (word >>> (position & 7)) & (2 ** count - 1);
}
