/**
 * The processes of a release of the chart: its Job, etcd and apiserver as a runtime would run their containers, and a node that enrols
 * as the agents' DaemonSet says. For the tests of `release.test.ts`.
 */
import { chmod, copyFile, mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Test } from 'tap';
import { enrolNode } from '../../agent/enrollment/node-enrolment.ts';
import { openEtcd } from '../../mesh/kvstore/etcd.ts';
import { findFreePort } from '../../mesh/testing/free-port.ts';
import type { TempDir } from '../../mesh/testing/temp-dir.ts';
import { untilReady } from '../../mesh/testing/until-ready.ts';
import { parseClusterName } from '../../mesh/wire/ids.ts';
import { writePrivateFile } from '../../pki/layout.ts';
import { waitFor } from '../lab/wait-for.ts';
import type { KubeCluster } from '../peers/kube-cluster.ts';
import type { KubeUser } from '../peers/kube-user.ts';
import {
  buildRefuseCalls,
  type ContainedOptions,
  containedCommand,
  giveToGroup,
} from './contained.ts';
import { type HelmResult, NAMESPACE, objectOf, type RenderedObject } from './helm.ts';
import {
  commandLine,
  mappedArguments,
  mountVolumes,
  startContainer,
} from './rendered-container.ts';

const READY_MS = 120_000;
const IN_NAMESPACE = `/api/v1/namespaces/${NAMESPACE}`;

/** A release on an API server. */
export interface ReleaseRig {
  readonly cluster: KubeCluster;
  readonly dir: TempDir;
  readonly helm: (...args: readonly string[]) => Promise<HelmResult>;
  readonly signal: AbortSignal;
  /** Of the release as it was installed or upgraded last. */
  objects: readonly RenderedObject[];
}

/** Starts etcd and apiserver of the release, and asks them what agents and administrators do. */
export async function apiserverWorks(rig: ReleaseRig, t: Test): Promise<void> {
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
  const isReady = async (): Promise<void> => {
    const answer = await fetch(`${at(9880)}${apiserver.readinessProbe.httpGet.path}`);
    const said = await answer.text();
    if (!answer.ok) throw new Error(said);
  };
  await untilReady(child, isReady, { what: 'the apiserver', timeoutMs: READY_MS });
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
  { cluster, dir, signal }: ReleaseRig,
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
export async function runJob(rig: ReleaseRig, t: Test): Promise<string> {
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
  { cluster, dir }: ReleaseRig,
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

async function readSecret(cluster: KubeCluster, name: string): Promise<Record<string, string>> {
  const secret = (await cluster.ask('GET', `${IN_NAMESPACE}/secrets/${name}`)) as RenderedObject;
  return secret.data;
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
