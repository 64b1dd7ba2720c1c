import { renameSync, rmSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs';
import { test } from 'tap';
import { openTempDir } from '../testing/temp-dir.ts';
import { stampFile, stampFiles } from './file-stamp.ts';

const LATER = Date.now() + 60_000;

test('stampFile() differs for each way in which a file comes to hold something else', async (t) => {
  await using dir = await openTempDir('stamp');
  const path = dir.file('a');
  writeFileSync(path, 'one');
  const stamps = new Set([stampFile(path).text]);
  writeFileSync(path, 'two2');
  stamps.add(stampFile(path).text);
  writeFileSync(dir.file('b'), 'two3');
  renameSync(dir.file('b'), path);
  stamps.add(stampFile(path).text);
  utimesSync(path, 1, 1);
  stamps.add(stampFile(path).text);
  writeFileSync(dir.file('c'), 'two3');
  symlinkSync(dir.file('c'), dir.file('link'));
  renameSync(dir.file('link'), path);
  stamps.add(stampFile(path).text);
  t.equal(stamps.size, 5);
  t.equal(stampFile(path).text, stampFile(path).text);
  t.notOk(stampFile(dir.path).isFile);
});

test('stampFiles() says nothing of files that are missing or have only just changed', async (t) => {
  await using dir = await openTempDir('stamp');
  const paths = [dir.file('a'), dir.file('b')];
  for (const path of paths) writeFileSync(path, 'x');
  t.equal(stampFiles(paths, Date.now()), undefined);
  const stamp = stampFiles(paths, LATER);
  t.ok(stamp);
  t.equal(stampFiles(paths, LATER), stamp);
  rmSync(dir.file('b'));
  t.equal(stampFiles(paths, LATER), undefined);
});
