/** What controllers write with, before a real API server: server-side apply, Events, the Lease (issue C). */
import { type Test, test } from 'tap';
import type { PolicyReport } from '../../agent/api/status.ts';
import { policyName } from '../../agent/policy/compile.ts';
import { parsePolicy } from '../../agent/policy/parse.ts';
import { createPolicyReporter } from '../../agent/registry/policy-reports.ts';
import {
  type Applier,
  type ApplyOptions,
  createApplier,
} from '../../clustermesh-apiserver/controllers/apply.ts';
import {
  createEventRecorder,
  eventTargetOf,
} from '../../clustermesh-apiserver/controllers/events.ts';
import {
  FIELD_MANAGER,
  parseKubernetesObject,
} from '../../clustermesh-apiserver/controllers/kubernetes-object.ts';
import { LeadershipError } from '../../clustermesh-apiserver/controllers/leader-lease.ts';
import { createLeaseStore } from '../../clustermesh-apiserver/controllers/lease-store.ts';
import type { PolicyCondition } from '../../clustermesh-apiserver/controllers/policy-conditions.ts';
import { createPolicyStatus } from '../../clustermesh-apiserver/controllers/policy-status.ts';
import { createControllers } from '../../clustermesh-apiserver/controllers/run.ts';
import { type KubernetesApi, openKubernetes } from '../../clustermesh-apiserver/kubernetes/api.ts';
import { RESOURCES } from '../../clustermesh-apiserver/kubernetes/resource.ts';
import { createPolicyBoard } from '../../clustermesh-apiserver/registry/policy-board.ts';
import { parsePolicyNews } from '../../clustermesh-apiserver/registry/policy-report.ts';
import { createMemoryStore } from '../../mesh/kvstore/memory.ts';
import { until } from '../../mesh/remote/testing/until.ts';
import { systemClock } from '../../mesh/runtime/clock.ts';
import { createLogger } from '../../mesh/runtime/log.ts';
import { createManualClock } from '../../mesh/testing/manual-clock.ts';
import { parseClusterId, parseClusterName } from '../../mesh/wire/ids.ts';
import type { PolicyKind } from '../../mesh/wire/local-policy.ts';
import { type KubeCluster, openKubeCluster } from '../peers/kube-cluster.ts';
import { crdPeers } from '../peers/kube-crds.ts';
import { needKube } from '../peers/kube-programs.ts';
import { needPeers } from '../peers/peer-binary.ts';
import { CONTROLLER_RULES, SHORT_LEASE } from './controllers-rig.ts';

const kube = needKube(process.env);
const skip = kube.skip || needPeers(crdPeers, process.env).skip;
const signal = new AbortController().signal;
const resource = RESOURCES.configMaps;
const PATH = '/api/v1/namespaces/demo/configmaps';
const OURS = { 'isthmus.io/ours': 'true' };
const logger = createLogger('test', { level: 'silent' });

test('writes', { skip, timeout: 120_000 }, async (t) => {
  const cluster = await openKubeCluster({ name: 'writes', programs: kube.programs });
  t.teardown(() => cluster[Symbol.asyncDispose]());
  await cluster.ask('POST', '/api/v1/namespaces', { body: { metadata: { name: 'demo' } } });
  const rules = [
    ...CONTROLLER_RULES,
    {
      apiGroups: [''],
      resources: ['configmaps'],
      verbs: ['get', 'create', 'patch', 'delete'],
    },
    {
      apiGroups: ['cilium.io'],
      resources: ['ciliumnetworkpolicies', 'ciliumclusterwidenetworkpolicies'],
      verbs: ['list', 'watch'],
    },
    {
      apiGroups: ['cilium.io'],
      resources: ['ciliumnetworkpolicies/status', 'ciliumclusterwidenetworkpolicies/status'],
      verbs: ['patch'],
    },
    { apiGroups: ['networking.k8s.io'], resources: ['networkpolicies'], verbs: ['get'] },
  ];
  const user = await cluster.addUser('writer', { rules });
  const api = await openKubernetes({ kubeconfig: user.kubeconfig, clock: systemClock });
  t.teardown(() => api[Symbol.asyncDispose]());
  for (const [name, run] of Object.entries(CASES)) {
    await t.test(name, (child) => run(child, { cluster, api }));
  }
});

interface Site {
  readonly cluster: KubeCluster;
  readonly api: KubernetesApi;
}

const CASES: Readonly<Record<string, (t: Test, site: Site) => Promise<void>>> = {
  async 'apply() makes, keeps, changes and forgets fields, and sends nothing for nothing'(t, site) {
    const { applier, applied, read } = writer(site);
    const first = await applied('a', { data: { x: '1', y: '2' } });
    t.equal(first.kind, 'written');
    t.match(await read('a'), {
      data: { x: '1', y: '2' },
      metadata: { labels: OURS, managedFields: [{ manager: FIELD_MANAGER, operation: 'Apply' }] },
    });
    const same = await applied('a', { data: { x: '1', y: '2' } });
    t.equal(same.kind, 'unchanged');
    await site.cluster.kubectl(['annotate', '-n', 'demo', 'configmap', 'a', 'note=mine']);
    const still = await applied('a', { data: { x: '1', y: '2' } });
    t.equal(still.kind, 'unchanged', 'what another sets besides is no matter of ours');
    const less = await applied('a', { data: { x: '1' } });
    t.equal(less.kind, 'written');
    const after = await read('a');
    t.same(after.data, { x: '1' });
    t.match(after.metadata, { annotations: { note: 'mine' } });
    t.match(applier.status, { written: 2, unchanged: 2 });
  },

  async 'an object without our marks is left alone, seen or not'(t, site) {
    const { applied, read, look } = writer(site);
    await site.cluster.ask('POST', PATH, { body: { metadata: { name: 'b' }, data: { z: '1' } } });
    const seen = await look('b');
    for (const observed of [seen, undefined]) {
      const result = await applied('b', { data: { x: '1' } }, { observed });
      t.match(result, { kind: 'foreign', message: /demo\/b exists and is not ours/ });
    }
    t.same((await read('b')).data, { z: '1' });
  },

  async 'who is late changes nothing: not a newer version, not another object of that name'(
    t,
    site,
  ) {
    const { applier, applied, read, look } = writer(site);
    await applied('c', { data: { x: '1' } });
    const old = await look('c');
    await applied('c', { data: { x: '2' } });
    const late = await applied('c', { data: { x: '3' } }, { observed: old });
    t.equal(late.kind, 'outdated');
    t.notOk(await applier.remove(old, { resource, isOurs: () => true, signal }));
    await site.cluster.ask('DELETE', `${PATH}/c`);
    const gone = await applied('c', { data: { x: '3' } }, { observed: old });
    t.equal(gone.kind, 'outdated', 'what was deleted is not made again by mistake');
    await applied('c', { data: { x: '4' } });
    const other = await applied('c', { data: { x: '5' } }, { observed: old });
    t.equal(other.kind, 'outdated');
    t.same((await read('c')).data, { x: '4' });
    t.ok(await applier.remove(await look('c'), { resource, isOurs: () => true, signal }));
    t.ok(await applier.remove(old, { resource, isOurs: () => true, signal }), 'it is gone already');
  },

  async "another's field is a conflict, unless the object is ours"(t, site) {
    const { applied, read } = writer(site);
    await applied('d', { data: { x: '1' } });
    await site.cluster.kubectl([
      'patch',
      'configmap',
      'd',
      '-n',
      'demo',
      '--type=merge',
      '-p',
      '{"data":{"x":"mine"}}',
    ]);
    const conflict = await applied('d', { data: { x: '2' } });
    t.match(conflict, { kind: 'conflict', message: /kubectl/ });
    t.same((await read('d')).data, { x: 'mine' });
    const forced = await applied('d', { data: { x: '2' } }, { force: true });
    t.equal(forced.kind, 'written');
    t.same((await read('d')).data, { x: '2' });
  },

  async 'nothing is sent without leading'(t, site) {
    const { applied, read } = writer(site, () => {
      throw new LeadershipError();
    });
    await t.rejects(applied('e', { data: {} }), { code: 'not-leading' });
    await t.rejects(read('e'));
  },

  async 'Events: written once, counted after that, also by another replica'(t, { cluster, api }) {
    await cluster.ask('POST', '/api/v1/namespaces/demo/services', {
      body: { metadata: { name: 'web' }, spec: { ports: [{ port: 80 }] } },
    });
    const { body } = await api.request({
      method: 'GET',
      path: `${PATH}/b`,
      signal,
    });
    const note = {
      about: eventTargetOf(resource, parseKubernetesObject(body)),
      type: 'Warning' as const,
      reason: 'UnknownAnnotationValue',
      action: 'ReadAnnotations',
      note: `annotation x: "ture" counts as false, expected true or false ${'é'.repeat(800)}`,
    };
    const start = Date.now();
    for (const instance of ['one', 'two']) {
      const clock = createManualClock({ now: start });
      const recorder = createEventRecorder({ api, instance, clock, logger });
      recorder.record(note);
      recorder.record(note);
      const stop = new AbortController();
      const running = recorder.run(stop.signal);
      // The repetition waits for a minute, the Event itself for nothing.
      await until('it is written', async () => {
        await clock.advance(30_000);
        return recorder.status.written >= 1 && recorder.status.waiting === 0;
      });
      t.match(recorder.status, { repeated: 1, dropped: 0, lastError: undefined });
      stop.abort();
      await clock.advance(0);
      await running;
    }
    const path = '/apis/events.k8s.io/v1/namespaces/demo/events';
    const found = (await cluster.ask('GET', path)) as {
      items: {
        series?: { count: number };
        note: string;
        type: string;
        reportingInstance: string;
      }[];
    };
    t.equal(found.items.length, 1);
    t.match(found.items[0], { series: { count: 4 }, type: 'Warning', reportingInstance: 'one' });
    t.match(found.items[0]?.note, /^annotation x: .*…$/);
    const described = await cluster.kubectl(['describe', 'configmap', 'b', '-n', 'demo']);
    t.match(described, /Warning\s+UnknownAnnotationValue/);
  },

  async 'Events beyond the rate of an object, or of nothing that is allowed, are dropped'(t, site) {
    const recorder = createEventRecorder({
      api: site.api,
      instance: 'one',
      clock: systemClock,
      logger,
    });
    const about = { apiVersion: 'v1', kind: 'Service', namespace: 'nowhere', name: 'x', uid: '' };
    for (let number = 0; number < 30; number += 1) {
      recorder.record({ about, type: 'Normal', reason: 'A', action: 'B', note: String(number) });
    }
    t.equal(recorder.status.dropped, 20, 'ten at once');
    const stop = new AbortController();
    const running = recorder.run(stop.signal);
    await until(
      'the rest is refused: there is no such namespace',
      () => recorder.status.dropped === 30,
    );
    t.match(recorder.status.lastError, /nowhere/);
    stop.abort();
    await running;
  },

  async 'a Lease is written only as it was read'(t, { api }) {
    const store = createLeaseStore(api, { namespace: 'demo', name: 'lease' });
    const record = {
      holder: 'one',
      durationMs: 15_000,
      acquireTime: '2026-01-01T00:00:00.000000Z',
      renewTime: '2026-01-01T00:00:00.000000Z',
      transitions: 3,
    };
    t.equal(await store.read(signal), undefined);
    const first = await store.write(record, undefined, signal);
    t.same(first?.record, record);
    t.equal(await store.write({ ...record, holder: 'two' }, undefined, signal), undefined);
    const second = await store.write({ ...record, holder: 'two' }, first, signal);
    t.equal(second?.record.holder, 'two');
    t.equal(await store.write(record, first, signal), undefined, 'one that is late');
    t.match((await store.read(signal))?.record, { holder: 'two' });
  },

  async 'how policies stand is written onto them, and nothing while that is as it was'(t, site) {
    const { cluster } = site;
    await cluster.installCrds(['ciliumnetworkpolicies', 'ciliumclusterwidenetworkpolicies']);
    const apply = (name: string, manifest: object) =>
      cluster.kubectl(['apply', '-f', '-'], { input: JSON.stringify(manifest) }).then(() => name);
    await apply('good', ciliumPolicy('good', {}));
    await apply('bad', ciliumPolicy('bad', { rules: { http: [{ method: 'GET' }] } }));
    await apply('base', ciliumPolicy('base', {}, 'CiliumClusterwideNetworkPolicy'));
    await apply('plain', {
      apiVersion: 'networking.k8s.io/v1',
      kind: 'NetworkPolicy',
      metadata: { name: 'plain', namespace: 'demo' },
      spec: { podSelector: {} },
    });
    const { controllers, tell } = await startPolicyStatus(t, site);
    await tell();
    const isValid = async (name: string, expected: 'True' | 'False'): Promise<void> =>
      until(`${name} is ${expected}`, async () => {
        const found = (await conditionsOf(cluster, name)).find(({ type }) => type === 'Valid');
        return found?.status === expected;
      });
    await isValid('good', 'True');
    await isValid('bad', 'False');
    await isValid('base', 'True');
    const shown = await cluster.kubectl(['get', 'cnp', '-n', 'demo']);
    t.match(shown, /bad\s+\S+\s+False\s+good\s+\S+\s+True/, 'as kubectl shows it');
    t.match(await conditionsOf(cluster, 'bad'), [
      {
        type: 'Valid',
        status: 'False',
        reason: 'NotEnforcedAsWritten',
        message: /^spec\.ingress\[0\]/,
      },
      { type: 'Enforced', status: 'False', message: /^generation 1: 2 endpoints on 1 of 1 nodes/ },
    ]);
    t.match(await conditionsOf(cluster, 'good'), [
      { type: 'Valid', status: 'True', message: 'Policy validation succeeded' },
      { type: 'Enforced', status: 'True', reason: 'Enforced' },
    ]);
    await until('the Event', () => controllers.status.events.written === 1);
    // Of NetworkPolicies `describe` shows no Events.
    const told = await cluster.kubectl(['events', '-n', 'demo', '--for=networkpolicy/plain']);
    t.match(told, /Warning\s+Failing\s+NetworkPolicy\/plain\s+node n1: the map is full/);

    const reconciled = (): number => controllers.status.parts[0]?.controllers[0]?.reconciled ?? 0;
    // A write is counted when its answer is here, which is after others can see it.
    const isCounted = (count: number): Promise<void> =>
      until('it is counted', () => controllers.status.writes.written >= count);
    await isCounted(3);
    const { written } = controllers.status.writes;
    const looks = reconciled();
    await tell();
    await cluster.kubectl(['annotate', 'cnp', 'good', 'bad', '-n', 'demo', 'note=mine']);
    await until('both are looked at', () => reconciled() >= looks + 2);
    t.equal(controllers.status.writes.written, written, 'and nothing is written');

    await apply('bad', ciliumPolicy('bad', {}));
    await until('it is seen', () => reconciled() >= looks + 3);
    t.match(await conditionsOf(cluster, 'bad'), [{ status: 'False' }, {}], 'no node knows it yet');
    await tell();
    await isValid('bad', 'True');
    await isCounted(written + 1);
    t.equal(controllers.status.writes.written, written + 1);
    const emptied = JSON.stringify({ status: { conditions: [] } });
    const patch = ['patch', 'cnp', 'good', '-n', 'demo', '--subresource=status', '--type=merge'];
    await cluster.kubectl([...patch, '-p', emptied]);
    // What somebody took away is there again.
    await isValid('good', 'True');
    await isCounted(written + 2);
    t.equal(controllers.status.writes.written, written + 2);
    t.equal(controllers.status.parts[0]?.controllers[0]?.failures, 0);
  },
};

/** The controllers with this part alone, and a node that takes in policies as the API server has them. */
async function startPolicyStatus(t: Test, { cluster, api }: Site) {
  const board = createPolicyBoard({
    store: createMemoryStore(),
    isHere: () => true,
    clock: systemClock,
    logger,
  });
  const controllers = createControllers({
    api,
    cluster: { name: parseClusterName('alpha'), id: parseClusterId(1), max: 255 },
    directory: undefined,
    readConnection: () => Promise.reject(new Error('there are no peers')),
    nodeKind: 'Node',
    replica: 'one',
    leaseNamespace: 'demo',
    leaseTimes: SHORT_LEASE,
    namespacesAreGlobal: true,
    endpointSliceSync: undefined,
    parts: [(context) => createPolicyStatus(context, { board, beginAfterMs: 0, settleMs: 100 })],
    clock: systemClock,
    logger,
  });
  const stop = new AbortController();
  const running = Promise.all([board.run(stop.signal), controllers.run(stop.signal)]);
  running.catch(() => undefined);
  t.teardown(async () => {
    stop.abort();
    await running;
  });
  const session = board.open('n1');
  const reporter = createPolicyReporter();
  const tell = async (): Promise<void> => {
    const kinds = ['cnp', 'ccnp', 'networkpolicy'];
    const found = await cluster.kubectl(['get', kinds.join(','), '-A', '-o=json']);
    const { items } = JSON.parse(found) as { items: PolicyObject[] };
    for (const message of reporter.next(items.map(reportOf))) {
      const news = parsePolicyNews(message);
      if (news === undefined) throw new Error('what an agent says cannot be read');
      session.take(news);
    }
  };
  return { controllers, tell };
}

interface PolicyObject {
  readonly kind: PolicyKind;
  readonly metadata: {
    readonly namespace?: string;
    readonly name: string;
    readonly generation: number;
  };
  readonly status?: { readonly conditions?: readonly PolicyCondition[] };
}

/** What an agent says of a policy that selects two of its endpoints; of a NetworkPolicy, that its rows find no room. */
function reportOf(object: PolicyObject): PolicyReport {
  const { kind, metadata } = object;
  const { namespace = '', name, generation } = metadata;
  const policy = parsePolicy(
    { kind, namespace, name, generation, manifest: object },
    { clusterName: parseClusterName('alpha'), defaultLocalCluster: true },
  );
  const { problems } = policy;
  return {
    policy: policyName(policy),
    generation,
    state: problems.length === 0 ? 'enforced' : 'partly-refused',
    endpoints: [7, 8],
    entries: 12,
    lastError: kind === 'NetworkPolicy' ? 'the map is full' : undefined,
    problems,
  };
}

/** A policy that lets pods in on one port; `more`: fields of that port's rule. */
function ciliumPolicy(name: string, more: object, kind = 'CiliumNetworkPolicy'): object {
  const toPorts = [{ ports: [{ port: '80', protocol: 'TCP' }], ...more }];
  return {
    apiVersion: 'cilium.io/v2',
    kind,
    metadata: { name, ...(kind === 'CiliumNetworkPolicy' ? { namespace: 'demo' } : {}) },
    spec: {
      endpointSelector: { matchLabels: { app: 'web' } },
      ingress: [{ fromEndpoints: [{ matchLabels: { app: 'client' } }], toPorts }],
    },
  };
}

async function conditionsOf(
  cluster: KubeCluster,
  name: string,
): Promise<readonly PolicyCondition[]> {
  const place =
    name === 'base' ? 'ciliumclusterwidenetworkpolicies' : 'namespaces/demo/ciliumnetworkpolicies';
  const path = `/apis/cilium.io/v2/${place}/${name}`;
  const { status } = (await cluster.ask('GET', path)) as PolicyObject;
  return status?.conditions ?? [];
}

/** A writer of config maps in `demo` that bear our mark. */
function writer({ cluster, api }: Site, check: () => void = () => undefined) {
  const applier: Applier = createApplier({ api, check, clock: systemClock });
  const read = async (name: string): Promise<Record<string, unknown>> =>
    (await cluster.ask('GET', `${PATH}/${name}?`)) as Record<string, unknown>;
  const look = async (name: string) => parseKubernetesObject(await read(name));
  return {
    applier,
    read,
    look,
    async applied(
      name: string,
      fields: Record<string, unknown>,
      options: Partial<ApplyOptions> = {},
    ) {
      const seen = await look(name).catch(() => undefined);
      return applier.apply(
        { metadata: { name, namespace: 'demo', labels: OURS }, ...fields },
        {
          resource,
          observed: seen,
          isOurs: ({ labels }) => labels['isthmus.io/ours'] === 'true',
          signal,
          ...options,
        },
      );
    },
  };
}
