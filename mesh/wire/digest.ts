/**
 * The digest of everything under a prefix: how many keys, and a sum over a hash of each with its value. A sum has no
 * order and can be taken back, so the publisher keeps it up to date with each change and a reader with each event, and
 * the two compare what they hold without sending it. It finds mistakes, not forgers: whoever writes the values writes
 * the digest as well.
 */
import {
  encodeGoJson,
  type FieldPath,
  failField,
  parseJsonObject,
  readString,
  readUint,
} from './json.ts';
import { readSchema } from './schema.ts';

/** What a digest says, as it travels under `isthmus/mesh/digest/`. */
export interface MeshDigest {
  /** Keys under the prefix. */
  readonly count: number;
  /** Sum of their hashes modulo 2^64, 16 hexadecimal digits. */
  readonly sum: string;
}

/** A digest that follows changes. A changed value is `remove` of the old one and `add` of the new one. */
export interface Digest extends MeshDigest {
  add(key: string, value: Uint8Array | string): void;
  /** Takes back what was added; what was never added makes the digest wrong, and `count` may fall below 0. */
  remove(key: string, value: Uint8Array | string): void;
  /** Back to nothing. */
  clear(): void;
}

const SCHEMA = 1;
const SUM = /^[0-9a-f]{16}$/;
const WORD = 4;
const SCRATCH_BYTES = 1024;
const scratch = Buffer.alloc(SCRATCH_BYTES);
/** The two lanes of the hash that is being made; not locals, so that no pair is made for each step. */
let first = 0;
let second = 0;

/** A digest of nothing. */
export function createDigest(): Digest {
  let count = 0;
  let high = 0;
  let low = 0;
  return {
    get count() {
      return count;
    },
    get sum() {
      return hex(high) + hex(low);
    },
    add(key, value) {
      const [entryHigh, entryLow] = hashEntry(key, value);
      const sum = low + entryLow;
      high = (high + entryHigh + (sum > 0xffff_ffff ? 1 : 0)) >>> 0;
      low = sum >>> 0;
      count += 1;
    },
    remove(key, value) {
      const [entryHigh, entryLow] = hashEntry(key, value);
      const difference = low - entryLow;
      high = (high - entryHigh - (difference < 0 ? 1 : 0)) >>> 0;
      low = difference >>> 0;
      count -= 1;
    },
    clear() {
      count = 0;
      high = 0;
      low = 0;
    },
  };
}

/**
 * 64-bit hash of a key and its value as two unsigned halves, `[high, low]`. Part of the format with schema 1: the two
 * lengths, then the UTF-8 bytes of the key and the bytes of the value in little-endian words of 32 bits, each filled up
 * with zeros, go through two lanes, which are mixed into each other at the end.
 */
export function hashEntry(key: string, value: Uint8Array | string): [number, number] {
  first = 0x243f_6a88;
  second = 0x85a3_08d3;
  absorb(bytesOf(key));
  absorb(bytesOf(value));
  const low = mix(first ^ rotate(second, 15));
  const high = mix(second ^ low);
  return [high >>> 0, mix((low + high) | 0) >>> 0];
}

/** Encodes a digest. */
export function encodeMeshDigest({ count, sum }: MeshDigest): string {
  return encodeGoJson({ schema: SCHEMA, count, sum });
}

/** Decodes a digest. Throws WireError naming key and field, and for a schema that is not known. */
export function decodeMeshDigest(value: Buffer | string, key: string): MeshDigest {
  const object = parseJsonObject(value, key);
  readSchema(key, object, SCHEMA);
  const at = (field: string): FieldPath => ({ key, field });
  const sum = readString(at('sum'), object.sum);
  if (!SUM.test(sum)) failField(at('sum'), sum, '16 hexadecimal digits in lower case');
  return { count: readUint(at('count'), object.count, Number.MAX_SAFE_INTEGER), sum };
}

function bytesOf(text: Uint8Array | string): Uint8Array {
  if (typeof text !== 'string') return text;
  // A unit of UTF-16 is at most 3 bytes of UTF-8.
  if (text.length * 3 > SCRATCH_BYTES) return Buffer.from(text);
  return scratch.subarray(0, scratch.write(text));
}

/** Takes bytes into both lanes, their number before them. */
function absorb(bytes: Uint8Array): void {
  const whole = bytes.length - (bytes.length % WORD);
  let a = first;
  let b = second;
  let word = bytes.length;
  for (let index = 0; ; index += WORD) {
    a = Math.imul(((a << 5) | (a >>> 27)) ^ word, 0x9e37_79b1);
    a ^= a >>> 15;
    b = Math.imul((((b << 13) | (b >>> 19)) + word) | 0, 0x85eb_ca77);
    b ^= b >>> 16;
    if (index >= bytes.length) break;
    word = index < whole ? wordAt(bytes, index) : lastWord(bytes, index);
  }
  first = a;
  second = b;
}

/** Four bytes in little-endian order. */
function wordAt(bytes: Uint8Array, index: number): number {
  return (
    (bytes[index] ?? 0) |
    ((bytes[index + 1] ?? 0) << 8) |
    ((bytes[index + 2] ?? 0) << 16) |
    ((bytes[index + 3] ?? 0) << 24)
  );
}

/** Fewer than four bytes, filled up with zeros. Apart from the rest, since reading behind the end is slow. */
function lastWord(bytes: Uint8Array, start: number): number {
  let word = 0;
  for (let index = start; index < bytes.length; index += 1) {
    word |= (bytes[index] ?? 0) << (8 * (index - start));
  }
  return word;
}

function rotate(word: number, bits: number): number {
  return (word << bits) | (word >>> (32 - bits));
}

/** Spreads each bit of a word over all of it; no two words come to the same. */
function mix(word: number): number {
  let state = word;
  state = Math.imul(state ^ (state >>> 16), 0x7feb_352d);
  state = Math.imul(state ^ (state >>> 15), 0x846c_a68b);
  return state ^ (state >>> 16);
}

function hex(word: number): string {
  return word.toString(16).padStart(8, '0');
}
