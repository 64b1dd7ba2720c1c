/**
 * What the controllers' manifests allow is enough, and no part of it is too much: with any one verb missing something does not
 * work, and status names the verb that is missing. A real API server judges, with the admission plugin that asks who may say
 * that an object belongs to another.
 */
import { type Test, test } from 'tap';
import { createMcsPart } from '../../clustermesh-apiserver/controllers/mcs/mcs-part.ts';
import { createPolicyStatus } from '../../clustermesh-apiserver/controllers/policy-status.ts';
import { waitFor } from '../lab/wait-for.ts';
import { type KubeCluster, openKubeCluster } from '../peers/kube-cluster.ts';
import { crdPeers } from '../peers/kube-crds.ts';
import { needKube } from '../peers/kube-programs.ts';
import type { KubeRule, KubeUser } from '../peers/kube-user.ts';
import { needPeers } from '../peers/peer-binary.ts';
import { followCluster } from './followed-cluster.ts';
import { openPermissionRig, type PermissionRig, type RestrictedReplica } from './permission-rig.ts';
import { refusalOf, rulesOf, usesOf, without } from './permission-rules.ts';

const kube = needKube(process.env);
const skip = kube.skip || needPeers(crdPeers, process.env).skip;
const MCS = '/apis/multicluster.x-k8s.io/v1beta1';
const FILES = [
  'rbac-any-cni.yaml',
  'rbac-service-exports.yaml',
  'rbac-controllers.yaml',
  'rbac-mcs.yaml',
];
/** Part of the files, of which the others are for the source and for replicas with an etcd each. */
const OF_CONTROLLERS = ['rbac-controllers.yaml', 'rbac-mcs.yaml'];
const LEASES = 'leases.coordination.k8s.io';
const SLICES = 'endpointslices.discovery.k8s.io';
const IMPORTS = 'serviceimports.multicluster.x-k8s.io';
const DEFINITIONS = 'customresourcedefinitions.apiextensions.k8s.io';
/** Policies of which nodes say something, so that it is written onto them. */
const POLICIES = [
  'CiliumNetworkPolicy default/web',
  'CiliumClusterwideNetworkPolicy web',
  'NetworkPolicy default/web',
];

/** What has to be done for a permission to be missed. */
type Trigger =
  /** A replica begins; the Lease is there, or is deleted before. */
  | 'start'
  | 'start-without-lease'
  /** A Service with an endpoint is exported. */
  | 'export'
  /** It is not any more. */
  | 'unexport';

/** Every use that the controllers' files allow, with what shows that it is missing. Resources are named as in RBAC. */
const ROWS: readonly (readonly [use: string, trigger: Trigger, shown?: RegExp])[] = [
  [`create ${LEASES}`, 'start-without-lease'],
  [`get ${LEASES}`, 'start'],
  [`update ${LEASES}`, 'start'],
  [`list ${IMPORTS}`, 'start'],
  [`watch ${IMPORTS}`, 'start'],
  ['patch ciliumnetworkpolicies/status.cilium.io', 'start'],
  ['patch ciliumclusterwidenetworkpolicies/status.cilium.io', 'start'],
  ['get networkpolicies.networking.k8s.io', 'start'],
  [`patch serviceexports/status.multicluster.x-k8s.io`, 'export'],
  [`get ${IMPORTS}`, 'export'],
  [`create ${IMPORTS}`, 'export'],
  [`patch ${IMPORTS}`, 'export'],
  ['patch serviceimports/status.multicluster.x-k8s.io', 'export'],
  ['get services', 'export'],
  ['create services', 'export'],
  ['patch services', 'export'],
  [`get ${SLICES}`, 'export'],
  [`create ${SLICES}`, 'export'],
  [`patch ${SLICES}`, 'export'],
  // The API server says what it would have set, and not which permission it asked for.
  ['update serviceimports/finalizers.multicluster.x-k8s.io', 'export', /blockOwnerDeletion/],
  ['update services/finalizers', 'export', /blockOwnerDeletion/],
  [`delete ${SLICES}`, 'unexport'],
  ['delete services', 'unexport'],
  [`delete ${IMPORTS}`, 'unexport'],
];

interface Rig extends PermissionRig {
  readonly cluster: KubeCluster;
  readonly user: KubeUser;
  readonly all: readonly KubeRule[];
}

test('the manifests allow what is used, and nothing else', {
  skip,
  timeout: 120_000,
}, async (t) => {
  const cluster = await openKubeCluster({
    name: 'permissions',
    programs: kube.programs,
    apiserverArgs: ['--enable-admission-plugins=OwnerReferencesPermissionEnforcement'],
  });
  t.teardown(() => cluster[Symbol.asyncDispose]());
  await cluster.installCrds(['ciliumnetworkpolicies', 'ciliumclusterwidenetworkpolicies']);
  await putPolicies(cluster);
  const all = (await Promise.all(FILES.map(rulesOf))).flat();
  const user = await cluster.addUser('clustermesh-apiserver', { rules: all });
  const rig = await openRig(t, { cluster, user, all });
  await t.test('definitions are installed by who may', (child) => definitions(rig, child));
  await t.test('each permission of the controllers is missed by its name', (child) =>
    eachIsMissed(rig, child),
  );
  await t.test('each permission of the source is missed by its name', (child) =>
    sourceIsMissed(rig, child),
  );
});

async function openRig(t: Test, given: Pick<Rig, 'cluster' | 'user' | 'all'>): Promise<Rig> {
  const rig = await openPermissionRig(t, {
    ...given,
    endpointSliceSync: { batchMs: 50 },
    parts: (serial) => [
      (context) => createMcsPart(context, { installCrds: true }),
      (context) => createPolicyStatus(context, { board: boardThatSays(serial), beginAfterMs: 0 }),
    ],
  });
  return { ...given, ...rig };
}

/** Nodes say something else to each replica, so that each has something to write. */
function boardThatSays(serial: number): Parameters<typeof createPolicyStatus>[1]['board'] {
  const counts = { nodes: 1, behind: 0, selecting: 1, endpoints: 1, entries: 1 };
  const problems = [`problem ${serial}`];
  return {
    policies: () => POLICIES,
    get: (policy) => ({ policy, generation: 1, ...counts, problems, errors: [] }),
    onChange: () => () => undefined,
  };
}

async function putPolicies(cluster: KubeCluster): Promise<void> {
  const spec = { endpointSelector: {}, ingress: [{}] };
  for (const policy of POLICIES) {
    const kind = policy.slice(0, policy.indexOf(' '));
    const manifest =
      kind === 'NetworkPolicy'
        ? { apiVersion: 'networking.k8s.io/v1', spec: { podSelector: {} } }
        : { apiVersion: 'cilium.io/v2', spec };
    const metadata = { name: 'web', ...(policy.includes('/') ? { namespace: 'default' } : {}) };
    const input = JSON.stringify({ ...manifest, kind, metadata });
    await cluster.kubectl(['apply', '-f', '-'], { input });
  }
}

/** Waits until status says what is missing. */
async function says(
  t: Test,
  replica: RestrictedReplica,
  expected: { use: string; text: RegExp },
): Promise<void> {
  const { use, text } = expected;
  await waitFor(use, () => text.test(replica.status()), {
    intervalMs: 20,
    timeoutMs: 15_000,
  }).catch(() => undefined);
  t.match(replica.status(), text, use);
}

async function definitions({ cluster, allow, all, start }: Rig, t: Test): Promise<void> {
  for (const use of [`create ${DEFINITIONS}`, `patch ${DEFINITIONS}`]) {
    await allow(without(all, (one) => one === use));
    await using replica = await start();
    await says(t, replica, { use, text: refusalOf(use) });
  }
  await allow(all);
  await using _replica = await start();
  await waitFor('the definitions', async () => (await cluster.send('GET', MCS)).status === 200, {
    timeoutMs: 20_000,
  });
  // Without it the fields of the oldest release are used, which the others know, too.
  await allow(without(all, (one) => one === `get ${DEFINITIONS}`));
  await using plain = await start();
  await _replica[Symbol.asyncDispose]();
  await exportService(cluster, 'plain');
  await waitFor('an import all the same', () => importOf(cluster, 'plain'));
  t.equal((await importOf(cluster, 'plain'))?.spec.internalTrafficPolicy, undefined);
  await plain[Symbol.asyncDispose]();
  await allow(all);
}

async function eachIsMissed({ cluster, allow, all, start }: Rig, t: Test): Promise<void> {
  const granted = usesOf((await Promise.all(OF_CONTROLLERS.map(rulesOf))).flat());
  t.same(
    granted.filter((use) => !use.endsWith(DEFINITIONS)).sort(),
    [...new Set(ROWS.map(([use]) => use))].sort(),
    'there is a row for each',
  );
  const lease = `/apis/coordination.k8s.io/v1/namespaces/isthmus-system/leases`;
  const of = (trigger: Trigger) => ROWS.filter(([, one]) => one === trigger);
  for (const [use, trigger, text = refusalOf(use)] of [
    ...of('start-without-lease'),
    ...of('start'),
  ]) {
    await allow(without(all, (one) => one === use));
    if (trigger === 'start-without-lease') {
      await cluster.send('DELETE', `${lease}/isthmus-clustermesh-apiserver`);
    }
    await using replica = await start();
    await says(t, replica, { use, text });
    if (trigger === 'start-without-lease') {
      await allow(all);
      await waitFor('a Lease', async () => !refusalOf(use).test(replica.status()));
    }
  }
  await allow(all);
  await using replica = await start();
  const exported = of('export').map((_, index) => `export-${index}`);
  const removed = of('unexport').map((_, index) => `unexport-${index}`);
  for (const namespace of removed) await exportService(cluster, namespace);
  for (const namespace of removed) await untilImported(cluster, namespace);
  const missed = async (
    namespace: string,
    [use, trigger, text = refusalOf(use)]: (typeof ROWS)[number],
  ): Promise<void> => {
    await allow(without(all, (one) => one === use));
    if (trigger === 'export') await exportService(cluster, namespace);
    else await cluster.ask('DELETE', `${MCS}/namespaces/${namespace}/serviceexports/web`);
    await says(t, replica, { use, text });
    // Healed before the next one, whose words may be the same.
    await allow(all);
    if (trigger === 'export') await untilImported(cluster, namespace);
    else await waitFor(`the end of ${use}`, async () => !text.test(replica.status()));
  };
  for (const [index, row] of of('export').entries()) await missed(exported[index] ?? '', row);
  for (const [index, row] of of('unexport').entries()) await missed(removed[index] ?? '', row);
  for (const namespace of removed) {
    await waitFor('no import', async () => (await importOf(cluster, namespace)) === undefined);
  }
  t.notMatch(replica.status(), /cannot|may not/, 'and all has healed without a restart');
}

/** Kinds that are read: each without its verb, all at once, since each has a state of its own. */
async function sourceIsMissed({ user, allow, all }: Rig, t: Test): Promise<void> {
  const rules = (
    await Promise.all(['rbac-any-cni.yaml', 'rbac-service-exports.yaml'].map(rulesOf))
  ).flat();
  for (const verb of ['list', 'watch']) {
    await allow(without(all, (use) => use.startsWith(`${verb} `)));
    await using followed = await followCluster(user.kubeconfig, {
      mode: 'any-cni',
      serviceExports: true,
    });
    const wanted = usesOf(rules).filter(
      (use) => use.startsWith(`${verb} `) && !/ cilium/.test(use),
    );
    for (const use of wanted) {
      const named = (): boolean =>
        [...followed.board.missing, ...followed.board.stale].some((line) =>
          line.includes(`may not ${use};`),
        );
      await waitFor(use, named, { intervalMs: 20, timeoutMs: 10_000 }).catch(() => undefined);
      t.ok(named(), `may not ${use}`);
    }
    t.equal(wanted.length, 7);
  }
  await allow(all);
}

interface Import {
  readonly spec: { readonly internalTrafficPolicy?: string };
  readonly status?: { readonly conditions?: readonly { type: string; status: string }[] };
}

async function importOf(cluster: KubeCluster, namespace: string): Promise<Import | undefined> {
  const { status, body } = await cluster.send(
    'GET',
    `${MCS}/namespaces/${namespace}/serviceimports/web`,
  );
  return status === 200 ? (body as Import) : undefined;
}

/** Waits until the import is ready, and the slice of its endpoint is there. */
async function untilImported(cluster: KubeCluster, namespace: string): Promise<void> {
  const selector = encodeURIComponent('multicluster.kubernetes.io/service-name=web');
  const slices = `/apis/discovery.k8s.io/v1/namespaces/${namespace}/endpointslices?labelSelector=${selector}`;
  await waitFor(
    `the import of ${namespace}`,
    async () => {
      const found = await importOf(cluster, namespace);
      const isReady = found?.status?.conditions?.some(
        ({ type, status }) => type === 'Ready' && status === 'True',
      );
      const { items } = (await cluster.ask('GET', slices)) as { items: readonly object[] };
      return isReady === true && items.length > 0;
    },
    { intervalMs: 20, timeoutMs: 20_000 },
  );
}

/** A namespace with a Service, the slice of one endpoint, and the export. */
async function exportService(cluster: KubeCluster, namespace: string): Promise<void> {
  await cluster.ask('POST', '/api/v1/namespaces', { body: { metadata: { name: namespace } } });
  const ports = [{ name: 'http', port: 80, protocol: 'TCP' }];
  await cluster.ask('POST', `/api/v1/namespaces/${namespace}/services`, {
    body: { metadata: { name: 'web' }, spec: { ports } },
  });
  await cluster.ask('POST', `/apis/discovery.k8s.io/v1/namespaces/${namespace}/endpointslices`, {
    body: {
      metadata: { name: 'web-1', labels: { 'kubernetes.io/service-name': 'web' } },
      addressType: 'IPv4',
      ports,
      endpoints: [{ addresses: ['10.1.0.5'], conditions: { ready: true } }],
    },
  });
  await cluster.ask('POST', `${MCS}/namespaces/${namespace}/serviceexports`, {
    body: {
      apiVersion: 'multicluster.x-k8s.io/v1beta1',
      kind: 'ServiceExport',
      metadata: { name: 'web' },
    },
  });
}
