import {
  chmodSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { dirname } from 'node:path';
import { type Test, test } from 'tap';
import { until } from '../../mesh/remote/testing/until.ts';
import { systemClock } from '../../mesh/runtime/clock.ts';
import { createLogger } from '../../mesh/runtime/log.ts';
import { createManualClock } from '../../mesh/testing/manual-clock.ts';
import { openTempDir } from '../../mesh/testing/temp-dir.ts';
import {
  type CniInstallOptions,
  createCniInstallation,
  installCni,
  uninstallCni,
} from './installation.ts';

const PTP = { type: 'ptp', ipMasq: true };
const LIST = { cniVersion: '1.0.0', name: 'net', plugins: [PTP] };

interface Node {
  readonly options: CniInstallOptions;
  readonly names: () => string[];
  readonly write: (name: string, value: unknown) => void;
  readonly types: (name: string) => string[];
}

/** Folders as of a node, with a program to be installed. */
async function openNode(t: Pick<Test, 'teardown'>): Promise<Node> {
  const dir = await openTempDir('install');
  t.teardown(() => dir[Symbol.asyncDispose]());
  const confDir = dir.file('net.d');
  mkdirSync(confDir);
  writeFileSync(dir.file('program'), 'first');
  return {
    options: {
      confDir,
      binDir: dir.file('opt', 'bin'),
      pluginFile: dir.file('program'),
      settings: { socketPath: '/run/a.sock', agentDown: 'wait', agentDownTimeoutMs: 1000 },
    },
    names: () => readdirSync(confDir).sort(),
    write: (name, value) => writeFileSync(`${confDir}/${name}`, JSON.stringify(value)),
    types: (name) => {
      const { plugins } = JSON.parse(readFileSync(`${confDir}/${name}`, 'utf8')) as {
        plugins: { type: string }[];
      };
      return plugins.map(({ type }) => type);
    },
  };
}

test('the first file of the runtime is chained behind, and nothing else is touched', async (t) => {
  const { options, names, write, types } = await openNode(t);
  write('10-net.conflist', LIST);
  write('20-other.conflist', LIST);
  write('05-readme.txt', 'none');
  chmodSync(`${options.confDir}/10-net.conflist`, 0o640);
  t.same(installCni(options), [
    `${options.binDir}/clustermesh-cni`,
    `${options.confDir}/10-net.conflist`,
  ]);
  t.same(types('10-net.conflist'), ['ptp', 'clustermesh-cni']);
  t.same(types('20-other.conflist'), ['ptp']);
  t.equal(statSync(`${options.confDir}/10-net.conflist`).mode & 0o777, 0o640);
  t.equal(statSync(`${options.binDir}/clustermesh-cni`).mode & 0o777, 0o755);
  t.same(names(), ['05-readme.txt', '10-net.conflist', '20-other.conflist'], 'no draft is left');
  t.same(installCni(options), [], 'a second time changes nothing');
  writeFileSync(options.pluginFile, 'second');
  t.same(
    installCni(options),
    [`${options.binDir}/clustermesh-cni`],
    'a new program is put in place',
  );
  t.same(uninstallCni(options), [
    `${options.confDir}/10-net.conflist`,
    `${options.binDir}/clustermesh-cni`,
  ]);
  t.same(types('10-net.conflist'), ['ptp']);
  t.same(readdirSync(options.binDir), []);
  t.same(uninstallCni(options), []);
});

test('a file with a single plugin is set aside for a list, and comes back', async (t) => {
  const { options, names, write, types } = await openNode(t);
  write('10-net.conf', { cniVersion: '0.4.0', name: 'net', ...PTP });
  installCni(options);
  t.same(names(), ['10-net.conf.before-isthmus', '10-net.conflist']);
  t.same(types('10-net.conflist'), ['ptp', 'clustermesh-cni']);
  t.same(installCni(options), []);
  write('10-net.conf', { cniVersion: '0.4.0', name: 'net', type: 'bridge' });
  installCni(options);
  t.same(names(), ['10-net.conf.before-isthmus', '10-net.conflist'], 'again when it is rewritten');
  t.same(types('10-net.conflist'), ['bridge', 'clustermesh-cni']);
  uninstallCni(options);
  t.same(names(), ['10-net.conf']);
  t.match(JSON.parse(readFileSync(`${options.confDir}/10-net.conf`, 'utf8')), { type: 'bridge' });
});

test('what cannot be installed is refused with what to do, and nothing is left half done', async (t) => {
  const { options, names, write } = await openNode(t);
  t.throws(() => installCni(options), { code: 'no-conf', message: /--cni-conf-dir/ });
  write('10-net.conflist', { ...LIST, cniVersion: '0.1.0' });
  t.throws(() => installCni(options), { code: 'bad-conf', message: /10-net\.conflist/ });
  t.throws(() => statSync(options.binDir), 'the program is not installed either');
  write('10-net.conflist', LIST);
  t.throws(() => installCni({ ...options, pluginFile: `${options.pluginFile}-none` }), {
    code: 'io',
    message: /cannot install clustermesh-cni in .*program-none/,
  });
  t.same(names(), ['10-net.conflist']);
  t.throws(() => installCni({ ...options, confDir: '/nowhere' }), { code: 'io' });
  t.same(uninstallCni({ ...options, confDir: '/nowhere' }), []);
});

test('an installation comes with the CNI and is repaired whenever somebody rewrites the file', async (t) => {
  const { options, write, types } = await openNode(t);
  const ending = new AbortController();
  const installation = createCniInstallation({
    ...options,
    clock: systemClock,
    logger: createLogger('test', { level: 'silent' }),
  });
  const ended = installation.run(ending.signal);
  await until('it is told', () => installation.problems().length === 1);
  t.match(installation.problems(), [/not in the CNI configuration.* no CNI configuration is in/]);
  write('10-net.conflist', LIST);
  const isChained = (): boolean => types('10-net.conflist').includes('clustermesh-cni');
  await until('it is installed', isChained);
  t.same(installation.problems(), []);
  // As a CNI does that writes a draft and renames it.
  write('.draft', { ...LIST, plugins: [{ type: 'bridge' }, { type: 'portmap' }] });
  renameSync(`${options.confDir}/.draft`, `${options.confDir}/10-net.conflist`);
  await until('it is repaired', isChained);
  t.same(types('10-net.conflist'), ['bridge', 'portmap', 'clustermesh-cni']);
  writeFileSync(`${options.confDir}/10-net.conflist`, '{"cut');
  await until('it is told', () => installation.problems().length === 1);
  t.match(installation.problems(), [/it is not JSON/]);
  rmSync(`${options.confDir}/10-net.conflist`);
  write('10-net.conflist', LIST);
  await until('it is repaired', isChained);
  ending.abort();
  await ended;
  t.ok(isChained(), 'it stays when the agent ends');
});

test('an installation is tried again when what was in its way is no file of CNI', async (t) => {
  const { options, write, types } = await openNode(t);
  write('10-net.conflist', LIST);
  const inTheWay = dirname(options.binDir);
  writeFileSync(inTheWay, '');
  const clock = createManualClock();
  const ending = new AbortController();
  const installation = createCniInstallation({
    ...options,
    clock,
    logger: createLogger('test', { level: 'silent' }),
  });
  const ended = installation.run(ending.signal);
  await until('it is told', () => installation.problems().length === 1);
  t.match(installation.problems(), [/ENOTDIR/]);
  rmSync(inTheWay);
  await until('it is installed', async () => {
    await clock.advance(1000);
    return types('10-net.conflist').includes('clustermesh-cni');
  });
  t.same(installation.problems(), []);
  ending.abort();
  await ended;
});
