/**
 * A whole clustermesh-apiserver in mode `any-cni` with the controllers, which may do exactly what the manifests of
 * `clustermesh-apiserver/kubernetes/manifests/` say, applied by the real kubectl: it needs nothing else.
 */
import { readFile } from 'node:fs/promises';
import { type Test, test } from 'tap';
import { parseAllDocuments } from 'yaml';
import { openKubernetes } from '../../clustermesh-apiserver/kubernetes/api.ts';
import {
  claimKubernetes,
  type KubernetesClaim,
} from '../../clustermesh-apiserver/kubernetes-claim.ts';
import { openEtcd } from '../../mesh/kvstore/etcd.ts';
import type { KvStore } from '../../mesh/kvstore/kvstore.ts';
import { systemClock } from '../../mesh/runtime/clock.ts';
import { createLogger } from '../../mesh/runtime/log.ts';
import { projectPath } from '../../mesh/runtime/project-path.ts';
import { openEtcdServer } from '../../mesh/testing/etcd-server.ts';
import { openTempDir } from '../../mesh/testing/temp-dir.ts';
import { waitFor } from '../lab/wait-for.ts';
import { type KubeCluster, openKubeCluster } from '../peers/kube-cluster.ts';
import { openKubeFaultProxy, type SeenRequest } from '../peers/kube-faults.ts';
import { needKube } from '../peers/kube-programs.ts';
import { prepareOurApiserver } from '../peers/our-apiserver.ts';

const kube = needKube(process.env);
const MANIFESTS = 'clustermesh-apiserver/kubernetes/manifests';
const ROLES = [
  'rbac-any-cni.yaml',
  'rbac-service-exports.yaml',
  'rbac-controllers.yaml',
  'rbac-mcs.yaml',
];

test('an apiserver with exactly the permissions of its manifests', {
  skip: kube.skip,
  timeout: 120_000,
}, async (t) => {
  const cluster = await openKubeCluster({ name: 'apiserver', programs: kube.programs });
  t.teardown(() => cluster[Symbol.asyncDispose]());
  const proxy = await openKubeFaultProxy(cluster.endpoint);
  t.teardown(() => proxy[Symbol.asyncDispose]());
  const etcd = await openEtcdServer();
  t.teardown(() => etcd[Symbol.asyncDispose]());
  const store = await openEtcd({ endpoints: [etcd.endpoint] });
  t.teardown(() => store[Symbol.asyncDispose]());
  const dir = await openTempDir('kubernetes-apiserver');
  t.teardown(() => dir[Symbol.asyncDispose]());
  for (const file of ROLES) {
    await cluster.kubectl(['apply', '-f', projectPath(`${MANIFESTS}/${file}`)]);
  }
  const user = await cluster.addUser('clustermesh-apiserver', { namespace: 'isthmus-system' });
  await writeCluster(cluster);

  const ending = new AbortController();
  const ours = await prepareOurApiserver({
    cluster: { name: 'alpha', id: 1 },
    etcdEndpoint: etcd.endpoint,
    source: [
      '--mode=any-cni',
      `--kubeconfig=${await user.kubeconfigAt('proxied', proxy.endpoint)}`,
      `--clustermesh-config=${dir.file('peer-trust')}`,
      '--clustermesh-enable-endpoint-sync',
      '--clustermesh-enable-mcs-api',
      '--lease-namespace=isthmus-system',
    ],
    dir,
    signal: ending.signal,
  });
  t.teardown(async () => {
    await ours[Symbol.asyncDispose]();
    ending.abort();
  });
  await ours.start();

  await t.test('it publishes what Kubernetes has', (child) => publishes(store, child));
  await t.test('it tells about a value that means nothing', (child) => warns(cluster, child));
  await t.test('it writes imports', (child) => imports(cluster, child));
  await t.test('a second one with an etcd of its own is refused', (child) =>
    refusesSecond(user.kubeconfig, child),
  );
  await t.test('nothing was refused, and nothing else is allowed', async (child) => {
    const allowed = await grantedBy(ROLES);
    const used = new Set(proxy.requests.map(useOf).filter((use) => use !== undefined));
    child.same(
      [...used].filter((use) => !allowed.has(use)),
      [],
      'everything asked for is allowed by name',
    );
    const metrics = await cluster.kubectl(['get', '--raw', '/metrics']);
    const refused = metrics
      .split('\n')
      .filter((line) => /^apiserver_request_total\{.*code="403"/.test(line));
    child.same(refused, [], 'the API server refused nothing');
  });
});

/** Two pods behind a global Service whose annotation for affinity nobody understands, and which is exported. */
async function writeCluster(cluster: KubeCluster): Promise<void> {
  const pod = (name: string, ip: string) => ({
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name, namespace: 'demo', labels: { app: 'web' } },
    spec: { nodeName: 'n1', containers: [{ name: 'c', image: 'none' }] },
    status: { phase: 'Running', hostIP: '192.0.2.1', podIP: ip, podIPs: [{ ip }] },
  });
  await cluster.ask('POST', '/api/v1/namespaces', { body: { metadata: { name: 'demo' } } });
  await cluster.ask('POST', '/api/v1/nodes', {
    body: { metadata: { name: 'n1' }, spec: { podCIDR: '10.1.0.0/24', podCIDRs: ['10.1.0.0/24'] } },
  });
  await cluster.ask('PATCH', '/api/v1/nodes/n1/status', {
    body: { status: { addresses: [{ type: 'InternalIP', address: '192.0.2.1' }] } },
    contentType: 'application/merge-patch+json',
  });
  for (const object of [pod('web-0', '10.1.0.5'), pod('web-1', '10.1.0.6')]) {
    const base = '/api/v1/namespaces/demo/pods';
    await cluster.ask('POST', base, { body: object });
    await cluster.ask('PATCH', `${base}/${object.metadata.name}/status`, {
      body: { status: object.status },
      contentType: 'application/merge-patch+json',
    });
  }
  await cluster.ask('POST', '/api/v1/namespaces/demo/services', {
    body: {
      metadata: {
        name: 'web',
        annotations: {
          'service.cilium.io/global': 'true',
          'service.cilium.io/affinity': 'nearest',
        },
      },
      spec: { selector: { app: 'web' }, ports: [{ port: 80 }] },
    },
  });
  await cluster.ask('POST', '/apis/discovery.k8s.io/v1/namespaces/demo/endpointslices', {
    body: {
      metadata: { name: 'web-1', labels: { 'kubernetes.io/service-name': 'web' } },
      addressType: 'IPv4',
      endpoints: [
        { addresses: ['10.1.0.5'], conditions: { ready: true } },
        { addresses: ['10.1.0.6'], conditions: { ready: true } },
      ],
      ports: [{ name: '', port: 8080, protocol: 'TCP' }],
    },
  });
}

async function publishes(store: KvStore, t: Test): Promise<void> {
  const { keys } = await store.keys('cilium/');
  const has = (pattern: RegExp): void => {
    t.ok(
      keys.some((key) => pattern.test(key)),
      String(pattern),
    );
  };
  has(/^cilium\/state\/nodes\/v1\/alpha\/n1$/);
  has(/^cilium\/state\/ip\/v1\/default\/10\.1\.0\.5$/);
  has(/^cilium\/state\/ip\/v1\/default\/10\.1\.0\.6$/);
  has(/^cilium\/state\/services\/v1\/alpha\/demo\/web$/);
  for (const set of ['nodes', 'services', 'ip', 'identities', 'serviceexports']) {
    has(new RegExp(`^cilium/synced/alpha/cilium/state/${set}/v1$`));
  }
}

async function warns(cluster: KubeCluster, t: Test): Promise<void> {
  const told = await waitFor('an Event about the annotation', async () => {
    const text = await cluster.kubectl(['get', 'events', '-n', 'demo', '-o', 'json']);
    const { items } = JSON.parse(text) as { items: { reason: string; message: string }[] };
    return items.find(({ reason }) => reason === 'UnknownAnnotationValue');
  });
  t.match(told.message, /service\.cilium\.io\/affinity: "nearest" counts as none/);
}

async function imports(cluster: KubeCluster, t: Test): Promise<void> {
  const path = '/apis/multicluster.x-k8s.io/v1alpha1/namespaces/demo';
  await waitFor('the definitions to be installed', async () => {
    await cluster.ask('POST', `${path}/serviceexports`, {
      body: {
        apiVersion: 'multicluster.x-k8s.io/v1alpha1',
        kind: 'ServiceExport',
        metadata: { name: 'web' },
      },
    });
    return true;
  });
  const made = await waitFor('the ServiceImport', async () => {
    const body = await cluster.ask('GET', `${path}/serviceimports/web`);
    const { status } = body as { status?: { clusters?: { cluster: string }[] } };
    return status?.clusters?.some(({ cluster: name }) => name === 'alpha');
  });
  t.ok(made, 'of what this cluster exports itself');
}

/** In mode any-cni two etcds would have two sets of numbers. */
async function refusesSecond(kubeconfig: string, t: Test): Promise<void> {
  const api = await openKubernetes({ kubeconfig, clock: systemClock });
  t.teardown(() => api[Symbol.asyncDispose]());
  const claim = (dataDir: string): KubernetesClaim =>
    claimKubernetes(api, {
      namespace: 'isthmus-system',
      replica: 'host',
      dataDir,
      times: { durationMs: 2000, renewDeadlineMs: 1200, retryMs: 200 },
      clock: systemClock,
      logger: createLogger('claim', { level: 'silent' }),
      signal: new AbortController().signal,
    });
  const first = claim('/data/one');
  t.teardown(() => first[Symbol.asyncDispose]());
  await first.settled;
  const second = claim('/data/two');
  await t.rejects(second.settled, {
    code: 'second-replica',
    message:
      /host:\/data\/one does with an etcd of its own \(Lease isthmus-system\/isthmus-publisher\).*--etcd-endpoints/,
  });
  await t.rejects(second.ended, { code: 'second-replica' });
  await first[Symbol.asyncDispose]();
  const successor = claim('/data/two');
  await successor.settled;
  await successor[Symbol.asyncDispose]();
}

const VERBS: Readonly<Record<string, string>> = {
  POST: 'create',
  PUT: 'update',
  PATCH: 'patch',
  DELETE: 'delete',
};

/** What a request asks for, in RBAC's words: `list pods`; undefined for what every user may. */
function useOf({ method, path, isWatch }: SeenRequest): string | undefined {
  const url = new URL(path, 'https://any');
  const parts = url.pathname.split('/').slice(1);
  const isCore = parts[0] === 'api';
  const group = isCore ? '' : `.${parts[1]}`;
  let rest = parts.slice(isCore ? 2 : 3);
  if (rest.length === 0) return undefined;
  if (rest[0] === 'namespaces' && rest.length > 2) rest = rest.slice(2);
  const [resource, name, subresource] = rest;
  const what = `${resource}${subresource === undefined ? '' : `/${subresource}`}${group}`;
  if (method !== 'GET') return `${VERBS[method]} ${what}`;
  if (name !== undefined) return `get ${what}`;
  return `${isWatch ? 'watch' : 'list'} ${what}`;
}

/** What the roles of some files allow, in the same words. */
async function grantedBy(files: readonly string[]): Promise<Set<string>> {
  const uses = new Set<string>();
  for (const file of files) {
    const text = await readFile(projectPath(`${MANIFESTS}/${file}`), 'utf8');
    for (const document of parseAllDocuments(text)) {
      const { rules = [] } = document.toJS() as {
        rules?: { apiGroups: string[]; resources: string[]; verbs: string[] }[];
      };
      for (const { apiGroups, resources, verbs } of rules) {
        for (const verb of verbs) {
          for (const resource of resources) {
            uses.add(`${verb} ${resource}${apiGroups[0] === '' ? '' : `.${apiGroups[0]}`}`);
          }
        }
      }
    }
  }
  return uses;
}
