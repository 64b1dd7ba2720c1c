import { type ServiceError, status } from '@grpc/grpc-js';
import { test } from 'tap';
import { etcdSkipReason } from '../../mesh/testing/etcd-server.ts';
import { type CertificateAuthority, createEnrollmentCa, type LeafOptions } from '../../pki/ca.ts';
import {
  adminLeaf,
  localLeaf,
  machineLeaf,
  nodeLeaf,
  remoteLeaf,
  serverLeaf,
} from '../../pki/names.ts';
import { FORBIDDEN_METHODS } from './etcd-methods.ts';
import { openGateFixture } from './testing/gate-fixture.ts';
import type { RawClient } from './testing/raw-client.ts';

const skip = etcdSkipReason(process.env);

/** One key in each part of the key space. */
const KEYS = [
  'cilium/.heartbeat',
  'cilium/state/nodes/v1/alpha/n1',
  'cilium/cache/nodes/v1/beta/n1',
  'cilium/cluster-config/alpha',
  'cilium/cluster-config/beta',
  'cilium/synced/alpha/cilium/state/nodes/v1',
  'cilium/synced/beta/cilium/cache/nodes/v1',
  'isthmus/mesh/stamp',
  'isthmus/local/services/demo/web',
  'isthmus/local/other/1',
  'isthmus/registry/machines/vm1',
  'isthmus/registry/tokens/1',
  'other',
];
const FOR_REMOTE = [KEYS[0], KEYS[1], KEYS[3], KEYS[5], KEYS[7]];
const FOR_LOCAL = [KEYS[0], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7]];
const FOR_NODE = KEYS.slice(0, 9);
const FOR_ADMIN = KEYS.slice(0, 10);

async function codeOf(call: Promise<unknown>): Promise<string> {
  try {
    await call;
    return 'OK';
  } catch (error) {
    const { code, details } = error as ServiceError;
    return code === status.PERMISSION_DENIED ? details : `${status[code]}: ${details}`;
  }
}

const DENIED = 'etcdserver: permission denied';

test('who may read what through the gate', { skip, timeout: 120_000 }, async (t) => {
  const fixture = await openGateFixture();
  t.teardown(() => fixture[Symbol.asyncDispose]());
  const { own, beta } = fixture;
  const [enrollment, betaEnrollment] = [
    await createEnrollmentCa(own),
    await createEnrollmentCa(beta),
  ];
  const direct = fixture.direct();
  for (const key of KEYS) {
    await direct.call('KV', 'Put', {
      key: Buffer.from(key),
      value: Buffer.from(`value of ${key}`),
    });
  }
  const get = (client: RawClient, key: string): Promise<string> =>
    codeOf(client.call('KV', 'Range', { key: Buffer.from(key) }));

  const callers: [string, CertificateAuthority, LeafOptions, (string | undefined)[]][] = [
    ['a node', own, nodeLeaf('n1'), FOR_NODE],
    ['a machine', own, machineLeaf('vm1'), FOR_NODE],
    ['our administrator', own, adminLeaf('alpha'), FOR_ADMIN],
    ['a reader of the mirror', own, localLeaf('alpha'), FOR_LOCAL],
    ['a peer by its own CA', beta, remoteLeaf('beta'), FOR_REMOTE],
    ['a peer without a name', beta, remoteLeaf(), FOR_REMOTE],
    ['a peer by our CA', own, remoteLeaf('gamma'), FOR_REMOTE],
    ["a peer's CA that makes a node", beta, nodeLeaf('n1'), []],
    ["a peer's CA that makes a machine", beta, machineLeaf('vm1'), []],
    ["a peer's CA that makes our administrator", beta, adminLeaf('alpha'), []],
    ["a peer's CA that makes a local reader", beta, localLeaf('alpha'), []],
    ["a peer's CA that makes another peer", beta, remoteLeaf('gamma'), []],
    ['an administrator of another cluster', own, adminLeaf('beta'), []],
    ['a local reader of another cluster', own, localLeaf('beta'), []],
    ["etcd's own administrator", own, { commonName: 'root', usage: 'client' }, []],
    ['an unknown name', own, { commonName: 'somebody', usage: 'client' }, []],
    ['an enrolled node', enrollment, nodeLeaf('n2'), FOR_NODE],
    ['an enrolled machine', enrollment, machineLeaf('vm2'), FOR_NODE],
    ['an enrolled peer', enrollment, remoteLeaf('gamma'), FOR_REMOTE],
    ['a peer enrolled at home', betaEnrollment, remoteLeaf('beta'), FOR_REMOTE],
    ['an enrolled administrator', enrollment, adminLeaf('alpha'), []],
    ['an enrolled reader of the mirror', enrollment, localLeaf('alpha'), []],
    ['an enrolled peer without a name', enrollment, remoteLeaf(), []],
    ['an enrolled server', enrollment, { ...serverLeaf('alpha'), usage: 'client' }, []],
    ["a peer's enrolled node", betaEnrollment, nodeLeaf('n1'), []],
  ];
  for (const [who, ca, leaf, allowed] of callers) {
    const client = await fixture.client(ca, leaf);
    const answers = await Promise.all(KEYS.map((key) => get(client, key)));
    t.same(
      KEYS.filter((_key, index) => answers[index] === 'OK'),
      allowed,
      who,
    );
    t.ok(
      answers.every((answer) => answer === 'OK' || answer === DENIED),
      `${who} is refused in the words of etcd`,
    );
  }

  const node = await fixture.client(own, nodeLeaf('n1'));
  const peer = await fixture.client(beta, remoteLeaf('beta'));

  await t.test('allowed reads are, byte for byte, what etcd answers', async (t) => {
    const state = {
      key: Buffer.from('cilium/state/'),
      range_end: Buffer.from('cilium/state0'),
    };
    const requests = [
      state,
      { ...state, limit: '1', sort_order: 'DESCEND', sort_target: 'MOD' },
      { ...state, count_only: true },
      { ...state, keys_only: true, serializable: true, revision: '3' },
      { key: Buffer.from('cilium/state/nothing') },
      { ...state, min_mod_revision: '2', max_mod_revision: '9', max_create_revision: '5' },
    ];
    for (const request of requests) {
      const expected = await direct.callBytes('KV', 'Range', request);
      t.same(await peer.callBytes('KV', 'Range', request), expected);
    }
  });

  await t.test('ranges that reach out of what is allowed are refused', async (t) => {
    const ranges: [string, string][] = [
      ['cilium/state/', '\0'],
      ['\0', '\0'],
      ['', '\0'],
      ['', ''],
      ['cilium/', 'cilium0'],
      ['cilium/state/', 'cilium/t'],
      ['cilium/cluster-config/', 'cilium/cluster-config0'],
      ['cilium/cluster-config/alpha', 'cilium/cluster-config/b'],
      ['cilium/synced/', 'cilium/synced0'],
      ['cilium/cache/', 'cilium/cache0'],
      ['cilium/state', ''],
      ['isthmus/local/', 'isthmus/local0'],
      ['isthmus/mesh/', 'isthmus/n'],
    ];
    for (const [key, end] of ranges) {
      const request = { key: Buffer.from(key), range_end: Buffer.from(end) };
      t.equal(await codeOf(peer.call('KV', 'Range', request)), DENIED, JSON.stringify([key, end]));
    }
  });

  await t.test('a request that two readers could understand differently', async (t) => {
    const encoded = (key: string): Buffer =>
      Buffer.concat([Buffer.from([0x0a, key.length]), Buffer.from(key)]);
    const path = '/etcdserverpb.KV/Range';
    // The last of several equal fields counts, here and in etcd.
    const twice = Buffer.concat([encoded('cilium/state/x'), encoded('other')]);
    t.equal(await codeOf(peer.sendBytes(path, twice)), DENIED);
    const other = Buffer.concat([encoded('other'), encoded('cilium/state/nodes/v1/alpha/n1')]);
    const answer = await peer.sendBytes(path, other);
    t.match(answer.toString(), 'value of cilium/state/nodes');
    t.notMatch(answer.toString(), 'value of other');
    // A group, of a kind that protobuf had once.
    const group = Buffer.concat([encoded('cilium/state/x'), Buffer.from([0x73, 0x74])]);
    t.match(await codeOf(peer.sendBytes(path, group)), /INVALID_ARGUMENT/);
    t.match(await codeOf(peer.sendBytes(path, Buffer.from([0x0a]))), /INVALID_ARGUMENT/);
  });

  await t.test('nothing but reading passes', async (t) => {
    const put = { request_put: { key: Buffer.from('cilium/state/x'), value: Buffer.from('x') } };
    const nested = {
      success: [{ request_txn: { success: [put] } }],
    };
    const read = { success: [{ request_range: { key: Buffer.from('cilium/state/x') } }] };
    const calls: [string, string, object][] = [
      ['KV', 'Put', put.request_put],
      ['KV', 'DeleteRange', { key: Buffer.from('cilium/state/x') }],
      ['KV', 'Txn', nested],
      ['KV', 'Txn', read],
      ['KV', 'Compact', { revision: '3' }],
      ['Lease', 'LeaseLeases', {}],
      ['Lease', 'LeaseTimeToLive', { ID: '1', keys: true }],
    ];
    for (const [service, method, request] of calls) {
      t.equal(await codeOf(node.call(service, method, request)), DENIED, method);
    }
    for (const { path, responseStream } of FORBIDDEN_METHODS) {
      if (responseStream) continue;
      t.equal(await codeOf(node.sendBytes(path, Buffer.alloc(0))), DENIED, path);
    }
    t.match(await codeOf(node.sendBytes('/etcdserverpb.KV/New', Buffer.alloc(0))), /UNIMPLEMENTED/);
    const { count } = await direct.call('KV', 'Range', { key: Buffer.from('cilium/state/x') });
    t.equal(count, undefined, 'nothing was written');
  });

  await t.test('the state of etcd may be asked for', async (t) => {
    const answer = await peer.call('Maintenance', 'Status', {});
    t.match(answer.version, /^3\./);
    const stranger = await fixture.client(own, { commonName: 'somebody', usage: 'client' });
    t.equal(await codeOf(stranger.call('Maintenance', 'Status', {})), DENIED);
  });

  await t.test('a lease is granted that etcd never hears of', async (t) => {
    const { ID: id, TTL: ttl } = await peer.call('Lease', 'LeaseGrant', { TTL: '25' });
    t.equal(ttl, '25');
    t.same((await direct.call('Lease', 'LeaseLeases', {})).leases ?? [], [], 'etcd has none');
    const put = { key: Buffer.from('cilium/.initlock/x'), value: Buffer.from('x'), lease: id };
    t.equal(await codeOf(peer.call('KV', 'Put', put)), DENIED, 'nothing can hang on it');
    await peer.call('Lease', 'LeaseRevoke', { ID: id });
    const stranger = await fixture.client(own, { commonName: 'somebody', usage: 'client' });
    t.equal(await codeOf(stranger.call('Lease', 'LeaseGrant', { TTL: '25' })), DENIED);
  });

  await t.test('refusals are counted by reason, with the latest of each', (t) => {
    const { refused, clients } = fixture.gate.status;
    t.ok((refused['outside-range']?.count ?? 0) >= 13);
    t.equal(refused['outside-range']?.last.caller, 'remote-beta');
    t.ok((refused['unknown-name']?.count ?? 0) >= 9 * KEYS.length);
    t.ok((refused['forbidden-method']?.count ?? 0) >= FORBIDDEN_METHODS.length - 3);
    t.equal(refused['name-beyond-enrollment']?.count, 4 * KEYS.length);
    t.equal(refused.malformed?.count, 2);
    t.match(
      clients.find(({ name }) => name === 'remote-beta'),
      { kind: 'remote', peers: ['beta'], connections: Number },
    );
    t.end();
  });
});

test('etcdctl at the gate', { skip, timeout: 120_000 }, async (t) => {
  const fixture = await openGateFixture();
  t.teardown(() => fixture[Symbol.asyncDispose]());
  const direct = fixture.direct();
  for (const key of KEYS) {
    await direct.call('KV', 'Put', { key: Buffer.from(key), value: Buffer.from('some value') });
  }
  const peer = await fixture.tls(fixture.beta, remoteLeaf('beta'));
  const stranger = await fixture.tls(fixture.stranger, remoteLeaf('beta'));
  const expired = await fixture.tls(fixture.own, {
    ...nodeLeaf('n1'),
    notBefore: Date.now() - 7_200_000,
    notAfter: Date.now() - 3_600_000,
  });
  const bare = { ...peer, cert: '', key: '' };

  const list = await fixture.etcdctl(peer, 'get', '--prefix', 'cilium/state/');
  t.same(list, { code: 0, output: 'cilium/state/nodes/v1/alpha/n1\nsome value\n' });
  t.equal((await fixture.etcdctl(peer, 'endpoint', 'status')).code, 0);
  t.equal((await fixture.etcdctl(peer, 'endpoint', 'health')).code, 0);

  const { output: granted } = await fixture.etcdctl(peer, 'lease', 'grant', '60');
  const lease = /^lease ([0-9a-f]+) granted with TTL\(60s\)/.exec(granted)?.[1];
  t.ok(lease, granted);
  const keeping = await fixture.etcdctl(peer, 'lease', 'keep-alive', '--once', String(lease));
  t.match(keeping.output, /keepalived with TTL\(60\)/, 'a session of an older Cilium stands');
  const unknown = await fixture.etcdctl(peer, 'lease', 'keep-alive', '--once', '1');
  t.match(unknown.output, /requested lease not found/);

  // What writes is tried in gate-writes.test.ts.
  const refused = [
    ['get', '--prefix', ''],
    ['get', '--prefix', 'isthmus/local/'],
    ['user', 'list'],
  ];
  for (const args of refused) {
    const { code, output } = await fixture.etcdctl(peer, ...args);
    t.not(code, 0, args.join(' '));
    t.match(output, 'etcdserver: permission denied');
  }
  for (const [who, material] of Object.entries({ bare, stranger, expired })) {
    const { code, output } = await fixture.etcdctl(material, 'get', 'cilium/.heartbeat');
    t.not(code, 0, `${who} gets no connection`);
    t.notMatch(output, 'some value');
  }
  const counts = fixture.gate.status.refused;
  t.ok(counts['no-certificate']);
  t.ok(counts['untrusted-certificate']);
  t.ok(counts['expired-certificate']);
});
