/**
 * What may be read, and what is there to be read: permissions and CustomResourceDefinitions that are missing, come and go
 * (promise 6). The permissions are those of `clustermesh-apiserver/kubernetes/manifests/`, applied by the real kubectl.
 */
import { readFile } from 'node:fs/promises';
import { type Test, test } from 'tap';
import { parseAllDocuments } from 'yaml';
import { projectPath } from '../../mesh/runtime/project-path.ts';
import { waitFor } from '../lab/wait-for.ts';
import { type KubeCluster, openKubeCluster } from '../peers/kube-cluster.ts';
import { crdFiles, crdPeers } from '../peers/kube-crds.ts';
import { type KubeFaultProxy, openKubeFaultProxy, type SeenRequest } from '../peers/kube-faults.ts';
import { needKube } from '../peers/kube-programs.ts';
import { needPeers } from '../peers/peer-binary.ts';
import { type FollowedCluster, followCluster } from './followed-cluster.ts';

const kube = needKube(process.env);
const { skip } = needPeers(crdPeers, process.env);
const MANIFESTS = 'clustermesh-apiserver/kubernetes/manifests';
/** Long enough to write a few objects on a busy machine. */
const KEEP_MS = 6000;

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
  const rig: Rig = { cluster, proxy, followed };
  await t.test('nothing may be read', (child) => nothingAllowed(rig, child));
  await t.test('the roles are bound', (child) => rolesBound(rig, child));
  await t.test('the definitions come', (child) => definitionsCome(rig, child));
  await t.test('every permission of the roles is used', (child) => allUsed(rig, child));
  await t.test('a definition is deleted, and made anew', (child) => definitionGoes(rig, child));
});

interface Rig {
  readonly cluster: KubeCluster;
  readonly proxy: KubeFaultProxy;
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
  t.ok(followed.synced.includes('CiliumEndpointSlice'), 'unless it need not be there');
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
  const granted = await grantedBy(['rbac-cilium.yaml', 'rbac-service-exports.yaml']);
  // Events are written by others than the source.
  const read = granted.filter((use) => !use.endsWith(' events.events.k8s.io'));
  t.same([...new Set(proxy.requests.map(useOf))].sort(), [...new Set(read)].sort());
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

/** What a request asks for, in RBAC's words: `list pods`, `get customresourcedefinitions/x`. */
function useOf({ path, isWatch }: SeenRequest): string {
  const url = new URL(path, 'https://any');
  const parts = url.pathname.split('/').slice(1);
  const isCore = parts[0] === 'api';
  const group = isCore ? '' : `.${parts[1]}`;
  const [resource, name] = parts.slice(isCore ? 2 : 3);
  if (name !== undefined) return `get ${resource}${group}/${name}`;
  return `${isWatch ? 'watch' : 'list'} ${resource}${group}`;
}

/** What the roles of some files allow, in the same words. */
async function grantedBy(files: readonly string[]): Promise<string[]> {
  const uses: string[] = [];
  for (const file of files) {
    const text = await readFile(projectPath(`${MANIFESTS}/${file}`), 'utf8');
    for (const document of parseAllDocuments(text)) {
      const { kind, rules = [] } = document.toJS() as { kind: string; rules?: readonly Rule[] };
      if (kind !== 'ClusterRole') continue;
      for (const { apiGroups, resources, resourceNames = [''], verbs } of rules) {
        for (const verb of verbs) {
          for (const resource of resources) {
            for (const name of resourceNames) {
              const group = apiGroups[0] === '' ? '' : `.${apiGroups[0]}`;
              uses.push(`${verb} ${resource}${group}${name === '' ? '' : `/${name}`}`);
            }
          }
        }
      }
    }
  }
  return uses;
}

interface Rule {
  readonly apiGroups: readonly string[];
  readonly resources: readonly string[];
  readonly resourceNames?: readonly string[];
  readonly verbs: readonly string[];
}
