import { Writable } from 'node:stream';
import { test } from 'tap';
import { createPipeWriter } from './pipe-writer.ts';

/** A reader that takes what it is given when it is told to, or fails. */
function createReader() {
  const taken: string[] = [];
  let release: ((error?: Error) => void) | undefined;
  const stream = new Writable({
    highWaterMark: 10,
    write(chunk: Buffer, _encoding, done) {
      taken.push(chunk.toString());
      release = done;
    },
  });
  return { stream, taken, release: (error?: Error) => release?.(error) };
}

const PIECE = 'x'.repeat(64 * 1024);

test('a writer waits for its reader', async (t) => {
  const reader = createReader();
  const writer = createPipeWriter(reader.stream);
  await writer.write('small');
  t.same(reader.taken, [], 'small pieces are held back');
  let written = false;
  const writing = writer.write(PIECE).then(() => {
    written = true;
  });
  await new Promise(setImmediate);
  t.equal(written, false);
  reader.release();
  await writing;
  t.same(reader.taken, [`small${PIECE}`]);
  await writer.flush();
  t.equal(reader.taken.length, 1, 'nothing was left');
});

test('a reader that leaves is no failure, another fault is one', async (t) => {
  for (const [code, isFailure] of [
    ['EPIPE', false],
    ['EIO', true],
  ] as const) {
    const reader = createReader();
    const writer = createPipeWriter(reader.stream);
    const writing = writer.write(PIECE);
    reader.release(Object.assign(new Error('write failed'), { code }));
    if (isFailure) await t.rejects(writing, { code });
    else await writing;
    t.equal(writer.isClosed, true);
    if (isFailure) await t.rejects(writer.write(PIECE), { code });
    else await writer.write(PIECE);
    t.equal(reader.taken.length, 1, 'nothing more is written');
  }
});
