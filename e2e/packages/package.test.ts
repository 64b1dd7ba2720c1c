/** What `scripts/package.sh` makes: it runs where nothing of a checkout is, and goes without a trace. */
import { access, mkdir, readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { isBuiltin } from 'node:module';
import { dirname, join, posix } from 'node:path';
import { type Test, test } from 'tap';
import { projectPath } from '../../mesh/runtime/project-path.ts';
import { openTempDir, type TempDir } from '../../mesh/testing/temp-dir.ts';
import { execute, run } from '../lab/command.ts';
import { labSkipReason } from '../lab/preflight.ts';
import { openSettledLab, waitUntilMachineSettled } from '../lab/settled-lab.ts';
import { parseTopology } from '../lab/topology.ts';
import { urlOf } from '../scenarios/mesh.ts';
import { NAMESPACE, PORT, vmTopology } from '../scenarios/vm-lab.ts';
import { addBasics, openScratchRoot, type ScratchRoot } from './scratch-root.ts';

const skip = labSkipReason(process.env);
const MINUTES_MS = 600_000;
/** A day in 2023: no file has such a time by itself. */
const BUILT_AT = '1700000000';
/** Unpacking it takes its time. */
const INSTALLS =
  process.env.ISTHMUS_LONG === 'true' ? ['installed', 'installed over itself'] : ['installed'];
const COMMANDS = ['clustermesh', 'clustermesh-agent', 'clustermesh-apiserver', 'clustermesh-cni'];
/** What the package says it needs; dpkg compares it with this. */
const DEPENDENCIES = ['libc6', 'libstdc++6', 'libgcc-s1', 'iproute2', 'iputils-ping'];

async function openPackages(t: Test): Promise<{ dir: TempDir; tarball: string; deb: string }> {
  const dir = await openTempDir('packages');
  t.teardown(() => dir[Symbol.asyncDispose]());
  await run([projectPath('scripts/package.sh'), dir.path], {
    timeoutMs: MINUTES_MS,
    env: { SOURCE_DATE_EPOCH: BUILT_AT, COMPRESSION_LEVEL: '1' },
  });
  const [tarball = '', deb = ''] = (await readdir(dir.path)).sort();
  return { dir, tarball: dir.file(tarball), deb: dir.file(deb) };
}

async function openRoot(t: Test): Promise<ScratchRoot> {
  const root = await openScratchRoot();
  t.teardown(() => root[Symbol.asyncDispose]());
  await addBasics(root);
  return root;
}

async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}

/** Modules that a compiled file loads, as it names them; a file by its path also where another thread or process runs it. */
function modulesOf(text: string): { files: string[]; packages: string[] } {
  const named = [...text.matchAll(/(?:from |import\(|^import )'([^']+)'/gm)].map(
    ([, name]) => name ?? '',
  );
  const started = [...text.matchAll(/new URL\('([^']+\.js)', import\.meta\.url\)/g)].map(
    ([, name]) => name ?? '',
  );
  const isFile = (name: string): boolean => name.startsWith('.');
  return {
    files: [...named.filter(isFile), ...started],
    packages: named.filter((name) => !isFile(name) && !isBuiltin(name)),
  };
}

test('the packages', { skip, timeout: MINUTES_MS }, async (t) => {
  const { dir, tarball, deb } = await openPackages(t);
  const root = await openRoot(t);
  await mkdir(root.file('opt'));
  await run(['tar', '-C', root.file('opt'), '-xf', tarball]);
  const program = root.file('opt/isthmus');

  await t.test('hold every module that a program of them loads, and no test', async (t) => {
    const files = (await readdir(join(program, 'dist'), { recursive: true })).filter((file) =>
      file.endsWith('.js'),
    );
    t.ok(files.length > 300, `${files.length} compiled files`);
    t.same(
      files.filter((file) => /\.test\.js$|(^|\/)(testing|testdata|e2e|bench|scripts)\//.test(file)),
      [],
    );
    const missing = new Set<string>();
    for (const file of files) {
      const loaded = modulesOf(await readFile(join(program, 'dist', file), 'utf8'));
      for (const name of loaded.files) {
        const target = posix.join(dirname(file), name);
        // Labs are for checkouts: `requireLabs` stands before each of these.
        if (target.startsWith('e2e/lab/')) continue;
        if (!(await exists(join(program, 'dist', target)))) missing.add(`${file} loads ${target}`);
      }
      for (const name of loaded.packages) {
        const [scope = '', rest = ''] = name.split('/');
        const folder = name.startsWith('@') ? `${scope}/${rest}` : scope;
        if (!(await exists(join(program, 'node_modules', folder))))
          missing.add(`${file} loads ${name}`);
      }
    }
    t.same([...missing], []);
    const programs = await readdir(join(program, 'dist/bpf'));
    const built = (await readdir(projectPath('dist/bpf'))).filter((name) =>
      name.endsWith('.bpf.o'),
    );
    t.same(programs.sort(), built.sort(), 'all eBPF programs');
  });

  await t.test('list what they are made of', async (t) => {
    const bill = JSON.parse(await readFile(join(program, 'sbom.cdx.json'), 'utf8'));
    t.equal(bill.bomFormat, 'CycloneDX');
    t.equal(bill.metadata.timestamp, '2023-11-14T22:13:20.000Z');
    const listed = new Set<string>(bill.components.map(({ purl }: { purl: string }) => purl));
    const modules = (await readdir(join(program, 'node_modules'), { recursive: true })).filter(
      (path) =>
        /(^|\/node_modules\/)(@[^/]+\/)?[^/@]+\/package\.json$/.test(path) &&
        !/^\.|\/\./.test(path),
    );
    t.ok(modules.length > 100, `${modules.length} npm packages`);
    for (const path of modules) {
      const { name, version } = JSON.parse(
        await readFile(join(program, 'node_modules', path), 'utf8'),
      );
      if (!listed.has(`pkg:npm/${name.replace('@', '%40')}@${version}`))
        t.fail(`${name} ${version} is not listed`);
    }
    const references = new Set(
      bill.components.map((component: Record<string, unknown>) => component['bom-ref']),
    );
    for (const { ref, dependsOn } of bill.dependencies) {
      for (const other of dependsOn)
        if (!references.has(other)) t.fail(`${ref} depends on ${other}, which is not listed`);
    }
    for (const name of ['node', 'libbpf1', 'libelf1', 'zlib1g', 'libc6-dev']) {
      t.ok(
        bill.components.some((component: { name: string }) => component.name === name),
        name,
      );
    }
    const lock = await run([
      'sh',
      '-c',
      'cd "$1" && npm --silent sbom --package-lock-only --omit=dev --sbom-format=cyclonedx',
      'sh',
      projectPath('.'),
    ]);
    const known: { components: { purl: string; scope: string }[] } = JSON.parse(lock);
    const left = known.components.filter(
      ({ purl, scope }) => !listed.has(purl) && scope !== 'optional',
    );
    t.same(
      left
        .map(({ purl }) => purl)
        .filter((purl) => !/^pkg:npm\/(%40types\/|undici-types@)/.test(purl)),
      [],
      'all that npm itself lists, but types and what is for other machines',
    );
  });

  await t.test('are the same when they are made again', async (t) => {
    const again = dir.file('again/isthmus');
    await mkdir(dir.file('again'));
    await run([projectPath('scripts/package-tree.sh'), again], {
      env: { SOURCE_DATE_EPOCH: BUILT_AT },
    });
    t.equal(
      (await execute(['diff', '--recursive', '--brief', program, again])).stdout,
      '',
      'same bytes',
    );
    const times = await run(['tar', '--utc', '-tvzf', tarball]);
    const lines = times.trim().split('\n');
    t.same(
      lines.filter((line) => !line.includes(' 2023-11-14 22:13 ') || !line.includes(' 0/0 ')),
      [],
      'nothing of this machine',
    );
    const names = lines.map((line) => line.split(' 22:13 ')[1]?.replace(/ -> .*|\/$/g, '') ?? '');
    t.same(names, [...names].sort(byFolders), 'in the same order everywhere');
  });

  await t.test('run where only the C and C++ libraries and a shell are', async (t) => {
    const inside = (argv: readonly string[]) => execute(root.inside(argv, { isAlone: true }));
    const help = await inside(['/opt/isthmus/bin/clustermesh', '--help']);
    t.equal(help.code, 0, help.stderr);
    t.match(help.stdout, 'vm');
    t.notMatch(help.stdout, /^ {2}lab /m, 'labs are for checkouts');
    const lab = await inside(['/opt/isthmus/bin/clustermesh', 'status', '--lab', 'lab']);
    t.equal(lab.code, 2);
    t.match(lab.stderr, 'installed package');
    const features = await inside(['/opt/isthmus/bin/clustermesh-agent', 'features']);
    t.equal(features.code, 0, features.stderr);
    t.match(
      features.stdout,
      /map LRU hash +Linux \S+ +needed +yes/,
      'libbpf is loaded from the package',
    );
    t.equal((await inside(['/opt/isthmus/bin/clustermesh-apiserver', '--help'])).code, 0);
    const plugin = await execute(root.inside(['/opt/isthmus/bin/clustermesh-cni']), {
      env: { CNI_COMMAND: 'VERSION' },
      input: '{"cniVersion":"1.0.0"}',
    });
    t.match(plugin.stdout, 'supportedVersions');
  });

  await t.test('make a machine a member of a cluster', { timeout: MINUTES_MS }, async (t) => {
    await root.addPrograms(['ip', 'tc', 'ping', 'setpriv']);
    const { clusters, pods = [], services } = vmTopology();
    const topology = parseTopology({
      clusters: clusters.slice(0, 1),
      pods: pods.filter(({ node }) => node === 'alpha-1'),
      machines: [
        {
          name: 'db',
          cluster: 'alpha',
          namespace: NAMESPACE,
          labels: { app: 'db' },
          joined: false,
        },
      ],
      services,
    });
    await using lab = await openSettledLab(topology);
    const machine = lab.machine('db');
    const { plan } = machine;
    // The lab says which program of the checkout to run, and with which of its eBPF programs.
    await writeFile(
      root.file('as-installed'),
      [
        'program=$1 && shift && shift',
        'for word in "$@"; do shift; case $word in --object-dir=*) ;; *) set -- "$@" "$word" ;; esac; done',
        'exec "/opt/isthmus/bin/$program" "$@"',
      ].join('\n'),
    );
    const front = (name: string): string[] =>
      root.inside(['/bin/sh', '/as-installed', name], {
        folders: [lab.plan.folder],
      });
    const joined = await machine.tryJoin(await machine.createToken(), {
      front: front('clustermesh'),
    });
    t.equal(joined.code, 0, joined.stderr);
    const command = joined.stdout.trim().split('\n').at(-1);
    t.match(
      command,
      /^\/opt\/isthmus\/runtime\/node \/opt\/isthmus\/dist\/agent\/main\.js run --machine /,
    );
    const agent = machine.takeAgent(front('clustermesh-agent'));
    await agent.start();
    await waitUntilMachineSettled(lab, 'db');
    const { version } = JSON.parse(await readFile(projectPath('package.json'), 'utf8'));
    t.equal((await agent.status()).version, version);
    const url = urlOf(lab.pod('web-alpha').ip(4), PORT);
    t.match(
      await machine.exec(['curl', '--silent', '--max-time', '5', url]),
      { code: 0 },
      'from the machine to a pod',
    );
    await agent.stop();
    const left = await machine.exec([
      ...front('clustermesh'),
      'main.js',
      'vm',
      'leave',
      '--state-dir',
      plan.stateDir,
    ]);
    t.equal(left.code, 0, left.stderr);
    t.match(left.stdout, 'left: this machine was db of cluster alpha');
    t.notOk(await exists(plan.stateDir));
  });

  await t.test('are installed and removed by dpkg', async (t) => {
    const system = await openRoot(t);
    await system.addPrograms(['rm']);
    for (const folder of ['info', 'updates', 'triggers']) {
      await mkdir(system.file(`var/lib/dpkg/${folder}`), { recursive: true });
    }
    const architecture = (await run(['dpkg', '--print-architecture'])).trim();
    const stanza = (name: string): string =>
      `Package: ${name}\nStatus: install ok installed\nMaintainer: x\nArchitecture: ${architecture}\nVersion: 99\nDescription: x\n`;
    await writeFile(system.file('var/lib/dpkg/status'), DEPENDENCIES.map(stanza).join('\n'));
    const dpkg = (args: readonly string[]) =>
      execute(
        [
          ...['unshare', '--mount', '--net', '--propagation=private', 'sh', '-c'],
          'mkdir -p "$1/proc" "$1/sys" && mount --rbind /proc "$1/proc" && mount --rbind /sys "$1/sys" && mount -t bpf bpf "$1/sys/fs/bpf" && root=$1 && shift && exec dpkg --force-unsafe-io --root="$root" "$@"',
          ...['sh', system.path, ...args],
        ],
        { timeoutMs: MINUTES_MS },
      );
    // libelf of Debian 12 wants 2.33, which is more than Node does.
    const needed = /libc6 \(>= 2\.(\d+)\)/.exec(await run(['dpkg-deb', '--field', deb, 'Depends']));
    t.ok(Number(needed?.[1]) >= 28, `${needed?.[0]}`);
    const before = await allFiles(system.path);
    for (const what of INSTALLS) {
      const installed = await dpkg(['--install', deb]);
      t.equal(installed.code, 0, `${what}: ${installed.stderr}`);
    }
    for (const name of COMMANDS) {
      t.ok((await stat(system.file(`usr/bin/${name}`))).isFile(), name);
    }
    const help = await execute(system.inside(['/usr/bin/clustermesh', '--help']));
    t.equal(help.code, 0, help.stderr);
    t.equal((await dpkg(['--verify', 'isthmus'])).stdout, '', 'its files are as its list says');

    // What a machine has that had joined; and a file of somebody else.
    await mkdir(system.file('var/lib/isthmus/endpoints'), { recursive: true });
    await writeFile(system.file('var/lib/isthmus/notes'), 'mine');
    await writeFile(system.file('etc/default/isthmus-agent'), 'ISTHMUS_LOG_LEVEL=debug\n');
    const removed = await dpkg(['--remove', 'isthmus']);
    t.equal(removed.code, 0, removed.stderr);
    t.same(difference(await allFiles(system.path), before), [
      'etc/default/isthmus-agent',
      'var/lib/isthmus/notes',
    ]);
    t.equal(
      await readFile(system.file('etc/default/isthmus-agent'), 'utf8'),
      'ISTHMUS_LOG_LEVEL=debug\n',
    );
    const purged = await dpkg(['--purge', 'isthmus']);
    t.equal(purged.code, 0, purged.stderr);
    t.same(difference(await allFiles(system.path), before), ['var/lib/isthmus/notes']);
  });
});

/** Names as bytes, folder by folder. */
function byFolders(a: string, b: string): number {
  const [one, other] = [a.split('/'), b.split('/')];
  const at = one.findIndex((part, index) => part !== other[index]);
  if (at < 0) return one.length - other.length;
  return Buffer.compare(Buffer.from(one[at] ?? ''), Buffer.from(other[at] ?? ''));
}

/** Files and links below a root, but those in which dpkg keeps its books. */
async function allFiles(root: string): Promise<string[]> {
  const found = await run(['find', root, '-xdev', '!', '-type', 'd', '-printf', '%P\\n']);
  return found
    .split('\n')
    .filter(
      (path) => path !== '' && !path.startsWith('var/lib/dpkg/') && path !== 'var/log/dpkg.log',
    );
}

function difference(after: readonly string[], before: readonly string[]): string[] {
  return after.filter((path) => !before.includes(path)).sort();
}
