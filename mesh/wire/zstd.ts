/**
 * Reading Zstandard (RFC 8878) from strangers. Work and memory are bounded by the largest content that is allowed, and
 * whatever no encoder writes is refused at once: a general decoder may run for minutes over a frame of twenty bytes whose
 * sequences are longer than any block. Dictionaries are not supported.
 */
import { xxhash64 } from './xxhash64.ts';
import { ZstdError } from './zstd-bits.ts';
import { type HuffmanTable, readLiterals } from './zstd-literals.ts';
import { runSequences, type SequenceSink, type SequenceTables } from './zstd-sequences.ts';

const MAGIC = 0xfd2f_b528;
const SKIPPABLE_MAGIC = 0x184d_2a5;
const MAX_BLOCK_BYTES = 128 * 1024;
/** Frames and blocks of one value: those of an encoder hold 128 KiB each. */
const MAX_PIECES = 4096;
const FIRST_OUTPUT_BYTES = 64 * 1024;

/** Header of a frame (section 3.1.1.1). */
interface FrameHeader {
  readonly size: number;
  readonly windowBytes: number;
  /** Undefined where the frame does not say. */
  readonly contentBytes: number | undefined;
  readonly hasChecksum: boolean;
}

/** What grows while a value is read. */
interface Output {
  bytes: Buffer;
  length: number;
  readonly max: number;
}

/**
 * The content of all frames in `input`. Throws ZstdError: `corrupt` when it is no such content or its checksum is wrong,
 * `too-large` when it or the window that it asks for has more than `maxBytes`.
 */
export function decompressZstd(input: Buffer, maxBytes: number): Buffer {
  const output: Output = { bytes: Buffer.alloc(0), length: 0, max: maxBytes };
  const budget = { pieces: MAX_PIECES };
  let at = 0;
  if (input.length === 0) throw new ZstdError('corrupt', 'no frame');
  while (at < input.length) {
    spend(budget);
    if (input.length - at < 8) throw new ZstdError('corrupt', 'a frame that is cut off');
    const magic = input.readUInt32LE(at);
    if (magic >>> 4 === SKIPPABLE_MAGIC) {
      at += 8 + input.readUInt32LE(at + 4);
      if (at > input.length) throw new ZstdError('corrupt', 'a frame that is cut off');
    } else if (magic === MAGIC) {
      at += readFrame(input.subarray(at), output, budget);
    } else throw new ZstdError('corrupt', 'no frame');
  }
  return output.bytes.subarray(0, output.length);
}

/** Reads one frame into `output`; gives its size. */
function readFrame(input: Buffer, output: Output, budget: { pieces: number }): number {
  const header = readFrameHeader(input);
  if (header.windowBytes > output.max || (header.contentBytes ?? 0) > output.max - output.length) {
    throw new ZstdError('too-large', `more than ${output.max} bytes`);
  }
  const start = output.length;
  const maxBlock = Math.min(MAX_BLOCK_BYTES, header.windowBytes);
  const state: BlockState = {
    output,
    frameStart: start,
    windowBytes: header.windowBytes,
    recentOffsets: [1, 4, 8],
    huffman: undefined,
    tables: undefined,
  };
  let at = header.size;
  for (let isLast = false; !isLast; ) {
    spend(budget);
    if (at + 3 > input.length) throw new ZstdError('corrupt', 'a frame that is cut off');
    const block = input.readUIntLE(at, 3);
    const kind = (block >> 1) & 3;
    const size = block >> 3;
    isLast = (block & 1) === 1;
    at += 3;
    const stored = kind === 1 ? 1 : size;
    if (size > maxBlock || kind === 3) throw new ZstdError('corrupt', 'a block that is too large');
    if (at + stored > input.length) throw new ZstdError('corrupt', 'a frame that is cut off');
    const bytes = input.subarray(at, at + stored);
    if (kind === 0) append(output, bytes);
    else if (kind === 1) reserve(output, size).fill(bytes[0] ?? 0);
    else readCompressedBlock(bytes, state, maxBlock);
    at += stored;
  }
  const content = output.bytes.subarray(start, output.length);
  if (header.contentBytes !== undefined && header.contentBytes !== content.length) {
    throw new ZstdError('corrupt', 'a frame of another size than it says');
  }
  if (!header.hasChecksum) return at;
  if (at + 4 > input.length) throw new ZstdError('corrupt', 'a frame that is cut off');
  if (Number(BigInt.asUintN(32, xxhash64(content))) !== input.readUInt32LE(at)) {
    throw new ZstdError('corrupt', 'a wrong checksum');
  }
  return at + 4;
}

function readFrameHeader(input: Buffer): FrameHeader {
  const flags = input[4] ?? 0;
  const isSingle = (flags & 0x20) !== 0;
  const dictionaryBytes = [0, 1, 2, 4][flags & 3] ?? 0;
  const contentFlag = flags >> 6;
  const contentBytes = contentFlag === 0 ? (isSingle ? 1 : 0) : 2 ** contentFlag;
  const windowAt = 5;
  const dictionaryAt = windowAt + (isSingle ? 0 : 1);
  const contentAt = dictionaryAt + dictionaryBytes;
  const size = contentAt + contentBytes;
  if (size > input.length) throw new ZstdError('corrupt', 'a frame that is cut off');
  if ((flags & 8) !== 0) throw new ZstdError('corrupt', 'a frame of an unknown kind');
  if (dictionaryBytes > 0 && input.readUIntLE(dictionaryAt, dictionaryBytes) !== 0) {
    throw new ZstdError('corrupt', 'a frame that needs a dictionary');
  }
  let content: number | undefined;
  if (contentBytes === 8) content = Number(input.readBigUInt64LE(contentAt));
  else if (contentBytes > 0) {
    content = input.readUIntLE(contentAt, contentBytes) + (contentBytes === 2 ? 256 : 0);
  }
  const window = input[windowAt] ?? 0;
  const windowBytes = isSingle
    ? (content ?? 0)
    : 2 ** (10 + (window >> 3)) * (1 + (window & 7) / 8);
  return { size, windowBytes, contentBytes: content, hasChecksum: (flags & 4) !== 0 };
}

/** What blocks of a frame share. */
interface BlockState {
  readonly output: Output;
  readonly frameStart: number;
  readonly windowBytes: number;
  readonly recentOffsets: [number, number, number];
  huffman: HuffmanTable | undefined;
  tables: SequenceTables | undefined;
}

function readCompressedBlock(block: Uint8Array, state: BlockState, maxBlock: number): void {
  const { output } = state;
  const { value: literals, size } = readLiterals(block, maxBlock, state.huffman);
  state.huffman = literals.table;
  const blockEnd = output.length + maxBlock;
  let taken = 0;
  const sink: SequenceSink = {
    recentOffsets: state.recentOffsets,
    takeLiterals(count) {
      if (taken + count > literals.bytes.length || output.length + count > blockEnd) {
        throw new ZstdError('corrupt', 'more literals than there are');
      }
      append(output, literals.bytes.subarray(taken, taken + count));
      taken += count;
    },
    copyMatch(offset, length) {
      const reach = Math.min(output.length - state.frameStart, state.windowBytes);
      if (offset < 1 || offset > reach) throw new ZstdError('corrupt', 'a match of nothing');
      if (output.length + length > blockEnd) {
        throw new ZstdError('corrupt', 'a block that is too large');
      }
      const from = output.length - offset;
      const target = reserve(output, length);
      // What is copied may be what was just written.
      for (let index = 0; index < length; index += 1) {
        target[index] = output.bytes[from + index] ?? 0;
      }
    },
  };
  state.tables = runSequences(block.subarray(size), sink, state.tables);
  if (output.length + literals.bytes.length - taken > blockEnd) {
    throw new ZstdError('corrupt', 'a block that is too large');
  }
  append(output, literals.bytes.subarray(taken));
}

function append(output: Output, bytes: Uint8Array): void {
  reserve(output, bytes.length).set(bytes);
}

/** Makes room for `count` bytes more, and counts them as written. */
function reserve(output: Output, count: number): Buffer {
  const length = output.length + count;
  if (length > output.max) throw new ZstdError('too-large', `more than ${output.max} bytes`);
  if (length > output.bytes.length) {
    const bytes = Buffer.alloc(
      Math.min(output.max, Math.max(FIRST_OUTPUT_BYTES, length, output.bytes.length * 2)),
    );
    output.bytes.copy(bytes, 0, 0, output.length);
    output.bytes = bytes;
  }
  const room = output.bytes.subarray(output.length, length);
  output.length = length;
  return room;
}

function spend(budget: { pieces: number }): void {
  budget.pieces -= 1;
  if (budget.pieces < 0) throw new ZstdError('corrupt', `more than ${MAX_PIECES} blocks`);
}
