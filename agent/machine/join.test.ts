import { existsSync, lstatSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'tap';
import { readEtcdClientConfig } from '../../mesh/kvstore/client-config.ts';
import { openTempDir } from '../../mesh/testing/temp-dir.ts';
import { type IpAddress, parseIpAddress } from '../../mesh/wire/ip.ts';
import { machineEnvironment } from './agent-command.ts';
import { type JoinOptions, joinCluster } from './join.ts';
import { MachineError } from './machine-error.ts';
import { readMachineRecord } from './machine-record.ts';
import type { CheckFinding } from './preflight.ts';
import {
  type MachineCluster,
  openMachineCluster,
  testSurroundings,
} from './testing/machine-cluster.ts';

const { signal } = new AbortController();

/** Joins `vm1` of a test's own making; `findings` gets what was looked at. */
async function joinAs(
  cluster: Pick<MachineCluster, 'server' | 'token'>,
  stateDir: string,
  more: Partial<JoinOptions> & { readonly findings?: CheckFinding[] } = {},
) {
  const { findings, ...options } = more;
  const name = options.name ?? 'vm1';
  return joinCluster({
    server: cluster.server,
    token: options.token ?? (await cluster.token({ names: name, labels: { app: 'db' } })),
    name,
    addresses: [],
    stateDir,
    agentFlags: ['--bpf-root=/sys/fs/bpf', '--cgroup-root=/sys/fs/cgroup'],
    agentVersion: '0.1.0',
    onFinding: (finding) => findings?.push(finding),
    onStep: () => undefined,
    surroundings: testSurroundings(),
    signal,
    ...options,
  });
}

test('a machine joins, and a second time nothing changes', { timeout: 120_000 }, async (t) => {
  const cluster = await openMachineCluster(t);
  await using state = await openTempDir('machine');
  const stateDir = state.file('state');
  const token = await cluster.token({ names: 'vm1', labels: { app: 'db' } });
  const { kind, record, command } = await joinAs(cluster, stateDir, { token });
  t.equal(kind, 'joined');
  t.match(record, {
    name: 'vm1',
    clusterName: 'alpha',
    clusterId: 1,
    labels: { app: 'db' },
    addresses: ['192.0.2.10'],
    hasFixedAddresses: false,
  });
  t.match(command.slice(2), [
    'run',
    '--machine',
    `--state-dir=${stateDir}`,
    '--bpf-root=/sys/fs/bpf',
  ]);

  t.equal(statSync(stateDir).mode & 0o777, 0o700);
  for (const name of [
    'machine.json',
    'agent.env',
    'etcd.config',
    'certs/tls.key',
    'certs/tls.crt',
    'certs/ca.crt',
  ]) {
    t.equal(statSync(join(stateDir, name)).mode & 0o777, 0o600, name);
  }
  t.equal(statSync(join(stateDir, 'clustermesh')).mode & 0o777, 0o700);
  t.notOk(existsSync(join(stateDir, 'pending')), 'the key is among the certificates');
  const etcd = await readEtcdClientConfig(join(stateDir, 'etcd.config'));
  t.match(etcd.endpoints, [/^https:\/\/alpha\.mesh\.cilium\.io:\d+$/]);
  t.match(etcd.hostAliases, [{ hostname: 'alpha.mesh.cilium.io', ips: ['127.0.0.1'] }]);
  t.ok(etcd.tls, 'key and certificate belong together');

  const environment = machineEnvironment(['run', '--machine', `--state-dir=${stateDir}`], {
    ISTHMUS_LOG_LEVEL: 'debug',
    ISTHMUS_TUNNEL_PORT: '9999',
  });
  t.match(environment, {
    ISTHMUS_CLUSTER_NAME: 'alpha',
    ISTHMUS_CLUSTER_ID: '1',
    ISTHMUS_NODE_NAME: 'vm1',
    ISTHMUS_NODE_IP: '192.0.2.10',
    ISTHMUS_TUNNEL_PORT: '9999',
    ISTHMUS_LOG_LEVEL: 'debug',
    ISTHMUS_HOST_ROUTES: 'all',
  });

  const before = new Map(
    readdirSync(stateDir).map((name) => [name, lstatSync(join(stateDir, name)).mtimeMs]),
  );
  const again = await joinAs(cluster, stateDir, { token });
  t.equal(again.kind, 'already');
  t.same(
    new Map(readdirSync(stateDir).map((name) => [name, lstatSync(join(stateDir, name)).mtimeMs])),
    before,
  );
  await t.rejects(joinAs(cluster, stateDir, { token, name: 'vm2' }), { code: 'other' });
});

test('a machine of one cluster is not taken by another', { timeout: 120_000 }, async (t) => {
  const alpha = await openMachineCluster(t);
  const beta = await openMachineCluster(t, { name: 'beta' });
  await using state = await openTempDir('machine');
  const stateDir = state.file('state');
  await joinAs(alpha, stateDir);
  await t.rejects(joinAs(beta, stateDir), {
    code: 'other',
    message: /is vm1 of cluster alpha, and the token is of another cluster.*vm leave/,
  });
  // Its token leads elsewhere, whatever address is given.
  const token = await beta.token({ names: 'vm2' });
  await t.rejects(joinAs(alpha, state.file('other'), { token, name: 'vm2' }), {
    code: 'preflight',
    message: /is not the one that the token is for/,
  });
});

test('an enrolment whose end was lost is gone on with', { timeout: 120_000 }, async (t) => {
  const cluster = await openMachineCluster(t);
  await using state = await openTempDir('machine');
  const stateDir = state.file('state');
  const token = await cluster.token({ names: 'vm1' });
  const isCut = testSurroundings({ connectProblem: async () => 'connection refused' });
  await t.rejects(joinAs(cluster, stateDir, { token, surroundings: isCut }), {
    code: 'preflight',
    message: /no gate of the cluster is reached.*\n.*no registry of the cluster is reached/,
  });
  t.equal(readMachineRecord(stateDir), undefined, 'it has not joined');
  const key = readFileSync(join(stateDir, 'pending', 'tls.key'), 'utf8');
  // The token has one use, which is this machine's with this key.
  t.equal((await joinAs(cluster, stateDir, { token })).kind, 'joined');
  t.equal(readFileSync(join(stateDir, 'certs', 'tls.key'), 'utf8'), key);
});

test('what is wrong with a machine is said at once', { timeout: 120_000 }, async (t) => {
  const cluster = await openMachineCluster(t);
  await using state = await openTempDir('machine');
  const stateDir = state.file('state');
  const token = await cluster.token({ names: 'vm1' });
  const cases: readonly [Parameters<typeof testSurroundings>[0], RegExp][] = [
    [{ userId: 1000 }, /root: this is user 1000/],
    [{ datapathProblems: () => ['kernel 4.1 lacks all'] }, /kernel: kernel 4.1 lacks all/],
    [{ freeBytes: () => 1024 }, /disk: 0 MiB are free/],
    [{ isAgentAnswering: async () => true }, /an agent answers on/],
    [
      { namesIn: (folder) => (folder.endsWith('isthmus') ? ['maps'] : []) },
      /left by an agent that was here before.*vm leave/,
    ],
    [
      {
        mtus: async () =>
          new Map([
            ['eth0', 1500],
            ['cilium_host', 1500],
          ]),
      },
      /Cilium is here/,
    ],
    [
      { mtus: async () => new Map([['eth0', 1300]]) },
      /mtu: eth0 with 192\.0\.2\.10 takes packets of 1300.*mtu 1330/,
    ],
    [{ ownAddresses: () => [] }, /address: this machine has no address but/],
    [
      { routeTo: async () => ({ interfaceName: 'lo', source: parseIpAddress('127.0.0.1') }) },
      /reached from one of 192\.0\.2\.10 \(eth0\)/,
    ],
    [
      { now: () => Date.now() - 600_000 },
      /clock: it is (599|600|601) s behind the registry's \(.*Z here, .*Z at the registry\)/,
    ],
    [{ now: () => Date.now() + 600_000 }, /clock: it is (599|600|601) s ahead of/],
  ];
  for (const [changes, expected] of cases) {
    await t.rejects(
      joinAs(cluster, stateDir, { token, surroundings: testSurroundings(changes) }),
      { code: 'preflight', message: expected },
      String(expected),
    );
  }
  const all = testSurroundings({
    freeBytes: () => 0,
    isAgentAnswering: async () => true,
    now: () => Date.now() - 600_000,
    ownAddresses: () => [],
  });
  const error = await joinAs(cluster, stateDir, { token, surroundings: all }).catch(
    (found: unknown) => found,
  );
  t.ok(
    error instanceof MachineError && error.message.split('\n').length === 5,
    'four, below a headline',
  );
  t.notOk(existsSync(stateDir), 'nothing was written');
  t.equal(cluster.book.get('vm1'), undefined, 'and nobody was asked');
  await t.rejects(
    joinAs({ ...cluster, server: { host: '127.0.0.1', port: 1 } }, stateDir, { token }),
    { code: 'unreachable', message: /cannot reach the registry at 127\.0\.0\.1:1/ },
  );
  t.equal((await joinAs(cluster, stateDir, { token })).kind, 'joined', 'the token is still good');
});

test('what only the cluster knows is looked at before anything is in use', {
  timeout: 120_000,
}, async (t) => {
  const cluster = await openMachineCluster(t, { podNetworks: ['192.0.2.0/24'] });
  await using state = await openTempDir('machine');
  const stateDir = state.file('state');
  const token = await cluster.token({ names: 'vm1' });
  const held = testSurroundings({ udpPortHolder: () => 'program nebula (pid 12)' });
  await t.rejects(joinAs(cluster, stateDir, { token, surroundings: held }), {
    code: 'preflight',
    message:
      /192\.0\.2\.10 lies in 192\.0\.2\.0\/24, which cluster alpha gives to pods.*\n.*UDP port 8472 is the cluster's tunnel port, and program nebula \(pid 12\) has it/,
  });
  t.equal(readMachineRecord(stateDir), undefined);
});

test('addresses are chosen by a person, or by the way to the cluster', {
  timeout: 120_000,
}, async (t) => {
  const own = (address: string, interfaceName: string) => ({
    address: parseIpAddress(address),
    network: '10.0.0.0/8' as never,
    interfaceName,
  });
  const cluster = await openMachineCluster(t);
  await using state = await openTempDir('machine');
  const surroundings = testSurroundings({
    ownAddresses: () => [
      own('192.0.2.10', 'eth0'),
      own('fd00::10', 'eth0'),
      own('198.51.100.7', 'eth1'),
    ],
    mtus: async () =>
      new Map([
        ['eth0', 1500],
        ['eth1', 1500],
      ]),
  });
  const findings: CheckFinding[] = [];
  const chosen = await joinAs(cluster, state.file('a'), { surroundings, findings });
  t.same(chosen.record.addresses, ['192.0.2.10', 'fd00::10']);
  t.match(
    findings.find(({ check }) => check === 'address')?.text,
    /not used: 198\.51\.100\.7 \(eth1\)/,
  );
  const addresses: IpAddress[] = [parseIpAddress('192.0.2.10')];
  const fixed = await joinAs(cluster, state.file('b'), { surroundings, addresses, name: 'vm2' });
  t.match(fixed.record, { addresses: ['192.0.2.10'], hasFixedAddresses: true });
  const all = ['fd00::10', '198.51.100.7', '192.0.2.10'].map(parseIpAddress);
  const several = await joinAs(cluster, state.file('d'), {
    surroundings,
    addresses: all,
    name: 'vm4',
  });
  t.same(
    several.record.addresses,
    ['192.0.2.10', '198.51.100.7', 'fd00::10'],
    'several of a family: first the one that it calls from',
  );
  await t.rejects(
    joinAs(cluster, state.file('c'), {
      surroundings,
      addresses: [parseIpAddress('198.51.100.7')],
      name: 'vm3',
    }),
    {
      message:
        /reaches 127\.0\.0\.1 from 192\.0\.2\.10.*choose 192\.0\.2\.10, or change the source/,
    },
  );
  await t.rejects(
    joinAs(cluster, state.file('c'), {
      surroundings,
      addresses: [parseIpAddress('203.0.113.1')],
      name: 'vm3',
    }),
    {
      message:
        /--address 203\.0\.113\.1 is not an address of this machine; it has 192\.0\.2\.10 \(eth0\), fd00::10/,
    },
  );
});

test('a machine behind address translation is refused with the reason', {
  timeout: 120_000,
}, async (t) => {
  const cluster = await openMachineCluster(t, { seenAs: '203.0.113.9' });
  await using state = await openTempDir('machine');
  await t.rejects(joinAs(cluster, state.file('state')), {
    code: 'refused',
    message: /came from 203\.0\.113\.9, which is none of the machine's addresses \(192\.0\.2\.10\)/,
  });
  t.equal(readMachineRecord(state.file('state')), undefined);
});

test('files that are not ours or are damaged are said to be', { timeout: 120_000 }, async (t) => {
  const cluster = await openMachineCluster(t);
  await using state = await openTempDir('machine');
  await joinAs(cluster, state.file('state'));
  const path = state.file('state', 'machine.json');
  const whole = readFileSync(path, 'utf8');
  for (const [text, expected] of [
    [whole.slice(0, 40), /cannot use .*machine\.json: .*vm leave/],
    ['{}', /cannot use .*machine\.json/],
    [whole.replace('"schema": 1', '"schema": 7'), /its schema is 7, expected 1: another version/],
  ] as const) {
    writeFileSync(path, text);
    await t.rejects(joinAs(cluster, state.file('state')), { code: 'state', message: expected });
  }
});
