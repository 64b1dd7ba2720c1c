import { test } from 'tap';
import { type BackupSubject, openBackup, sealBackup } from './backup-file.ts';

const subject: BackupSubject = {
  cluster: { name: 'alpha', id: 1 },
  takenAt: '2026-01-02T03:04:05.000Z',
};
const passphrase = 'correct horse battery staple';

async function* pieces(bytes: Buffer, size: number): AsyncGenerator<Buffer, void, undefined> {
  for (let from = 0; from < bytes.length; from += size) yield bytes.subarray(from, from + size);
}

async function gather(stream: AsyncIterable<Buffer>): Promise<Buffer> {
  const all: Buffer[] = [];
  for await (const piece of stream) all.push(piece);
  return Buffer.concat(all);
}

async function opened(bytes: Buffer, words = passphrase, size = 10_000): Promise<Buffer> {
  const { content } = await openBackup(pieces(bytes, size), words);
  return gather(content);
}

const secret = Buffer.from('imt1.secret of a token '.repeat(10_000));
const sealed = await gather(sealBackup(pieces(secret, 7777), { subject, passphrase }));
const frames = sealed.indexOf('\n', sealed.indexOf('\n') + 1) + 1;

test('what was sealed comes back, and can be read by nobody else', async (t) => {
  const { subject: whose, content } = await openBackup(pieces(sealed, 100_000), passphrase);
  t.same(whose, subject, 'whose it is can be seen before');
  t.ok((await gather(content)).equals(secret));
  t.ok((await opened(sealed, passphrase, 1 + (sealed.length >> 3))).equals(secret));
  t.notMatch(sealed.toString('latin1'), /imt1|secret/);
  const again = await gather(sealBackup(pieces(secret, 7777), { subject, passphrase }));
  t.notOk(again.subarray(frames, frames + 40).equals(sealed.subarray(frames, frames + 40)));
  const nothing = await gather(sealBackup(pieces(Buffer.alloc(0), 1), { subject, passphrase }));
  t.equal((await opened(nothing)).length, 0);
});

test('a wrong passphrase, and a change anywhere, is told for what it is', async (t) => {
  const fails = (bytes: Buffer, code: string, words?: string): Promise<unknown> =>
    t.rejects(opened(bytes, words), { name: 'BackupFileError', code });
  const changed = (at: number, value?: number): Buffer => {
    const copy = Buffer.from(sealed);
    copy[at] = value ?? (copy[at] ?? 0) ^ 1;
    return copy;
  };
  await fails(sealed, 'passphrase', 'another passphrase');
  await fails(changed(0), 'not-a-backup');
  await fails(Buffer.from('PK\\3\\4'.repeat(5000)), 'not-a-backup');
  const renamed = Buffer.from(sealed);
  renamed.write('omega', sealed.indexOf('alpha'));
  await fails(renamed, 'passphrase');
  const whole = 4 + 16;
  const frame = 4 + 64 * 1024 + 16;
  const first = frames + whole;
  await fails(changed(first + 100), 'damaged');
  await fails(changed(first, 0xff), 'damaged');
  await fails(sealed.subarray(0, first + frame), 'damaged');
  await fails(sealed.subarray(0, sealed.length - 1), 'damaged');
  await fails(Buffer.concat([sealed, Buffer.from('x')]), 'damaged');
  const swapped = Buffer.concat([
    sealed.subarray(0, first),
    sealed.subarray(first + frame, first + 2 * frame),
    sealed.subarray(first, first + frame),
    sealed.subarray(first + 2 * frame),
  ]);
  await fails(swapped, 'damaged');
  await fails(sealed.subarray(0, frames + 10), 'damaged');
  await t.rejects(gather(sealBackup(pieces(secret, 10), { subject, passphrase: 'short' })), {
    code: 'weak-passphrase',
  });
});
