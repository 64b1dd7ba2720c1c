/**
 * What may be read, and what is there to be read: permissions and CustomResourceDefinitions that are missing, come and go
 * (promise 6). The permissions are those of `clustermesh-apiserver/kubernetes/manifests/`, applied by the real kubectl.
 */
import { readFile } from 'node:fs/promises';
import { type Test, test } from 'tap';
import { parseAllDocuments } from 'yaml';
import { createEventRecorder } from '../../clustermesh-apiserver/controllers/events.ts';
import type { KubernetesApi } from '../../clustermesh-apiserver/kubernetes/api.ts';
import { claimKubernetes } from '../../clustermesh-apiserver/kubernetes-claim.ts';
import { systemClock } from '../../mesh/runtime/clock.ts';
import { createLogger } from '../../mesh/runtime/log.ts';
import { projectPath } from '../../mesh/runtime/project-path.ts';
import { waitFor } from '../lab/wait-for.ts';
import { type KubeCluster, openKubeCluster } from '../peers/kube-cluster.ts';
import { crdFiles, crdPeers } from '../peers/kube-crds.ts';
import { type KubeFaultProxy, openKubeFaultProxy, type SeenRequest } from '../peers/kube-faults.ts';
import { needKube } from '../peers/kube-programs.ts';
import type { KubeUser } from '../peers/kube-user.ts';
import { needPeers } from '../peers/peer-binary.ts';
import { type FollowedCluster, followCluster } from './followed-cluster.ts';

const kube = needKube(process.env);
const { skip } = needPeers(crdPeers, process.env);
const MANIFESTS = 'clustermesh-apiserver/kubernetes/manifests';
/** Long enough to write a few objects on a busy machine. */
const KEEP_MS = 6000;
const CLAIM_TIMES = { durationMs: 5000, renewDeadlineMs: 3000, retryMs: 100 };

test('permissions and definitions may be missing, come and go', {
  skip: kube.skip || skip,
  timeout: 120_000,
}, async (t) => {
  const cluster = await openKubeCluster({ name: 'permissions', programs: kube.programs });
  t.teardown(() => cluster[Symbol.asyncDispose]());
  const proxy = await openKubeFaultProxy(cluster.endpoint);
  t.teardown(() => proxy[Symbol.asyncDispose]());
  const user = await cluster.addUser('clustermesh-apiserver', { namespace: 'isthmus-system' });
  const followed = await followCluster(await user.kubeconfigAt('proxied', proxy.endpoint), {
    mode: 'cilium',
    serviceExports: true,
    keepWithoutDefinitionMs: KEEP_MS,
  });
  t.teardown(() => followed[Symbol.asyncDispose]());
  const rig: Rig = { cluster, proxy, user, followed };
  await t.test('nothing may be read', (child) => nothingAllowed(rig, child));
  await t.test('the roles are bound', (child) => rolesBound(rig, child));
  await t.test('the definitions come', (child) => definitionsCome(rig, child));
  await t.test('every permission of the roles is used', (child) => allUsed(rig, child));
  await t.test('a definition is deleted, and made anew', (child) => definitionGoes(rig, child));
  await t.test('every permission of mode any-cni is used', (child) => anyCniUsed(rig, child));
});

interface Rig {
  readonly cluster: KubeCluster;
  readonly proxy: KubeFaultProxy;
  readonly user: KubeUser;
  readonly followed: FollowedCluster;
}

async function nothingAllowed({ followed }: Rig, t: Test): Promise<void> {
  for (const { kind } of followed.board.kinds) await followed.becomes(kind, 'forbidden');
  t.same(followed.synced, [], 'nothing is told as complete');
  const { missing } = followed.board;
  t.equal(missing.length, followed.board.kinds.length, 'each kind is missing');
  const exported = missing.find((line) => line.startsWith('ServiceExport')) ?? '';
  t.match(
    exported,
    'clustermesh-apiserver may not list serviceexports.multicluster.x-k8s.io; bind the ClusterRole isthmus-service-exports: kubectl create clusterrolebinding isthmus-service-exports --clusterrole=isthmus-service-exports --serviceaccount=isthmus-system:clustermesh-apiserver',
  );
}

async function rolesBound({ cluster, followed }: Rig, t: Test): Promise<void> {
  for (const file of ['rbac-cilium.yaml', 'rbac-service-exports.yaml']) {
    await cluster.kubectl(['apply', '-f', projectPath(`${MANIFESTS}/${file}`)]);
  }
  await followed.becomes('Service', 'synced');
  await followed.becomes('NetworkPolicy', 'synced');
  await followed.becomes('CiliumNode', 'absent');
  await followed.becomes('CiliumEndpointSlice', 'not-installed');
  t.notOk(followed.synced.includes('CiliumNode'), 'what is not there is not told as complete');
  await waitFor('what need not be there to be told as complete', () =>
    followed.synced.includes('CiliumEndpointSlice'),
  );
  const node = followed.board.missing.find((line) => line.startsWith('CiliumNode')) ?? '';
  t.match(node, /CustomResourceDefinition .*ciliumnodes\.cilium\.io is missing.*kubectl get crd/);
}

async function definitionsCome({ cluster, followed }: Rig, t: Test): Promise<void> {
  await cluster.installCrds([
    'ciliumnodes',
    'ciliumidentities',
    'ciliumendpoints',
    'ciliumendpointslices',
    'ciliumnetworkpolicies',
    'ciliumclusterwidenetworkpolicies',
    'ciliumcidrgroups',
    'serviceexports',
  ]);
  for (const { kind } of followed.board.kinds) await followed.becomes(kind, 'synced');
  t.same(followed.board.missing, [], 'all heals without a restart');
  await putIdentities(cluster, ['1001', '1002', '1003']);
  await followed.shows('CiliumIdentity', ['1001', '1002', '1003']);
}

/** Each verb on each resource of the roles was asked for, and nothing else was. */
async function allUsed({ cluster, proxy, followed }: Rig, t: Test): Promise<void> {
  await deleteIdentity(cluster, '1003');
  await followed.shows('CiliumIdentity', ['1001', '1002']);
  await tellTwice(followed.api, t);
  const granted = await grantedBy(['rbac-cilium.yaml', 'rbac-service-exports.yaml']);
  t.same(usedOf(proxy, granted), granted);
}

async function definitionGoes({ cluster, followed }: Rig, t: Test): Promise<void> {
  const [file = ''] = await crdFiles(['ciliumidentities']);
  followed.fewest('CiliumIdentity');
  await cluster.kubectl(['delete', '-f', file]);
  await followed.becomes('CiliumIdentity', 'absent');
  t.same(followed.names('CiliumIdentity'), ['1001', '1002'], 'the last good set stays');
  t.match(
    followed.board.stale.find((line) => line.startsWith('CiliumIdentity')) ?? '',
    /there is no CiliumIdentity; what was read of them before stays published/,
  );
  await cluster.installCrds(['ciliumidentities']);
  await followed.becomes('CiliumIdentity', 'synced');
  await putIdentities(cluster, ['1001', '1004']);
  await followed.shows('CiliumIdentity', ['1001', '1002', '1004']);
  t.ok(followed.fewest('CiliumIdentity') >= 2, 'at no time there were fewer');
  // A bookmark or a change shows that the time is over: nothing is woken for it.
  await waitFor('what did not come back to go', async () => {
    await putIdentities(cluster, ['1005']);
    await deleteIdentity(cluster, '1005');
    return followed.names('CiliumIdentity').join(' ') === '1001 1004';
  });
}

/** The same of the other mode, by a process with an etcd of its own, which claims the cluster; nothing else is allowed now. */
async function anyCniUsed({ cluster, proxy, user, followed }: Rig, t: Test): Promise<void> {
  await followed[Symbol.asyncDispose]();
  const bindings = ['isthmus-source-cilium', 'isthmus-service-exports'];
  await cluster.kubectl(['delete', 'clusterrolebinding', ...bindings]);
  await cluster.kubectl(['apply', '-f', projectPath(`${MANIFESTS}/rbac-any-cni.yaml`)]);
  proxy.forget();
  await using reading = await followCluster(await user.kubeconfigAt('any-cni', proxy.endpoint), {
    mode: 'any-cni',
    keepWithoutDefinitionMs: KEEP_MS,
  });
  for (const { kind } of reading.board.kinds) await reading.becomes(kind, 'synced');
  await tellTwice(reading.api, t);
  await claimTwice(reading.api, t);
  const granted = await grantedBy(['rbac-any-cni.yaml']);
  t.same(usedOf(proxy, granted), granted);
}

/** Two replicas, or one before and after a restart, tell the same: the second counts it into the Event of the first. */
async function tellTwice(api: KubernetesApi, t: Test): Promise<void> {
  for (const instance of ['first', 'second']) {
    const logger = createLogger('events', { level: 'silent' });
    const events = createEventRecorder({ api, instance, clock: systemClock, logger });
    const ending = new AbortController();
    const running = events.run(ending.signal);
    events.record({
      about: { apiVersion: 'v1', kind: 'Namespace', namespace: '', name: 'default', uid: '' },
      type: 'Warning',
      reason: 'UnknownAnnotationValue',
      action: 'Publish',
      note: 'told by a test',
    });
    await waitFor('the Event', () => events.status.written + events.status.dropped > 0);
    t.match(events.status, { written: 1, dropped: 0, lastError: undefined }, instance);
    ending.abort();
    await running;
  }
}

/** The claim to the cluster is made, and renewed. */
async function claimTwice(api: KubernetesApi, t: Test): Promise<void> {
  const lease = `/apis/coordination.k8s.io/v1/namespaces/isthmus-system/leases/isthmus-publisher`;
  const read = async (): Promise<{ holderIdentity?: string; renewTime?: string }> => {
    const answer = await api.request({ method: 'GET', path: lease, signal: NEVER });
    return (answer.body as { spec: { holderIdentity?: string; renewTime?: string } }).spec;
  };
  await using claim = claimKubernetes(api, {
    namespace: 'isthmus-system',
    replica: 'one',
    dataDir: '/data',
    times: CLAIM_TIMES,
    clock: systemClock,
    logger: createLogger('claim', { level: 'silent' }),
    signal: NEVER,
  });
  await claim.settled;
  const { holderIdentity, renewTime } = await read();
  t.equal(holderIdentity, 'one:/data');
  await waitFor('a renewal', async () => (await read()).renewTime !== renewTime);
}

async function putIdentities(cluster: KubeCluster, names: readonly string[]): Promise<void> {
  for (const name of names) {
    await cluster.ask('POST', '/apis/cilium.io/v2/ciliumidentities', {
      body: {
        apiVersion: 'cilium.io/v2',
        kind: 'CiliumIdentity',
        metadata: { name },
        'security-labels': { 'k8s:app': name },
      },
    });
  }
}

async function deleteIdentity(cluster: KubeCluster, name: string): Promise<void> {
  await cluster.ask('DELETE', `/apis/cilium.io/v2/ciliumidentities/${name}`);
}

const NEVER = new AbortController().signal;
const VERBS: Readonly<Record<string, string>> = { POST: 'create', PUT: 'update', PATCH: 'patch' };

/** What a request asks for, in RBAC's words: `list pods`, `get customresourcedefinitions.apiextensions.k8s.io/x`. */
function useOf({ method, path, isWatch }: SeenRequest): string {
  const url = new URL(path, 'https://any');
  const parts = url.pathname.split('/').slice(1);
  const isCore = parts[0] === 'api';
  const group = isCore ? '' : `.${parts[1]}`;
  const place = parts.slice(isCore ? 2 : 3);
  const [resource, name] = place[0] === 'namespaces' && place.length > 2 ? place.slice(2) : place;
  const verb = VERBS[method] ?? (name !== undefined ? 'get' : isWatch ? 'watch' : 'list');
  return `${verb} ${resource}${group}${name === undefined ? '' : `/${name}`}`;
}

/** What was asked for, sorted; names are left out where the roles name none. */
function usedOf(proxy: KubeFaultProxy, granted: readonly string[]): string[] {
  const uses = proxy.requests.map(useOf).map((use) => {
    const unnamed = use.replace(/\/[^/]+$/, '');
    return granted.includes(unnamed) ? unnamed : use;
  });
  return [...new Set(uses)].sort();
}

/** What the roles of some files allow, in the same words, sorted. */
async function grantedBy(files: readonly string[]): Promise<string[]> {
  const uses = new Set<string>();
  for (const file of files) {
    const text = await readFile(projectPath(`${MANIFESTS}/${file}`), 'utf8');
    for (const document of parseAllDocuments(text)) {
      const { kind, rules = [] } = document.toJS() as { kind: string; rules?: readonly Rule[] };
      if (kind !== 'ClusterRole' && kind !== 'Role') continue;
      for (const { apiGroups, resources, resourceNames = [''], verbs } of rules) {
        for (const verb of verbs) {
          for (const resource of resources) {
            for (const name of resourceNames) {
              const group = apiGroups[0] === '' ? '' : `.${apiGroups[0]}`;
              uses.add(`${verb} ${resource}${group}${name === '' ? '' : `/${name}`}`);
            }
          }
        }
      }
    }
  }
  return [...uses].sort();
}

interface Rule {
  readonly apiGroups: readonly string[];
  readonly resources: readonly string[];
  readonly resourceNames?: readonly string[];
  readonly verbs: readonly string[];
}
