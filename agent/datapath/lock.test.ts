import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { test } from 'tap';
import { openTempDir } from '../../mesh/testing/temp-dir.ts';
import { lockFolder } from './lock.ts';

const LOCK = new URL('./lock.js', import.meta.url).href;

test('lockFolder() is one process’s at a time, and names it', async (t) => {
  await using dir = await openTempDir('lock');
  const script = `import { lockFolder } from ${JSON.stringify(LOCK)};
    lockFolder(process.argv[1]); console.log('locked'); setInterval(() => {}, 1000);`;
  const holder = spawn(process.execPath, ['--input-type=module', '-e', script, dir.path], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const ended = once(holder, 'exit');
  await once(holder.stdout, 'data');
  t.throws(() => lockFolder(dir.path), {
    code: 'already-running',
    message: new RegExp(
      `another agent runs here: process ${holder.pid} holds ${dir.path}: stop it`,
    ),
  });
  holder.kill('SIGKILL');
  await ended;
  const lock = lockFolder(dir.path);
  t.throws(() => lockFolder(dir.path), { code: 'already-running' }, 'also of the same process');
  lock[Symbol.dispose]();
  lock[Symbol.dispose]();
  lockFolder(dir.path)[Symbol.dispose]();
  t.throws(() => lockFolder(dir.file('nothing')), { code: 'ENOENT' });
});
