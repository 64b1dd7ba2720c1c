/**
 * Reading Zstandard (RFC 8878) from strangers, by the reference decoder compiled to WebAssembly: it checks every length,
 * and its work is bounded by the size that is allowed. Node 20 has no Zstandard of its own.
 */
import { decompress, init } from '@bokuweb/zstd-wasm';

/** Bytes that are no Zstandard frame, or one that is too large. */
export class ZstdError extends Error {
  /** `corrupt`: no encoder writes this; `too-large`: the content is larger than the reader allows. */
  readonly code: 'corrupt' | 'too-large';
  readonly retryable = false;

  constructor(code: ZstdError['code'], message: string, options: { cause?: unknown } = {}) {
    super(message, options);
    this.name = 'ZstdError';
    this.code = code;
  }
}

const MAGIC = 0xfd2f_b528;
/** The longest frame header (section 3.1.1.1): magic, descriptor, window, dictionary, content size. */
const MAX_HEADER_BYTES = 18;
/** What the library says when the content does not fit: ZSTD_error_dstSize_tooSmall. */
const TOO_SMALL = /-70$/;

await init();

/**
 * The content of the one frame that `input` is. Throws ZstdError: `corrupt` when it is no frame, more than one, or its
 * checksum is wrong; `too-large` when it has more than `maxBytes`.
 */
export function decompressZstd(input: Buffer, maxBytes: number): Buffer {
  const claimed = contentSize(input);
  const tooLarge = (): ZstdError => new ZstdError('too-large', `more than ${maxBytes} bytes`);
  // The library takes as much memory as the header asks for: so it is looked at first.
  if (claimed !== undefined && claimed > maxBytes) throw tooLarge();
  try {
    return Buffer.from(decompress(input, { defaultHeapSize: maxBytes }));
  } catch (cause) {
    const message = cause instanceof Error ? cause.message : String(cause);
    // A frame that holds more than it says is damaged; one that does not say may be too large.
    if (TOO_SMALL.test(message) && claimed === undefined) throw tooLarge();
    throw new ZstdError('corrupt', `damaged: ${message}`, { cause });
  }
}

/** What the header says of the content's size; undefined where it does not. Throws ZstdError `corrupt`. */
function contentSize(input: Buffer): number | undefined {
  if (input.length < 6 || input.readUInt32LE(0) !== MAGIC) {
    throw new ZstdError('corrupt', 'no frame');
  }
  const descriptor = input.readUInt8(4);
  const hasWindow = (descriptor & 0x20) === 0;
  const dictionaryBytes = [0, 1, 2, 4][descriptor & 3] ?? 0;
  const sizeFlag = descriptor >> 6;
  if (sizeFlag === 0 && hasWindow) return undefined;
  const at = 5 + (hasWindow ? 1 : 0) + dictionaryBytes;
  const header = Buffer.alloc(MAX_HEADER_BYTES);
  input.copy(header, 0, 0, MAX_HEADER_BYTES);
  if (sizeFlag === 0) return header.readUInt8(at);
  if (sizeFlag === 1) return header.readUInt16LE(at) + 256;
  if (sizeFlag === 2) return header.readUInt32LE(at);
  return Number(header.readBigUInt64LE(at));
}
