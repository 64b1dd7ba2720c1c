import { mkdir, readFile, rename, rm, symlink, writeFile } from 'node:fs/promises';
import { type Test, test } from 'tap';
import { systemClock } from '../runtime/clock.ts';
import { openTempDir } from '../testing/temp-dir.ts';
import { parseClusterName } from '../wire/ids.ts';
import { type PeerDirectory, watchPeerDirectory } from './directory.ts';
import type { PeerConnection } from './peer.ts';
import { until } from './testing/until.ts';

interface Watched {
  readonly path: string;
  readonly file: (name: string) => string;
  /** The newest view, undefined before the first. */
  readonly latest: () => PeerDirectory | undefined;
  readonly count: () => number;
  readonly complaints: readonly string[];
}

/** Watches a directory, which exists unless said otherwise. A file is good when it has `good` in it. */
async function watchTemp(t: Test, options: { missing?: boolean } = {}): Promise<Watched> {
  const dir = await openTempDir('peers');
  const path = dir.file('peers');
  if (options.missing !== true) await mkdir(path);
  const stopping = new AbortController();
  const views: PeerDirectory[] = [];
  const complaints: string[] = [];
  const readConnection = async (file: string): Promise<PeerConnection> => {
    const text = await readFile(file, 'utf8');
    if (!text.includes('good')) throw new Error(`${file}: field endpoints is wrong`);
    return {
      fingerprint: text,
      endpoints: [],
      open: () => Promise.reject(new Error('not opened in this test')),
    };
  };
  const watching = (async () => {
    for await (const view of watchPeerDirectory(path, {
      ownName: parseClusterName('alpha'),
      readConnection,
      onUnreadable: (problem) => complaints.push(problem),
      signal: stopping.signal,
      clock: systemClock,
      rescanMs: 30,
    })) {
      views.push(view);
    }
  })();
  t.teardown(async () => {
    stopping.abort();
    await watching;
    await dir[Symbol.asyncDispose]();
  });
  return {
    path,
    file: (name) => `${path}/${name}`,
    latest: () => views.at(-1),
    count: () => views.length,
    complaints,
  };
}

const beta = parseClusterName('beta');
const GOOD = 'endpoints:\n- good\n';

test('an empty directory is a view without peers', async (t) => {
  const { latest } = await watchTemp(t);
  await until('there is a view', () => latest() !== undefined);
  t.same(latest(), { peers: new Map(), notes: [] });
});

test('files appear, change and go', async (t) => {
  const { file, latest, count } = await watchTemp(t);
  await writeFile(file('beta'), GOOD);
  await until('it is there', () => latest()?.peers.get(beta)?.connection !== undefined);
  t.equal(latest()?.peers.get(beta)?.problem, undefined);
  await writeFile(file('beta'), `${GOOD}- more\n`);
  await until(
    'it changed',
    () => latest()?.peers.get(beta)?.connection?.fingerprint.includes('more') === true,
  );
  const views = count();
  await rename(file('beta'), file('beta.new'));
  await rename(file('beta.new'), file('beta'));
  await systemClock.sleep(120);
  t.ok(count() - views <= 2, 'the same content is no change of its own');
  await rm(file('beta'));
  await until('it is gone', () => latest()?.peers.size === 0);
});

test('a mounted volume is swapped as Kubernetes does', async (t) => {
  const { path, file, latest } = await watchTemp(t);
  for (const version of ['1', '2']) {
    await mkdir(file(`..v${version}`));
    await writeFile(`${path}/..v${version}/beta`, `${GOOD}# ${version}\n`);
  }
  await symlink('..v1', file('..data'));
  await symlink('..data/beta', file('beta'));
  await until(
    'the first is read',
    () => latest()?.peers.get(beta)?.connection?.fingerprint.includes('# 1') === true,
  );
  await symlink('..v2', file('..data_tmp'));
  await rename(file('..data_tmp'), file('..data'));
  await until(
    'the second is read',
    () => latest()?.peers.get(beta)?.connection?.fingerprint.includes('# 2') === true,
  );
});

test('the own name, certificates and other files are no peers', async (t) => {
  const { file, latest } = await watchTemp(t);
  await writeFile(file('alpha'), GOOD);
  await writeFile(file('common-etcd-client-ca.crt'), '-----BEGIN CERTIFICATE-----\n');
  await writeFile(file('README.md'), 'nothing');
  await writeFile(file('Beta.yaml'), GOOD);
  await writeFile(file('gamma'), 'something else');
  await writeFile(file('.hidden'), GOOD);
  await until('all are seen', () => latest()?.notes.length === 3);
  t.equal(latest()?.peers.size, 0);
  t.same([...(latest()?.notes ?? [])].sort(), [
    "file Beta.yaml is ignored: a peer's file must bear the name of its cluster",
    'file alpha is ignored: it is named like this cluster, which is not its own peer',
    'file gamma is ignored: it has no "endpoints:"',
  ]);
});

test('a broken new file is a peer with a problem; a broken old one keeps its connection', async (t) => {
  const { file, latest } = await watchTemp(t);
  await writeFile(file('beta'), 'endpoints: [');
  await until('it is seen', () => latest()?.peers.get(beta)?.problem !== undefined);
  t.equal(latest()?.peers.get(beta)?.connection, undefined);
  t.match(latest()?.peers.get(beta)?.problem, /peers\/beta: field endpoints is wrong$/);
  await writeFile(file('beta'), GOOD);
  await until('it is mended', () => latest()?.peers.get(beta)?.problem === undefined);
  for (const content of ['', 'endpoi', 'endpoints:\n- ']) {
    await writeFile(file('beta'), content);
    await until('it is broken', () => latest()?.peers.get(beta)?.problem !== undefined);
    t.equal(latest()?.peers.get(beta)?.connection?.fingerprint, GOOD);
    t.match(latest()?.peers.get(beta)?.problem, /its last good content stays in use/);
    await writeFile(file('beta'), GOOD);
    await until('it is mended', () => latest()?.peers.get(beta)?.problem === undefined);
  }
});

test('a directory that cannot be read is told, and says nothing about peers', async (t) => {
  const { path, file, latest, complaints } = await watchTemp(t, { missing: true });
  await until('it is told', () => complaints.length > 0);
  t.match(complaints[0], /cannot read the directory of peers .*ENOENT/);
  t.equal(latest(), undefined);
  await mkdir(path);
  await writeFile(file('beta'), GOOD);
  await until('it is read', () => latest()?.peers.size === 1);
});
