/** The literals of a Zstandard block (RFC 8878, section 3.1.1.3.1) and their Huffman codes. */
import { highestBit, openBackwardBits, readFseTable, type Sized, ZstdError } from './zstd-bits.ts';

/** Longest code of literals, in bits. */
const MAX_CODE_BITS = 11;
/** Bytes that say how long the first three of four streams are. */
const JUMP_TABLE_BYTES = 6;

/** Codes of literals: the symbol for each value of the next `bits` bits, and how many of them are its code. */
export interface HuffmanTable {
  readonly bits: number;
  readonly symbols: Uint8Array;
  readonly lengths: Uint8Array;
}

/** Literals of a block, and the codes that a later block may use again. */
export interface Literals {
  readonly bytes: Uint8Array;
  readonly table: HuffmanTable | undefined;
}

/** Reads the literals at the beginning of a block; there may be at most `max`. */
export function readLiterals(
  block: Uint8Array,
  max: number,
  before: HuffmanTable | undefined,
): Sized<Literals> {
  const first = block[0];
  if (first === undefined) throw new ZstdError('corrupt', 'a block without literals');
  const kind = first & 3;
  const format = (first >> 2) & 3;
  if (kind < 2) return readPlainLiterals(block, { max, format, isRun: kind === 1, table: before });
  const headerSize = [3, 3, 4, 5][format] ?? 5;
  const width = [10, 10, 14, 18][format] ?? 18;
  if (block.length < headerSize) throw new ZstdError('corrupt', 'literals that are cut off');
  let header = 0;
  for (let index = 0; index < headerSize; index += 1) header += (block[index] ?? 0) * 256 ** index;
  const sizes = Math.floor(header / 16);
  const regenerated = sizes % 2 ** width;
  const compressed = Math.floor(sizes / 2 ** width);
  const end = headerSize + compressed;
  if (regenerated > max || end > block.length) {
    throw new ZstdError('corrupt', 'literals that do not fit their block');
  }
  let start = headerSize;
  let table = before;
  if (kind === 2) {
    const described = readHuffmanTable(block.subarray(start, end));
    table = described.value;
    start += described.size;
  }
  if (table === undefined) throw new ZstdError('corrupt', 'literals without codes');
  const bytes = new Uint8Array(regenerated);
  const streams = block.subarray(start, end);
  if (format === 0) decodeStream(streams, bytes, table);
  else decodeFourStreams(streams, bytes, table);
  return { value: { bytes, table }, size: end };
}

function readPlainLiterals(
  block: Uint8Array,
  options: {
    readonly max: number;
    readonly format: number;
    readonly isRun: boolean;
    readonly table: HuffmanTable | undefined;
  },
): Sized<Literals> {
  const { max, format, isRun, table } = options;
  const headerSize = [1, 2, 1, 3][format] ?? 1;
  const header = (block[0] ?? 0) | ((block[1] ?? 0) << 8) | ((block[2] ?? 0) << 16);
  const size =
    headerSize === 1
      ? (header & 0xff) >> 3
      : headerSize === 2
        ? (header & 0xffff) >> 4
        : header >> 4;
  const end = headerSize + (isRun ? 1 : size);
  if (size > max || end > block.length) {
    throw new ZstdError('corrupt', 'literals that do not fit their block');
  }
  const bytes = isRun
    ? new Uint8Array(size).fill(block[headerSize] ?? 0)
    : block.subarray(headerSize, end);
  return { value: { bytes, table }, size: end };
}

/** Reads the weights of codes (section 4.2.1) and builds the table. */
function readHuffmanTable(bytes: Uint8Array): Sized<HuffmanTable> {
  const header = bytes[0] ?? 0;
  const weights: number[] = [];
  let size = 1 + header;
  if (header < 128) {
    if (size > bytes.length) throw new ZstdError('corrupt', 'codes that are cut off');
    readCompressedWeights(bytes.subarray(1, size), weights);
  } else {
    const count = header - 127;
    size = 1 + Math.ceil(count / 2);
    if (size > bytes.length) throw new ZstdError('corrupt', 'codes that are cut off');
    for (let index = 0; index < count; index += 1) {
      const byte = bytes[1 + (index >> 1)] ?? 0;
      weights.push(index % 2 === 0 ? byte >> 4 : byte & 15);
    }
  }
  return { value: buildHuffmanTable(weights), size };
}

function readCompressedWeights(bytes: Uint8Array, weights: number[]): void {
  const { value: table, size } = readFseTable(bytes, { maxAccuracy: 6, maxSymbol: MAX_CODE_BITS });
  const bits = openBackwardBits(bytes.subarray(size));
  // Two states take turns; the bits run out while one is moved on, and then the other one's symbol is the last.
  const states = [bits.read(table.accuracy), bits.read(table.accuracy)];
  if (bits.left < 0) throw new ZstdError('corrupt', 'codes that are cut off');
  for (let turn = 0; ; turn = 1 - turn) {
    const state = states[turn] ?? 0;
    weights.push(table.symbols[state] ?? 0);
    states[turn] = (table.base[state] ?? 0) + bits.read(table.bits[state] ?? 0);
    if (weights.length > 254) throw new ZstdError('corrupt', 'more codes than symbols');
    if (bits.left < 0) {
      weights.push(table.symbols[states[1 - turn] ?? 0] ?? 0);
      return;
    }
  }
}

/** The last weight is not written: it is what is missing to a power of two. */
function buildHuffmanTable(weights: number[]): HuffmanTable {
  let sum = 0;
  for (const weight of weights) {
    if (weight > MAX_CODE_BITS) throw new ZstdError('corrupt', 'a code that is too long');
    if (weight > 0) sum += 2 ** (weight - 1);
  }
  if (sum === 0) throw new ZstdError('corrupt', 'no codes');
  const bits = highestBit(sum) + 1;
  const missing = 2 ** bits - sum;
  if (bits > MAX_CODE_BITS || missing !== 2 ** highestBit(missing)) {
    throw new ZstdError('corrupt', 'codes that do not fill their table');
  }
  weights.push(highestBit(missing) + 1);
  const symbols = new Uint8Array(2 ** bits);
  const lengths = new Uint8Array(2 ** bits);
  let at = 0;
  // The longest codes, which have the smallest weights, come first.
  for (let weight = 1; weight <= bits; weight += 1) {
    for (const [symbol, candidate] of weights.entries()) {
      if (candidate !== weight) continue;
      const end = at + 2 ** (weight - 1);
      symbols.fill(symbol, at, end);
      lengths.fill(bits + 1 - weight, at, end);
      at = end;
    }
  }
  return { bits, symbols, lengths };
}

function decodeFourStreams(bytes: Uint8Array, out: Uint8Array, table: HuffmanTable): void {
  if (bytes.length < JUMP_TABLE_BYTES) throw new ZstdError('corrupt', 'literals that are cut off');
  const quarter = (out.length + 3) >> 2;
  let start = JUMP_TABLE_BYTES;
  for (let stream = 0; stream < 4; stream += 1) {
    const jump = (bytes[stream * 2] ?? 0) + (bytes[stream * 2 + 1] ?? 0) * 256;
    const end = stream === 3 ? bytes.length : start + jump;
    const outStart = Math.min(out.length, stream * quarter);
    const outEnd = stream === 3 ? out.length : Math.min(out.length, outStart + quarter);
    if (end > bytes.length) throw new ZstdError('corrupt', 'literals that are cut off');
    decodeStream(bytes.subarray(start, end), out.subarray(outStart, outEnd), table);
    start = end;
  }
}

function decodeStream(bytes: Uint8Array, out: Uint8Array, table: HuffmanTable): void {
  const bits = openBackwardBits(bytes);
  const mask = 2 ** table.bits - 1;
  let state = bits.read(table.bits);
  for (let index = 0; index < out.length; index += 1) {
    const length = table.lengths[state] ?? 0;
    out[index] = table.symbols[state] ?? 0;
    state = ((state << length) | bits.read(length)) & mask;
  }
  // The state looks ahead by as many bits as a table has.
  if (bits.left !== -table.bits) throw new ZstdError('corrupt', 'literals that do not end');
}
