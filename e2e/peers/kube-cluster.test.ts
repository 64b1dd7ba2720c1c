import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { test } from 'tap';
import { waitFor } from '../lab/wait-for.ts';
import { openKubeCluster } from './kube-cluster.ts';
import { crdPeers } from './kube-crds.ts';
import { needKube } from './kube-programs.ts';
import { needPeers } from './peer-binary.ts';
import { openPodRunner } from './pod-runner.ts';

const { skip, programs } = needKube(process.env);
const skipCrds = needPeers(crdPeers, process.env).skip;

const PODS = '/api/v1/namespaces/shop/pods';
const WEB = `
apiVersion: v1
kind: Node
metadata: { name: n1 }
---
apiVersion: v1
kind: Namespace
metadata: { name: shop }
---
apiVersion: v1
kind: Service
metadata: { name: web, namespace: shop }
spec: { selector: { app: web }, ports: [{ port: 80 }], ipFamilyPolicy: PreferDualStack }
---
apiVersion: v1
kind: ServiceAccount
metadata: { name: default, namespace: shop }
---
apiVersion: v1
kind: Pod
metadata: { name: web-0, namespace: shop, labels: { app: web } }
spec: { nodeName: n1, containers: [{ name: web, image: any }] }
`;

test('a test cluster is a real Kubernetes control plane', { skip }, async (t) => {
  await using cluster = await openKubeCluster({
    name: 'whole',
    controllers: true,
    serviceCidrs: ['10.96.0.0/16', 'fd00:96::/112'],
    programs,
  });

  await t.test('kubectl writes objects, and the controllers what follows from them', async (t) => {
    await cluster.kubectl(['apply', '-f', '-'], { input: WEB });
    await cluster.ask('PATCH', `${PODS}/web-0/status`, {
      contentType: 'application/merge-patch+json',
      body: {
        status: {
          phase: 'Running',
          podIP: '10.1.0.1',
          podIPs: [{ ip: '10.1.0.1' }, { ip: 'fd00:1::1' }],
          conditions: [{ type: 'Ready', status: 'True' }],
        },
      },
    });
    const slices = await waitFor('both slices to name the pod', async () => {
      const text = await cluster.kubectl(['get', 'endpointslices', '--namespace=shop', '-o=json']);
      return text.includes('"10.1.0.1"') && text.includes('"fd00:1::1"') && text;
    });
    t.match(slices, '"endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"');
    await t.rejects(cluster.kubectl(['get', 'pod', 'nobody']), { message: /NotFound/ });
  });

  await t.test('a deployment runs when somebody stands in for kubelets', async (t) => {
    await using runner = await openPodRunner(cluster, 1);
    const counts = (): Promise<string> =>
      cluster.kubectl(['get', 'deploy', 'two', '-o=jsonpath={.status.readyReplicas}']);
    await cluster.kubectl(['create', 'deployment', 'two', '--image=any', '--replicas=2']);
    await waitFor('both replicas', async () => (await counts()) === '2');
    await cluster.kubectl(['delete', 'deployment', 'two']);
    await waitFor('them to go', async () => {
      return (await cluster.kubectl(['get', 'pods', '-o=name'])) === '';
    });
    t.same(runner.problems, []);
  });

  await t.test('it judges users by their rules, at once when those change', async (t) => {
    const rules = [{ apiGroups: [''], resources: ['pods'], verbs: ['list'] }];
    for (const credential of ['token', 'certificate'] as const) {
      const user = await cluster.addUser(`by-${credential}`, { rules, credential });
      const list = (what: string): Promise<string> =>
        cluster.kubectl(['get', what, '--namespace=shop'], { kubeconfig: user.kubeconfig });
      t.match(await list('pods'), 'web-0', user.userName);
      await t.rejects(list('services'), { message: /cannot list resource "services"/ });
      await user.revoke();
      await t.rejects(list('pods'), { message: /cannot list resource "pods"/ });
      await user.grant(rules);
      t.match(await list('pods'), 'web-0');
    }
  });

  await t.test('a token is replaced in its file, and the one before is refused', async (t) => {
    const user = await cluster.addUser('rotating');
    const read = (): Promise<string> => readFile(user.tokenFile ?? '', 'utf8');
    const before = await read();
    await user.rotateToken({ revokeOld: true });
    const version = (token: string) => cluster.send('GET', '/api', { token });
    t.equal((await version(before)).status, 401);
    t.equal((await version(await read())).status, 200);
  });

  await t.test('it keeps its objects over a restart', async (t) => {
    const { pid } = cluster.apiserver;
    await cluster.restart();
    t.not(cluster.apiserver.pid, pid);
    t.equal((await cluster.send('GET', `${PODS}/web-0`)).status, 200);
  });

  await t.test('a backup takes it back, resource versions included', async (t) => {
    const file = await cluster.backUp();
    const make = (name: string): Promise<unknown> =>
      cluster.ask('POST', '/api/v1/namespaces', { body: { metadata: { name } } });
    for (let i = 0; i < 50; i += 1) await make(`later-${i}`);
    const made = await make('later');
    await cluster.restore(file);
    t.equal((await cluster.send('GET', '/api/v1/namespaces/later')).status, 404);
    const list = await cluster.ask('GET', '/api/v1/namespaces');
    const versionOf = (object: unknown): number =>
      Number((object as { metadata: { resourceVersion: string } }).metadata.resourceVersion);
    t.ok(versionOf(list) < versionOf(made), `${versionOf(list)} after ${versionOf(made)}`);
    t.equal((await cluster.send('GET', `${PODS}/web-0`)).status, 200);
  });

  await t.test('it serves the CRDs of Cilium and MCS-API', { skip: skipCrds }, async (t) => {
    await cluster.installCrds(['ciliumnodes', 'mcs-api']);
    await cluster.ask('GET', '/apis/cilium.io/v2/ciliumnodes');
    await cluster.ask('GET', '/apis/multicluster.x-k8s.io/v1alpha1/serviceexports');
    await t.rejects(cluster.installCrds(['nonesuch']), { message: /nonesuch/ });
  });

  await t.test('another stands beside it, and leaves nothing behind', async (t) => {
    const other = await openKubeCluster({ name: 'other', programs });
    t.equal((await other.send('GET', PODS.replace(/.pods$/, ''))).status, 404);
    const left = [`/proc/${other.apiserver.pid}`, `/proc/${other.etcd.pid}`, other.dir.path];
    t.same(left.filter(existsSync), left);
    await other[Symbol.asyncDispose]();
    await other[Symbol.asyncDispose]();
    t.same(left.filter(existsSync), []);
    t.equal((await cluster.send('GET', `${PODS}/web-0`)).status, 200);
  });
});
