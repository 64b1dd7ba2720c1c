import { test } from 'tap';
import type { KvPair } from '../kvstore/kvstore.ts';
import { createLogger } from '../runtime/log.ts';
import { type ClusterName, parseClusterId, parseClusterName } from '../wire/ids.ts';
import { parseIpAddress } from '../wire/ip.ts';
import { createAnnounced, type PeerCidrMode } from './announced.ts';
import type { MeshKind } from './cluster-sink.ts';
import { createPeerIntake, type IntakeLimits } from './peer-intake.ts';
import { publishCluster } from './testing/published-cluster.ts';
import { createRecordingSink } from './testing/recording-sink.ts';

const BETA = parseClusterName('beta');
const PREFIXES: Partial<Record<MeshKind, string>> = {
  nodes: 'cilium/state/nodes/v1/beta/',
  ips: 'cilium/state/ip/v1/default/',
  identities: 'cilium/state/identities/v1/id/',
  services: 'cilium/state/services/v1/beta/',
};

/** An intake of beta (2), and a store in which what it is told is made. */
function open(options: { limits?: IntakeLimits; mode?: PeerCidrMode; own?: ClusterName } = {}) {
  const { mode = 'learn', limits = {} } = options;
  const announced = createAnnounced({ own: parseClusterName('alpha'), mode });
  const sink = createRecordingSink();
  const intake = createPeerIntake({
    cluster: BETA,
    isOwn: false,
    sink,
    announced,
    limits,
    logger: createLogger('test', { level: 'silent' }),
  });
  const ref = { name: BETA, id: parseClusterId(2), own: false };
  const accept = { name: BETA, id: ref.id, max: 255 as const, own: false, nodeIps: [] };
  intake.begin(ref, accept, (kind) => PREFIXES[kind] ?? '');
  const cluster = publishCluster('beta', 2);
  const pairOf = async (key: string): Promise<KvPair> => (await cluster.store.get(key))!;
  let now = 0;
  const settle = (): void => void intake.settle(now);
  const put = async (kind: MeshKind, suffix: string): Promise<boolean> => {
    const isUsed = intake.put(kind, await pairOf(PREFIXES[kind] + suffix));
    settle();
    return isUsed;
  };
  return {
    announced,
    sink,
    intake,
    cluster,
    settle,
    put,
    reasons: () => intake.refusals.status().byReason,
    async node(name: string, ip: string) {
      await cluster.node(name, ip);
      return put('nodes', name);
    },
    async ip(ip: string, host: string | null) {
      await cluster.ip(ip, { host, local: 300 });
      return put('ips', ip);
    },
    async service(name: string, addresses: readonly string[]) {
      await cluster.service(name, Object.fromEntries(addresses.map((ip) => [ip, 80])));
      return put('services', `demo/${name}`);
    },
    remove(kind: MeshKind, suffix: string) {
      intake.remove(kind, PREFIXES[kind] + suffix);
      settle();
    },
    backends: (name: string) => {
      const value = sink.held.get(`service demo/${name}`);
      return value !== undefined && 'backends' in value ? [...value.backends.keys()] : [];
    },
    expire(milliseconds: number) {
      now += milliseconds;
      intake.expire(now, () => 'current');
      settle();
    },
  };
}

test('an address waits for its node, and comes with it', async (t) => {
  const rig = open();
  t.equal(await rig.ip('10.2.0.5', '198.51.100.1'), false);
  t.same(rig.reasons(), { 'host-unknown': 1 });
  t.match(rig.intake.refusals.status().examples, [
    { reason: 'host-unknown', message: /198\.51\.100\.1 is no node or machine of cluster beta/ },
  ]);
  t.same([...rig.sink.held.keys()], []);
  await rig.node('n1', '198.51.100.1');
  t.ok(rig.sink.held.has('ip 10.2.0.5/32'));
  t.same(rig.reasons(), {});
});

test('a node that goes takes its addresses along after a while, and brings them back', async (t) => {
  const rig = open({ limits: { hostGraceMs: 1000 } });
  await rig.node('n1', '198.51.100.1');
  await rig.ip('10.2.0.5', '198.51.100.1');
  rig.remove('nodes', 'n1');
  rig.expire(0);
  rig.expire(999);
  t.ok(rig.sink.held.has('ip 10.2.0.5/32'), 'for a moment it stays');
  await rig.node('n1', '198.51.100.1');
  rig.expire(5000);
  t.ok(rig.sink.held.has('ip 10.2.0.5/32'), 'a record that was written anew costs nothing');
  t.notOk(rig.sink.log.includes('-ip 10.2.0.5/32'));
  rig.remove('nodes', 'n1');
  rig.expire(1000);
  t.notOk(rig.sink.held.has('ip 10.2.0.5/32'));
  t.same(rig.reasons(), { 'host-unknown': 1 });
  await rig.node('n2', '198.51.100.1');
  const [key, ...others] = rig.intake.takeWanted();
  t.same(
    [key, others],
    ['cilium/state/ip/v1/default/10.2.0.5', []],
    'its value is to be read again',
  );
  rig.intake.offer((await rig.cluster.store.get(key!))!);
  t.ok(rig.sink.held.has('ip 10.2.0.5/32'));
});

test('what is behind a machine waits for it, and goes with it after a while', async (t) => {
  const rig = open({ limits: { hostGraceMs: 1000 } });
  t.equal(await rig.ip('172.18.0.2', '198.51.100.9'), false);
  t.match(rig.intake.refusals.status().examples, [{ reason: 'host-unknown' }]);
  t.equal(await rig.ip('198.51.100.9', '198.51.100.9'), true, 'a machine is its own host');
  t.ok(rig.sink.held.has('ip 172.18.0.2/32'));
  t.same(rig.reasons(), {});
  t.equal(await rig.ip('198.51.100.9', '198.51.100.9'), true, 'told again');
  t.equal(await rig.ip('172.18.0.3', '198.51.100.9'), true);
  t.equal(await rig.ip('172.18.0.4', '172.18.0.3'), false, 'nothing is behind what is behind it');
  rig.remove('ips', '198.51.100.9');
  rig.expire(0);
  rig.expire(999);
  t.ok(rig.sink.held.has('ip 172.18.0.2/32'), 'for a moment it stays');
  rig.expire(1000);
  t.notOk(rig.sink.held.has('ip 172.18.0.2/32'));
  t.notOk(rig.sink.held.has('ip 172.18.0.3/32'));
});

test('what was read again is of no use when something newer came meanwhile', async (t) => {
  const rig = open({ limits: { hostGraceMs: 0 } });
  await rig.node('n1', '198.51.100.1');
  await rig.ip('10.2.0.5', '198.51.100.1');
  rig.remove('nodes', 'n1');
  rig.expire(1);
  await rig.node('n1', '198.51.100.1');
  const [key] = rig.intake.takeWanted();
  const old = (await rig.cluster.store.get(key!))!;
  rig.remove('ips', '10.2.0.5');
  rig.intake.offer(old);
  t.notOk(rig.sink.held.has('ip 10.2.0.5/32'), 'it was deleted');
});

test('reserved identities are for addresses of nodes', async (t) => {
  const rig = open();
  const put = async (ip: string, identity: number): Promise<boolean> => {
    const value = JSON.stringify({
      IP: ip,
      Mask: null,
      HostIP: '198.51.100.1',
      ID: identity,
      Key: 0,
      Metadata: '',
    });
    await rig.cluster.store.put(PREFIXES.ips + ip, value);
    return rig.put('ips', ip);
  };
  await rig.node('n1', '198.51.100.1');
  t.equal(await put('198.51.100.1', 1), true, 'its host');
  for (const identity of [1, 4, 6, 8])
    t.equal(await put('10.2.0.9', identity), false, String(identity));
  t.same(rig.reasons(), { 'reserved-not-node': 1 });
  for (const identity of [2, 3, 5, 7, 9, 255])
    t.equal(await put('198.51.100.1', identity), false, String(identity));
  t.same(rig.reasons(), { 'reserved-not-node': 1, 'identity-reserved': 1 });
});

test('a machine is its own host, and others are where a person says so', async (t) => {
  const rig = open();
  t.equal(await rig.ip('192.0.2.77', '192.0.2.77'), true);
  t.equal(await rig.ip('10.2.0.5', '192.0.2.78'), false);
  const range = parseIpAddress('192.0.2.0');
  rig.announced.setLists(
    new Map([
      [BETA, { pods: [`10.2.0.0/16`], nodes: [], services: [], machines: [`${range}/24`] }],
    ]) as never,
  );
  t.equal(await rig.ip('10.2.0.5', '192.0.2.78'), true);
});

test('a backend counts while its address is in the tables of its cluster', async (t) => {
  const rig = open();
  await rig.service('web', ['10.2.0.5', '10.2.0.6', '198.51.100.1']);
  t.same(rig.backends('web'), []);
  t.match(rig.intake.backends, { missing: 3 });
  await rig.node('n1', '198.51.100.1');
  t.same(rig.backends('web'), ['198.51.100.1'], 'as with pods on the network of their host');
  await rig.ip('10.2.0.5', '198.51.100.1');
  t.same(rig.backends('web'), ['10.2.0.5', '198.51.100.1']);
  rig.remove('ips', '10.2.0.5');
  t.same(rig.backends('web'), ['198.51.100.1']);
  rig.remove('services', 'demo/web');
  t.match(rig.intake.backends, { missing: 0 });
  t.notOk(rig.sink.held.has('service demo/web'));
});

test("an address that turns out to be another cluster's is taken back, and may be had when that one lets go", async (t) => {
  const rig = open();
  await rig.node('n1', '198.51.100.1');
  await rig.ip('10.2.0.5', '198.51.100.1');
  await rig.ip('10.3.0.5', '198.51.100.1');
  const alpha = parseClusterName('alpha');
  const own = publishCluster('alpha', 1);
  await own.node('a1', '10.3.0.5');
  const { decodeNode } = await import('../wire/node.ts');
  const key = 'cilium/state/nodes/v1/alpha/a1';
  rig.announced.setNode(alpha, 'a1', decodeNode((await own.store.get(key))!.value, key));
  t.equal([...rig.intake.rejudge({ everything: true })].length, 2, 'a step for each address');
  t.notOk(rig.sink.held.has('ip 10.3.0.5/32'));
  t.ok(rig.sink.held.has('ip 10.2.0.5/32'));
  t.same(rig.reasons(), { 'address-ours': 1 });
  t.equal(await rig.ip('10.3.0.5', '198.51.100.1'), false);
  rig.announced.setNode(alpha, 'a1', undefined);
  t.equal(await rig.ip('10.3.0.5', '198.51.100.1'), true);
  t.same(rig.reasons(), {});
});

test('what lies in the own ranges is not looked at again, unless one of them was lost', async (t) => {
  const rig = open();
  await rig.node('n1', '198.51.100.1');
  rig.announced.setLists(
    new Map([[BETA, { pods: ['10.2.0.0/16'], nodes: [], services: [], machines: [] }]]) as never,
  );
  await rig.ip('10.2.0.5', '198.51.100.1');
  await rig.ip('10.2.0.6', '198.51.100.1');
  const looks = (everything: boolean): number => [...rig.intake.rejudge({ everything })].length;
  t.equal(looks(false), 0);
  t.equal(looks(true), 0, 'all of them are inside');
  rig.announced.setLists(new Map());
  t.equal(looks(false), 0, 'who does not know of the loss does not look');
  t.equal(looks(true), 2);
  t.equal(looks(false), 2, 'and then it is known');
  rig.remove('ips', '10.2.0.5');
  t.equal(looks(false), 1);
});

test('more keys than are allowed, and larger values, are refused and counted; what was there stays', async (t) => {
  const rig = open({ limits: { maxKeys: 3 } });
  await rig.node('n1', '198.51.100.1');
  for (const last of [1, 2, 3, 4, 5]) await rig.ip(`10.2.0.${last}`, '198.51.100.1');
  t.same(rig.reasons(), { 'too-many-keys': 2 });
  t.equal(rig.intake.holdings.count('ips'), 3);
  t.equal(await rig.ip('10.2.0.1', '198.51.100.1'), true, 'one that is held may change');
  rig.remove('ips', '10.2.0.1');
  t.equal(await rig.ip('10.2.0.4', '198.51.100.1'), true, 'one that goes makes room');
  const key = `${PREFIXES.ips}10.2.0.2`;
  const large = { key, value: Buffer.alloc(64 * 1024 + 1), modRevision: 9n, lease: 0n };
  t.equal(rig.intake.put('ips', large), false);
  t.equal(rig.reasons()['value-too-large'], 1);
  t.ok(rig.sink.held.has('ip 10.2.0.2/32'), 'what was good before stays');
});

test('draining takes everything back, waiting and held back alike', async (t) => {
  const rig = open();
  await rig.node('n1', '198.51.100.1');
  await rig.ip('10.2.0.5', '198.51.100.1');
  await rig.ip('10.2.0.6', '198.51.100.9');
  await rig.service('web', ['10.2.0.5']);
  rig.intake.drain(['nodes', 'identities', 'ips', 'services']);
  t.same([...rig.sink.held.keys()], []);
  t.same(rig.reasons(), {});
  t.same(rig.announced.learned(BETA), []);
  t.match(rig.intake.backends, { missing: 0 });
});
