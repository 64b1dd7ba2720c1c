import { existsSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { createServer as createHttpServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { type Test, test } from 'tap';
import { type Clock, systemClock } from '../../mesh/runtime/clock.ts';
import { createLogger } from '../../mesh/runtime/log.ts';
import { openTempDir } from '../../mesh/testing/temp-dir.ts';
import { type IpAddress, parseIpAddress, parseIpPrefix } from '../../mesh/wire/ip.ts';
import { createNodeSession, type NodeSession } from '../registry/session.ts';
import { certificatesIn } from './enrolment.ts';
import { joinCluster } from './join.ts';
import { type MachineAgent, openMachineAgent } from './machine-agent.ts';
import { readMachineRecord } from './machine-record.ts';
import {
  type MachineCluster,
  openMachineCluster,
  testSurroundings,
} from './testing/machine-cluster.ts';

const logger = createLogger('test', { level: 'silent' });
const OTHER = parseIpAddress('192.0.2.20');

/** Waits for a condition, never for a time. */
async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await systemClock.sleep(20);
}

async function joined(
  t: Test,
  cluster: MachineCluster,
  name: string,
  addresses: readonly IpAddress[] = [],
): Promise<string> {
  const state = await openTempDir('machine');
  t.teardown(() => state[Symbol.asyncDispose]());
  const stateDir = state.file('state');
  await joinCluster({
    server: cluster.server,
    token: await cluster.token({ names: name, labels: { app: 'db' } }),
    name,
    addresses,
    stateDir,
    agentFlags: ['--cgroup-root=/sys/fs/cgroup'],
    agentVersion: '0.1.0',
    onFinding: () => undefined,
    onStep: () => undefined,
    surroundings: testSurroundings(),
    signal: new AbortController().signal,
  });
  return stateDir;
}

/** Runs a machine's own part of an agent, and its session; `runs` are the addresses by which it was run. */
function start(
  t: Test,
  stateDir: string,
  options: {
    readonly instanceId?: string;
    readonly clock?: Clock;
    readonly present?: () => readonly IpAddress[];
  } = {},
) {
  const { clock = systemClock, present = () => [parseIpAddress('192.0.2.10')] } = options;
  const machine: MachineAgent = openMachineAgent({
    stateDir,
    instanceId: options.instanceId ?? 'boot-1',
    surroundings: {
      ...testSurroundings(),
      ownAddresses: () =>
        present().map((address) => ({
          address,
          network: parseIpPrefix(`${address}/24`),
          interfaceName: 'eth0',
        })),
      routeTo: async () => ({ interfaceName: 'eth0', source: present()[0] ?? OTHER }),
    },
    clock,
    logger,
  });
  const ending = new AbortController();
  const runs: (readonly IpAddress[])[] = [];
  let session: NodeSession | undefined;
  let sessions = 0;
  const running = machine.run(async (addresses, signal) => {
    runs.push(addresses);
    const [registry] = machine.record.registries;
    if (registry === undefined) throw new Error('no registry');
    const own = createNodeSession({
      registry,
      readTls: async () => {
        sessions += 1;
        return {
          ca: await readFile(join(stateDir, 'certs/ca.crt')),
          cert: await readFile(join(stateDir, 'certs/tls.crt')),
          key: await readFile(join(stateDir, 'certs/tls.key')),
        };
      },
      machine: machine.side,
      clusterName: machine.record.clusterName,
      nodeName: machine.record.name,
      agentVersion: '0.1.0',
      facts: { addresses, podCidrs: [], bootId: 'boot-1' },
      clock: systemClock,
      logger,
    });
    session = own;
    const forget = machine.onRenewed(() => own.reconnect());
    await Promise.all([own.run(signal), machine.part.run(signal)]);
    forget();
  }, ending.signal);
  const stop = async (): Promise<void> => {
    ending.abort();
    await running;
  };
  t.teardown(stop);
  return {
    machine,
    runs,
    stop,
    state: () => session?.state.kind,
    describe: () => session?.describe() ?? '',
    sessions: () => sessions,
  };
}

test('a machine says who it is, is told its peers, and checks its services', {
  timeout: 120_000,
}, async (t) => {
  const cluster = await openMachineCluster(t);
  const stateDir = await joined(t, cluster, 'vm1');
  const http = createHttpServer((request, response) => {
    response.statusCode = request.url === '/healthy' ? 204 : 503;
    response.end();
  });
  await new Promise<void>((resolve) => http.listen(0, '127.0.0.1', resolve));
  t.teardown(() => http.close());
  const { port } = http.address() as AddressInfo;
  const check = { kind: 'http', port, periodMs: 500, timeoutMs: 2000, failures: 1 } as const;
  cluster.tell({ peers: ['beta', 'gamma'] });
  const agent = start(t, stateDir);
  await until(() => agent.state() === 'accepted' && cluster.published.has('vm1'));
  t.match(cluster.published.get('vm1'), { addresses: ['192.0.2.10'], labels: { app: 'db' } });

  const peers = join(stateDir, 'clustermesh');
  await until(() => existsSync(join(peers, 'gamma')));
  t.same(readdirSync(peers).sort(), ['beta', 'gamma']);
  t.equal(
    readFileSync(join(peers, 'beta'), 'utf8'),
    readFileSync(join(stateDir, 'etcd.config'), 'utf8'),
  );
  cluster.tell({ peers: ['gamma', 'delta'] });
  await until(() => existsSync(join(peers, 'delta')) && !existsSync(join(peers, 'beta')));
  t.same(readdirSync(peers).sort(), ['delta', 'gamma']);

  // The address of a test's machine is nobody's: what is checked there fails, and is said to.
  cluster.tell({ checks: [{ check: 'demo/web:80', path: '/healthy', ...check }] as never });
  await until(() => agent.machine.part.problems().length > 0);
  t.match(agent.machine.part.problems(), [/check demo\/web:80 fails/]);
  await until(() => (cluster.book.get('vm1')?.failingChecks.size ?? 0) > 0);
  t.ok(cluster.book.get('vm1')?.failingChecks.has('demo/web:80'));
});

test('a certificate is renewed in time, with a new key, and the session goes on by it', {
  timeout: 120_000,
}, async (t) => {
  const cluster = await openMachineCluster(t, { ttlMs: 600_000 });
  const stateDir = await joined(t, cluster, 'vm1');
  const before = readFileSync(join(stateDir, 'certs/tls.key'), 'utf8');
  const generation = readlinkSync(join(stateDir, 'certs'));
  // Two thirds of its life are over at once, by this clock.
  let aheadMs = 0;
  const clock: Clock = { ...systemClock, now: () => Date.now() + aheadMs };
  const agent = start(t, stateDir, { clock });
  await until(() => agent.state() === 'accepted');
  t.equal(agent.sessions(), 1);
  await agent.stop();
  aheadMs = 450_000;
  const second = start(t, stateDir, { clock });
  await until(() => readlinkSync(join(stateDir, 'certs')) !== generation);
  aheadMs = 0;
  await until(() => second.sessions() >= 2 && second.state() === 'accepted');
  t.not(readFileSync(join(stateDir, 'certs/tls.key'), 'utf8'), before);
  t.equal(
    readdirSync(stateDir).filter((name) => name.startsWith('.certs-')).length,
    1,
    'the former ones are gone',
  );
  t.equal(cluster.published.has('vm1'), true);
  t.same(second.machine.part.problems(), []);
});

test('a certificate by an authority that signs no more is replaced long before its time', {
  timeout: 120_000,
}, async (t) => {
  const cluster = await openMachineCluster(t, { ttlMs: 60_000 });
  const stateDir = await joined(t, cluster, 'vm1');
  const issuer = (): string | undefined => {
    const [, authority] = certificatesIn(readFileSync(join(stateDir, 'certs/tls.crt'), 'utf8'));
    return authority?.fingerprint256;
  };
  const [before, generation] = [issuer(), readlinkSync(join(stateDir, 'certs'))];
  const agent = start(t, stateDir);
  await until(() => agent.state() === 'accepted');
  await cluster.replaceEnrollmentAuthority();
  await until(() => readlinkSync(join(stateDir, 'certs')) !== generation);
  t.not(issuer(), before);
  await until(() => agent.sessions() >= 2 && agent.state() === 'accepted');
  t.same(agent.machine.part.problems(), []);
});

test('a certificate that has run out is explained', { timeout: 120_000 }, async (t) => {
  const cluster = await openMachineCluster(t, { ttlMs: 600_000 });
  const stateDir = await joined(t, cluster, 'vm1');
  const clock: Clock = { ...systemClock, now: () => Date.now() + 700_000 };
  const agent = start(t, stateDir, { clock });
  await until(() => agent.machine.part.problems().length > 0);
  t.match(agent.machine.part.problems(), [
    /cannot be renewed: this machine's certificate expired \(CN=machine-vm1, SHA-256 [0-9a-f]{64}, valid \S+Z to \S+Z; the clock here says \S+Z\); .*join again with a new token: clustermesh vm leave/,
  ]);
});

test('a machine that moves is run again by its new address', { timeout: 120_000 }, async (t) => {
  const cluster = await openMachineCluster(t);
  const stateDir = await joined(t, cluster, 'vm1');
  let present: readonly IpAddress[] = [parseIpAddress('192.0.2.10')];
  const agent = start(t, stateDir, { present: () => present });
  await until(() => cluster.published.get('vm1')?.addresses[0] === '192.0.2.10');
  present = [OTHER];
  await until(() => cluster.published.get('vm1')?.addresses[0] === OTHER);
  t.same(agent.runs, [['192.0.2.10'], [OTHER]]);
  t.same(readMachineRecord(stateDir)?.addresses, [OTHER], 'a restart begins there');
});

test('a machine whose address was chosen by a person waits for it', {
  timeout: 120_000,
}, async (t) => {
  const cluster = await openMachineCluster(t);
  const stateDir = await joined(t, cluster, 'vm1', [parseIpAddress('192.0.2.10')]);
  const agent = start(t, stateDir, { present: () => [OTHER] });
  await until(() => agent.machine.part.problems().length > 0);
  t.match(agent.machine.part.problems(), [
    /192\.0\.2\.10 is not on this machine any more, and was chosen by --address/,
  ]);
  t.same(agent.runs, [['192.0.2.10']]);
});

test('a clone is refused, and a restart of the same machine is not', {
  timeout: 120_000,
}, async (t) => {
  const cluster = await openMachineCluster(t);
  const stateDir = await joined(t, cluster, 'vm1');
  const first = start(t, stateDir);
  await until(() => first.state() === 'accepted');
  const clone = start(t, stateDir, { instanceId: 'boot-2' });
  await until(
    () =>
      clone.state() !== undefined && clone.state() !== 'connecting' && clone.state() !== 'accepted',
  );
  t.match(clone.describe(), /vm1/);
  t.equal(first.state(), 'accepted');
  await clone.stop();
  const restarted = start(t, stateDir);
  await until(() => restarted.state() === 'accepted');
  t.pass('the new process of the same boot takes the place of the old one');
});
