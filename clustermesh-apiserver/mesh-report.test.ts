import { test } from 'tap';
import { findMeshProblems } from '../mesh/diagnosis/mesh-problems.ts';
import { viewMesh } from '../mesh/diagnosis/mesh-view.ts';
import { openEtcd } from '../mesh/kvstore/etcd.ts';
import { KvError } from '../mesh/kvstore/kvstore.ts';
import { createKvStatistics } from '../mesh/kvstore/measured-store.ts';
import { createLagBook } from '../mesh/remote/lag.ts';
import { systemClock } from '../mesh/runtime/clock.ts';
import { etcdSkipReason, openEtcdServer } from '../mesh/testing/etcd-server.ts';
import { openTempDir } from '../mesh/testing/temp-dir.ts';
import { createTestAuthority } from '../mesh/testing/test-certificates.ts';
import { parseClusterId, parseClusterName } from '../mesh/wire/ids.ts';
import { meshPeerKey, nodeKey } from '../mesh/wire/keys.ts';
import { decodeMeshStatus, encodeMeshStatus } from '../mesh/wire/mesh-status.ts';
import { encodePeerReport } from '../mesh/wire/peer-report.ts';
import { openUpstream } from './gate/upstream.ts';
import { reportMesh } from './mesh-report.ts';

const skip = etcdSkipReason(process.env);
const ALPHA = parseClusterName('alpha');
const QUOTA_BYTES = 8 * 1024 * 1024;

test('an apiserver tells of its etcd, of peers that another replica mirrors, and of nodes without an agent', {
  skip,
}, async (t) => {
  await using dir = await openTempDir('mesh-report');
  const server = await (await createTestAuthority(dir)).issue('server');
  await using etcd = await openEtcdServer({ args: [`--quota-backend-bytes=${QUOTA_BYTES}`] });
  await using store = await openEtcd({ endpoints: [etcd.endpoint], callTimeoutMs: 3_000 });
  await using upstream = openUpstream({ endpoints: [etcd.endpoint] });
  const { signal } = new AbortController();
  const look = async () => {
    const status = await reportMesh(
      {
        cluster: { name: ALPHA, id: parseClusterId(1) },
        version: '1.0.0',
        replica: 'r1',
        parts: {
          labelledMachines: new Set(),
          lag: createLagBook(systemClock),
          kvStatistics: createKvStatistics(),
        },
        store,
        upstream,
        files: { certFile: server.certFile, ownCaFile: server.caFile },
        clock: systemClock,
      },
      signal,
    );
    const view = viewMesh(decodeMeshStatus(encodeMeshStatus(status)));
    return { status, ids: findMeshProblems(view).map(({ id }) => id) };
  };
  const beta = {
    state: 'failed',
    since: 7,
    reason: 'no route',
    heartbeatAt: null,
    clockDifferenceMs: null,
  } as const;
  await store.put(meshPeerKey(parseClusterName('beta')), encodePeerReport(beta), { signal });
  await store.put(nodeKey(ALPHA, 'n1'), '{}', { signal });

  await t.test('what it reads in etcd', async (t) => {
    const { status, ids } = await look();
    t.match(status.etcd, { reachable: true, alarms: [], error: '' });
    t.match(status.peers, [{ name: 'beta', state: 'failed', reason: 'no route', since: 7 }]);
    t.match(status.agents, [{ kind: 'node', name: 'n1', session: 'never' }]);
    t.equal(status.certificates.length, 2);
    t.ok(ids.includes('peer-failed'));
    t.ok(ids.includes('agent-missing'));
    t.notOk(ids.includes('etcd-full'));
  });
  await t.test('an etcd that has run full', async (t) => {
    const value = Buffer.alloc(1024 * 1024, 'x');
    await t.rejects(async () => {
      for (let index = 0; index < 20; index += 1)
        await store.put(`fill/${index}`, value, { signal });
    }, KvError);
    const { status, ids } = await look();
    t.match(status.etcd, { reachable: true, alarms: ['NOSPACE'] });
    t.equal(ids[0], 'etcd-full');
  });
  await t.test('an etcd that does not answer', async (t) => {
    etcd.pause();
    const { status, ids } = await look().finally(() => etcd.resume());
    t.equal(status.etcd?.reachable, false);
    t.equal(ids[0], 'etcd-unavailable');
  });
});
