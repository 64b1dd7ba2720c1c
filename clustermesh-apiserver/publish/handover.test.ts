import { type Test, test } from 'tap';
import { describeEvent, openWatchLog, type WatchLog } from '../../mesh/testing/watch-log.ts';
import {
  eventually,
  openMemoryUnderTest,
  openPublishingRig,
  type PublishingRig,
  type RunningPublisher,
} from '../testing/publishing-rig.ts';

const pod = (name: string, ip: string, app = 'web'): string => `apiVersion: v1
kind: Pod
metadata: {name: ${name}, namespace: demo, labels: {app: ${app}}}
spec: {nodeName: n1}
status: {podIP: ${ip}, hostIP: 192.0.2.1}
`;
const NODE = `apiVersion: v1
kind: Node
metadata: {name: n1}
spec: {podCIDRs: [10.1.0.0/24]}
status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}
`;
const IPS = 'cilium/state/ip/v1/default/';
const SIGNS = /heartbeat|isthmus\/mesh\/|publisher-lock/;

async function open(t: Test): Promise<{ rig: PublishingRig; log: WatchLog }> {
  const rig = await openPublishingRig(t, openMemoryUnderTest());
  await rig.write(
    'a.yaml',
    [NODE, pod('web-0', '10.1.0.5'), pod('db-0', '10.1.0.6', 'db')].join('---\n'),
  );
  const log = openWatchLog(rig.reader, { prefix: 'cilium/' });
  t.teardown(() => log[Symbol.asyncDispose]());
  await log.until('the list', ({ of }) => of('synced').length > 0);
  return { rig, log };
}

async function markers(log: WatchLog): Promise<void> {
  const isMarker = (key: string): boolean => key.startsWith('cilium/synced/alpha/');
  await log.until('the markers', ({ held }) => [...held.keys()].filter(isMarker).length === 5);
}

function dataSince(log: WatchLog, from: number): string[] {
  return log.events
    .slice(from)
    .map(describeEvent)
    .filter((text) => !SIGNS.test(text));
}

const roleOf = (one: RunningPublisher): string => one.publisher.status.role.kind;

test('a restart takes the lease over and writes nothing that stands (promise 3)', async (t) => {
  const { rig, log } = await open(t);
  const first = await rig.start();
  await first.ready;
  const { id } = first.lease;
  await markers(log);
  await first[Symbol.asyncDispose]();
  const from = log.events.length;
  const second = await rig.start();
  await second.ready;
  t.equal(second.lease.id, id);
  await rig.write('b.yaml', pod('new', '10.1.0.7'));
  await log.until('the new pod', ({ held }) => held.has(`${IPS}10.1.0.7`));
  t.same(dataSince(log, from), [`put ${IPS}10.1.0.7`], 'not even a marker');
});

test('one publishes, the other stands by with all that it needs, and takes over at once', async (t) => {
  const { rig, log } = await open(t);
  const first = await rig.start();
  await first.ready;
  const second = await rig.start();
  await second.ready;
  t.same([roleOf(first), roleOf(second)], ['leading', 'standby']);
  t.match(second.publisher.status, { ready: true, endpoints: 2, identities: 2, keys: 0 });
  await markers(log);

  // While one is stopped in order, its directory gains a pod and loses one.
  const from = log.events.length;
  await rig.write('b.yaml', pod('new', '10.1.0.7', 'db'));
  await log.until('the new pod', ({ held }) => held.has(`${IPS}10.1.0.7`));
  await first[Symbol.asyncDispose]();
  await rig.remove('b.yaml');
  await log.until('the pod gone', ({ held }) => !held.has(`${IPS}10.1.0.7`));
  t.equal(roleOf(second), 'leading');
  t.same(dataSince(log, from), [`put ${IPS}10.1.0.7`, `delete ${IPS}10.1.0.7`]);
  t.equal((await rig.reader.get(`${IPS}10.1.0.5`))?.lease, second.lease.id);
});

test('replicas that see different manifests do not fight: only the one that leads is heard', async (t) => {
  const { rig, log } = await open(t);
  const first = await rig.start();
  await first.ready;
  const other = await openPublishingRig(t, rig.under);
  await other.write('a.yaml', [NODE, pod('other', '10.1.0.9')].join('---\n'));
  const second = await other.start();
  await second.ready;
  await markers(log);
  const from = log.events.length;
  await other.write('b.yaml', pod('more', '10.1.0.10', 'db'));
  await eventually('it is known there', () => second.publisher.status.endpoints === 2);
  await rig.write('b.yaml', pod('new', '10.1.0.7'));
  await log.until('the new pod', ({ held }) => held.has(`${IPS}10.1.0.7`));
  t.same(dataSince(log, from), [`put ${IPS}10.1.0.7`], 'what the standby has is not written');
  await first[Symbol.asyncDispose]();
  await log.until(
    'its view',
    ({ held }) => held.has(`${IPS}10.1.0.9`) && !held.has(`${IPS}10.1.0.5`),
  );
  const [keys, identities] = [await rig.read(IPS), await rig.read('isthmus/registry/identities/')];
  t.same([...keys.keys()], [`${IPS}10.1.0.10`, `${IPS}10.1.0.9`]);
  t.equal(identities.size, 2, 'the same labels have the same numbers');
});

test('a lock that is lost is sought again, and nothing is written anew', async (t) => {
  const { rig, log } = await open(t);
  const published = await rig.start();
  await published.ready;
  await markers(log);
  const from = log.events.length;
  t.equal(await rig.reader.deletePrefix('isthmus/registry/publisher-lock/'), 1);
  await rig.write('b.yaml', pod('new', '10.1.0.7'));
  await log.until('the new pod', ({ held }) => held.has(`${IPS}10.1.0.7`));
  t.same(dataSince(log, from), [`put ${IPS}10.1.0.7`]);
  t.equal(published.publisher.status.terms, 2);
});

test('of a wiped etcd everything is rebuilt, by whoever comes first, with the same numbers and markers last', async (t) => {
  const { rig } = await open(t);
  const publishers = [await rig.start(), await rig.start()];
  for (const one of publishers) await one.ready;
  const before = await rig.read('cilium/');
  await using log = openWatchLog(rig.reader, { prefix: 'cilium/' });
  await log.until('the list', ({ of }) => of('synced').length > 0);
  await rig.under.wipe();
  await eventually('everything', async () => {
    const now = await rig.read('cilium/');
    return [...before.keys()].every((key) => now.has(key));
  });
  const now = await rig.read('cilium/');
  for (const [key, value] of before) {
    if (!/heartbeat|synced/.test(key)) t.equal(now.get(key), value, key);
  }
  const { pairs } = await rig.reader.list('cilium/');
  const revisions = (pattern: RegExp): bigint[] =>
    pairs.filter(({ key }) => pattern.test(key)).map(({ modRevision }) => modRevision);
  const ofMarkers = revisions(/^cilium\/synced\//);
  t.equal(ofMarkers.length, 5);
  t.ok(revisions(/^cilium\/state\//).every((one) => ofMarkers.every((marker) => marker > one)));
  t.ok(
    revisions(/\/identities\/v1\/id\//).every((one) =>
      revisions(/\/ip\/v1\/default\//).every((address) => address > one),
    ),
    'identities before addresses',
  );
  await eventually('one leads', () => publishers.map(roleOf).sort().join() === 'leading,standby');
});
