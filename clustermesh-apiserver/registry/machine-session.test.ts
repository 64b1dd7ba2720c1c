import { test } from 'tap';
import { openEtcd } from '../../mesh/kvstore/etcd.ts';
import type { KvStore } from '../../mesh/kvstore/kvstore.ts';
import { etcdSkipReason, openEtcdServer } from '../../mesh/testing/etcd-server.ts';
import { openTempDir } from '../../mesh/testing/temp-dir.ts';
import { eventually } from '../testing/publishing-rig.ts';
import {
  createRegistryAuthority,
  enrolMachineAt,
  machineHello,
  openMachineStream,
  startMachineReplica,
} from './testing/machine-registry.ts';

const skip = etcdSkipReason(process.env);
const signal = new AbortController().signal;

const facts = (sequence: number, ...addresses: string[]) => ({
  machine: { sequence, addresses, boot_id: 'boot' },
});
const SERVICE = {
  apiVersion: 'v1',
  kind: 'Service',
  metadata: {
    name: 'db',
    namespace: 'demo',
    annotations: { 'service.cilium.io/global': 'true', 'isthmus.io/health-check': 'http:8080/ok' },
  },
  spec: {
    clusterIP: '10.96.0.1',
    selector: { app: 'db' },
    ports: [{ port: 80, targetPort: 8080 }],
  },
};

async function jsonAt(store: KvStore, key: string): Promise<Record<string, never> | undefined> {
  const pair = await store.get(key);
  return pair === undefined ? undefined : JSON.parse(pair.value.toString('utf8'));
}

test('a machine from its greeting to a global Service, and away again (promises 7, 12)', {
  skip,
  timeout: 60_000,
}, async (t) => {
  await using etcd = await openEtcdServer();
  await using dir = await openTempDir('machines');
  await using store = await openEtcd({ endpoints: [etcd.endpoint] });
  const { authority, server } = await createRegistryAuthority(dir);
  const open = () => openEtcd({ endpoints: [etcd.endpoint] });
  let peers: readonly string[] = ['beta'];
  await using one = await startMachineReplica({
    store: await open(),
    server,
    graceMs: 1_500,
    peers: () => peers,
  });
  const { address } = one.registry;
  const ipKey = 'cilium/state/ip/v1/default/192.0.2.10';
  const serviceKey = 'cilium/state/services/v1/alpha/demo/db';
  const labels = { app: 'db', secret: 'no' };
  await enrolMachineAt(one, 'db', { labels });
  one.pushed.set(SERVICE);
  const certificate = await authority.issue('machine-db');
  const stream = await openMachineStream(address, certificate);
  t.teardown(() => stream.close());
  stream.send(machineHello('db', 'boot-1'));
  await eventually('it is told what it has to know', () => stream.heard.length >= 2);
  t.match(stream.heard[0], { accepted: { sequence: 0, takes_policies: true } });
  t.match(stream.heard[1], {
    config: {
      labels,
      namespace: 'demo',
      peers: ['beta'],
      checks: [{ check: 'http:8080/ok', kind: 'http', port: 8080, path: '/ok', failures: 3 }],
    },
  });
  stream.send(facts(1, '192.0.2.10', '2001:db8::10'));
  await eventually('its address is published', async () => (await store.get(ipKey)) !== undefined);
  const entry = await jsonAt(store, ipKey);
  t.match(entry, {
    IP: '192.0.2.10',
    HostIP: '192.0.2.10',
    K8sNamespace: 'demo',
    K8sPodName: 'db',
  });
  const identity = await store.get(`cilium/state/identities/v1/id/${entry?.ID}`);
  t.match(
    identity?.value.toString('utf8'),
    /k8s:app=db;.*policy\.cluster=alpha;.*serviceaccount=default;.*namespace=demo;/,
  );
  t.ok(
    Number(identity?.modRevision) < Number((await store.get(ipKey))?.modRevision),
    'identity first',
  );
  const six = await jsonAt(store, 'cilium/state/ip/v1/default/2001:db8::10');
  t.match(six, { HostIP: '2001:db8::10' });

  const backends = async (): Promise<string[]> =>
    Object.keys((await jsonAt(store, serviceKey))?.backends ?? {});
  t.same(await backends(), [], 'nobody has said that it is healthy');
  stream.send({ health: { results: [{ check: 'http:8080/ok', healthy: true }] } });
  await eventually('it serves', async () => (await backends()).join() === '192.0.2.10');
  stream.send({
    health: { results: [{ check: 'http:8080/ok', healthy: false, reason: 'HTTP 503' }] },
  });
  await eventually('it serves no more', async () => (await backends()).length === 0);
  t.match(one.machines.get('db')?.failingChecks.get('http:8080/ok'), { reason: 'HTTP 503' });
  stream.send({ health: { results: [{ check: 'http:8080/ok', healthy: true }] } });
  await eventually('it serves again', async () => (await backends()).length === 1);

  const configs = () => stream.heard.filter((message) => 'config' in message).length;
  await one.machines.label('db', { set: { app: 'web' }, remove: ['secret'] }, signal);
  await eventually('it is told its labels', () => configs() === 2);
  t.match(stream.heard.at(-1), { config: { labels: { app: 'web' }, checks: undefined } });
  await eventually(
    'it has another identity',
    async () => (await jsonAt(store, ipKey))?.ID !== entry?.ID,
  );
  await eventually('the Service selects it no more', async () => (await backends()).length === 0);
  peers = ['beta', 'gamma'];
  await eventually('it is told its peers', () => configs() === 3);
  await one.machines.label('db', { set: { app: 'db' }, remove: [] }, signal);
  await eventually('it is told a check again', () => configs() === 4);

  t.comment('claims that are not its own');
  one.pushed.set({
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name: 'web', namespace: 'demo' },
    status: { podIP: '192.0.2.77', hostIP: '192.0.2.2' },
  });
  await eventually(
    'the pod',
    () => one.pushed.publisher.findMachineConflict('db', ['192.0.2.77' as never]) !== undefined,
  );
  const cases: [string, object, RegExp][] = [
    ['a pod', facts(2, '192.0.2.77'), /held by pod demo\/web/],
    ['outside of its token', facts(3, '198.51.100.7'), /outside of what/],
    ['multicast', facts(4, '224.0.0.1'), /multicast/],
  ];
  for (const [index, [what, message, words]] of cases.entries()) {
    stream.send(message);
    const sequence = index + 2;
    const answer = () =>
      stream.heard.find(
        ({ rejected }) => (rejected as { sequence?: number } | undefined)?.sequence === sequence,
      );
    await eventually(`an answer to ${what}`, () => answer() !== undefined);
    t.match(answer(), { rejected: { field: 'addresses', reason: words } }, what);
  }
  t.not(await store.get(ipKey), undefined, 'what it said before still counts');
  const node = one.pushed.publisher.findNodeConflict('n1', {
    addresses: ['192.0.2.10' as never],
    podCidrs: [],
    bootId: '',
  });
  t.match(node, { reason: /held by machine db/ });
  const pods = one.pushed.publisher.findNodeConflict('n1', {
    addresses: [],
    podCidrs: ['192.0.2.0/28' as never],
    bootId: '',
  });
  t.match(pods, { field: 'pod_cidrs', reason: /machine db/ });

  t.comment('gone for longer than the grace time');
  stream.close();
  await eventually(
    'its addresses are withdrawn',
    async () => (await store.get(ipKey)) === undefined,
  );
  t.same(await backends(), []);
  t.equal(one.machines.get('db')?.state, 'gone');

  t.comment('removed while it is connected');
  const again = await openMachineStream(address, certificate);
  t.teardown(() => again.close());
  again.send(machineHello('db', 'boot-2'));
  again.send(facts(1, '192.0.2.10'));
  await eventually('it is back', async () => (await store.get(ipKey)) !== undefined);
  await one.machines.remove('db', signal);
  await eventually('its session is cut', () => again.ended !== undefined);
  await eventually('its addresses go at once', async () => (await store.get(ipKey)) === undefined);
  const refused = await openMachineStream(address, certificate);
  t.teardown(() => refused.close());
  refused.send(machineHello('db', 'boot-2'));
  await eventually('it is not let in', () => refused.ended !== undefined);
  t.match(refused.ended, /PERMISSION_DENIED.*machine db was removed/);
});

test('who is let in as a machine', { skip, timeout: 60_000 }, async (t) => {
  await using etcd = await openEtcdServer();
  await using dir = await openTempDir('machines');
  const { authority, server } = await createRegistryAuthority(dir);
  const open = () => openEtcd({ endpoints: [etcd.endpoint] });
  await using one = await startMachineReplica({ store: await open(), server, graceMs: 60_000 });
  await enrolMachineAt(one, 'db');
  const certificate = await authority.issue('machine-db');
  const say = async (issued: typeof certificate, ...messages: object[]) => {
    const stream = await openMachineStream(one.registry.address, issued);
    t.teardown(() => stream.close());
    for (const message of messages) stream.send(message);
    return stream;
  };
  const endOf = async (...words: Parameters<typeof say>): Promise<string> => {
    const stream = await say(...words);
    await eventually('its end', () => stream.ended !== undefined);
    const [last] = stream.heard.slice(-1);
    return `${stream.ended} ${JSON.stringify(last ?? '')}`;
  };
  t.match(
    await endOf(await authority.issue('machine-other'), machineHello('other', 'b')),
    /not known.*restore a backup/,
  );
  t.match(
    await endOf(await authority.issue('machine-Db'), machineHello('Db', 'b')),
    /not of a node or machine/,
  );
  t.match(
    await endOf(certificate, machineHello('other', 'b')),
    /not the machine of the certificate, machine-db/,
  );
  t.match(
    await endOf(certificate, { hello: { schema: 9, cluster_name: 'alpha', node_name: 'db' } }),
    /schema 9 is not known/,
  );
  t.match(await endOf(certificate, facts(1, '192.0.2.10')), /expected a greeting first/);
  t.match(
    await endOf(certificate, machineHello('db', 'b'), {
      facts: { sequence: 1, addresses: ['192.0.2.10'] },
    }),
    /expected facts of a machine/,
  );
  t.match(await endOf(certificate, machineHello('db', 'x'.repeat(200))), /malformed/);

  t.comment('clones');
  const first = await say(certificate, machineHello('db', 'boot-1'), facts(1, '192.0.2.10'));
  await eventually('it is in', () => one.machines.get('db')?.record.bootId === 'boot-1');
  t.match(await endOf(certificate, machineHello('db', 'boot-2')), /UNAVAILABLE.*another boot/);
  t.equal(first.ended, undefined, 'the first stays');
  const second = await say(certificate, machineHello('db', 'boot-1', 'run-2'));
  await eventually('the same boot replaces it', () => first.ended !== undefined);
  t.match(first.ended, /another session of machine db/);
  t.equal(second.ended, undefined);
});

test('machines outlive their registry, move to another one, and etcd may lose everything', {
  skip,
  timeout: 60_000,
}, async (t) => {
  await using etcd = await openEtcdServer();
  await using dir = await openTempDir('machines');
  await using store = await openEtcd({ endpoints: [etcd.endpoint] });
  const { authority, server } = await createRegistryAuthority(dir);
  const start = async () =>
    startMachineReplica({
      store: await openEtcd({ endpoints: [etcd.endpoint] }),
      server,
      graceMs: 4_000,
    });
  const one = await start();
  await using two = await start();
  await enrolMachineAt(one, 'db');
  await eventually('the other knows it', () => two.machines.get('db') !== undefined);
  const certificate = await authority.issue('machine-db');
  const connect = async (replica: typeof one, boot: string) => {
    const stream = await openMachineStream(replica.registry.address, certificate);
    t.teardown(() => stream.close());
    stream.send(machineHello('db', boot));
    stream.send(facts(1, '192.0.2.10'));
    return stream;
  };
  const ipKey = 'cilium/state/ip/v1/default/192.0.2.10';
  const isPublished = async (): Promise<boolean> => (await store.get(ipKey)) !== undefined;
  const first = await connect(one, 'boot-1');
  await eventually('it is published', isPublished);
  await eventually('it is elsewhere', () => two.machines.get('db')?.state === 'elsewhere');
  const clone = await connect(two, 'boot-2');
  await eventually('another boot has to wait', () => clone.ended !== undefined);
  t.match(clone.ended, /UNAVAILABLE/);
  const moved = await connect(two, 'boot-1');
  await eventually('the older session ends', () => first.ended !== undefined);
  await one[Symbol.asyncDispose]();
  await eventually('the other leads', () => two.pushed.publisher.fence !== undefined);
  t.ok(await isPublished());
  t.equal(moved.ended, undefined);

  await etcd.wipe();
  await eventually('its record is written again', async () => {
    const record = await store.get('isthmus/registry/machines/db').catch(() => undefined);
    return record !== undefined && (await isPublished());
  });
  t.equal(moved.ended, undefined, 'its session went on');
  t.match(two.machines.get('db'), { state: 'connected', record: { labels: { app: 'db' } } });
});
