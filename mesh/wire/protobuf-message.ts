/**
 * Reading a protobuf message from strangers, field by field: only what is wanted becomes an object, and how many there
 * may be is bounded, since two bytes are enough for an empty one. Throws `ProtobufError`.
 */

/** Bytes that are no message of the expected kind, or one with too much in it. */
export class ProtobufError extends Error {
  readonly code: 'malformed' | 'too-many';
  readonly retryable = false;

  constructor(code: ProtobufError['code'], message: string) {
    super(message);
    this.name = 'ProtobufError';
    this.code = code;
  }
}

/** A message that is read field by field. The readers of a field throw when the writer gave it another type. */
export interface ProtobufMessage {
  /** Moves to the next field; false at the end. */
  next(): boolean;
  readonly field: number;
  text(): string;
  /** A number of 32 bits without a sign; higher bits are cut off, as Go's decoder does. */
  uint32(): number;
  /** A number of 32 bits with a sign. */
  int32(): number;
  boolean(): boolean;
  message(): ProtobufMessage;
  /** An entry of a map of strings to strings. */
  entry(): readonly [string, string];
}

const VARINT = 0;
const FIXED64 = 1;
const BYTES = 2;
const GROUP = 3;
const GROUP_END = 4;
const FIXED32 = 5;
/** Groups are of older versions of protobuf and are passed over; they nest no deeper than this in anything real. */
const MAX_GROUP_DEPTH = 32;

/** Opens a message that holds at most `maxItems` texts and messages, at any depth. */
export function openProtobufMessage(bytes: Buffer, maxItems: number): ProtobufMessage {
  const budget = { items: maxItems, max: maxItems };
  return openMessage(bytes, budget);
}

function openMessage(
  bytes: Buffer,
  budget: { items: number; readonly max: number },
): ProtobufMessage {
  let position = 0;
  let field = 0;
  let wireType = VARINT;
  let number = 0;
  let content = bytes.subarray(0, 0);

  /** Low 32 bits of a number of at most 10 bytes. */
  const varint = (): number => {
    let value = 0;
    for (let shift = 0; shift < 70; shift += 7) {
      const byte = bytes[position];
      if (byte === undefined) throw malformed('it is cut off');
      position += 1;
      if (shift < 32) value |= (byte & 0x7f) << shift;
      if (byte < 0x80) return value >>> 0;
    }
    throw malformed('a number is too long');
  };
  const take = (count: number): Buffer => {
    if (count > bytes.length - position) throw malformed('it is cut off');
    position += count;
    return bytes.subarray(position - count, position);
  };
  const readField = (depth: number): void => {
    const tag = varint();
    field = tag >>> 3;
    wireType = tag & 7;
    if (field === 0) throw malformed('a field has number 0');
    if (wireType === VARINT) number = varint();
    else if (wireType === BYTES) content = take(varint());
    else if (wireType === FIXED64) take(8);
    else if (wireType === FIXED32) take(4);
    else if (wireType === GROUP) skipGroup(depth + 1);
    else if (wireType !== GROUP_END || depth === 0) {
      throw malformed(`field ${field} has the unknown wire type ${wireType}`);
    }
  };
  const skipGroup = (depth: number): void => {
    if (depth > MAX_GROUP_DEPTH) throw malformed('groups are nested too deeply');
    const group = field;
    do readField(depth);
    while (wireType !== GROUP_END);
    field = group;
    wireType = GROUP;
  };
  const expect = (type: number): void => {
    if (wireType !== type) throw malformed(`field ${field} has wire type ${wireType}`);
  };
  const count = (): void => {
    expect(BYTES);
    budget.items -= 1;
    if (budget.items < 0) {
      throw new ProtobufError('too-many', `it holds more than ${budget.max} items`);
    }
  };
  const varintField = (): number => {
    expect(VARINT);
    return number;
  };
  const message = (): ProtobufMessage => {
    count();
    return openMessage(content, budget);
  };
  return {
    get field() {
      return field;
    },
    next() {
      if (position >= bytes.length) return false;
      readField(0);
      return true;
    },
    text() {
      count();
      return content.toString('utf8');
    },
    uint32: varintField,
    int32: () => varintField() | 0,
    boolean: () => varintField() !== 0,
    message,
    entry() {
      const entry = message();
      let key = '';
      let value = '';
      while (entry.next()) {
        if (entry.field === 1) key = entry.text();
        else if (entry.field === 2) value = entry.text();
      }
      return [key, value];
    },
  };
}

function malformed(why: string): ProtobufError {
  return new ProtobufError('malformed', why);
}
