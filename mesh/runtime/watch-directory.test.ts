import { mkdir, rename, rm, symlink, writeFile } from 'node:fs/promises';
import { type Test, test } from 'tap';
import { openTempDir, type TempDir } from '../testing/temp-dir.ts';
import { systemClock } from './clock.ts';
import { type WatchDirectoryOptions, watchDirectory } from './watch-directory.ts';

/** Follows a directory in the background of a test. */
function follow(t: Test, directory: string, options: Partial<WatchDirectoryOptions> = {}) {
  const stopping = new AbortController();
  const errors: string[] = [];
  const snapshots: Record<string, string>[] = [];
  const onError = (error: Error, file: string | undefined): void => {
    errors.push(`${file ?? 'directory'}: ${error.message.split(':')[0]}`);
  };
  const run = async (): Promise<void> => {
    for await (const files of watchDirectory(directory, {
      signal: stopping.signal,
      onError,
      ...options,
    })) {
      snapshots.push(
        Object.fromEntries([...files].map(([name, bytes]) => [name, bytes.toString()])),
      );
    }
  };
  const running = run();
  t.teardown(async () => {
    stopping.abort();
    await running;
  });
  const until = async (what: string, condition: () => boolean): Promise<void> => {
    const deadline = systemClock.monotonic() + 10_000;
    while (!condition()) {
      if (systemClock.monotonic() > deadline) {
        throw new Error(`waited in vain for ${what}: ${JSON.stringify({ snapshots, errors })}`);
      }
      await systemClock.sleep(5);
    }
  };
  const shows = (expected: Record<string, string>): Promise<void> =>
    until(
      JSON.stringify(expected),
      () => JSON.stringify(snapshots.at(-1)) === JSON.stringify(expected),
    );
  return { snapshots, errors, until, shows };
}

test('watchDirectory() shows what is there, then each change', async (t) => {
  await using dir = await openTempDir('watch');
  await writeFile(dir.file('b.yaml'), '1');
  await mkdir(dir.file('folder'));
  await writeFile(dir.file('.hidden'), 'x');
  const { shows, snapshots } = follow(t, dir.path);
  await shows({ 'b.yaml': '1' });
  await writeFile(dir.file('a.yaml'), 'one');
  await shows({ 'a.yaml': 'one', 'b.yaml': '1' });
  await writeFile(dir.file('new'), 'two');
  await rename(dir.file('new'), dir.file('a.yaml'));
  await shows({ 'a.yaml': 'two', 'b.yaml': '1' });
  await rm(dir.file('b.yaml'));
  await shows({ 'a.yaml': 'two' });
  await rm(dir.file('a.yaml'));
  await shows({});
  t.same(snapshots[0], { 'b.yaml': '1' });
});

test('watchDirectory() takes the swap of a Kubernetes volume as one change', async (t) => {
  await using dir = await openTempDir('watch');
  await version(dir, '..v1', { beta: 'old', gamma: 'old' });
  await symlink('..v1', dir.file('..data'));
  for (const name of ['beta', 'gamma']) await symlink(`..data/${name}`, dir.file(name));
  const { shows, snapshots } = follow(t, dir.path, { rescanMs: 60_000 });
  await shows({ beta: 'old', gamma: 'old' });
  await version(dir, '..v2', { beta: 'new', gamma: 'new' });
  await symlink('..v2', dir.file('..next'));
  await rename(dir.file('..next'), dir.file('..data'));
  await shows({ beta: 'new', gamma: 'new' });
  t.equal(snapshots.length, 2);
});

test('watchDirectory() keeps the last content of a file that cannot be read, and says so once', async (t) => {
  await using dir = await openTempDir('watch');
  await writeFile(dir.file('real'), '1');
  await symlink('real', dir.file('link'));
  const { shows, errors, until } = follow(t, dir.path, { rescanMs: 20 });
  await shows({ link: '1', real: '1' });
  await rm(dir.file('real'));
  await shows({ link: '1' });
  await until('the error', () => errors.length > 0);
  await systemClock.sleep(100);
  t.same(errors, ['link: ENOENT'], 'several scans, one report');
  await writeFile(dir.file('real'), '2');
  await shows({ link: '2', real: '2' });
});

test('watchDirectory() waits for a directory that is not there, and for its return', async (t) => {
  await using dir = await openTempDir('watch');
  const path = dir.file('later');
  const { shows, errors, until, snapshots } = follow(t, path, { rescanMs: 20 });
  await until('the error', () => errors.length > 0);
  t.same(errors, ['directory: ENOENT']);
  t.equal(snapshots.length, 0);
  await mkdir(path);
  await writeFile(dir.file('later', 'a'), '1');
  await shows({ a: '1' });
  await rm(path, { recursive: true });
  await until(
    'the second error',
    () => errors.filter((error) => error === 'directory: ENOENT').length > 1,
  );
  await mkdir(path);
  await writeFile(dir.file('later', 'a'), '2');
  await shows({ a: '2' });
});

test('watchDirectory() sees by its rescan what the kernel does not tell', async (t) => {
  await using dir = await openTempDir('watch');
  await using elsewhere = await openTempDir('elsewhere');
  await writeFile(elsewhere.file('target'), '1');
  await symlink(elsewhere.file('target'), dir.file('link'));
  const { shows } = follow(t, dir.path, { rescanMs: 50 });
  await shows({ link: '1' });
  await writeFile(elsewhere.file('target'), '2');
  await shows({ link: '2' });
});

test('watchDirectory() ends by its signal and by leaving the loop', async (t) => {
  await using dir = await openTempDir('watch');
  const stopping = new AbortController();
  let count = 0;
  for await (const _ of watchDirectory(dir.path, { signal: stopping.signal })) {
    count += 1;
    setImmediate(() => stopping.abort());
  }
  for await (const _ of watchDirectory(dir.path, { signal: new AbortController().signal })) {
    count += 1;
    break;
  }
  t.equal(count, 2);
});

async function version(dir: TempDir, name: string, files: Record<string, string>): Promise<void> {
  await mkdir(dir.file(name));
  for (const [file, content] of Object.entries(files))
    await writeFile(dir.file(name, file), content);
}
