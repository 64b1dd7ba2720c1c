import { spawn } from 'node:child_process';
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { test } from 'tap';
import { systemClock } from '../../mesh/runtime/clock.ts';
import { createLogger } from '../../mesh/runtime/log.ts';
import { createManualClock } from '../../mesh/testing/manual-clock.ts';
import { openTempDir } from '../../mesh/testing/temp-dir.ts';
import { claimManifests } from './manifests-claim.ts';
import { nameProcess } from './owner-file.ts';

const FILE = '.isthmus-alpha.owner';
const logger = createLogger('test', { level: 'silent' });
const common = {
  clusterName: 'alpha',
  clock: systemClock,
  logger,
  signal: new AbortController().signal,
};

test('a second apiserver with an etcd of its own is refused with the reason', async (t) => {
  await using dir = await openTempDir('claim');
  const first = await claimManifests(dir.path, { ...common, dataDir: '/data/1' });
  await t.rejects(claimManifests(dir.path, { ...common, dataDir: '/data/2' }), {
    name: 'EtcdError',
    code: 'second-replica',
    retryable: false,
    message:
      /another apiserver of cluster alpha with an etcd of its own does \(host .*, process \d+, data directory \/data\/1\); replicas share one etcd: give all of them the same --etcd-endpoints/,
  });
  await using _other = await claimManifests(dir.path, {
    ...common,
    clusterName: 'beta',
    dataDir: '/data/2',
  });
  await first[Symbol.asyncDispose]();
  const second = await claimManifests(dir.path, { ...common, dataDir: '/data/2' });
  await second[Symbol.asyncDispose]();
  t.same(
    (await readdir(dir.path)).filter((name) => name.includes('alpha')),
    [],
    'nothing is left',
  );
});

test('the claim of a process that has died is taken at once', async (t) => {
  await using dir = await openTempDir('claim');
  const child = spawn('sleep', ['60']);
  const name = await nameProcess(child.pid ?? 0);
  await using _claim = await claimManifests(dir.path, { ...common, dataDir: '/data/1' });
  const claim = JSON.parse(await readFile(dir.file(FILE), 'utf8'));
  await writeFile(dir.file(FILE), JSON.stringify({ ...claim, ...name }));
  await t.rejects(claimManifests(dir.path, { ...common, dataDir: '/data/2' }), {
    message: new RegExp(`process ${child.pid},`),
  });
  const ended = new Promise((resolve) => child.once('exit', resolve));
  child.kill('SIGKILL');
  await ended;
  await using _second = await claimManifests(dir.path, { ...common, dataDir: '/data/2' });
  t.match(JSON.parse(await readFile(dir.file(FILE), 'utf8')), { dataDir: '/data/2' });
});

test('the owner on another host is known by its rewriting the claim', async (t) => {
  await using dir = await openTempDir('claim');
  const foreign = {
    schema: 1,
    host: 'elsewhere',
    scope: 'another boot',
    pid: 1,
    startTicks: '1',
    dataDir: '/data/9',
    beat: 7,
  };
  const put = (beat: number) => writeFile(dir.file(FILE), JSON.stringify({ ...foreign, beat }));
  await put(7);
  const clock = createManualClock();
  /** Lets time pass, and files be read and written meanwhile. */
  const pass = async (milliseconds: number): Promise<void> => {
    for (let passed = 0; passed < milliseconds; passed += 250) {
      await clock.advance(250);
      await systemClock.sleep(10);
    }
  };
  await systemClock.sleep(10);
  const refused = claimManifests(dir.path, { ...common, clock, dataDir: '/data/2' });
  refused.catch(() => undefined);
  await pass(2_000);
  await put(8);
  await pass(1_000);
  await t.rejects(refused, { code: 'second-replica', message: /host elsewhere/ });

  const taken = claimManifests(dir.path, { ...common, clock, dataDir: '/data/2' });
  await pass(12_000);
  const claim = await taken;
  t.match(JSON.parse(await readFile(dir.file(FILE), 'utf8')), { dataDir: '/data/2' });
  await put(9);
  await pass(4_000);
  await t.rejects(claim.ended, { code: 'second-replica' }, 'whoever lost it notices');
  await claim[Symbol.asyncDispose]();
  t.match(JSON.parse(await readFile(dir.file(FILE), 'utf8')), { host: 'elsewhere' });
});

test('what is no claim is replaced, a folder that cannot be written to is not claimed', async (t) => {
  await using dir = await openTempDir('claim');
  await writeFile(dir.file(FILE), 'nonsense');
  await using _claim = await claimManifests(dir.path, { ...common, dataDir: '/data/1' });
  t.match(JSON.parse(await readFile(dir.file(FILE), 'utf8')), { dataDir: '/data/1', beat: 1 });

  // Even root cannot write below a file.
  const claim = await claimManifests(dir.file(FILE), { ...common, dataDir: '/data/1' });
  await claim.ended;
  await claim[Symbol.asyncDispose]();
});
