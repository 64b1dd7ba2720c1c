import { mkdir, writeFile } from 'node:fs/promises';
import { test } from 'tap';
import { openEtcd } from '../../mesh/kvstore/etcd.ts';
import { connectionReader } from '../../mesh/remote/connection.ts';
import { createMesh } from '../../mesh/remote/mesh.ts';
import { createRecordingSink } from '../../mesh/remote/testing/recording-sink.ts';
import { systemClock } from '../../mesh/runtime/clock.ts';
import { createLogger } from '../../mesh/runtime/log.ts';
import { parseOptions } from '../../mesh/runtime/options.ts';
import { etcdSkipReason } from '../../mesh/testing/etcd-server.ts';
import { findFreePort } from '../../mesh/testing/free-port.ts';
import { openTempDir } from '../../mesh/testing/temp-dir.ts';
import { createTestAuthority } from '../../mesh/testing/test-certificates.ts';
import { parseClusterId, parseClusterName } from '../../mesh/wire/ids.ts';
import { runApiserver } from '../run.ts';
import { eventually } from '../testing/publishing-rig.ts';
import { KVSTOREMESH_OPTIONS } from './options.ts';
import { runKvstoremesh } from './run.ts';
import { ADDRESSES, openBetaRig } from './testing/beta-rig.ts';

const skip = etcdSkipReason(process.env);
const logger = createLogger('test', { level: 'silent' });
const own = { name: parseClusterName('local'), id: parseClusterId(9), max: 255 as const };

async function get(port: number, path: string): Promise<{ status: number; text: string }> {
  const answer = await fetch(`http://127.0.0.1:${port}${path}`);
  return { status: answer.status, text: await answer.text() };
}

test('options of the mirror: what must be there, and what stands otherwise', async (t) => {
  const parse = (...argv: string[]) => parseOptions(KVSTOREMESH_OPTIONS, argv, {});
  t.throws(() => parse(), {
    code: 'usage',
    message: /--cluster-name.*--cluster-id.*--clustermesh-config.*--etcd-endpoints/,
  });
  const values = parse(
    '--cluster-name=local',
    '--cluster-id=9',
    '--clustermesh-config=/peers',
    '--etcd-endpoints=http://127.0.0.1:2379',
  );
  t.match(values, {
    perClusterReadyTimeout: 15_000,
    globalReadyTimeout: 600_000,
    kvstoreLeaseTtl: 900_000,
    healthAddress: { host: '127.0.0.1', port: 9881 },
    metricsAddress: undefined,
  });
});

test('a mirror as a process of its own says how it is', { skip }, async (t) => {
  const { rig } = await openBetaRig(t);
  await rig.configure('dead', 'http://127.0.0.1:1');
  const [health, metrics] = [await findFreePort(), await findFreePort()];
  const ending = new AbortController();
  const running = runKvstoremesh({
    own,
    directory: rig.directory,
    etcd: { endpoints: [rig.local.server.endpoint], tls: undefined },
    leaseTtlSeconds: 900,
    perClusterReadyTimeoutMs: 1500,
    globalReadyTimeoutMs: 600_000,
    healthAddress: { host: '127.0.0.1', port: health },
    metricsAddress: { host: '127.0.0.1', port: metrics },
    clock: systemClock,
    logger,
    signal: ending.signal,
  });
  t.teardown(async () => {
    ending.abort();
    await running;
  });
  await eventually('health', () => get(health, '/healthz').then(({ status }) => status === 200));
  await eventually(
    'readiness, without the dead peer',
    async () => (await get(health, '/readyz')).status === 200,
  );
  const clusters = JSON.parse((await get(health, '/v1/cluster')).text);
  t.match(clusters, [
    { name: 'beta', ready: true, 'num-endpoints': ADDRESSES, config: { retrieved: true } },
    { name: 'dead', ready: false, connected: false, config: { retrieved: false } },
  ]);
  t.match(JSON.parse((await get(health, '/status')).text), { leader: 'leading', leaving: [] });
  const { text } = await get(metrics, '/metrics');
  t.match(text, /^cilium_kvstoremesh_remote_clusters 2$/m);
  t.match(text, /^cilium_kvstoremesh_leader_election_master_status\{name="kvstoremesh"\} 1$/m);
  t.match(text, /remote_cluster_readiness_status\{target_cluster="beta"\} 1/);
  t.match(
    text,
    /kvstore_initial_sync_completed\{scope="ip\/v1",source_cluster="beta",action="write"\} 1/,
  );
  t.match(text, /^isthmus_kvstoremesh_pending_keys\{source_cluster="beta"\} 0$/m);
});

test("an agent reads peers through its own cluster's gate, from the apiserver's mirror", {
  skip,
}, async (t) => {
  const { rig } = await openBetaRig(t);
  const dir = await openTempDir('mirror-in-process');
  t.teardown(() => dir[Symbol.asyncDispose]());
  await mkdir(dir.file('manifests'));
  await mkdir(dir.file('agent-peers'));
  const authority = await createTestAuthority(dir);
  const server = await authority.issue('server', { names: ['local.mesh.cilium.io'] });
  const node = await authority.issue('node-n1');
  const [gate, health] = [await findFreePort(), await findFreePort()];
  const ending = new AbortController();
  const running = runApiserver({
    cluster: { name: own.name, id: own.id },
    maxConnectedClusters: 255,
    manifests: dir.file('manifests'),
    files: { certFile: server.certFile, keyFile: server.keyFile, ownCaFile: server.caFile },
    etcd: { kind: 'external', endpoints: [rig.local.server.endpoint], tls: undefined },
    kvstoremesh: {
      directory: rig.directory,
      perClusterReadyTimeoutMs: 15_000,
      globalReadyTimeoutMs: 600_000,
    },
    gateAddress: { host: '127.0.0.1', port: gate },
    registryAddress: { host: '127.0.0.1', port: 0 },
    healthAddress: { host: '127.0.0.1', port: health },
    leaseTtlSeconds: 900,
    heartbeatMs: 60_000,
    identityGraceMs: 900_000,
    nodeSessionGraceMs: 60_000,
    clock: systemClock,
    logger,
    signal: ending.signal,
  });
  t.teardown(async () => {
    ending.abort();
    await running;
  });
  await eventually('readiness', () => get(health, '/readyz').then(({ status }) => status === 200));
  t.match(JSON.parse((await get(health, '/cluster')).text), [{ name: 'beta', ready: true }]);

  await writeFile(
    dir.file('agent-peers/beta'),
    `endpoints:
- https://127.0.0.1:${gate}
trusted-ca-file: ${node.caFile}
cert-file: ${node.certFile}
key-file: ${node.keyFile}
`,
  );
  const sink = createRecordingSink();
  const mesh = createMesh({
    context: { own, nodeIps: [], sink, clock: systemClock, logger },
    ownFile: undefined,
    directory: dir.file('agent-peers'),
    readConnection: connectionReader({ clock: systemClock }),
    knownPeers: { idOf: () => undefined, learn: () => undefined, forget: () => undefined },
    setPeers: () => undefined,
  });
  const reading = mesh.run(ending.signal);
  t.teardown(async () => {
    ending.abort();
    await reading;
  });
  await eventually('beta to be read', () => mesh.status().clusters[0]?.state.kind === 'ready');
  t.equal(sink.held.size, ADDRESSES + 3);
  t.equal(mesh.status().clusters[0]?.config?.cached, true);

  const store = await openEtcd({ endpoints: [rig.local.server.endpoint] });
  t.teardown(() => store[Symbol.asyncDispose]());
  t.ok(await store.get('cilium/cluster-config/local'), 'its own configuration stands beside');
});
