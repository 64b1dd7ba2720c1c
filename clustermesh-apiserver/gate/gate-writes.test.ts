import { createPublicKey, generateKeyPairSync } from 'node:crypto';
import { type ServiceError, status } from '@grpc/grpc-js';
import { test } from 'tap';
import type { EtcdTls } from '../../mesh/kvstore/etcd-endpoint.ts';
import { etcdSkipReason } from '../../mesh/testing/etcd-server.ts';
import { createEnrollmentCa, issueForKey, type LeafOptions } from '../../pki/ca.ts';
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
import { openRawClient, type RawClient } from './testing/raw-client.ts';

const skip = etcdSkipReason(process.env);
const DENIED = 'etcdserver: permission denied';
const KEY = 'cilium/state/nodes/v1/alpha/n1';
const LEASED = 'cilium/state/nodes/v1/alpha/leased';
const LEASE_ID = '4711';
const EVERYTHING = { key: Buffer.from([0]), range_end: Buffer.from([0]) };

/** Every name that means something to somebody. */
const LEAVES: Readonly<Record<string, LeafOptions>> = {
  node: nodeLeaf('n1'),
  machine: machineLeaf('m1'),
  admin: adminLeaf('alpha'),
  local: localLeaf('alpha'),
  'remote-beta': remoteLeaf('beta'),
  'remote-gamma': remoteLeaf('gamma'),
  remote: remoteLeaf(),
  'admin of beta': adminLeaf('beta'),
  root: { commonName: 'root', usage: 'client' },
  somebody: { commonName: 'somebody', usage: 'client' },
  server: { ...serverLeaf('alpha'), usage: 'client' },
};
/** Who of them is let in, by the authority that vouches. */
const KNOWN: Readonly<Record<string, readonly string[]>> = {
  ours: ['node', 'machine', 'admin', 'local', 'remote-beta', 'remote-gamma', 'remote'],
  'our enrollment': ['node', 'machine', 'remote-beta', 'remote-gamma'],
  "the peer's": ['remote-beta', 'remote'],
  "the peer's enrollment": ['remote-beta'],
  "a stranger's": [],
};

/** Messages that write, or would if they got through: nested in one another as access rules of etcd itself have let them pass. */
function writes(): readonly (readonly [string, string, object])[] {
  const [key, value] = [Buffer.from(KEY), Buffer.from('mine')];
  const put = { request_put: { key, value } };
  const remove = { request_delete_range: { ...EVERYTHING } };
  const read = { request_range: { key } };
  const nested = (depth: number, op: object): object =>
    depth === 0 ? op : { request_txn: { success: [nested(depth - 1, op)] } };
  const txns = [put, remove, read].flatMap((op) => [
    { success: [op] },
    { failure: [op] },
    { success: [nested(1, op)] },
    { success: [read, nested(3, op)] },
  ]);
  return [
    ['KV', 'Put', put.request_put],
    ['KV', 'Put', { key, value, lease: LEASE_ID }],
    ['KV', 'Put', { key, ignore_value: true, lease: '0' }],
    ['KV', 'DeleteRange', { key }],
    ['KV', 'DeleteRange', EVERYTHING],
    ...txns.map((txn) => ['KV', 'Txn', txn] as const),
    ['KV', 'Compact', { revision: '1' }],
    ['KV', 'Compact', { revision: '3', physical: true }],
    ['Lease', 'LeaseLeases', {}],
    ['Lease', 'LeaseTimeToLive', { ID: LEASE_ID, keys: true }],
  ];
}

async function answerOf(call: Promise<unknown>): Promise<string> {
  try {
    await call;
    return 'done';
  } catch (error) {
    const { code, details } = error as ServiceError;
    return code === status.PERMISSION_DENIED ? details : String(status[code]);
  }
}

/** What is answered to every method that nobody may call, and to every message that writes; once for each answer. */
async function answersOf(client: RawClient): Promise<string[]> {
  const calls = [
    // Fields of other messages: whoever reads them before judging the caller fails otherwise.
    ...FORBIDDEN_METHODS.map(({ path }) =>
      client.sendBytes(path, Buffer.from([0x0a, 0x01, 0x00, 0x12, 0x01, 0x00])),
    ),
    ...writes().map(([service, method, request]) => client.call(service, method, request)),
  ];
  return [...new Set(await Promise.all(calls.map(answerOf)))];
}

test('raw writes with every kind of certificate', { skip, timeout: 180_000 }, async (t) => {
  const fixture = await openGateFixture();
  t.teardown(() => fixture[Symbol.asyncDispose]());
  const { own, beta, stranger } = fixture;
  const authorities = {
    ours: own,
    'our enrollment': await createEnrollmentCa(own),
    "the peer's": beta,
    "the peer's enrollment": await createEnrollmentCa(beta),
    "a stranger's": stranger,
  };
  // One key for all: what counts is who vouches for which name.
  const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
  const key = privateKey.export({ type: 'pkcs8', format: 'pem' }).toString();
  const tlsOf = (authority: keyof typeof authorities, leaf: LeafOptions): EtcdTls => {
    const publicKey = createPublicKey(privateKey);
    return { ca: own.root, cert: issueForKey(authorities[authority], { ...leaf, publicKey }), key };
  };
  const direct = fixture.direct();
  await direct.call('KV', 'Put', { key: Buffer.from(KEY), value: Buffer.from('ours') });
  await direct.call('Lease', 'LeaseGrant', { ID: LEASE_ID, TTL: '600' });
  const leased = { key: Buffer.from(LEASED), value: Buffer.from('ours'), lease: LEASE_ID };
  await direct.call('KV', 'Put', leased);
  /** All that can be seen of etcd from inside: keys with their revisions, leases, members, alarms. */
  const stateOfEtcd = async (): Promise<unknown> => {
    const { kvs, header } = (await direct.call('KV', 'Range', EVERYTHING)) as {
      kvs: unknown;
      header: { revision: string };
    };
    const { leases } = await direct.call('Lease', 'LeaseLeases', {});
    // History is whole: a compaction would make this an error.
    await direct.call('KV', 'Range', { ...EVERYTHING, revision: '2' });
    return { kvs, revision: header.revision, leases };
  };
  const before = await stateOfEtcd();

  for (const authority of Object.keys(authorities) as (keyof typeof authorities)[]) {
    for (const [name, leaf] of Object.entries(LEAVES)) {
      using client = openRawClient(fixture.endpoint, tlsOf(authority, leaf));
      const heartbeat = await answerOf(
        client.call('KV', 'Range', { key: Buffer.from('cilium/.heartbeat') }),
      );
      const isKnown = KNOWN[authority]?.includes(name) ?? false;
      const who = `${name}, by ${authority} authority`;
      // Nobody who knows the authority speaks to etcd's words at all: the connection is refused.
      const isConnected = isKnown || heartbeat === DENIED;
      t.equal(heartbeat, isKnown ? 'done' : isConnected ? DENIED : 'UNAVAILABLE', who);
      t.equal(isConnected, authority !== "a stranger's", `${who}: gets a connection`);
      t.same(await answersOf(client), [isConnected ? DENIED : 'UNAVAILABLE'], `${who}: writes`);
      if (!isConnected) continue;
      // Leases at the gate are none of etcd's (empty-lease.ts): what is granted and revoked is looked for below.
      const granted = await answerOf(client.call('Lease', 'LeaseGrant', { TTL: '60' }));
      t.equal(granted, isKnown ? 'done' : DENIED, `${who}: a lease`);
      const revoked = await answerOf(client.call('Lease', 'LeaseRevoke', { ID: LEASE_ID }));
      t.equal(revoked, isKnown ? 'done' : DENIED, `${who}: somebody else's lease`);
    }
  }
  t.same(await stateOfEtcd(), before, 'etcd is as it was, no lease more and none less');

  await t.test('by etcdctl', async (t) => {
    const callers = {
      'an enrolled machine': tlsOf('our enrollment', LEAVES.machine!),
      'the administrator': tlsOf('ours', LEAVES.admin!),
      'a peer': tlsOf("the peer's", LEAVES['remote-beta']!),
    };
    const commands = [
      ['put', KEY, 'mine'],
      ['put', KEY, 'mine', `--lease=${Number(LEASE_ID).toString(16)}`],
      ['del', KEY],
      ['del', '--from-key', ''],
      ['compact', '3', '--physical'],
      ['lease', 'list'],
      ['lease', 'timetolive', Number(LEASE_ID).toString(16), '--keys'],
      ['user', 'add', 'root:secret'],
      ['role', 'add', 'root'],
      ['role', 'grant-permission', 'root', 'readwrite', '--prefix', ''],
      ['auth', 'enable'],
      ['member', 'list'],
      ['member', 'add', 'mine', '--peer-urls=https://127.0.0.1:1'],
      ['member', 'remove', '1'],
      ['alarm', 'disarm'],
      ['defrag'],
      ['endpoint', 'hashkv'],
      ['move-leader', '1'],
      ['snapshot', 'save', fixture.dir.file('snapshot')],
      ['lock', 'mine', 'true'],
      ['elect', 'mine', 'me'],
    ];
    for (const args of commands) {
      await Promise.all(
        Object.entries(callers).map(async ([who, tls]) => {
          const { code, output } = await fixture.etcdctl(tls, ...args);
          t.not(code, 0, `${who}: ${args.join(' ')}`);
          t.match(output, DENIED, `${who}: ${args.join(' ')}`);
        }),
      );
    }
    t.same(await stateOfEtcd(), before, 'etcd is as it was');
  });
});
