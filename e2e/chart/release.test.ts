/**
 * The chart on a real API server: every object of the matrix is taken by strict validation; a release is installed, upgraded and
 * uninstalled; and what it has installed works: the Job's and the apiserver's processes run with exactly the arguments, Secrets,
 * service accounts and permissions of the release, an administrator reads by its certificate, and a node enrols by its token.
 */
import { chmod, copyFile, cp, mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type Test, test } from 'tap';
import { enrolNode } from '../../agent/enrollment/node-enrolment.ts';
import { openEtcd } from '../../mesh/kvstore/etcd.ts';
import type { ChildHandle } from '../../mesh/runtime/child-process.ts';
import { projectPath } from '../../mesh/runtime/project-path.ts';
import { etcdSkipReason } from '../../mesh/testing/etcd-server.ts';
import { findFreePort } from '../../mesh/testing/free-port.ts';
import { openTempDir, type TempDir } from '../../mesh/testing/temp-dir.ts';
import { parseClusterName } from '../../mesh/wire/ids.ts';
import { writePrivateFile } from '../../pki/layout.ts';
import { waitFor } from '../lab/wait-for.ts';
import { type KubeCluster, openKubeCluster } from '../peers/kube-cluster.ts';
import { needKube } from '../peers/kube-programs.ts';
import type { KubeUser } from '../peers/kube-user.ts';
import {
  buildRefuseCalls,
  type ContainedOptions,
  containedCommand,
  giveToGroup,
} from './contained.ts';
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
import {
  commandLine,
  mappedArguments,
  mountVolumes,
  startContainer,
} from './rendered-container.ts';

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

interface Rig {
  readonly cluster: KubeCluster;
  readonly dir: TempDir;
  readonly helm: (...args: readonly string[]) => Promise<HelmResult>;
  readonly signal: AbortSignal;
  /** Of the release as it was installed or upgraded last. */
  objects: readonly RenderedObject[];
}

test('the chart on an API server', { skip, timeout: 800_000 }, async (t) => {
  const dir = await openTempDir('chart-release');
  t.teardown(() => dir[Symbol.asyncDispose]());
  const cluster = await openKubeCluster({ name: 'chart', programs: kube.programs });
  t.teardown(() => cluster[Symbol.asyncDispose]());
  await cluster.ask('POST', '/api/v1/namespaces', { body: { metadata: { name: NAMESPACE } } });
  const ending = new AbortController();
  t.teardown(() => ending.abort());
  const context = { program: helm.program, home: dir.path, kubeconfig: cluster.adminKubeconfig };
  const rig: Rig = {
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
async function everyObjectIsValid({ cluster, dir }: Rig, t: Test): Promise<void> {
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

async function releaseByHelm(rig: Rig, t: Test): Promise<void> {
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
async function withoutStorage(rig: Rig, t: Test): Promise<void> {
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
async function reinstalls(rig: Rig, t: Test): Promise<void> {
  const { code, stdout, stderr } = await rig.helm(
    ...['install', 'other', CHART, '--dry-run=server', ...valueFlags(LEAST['any-cni'])],
  );
  t.equal(code, 0, stderr);
  t.match(stdout, `claimName: ${CLAIM}`);
  t.notMatch(stdout, 'kind: PersistentVolumeClaim', 'the claim is used as it is');
  t.notMatch(stdout, /^ {2}name: cilium-ca$/m, 'and so is the authority');
}

async function releaseByCronJob(rig: Rig, t: Test): Promise<void> {
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

async function refusesTakeOver(rig: Rig, t: Test): Promise<void> {
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

/** Starts etcd and apiserver of the release, and asks them what agents and administrators do. */
async function apiserverWorks(rig: Rig, t: Test): Promise<void> {
  const { cluster, dir, signal } = rig;
  const { spec: pod } = objectOf(rig.objects, 'Deployment', 'clustermesh-apiserver').spec.template;
  await mountVolumes(pod, { cluster, folder: dir.file('apiserver') });
  const account = await mountServiceAccount(rig, pod.serviceAccountName);
  const ports = new Map<number, number>();
  for (const port of [2377, 2378, 2379, 2381, 2382, 9880, 9962, 9963]) {
    ports.set(port, await findFreePort());
  }
  const at = (port: number): string => `http://127.0.0.1:${ports.get(port)}`;
  const [etcd] = pod.initContainers;
  const [apiserver] = pod.containers;
  const lines: string[] = [];
  const volume = (name: string): string => dir.file('apiserver', name);
  giveToGroup(pod, volume);
  const refuseCalls = await buildRefuseCalls(dir.path);
  const contained = (container: RenderedObject): string[] => {
    const args = mappedArguments(container, { folders: new Map(), ports });
    const { name } = container;
    return containedCommand(
      pod,
      { ...container, args },
      {
        refuseCalls,
        root: dir.file(`${name}-root`),
        volumes: new Map(pod.volumes.map((one: { name: string }) => [one.name, volume(one.name)])),
        fields: { 'metadata.uid': 'a-pod' },
        serviceAccount: account,
      },
    );
  };
  const etcdChild = startContainer(contained(etcd), { name: 'etcd', signal });
  t.teardown(() => etcdChild.stop());
  await waitFor('etcd of the release', async () => (await fetch(`${at(9963)}/health`)).ok);
  const child = startContainer(contained(apiserver), {
    name: 'apiserver',
    onLine: (line) => lines.push(line),
    signal,
  });
  t.teardown(() => child.stop());
  await untilReady(child, `${at(9880)}${apiserver.readinessProbe.httpGet.path}`);
  t.ok((await fetch(`${at(9880)}${apiserver.livenessProbe.httpGet.path}`)).ok, 'it lives');

  const status = (await (await fetch(`${at(9880)}/status`)).json()) as {
    kubernetes: { kinds: { kind: string; state: string }[] };
  };
  const states = status.kubernetes.kinds.map(({ kind, state }) => `${kind} ${state}`);
  t.ok(states.length > 4, states.join(', '));
  t.same(
    states.filter((state) => !/ (synced|not-installed)$/.test(state)),
    [],
    'every kind is read with the permissions of the chart',
  );
  t.same(
    lines.filter((line) => /forbidden|"level":50/.test(line)),
    [],
    'nothing is refused',
  );

  const secret = await readSecret(cluster, 'clustermesh-apiserver-admin-cert');
  const field = (name: string): Buffer => Buffer.from(secret[name] ?? '', 'base64');
  const store = await openEtcd({
    endpoints: [`https://127.0.0.1:${ports.get(2379)}`],
    tls: { ca: field('ca.crt'), cert: field('tls.crt'), key: field('tls.key') },
  });
  t.teardown(() => store[Symbol.asyncDispose]());
  for (const [name, program] of Object.entries({ etcd: etcdChild, apiserver: child })) {
    const [pid] = (
      await readFile(`/proc/${program.pid}/task/${program.pid}/children`, 'utf8')
    ).split(' ');
    const status = await readFile(`/proc/${pid}/status`, 'utf8');
    t.match(status, /^Uid:\t65532\t65532\t/m, `${name} runs as nobody`);
    t.notMatch(status, /^Cap(Prm|Eff|Bnd):\t0*[1-9a-f]/m, 'without any capability');
    t.match(status, /^NoNewPrivs:\t1\nSeccomp:\t2$/m);
  }
  const config = await store.get('cilium/cluster-config/alpha');
  t.match(config?.value.toString(), /"id":1/, 'an administrator reads at the gate');
  const lease = await cluster.kubectl(['get', 'lease', '-n', NAMESPACE, '-o', 'name']);
  t.match(lease, /isthmus-publisher/, 'a second one with an etcd of its own would be noticed');
  await metricsAreThere(`${at(9962)}/metrics`, t);
  await nodeEnrols(rig, { port: ports.get(2382) ?? 0, t });
}

/** As the agent's DaemonSet says: its service account, its audience, the authority that it mounts. */
async function nodeEnrols(
  { cluster, dir, signal }: Rig,
  { port, t }: { readonly port: number; readonly t: Test },
): Promise<void> {
  const manifest = (await cluster.ask(
    'GET',
    `/apis/apps/v1/namespaces/${NAMESPACE}/daemonsets/clustermesh-agent`,
  )) as RenderedObject;
  const { spec: pod } = manifest.spec.template;
  const folders = await mountVolumes(pod, { cluster, folder: dir.file('agent') });
  const { serviceAccountToken } = pod.volumes.find(({ name }: { name: string }) => name === 'token')
    .projected.sources[0];
  await cluster.ask('POST', '/api/v1/nodes', { body: { metadata: { name: 'node-1' } } });
  const created = (await cluster.ask('POST', `${IN_NAMESPACE}/pods`, {
    body: {
      metadata: { name: 'clustermesh-agent-x' },
      spec: {
        serviceAccountName: pod.serviceAccountName,
        nodeName: 'node-1',
        containers: [{ name: 'agent', image: 'none' }],
      },
    },
  })) as RenderedObject;
  const answer = (await cluster.ask(
    'POST',
    `${IN_NAMESPACE}/serviceaccounts/${pod.serviceAccountName}/token`,
    {
      body: {
        spec: {
          audiences: [serviceAccountToken.audience],
          expirationSeconds: serviceAccountToken.expirationSeconds,
          boundObjectRef: { kind: 'Pod', apiVersion: 'v1', ...created.metadata },
        },
      },
    },
  )) as { status: { token: string } };
  const tokenFile = `${folders.get('/var/run/secrets/isthmus')}/${serviceAccountToken.path}`;
  await writePrivateFile(tokenFile, answer.status.token);
  const { record, certificates } = await enrolNode({
    server: { host: '127.0.0.1', port },
    tokenFile,
    trustedCaFile: `${folders.get('/var/lib/isthmus/ca')}/ca.crt`,
    nodeName: 'node-1',
    cluster: { name: parseClusterName('alpha'), id: 1 },
    agentVersion: 'test',
    signal,
  });
  t.ok(record, 'a node enrols by the token of the DaemonSet');
  t.match(JSON.stringify(certificates), /BEGIN CERTIFICATE/);
  await cluster.ask('DELETE', `${IN_NAMESPACE}/pods/clustermesh-agent-x?gracePeriodSeconds=0`);
}

/** Runs the container of the release's Job as its service account; resolves to what it said. */
async function runJob(rig: Rig, t: Test): Promise<string> {
  const { cluster, dir, signal } = rig;
  const job = rig.objects.find(({ kind }) => kind === 'Job');
  if (job === undefined) throw new Error('the release has no Job');
  t.ok(
    (await cluster.send('GET', `/apis/batch/v1/namespaces/${NAMESPACE}/jobs/${job.metadata.name}`))
      .status === 200,
    'the Job is there',
  );
  const { spec: pod } = job.spec.template;
  const user = await serviceAccount(cluster, pod.serviceAccountName);
  const folders = await mountVolumes(pod, { cluster, folder: dir.file('job') });
  const line = [
    ...commandLine(pod.containers[0], { folders, ports: new Map() }),
    // In a pod it is found by itself.
    `--kubeconfig=${user.kubeconfig}`,
  ];
  const lines: string[] = [];
  const child = startContainer(line, { name: 'pki', onLine: (text) => lines.push(text), signal });
  const { code } = await child.exited;
  t.equal(code, 0, lines.join('\n'));
  return lines.join('\n');
}

/** What a kubelet puts into pods for their service account. */
async function mountServiceAccount(
  { cluster, dir }: Rig,
  name: string,
): Promise<NonNullable<ContainedOptions['serviceAccount']>> {
  const { tokenFile = '' } = await serviceAccount(cluster, name);
  const folder = dir.file(`account-${name}`);
  await mkdir(folder);
  await copyFile(tokenFile, join(folder, 'token'));
  await copyFile(cluster.endpoint.caFile, join(folder, 'ca.crt'));
  await writeFile(join(folder, 'namespace'), NAMESPACE);
  for (const file of ['token', 'ca.crt']) await chmod(join(folder, file), 0o644);
  const { hostname, port } = new URL(cluster.endpoint.url);
  return { folder, host: hostname, port: Number(port) };
}

function serviceAccount(cluster: KubeCluster, name: string): Promise<KubeUser> {
  return cluster.addUser(name, { namespace: NAMESPACE });
}

async function install(
  rig: Rig,
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
async function earlierChart({ dir }: Rig): Promise<string> {
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

async function readSecret(cluster: KubeCluster, name: string): Promise<Record<string, string>> {
  const secret = (await cluster.ask('GET', `${IN_NAMESPACE}/secrets/${name}`)) as RenderedObject;
  return secret.data;
}

async function untilReady(child: ChildHandle, url: string): Promise<void> {
  let hasEnded = false;
  void child.exited.then(() => {
    hasEnded = true;
  });
  let said = '';
  try {
    await waitFor(
      url,
      async () => {
        if (hasEnded) return true;
        const answer = await fetch(url);
        said = await answer.text();
        return answer.ok;
      },
      { timeoutMs: 120_000 },
    );
  } catch (cause) {
    throw new Error(`it is not ready: ${said}: ${child.lastLines.join(' | ')}`, { cause });
  }
  if (hasEnded) throw new Error(`it ended: ${child.lastLines.join(' | ')}`);
}

async function metricsAreThere(url: string, t: Test): Promise<void> {
  const text = await (await fetch(url)).text();
  for (const name of [
    'isthmus_publisher_leading',
    'isthmus_kubernetes_kind_followed',
    'isthmus_certificate_expiry_timestamp_seconds',
    'isthmus_published_identities',
    'cilium_clustermesh_apiserver_kvstore_sync_queue_size',
  ]) {
    t.match(text, new RegExp(`^# TYPE ${name} `, 'm'), name);
  }
}
