/**
 * The chart on a real API server: every object of the matrix is taken by strict validation; a release is installed, upgraded and
 * uninstalled; and what it has installed works: the Job's and the apiserver's processes run with exactly the arguments, Secrets,
 * service accounts and permissions of the release, an administrator reads by its certificate, and a node enrols by its token.
 */
import { cp, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type Test, test } from 'tap';
import { projectPath } from '../../mesh/runtime/project-path.ts';
import { etcdSkipReason } from '../../mesh/testing/etcd-server.ts';
import { openTempDir } from '../../mesh/testing/temp-dir.ts';
import { type KubeCluster, openKubeCluster } from '../peers/kube-cluster.ts';
import { needKube } from '../peers/kube-programs.ts';
import {
  CHART,
  type ChartValues,
  type HelmResult,
  LEAST,
  NAMESPACE,
  needHelm,
  objectOf,
  parseObjects,
  RELEASE,
  type RenderedObject,
  render,
  runHelm,
  valueFlags,
} from './helm.ts';
import { MATRIX } from './matrix.ts';
import { apiserverWorks, type ReleaseRig, runJob } from './release-processes.ts';
import { mountVolumes } from './rendered-container.ts';

const helm = needHelm(process.env);
const kube = needKube(process.env);
const skip = helm.skip || kube.skip || etcdSkipReason(process.env);
const IN_NAMESPACE = `/api/v1/namespaces/${NAMESPACE}`;

const CLAIM = 'clustermesh-apiserver-etcd';
/** The default of a cluster whose volumes nobody makes here. */
const STORAGE_CLASS = {
  metadata: {
    name: 'standard',
    annotations: { 'storageclass.kubernetes.io/is-default-class': 'true' },
  },
  provisioner: 'example.com/none',
};

const DRY_RUN = [
  'apply',
  '--server-side',
  '--force-conflicts',
  '--dry-run=server',
  '--validate=strict',
];

test('the chart on an API server', { skip, timeout: 800_000 }, async (t) => {
  const dir = await openTempDir('chart-release');
  t.teardown(() => dir[Symbol.asyncDispose]());
  const cluster = await openKubeCluster({ name: 'chart', programs: kube.programs });
  t.teardown(() => cluster[Symbol.asyncDispose]());
  await cluster.ask('POST', '/api/v1/namespaces', { body: { metadata: { name: NAMESPACE } } });
  const ending = new AbortController();
  t.teardown(() => ending.abort());
  const context = { program: helm.program, home: dir.path, kubeconfig: cluster.adminKubeconfig };
  const rig: ReleaseRig = {
    cluster,
    dir,
    helm: (...args) => runHelm([...args, '--namespace', NAMESPACE], context),
    signal: ending.signal,
    objects: [],
  };
  await t.test('every object is valid', (child) => everyObjectIsValid(rig, child));
  await t.test('method helm', (child) => releaseByHelm(rig, child));
  await t.test('method cronJob', (child) => releaseByCronJob(rig, child));
  await t.test('an apiserver of somebody else', (child) => refusesTakeOver(rig, child));
});

/** The kinds of other projects are defined as far as the chart uses them: `foreign-crds.yaml`. */
async function everyObjectIsValid({ cluster, dir }: ReleaseRig, t: Test): Promise<void> {
  const context = { program: helm.program, home: dir.path };
  await cluster.kubectl(['apply', '-f', `${CHART}/crds`]);
  await cluster.kubectl(['apply', '-f', projectPath('e2e/chart/foreign-crds.yaml')]);
  await cluster.kubectl(['wait', '--for=condition=Established', 'crd', '--all']);
  const seen = new Set<string>();
  const all: RenderedObject[] = [];
  for (const values of Object.values(MATRIX)) {
    for (const object of await render(values, context)) {
      const { kind, metadata } = object;
      // Certificates are others each time.
      const text = `${kind}/${metadata.name}${kind === 'Secret' ? Object.keys(object.data).join() : JSON.stringify(object)}`;
      if (seen.has(text)) continue;
      seen.add(text);
      all.push(object);
    }
  }
  const kinds = new Set(all.map(({ kind }) => kind));
  const objects = all.map((object) => JSON.stringify(object)).join('\n');
  // Objects of one name follow each other in one call: nothing is written.
  const printed = await cluster.kubectl([...DRY_RUN, '-o', 'name', '-f', '-'], { input: objects });
  t.equal(printed.trim().split('\n').length, all.length, `${all.length} objects are taken`);
  for (const kind of [
    'Certificate',
    'ServiceMonitor',
    'PodMonitor',
    'PrometheusRule',
    'MeshPeer',
  ]) {
    t.ok(kinds.has(kind), kind);
  }
  const budget = all.find(({ kind }) => kind === 'PodDisruptionBudget');
  await t.rejects(
    cluster.kubectl([...DRY_RUN, '-f', '-'], {
      input: JSON.stringify(budget).replace('maxUnavailable', 'maxUnavailble'),
    }),
    /unknown field|field not declared/,
    'a field that does not exist is not taken',
  );
}

async function releaseByHelm(rig: ReleaseRig, t: Test): Promise<void> {
  const { cluster } = rig;
  // Prometheus' and cert-manager's definitions are not needed.
  await cluster.kubectl(['delete', '-f', projectPath('e2e/chart/foreign-crds.yaml')]);
  await withoutStorage(rig, t);
  await cluster.ask('POST', '/apis/storage.k8s.io/v1/storageclasses', { body: STORAGE_CLASS });
  const values = { ...LEAST['any-cni'], 'commonLabels.owner': 'us' };
  const chart = await earlierChart(rig);
  await succeeds(await install(rig, values, { chart }), t, 'helm install of an earlier chart');
  t.match(objectOf(rig.objects, 'PersistentVolumeClaim', CLAIM), {
    spec: { accessModes: [/Once/] },
  });
  const first = await readSecrets(cluster);
  t.same(Object.keys(first).sort(), [
    'cilium-ca',
    'clustermesh-apiserver-admin-cert',
    'clustermesh-apiserver-local-cert',
    'clustermesh-apiserver-remote-cert',
    'clustermesh-apiserver-server-cert',
  ]);
  const made = await runJob(rig, t);
  t.match(made, /Secret clustermesh-apiserver-enrollment-ca: made/, 'the Job makes what is left');
  const second = await readSecrets(cluster);

  const kept = await rig.helm('upgrade', RELEASE, CHART, '--reuse-values');
  t.match(kept.stderr, /prometheusRule|nil pointer/, 'defaults of the earlier chart are too few');
  const flags = ['--reset-then-reuse-values'];
  const upgraded = await install(rig, { logLevel: 'debug' }, { verb: 'upgrade', flags });
  await succeeds(upgraded, t, 'helm upgrade, as docs/helm.md has it');
  const deployment = objectOf(rig.objects, 'Deployment', 'clustermesh-apiserver');
  t.match(deployment.metadata.labels, {
    owner: 'us',
    'helm.sh/chart': /^clustermesh-(?!0\.0\.1$)/,
  });
  const told = deployment.spec.template.spec.containers[0].args;
  for (const arg of ['--cluster-name=alpha', '--log-level=debug']) t.ok(told.includes(arg), arg);
  t.same(await readSecrets(cluster), second, 'certificates survive an upgrade');
  t.match(await runJob(rig, t), /enrollment-ca: kept/, 'and the next Job');

  await t.test('the apiserver of the release works', (child) => apiserverWorks(rig, child));
  const worked = await readSecrets(cluster);

  const named = { ...LEAST['any-cni'], 'clustermesh.apiserver.tls.server.extraDnsNames': ['x.y'] };
  const renamed = await install(rig, named, { verb: 'upgrade' });
  await succeeds(renamed, t, 'another name of the server');
  const third = await readSecrets(cluster);
  const changed = Object.keys(third).filter((name) => third[name] !== worked[name]);
  t.same(
    changed,
    ['clustermesh-apiserver-server-cert'],
    'makes its certificate anew, and no other',
  );

  await succeeds(await rig.helm('uninstall', RELEASE), t, 'helm uninstall');
  const ca = (await readSecrets(cluster))['cilium-ca'];
  t.equal(ca, first['cilium-ca'], 'the authority stays: peers know this cluster by it');
  const left = await cluster.kubectl(['get', 'all,secrets,pvc,sa', '-n', NAMESPACE, '-o', 'name']);
  t.same(
    left.trim().split('\n').sort(),
    [
      `persistentvolumeclaim/${CLAIM}`,
      'secret/cilium-ca',
      'secret/clustermesh-apiserver-enrollment-ca',
      'secret/clustermesh-apiserver-peering-key',
      ...(left.includes('serviceaccount/default') ? ['serviceaccount/default'] : []),
      ...left.split('\n').filter((name) => /^secret\/clustermesh-\w+-token-/.test(name)),
    ].sort(),
    'what holds data, and what others have made, stays',
  );
  await reinstalls(rig, t);
  await removeLeftovers(cluster);
}

/** A cluster on which nobody has volumes for a claim that names no class. */
async function withoutStorage(rig: ReleaseRig, t: Test): Promise<void> {
  const { code, stdout, stderr } = await rig.helm(
    ...['install', RELEASE, CHART, '--dry-run=server', ...valueFlags(LEAST['any-cni'])],
  );
  t.equal(code, 0, stderr);
  t.notMatch(stdout, 'kind: PersistentVolumeClaim', 'no claim that would wait for ever');
  t.match(stdout, /name: etcd-data\n\s+emptyDir: \{\}/);
  t.match(
    stdout,
    /WARNING: .*, since the cluster has no default StorageClass: identities get\nnew/,
  );
}

/** What stays of a release is taken by one of another name. */
async function reinstalls(rig: ReleaseRig, t: Test): Promise<void> {
  const { code, stdout, stderr } = await rig.helm(
    ...['install', 'other', CHART, '--dry-run=server', ...valueFlags(LEAST['any-cni'])],
  );
  t.equal(code, 0, stderr);
  t.match(stdout, `claimName: ${CLAIM}`);
  t.notMatch(stdout, 'kind: PersistentVolumeClaim', 'the claim is used as it is');
  t.notMatch(stdout, /^ {2}name: cilium-ca$/m, 'and so is the authority');
}

async function releaseByCronJob(rig: ReleaseRig, t: Test): Promise<void> {
  const { cluster } = rig;
  const values = { ...LEAST['any-cni'], 'clustermesh.apiserver.tls.auto.method': 'cronJob' };
  await succeeds(await install(rig, values), t, 'helm install');
  t.same(await readSecrets(cluster), {}, 'nothing secret is in the release');
  const made = await runJob(rig, t);
  t.equal(made.match(/: made/g)?.length, 7, made);
  const first = await readSecrets(cluster);
  t.equal((await runJob(rig, t)).match(/: kept/g)?.length, 6, 'a second run keeps them all');
  t.same(await readSecrets(cluster), first);
  const pod = objectOf(rig.objects, 'Deployment', 'clustermesh-apiserver').spec.template.spec;
  await t.resolves(mountVolumes(pod, { cluster, folder: rig.dir.file('cron') }), 'pods can start');
  const agent = objectOf(rig.objects, 'DaemonSet', 'clustermesh-agent').spec.template.spec;
  await t.resolves(mountVolumes(agent, { cluster, folder: rig.dir.file('cron-agent') }));
  await succeeds(await rig.helm('uninstall', RELEASE), t, 'helm uninstall');
  t.same(await readSecrets(cluster), first, 'what the Job has made stays');
  await removeSecrets(cluster);
}

async function refusesTakeOver(rig: ReleaseRig, t: Test): Promise<void> {
  const { cluster } = rig;
  const labels = { app: 'x' };
  const body = {
    metadata: {
      name: 'clustermesh-apiserver',
      annotations: {
        'meta.helm.sh/release-name': 'cilium',
        'meta.helm.sh/release-namespace': 'kube-system',
      },
    },
    spec: {
      selector: { matchLabels: labels },
      template: { metadata: { labels }, spec: { containers: [{ name: 'c', image: 'none' }] } },
    },
  };
  await cluster.ask('POST', '/apis/apps/v1/namespaces/kube-system/deployments', { body });
  const refused = await install(rig, LEAST.cilium);
  t.not(refused.code, 0);
  t.match(refused.stderr, /is in namespace kube-system already, of Helm release cilium/);
  t.match(refused.stderr, /clustermesh\.useAPIServer=false/);
  const told = { ...LEAST.cilium, 'clustermesh.takeOver': true };
  const installed = await install(rig, told);
  await succeeds(installed, t, 'where it is told to');
  const { info } = JSON.parse(installed.stdout) as { info: { notes: string } };
  t.match(
    info.notes,
    /release, clustermesh\.config\.clusters: Cilium's agents learn of no peer in/,
  );
  await succeeds(await rig.helm('uninstall', RELEASE), t, 'helm uninstall');
}

async function removeSecrets(cluster: KubeCluster): Promise<void> {
  await cluster.ask('DELETE', `${IN_NAMESPACE}/secrets?fieldSelector=type!=helm.sh/release.v1`);
}

/** Nobody here takes the finalizer off a claim. */
async function removeLeftovers(cluster: KubeCluster): Promise<void> {
  const claim = `${IN_NAMESPACE}/persistentvolumeclaims/${CLAIM}`;
  await cluster.ask('PATCH', claim, {
    body: { metadata: { finalizers: null } },
    contentType: 'application/merge-patch+json',
  });
  await cluster.ask('DELETE', claim);
  await removeSecrets(cluster);
}

async function install(
  rig: ReleaseRig,
  values: ChartValues,
  options: {
    readonly verb?: 'install' | 'upgrade';
    readonly chart?: string;
    readonly flags?: readonly string[];
  } = {},
): Promise<HelmResult> {
  const { verb = 'install', chart = CHART, flags = [] } = options;
  const settings = ['--output=json', ...flags, ...valueFlags(values)];
  const result = await rig.helm(verb, RELEASE, chart, ...settings);
  if (result.code === 0) {
    const { manifest } = JSON.parse(result.stdout) as { manifest: string };
    rig.objects = parseObjects(manifest);
  }
  return result;
}

/** A chart as it might have been: of another version, and without values that this one's templates read. */
async function earlierChart({ dir }: ReleaseRig): Promise<string> {
  const chart = dir.file('earlier');
  await cp(CHART, chart, { recursive: true });
  const change = async (name: string, edit: (text: string) => string): Promise<void> => {
    const path = join(chart, name);
    await writeFile(path, edit(await readFile(path, 'utf8')));
  };
  await change('Chart.yaml', (text) => text.replace(/^(version|appVersion): .*$/gm, '$1: 0.0.1'));
  await change('values.yaml', (text) => text.slice(0, text.indexOf('\nprometheusRule:')));
  await rm(join(chart, 'templates/monitoring'), { recursive: true });
  return chart;
}

async function succeeds({ code, stderr }: HelmResult, t: Test, what: string): Promise<void> {
  t.equal(code, 0, `${what}: ${stderr}`);
}

/** Data of every Secret of the namespace that is ours, as JSON by name. */
async function readSecrets(cluster: KubeCluster): Promise<Record<string, string>> {
  const { items } = (await cluster.ask('GET', `${IN_NAMESPACE}/secrets`)) as {
    items: RenderedObject[];
  };
  const ours = items.filter(
    ({ type, metadata }) => type !== 'helm.sh/release.v1' && !/-token-\d+$/.test(metadata.name),
  );
  return Object.fromEntries(
    ours.map(({ metadata, data }) => [metadata.name, JSON.stringify(data)]),
  );
}
