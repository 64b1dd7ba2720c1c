/** Peers as MeshPeer objects of a real API server, whoever writes them: kubectl (as GitOps and Helm do) or the command line. */
import { type Test, test } from 'tap';
import { runCli } from '../../cli/testing/cli-run.ts';
import { decodeDiagnoses } from '../../mesh/diagnosis/diagnosis.ts';
import { projectPath } from '../../mesh/runtime/project-path.ts';
import { etcdSkipReason } from '../../mesh/testing/etcd-server.ts';
import { issueCertificate } from '../../pki/ca.ts';
import { remoteLeaf, SECRET_NAMES } from '../../pki/names.ts';
import { waitFor } from '../lab/wait-for.ts';
import { type KubeCluster, openKubeCluster } from '../peers/kube-cluster.ts';
import { crdPeers } from '../peers/kube-crds.ts';
import { needKube } from '../peers/kube-programs.ts';
import { needPeers, testedCiliums } from '../peers/peer-binary.ts';
import { testCiliumPeer } from './peering-cilium.ts';
import {
  type PeeringCluster,
  preparePeeringCluster,
  runPeering,
  untilPeer,
} from './peering-site.ts';
import { openWriteFaults, type WriteFaults } from './peering-write-control.ts';

const kube = needKube(process.env);
const [version = ''] = testedCiliums(process.env).slice(-1);
const peers = needPeers([`${version}/clustermesh-apiserver`, ...crdPeers], process.env);
const skip = kube.skip || peers.skip || etcdSkipReason(process.env);
const MANIFESTS = 'clustermesh-apiserver/kubernetes/manifests';

/** What `kubectl get` says of a condition of a MeshPeer. */
async function readyReason(cluster: KubeCluster, name: string): Promise<string> {
  return cluster.kubectl([
    'get',
    'meshpeer',
    name,
    '-o',
    'jsonpath={.status.conditions[?(@.type=="Ready")].reason}',
  ]);
}

test('MeshPeer objects are peers', { skip, timeout: 600_000 }, async (t) => {
  const api = await openKubeCluster({ name: 'peering', programs: kube.programs });
  t.teardown(() => api[Symbol.asyncDispose]());
  const user = await api.addUser('clustermesh-apiserver', { namespace: 'isthmus-system' });
  for (const file of ['meshpeer-crd.yaml', 'rbac-any-cni.yaml', 'rbac-peering.yaml']) {
    await api.kubectl(['apply', '-f', projectPath(`${MANIFESTS}/${file}`)]);
  }
  const faults = await openWriteFaults(t);
  const alpha = await preparePeeringCluster(t, {
    name: 'alpha',
    id: 1,
    podCidr: '10.1.0.0/24',
    source: [`--kubeconfig=${user.kubeconfig}`, '--mode=any-cni'],
    peers: ['--mesh-peers'],
    more: ['--lease-namespace=isthmus-system'],
    node: faults.nodeFlags,
  });
  const beta = await preparePeeringCluster(t, { name: 'beta', id: 2, podCidr: '10.2.0.0/24' });
  await Promise.all([alpha.start(), beta.start()]);
  const exportA = (await runPeering(['peer', 'export', ...alpha.flags()])).output;
  const exportB = (await runPeering(['peer', 'export', ...beta.flags()])).output;
  await beta.writePeer('alpha', exportA);

  await t.test('from kubectl; the status says how it stands', async (t) => {
    await api.kubectl(['apply', '-f', '-'], { input: exportB });
    await untilPeer(alpha, 'beta', ({ ready }) => ready);
    await untilPeer(beta, 'alpha', ({ ready }) => ready);
    await waitFor('the condition Ready to be written', async () => {
      return (await readyReason(api, 'beta')) === 'Ready';
    });
    t.same(Object.keys(await alpha.managed()).sort(), [
      'clients/beta',
      'clients/beta.HASH.ca.crt',
      'clients/beta.HASH.crt',
      'clients/beta.HASH.key',
      'trust/beta.crt',
    ]);
    const key = await api.kubectl([
      'get',
      'secret',
      '-n',
      'isthmus-system',
      'clustermesh-apiserver-peering-key',
      '-o',
      'jsonpath={.type}',
    ]);
    t.equal(key, 'Opaque');
  });

  await t.test('the same from the command line is the same (promise 9)', async (t) => {
    const before = await alpha.managed();
    const unchanged = await runPeering(['peer', 'apply', '-f', '-', ...alpha.flags()], exportB);
    t.match(unchanged.output, /beta is as it should be/);
    const deleted = await runPeering(['peer', 'delete', 'beta', ...alpha.flags()]);
    t.match(deleted.output, /beta is a peer no more/, deleted.said);
    t.same(await alpha.managed(), {});
    t.equal(await api.kubectl(['get', 'meshpeers', '-o', 'name']), '');
    const applied = await runPeering(['peer', 'apply', '-f', '-', ...alpha.flags()], exportB);
    t.match(applied.output, /beta is a peer now/, applied.said + applied.output);
    await untilPeer(alpha, 'beta', ({ ready }) => ready);
    t.same(await alpha.managed(), before);
  });

  await t.test('what Git brings is judged as well, and harms nothing', async (t) => {
    const before = await alpha.managed();
    const twin = exportB.replace('name: beta', 'name: gamma');
    await api.kubectl(['apply', '-f', '-'], { input: twin });
    await waitFor(
      'gamma to be refused',
      async () => (await readyReason(api, 'gamma')) === 'Refused',
    );
    t.same(await alpha.managed(), before, 'the peer that was first stays');
    await api.kubectl(['delete', 'meshpeer', 'gamma']);
    await t.rejects(
      api.kubectl(['apply', '-f', '-'], {
        input: exportB.replace('clusterId: 2', 'clusterId: 300'),
      }),
      /a clusterId above 255 needs maxConnectedClusters 511/,
    );
  });

  await t.test('a peer without enrollment: a certificate in a Secret', async (t) => {
    // As a Cilium cluster gives it: its own authority signs `remote`.
    const pair = await issueCertificate(beta.ca, remoteLeaf());
    const secret = {
      apiVersion: 'v1',
      kind: 'Secret',
      metadata: { name: 'beta-remote', namespace: 'isthmus-system' },
      stringData: { 'tls.crt': pair.certificate, 'tls.key': pair.privateKey },
    };
    const ciliumLike = exportB
      .replace(/ {2}enrollment:\n {4}- \S+\n/, '  clientCertificateSecret: beta-remote\n')
      .replace(/ {2}clientKeyHash: .*\n/, '');
    await api.kubectl(['replace', '-f', '-'], { input: ciliumLike });
    await waitFor('what is missing to be said', async () => {
      const text = await api.kubectl(['get', 'meshpeer', 'beta', '-o', 'yaml']);
      return /may not get|beta-remote/.test(text) && /RenewalFails|Waiting/.test(text);
    });
    await api.kubectl([
      'patch',
      'role',
      'isthmus-peering',
      '-n',
      'isthmus-system',
      '--type=json',
      '-p',
      '[{"op":"add","path":"/rules/1/resourceNames/-","value":"beta-remote"}]',
    ]);
    await api.kubectl(['apply', '-f', '-'], { input: JSON.stringify(secret) });
    await waitFor('it to be read with that certificate', async () => {
      const { output } = await runPeering(['peer', 'list', '-o', 'json', ...alpha.flags()]);
      const [view] = JSON.parse(output) as { certificateNotAfter?: string }[];
      // Three years; an enrolled one has a day.
      return Date.parse(view?.certificateNotAfter ?? '') > Date.now() + 400 * 86_400_000;
    });
    await untilPeer(alpha, 'beta', ({ ready }) => ready);
    t.pass('it is read');
  });

  await t.test('a peer that Cilium runs', (t) =>
    testCiliumPeer(t, { api, alpha, beta, binary: peers.paths[0] ?? '' }),
  );

  if (process.env.ISTHMUS_LONG === 'true') {
    await t.test('an apiserver that is killed at a write of an object', (t) =>
      testKilledWrites(t, { api, alpha, exportB, faults }),
    );
  }

  await t.test('the command line finds the cluster by its context', async (t) => {
    const list = ['peer', 'list', `--kubeconfig=${api.adminKubeconfig}`];
    const lost = await runPeering([...list, '--namespace=isthmus-system']);
    t.equal(lost.code, 1);
    t.match(lost.said, /clustermesh-apiserver-admin-cert/);
    await api.kubectl([
      'create',
      'secret',
      'generic',
      SECRET_NAMES.admin,
      '--namespace=isthmus-system',
      ...['ca.crt', 'tls.crt', 'tls.key'].map(
        (file) => `--from-file=${file}=${alpha.file(SECRET_NAMES.admin, file)}`,
      ),
    ]);
    const service = {
      apiVersion: 'v1',
      kind: 'Service',
      metadata: { name: 'clustermesh-apiserver', namespace: 'isthmus-system' },
      spec: { type: 'LoadBalancer', ports: [{ name: 'registry', port: alpha.registryPort }] },
    };
    await api.kubectl(['apply', '-f', '-'], { input: JSON.stringify(service) });
    await api.kubectl([
      'patch',
      'service',
      'clustermesh-apiserver',
      '--namespace=isthmus-system',
      '--subresource=status',
      '--type=merge',
      '-p',
      '{"status":{"loadBalancer":{"ingress":[{"ip":"127.0.0.1"}]}}}',
    ]);
    const found = await runPeering([...list, '--namespace=isthmus-system']);
    t.equal(found.code, 0, found.said);
    t.match(found.output, /^beta +2 +ready/m);
    const nowhere = await runPeering([...list, '--context=nowhere']);
    t.equal(nowhere.code, 2, nowhere.said);
  });

  await t.test('the definition of MeshPeer is gone: it is told, and the peers stay', async (t) => {
    const before = await alpha.managed();
    await api.kubectl(['delete', 'crd', 'meshpeers.isthmus.io']);
    const verdict = await waitFor('the definition to be missed', async () => {
      const { stdout } = await runCli(['troubleshoot', 'alpha', '-o', 'json', ...alpha.flags()]);
      const [own] = decodeDiagnoses(stdout);
      return own?.verdict.includes('(crd-missing)') && own.verdict;
    });
    t.match(verdict, /^cluster alpha does not work because MeshPeer cannot be read/);
    t.same(await alpha.managed(), before);
  });

  await t.test('parting with a dead API server here, and there', async (t) => {
    const there = [
      `--destination-kubeconfig=${api.adminKubeconfig}`,
      '--destination-namespace=isthmus-system',
      '--destination-context=test',
    ];
    await api.stop('SIGKILL');
    const nameless = await runPeering(['disconnect', ...beta.flags(), ...there]);
    t.equal(nameless.code, 2, nameless.said);
    t.match(nameless.said, /give its name as --peer NAME/);
    const named = await runPeering(['disconnect', ...beta.flags(), ...there, '--peer', 'alpha']);
    t.equal(named.code, 0, named.said);
    t.match(named.output, /alpha is a peer no more/);
    t.match(
      named.said,
      /alpha was not changed: when it is back, run there "clustermesh peer delete beta"/,
    );
    t.same(await beta.managed(), {});
    // Ours is alive, and cannot write what it would have to.
    const before = await alpha.managed();
    const stuck = await runPeering(['disconnect', ...alpha.flags(), '--peer', 'beta']);
    t.equal(stuck.code, 1, stuck.said);
    t.match(stuck.said, /cannot read the MeshPeer objects: .*ECONNREFUSED/);
    t.same(await alpha.managed(), before, 'nothing was half done');
  });
});

/** The next process leads when the lease of the one that was killed has run out. */
async function testKilledWrites(
  t: Test,
  lab: {
    readonly api: KubeCluster;
    readonly alpha: PeeringCluster;
    readonly exportB: string;
    readonly faults: WriteFaults;
  },
): Promise<void> {
  const { api, alpha, exportB, faults } = lab;
  const apply = () => runPeering(['peer', 'apply', '-f', '-', ...alpha.flags()], exportB);
  const remove = () => runPeering(['peer', 'delete', 'beta', ...alpha.flags()]);
  const names = () => api.kubectl(['get', 'meshpeers', '-o', 'name']);
  const killAt = async (act: typeof apply, outcome: string): Promise<void> => {
    // The first write is that of the history.
    await faults.arm({ at: 2, when: 'after' });
    await Promise.all([act(), alpha.ended()]);
    await faults.arm({ at: 0, when: 'before' });
    t.equal(await names(), outcome, 'it was written, and nobody knows');
    await alpha.start();
    const again = await act();
    t.equal(again.code, 0, again.said);
    t.match(again.output, /beta is as it should be/);
  };
  await killAt(remove, '');
  t.same(await alpha.managed(), {});
  await killAt(apply, 'meshpeer.isthmus.io/beta\n');
  await untilPeer(alpha, 'beta', ({ ready }) => ready);
}
