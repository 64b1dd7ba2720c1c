import { test } from 'tap';
import { createCa, issueCertificate } from '../../pki/ca.ts';
import { remoteLeaf } from '../../pki/names.ts';
import { ObjectError } from '../sources/object-error.ts';
import { formatMeshPeer, parseMeshPeer, parseMeshPeerText } from './mesh-peer.ts';

const HASH = 'A'.repeat(43);

test('parseMeshPeer()', async (t) => {
  const { root } = await createCa({ commonName: 'CA of beta' });
  const leaf = await issueCertificate(await createCa(), remoteLeaf());
  const spec = {
    clusterId: 2,
    endpoints: ['https://10.0.0.7:2379'],
    enrollment: ['10.0.0.7:2382'],
    ca: root,
    clientKeyHash: HASH,
  };
  const object = (change: object = {}, name = 'beta') => ({
    apiVersion: 'isthmus.io/v1alpha1',
    kind: 'MeshPeer',
    metadata: { name },
    spec: { ...spec, ...change },
  });

  t.test('what is written is read as the same', async (t) => {
    const peer = parseMeshPeer(
      object({
        networks: { pods: ['10.2.0.0/16'], nodes: ['fd00::/64'] },
        hostAliases: [{ hostname: 'b.example.org', ips: ['10.0.0.7'] }],
        datapath: { mtu: 1500 },
      }),
    );
    const text = formatMeshPeer(peer);
    t.equal(formatMeshPeer(parseMeshPeerText(text)), text);
    t.same(parseMeshPeerText(text).spec, peer.spec);
    t.equal(peer.spec.maxConnectedClusters, 255, 'as Cilium has it by default');
  });

  t.test('comments and blank lines in the bundle make no other peer', async (t) => {
    const peer = parseMeshPeer(object({ ca: `# ours\n\n${root}\n\n` }));
    t.equal(formatMeshPeer(peer), formatMeshPeer(parseMeshPeer(object())));
  });

  t.test('what cannot be is refused, and its field named', async (t) => {
    const cases: readonly [object, string][] = [
      [{ clusterId: 0 }, 'spec.clusterId'],
      [{ clusterId: 256 }, 'spec.clusterId'],
      [{ maxConnectedClusters: 300 }, 'spec.maxConnectedClusters'],
      [{ endpoints: [] }, 'spec.endpoints'],
      [{ endpoints: ['http://10.0.0.7:2379'] }, 'spec.endpoints[0]'],
      [{ enrollment: ['10.0.0.7'] }, 'spec.enrollment[0]'],
      [{ enrollment: [] }, 'spec.enrollment'],
      [{ ca: 'nothing' }, 'spec.ca'],
      [{ ca: leaf.certificate }, 'spec.ca'],
      [{ clientKeyHash: 'short' }, 'spec.clientKeyHash'],
      [{ networks: { pods: ['10.2.0.0/33'] } }, 'spec.networks.pods[0]'],
      [{ network: {} }, 'spec'],
      [{ datapath: { mtu: 100 } }, 'spec.datapath.mtu'],
      [{ clientCertificateSecret: 'x' }, 'spec.enrollment'],
      [
        { clientCertificateSecret: 'x', clientCertificate: { certFile: 'a', keyFile: 'b' } },
        'spec.clientCertificateSecret',
      ],
    ];
    for (const [change, field] of cases) {
      const error = await t.rejects(async () => parseMeshPeer(object(change)), ObjectError);
      t.match(error, { field }, JSON.stringify(change));
    }
    t.throws(() => parseMeshPeer(object({}, 'default')), { message: /metadata\.name/ });
    t.throws(() => parseMeshPeerText('a: ['), { message: /it is not YAML/ });
  });

  t.test('a peer that Cilium runs has a certificate of its own', async (t) => {
    const { enrollment: _none, clientKeyHash: _neither, ...rest } = spec;
    const peer = parseMeshPeer({
      ...object(),
      spec: { ...rest, clientCertificateSecret: 'cilium-beta' },
    });
    t.same(peer.spec.clientCertificate, { kind: 'secret', name: 'cilium-beta' });
    t.match(formatMeshPeer(peer), /clientCertificateSecret: cilium-beta/);
  });
});
