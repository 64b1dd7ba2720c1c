import { readFile } from 'node:fs/promises';
import { test } from 'tap';
import { projectPath } from '../../mesh/runtime/project-path.ts';
import { openMemoryUnderTest, openPublishingRig } from '../testing/publishing-rig.ts';

/**
 * The objects behind some of the keys that Cilium's own types wrote (`mesh/wire/testdata/cilium-kv.jsonl`), as Kubernetes
 * YAML. What Kubernetes objects cannot say, such as a node's health address, is left out of the comparison.
 */
const MANIFESTS = `
kind: Node
apiVersion: v1
metadata: {name: v4-only, labels: {kubernetes.io/hostname: v4-only, kubernetes.io/os: linux}}
spec: {podCIDR: 10.1.0.0/24}
status:
  addresses: [{type: InternalIP, address: 192.0.2.11}, {type: CiliumInternalIP, address: 10.1.0.214}, {type: Hostname, address: v4-only}]
  nodeInfo: {bootID: 7c1a7f5e-2f2a-4c5c-9c88-6a3a3d2a0001}
---
kind: Node
apiVersion: v1
metadata: {name: dual-stack.example, labels: {topology.kubernetes.io/region: r1, topology.kubernetes.io/zone: za}}
spec: {podCIDRs: [10.1.1.0/24, "fd00:10:1:1::/64", 10.1.128.0/20, "fd00:10:1:9::/72"]}
status:
  addresses:
  - {type: InternalIP, address: 192.0.2.12}
  - {type: InternalIP, address: "2001:db8::12"}
  - {type: ExternalIP, address: 198.51.100.12}
  - {type: CiliumInternalIP, address: 10.1.1.33}
  - {type: CiliumInternalIP, address: "fd00:10:1:1::33"}
---
kind: Namespace
apiVersion: v1
metadata: {name: demo}
---
kind: Pod
apiVersion: v1
metadata: {name: web-5d9c-abcde, namespace: demo, labels: {app: web, pod-template-hash: 5d9c}}
spec:
  nodeName: v4-only
  serviceAccountName: default
  containers:
  - ports: [{name: http, containerPort: 8080}, {name: dns, containerPort: 5353, protocol: UDP}]
  - ports: [{name: sig, containerPort: 3868, protocol: SCTP}]
status: {hostIP: 192.0.2.11, podIP: 10.1.0.5, podIPs: [{ip: 10.1.0.5}]}
---
kind: Service
apiVersion: v1
metadata: {name: web, namespace: demo, labels: {app: web}, annotations: {service.cilium.io/global: "true"}}
spec:
  clusterIP: 10.96.103.35
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: 8080}, {name: dns, port: 53, protocol: UDP, targetPort: 5353}]
---
kind: EndpointSlice
apiVersion: discovery.k8s.io/v1
metadata: {name: web-1, namespace: demo, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints: [{addresses: [10.1.1.6], conditions: {ready: true}}, {addresses: [10.1.0.5], conditions: {ready: true}}]
ports: [{name: http, port: 8080}, {name: dns, port: 5353, protocol: UDP}]
---
kind: Service
apiVersion: v1
metadata: {name: headless, namespace: data, annotations: {io.cilium/global-service: "true"}}
spec: {clusterIP: None, ports: [{name: pg, port: 5432}, {name: sig, port: 3868, protocol: SCTP}]}
---
kind: EndpointSlice
apiVersion: discovery.k8s.io/v1
metadata: {name: headless-1, namespace: data, labels: {kubernetes.io/service-name: headless}}
addressType: IPv4
endpoints: [{addresses: [10.1.0.21], hostname: db-0}]
ports: [{name: pg, port: 5432, protocol: TCP}, {name: sig, port: 3868, protocol: SCTP}]
---
kind: Service
apiVersion: v1
metadata: {name: dual, namespace: demo, annotations: {service.cilium.io/global: "true"}}
spec: {clusterIPs: [10.96.0.77, "fd00:10:96::77"], ports: [{port: 443, targetPort: 8443}]}
---
kind: EndpointSlice
apiVersion: discovery.k8s.io/v1
metadata: {name: dual-4, namespace: demo, labels: {kubernetes.io/service-name: dual}}
addressType: IPv4
endpoints: [{addresses: [10.1.1.7], zone: za, hints: {forZones: [{name: za}, {name: zb}]}}]
ports: [{port: 8443}]
---
kind: EndpointSlice
apiVersion: discovery.k8s.io/v1
metadata: {name: dual-6, namespace: demo, labels: {kubernetes.io/service-name: dual}}
addressType: IPv6
endpoints: [{addresses: ["fd00:10:1:1::7"], zone: zb}]
ports: [{port: 8443}]
`;

type Fields = Record<string, unknown>;

const CASES: readonly { readonly key: string; readonly leaveOut?: readonly string[] }[] = [
  { key: 'cilium/state/nodes/v1/alpha/v4-only', leaveOut: ['IPv4HealthIP'] },
  {
    key: 'cilium/state/nodes/v1/alpha/dual-stack.example',
    leaveOut: [
      'IPv4HealthIP',
      'IPv6HealthIP',
      'IPv4IngressIP',
      'IPv6IngressIP',
      'EncryptionKey',
      'Annotations',
      'WireguardPubKey',
    ],
  },
  { key: 'cilium/state/services/v1/alpha/demo/web' },
  { key: 'cilium/state/services/v1/alpha/data/headless' },
  // Written with includeExternal false; an exported service has it true. Of a backend without hints Cilium's converter writes
  // an empty list (operator/watchers/service_sync.go), where the bare type has null: see convert/golden.test.ts.
  { key: 'cilium/state/services/v1/alpha/demo/dual', leaveOut: ['includeExternal', 'zones'] },
  // The number is the allocator's; named ports are sorted by their names.
  { key: 'cilium/state/ip/v1/default/10.1.0.5', leaveOut: ['ID', 'NamedPorts'] },
];

test('what is published equals what Cilium writes of the same objects', async (t) => {
  const golden = new Map<string, string>();
  for (const line of (
    await readFile(projectPath('mesh/wire/testdata/cilium-kv.jsonl'), 'utf8')
  ).split('\n')) {
    if (line === '') continue;
    const { key, value } = JSON.parse(line) as { key: string; value: string };
    golden.set(key, value);
  }
  const rig = await openPublishingRig(t, openMemoryUnderTest());
  await rig.write('all.yaml', MANIFESTS);
  const published = await rig.start();
  await published.ready;
  t.same(published.problems, []);
  const ours = await rig.read('cilium/');
  for (const { key, leaveOut = [] } of CASES) {
    const expected: Fields = JSON.parse(golden.get(key) ?? 'null');
    const found: Fields = JSON.parse(ours.get(key) ?? 'null');
    t.same(Object.keys(found), Object.keys(expected), `${key}: the same fields in the same order`);
    for (const field of leaveOut) {
      delete expected[field];
      delete found[field];
    }
    t.same(found, expected, key);
  }
  const address = 'cilium/state/ip/v1/default/10.1.0.5';
  const { ID, NamedPorts } = JSON.parse(ours.get(address) ?? '{}') as {
    ID: number;
    NamedPorts: unknown[];
  };
  t.same(
    new Set(NamedPorts.map((port) => JSON.stringify(port))),
    new Set(
      JSON.parse(golden.get(address) ?? '{}').NamedPorts.map((port: unknown) =>
        JSON.stringify(port),
      ),
    ),
  );
  t.equal(
    ours.get(`cilium/state/identities/v1/id/${ID}`),
    golden.get('cilium/state/identities/v1/id/65793'),
    'the identity has the labels that Cilium gives it',
  );
});
