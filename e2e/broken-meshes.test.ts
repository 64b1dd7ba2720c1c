/**
 * Which test breaks a mesh in which way, and what people are told then: "25 broken meshes … the right cause in each" of issue G
 * as a list. Each row leads to a test on real servers, certificates and packets; this test follows it.
 */
import { readFile } from 'node:fs/promises';
import { test } from 'tap';
import { PROBLEMS, type ProblemId } from '../mesh/diagnosis/problems.ts';
import { projectPath } from '../mesh/runtime/project-path.ts';

/** What is broken, the problem that is named, and the name of the test in its file. */
type Broken = readonly [what: string, id: ProblemId, title: string];

/** By who names it, and the file of the tests. */
const MESHES: readonly {
  readonly by: string;
  readonly file: string;
  readonly meshes: readonly Broken[];
}[] = [
  {
    by: 'the preflight of `clustermesh peer apply`, before anything changes',
    file: 'e2e/scenarios/peering-refusals.ts',
    meshes: [
      ['same name', 'peer-same-name', 'our name'],
      ['same id', 'peer-same-id', 'our id'],
      ['the id of another peer', 'peer-same-id', 'the id of another peer'],
      ['255 against 511 clusters', 'peer-mesh-size', 'a mesh of another size'],
      ['overlapping networks, as declared', 'peer-overlapping-networks', 'networks that overlap'],
      [
        'overlapping networks, as nodes say them',
        'peer-overlapping-networks',
        'the node of beta to be in the way',
      ],
      ['unreachable endpoint', 'peer-unreachable', 'an endpoint where nobody listens'],
      ['unreachable enrollment', 'peer-unreachable', 'an enrollment listener where nobody listens'],
      ['an endpoint that answers as ourselves', 'peer-is-ourselves', 'our own endpoint'],
      ['wrong CA', 'peer-tls', 'our own authority for a server of another one'],
      ['wrong name', 'peer-tls', 'a name that the certificate does not have'],
      ['expired certificate', 'peer-tls', 'an expired certificate'],
      ['certificate of the future', 'peer-tls', 'a certificate that is not valid yet'],
      ['another cluster', 'peer-wrong-cluster', 'the endpoints of another cluster'],
      ['another id', 'peer-wrong-cluster', 'another id than the cluster says itself'],
      ['clock skew', 'peer-clock', "id === 'peer-clock'"],
      ['tunnel against native routing', 'peer-routing-mode', 'another way of packets'],
      ['another tunnel port', 'peer-routing-mode', 'another port of the tunnel'],
      ['another MTU', 'peer-mtu', 'another MTU'],
    ],
  },
  {
    by: 'the preflight of `clustermesh connect`, before anything changes',
    file: 'e2e/scenarios/peering-reach.ts',
    meshes: [
      ['nodes that do not reach each other', 'peer-nodes-unreachable', 'the node of alpha to look'],
    ],
  },
  {
    by: '`clustermesh troubleshoot`, of the control plane',
    file: 'mesh/diagnosis/peer-path.test.ts',
    meshes: [
      [
        'expired server certificate',
        'peer-certificate-expired',
        'expired certificate of the server',
      ],
      [
        'server certificate of the future',
        'peer-certificate-not-yet-valid',
        'its certificate is not yet valid',
      ],
      ['wrong CA', 'peer-wrong-ca', 'wrong CA'],
      ['wrong SAN', 'peer-wrong-name', 'wrong name in its certificate'],
      ['our certificate has expired', 'own-certificate-expired', 'our certificate has expired'],
      [
        'half-connected: it does not trust us',
        'own-certificate-refused',
        'half connected: it has not been told whom to trust for us',
      ],
      [
        'half-connected: it cannot read us',
        'peer-half-connected',
        'half connected: it cannot read us',
      ],
      ['wrong port', 'peer-port-closed', 'wrong port'],
      ['another program at the port', 'peer-no-tls', 'something else listens'],
      ['unknown host name', 'peer-dns', 'a name that nobody knows'],
      ['file of another cluster', 'peer-wrong-cluster', 'wrong name of the cluster'],
      ['our own endpoint', 'peer-is-ourselves', 'it answers as ourselves'],
      ['duplicate id', 'peer-same-id', 'duplicate id'],
      ['255 against 511 clusters', 'peer-mesh-size', '255 against 511'],
      ['a peer that was renumbered', 'peer-id-changed', 'its id has changed'],
      ['clock skew', 'peer-clock', 'clocks differ by an hour'],
      [
        'clock skew beyond certificates',
        'peer-clock',
        'clocks differ by more than its certificate is old',
      ],
      ['certificate files gone', 'own-certificate-missing', 'its files are gone'],
      [
        'publisher down, etcd up',
        'peer-publisher-silent',
        'its apiserver is down, and its etcd is not',
      ],
      ['never published', 'peer-config-missing', 'it has never published'],
      ['no nodes', 'peer-no-nodes', 'it publishes no nodes'],
      ['etcd hangs', 'peer-etcd-silent', 'its etcd hangs'],
    ],
  },
  {
    by: '`clustermesh troubleshoot`, of a whole lab with packets',
    file: 'e2e/scenarios/status.test.ts',
    meshes: [
      ['blocked UDP 8472', 'vxlan-blocked', 'UDP 8472 is blocked'],
      ['small MTU', 'mtu-small', 'a way that is narrower than the nodes think'],
      ['a node cut off', 'peer-filtered', 'its node is cut off, its gate with it'],
      [
        'half-connected: trust taken back',
        'own-certificate-refused',
        'half connected: the peer does not trust us any more',
      ],
      ['apiserver of the peer down', 'peer-port-closed', "the peer's apiserver is down"],
      ['agent down', 'agent-silent', 'an agent is down'],
      [
        'a Service at a closed port',
        'service-refused',
        'a Service, and policies of either cluster',
      ],
      [
        'a Service behind a policy that is not told here',
        'service-silent',
        'a Service, and policies of either cluster',
      ],
      ['a policy of either end', 'policy-denies', 'a Service, and policies of either cluster'],
    ],
  },
  {
    by: '`clustermesh troubleshoot`, of an apiserver in Kubernetes',
    file: 'e2e/scenarios/broken-cluster.test.ts',
    meshes: [
      ['missing CRD', 'crd-missing', 'definitions of custom kinds are gone'],
      ['stale token', 'kubernetes-credentials', 'the token of its service account is refused'],
      ['etcd full', 'etcd-full', 'its etcd is full'],
      [
        'etcd of a peer replaced by an empty one',
        'peer-store-replaced',
        "a peer's etcd was replaced by an empty one",
      ],
    ],
  },
  {
    by: '`clustermesh troubleshoot`, of an apiserver whose peers are objects',
    file: 'e2e/scenarios/peering-kubernetes.test.ts',
    meshes: [['missing CRD of MeshPeer', 'crd-missing', 'the definition of MeshPeer is gone']],
  },
];

test('each broken mesh has its test', async (t) => {
  for (const { by, file, meshes } of MESHES) {
    const source = await readFile(projectPath(file), 'utf8');
    for (const [what, id, title] of meshes) {
      t.ok(source.includes(title), `${what}: ${file} has ${JSON.stringify(title)}`);
      t.ok(source.includes(id), `${what}: ${id} is named by ${by}`);
      t.ok(PROBLEMS[id].next.length > 0, `${id} has a next command`);
    }
  }
  const named = MESHES.flatMap(({ by, meshes }) =>
    by.includes('troubleshoot') ? meshes.map(([, id]) => id) : [],
  );
  t.ok(new Set(named).size >= 25, `troubleshoot names ${new Set(named).size} causes`);
});
