/** What a stream holds, by lines or as a whole, in bounded memory. */
import { CliError } from './cli-error.ts';

/** A line without its end, numbered from 1; undefined is one that is longer than allowed, and was passed over. */
export interface Line {
  readonly number: number;
  readonly bytes: Buffer | undefined;
}

const NEWLINE = 0x0a;

/** Reads lines of at most `maxBytes`. The last one needs no end. */
export async function* readLines(
  input: AsyncIterable<Buffer>,
  maxBytes: number,
): AsyncGenerator<Line, void, undefined> {
  let number = 0;
  let pieces: Buffer[] = [];
  let length = 0;
  const take = (): Line => {
    number += 1;
    const [only] = pieces;
    const bytes = pieces.length === 1 ? only : Buffer.concat(pieces);
    const line = { number, bytes: length > maxBytes ? undefined : bytes };
    pieces = [];
    length = 0;
    return line;
  };
  for await (const chunk of input) {
    let start = 0;
    for (;;) {
      const end = chunk.indexOf(NEWLINE, start);
      const piece = chunk.subarray(start, end === -1 ? chunk.length : end);
      length += piece.length;
      if (length <= maxBytes) pieces.push(piece);
      else pieces = [];
      if (end === -1) break;
      yield take();
      start = end + 1;
    }
  }
  if (length > 0) yield take();
}

/** All of a stream as text. Throws CliError `usage` when it is longer than `maxBytes`. */
export async function readWhole(
  input: AsyncIterable<Buffer | string>,
  maxBytes: number,
): Promise<string> {
  const pieces: Buffer[] = [];
  let length = 0;
  for await (const piece of input) {
    const bytes = Buffer.from(piece);
    length += bytes.length;
    if (length > maxBytes) {
      throw new CliError('usage', `the input is longer than ${maxBytes} bytes`);
    }
    pieces.push(bytes);
  }
  return Buffer.concat(pieces).toString('utf8');
}
