import { test } from 'tap';
import { readLines } from './lines.ts';

async function read(chunks: readonly string[], maxBytes = 100): Promise<(string | undefined)[]> {
  async function* input(): AsyncGenerator<Buffer> {
    for (const chunk of chunks) yield Buffer.from(chunk);
  }
  const lines: (string | undefined)[] = [];
  for await (const { number, bytes } of readLines(input(), maxBytes)) {
    lines.push(bytes?.toString());
    if (number !== lines.length) throw new Error(`line ${number} came as number ${lines.length}`);
  }
  return lines;
}

test('readLines() gives lines wherever the stream is cut', async (t) => {
  const text = 'one\n\ntwo, and ü\r\nthree';
  const expected = ['one', '', 'two, and ü\r', 'three'];
  t.same(await read([text]), expected);
  for (let at = 0; at < text.length; at += 1) {
    t.same(await read([text.slice(0, at), '', text.slice(at)]), expected, `cut at ${at}`);
  }
  t.same(await read([...text]), expected);
  t.same(await read(['a\n']), ['a'], 'the end of the last line begins no other');
  t.same(await read(['\n']), ['']);
  t.same(await read([]), []);
});

test('readLines() passes over lines that are too long, and goes on', async (t) => {
  const long = 'x'.repeat(60);
  t.same(await read([`a\n${long}`, long, `${long}\nb`]), ['a', undefined, 'b']);
  t.same(await read([`${'y'.repeat(100)}\n${'y'.repeat(101)}\n`]), ['y'.repeat(100), undefined]);
  t.same(await read([long, long]), [undefined]);
});
