import { chmod, mkdir, writeFile } from 'node:fs/promises';
import { type Test, test } from 'tap';
import { createManualClock } from '../../mesh/testing/manual-clock.ts';
import { openTempDir, type TempDir } from '../../mesh/testing/temp-dir.ts';
import { createTestAuthority } from '../../mesh/testing/test-certificates.ts';
import { openCredentials } from './credentials.ts';

const SERVER = 'https://192.0.2.1:6443';

async function inDir(t: Test): Promise<TempDir> {
  const dir = await openTempDir('credentials');
  t.teardown(() => dir[Symbol.asyncDispose]());
  return dir;
}

/** Writes a kubeconfig with users of these fields; the first one is current. */
async function writeConfig(
  dir: TempDir,
  users: Readonly<Record<string, Readonly<Record<string, unknown>>>>,
  server = SERVER,
): Promise<string> {
  const path = dir.file('config');
  const names = Object.keys(users);
  await writeFile(
    path,
    JSON.stringify({
      'current-context': names[0],
      clusters: [{ name: 'c', cluster: { server } }],
      contexts: names.map((name) => ({
        name,
        context: { cluster: 'c', user: name, namespace: `of-${name}` },
      })),
      users: names.map((name) => ({ name, user: users[name] })),
    }),
  );
  return path;
}

test('a token stands in the file, or in a file that is read again (promise 18)', async (t) => {
  const dir = await inDir(t);
  const clock = createManualClock();
  await writeFile(dir.file('token'), 'first\n');
  const kubeconfig = await writeConfig(dir, { a: { tokenFile: 'token' }, b: { token: 'fixed' } });
  using credentials = await openCredentials({ kubeconfig, clock });
  const header = async () => (await credentials.current()).headers.authorization;
  t.equal(await header(), 'Bearer first');
  t.equal(credentials.namespace, 'of-a');
  t.equal(credentials.server, SERVER);
  await writeFile(dir.file('token'), 'second');
  t.equal(await header(), 'Bearer first', 'it is not read for each request');
  await clock.advance(10_000);
  t.equal(await header(), 'Bearer second');
  await writeFile(dir.file('token'), 'third');
  credentials.distrust();
  t.equal(await header(), 'Bearer third', 'at once when the server did not believe it');
  using other = await openCredentials({ kubeconfig, context: 'b', clock });
  t.equal((await other.current()).headers.authorization, 'Bearer fixed');
  t.equal(other.namespace, 'of-b');
});

test('a kubeconfig that changes is read again', async (t) => {
  const dir = await inDir(t);
  const clock = createManualClock();
  const kubeconfig = await writeConfig(dir, { a: { token: 'x' } });
  using credentials = await openCredentials({ kubeconfig, clock });
  const { agent } = await credentials.current();
  await clock.advance(10_000);
  t.equal(
    (await credentials.current()).agent,
    agent,
    'connections are kept as long as they can be',
  );
  await writeConfig(dir, { a: { username: 'jane', password: 'secret' } }, 'https://192.0.2.2:6443');
  await clock.advance(10_000);
  const now = await credentials.current();
  t.equal(now.server, 'https://192.0.2.2:6443');
  t.equal(now.headers.authorization, `Basic ${Buffer.from('jane:secret').toString('base64')}`);
  t.not(now.agent, agent);
});

test('a client certificate that is replaced is used by new connections', async (t) => {
  const dir = await inDir(t);
  const clock = createManualClock();
  const authority = await createTestAuthority(dir);
  const copy = async (name: string): Promise<void> => {
    const { certFile, keyFile } = await authority.issue(name);
    const { copyFile } = await import('node:fs/promises');
    await copyFile(certFile, dir.file('client.crt'));
    await copyFile(keyFile, dir.file('client.key'));
  };
  await copy('one');
  const kubeconfig = await writeConfig(dir, {
    a: { 'client-certificate': 'client.crt', 'client-key': 'client.key' },
  });
  using credentials = await openCredentials({ kubeconfig, clock });
  const { agent } = await credentials.current();
  await copy('two');
  await clock.advance(10_000);
  t.not((await credentials.current()).agent, agent);
});

test('a credential plugin is run, and not for each request', async (t) => {
  const dir = await inDir(t);
  const clock = createManualClock();
  await mkdir(dir.file('bin'));
  const plugin = dir.file('bin', 'plugin');
  await writeFile(
    plugin,
    `#!/bin/sh
echo run >> ${dir.file('runs')}
echo '{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"token":"of-plugin"}}'
`,
  );
  await chmod(plugin, 0o755);
  const exec = { apiVersion: 'client.authentication.k8s.io/v1', command: plugin };
  const kubeconfig = await writeConfig(dir, { a: { exec } });
  using credentials = await openCredentials({ kubeconfig, clock });
  for (let i = 0; i < 5; i += 1) {
    t.equal((await credentials.current()).headers.authorization, 'Bearer of-plugin');
  }
  const { readFile } = await import('node:fs/promises');
  t.equal(await readFile(dir.file('runs'), 'utf8'), 'run\n');
  await writeFile(plugin, '#!/bin/sh\necho "log in first" >&2\nexit 1\n');
  credentials.distrust();
  await t.rejects(credentials.current(), { code: 'configuration', message: /log in first/ });
});

test('what cannot be used is named, and what to do', async (t) => {
  const dir = await inDir(t);
  const clock = createManualClock();
  const kubeconfig = await writeConfig(dir, { a: { token: 'x' } });
  await writeFile(dir.file('junk'), 'clusters: [{');
  await writeFile(dir.file('empty'), '{}');
  const missing = await writeConfig(
    { ...dir, file: (name) => dir.file(`m-${name}`) },
    {
      a: { tokenFile: 'no-such' },
    },
  );
  const cases: readonly [Parameters<typeof openCredentials>[0], RegExp][] = [
    [{ kubeconfig: dir.file('none'), clock }, /cannot read .*none \(--kubeconfig\)/],
    [{ kubeconfig: dir.file('junk'), clock }, /junk \(--kubeconfig\) is no kubeconfig/],
    [
      { kubeconfig: dir.file('empty'), clock },
      /no usable context .*--kubernetes-context: it has none/,
    ],
    [
      { kubeconfig, context: 'z', clock },
      /no usable context "z"; choose one with --kubernetes-context: a/,
    ],
    [{ kubeconfig: missing, clock }, /cannot get credentials for https:.*no-such/],
    [{ clock }, /no pod of a Kubernetes cluster.*give --kubeconfig/],
  ];
  for (const [options, message] of cases) {
    await t.rejects(openCredentials(options), {
      name: 'KubernetesError',
      code: 'configuration',
      message,
    });
  }
});
