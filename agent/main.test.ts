import { spawnSync } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { test } from 'tap';
import { openTempDir } from '../mesh/testing/temp-dir.ts';

const MAIN = fileURLToPath(new URL('./main.js', import.meta.url));
const GOOD = [
  '--cluster-name=alpha',
  '--cluster-id=1',
  '--node-name=n1',
  '--node-ip=192.0.2.1',
  '--etcd-config=/nowhere',
];

function run(args: readonly string[], env: Record<string, string> = {}) {
  const { status, stdout, stderr } = spawnSync(process.execPath, [MAIN, ...args], {
    encoding: 'utf8',
    env: { PATH: process.env.PATH ?? '', ...env },
    timeout: 30_000,
  });
  return { status, stdout, stderr };
}

const usage: readonly [name: string, args: readonly string[], message: RegExp][] = [
  [
    'no options',
    [],
    /--cluster-name is required: give it, or set ISTHMUS_CLUSTER_NAME; --cluster-id is required/,
  ],
  [
    'a wrong cluster name',
    [...GOOD, '--cluster-name=Alpha'],
    /--cluster-name: cannot parse cluster name "Alpha"/,
  ],
  [
    'an id beyond the mesh',
    [...GOOD, '--cluster-id=300'],
    /--cluster-id: 300 is above --max-connected-clusters=255/,
  ],
  ['a wrong mesh size', [...GOOD, '--max-connected-clusters=256'], /expected 255 or 511/],
  ['a wrong node address', [...GOOD, '--node-ip=192.0.2'], /--node-ip: cannot parse "192.0.2"/],
  [
    'two addresses of a family',
    [...GOOD, '--node-ip=192.0.2.2'],
    /expected at most one address of each family/,
  ],
  ['a port that is none', [...GOOD, '--tunnel-port=0'], /--tunnel-port: .* from 1 to 65535/],
  [
    'Services left to kube-proxy, and kube-proxy replaced',
    [...GOOD, '--services=global', '--kube-proxy-replacement=true'],
    /--services global leaves Services to kube-proxy, .*: give one of them/,
  ],
  [
    'a Maglev table of no known size',
    [...GOOD, '--bpf-lb-maglev-table-size=1000'],
    /--bpf-lb-maglev-table-size: cannot parse "1000": expected one of 251, .*, 16381, /,
  ],
  [
    'an unknown option',
    [...GOOD, '--frob'],
    /unknown option '--frob', see clustermesh-agent --help/,
  ],
  [
    'an unknown command',
    ['frob'],
    /unknown command frob: expected run, status, monitor, trace-level, .* or cni/,
  ],
  ['an unknown format', ['status', '-o', 'xml'], /expected one of table, json/],
];

for (const [name, args, message] of usage) {
  test(`clustermesh-agent with ${name}: one line, exit code 2`, async (t) => {
    const { status, stdout, stderr } = run(args);
    t.equal(status, 2);
    t.match(stderr, message);
    t.match(stderr, /^clustermesh-agent: [^\n]*\n$/);
    t.equal(stdout, '');
  });
}

test('clustermesh-agent --help lists every option and exits with 0', async (t) => {
  const { status, stdout } = run(['--help']);
  t.equal(status, 0);
  for (const flag of [
    '--etcd-config',
    '--clustermesh-config',
    '--bpf-root',
    '--policy-default-local-cluster',
    '--kube-proxy-replacement',
    '--bpf-lb-algorithm',
  ]) {
    t.match(stdout, flag);
  }
});

test('clustermesh-agent status without an agent exits with 3', async (t) => {
  await using dir = await openTempDir('main');
  const { status, stderr } = run(['status', '--socket-path', dir.file('agent.sock')]);
  t.equal(status, 3);
  t.match(
    stderr,
    /cannot reach the agent on .*agent\.sock: .*: is clustermesh-agent running on this node/,
  );
});

test('clustermesh-agent drain without an agent exits with 3, without a name with 2', async (t) => {
  await using dir = await openTempDir('main');
  const socket = ['--socket-path', dir.file('agent.sock')];
  for (const action of ['drain', 'undrain']) {
    const silent = run([action, 'beta', ...socket]);
    t.equal(silent.status, 3);
    t.match(silent.stderr, /cannot reach the agent on/);
    const nameless = run([action, ...socket]);
    t.equal(nameless.status, 2);
    t.match(nameless.stderr, /drain needs the name of a peer/);
    t.equal(run([action, '--help']).status, 0);
  }
});

test('a machine that cannot run the datapath is told what is missing, exit code 1', async (t) => {
  await using dir = await openTempDir('main');
  const { status, stderr } = run([
    ...GOOD,
    `--bpf-root=${dir.path}`,
    `--cgroup-root=${dir.path}`,
    `--object-dir=${dir.path}`,
    `--state-dir=${dir.file('state')}`,
    `--socket-path=${dir.file('agent.sock')}`,
  ]);
  t.equal(status, 1);
  t.match(
    stderr,
    process.geteuid?.() === 0 ? /is not in a bpf file system: run "mkdir -p/ : /run as root/,
  );
  t.notMatch(stderr, / at .*\.js:/, 'no stack for what a user can mend');
});

test('a state directory that cannot be made is one line, exit code 1', async (t) => {
  await using dir = await openTempDir('main');
  writeFileSync(dir.file('file'), '');
  const { status, stderr } = run([...GOOD, `--state-dir=${dir.file('file', 'state')}`]);
  t.equal(status, 1);
  t.match(
    stderr,
    /^clustermesh-agent: cannot make .*: give --state-dir a folder that the agent may write\n$/,
  );
});

test('options come from the environment, too', async (t) => {
  const { status, stderr } = run(GOOD, { ISTHMUS_TUNNEL_PORT: 'x' });
  t.equal(status, 2);
  t.match(stderr, /ISTHMUS_TUNNEL_PORT \(environment\)/);
});

test('cni install and uninstall change files, say which, and are harmless to repeat', async (t) => {
  await using dir = await openTempDir('cni');
  mkdirSync(dir.file('net.d'));
  const file = dir.file('net.d', '10-net.conflist');
  writeFileSync(file, '{"cniVersion":"1.0.0","name":"net","plugins":[{"type":"ptp"}]}');
  const folders = [`--cni-conf-dir=${dir.file('net.d')}`, `--cni-bin-dir=${dir.file('bin')}`];
  const socket = `--socket-path=${dir.file('agent.sock')}`;
  const install = () => run(['cni', 'install', ...folders, socket, '--cni-when-agent-down=open']);
  const program = dir.file('bin', 'clustermesh-cni');
  t.same(install(), {
    status: 0,
    stdout: `${program} changed\n${file} changed\n`,
    stderr: '',
  });
  t.match(JSON.parse(readFileSync(file, 'utf8')), {
    plugins: [
      { type: 'ptp' },
      {
        type: 'clustermesh-cni',
        socketPath: dir.file('agent.sock'),
        agentDown: 'open',
        agentDownTimeout: '0s',
      },
    ],
  });
  t.match(install(), { status: 0, stdout: 'nothing to change\n' });
  t.match(run(['cni', 'uninstall', ...folders, socket]), {
    status: 0,
    stdout: `${file} changed\n${program} changed\n`,
    stderr: '',
  });
  t.match(run(['cni', 'install', `--cni-conf-dir=${dir.file('bin')}`, folders[1] ?? '']), {
    status: 1,
    stderr: /no CNI configuration is in .*--cni-conf-dir/,
  });
  t.match(run(['cni', 'repair']), { status: 2, stderr: /expected cni install or cni uninstall/ });
});
