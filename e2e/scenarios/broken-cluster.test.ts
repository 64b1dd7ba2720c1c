/**
 * What `clustermesh troubleshoot` says of an apiserver whose surroundings break: definitions of custom kinds, its token, its
 * etcd, and the etcd of a peer. Real servers, real permissions, the command line as people type it.
 */
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type Test, test } from 'tap';
import { runCli } from '../../cli/testing/cli-run.ts';
import { type Diagnosis, decodeDiagnoses } from '../../mesh/diagnosis/diagnosis.ts';
import type { ProblemId } from '../../mesh/diagnosis/problems.ts';
import { openEtcd } from '../../mesh/kvstore/etcd.ts';
import { KvError } from '../../mesh/kvstore/kvstore.ts';
import { projectPath } from '../../mesh/runtime/project-path.ts';
import { openEtcdServer } from '../../mesh/testing/etcd-server.ts';
import { openTempDir } from '../../mesh/testing/temp-dir.ts';
import { encodeClusterConfig } from '../../mesh/wire/cluster-config.ts';
import { parseClusterName } from '../../mesh/wire/ids.ts';
import { clusterConfigKey, HEARTBEAT_KEY, nodeKey } from '../../mesh/wire/keys.ts';
import { issueCertificate } from '../../pki/ca.ts';
import { writeSecret } from '../../pki/layout.ts';
import { adminLeaf, SECRET_NAMES } from '../../pki/names.ts';
import { waitFor } from '../lab/wait-for.ts';
import { openKubeCluster } from '../peers/kube-cluster.ts';
import { openKubeFaultProxy } from '../peers/kube-faults.ts';
import { needKube } from '../peers/kube-programs.ts';
import { writeKubeconfig } from '../peers/kubeconfig.ts';
import { prepareOurApiserver } from '../peers/our-apiserver.ts';

const kube = needKube(process.env);
const MANIFESTS = 'clustermesh-apiserver/kubernetes/manifests';
const ROLES = [
  'rbac-any-cni.yaml',
  'rbac-service-exports.yaml',
  'rbac-controllers.yaml',
  'rbac-mcs.yaml',
];
const QUOTA_BYTES = 16 * 1024 * 1024;
/** What people are promised, and what a machine adds that is busy with other tests. */
const PROMISED_MS = 15_000 + 5_000;

/** What the command line says of one cluster. */
interface Found {
  readonly id: string;
  readonly diagnosis: Diagnosis;
  readonly next: string | undefined;
  readonly tookMs: number;
}

test('what is broken around an apiserver is named', {
  skip: kube.skip,
  timeout: 240_000,
}, async (t) => {
  const site = await openSite(t);
  const { cluster, etcd, gamma } = site;

  /** Waits until a cluster's verdict names a problem. */
  const named = async (t: Test, about: string, id: ProblemId): Promise<Found> => {
    const found = await waitFor(`${id} to be named`, async () => {
      const one = await site.troubleshoot(about);
      return one.id === id && one;
    });
    t.ok(found.tookMs < PROMISED_MS, `it took ${Math.round(found.tookMs)} ms`);
    return found;
  };

  await t.test('nothing is broken', async (t) => {
    const own = await waitFor('the cluster to be well', async () => {
      const one = await site.troubleshoot('alpha');
      return one.id.includes('works as far as was looked') && one;
    });
    t.same(
      own.diagnosis.steps.map(({ step }) => step),
      ['etcd', 'objects', 'certificates', 'agents', 'apiserver'],
    );
    t.match((await site.troubleshoot('gamma')).id, /works as far as was looked/);
  });
  await t.test("a peer's etcd was replaced by an empty one", async (t) => {
    await gamma.wipe();
    const { diagnosis } = await named(t, 'gamma', 'peer-store-replaced');
    t.match(diagnosis.verdict, /cluster gamma, id 3, was read from it before/);
    t.match((await site.troubleshoot('alpha')).id, /works as far as was looked/);
  });
  await t.test('definitions of custom kinds are gone', async (t) => {
    await cluster.kubectl(['delete', 'crd', 'serviceexports.multicluster.x-k8s.io']);
    const { diagnosis, next } = await named(t, 'alpha', 'crd-missing');
    t.match(diagnosis.verdict, /^cluster alpha does not work because ServiceExport cannot be read/);
    t.equal(next, 'kubectl get crd serviceexports.multicluster.x-k8s.io');
    await cluster.installCrds(['serviceexports']);
    await waitFor('the definition to be found again', async () => {
      return (await site.troubleshoot('alpha')).id !== 'crd-missing';
    });
  });
  await t.test('the token of its service account is refused', async (t) => {
    await site.useStaleToken();
    const { diagnosis, next } = await named(t, 'alpha', 'kubernetes-credentials');
    t.match(diagnosis.verdict, /the API server does not believe our credentials/);
    t.equal(next, 'kubectl -n kube-system get serviceaccount clustermesh-apiserver');
  });
  await t.test('its etcd is full', async (t) => {
    const value = Buffer.alloc(1024 * 1024, 'x');
    await using store = await openEtcd({ endpoints: [etcd.endpoint] });
    await t.rejects(async () => {
      for (let index = 0; index < 40; index += 1) {
        await store.put(`fill/${index}`, value, { signal: site.signal });
      }
    }, KvError);
    const { diagnosis, next } = await named(t, 'alpha', 'etcd-full');
    t.match(diagnosis.verdict, /its etcd takes no writes for want of space/);
    t.equal(next, 'etcdctl alarm list');
  });
});

/** Cluster alpha in Kubernetes, whose apiserver mirrors gamma, an etcd that nobody publishes into any more. */
async function openSite(t: Test) {
  const ending = new AbortController();
  const { signal } = ending;
  const closed = <T extends AsyncDisposable>(server: T): T => {
    t.teardown(() => server[Symbol.asyncDispose]());
    return server;
  };
  const [cluster, etcd, gamma] = await Promise.all([
    openKubeCluster({ name: 'broken', programs: kube.programs }).then(closed),
    openEtcdServer({ args: [`--quota-backend-bytes=${QUOTA_BYTES}`] }).then(closed),
    openEtcdServer().then(closed),
  ]);
  await publishGamma(gamma.endpoint, signal);
  const dir = await openTempDir('broken-cluster');
  t.teardown(() => dir[Symbol.asyncDispose]());
  await cluster.installCrds(['mcs-api']);
  const files = ROLES.flatMap((file) => ['-f', projectPath(`${MANIFESTS}/${file}`)]);
  await cluster.kubectl(['apply', ...files]);
  const user = await cluster.addUser('clustermesh-apiserver', { namespace: 'isthmus-system' });
  const peers = dir.file('peers');
  await mkdir(peers);
  await writeFile(join(peers, 'gamma'), `endpoints: [${gamma.endpoint}]\n`);
  const proxy = await openKubeFaultProxy(cluster.endpoint);
  t.teardown(() => proxy[Symbol.asyncDispose]());
  const tokenFile = dir.file('token');
  await writeFile(tokenFile, await readFile(user.tokenFile ?? '', 'utf8'));
  const kubeconfig = await writeKubeconfig(dir.file('alpha.kubeconfig'), proxy.endpoint, {
    kind: 'token',
    tokenFile,
  });
  const ours = await prepareOurApiserver({
    cluster: { name: 'alpha', id: 1 },
    etcdEndpoint: etcd.endpoint,
    source: [
      '--mode=any-cni',
      `--kubeconfig=${kubeconfig}`,
      `--clustermesh-config=${peers}`,
      '--kvstoremesh',
      '--clustermesh-enable-mcs-api',
      '--lease-namespace=isthmus-system',
    ],
    dir,
    signal,
  });
  t.teardown(async () => {
    await ours[Symbol.asyncDispose]();
    ending.abort();
  });
  await ours.start();
  const pair = await issueCertificate(ours.ca, adminLeaf('alpha'));
  await writeSecret(dir.path, SECRET_NAMES.admin, { ca: ours.ca.root, pair });
  const troubleshoot = async (about: string): Promise<Found> => {
    const began = performance.now();
    const { stdout, stderr } = await runCli([
      ...['troubleshoot', about, '-o', 'json'],
      ...[`--registry=127.0.0.1:${ours.registryPort}`],
      ...[`--certificates=${dir.file(SECRET_NAMES.admin)}`],
    ]);
    const tookMs = performance.now() - began;
    const [diagnosis] = stdout === '' ? [] : decodeDiagnoses(stdout);
    if (diagnosis === undefined) throw new Error(stderr);
    const { verdict, steps } = diagnosis;
    const id = /\(([a-z-]+)\)$/.exec(verdict)?.[1] ?? verdict;
    const next = steps.find(({ problem }) => problem?.id === id)?.problem?.nextCommand;
    return { id, diagnosis, next, tookMs };
  };
  /** Leaves it with a token that was revoked: what it watches goes on until the connection ends. */
  const useStaleToken = async (): Promise<void> => {
    const late = await cluster.addUser('late', { namespace: 'isthmus-system' });
    const token = await readFile(late.tokenFile ?? '', 'utf8');
    await late.rotateToken({ revokeOld: true });
    await writeFile(tokenFile, token);
    proxy.cutOpen();
  };
  return { cluster, etcd, gamma, signal, troubleshoot, useStaleToken };
}

/** What an apiserver would have published of gamma by now. */
async function publishGamma(endpoint: string, signal: AbortSignal): Promise<void> {
  await using store = await openEtcd({ endpoints: [endpoint] });
  const name = parseClusterName('gamma');
  const config = encodeClusterConfig({
    id: 3,
    capabilities: {
      syncedCanaries: false,
      cached: false,
      maxConnectedClusters: 255,
      serviceExportsEnabled: undefined,
      endpointSlicesExportMode: undefined,
    },
  });
  await store.put(clusterConfigKey(name), config, { signal });
  await store.put(HEARTBEAT_KEY, new Date().toISOString(), { signal });
  const addresses = [{ Type: 'InternalIP', IP: '192.0.2.9' }];
  const node = { Name: 'n1', Cluster: 'gamma', ClusterID: 3, IPAddresses: addresses };
  await store.put(nodeKey(name, 'n1'), JSON.stringify(node), { signal });
}
