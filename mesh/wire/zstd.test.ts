import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { test } from 'tap';
import { projectPath } from '../runtime/project-path.ts';
import { frameOf } from './testing/slice-writer.ts';
import { decompressZstd, ZstdError } from './zstd.ts';

const MAX = 16 * 1024 * 1024;
/** Made by zstd 1.5: each kind of block, table and header. */
const FRAMES: readonly (readonly [string, string, Buffer])[] = [
  ['empty, of unknown size', 'KLUv/SQAAQAAmenYUQ==', Buffer.alloc(0)],
  ['empty, without a checksum', 'KLUv/SAAAQAA', Buffer.alloc(0)],
  ['one byte', 'KLUv/QRICQAAYVtujKk=', Buffer.from('a')],
  [
    'a run of blocks',
    'KLUv/QRIVAAAEHh4AQD7/znAAgIAEHgCABB4A9QAeOa4Xgs=',
    Buffer.alloc(400_000, 'x'),
  ],
  [
    'a match of its own end',
    'KLUv/QRotQEA1AJ0aGUgcXVpY2sgYnJvd24gZm94IGp1bXBzIG92ZXIgdGhlIGxhenkgZG9nOyABAMUW/qoMDS0zkQ==',
    Buffer.from('the quick brown fox jumps over the lazy dog; '.repeat(40)),
  ],
];
const text = readFileSync(projectPath('mesh/wire/testdata/cilium-kv.jsonl'));
/** With Huffman codes and tables of its own. */
const compressed = readFileSync(projectPath('mesh/wire/testdata/cilium-kv.jsonl.zst'));

function refusal(input: Buffer, max = MAX): string {
  try {
    decompressZstd(input, max);
  } catch (error) {
    if (error instanceof ZstdError) return error.code;
    throw error;
  }
  return 'nothing was thrown';
}

test('what zstd compressed is read back', async (t) => {
  for (const [name, frame, content] of FRAMES) {
    t.ok(decompressZstd(Buffer.from(frame, 'base64'), MAX).equals(content), name);
  }
  t.ok(decompressZstd(compressed, MAX).equals(text));
});

test('stored blocks of any size are read back', async (t) => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 5000 }), fc.nat(3), (bytes, times) => {
      const content = Buffer.concat(new Array<Buffer>(1 + times * 20).fill(Buffer.from(bytes)));
      return decompressZstd(frameOf(content), MAX).equals(content);
    }),
    { numRuns: 50 },
  );
  t.pass();
});

test('every prefix of a frame is refused, and so is every changed byte that a checksum covers', async (t) => {
  for (const [name, frame] of FRAMES) {
    const bytes = Buffer.from(frame, 'base64');
    for (let length = 0; length < bytes.length; length += 1) {
      t.equal(refusal(bytes.subarray(0, length)), 'corrupt', `${name} cut to ${length}`);
    }
  }
  let refused = 0;
  for (let at = 8; at < compressed.length; at += 11) {
    const changed = Buffer.from(compressed);
    changed[at] = (changed[at] ?? 0) ^ (1 << (at % 8));
    if (refusal(changed) !== 'nothing was thrown') refused += 1;
    // A match may be written in two ways.
    else if (!decompressZstd(changed, MAX).equals(text)) t.fail(`byte ${at} says something else`);
  }
  t.ok(refused > 450, `${refused} changes were refused`);
  t.equal(refusal(Buffer.concat([compressed, Buffer.from('more')])), 'corrupt');
});

test('bombs are refused before they are unpacked', async (t) => {
  const run = Buffer.from('28b52ffd0058', 'hex');
  const blocks = Buffer.concat(new Array<Buffer>(1000).fill(Buffer.from('02001061', 'hex')));
  t.equal(refusal(Buffer.concat([run, blocks]), MAX), 'too-large', '131 MiB in 4 KiB');
  t.equal(
    refusal(Buffer.from('28b52ffde0ffffffffffffffff010000', 'hex')),
    'too-large',
    'a size of 2^64',
  );
  t.equal(refusal(compressed, text.length - 1), 'too-large', 'one byte too many');
  // Sequences that are longer than any block, read from the zeros before the first bit: fzstd runs on them for minutes.
  const section = Buffer.from([0x00, 255, 0xff, 0xff, 0x54, 35, 2, 52, 0x80]);
  const header = Buffer.alloc(3);
  header.writeUIntLE(section.length * 8 + 5, 0, 3);
  const started = process.hrtime.bigint();
  t.equal(refusal(Buffer.concat([run, header, section])), 'corrupt');
  t.ok(process.hrtime.bigint() - started < 1_000_000_000n, 'at once');
});

test('frames that nobody writes are refused', async (t) => {
  for (const [name, hex] of [
    ['another magic', '28b52ffe00580100000000'],
    ['a reserved flag', '28b52ffd0858010000'],
    ['a dictionary', '28b52ffd015801010000'],
    ['a reserved kind of block', '28b52ffd0058070000'],
    ['a block that is too large', '28b52ffd0058050010'],
    ['literals that are longer than their block', '28b52ffd00580d0000f8'],
    ['codes of a block before, and there is none', '28b52ffd0058250000b30000ff'],
    ['another size than it says', '28b52ffd2002090000 61'.replace(' ', '')],
  ] as const) {
    t.equal(refusal(Buffer.from(hex, 'hex')), 'corrupt', name);
  }
});
