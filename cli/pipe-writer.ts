/** Writing much to a pipe: in pieces, as fast as its reader takes them, and not at all once the reader is gone. */
import { once } from 'node:events';
import type { Writable } from 'node:stream';

/** A writer of text. */
export interface PipeWriter {
  /** Resolves when more may be written. Does nothing once the reader is gone. */
  write(text: string): Promise<void>;
  /** Writes what is held back. */
  flush(): Promise<void>;
  /** Whether the reader has left, as `head` does when it has seen enough: then there is no use in going on. */
  readonly isClosed: boolean;
}

const PIECE_BYTES = 64 * 1024;

/** Prepares a stream for much text. The stream stays its owner's. */
export function createPipeWriter(stream: Writable): PipeWriter {
  let held = '';
  let isClosed = false;
  let failure: unknown;
  stream.on('error', (error: NodeJS.ErrnoException) => {
    isClosed = true;
    if (error.code !== 'EPIPE') failure = error;
  });
  const send = async (): Promise<void> => {
    const text = held;
    held = '';
    if (failure !== undefined) throw failure;
    if (isClosed || text === '' || stream.write(text)) return;
    try {
      await once(stream, 'drain');
    } catch (error) {
      // `once` rejects with the stream's error, which the listener above has judged.
      if (failure !== undefined) throw error;
    }
  };
  return {
    get isClosed() {
      return isClosed;
    },
    async write(text) {
      held += text;
      if (held.length >= PIECE_BYTES) await send();
    },
    flush: send,
  };
}
