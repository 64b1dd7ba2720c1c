import { mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { test } from 'tap';
import { until } from '../../mesh/remote/testing/until.ts';
import { createLogger } from '../../mesh/runtime/log.ts';
import { createManualClock } from '../../mesh/testing/manual-clock.ts';
import { parseIpAddress } from '../../mesh/wire/ip.ts';
import { addRequest, type NodeRig, openNodeRig } from '../testing/node-rig.ts';
import { createDiscovery } from './discovery.ts';
import type { ContainerInterface } from './interfaces.ts';

const NODE = '192.0.2.1';

function found(name: string, ifindex: number, ...addresses: string[]): ContainerInterface {
  return {
    netns: `/run/netns/${name}`,
    ifName: 'eth0',
    hostInterface: `veth${name}`,
    ifindex,
    mac: '02:00:00:00:00:01',
    addresses: addresses.map(parseIpAddress),
  };
}

/** A container that runs already: its veth, and what is found in its network namespace. */
function runPod(rig: NodeRig, pod: ContainerInterface): void {
  rig.veths.set(pod.netns, pod);
  rig.containers.push(pod);
}

function endpoints(rig: NodeRig): string[] {
  return rig.datapath.endpoints
    .rows()
    .map((row) => `${row.endpointId} ${row.hostInterface} ${[...row.addresses].sort().join(',')}`)
    .sort();
}

async function publish(rig: NodeRig): Promise<void> {
  await rig.alpha.config();
  await rig.alpha.identity(257, { app: 'web' });
  for (const ip of ['10.1.0.5', 'fd00::5'])
    await rig.alpha.ip(ip, { host: NODE, local: 257, pod: 'web' });
}

test('pods that were there before the agent get endpoints with their identity and policies', async (t) => {
  const rig = await openNodeRig(t);
  await publish(rig);
  await rig.alpha.policy('deny', {
    endpointSelector: { matchLabels: { app: 'web' } },
    ingress: [{}],
  });
  runPod(rig, found('a', 101, '10.1.0.5', 'fd00::5', '10.66.0.1'));
  runPod(rig, found('docker', 102, '172.17.0.2'));
  await rig.start();
  await until(
    'the cluster is being read',
    async () => (await rig.status()).clusters[0]?.state.kind === 'syncing',
  );
  t.same(endpoints(rig), [], 'not before its policies can be known');
  await rig.alpha.marked();
  await until('it is found', () => endpoints(rig).length > 0);
  t.same(endpoints(rig), ['1 vetha 10.1.0.5,fd00::5']);
  t.ok(rig.datapath.attached.has('vetha'));
  t.equal(rig.datapath.endpoints.get('1')?.identity, 65_793);
  t.equal(rig.datapath.endpoints.get('1')?.ingressEnforced, true);
  t.match((await rig.status()).endpoints, [{ pod: 'demo/web', containerId: '' }]);
  await rig.stop();
  const written = rig.datapath.log.length;
  await rig.start();
  t.same(endpoints(rig), ['1 vetha 10.1.0.5,fd00::5'], 'it is kept over a restart');
  t.notOk(rig.datapath.log.slice(written).some(({ kind }) => kind === 'detach'));
});

test('an address that the cluster tells later is added to the endpoint', async (t) => {
  const rig = await openNodeRig(t);
  await rig.alpha.config();
  await rig.alpha.marked();
  await rig.alpha.ip('10.1.0.5', { host: NODE, local: 257, pod: 'web' });
  runPod(rig, found('a', 101, '10.1.0.5', 'fd00::5'));
  await rig.start();
  await until('it is found', () => endpoints(rig).join() === '1 vetha 10.1.0.5');
  await rig.alpha.ip('fd00::5', { host: NODE, local: 257, pod: 'web' });
  await until('it has both', () => endpoints(rig).join() === '1 vetha 10.1.0.5,fd00::5');
});

for (const command of ['ADD', 'CHECK', 'DEL'] as const) {
  test(`a later ${command} for a pod that was found is recognised`, async (t) => {
    const rig = await openNodeRig(t);
    await publish(rig);
    await rig.alpha.marked();
    runPod(rig, found('a', 101, '10.1.0.5'));
    await rig.start();
    await until('it is found', () => endpoints(rig).length === 1);
    t.equal((await rig.cni(addRequest('a', '10.1.0.5', command))).status, 200);
    if (command === 'DEL') {
      t.same(endpoints(rig), []);
      return;
    }
    t.same(endpoints(rig), ['1 vetha 10.1.0.5'], 'the same endpoint');
    t.match((await rig.status()).endpoints, [{ containerId: 'a', pod: 'demo/a' }]);
    t.equal((await rig.cni(addRequest('a', '10.1.0.5', 'CHECK'))).status, 200);
    t.equal((await rig.cni(addRequest('a', '10.1.0.5', 'DEL'))).status, 200);
    t.same(endpoints(rig), []);
  });
}

test('DEL of a pod that was found and whose namespace is gone goes by the interface on this side', async (t) => {
  const rig = await openNodeRig(t);
  await publish(rig);
  await rig.alpha.marked();
  runPod(rig, found('a', 101, '10.1.0.5'));
  await rig.start();
  await until('it is found', () => endpoints(rig).length === 1);
  const other = { ...addRequest('b', '10.1.0.5', 'DEL'), netns: '' };
  t.equal((await rig.cni(other)).status, 200);
  t.equal(endpoints(rig).length, 1, "an older container's DEL is not about it");
  t.equal((await rig.cni({ ...addRequest('a', '10.1.0.5', 'DEL'), netns: '' })).status, 200);
  t.same(endpoints(rig), []);
});

test('what the runtime says of an address counts for more than what was found', async (t) => {
  const rig = await openNodeRig(t);
  await publish(rig);
  await rig.alpha.marked();
  runPod(rig, found('thief', 901, '10.1.0.5'));
  await rig.start();
  await until('it is found', () => endpoints(rig).length === 1);
  t.equal((await rig.addPod('a', '10.1.0.5')).status, 200);
  t.same(endpoints(rig), ['2 vetha 10.1.0.5']);
  rig.changeLinks();
  await rig.alpha.ip('10.1.0.6', { host: NODE, local: 257, pod: 'other' });
  await until('it is refused', async () =>
    (await rig.status()).notes.some((note) => /10\.1\.0\.5 belongs to endpoint 2/.test(note)),
  );
  t.same(endpoints(rig), ['2 vetha 10.1.0.5']);
});

test('a pod that was started without the agent is taken over by the word that was left', async (t) => {
  const rig = await openNodeRig(t);
  await rig.alpha.config();
  const folder = `${rig.socketPath}.opened`;
  mkdirSync(folder);
  const leave = (name: string, netns: string): void =>
    writeFileSync(
      `${folder}/${name}:eth0`,
      JSON.stringify({ ...addRequest(name, '10.1.0.5'), netns }),
    );
  leave('a', '/proc/self/ns/net');
  leave('b', rig.dir.file('is-gone'));
  leave('c', rig.dir.file('nowhere', 'netns'));
  await rig.start();
  const noteOf = async (name: string): Promise<string | undefined> =>
    (await rig.status()).notes.find((note) => note.includes(`container ${name}`));
  await until('it is told', async () => (await noteOf('a')) !== undefined);
  t.match(await noteOf('a'), /pod demo\/a .* was started while no agent answered .* not been read/);
  t.match(await noteOf('c'), /the agent cannot see .*nowhere\/netns/);
  t.same(readdirSync(folder), ['a:eth0', 'c:eth0'], 'who has gone meanwhile is forgotten');
  await rig.alpha.marked();
  await until('it is told why', async () =>
    /not one end of a veth/.test((await noteOf('a')) ?? ''),
  );
  rig.veths.set('/proc/self/ns/net', found('a', 101));
  rig.changeLinks();
  await until('it is there', () => endpoints(rig).join() === '1 vetha 10.1.0.5');
  await until('nothing is told any more', async () => (await noteOf('a')) === undefined);
  t.same(readdirSync(folder), ['c:eth0']);
  t.match((await rig.status()).endpoints, [{ pod: 'demo/a', containerId: 'a' }]);
});

test('DEL and GC forget the word that was left', async (t) => {
  const rig = await openNodeRig(t);
  await rig.start();
  const folder = `${rig.socketPath}.opened`;
  mkdirSync(folder);
  for (const name of ['a', 'b', 'c']) {
    writeFileSync(`${folder}/${name}:eth0`, JSON.stringify(addRequest(name, '10.1.0.5')));
  }
  await rig.cni(addRequest('a', '10.1.0.5', 'DEL'));
  t.same(readdirSync(folder), ['b:eth0', 'c:eth0']);
  const config = {
    cniVersion: '1.1.0',
    name: 'lab',
    'cni.dev/valid-attachments': [{ containerID: 'c', ifname: 'eth0' }],
  };
  t.equal((await rig.cni({ ...addRequest('', '10.1.0.5', 'GC'), config })).status, 200);
  t.same(readdirSync(folder), ['c:eth0']);
});

test('promise 16: a pod that cannot be found is told after a while, and looked for ever more seldom', async (t) => {
  const clock = createManualClock();
  const ending = new AbortController();
  const address = parseIpAddress('10.1.0.5');
  let looks = 0;
  let tell = (): void => undefined;
  const pods = [{ address, podNamespace: 'demo', podName: 'web' }];
  const discovery = createDiscovery({
    endpoints: {
      records: () => [],
      adopt: async () => [],
      serve: async () => '',
      release: async () => undefined,
      dropGone: async () => undefined,
    },
    pods: {
      all: () => pods,
      apply: () => undefined,
      synced: () => undefined,
      onChange: (listener) => {
        tell = listener;
      },
    },
    opened: { list: () => [], forget: () => undefined },
    interfaces: {
      containers: async () => {
        looks += 1;
        return [];
      },
      async *changes(signal) {
        await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve()));
      },
    },
    isOwnRead: () => true,
    clock,
    logger: createLogger('test', { level: 'silent' }),
  });
  const ended = discovery.run(ending.signal);
  await until('it has looked', () => looks === 1);
  t.same(discovery.problems(), [], 'it may be being made');
  for (let second = 0; second < 10; second += 1) {
    tell();
    await clock.advance(1000);
  }
  t.ok(looks >= 3 && looks <= 5, `${looks} looks in 10 s, though much happened`);
  await clock.advance(6000);
  t.match(discovery.problems(), [
    /pod demo\/web is said .* no endpoint has its address 10\.1\.0\.5/,
  ]);
  await clock.advance(120_000);
  t.ok(looks <= 11, `${looks} looks in all`);
  const before = looks;
  pods.push({ address: parseIpAddress('10.1.0.6'), podNamespace: 'demo', podName: 'next' });
  tell();
  await clock.advance(200);
  t.equal(looks, before + 1, 'a new one is looked for at once');
  pods.length = 0;
  tell();
  await clock.advance(200);
  t.same(discovery.problems(), []);
  ending.abort();
  await clock.advance(200);
  await ended;
});
