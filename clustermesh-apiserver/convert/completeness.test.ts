/** No record before all that it is made of is known, and no set whole before every kind of it is (promise 6). */
import { test } from 'tap';
import type { ClusterObjectKind } from '../sources/objects.ts';
import { kindsOf, PUBLISHED_SETS, type PublishedSet } from './published-sets.ts';
import { createModelRig } from './testing/model-rig.ts';

const GLOBAL = { 'service.cilium.io/global': 'true' };
const SERVICE = {
  kind: 'Service',
  metadata: { name: 'web', namespace: 'demo', annotations: GLOBAL },
  spec: { clusterIP: '10.96.3.5', selector: { app: 'web' }, ports: [{ name: 'http', port: 80 }] },
};
const SLICE = {
  kind: 'EndpointSlice',
  metadata: { name: 'web-1', namespace: 'demo', labels: { 'kubernetes.io/service-name': 'web' } },
  addressType: 'IPv4',
  endpoints: [{ addresses: ['10.1.0.5'] }],
  ports: [{ name: 'http', port: 8080 }],
};
const POD = {
  kind: 'Pod',
  metadata: { name: 'web-0', namespace: 'demo', labels: { app: 'web' } },
  status: { podIP: '10.1.0.5' },
};
const NAMESPACE = { kind: 'Namespace', metadata: { name: 'demo', labels: { team: 'red' } } };
const NODE = { kind: 'Node', metadata: { name: 'n1' } };
const CILIUM_NODE = { kind: 'CiliumNode', metadata: { name: 'n1' }, spec: {} };
const ENDPOINT = {
  kind: 'CiliumEndpoint',
  metadata: { name: 'web-0', namespace: 'demo' },
  status: { networking: { addressing: [{ ipv4: '10.1.0.5' }] } },
};
const IDENTITY = {
  kind: 'CiliumIdentity',
  metadata: { name: '196915' },
  'security-labels': { 'k8s:io.kubernetes.pod.namespace': 'demo' },
};
const EXPORT = {
  kind: 'ServiceExport',
  metadata: { name: 'web', namespace: 'demo', creationTimestamp: '2026-01-01T00:00:00Z' },
};
const POLICY = { kind: 'NetworkPolicy', metadata: { name: 'p', namespace: 'demo' }, spec: {} };

const HIDDEN_NAMESPACE = {
  kind: 'Namespace',
  metadata: { name: 'hidden', annotations: { 'clustermesh.cilium.io/global': 'false' } },
};
const HIDDEN_POD = {
  kind: 'Pod',
  metadata: { name: 'a', namespace: 'hidden' },
  status: { podIP: '10.1.0.9' },
};

const KEYS: Readonly<Record<PublishedSet, string>> = {
  nodes: 'cilium/state/nodes/v1/cluster3/n1',
  ips: 'cilium/state/ip/v1/default/10.1.0.5',
  identities: 'cilium/state/identities/v1/id/196915',
  services: 'cilium/state/services/v1/cluster3/demo/web',
  serviceexports: 'cilium/state/serviceexports/v1/cluster3/demo/web',
  'local-ips': 'isthmus/local/ip/10.1.0.9',
  'local-identities': 'isthmus/local/identities/196915',
  'local-services': 'isthmus/local/services/demo/web',
  'local-policies': 'isthmus/local/policies/NetworkPolicy/demo/p',
};

const POLICIES = [
  'NetworkPolicy',
  'CiliumNetworkPolicy',
  'CiliumClusterwideNetworkPolicy',
  'CiliumCIDRGroup',
] as const;

/** For each set: what has to be told before its first record, and before it is whole. */
type Row = readonly [set: PublishedSet, before: readonly ClusterObjectKind[], ClusterObjectKind[]];
const ROWS: Readonly<Record<'any-cni' | 'cilium', readonly Row[]>> = {
  'any-cni': [
    ['nodes', [], ['Node']],
    ['ips', ['Namespace'], ['Pod']],
    ['local-ips', ['Namespace'], ['Pod']],
    // The own agents take its marker for that of their policies, too.
    ['services', ['EndpointSlice', 'Namespace', 'Pod'], ['Service', ...POLICIES]],
    ['local-services', ['EndpointSlice', 'Namespace', 'Pod'], ['Service']],
    ['serviceexports', ['Service', 'Namespace'], ['ServiceExport']],
    ['local-policies', [], [...POLICIES]],
  ],
  cilium: [
    ['nodes', [], ['CiliumNode']],
    ['ips', ['Namespace'], ['CiliumEndpoint', 'CiliumEndpointSlice']],
    ['identities', ['Namespace'], ['CiliumIdentity']],
    ['services', ['EndpointSlice', 'Namespace'], ['Service', ...POLICIES]],
    ['local-services', ['EndpointSlice', 'Namespace'], ['Service']],
    ['serviceexports', ['Service', 'Namespace'], ['ServiceExport']],
  ],
};

for (const mode of ['any-cni', 'cilium'] as const) {
  for (const [set, before, whole] of ROWS[mode]) {
    test(`${mode}: ${set} need ${[...before, ...whole].join(', ')} (promise 6)`, async (t) => {
      const awaited = kindsOf(mode, { serviceExports: true });
      const rig = createModelRig({ mode, awaited });
      rig.set(SERVICE, POD, NODE, CILIUM_NODE, ENDPOINT, IDENTITY, EXPORT, POLICY);
      rig.set(SLICE, NAMESPACE, HIDDEN_NAMESPACE, HIDDEN_POD);
      for (const kind of before) {
        t.notOk(rig.keys.has(KEYS[set]), `not before ${kind}`);
        rig.complete(kind);
      }
      t.ok(rig.keys.has(KEYS[set]));
      const value = rig.keys.get(KEYS[set]);
      for (const kind of whole) {
        t.ok(rig.model.outstanding(set).includes(kind), `not whole without ${kind}`);
        rig.complete(kind);
      }
      t.same(rig.model.outstanding(set), []);
      rig.complete(...awaited);
      t.equal(rig.keys.get(KEYS[set]), value, 'the first record was right already');
      for (const one of PUBLISHED_SETS) t.same(rig.model.outstanding(one), [], one);
    });
  }
}

test('a Service is never told without its backends, in whichever order things come', async (t) => {
  const objects = [SERVICE, SLICE, POD, NAMESPACE];
  const kinds = ['Service', 'EndpointSlice', 'Pod', 'Namespace'] as const;
  for (let first = 0; first < kinds.length; first += 1) {
    const rig = createModelRig({ awaited: kindsOf('any-cni') });
    const seen: string[] = [];
    for (let step = 0; step < kinds.length; step += 1) {
      const at = (first + step) % kinds.length;
      rig.set(objects[at] ?? {});
      rig.complete(kinds[at] ?? 'Node');
      const value = rig.keys.get(KEYS.services);
      if (value !== undefined) seen.push(value);
    }
    t.equal(new Set(seen).size, 1);
    t.match(seen[0], /"backends":\{"10\.1\.0\.5":\{"http":\{"Protocol":"TCP","Port":8080\}\}\}/);
  }
});

test('kindsOf() leaves service exports out unless they are asked for', async (t) => {
  t.notOk(kindsOf('cilium').includes('ServiceExport'));
  t.ok(kindsOf('cilium', { serviceExports: true }).includes('ServiceExport'));
  t.notOk(kindsOf('cilium').includes('Pod'));
  t.notOk(kindsOf('any-cni').includes('CiliumNode'));
});
