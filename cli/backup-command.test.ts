import { readFile, stat, writeFile } from 'node:fs/promises';
import { Readable } from 'node:stream';
import { type Test, test } from 'tap';
import { createIdentityAllocator } from '../clustermesh-apiserver/publish/identities.ts';
import { ALLOCATIONS_PREFIX } from '../clustermesh-apiserver/publish/identity-places.ts';
import { createBackups } from '../clustermesh-apiserver/registry/backup.ts';
import { createMachineBook } from '../clustermesh-apiserver/registry/machine-book.ts';
import { createNodeBook } from '../clustermesh-apiserver/registry/node-book.ts';
import { createPolicyBoard } from '../clustermesh-apiserver/registry/policy-board.ts';
import { listenRegistry } from '../clustermesh-apiserver/registry/registry.ts';
import { createTokenBook } from '../clustermesh-apiserver/registry/token-book.ts';
import { TOKENS_PREFIX } from '../clustermesh-apiserver/registry/token-record.ts';
import { parseTokenWish } from '../clustermesh-apiserver/registry/token-wish.ts';
import { openEtcd } from '../mesh/kvstore/etcd.ts';
import type { KvStore } from '../mesh/kvstore/kvstore.ts';
import { systemClock } from '../mesh/runtime/clock.ts';
import { createLogger } from '../mesh/runtime/log.ts';
import { etcdSkipReason, openEtcdServer } from '../mesh/testing/etcd-server.ts';
import { openTempDir } from '../mesh/testing/temp-dir.ts';
import { encodeLabels, labelsFromRecord } from '../mesh/wire/identity.ts';
import { parseClusterId, parseClusterName } from '../mesh/wire/ids.ts';
import { createCa, issueCertificate } from '../pki/ca.ts';
import { writeSecret } from '../pki/layout.ts';
import { adminLeaf, nodeLeaf, serverLeaf } from '../pki/names.ts';
import { backupCommand, restoreCommand } from './backup-command.ts';
import { EXIT_CODES } from './cli-error.ts';
import { errorLines, exitCodeOf } from './exit-code.ts';

const skip = etcdSkipReason(process.env);
const signal = new AbortController().signal;
const logger = createLogger('test', { level: 'silent' });
const clock = systemClock;
const DAY_MS = 86_400_000;
const WORDS = 'a passphrase of some length';

async function openSite(t: Test) {
  const dir = await openTempDir('backup');
  t.teardown(() => dir[Symbol.asyncDispose]());
  const ca = await createCa();
  const write = async (name: string, leaf: Parameters<typeof issueCertificate>[1]) =>
    writeSecret(dir.path, name, { ca: ca.root, pair: await issueCertificate(ca, leaf) });
  const server = await write('server', serverLeaf('alpha'));
  await write('admin', adminLeaf('alpha'));
  await write('node', nodeLeaf('n1'));
  const passphraseFile = dir.file('passphrase');
  await writeFile(passphraseFile, `${WORDS}\n`);

  /** A registry of a cluster with an etcd of its own, which is empty. */
  const start = async (name = 'alpha') => {
    const etcd = await openEtcdServer();
    const store: KvStore = await openEtcd({ endpoints: [etcd.endpoint] });
    const cluster = { name: parseClusterName(name), id: parseClusterId(1, 255) };
    const node = { publish: () => undefined, findConflict: () => undefined };
    const registry = await listenRegistry({
      address: { host: '127.0.0.1', port: 0 },
      files: { certFile: server.certificate, keyFile: server.privateKey, ownCaFile: server.ca },
      clusterName: 'alpha',
      book: createNodeBook({ ...node, store, graceMs: 1000, clock, logger }),
      policies: createPolicyBoard({ store, isHere: () => false, clock, logger }),
      backups: createBackups({ store, cluster, maxConnectedClusters: 255, clock, logger }),
      signal,
      logger,
    });
    const stop = async (): Promise<void> => {
      await registry[Symbol.asyncDispose]();
      await store[Symbol.asyncDispose]();
      await etcd[Symbol.asyncDispose]();
    };
    const machines = createMachineBook({
      store,
      clock,
      logger,
      graceMs: 60_000,
      publish: () => undefined,
      findConflict: () => undefined,
      ownAddresses: () => [],
      checksOf: () => [],
    });
    const allocator = createIdentityAllocator({
      store,
      cluster: cluster.name,
      clusterId: cluster.id,
      maxConnectedClusters: 255,
    });
    await allocator.load(signal);
    return {
      store,
      stop,
      machines,
      allocator,
      tokens: createTokenBook({ store, clock, logger }),
      port: registry.address.port,
    };
  };
  const run = async (
    command: 'backup' | 'restore',
    options: { port: number; as?: string; passphrase?: string; file?: string },
  ): Promise<{ code: number; output: string }> => {
    const { port, as = 'admin', passphrase, file = dir.file('saved') } = options;
    const printed: string[] = [];
    const result = { code: 0 };
    const make = command === 'backup' ? backupCommand : restoreCommand;
    const program = make({
      input: Readable.from([Buffer.from(`${passphrase ?? ''}\n`)]),
      print: (line) => printed.push(line),
      setProblem: () => {
        result.code = EXIT_CODES.problem;
      },
      signal,
    });
    const registryFlags = ['--registry', `127.0.0.1:${port}`, '--certificates', dir.file(as)];
    const words = ['--passphrase-file', passphrase === undefined ? passphraseFile : '-'];
    try {
      await program.parseAsync([file, ...registryFlags, ...words], { from: 'user' });
    } catch (error) {
      printed.push(...errorLines(error));
      result.code = exitCodeOf(error);
    }
    return { ...result, output: printed.join('\n') };
  };
  return { dir, start, run };
}

test('a cluster whose etcd was wiped is itself again after a restore', {
  skip,
  timeout: 180_000,
}, async (t) => {
  const { dir, start, run } = await openSite(t);
  const before = await start();
  t.teardown(() => before.stop());
  const actor = { by: 'admin-alpha', from: '192.0.2.9' };
  const { record: unused } = await before.tokens.create(
    parseTokenWish({ names: 'vm1' }),
    actor,
    signal,
  );
  const { record: revoked } = await before.tokens.create(
    parseTokenWish({ names: 'vm2' }),
    actor,
    signal,
  );
  await before.tokens.revoke(revoked.id, actor, signal);
  const enrolment = {
    namespace: 'default',
    labels: { app: 'db' },
    addressRanges: [],
    tokenId: unused.id,
    agentVersion: '1',
  };
  for (const [name, address] of [
    ['vm1', '192.0.2.10'],
    ['vm2', '192.0.2.11'],
  ] as const) {
    const key = { hash: `key-of-${name}`, expiresAt: Date.now() + DAY_MS };
    await before.machines.enrol({ ...enrolment, name, addresses: [address], key }, signal);
  }
  await before.machines.remove('vm2', signal);
  const labels = labelsFromRecord({ app: 'web', 'io.cilium.k8s.policy.cluster': 'alpha' });
  const identity = await before.allocator.allocate(labels, { isLocal: false, signal });
  await before.store.put('isthmus/registry/nodes/n1', 'of the moment');

  const saved = await run('backup', { port: before.port });
  t.match(saved, { code: 0, output: /saved: 5 records of cluster alpha/ });
  t.equal((await stat(dir.file('saved'))).mode & 0o777, 0o600);
  const bytes = await readFile(dir.file('saved'));
  t.notMatch(bytes.toString('latin1'), /vm1|default/, 'nothing of it can be read');
  t.match(await run('backup', { port: before.port }), { code: 1, output: /EEXIST/ });

  const after = await start();
  t.teardown(() => after.stop());
  const { port } = after;
  await t.test('nothing is changed by who may not, or with what is not right', async (t) => {
    t.match(await run('restore', { port, passphrase: 'another one, as long' }), {
      code: 1,
      output: /the passphrase is not the one/,
    });
    await writeFile(dir.file('cut'), bytes.subarray(0, bytes.length - 1));
    const cut = await run('restore', { port, file: dir.file('cut') });
    t.match(cut, { code: 1, output: /damaged.*nothing of it is used/ });
    for (const command of ['restore', 'backup'] as const) {
      const file = command === 'backup' ? dir.file('other') : dir.file('saved');
      const refused = await run(command, { port, as: 'node', file });
      t.match(refused, { code: 1, output: /"node-n1" is not of an administrator/ });
    }
    const beta = await start('beta');
    t.teardown(() => beta.stop());
    t.match(await run('restore', { port: beta.port }), {
      code: 1,
      output: /backup is of cluster "alpha" with id 1, this is beta with id 1: nothing was changed/,
    });
    for (const { store } of [after, beta]) {
      t.equal((await store.list('isthmus/')).pairs.length, 0);
    }
  });

  // Meanwhile somebody else has been given the machine's labels' number: that stays.
  t.match(await run('restore', { port, passphrase: WORDS }), {
    code: 0,
    output: /restored 5, present already 0, refused 0\n1 tokens that could have been used are void/,
  });
  t.match(await run('restore', { port }), { code: 0, output: /restored 0, present already 5/ });
  const states = Object.fromEntries(
    (await after.tokens.list(signal)).map(({ record, state }) => [record.names, state]),
  );
  t.same(states, { vm1: 'revoked', vm2: 'revoked' });
  await after.machines.load(signal);
  t.equal(
    after.machines.trust.judge('machine-vm1', () => 'key-of-vm1'),
    undefined,
  );
  t.equal(
    after.machines.trust.judge('machine-vm2', () => 'key-of-vm2'),
    'revoked',
  );
  const greeting = { instanceId: 'boot', runId: 'run', agentVersion: '2' };
  const opening = after.machines.open('vm1', greeting, () => undefined);
  t.equal(opening.kind, 'open', 'it comes back by itself');
  if (opening.kind === 'open') {
    const facts = { sequence: 1, addresses: ['192.0.2.10'], boot_id: 'boot' };
    t.equal(await opening.session.offer(facts, signal), undefined);
  }
  t.match(after.machines.get('vm1'), { state: 'connected', record: { labels: { app: 'db' } } });
  t.equal(await after.allocator.allocate(labels, { isLocal: false, signal }), identity);
  t.equal((await after.store.list('isthmus/registry/nodes/')).pairs.length, 0);
});

test('a number that others have by now stays theirs', { skip, timeout: 60_000 }, async (t) => {
  const { start, run } = await openSite(t);
  const before = await start();
  t.teardown(() => before.stop());
  const web = labelsFromRecord({ app: 'web', 'io.cilium.k8s.policy.cluster': 'alpha' });
  const number = await before.allocator.allocate(web, { isLocal: false, signal });
  t.equal((await run('backup', { port: before.port })).code, 0);
  const after = await start();
  t.teardown(() => after.stop());
  await after.store.put(`cilium/state/identities/v1/id/${number}`, 'k8s:app=other;');
  await after.store.put(`${TOKENS_PREFIX}x`, 'not ours');
  t.match(await run('restore', { port: after.port }), {
    code: 1,
    output: /refused 1\nrefused: .*number \d+ has been given to others/,
  });
  const key = ALLOCATIONS_PREFIX + encodeLabels(web);
  t.equal(await after.store.get(key), undefined);
});
