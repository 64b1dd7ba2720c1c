/** Peering with a cluster that Cilium runs: its real clustermesh-apiserver and etcd, which know nothing of us. */
import { readFile, writeFile } from 'node:fs/promises';
import type { Test } from 'tap';
import { stringify } from 'yaml';
import { openEtcd } from '../../mesh/kvstore/etcd.ts';
import { KvError } from '../../mesh/kvstore/kvstore.ts';
import { openTempDir } from '../../mesh/testing/temp-dir.ts';
import { issueCertificate } from '../../pki/ca.ts';
import { remoteLeaf } from '../../pki/names.ts';
import { waitFor } from '../lab/wait-for.ts';
import { startCiliumApiserver } from '../peers/cilium-apiserver.ts';
import { openCiliumEtcd } from '../peers/cilium-etcd.ts';
import type { KubeCluster } from '../peers/kube-cluster.ts';

import { mirroredKeys } from './peering-mirror.ts';
import { type PeeringCluster, runPeering, untilPeer } from './peering-site.ts';

const CRDS = ['ciliumnodes', 'ciliumidentities', 'ciliumendpoints', 'ciliumendpointslices'];
const CONFIGS = 'cilium/cluster-config/';
const CACHED_NODE = 'cilium/cache/nodes/v1/gamma/gamma-1';

/** `alpha` keeps its peers in `api`, `beta` in files: both take the Cilium cluster gamma for a peer, and part with it. */
export async function testCiliumPeer(
  t: Test,
  options: {
    readonly api: KubeCluster;
    readonly alpha: PeeringCluster;
    readonly beta: PeeringCluster;
    /** Cilium's `clustermesh-apiserver`. */
    readonly binary: string;
  },
): Promise<void> {
  const { api, alpha, beta, binary } = options;
  const dir = await openTempDir('cilium-peer');
  t.teardown(() => dir[Symbol.asyncDispose]());
  const { signal } = new AbortController();
  const gamma = await openCiliumEtcd(binary, { cluster: 'gamma', dir, signal });
  t.teardown(() => gamma[Symbol.asyncDispose]());
  await api.installCrds(CRDS);
  const node = {
    apiVersion: 'cilium.io/v2',
    kind: 'CiliumNode',
    metadata: { name: 'gamma-1' },
    spec: { addresses: [{ type: 'InternalIP', ip: '192.168.3.1' }] },
  };
  await api.kubectl(['apply', '-f', '-'], { input: JSON.stringify(node) });
  const publisher = await startCiliumApiserver(binary, {
    cluster: { name: 'gamma', id: 3 },
    kubeconfig: api.adminKubeconfig,
    etcdConfigFile: gamma.adminFile,
    serviceExports: false,
    dir,
    signal,
  });
  t.teardown(() => publisher[Symbol.asyncDispose]());
  await publisher.ready;

  // What a person takes from its Secret clustermesh-apiserver-remote-cert.
  const pair = await issueCertificate(gamma.ca, remoteLeaf());
  const [certFile, keyFile] = [dir.file('remote.crt'), dir.file('remote.key')];
  await writeFile(certFile, pair.certificate);
  await writeFile(keyFile, pair.privateKey, { mode: 0o600 });
  const peer = (more: object, spec: object = {}) =>
    stringify({
      apiVersion: 'isthmus.io/v1alpha1',
      kind: 'MeshPeer',
      metadata: { name: 'gamma' },
      spec: { clusterId: 3, endpoints: [gamma.endpoint], ca: gamma.ca.root, ...more, ...spec },
    });
  const asFiles = { clientCertificate: { certFile, keyFile } };
  const asSecret = { clientCertificateSecret: 'gamma-remote' };

  const wrong = await runPeering(
    ['peer', 'apply', '-f', '-', ...beta.flags()],
    peer(asFiles, { clusterId: 9 }),
  );
  t.equal(wrong.code, 1, wrong.said);
  t.match(wrong.output, /peer-wrong-cluster: .*cluster id 3, and the MeshPeer says 9/);

  const inFiles = await runPeering(['peer', 'apply', '-f', '-', ...beta.flags()], peer(asFiles));
  t.equal(inFiles.code, 0, inFiles.said + inFiles.output);
  const early = await runPeering(['peer', 'apply', '-f', '-', ...alpha.flags()], peer(asSecret));
  t.equal(early.code, 0, early.said + early.output);
  t.match(early.output, /own-certificate-missing: .*gamma-remote/, 'the Secret is not there yet');
  await api.kubectl([
    ...['patch', 'role', 'isthmus-peering', '-n', 'isthmus-system', '--type=json', '-p'],
    '[{"op":"add","path":"/rules/1/resourceNames/-","value":"gamma-remote"}]',
  ]);
  await api.kubectl([
    ...['create', 'secret', 'tls', 'gamma-remote', '-n', 'isthmus-system'],
    `--cert=${certFile}`,
    `--key=${keyFile}`,
  ]);
  for (const cluster of [alpha, beta]) {
    await untilPeer(cluster, 'gamma', ({ ready }) => ready);
    const keys = await mirroredKeys(cluster);
    t.ok(keys.includes(CACHED_NODE), `${cluster.name} has ${keys.join(', ')}`);
  }

  await testTrust(t, { alpha, gamma: gamma.ca });

  for (const cluster of [alpha, beta]) {
    const parted = await runPeering(['disconnect', '--peer', 'gamma', ...cluster.flags()]);
    t.equal(parted.code, 0, parted.said + parted.output);
    // What it is goes at once; what it has published when nobody can use it any more, as with Cilium.
    await waitFor(`${cluster.name} not to offer it to its nodes`, async () => {
      return !(await mirroredKeys(cluster, CONFIGS)).includes(`${CONFIGS}gamma`);
    });
    t.notMatch(Object.keys(await cluster.managed()).join(' '), /gamma/);
  }
  t.match(
    await readFile(certFile, 'utf8'),
    /BEGIN CERTIFICATE/,
    'what others have put there stays',
  );
}

/** As Cilium reads us: by a certificate that its own authority has signed, which nobody here was told of. */
async function testTrust(
  t: Test,
  { alpha, gamma }: { readonly alpha: PeeringCluster; readonly gamma: PeeringCluster['ca'] },
): Promise<void> {
  const read = async (): Promise<string | undefined> => {
    const remote = await issueCertificate(gamma, remoteLeaf());
    await using store = await openEtcd({
      endpoints: [`https://127.0.0.1:${alpha.gatePort}`],
      tls: { ca: alpha.ca.root, cert: remote.certificate, key: remote.privateKey },
    });
    await t.rejects(store.list('isthmus/registry/'), KvError, 'it may read what peers may');
    return (await store.get('cilium/cluster-config/alpha'))?.value.toString();
  };
  t.match(await read(), /"id":1\b/, 'it reads what alpha is');
}
