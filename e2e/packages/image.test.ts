/** The image: what its Dockerfile says, and its steps and its apiserver run in a root file system without an engine. */
import { cp, lstat, mkdir, readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { test } from 'tap';
import { startChild } from '../../mesh/runtime/child-process.ts';
import { projectPath } from '../../mesh/runtime/project-path.ts';
import { findFreePort } from '../../mesh/testing/free-port.ts';
import { openTempDir } from '../../mesh/testing/temp-dir.ts';
import { untilReady } from '../../mesh/testing/until-ready.ts';
import { createCa, issueCertificate } from '../../pki/ca.ts';
import { writeSecret } from '../../pki/layout.ts';
import { serverLeaf } from '../../pki/names.ts';
import { execute, run } from '../lab/command.ts';
import { labSkipReason } from '../lab/preflight.ts';
import { argumentsOf, parseDockerfile } from './dockerfile.ts';
import { addBasics, openScratchRoot } from './scratch-root.ts';

const skip = labSkipReason(process.env);
const MINUTES_MS = 600_000;
const READY_MS = 120_000;
const USER = 65532;
const COMMANDS = [
  'clustermesh',
  'clustermesh-agent',
  'clustermesh-apiserver',
  'clustermesh-cni',
  'etcd',
];
const stages = parseDockerfile(await readFile(projectPath('Dockerfile'), 'utf8'));
const [build, image] = stages;

test('the Dockerfile', async (t) => {
  t.equal(stages.length, 2);
  for (const { image: base } of stages)
    t.match(base, /^[a-z]+:(\d+-)?bookworm-slim$/, `${base} is pinned to a release`);
  const manifest = JSON.parse(await readFile(projectPath('package.json'), 'utf8'));
  t.match(argumentsOf(image, 'LABEL')[0], `image.version="${manifest.version}"`);
  t.match(argumentsOf(image, 'LABEL')[0], `image.licenses="${manifest.license}"`);
  const [major] = process.versions.node.split('.');
  t.ok(build?.image.startsWith(`node:${major}-`), 'the Node that the tests run on');

  t.same(
    argumentsOf(image, 'USER'),
    [`${USER}:${USER}`],
    'a number, which Kubernetes can compare with 0',
  );
  t.same(
    argumentsOf(image, 'ADD').concat(argumentsOf(build, 'ADD')),
    [],
    'nothing comes from elsewhere',
  );
  t.same(
    argumentsOf(image, 'ENV').concat(argumentsOf(image, 'ARG')),
    [],
    'nothing is carried in the environment',
  );
  const commands: unknown = JSON.parse(argumentsOf(image, 'CMD')[0] ?? '');
  t.same(commands, ['clustermesh', '--help'], 'not through a shell');

  const ignored = (await readFile(projectPath('.dockerignore'), 'utf8')).split('\n');
  for (const needed of [
    'package.json',
    'package-lock.json',
    'LICENSE',
    'scripts',
    'bpf',
    'agent',
    'e2e',
  ]) {
    await stat(projectPath(needed));
    t.notOk(ignored.includes(needed), `${needed} is given to the build`);
  }
  for (const secret of ['.git', 'node_modules', 'dist'])
    t.ok(ignored.includes(secret), `${secret} is not`);
  const copied = argumentsOf(image, 'COPY').filter((text) => !text.startsWith('--from='));
  t.same(argumentsOf(build, 'COPY'), ['. .']);
  const ran = [...argumentsOf(build, 'RUN'), ...argumentsOf(image, 'RUN')].map(
    (text) => text.split(' ')[0] ?? '',
  );
  const scripts = [
    ...copied.flatMap((text) => text.split(' ').slice(0, -1)),
    ...ran.filter((name) => !name.startsWith('/')),
  ];
  t.equal(scripts.length, 4);
  for (const script of scripts) {
    t.equal((await stat(projectPath(script))).mode & 0o111, 0o111, `${script} can be run`);
    await run(['bash', '-n', projectPath(script)]);
  }
  const inImage = ran
    .filter((name) => name.startsWith('/'))
    .map((name) => name.replace('/tmp/', 'scripts/'));
  for (const name of inImage) t.ok(scripts.includes(name), `${name} is copied before it runs`);
  t.same(
    argumentsOf(image, 'COPY').filter((text) => text.startsWith('--from=')),
    [`--from=${build?.name} /out/isthmus /opt/isthmus`],
  );
  t.match(argumentsOf(build, 'RUN').at(-1), '/out/isthmus');
});

test('the steps, and the apiserver in what they make', { skip, timeout: MINUTES_MS }, async (t) => {
  const root = await openScratchRoot();
  t.teardown(() => root[Symbol.asyncDispose]());
  await addBasics(root);
  // What image-packages.sh installs, and the tools of every Debian that image-finish.sh calls.
  await root.addPrograms([
    'etcd',
    'ip',
    'ping',
    'ln',
    'mkdir',
    'chown',
    'chmod',
    'grep',
    'sed',
    'sort',
    'printf',
    'dpkg-query',
    'setpriv',
  ]);
  await writeFile(root.file('etc/passwd'), 'root:x:0:0:root:/root:/bin/sh\n');
  await writeFile(root.file('etc/group'), 'root:x:0:\n');
  await run([projectPath('scripts/package-tree.sh'), root.file('opt/isthmus')], {
    timeoutMs: MINUTES_MS,
    env: { SOURCE_DATE_EPOCH: '0' },
  });
  await cp(projectPath('scripts/image-finish.sh'), root.file('tmp/image-finish.sh'));
  const finished = await execute(
    root.inside(['/tmp/image-finish.sh'], { folders: ['/var/lib/dpkg'] }),
    {
      timeoutMs: MINUTES_MS,
    },
  );
  t.equal(finished.code, 0, finished.stderr);
  for (const name of COMMANDS) t.ok(await lstat(root.file(`usr/bin/${name}`)), `/usr/bin/${name}`);
  const bill = JSON.parse(await readFile(root.file('opt/isthmus/sbom-system.cdx.json'), 'utf8'));
  t.match(
    bill.components.find(({ name }: { name: string }) => name === 'etcd-server'),
    {
      purl: /^pkg:deb\/debian\/etcd-server@[\w.~%-]+\?arch=\w+$/,
    },
  );
  t.match(await readFile(root.file('etc/passwd'), 'utf8'), /^isthmus:x:65532:65532:/m);

  await t.test(
    'it runs as nobody, on a root that is read-only, and keeps its data in the volume',
    async (t) => {
      const dir = await openTempDir('image');
      t.teardown(() => dir[Symbol.asyncDispose]());
      const ca = await createCa({ commonName: 'CA of alpha' });
      const secret = await writeSecret(dir.path, 'tls', {
        ca: ca.root,
        pair: await issueCertificate(ca, serverLeaf('alpha')),
      });
      for (const folder of ['data', 'manifests']) await mkdir(dir.file(folder));
      // As an engine gives volumes and secrets to the pod's user.
      await run(['chown', '--recursive', `${USER}:${USER}`, dir.path]);
      const [gate, registry, health] = [
        await findFreePort(),
        await findFreePort(),
        await findFreePort(),
      ];
      const argv = [
        // Whatever becomes of the test.
        ...['setpriv', '--pdeathsig=KILL', '--', 'clustermesh-apiserver'],
        '--cluster-name=alpha',
        '--cluster-id=1',
        `--tls-cert-file=${secret.certificate}`,
        `--tls-key-file=${secret.privateKey}`,
        `--trusted-ca-file=${secret.ca}`,
        `--manifests=${dir.file('manifests')}`,
        `--data-dir=${dir.file('data')}`,
        `--etcd-port=${await findFreePort()}`,
        `--gate-address=127.0.0.1:${gate}`,
        `--registry-address=127.0.0.1:${registry}`,
        `--health-address=127.0.0.1:${health}`,
      ];
      const options = { folders: [dir.path], isReadOnly: true, userId: USER };
      const probe = await execute(root.inside(['/bin/sh', '-c', 'echo x >/etc/x'], options));
      t.match(probe.stderr, /Read-only file system|Permission denied/);
      const asRoot = await execute(
        root.inside(['/bin/sh', '-c', 'echo x >/etc/x'], { isReadOnly: true }),
      );
      t.match(asRoot.stderr, 'Read-only file system', 'not even root can write');

      const ending = new AbortController();
      const [program = '', ...args] = root.inside(argv, options);
      await using child = startChild(program, args, {
        signal: ending.signal,
        name: 'apiserver',
        onLine: () => undefined,
      });
      const isReady = async (): Promise<void> => {
        const { status, statusText } = await fetch(`http://127.0.0.1:${health}/readyz`);
        if (status !== 200) throw new Error(statusText);
      };
      await untilReady(child, isReady, { what: 'the apiserver', timeoutMs: READY_MS });
      const status = await readFile(`/proc/${child.pid}/status`, 'utf8');
      t.match(status, new RegExp(`^Uid:\\s+${USER}\\s+${USER}\\s`, 'm'));
      t.match(status, /^CapEff:\s+0+$/m, 'without any capability');
      t.ok((await readdir(dir.file('data'))).length > 0, 'its etcd is in the volume');
    },
  );
});
