/**
 * Just enough of the protobuf encoding to read the fields of a few small messages and to cut events out of large ones without
 * making objects of them. Pure.
 */

/** Bytes that are no message of the expected kind. */
export class ProtobufError extends Error {
  readonly code = 'malformed';
  readonly retryable = false;

  constructor(message: string) {
    super(message);
    this.name = 'ProtobufError';
  }
}

/** Wire types of fields: the only two that etcd's messages use. */
export const VARINT = 0;
export const BYTES = 2;

/** One field: for `VARINT` `value` is the number's bytes, for `BYTES` the content. */
export interface Field {
  readonly number: number;
  readonly type: typeof VARINT | typeof BYTES;
  readonly value: Buffer;
  /** The whole field with its tag. */
  readonly whole: Buffer;
}

/** Calls back for every field in order. Throws ProtobufError when the message is cut short or holds a wire type that etcd never uses. */
export function forEachField(message: Buffer, visit: (field: Field) => void): void {
  let offset = 0;
  while (offset < message.length) {
    const start = offset;
    const tagEnd = varintEnd(message, offset);
    const tag = varintAt(message, offset, tagEnd);
    const type = tag % 8;
    offset = tagEnd;
    let valueStart = offset;
    if (type === VARINT) {
      offset = varintEnd(message, offset);
    } else if (type === BYTES) {
      valueStart = varintEnd(message, offset);
      offset = valueStart + varintAt(message, offset, valueStart);
      if (!(offset <= message.length))
        throw new ProtobufError('a field is longer than its message');
    } else {
      throw new ProtobufError(`field ${Math.floor(tag / 8)} has the unexpected wire type ${type}`);
    }
    visit({
      number: Math.floor(tag / 8),
      type,
      value: message.subarray(valueStart, offset),
      whole: message.subarray(start, offset),
    });
  }
}

/** The number in a field's value, as a signed 64-bit integer. Exact up to 2^53 either way. */
export function varintValue(value: Buffer): number {
  return varintAt(value, 0, value.length);
}

/** Encodes a whole number; a negative one as its 64-bit two's complement. */
export function encodeVarint(number: number): Buffer {
  if (number < 0 || number > Number.MAX_SAFE_INTEGER) return encodeBig(BigInt(number));
  const bytes: number[] = [];
  let rest = number;
  while (rest >= 0x80) {
    bytes.push((rest % 0x80) | 0x80);
    rest = Math.floor(rest / 0x80);
  }
  bytes.push(rest);
  return Buffer.from(bytes);
}

/** Encodes a number field; nothing for 0, which is what absence means. */
export function varintField(number: number, value: number): Buffer {
  if (value === 0) return Buffer.alloc(0);
  return Buffer.concat([encodeVarint(number * 8 + VARINT), encodeVarint(value)]);
}

/** Encodes a field of bytes, text or a nested message; nothing when it is empty. */
export function bytesField(number: number, value: Buffer | string): Buffer {
  const bytes = typeof value === 'string' ? Buffer.from(value) : value;
  if (bytes.length === 0) return Buffer.alloc(0);
  return Buffer.concat([encodeVarint(number * 8 + BYTES), encodeVarint(bytes.length), bytes]);
}

function varintEnd(message: Buffer, start: number): number {
  const limit = Math.min(message.length, start + 10);
  for (let offset = start; offset < limit; offset += 1) {
    if ((message[offset] ?? 0) < 0x80) return offset + 1;
  }
  throw new ProtobufError('a number is cut short or too long');
}

function varintAt(message: Buffer, start: number, end: number): number {
  if (end - start > 7) {
    let big = 0n;
    for (let offset = end - 1; offset >= start; offset -= 1) {
      big = (big << 7n) | BigInt((message[offset] ?? 0) & 0x7f);
    }
    return Number(BigInt.asIntN(64, big));
  }
  let value = 0;
  for (let offset = end - 1; offset >= start; offset -= 1) {
    value = value * 0x80 + ((message[offset] ?? 0) & 0x7f);
  }
  return value;
}

function encodeBig(number: bigint): Buffer {
  const bytes: number[] = [];
  let rest = BigInt.asUintN(64, number);
  while (rest >= 0x80n) {
    bytes.push(Number(rest & 0x7fn) | 0x80);
    rest >>= 7n;
  }
  bytes.push(Number(rest));
  return Buffer.from(bytes);
}
