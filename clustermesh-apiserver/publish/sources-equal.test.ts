/**
 * The same objects publish the same, whether they stand in a directory or come from an API server: kind by kind, in any
 * order, with whatever happened in between (promise 13: a cluster without Kubernetes is no lesser one).
 */
import fc from 'fast-check';
import { test } from 'tap';
import { stringify } from 'yaml';
import type { ConversionMode } from '../convert/published-sets.ts';
import { kindsOf } from '../convert/published-sets.ts';
import { createModelRig } from '../convert/testing/model-rig.ts';
import { parseFile } from '../sources/manifests.ts';
import { type ClusterObjectKind, parseObject } from '../sources/objects.ts';
import { openMemoryUnderTest, openPublishingRig } from '../testing/publishing-rig.ts';
import { createPushedRig } from '../testing/pushed-publisher.ts';

type Manifest = { readonly apiVersion: string; readonly kind: ClusterObjectKind } & object;

const namespaceOf = (index: number): string => `ns${index % 2}`;
const ipOf = (index: number): string => `10.1.0.${index + 1}`;

/** An object of each kind by two small numbers: which one, and in which of its forms. */
const MAKERS: Readonly<Record<string, (which: number, form: number) => Manifest>> = {
  Namespace: (which, form) => ({
    apiVersion: 'v1',
    kind: 'Namespace',
    metadata: {
      name: namespaceOf(which),
      labels: { team: `t${form % 2}` },
      annotations: form === 2 ? { 'clustermesh.cilium.io/global': 'false' } : {},
    },
  }),
  Node: (which, form) => ({
    apiVersion: 'v1',
    kind: 'Node',
    metadata: { name: `n${which}`, labels: { form: `f${form}` } },
    spec: { podCIDRs: [`10.1.${which}.0/24`] },
    status: {
      addresses: [
        { type: 'InternalIP', address: `192.0.2.${which}` },
        { type: 'InternalIP', address: `2001:db8::${which}` },
        { type: 'ExternalIP', address: `198.51.100.${which}` },
        { type: 'Hostname', address: `n${which}` },
      ].slice(0, form + 1),
    },
  }),
  CiliumNode: (which, form) => ({
    apiVersion: 'cilium.io/v2',
    kind: 'CiliumNode',
    metadata: { name: `n${which}`, labels: { form: `f${form}` } },
    spec: {
      addresses: [{ type: 'InternalIP', ip: `192.0.2.${which}` }],
      encryption: { key: form },
    },
  }),
  Pod: (which, form) => ({
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: {
      name: `p${which}`,
      namespace: namespaceOf(which),
      labels: { app: `a${which % 3}`, form: `f${form}` },
    },
    spec: {
      hostNetwork: form === 3,
      containers: [{ ports: [{ name: 'http', containerPort: 8080 }] }],
    },
    status: {
      phase: form === 2 ? 'Succeeded' : 'Running',
      hostIP: '192.0.2.1',
      podIPs: form === 1 ? [] : [{ ip: ipOf(which) }, { ip: `fd00::${which + 1}` }],
      conditions: [{ type: 'Ready', status: form === 0 ? 'True' : 'False' }],
    },
  }),
  Service: (which, form) => ({
    apiVersion: 'v1',
    kind: 'Service',
    metadata: {
      name: `s${which}`,
      namespace: namespaceOf(which),
      annotations: form === 1 ? {} : { 'service.cilium.io/global': form === 2 ? 'ture' : 'true' },
    },
    spec: {
      clusterIP: form === 3 ? 'None' : `10.96.0.${which + 1}`,
      selector: { app: `a${which % 3}` },
      ports: [{ name: 'http', port: 80, targetPort: 'http' }],
    },
  }),
  EndpointSlice: (which, form) => ({
    apiVersion: 'discovery.k8s.io/v1',
    kind: 'EndpointSlice',
    metadata: {
      name: `s${which}-x`,
      namespace: namespaceOf(which),
      labels: {
        // It may go from one Service to another.
        'kubernetes.io/service-name': form === 3 ? `s${(which + 2) % 4}` : `s${which}`,
        ...(form === 2
          ? { 'endpointslice.kubernetes.io/managed-by': 'endpointslice-mesh-controller.cilium.io' }
          : {}),
      },
    },
    addressType: 'IPv4',
    endpoints: [{ addresses: [`10.2.0.${which + 1}`], conditions: { ready: form !== 1 } }],
    ports: [{ name: 'http', port: 8080 }],
  }),
  CiliumIdentity: (which, form) => ({
    apiVersion: 'cilium.io/v2',
    kind: 'CiliumIdentity',
    metadata: { name: String(65_792 + which) },
    'security-labels': {
      'k8s:form': `f${form}`,
      ...(form === 3 ? {} : { 'k8s:io.kubernetes.pod.namespace': namespaceOf(which) }),
    },
  }),
  CiliumEndpoint: (which, form) => ({
    apiVersion: 'cilium.io/v2',
    kind: 'CiliumEndpoint',
    metadata: { name: `p${which}`, namespace: namespaceOf(which) },
    status: { identity: { id: 65_792 + form }, networking: networkingOf(which, form) },
  }),
  CiliumEndpointSlice: (which, form) => ({
    apiVersion: 'cilium.io/v2alpha1',
    kind: 'CiliumEndpointSlice',
    metadata: { name: `ces${which}` },
    namespace: namespaceOf(which),
    endpoints: [
      { name: `p${which}`, id: 65_792 + form, networking: networkingOf(which, form) },
      {
        name: `q${which}`,
        id: 65_800,
        networking: { addressing: [{ ipv4: `10.3.0.${which + 1}` }] },
      },
    ].slice(0, (form % 3) + 1),
  }),
  NetworkPolicy: (which, form) => ({
    apiVersion: 'networking.k8s.io/v1',
    kind: 'NetworkPolicy',
    metadata: { name: `np${which}`, namespace: namespaceOf(which) },
    spec: { podSelector: {}, policyTypes: form === 0 ? ['Ingress'] : ['Egress'] },
  }),
  CiliumClusterwideNetworkPolicy: (which, form) => ({
    apiVersion: 'cilium.io/v2',
    kind: 'CiliumClusterwideNetworkPolicy',
    metadata: { name: `ccnp${which}`, generation: form },
    spec: { endpointSelector: {}, ingress: [{ fromCIDRSet: [{ cidrGroupRef: `g${form}` }] }] },
  }),
  CiliumCIDRGroup: (which, form) => ({
    apiVersion: form === 3 ? 'cilium.io/v2alpha1' : 'cilium.io/v2',
    kind: 'CiliumCIDRGroup',
    metadata: { name: `g${which}`, labels: { form: `f${form}` } },
    spec: { externalCIDRs: [`198.51.100.${form}/32`] },
  }),
  ServiceExport: (which, form) => ({
    apiVersion: 'multicluster.x-k8s.io/v1beta1',
    kind: 'ServiceExport',
    metadata: {
      name: `s${which}`,
      namespace: namespaceOf(which),
      creationTimestamp: '2026-01-01T00:00:00Z',
    },
    spec: { exportedLabels: { form: `f${form}` } },
  }),
};

function networkingOf(which: number, form: number): object {
  return { addressing: form === 1 ? [] : [{ ipv4: ipOf(which) }], node: '192.0.2.1' };
}

const ORIGIN = /,"origin":\{"file":"all.yaml",.*\}$/;

interface Step {
  readonly kind: string;
  readonly which: number;
  readonly form: number;
  readonly exists: boolean;
}

const steps = (kinds: readonly string[]) =>
  fc.array(
    fc.record<Step>({
      kind: fc.constantFrom(...kinds),
      which: fc.nat(3),
      form: fc.nat(3),
      exists: fc.boolean(),
    }),
    { maxLength: 60 },
  );

for (const mode of ['any-cni', 'cilium'] as const) {
  const kinds = kindsOf(mode, { serviceExports: true });
  const made = kinds.filter((kind) => MAKERS[kind] !== undefined);

  test(`${mode}: any history converts to what a directory of its outcome does`, async () => {
    fc.assert(
      fc.property(
        steps(made),
        fc.shuffledSubarray(kinds, { minLength: kinds.length }),
        fc.boolean(),
        (history, order, globalNamespacesByDefault) => {
          const stream = createModelRig({ mode, globalNamespacesByDefault, awaited: kinds });
          const outcome = new Map<string, Manifest>();
          const told = [...order];
          for (const [index, { kind, which, form, exists }] of history.entries()) {
            const object = MAKERS[kind]?.(which, form);
            if (object === undefined) throw new Error(kind);
            const name = kind === 'Namespace' ? namespaceOf(which) : String(which);
            if (exists) outcome.set(`${kind} ${name}`, object);
            else outcome.delete(`${kind} ${name}`);
            if (exists) stream.set(object);
            else stream.remove(object);
            const next = index % 3 === 0 ? told.pop() : undefined;
            if (next !== undefined) stream.complete(next);
          }
          stream.complete(...told);
          // A slice may be met in another order, which decides nothing here: no two tell of one pod.
          const text = [...outcome.values()].map((object) => stringify(object)).join('---\n');
          const { objects, problems } = parseFile('all.yaml', text, { kinds });
          if (problems.length > 0) throw new Error(problems[0]?.message);
          const files = createModelRig({ mode, globalNamespacesByDefault });
          files.model.take(
            [...objects.values()].map((object) => {
              // Where a policy stands in a file an API server cannot tell.
              if (!('origin' in object)) return { object, exists: true };
              const { origin: _, ...rest } = object;
              return { object: rest, exists: true };
            }),
          );
          files.complete();
          const sorted = (keys: ReadonlyMap<string, string>) => JSON.stringify([...keys].sort());
          if (sorted(stream.keys) !== sorted(files.keys)) {
            throw new Error(`stream: ${sorted(stream.keys)}\nfiles: ${sorted(files.keys)}`);
          }
          if (stream.warnings().sort().join() !== files.warnings().sort().join()) {
            throw new Error(`${stream.warnings()} / ${files.warnings()}`);
          }
        },
      ),
      { numRuns: 100 },
    );
  });

  test(`${mode}: a directory and a stream publish the same keys`, async (t) => {
    const objects = made.flatMap((kind) =>
      [0, 1, 2, 3].map((which) => MAKERS[kind]?.(which, which === 3 ? 1 : 0) ?? {}),
    );
    const directory = await openPublishingRig(t, openMemoryUnderTest());
    await directory.write('all.yaml', objects.map((object) => stringify(object)).join('---\n'));
    const files = await directory.start({ conversion: { mode }, kinds });
    await files.ready;
    t.same(files.problems, []);
    const rig = createPushedRig();
    await using stream = rig.start({ conversion: { mode }, kinds });
    for (const kind of [...kinds].reverse()) {
      const ofKind = objects.filter((object) => 'kind' in object && object.kind === kind);
      stream.push(
        ...ofKind.map((object) => ({ kind: 'upsert' as const, object: parseObject(object) })),
        { kind: 'synced', kinds: [kind] },
      );
    }
    await stream.publisher.ready;
    const expected = await readAll(directory.read, mode);
    t.ok(expected.size > 20, `${expected.size} keys`);
    t.same(await readAll(rig.read, mode), expected);
  });
}

/** Everything that readers see. Numbers that we allocated are replaced by the labels that they stand for. */
async function readAll(
  read: (prefix: string) => Promise<Map<string, string>>,
  mode: ConversionMode,
): Promise<Map<string, string>> {
  const all = new Map<string, string>();
  const ids = new Map<string, string>();
  for (const [key, value] of await read('cilium/state/identities/')) {
    if (mode === 'cilium') all.set(key, value);
    else {
      ids.set(key.slice(key.lastIndexOf('/') + 1), value);
      all.set(`identity ${value}`, '');
    }
  }
  for (const kind of ['nodes', 'ip', 'services', 'serviceexports']) {
    for (const [key, value] of await read(`cilium/state/${kind}/`)) {
      const replaced = value.replace(/"ID":(\d+)/, (_, id) => `"ID":${ids.get(id) ?? id}`);
      all.set(key, replaced);
    }
  }
  for (const key of (await read('cilium/synced/')).keys()) all.set(key, '');
  for (const prefix of ['cilium/cluster-config/', 'isthmus/local/']) {
    // Where a policy stands in a file an API server cannot tell.
    for (const [key, value] of await read(prefix)) all.set(key, value.replace(ORIGIN, '}'));
  }
  return all;
}
