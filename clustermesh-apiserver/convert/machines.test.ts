import { test } from 'tap';
import { encodeLabels } from '../../mesh/wire/identity.ts';
import { parseClusterId, parseClusterName } from '../../mesh/wire/ids.ts';
import { parseIpAddress, parseIpPrefix } from '../../mesh/wire/ip.ts';
import { parseObject } from '../sources/objects.ts';
import { describeWarning } from './annotation-warning.ts';
import { type ConversionOptions, createClusterModel, type RecordChange } from './cluster-model.ts';
import { checksOfService, parseHealthCheck } from './health-check.ts';
import type { Machine } from './machine.ts';

const ALPHA = { name: parseClusterName('alpha'), id: parseClusterId(1) };

/** A model, and the records that stand. */
function modelRig(options: ConversionOptions = {}) {
  const model = createClusterModel(ALPHA, options);
  const standing = new Map<string, RecordChange>();
  const drain = (): void => {
    for (const change of model.records()) {
      const name =
        'address' in change
          ? change.address
          : 'object' in change
            ? 'warnings'
            : 'name' in change
              ? change.name
              : '';
      const key = `${change.kind} ${name}`;
      if (change.value === undefined) standing.delete(key);
      else standing.set(key, change);
    }
  };
  const take = (exists: boolean, objects: readonly unknown[]): void => {
    model.take(objects.map((object) => ({ object: parseObject(object), exists })));
    drain();
  };
  return {
    model,
    set: (...objects: readonly unknown[]) => take(true, objects),
    remove: (...objects: readonly unknown[]) => take(false, objects),
    complete: (...kinds: Parameters<typeof model.complete>[0]) => {
      model.complete(kinds);
      drain();
    },
    machine: (name: string, value: Machine | undefined) => {
      model.setMachine(name, value);
      drain();
    },
    endpoint: (address: string) => {
      const change = standing.get(`endpoint ${address}`);
      return change?.kind === 'endpoint' ? change.value : undefined;
    },
    /** Addresses with their ports, and those of them that are exported. */
    backends: (name = 'db') => {
      const change = standing.get(`service ${name}`);
      if (change?.kind !== 'service') return undefined;
      const text = (ports: NonNullable<typeof change.value>['local']['backends']) =>
        [...ports].map(([ip, named]) => `${ip}:${[...named.values()].map(({ port }) => port)}`);
      return {
        local: text(change.value?.local.backends ?? new Map()),
        draining: text(change.value?.local.draining ?? new Map()),
        exported: text(change.value?.exported?.backends ?? new Map()),
        places: [...(change.value?.local.places ?? [])].map(([ip, { node }]) => `${ip} ${node}`),
      };
    },
    warnings: () => {
      const change = standing.get('warnings warnings');
      return change?.kind === 'warnings' ? (change.value ?? []).map(describeWarning) : [];
    },
  };
}

const machine = (more: Partial<Machine> = {}): Machine => ({
  name: 'db-1',
  namespace: 'demo',
  labels: { app: 'db' },
  addresses: ['192.0.2.10', '2001:db8::10'].map(parseIpAddress),
  healthy: new Set(['tcp:5432']),
  ...more,
});
const service = (more: { spec?: object; annotations?: object } = {}) => ({
  apiVersion: 'v1',
  kind: 'Service',
  metadata: { name: 'db', namespace: 'demo', annotations: more.annotations ?? {} },
  spec: {
    clusterIP: '10.96.0.1',
    selector: { app: 'db' },
    ports: [{ name: 'sql', port: 5432 }],
    ...more.spec,
  },
});
const pod = (ip: string, name = 'pod-1') => ({
  apiVersion: 'v1',
  kind: 'Pod',
  metadata: { name, namespace: 'demo', labels: { app: 'db' } },
  status: { podIP: ip, hostIP: '192.0.2.1', conditions: [{ type: 'Ready', status: 'True' }] },
});
const slice = (endpoints: object[]) => ({
  apiVersion: 'discovery.k8s.io/v1',
  kind: 'EndpointSlice',
  metadata: { name: 'db-x', namespace: 'demo', labels: { 'kubernetes.io/service-name': 'db' } },
  addressType: 'IPv4',
  endpoints,
  ports: [{ name: 'sql', port: 5432, protocol: 'TCP' }],
});
const namespace = (labels: object, annotations: object = {}) => ({
  apiVersion: 'v1',
  kind: 'Namespace',
  metadata: { name: 'demo', labels, annotations },
});

test('a machine is an endpoint that is its own host, with the identity of a pod of its namespace', async (t) => {
  const rig = modelRig();
  rig.set(namespace({ team: 'x' }));
  rig.machine('db-1', machine());
  const record = rig.endpoint('192.0.2.10');
  t.match(record, { hostIp: '192.0.2.10', isLocal: false, podName: 'db-1', namespace: 'demo' });
  t.equal(
    encodeLabels(record?.labels ?? []),
    [
      'k8s:app=db',
      'k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name=demo',
      'k8s:io.cilium.k8s.namespace.labels.team=x',
      'k8s:io.cilium.k8s.policy.cluster=alpha',
      'k8s:io.cilium.k8s.policy.serviceaccount=default',
      'k8s:io.kubernetes.pod.namespace=demo',
    ]
      .map((label) => `${label};`)
      .join(''),
  );
  t.equal(rig.endpoint('2001:db8::10')?.labels, record?.labels, 'one object for all its addresses');

  rig.set(namespace({ team: 'y' }));
  t.match(encodeLabels(rig.endpoint('192.0.2.10')?.labels ?? []), /labels\.team=y;/);
  rig.set(namespace({}, { 'clustermesh.cilium.io/global': 'false' }));
  t.equal(rig.endpoint('192.0.2.10')?.isLocal, true, 'for the own agents alone');
  rig.machine('db-1', machine({ addresses: [parseIpAddress('192.0.2.11')] }));
  t.same([rig.endpoint('192.0.2.10'), rig.endpoint('2001:db8::10')], [undefined, undefined]);
  rig.machine('db-1', undefined);
  t.equal(rig.endpoint('192.0.2.11'), undefined);
});

test('labels of a machine cannot claim what the cluster says of it', async (t) => {
  const rig = modelRig();
  const forged = {
    'io.cilium.k8s.policy.cluster': 'beta',
    'io.kubernetes.pod.namespace': 'kube-system',
    'io.cilium.k8s.policy.serviceaccount': 'admin',
  };
  rig.machine('db-1', machine({ labels: forged }));
  const text = encodeLabels(rig.endpoint('192.0.2.10')?.labels ?? []);
  t.match(text, /policy\.cluster=alpha;.*serviceaccount=default;.*namespace=demo;/);
  t.notMatch(text, /beta|kube-system|admin/);
});

test('who holds an address: machines, pods and nodes in each other’s way', async (t) => {
  const rig = modelRig();
  const [ten, eleven] = ['192.0.2.10', '192.0.2.11'].map(parseIpAddress);
  rig.set(pod('192.0.2.11'), {
    apiVersion: 'v1',
    kind: 'Node',
    metadata: { name: 'n1' },
    spec: { podCIDRs: ['10.1.0.0/24'] },
    status: { addresses: [{ type: 'InternalIP', address: '192.0.2.1' }] },
  });
  rig.machine('db-1', machine());
  const conflict = (name: string, ...addresses: string[]) =>
    rig.model.findMachineConflict(name, addresses.map(parseIpAddress))?.reason;
  t.equal(conflict('db-1', '192.0.2.10'), undefined, 'its own');
  t.equal(conflict('db-2', '192.0.2.10'), '192.0.2.10 is held by machine db-1');
  t.equal(conflict('db-2', '192.0.2.11'), '192.0.2.11 is held by pod demo/pod-1');
  t.equal(conflict('db-2', '192.0.2.1'), '192.0.2.1 is held by node n1');
  t.equal(conflict('db-2', '10.1.0.7'), '10.1.0.7 lies in 10.1.0.0/24, the pods of node n1');
  t.equal(conflict('n1', '192.0.2.12'), 'n1 is the name of a node of this cluster');
  const node = (addresses: (typeof ten)[], cidrs: string[] = []) =>
    rig.model.findNodeConflict('n2', {
      addresses: addresses.map((address) => address ?? parseIpAddress('192.0.2.9')),
      podCidrs: cidrs.map(parseIpPrefix),
      bootId: '',
    })?.reason;
  t.equal(node([ten]), '192.0.2.10 is held by machine db-1');
  t.equal(node([eleven]), '192.0.2.11 is held by pod demo/pod-1');
  t.equal(node([], ['192.0.2.8/29']), '192.0.2.8/29 contains an address of machine db-1');
  t.equal(node([parseIpAddress('192.0.2.12')], ['10.2.0.0/24']), undefined);

  rig.set(pod('192.0.2.10', 'late'));
  t.equal(rig.endpoint('192.0.2.10')?.podName, 'db-1', 'who came first keeps it');
  rig.machine('db-1', undefined);
  t.equal(rig.endpoint('192.0.2.10')?.podName, 'late', 'and the next one has it then');
});

test('machines are backends beside pods or slices once they are healthy (promise 7)', async (t) => {
  const GLOBAL = { 'service.cilium.io/global': 'true' };
  const rig = modelRig();
  rig.set(service({ annotations: GLOBAL }));
  rig.machine('db-1', machine({ healthy: new Set() }));
  t.match(rig.backends(), { local: [], exported: [] }, 'nothing was checked yet');
  rig.machine('db-1', machine());
  t.match(rig.backends(), { local: ['192.0.2.10:5432'], exported: ['192.0.2.10:5432'] });
  rig.set(pod('10.1.0.5'));
  t.match(rig.backends(), { local: ['10.1.0.5:5432', '192.0.2.10:5432'] }, 'beside a pod');
  rig.set(slice([{ addresses: ['10.1.0.6'], conditions: { ready: true } }]));
  t.match(rig.backends(), { local: ['10.1.0.6:5432', '192.0.2.10:5432'] }, 'beside a slice');
  const draining = { ready: false, serving: true, terminating: true };
  rig.set(slice([{ addresses: ['10.1.0.6'], conditions: draining }]));
  t.match(
    rig.backends(),
    { local: ['192.0.2.10:5432'], draining: ['10.1.0.6:5432'] },
    'it stays where another one is about to end',
  );
  rig.machine('db-1', machine({ healthy: new Set(['tcp:80']) }));
  t.match(rig.backends(), { local: [], draining: ['10.1.0.6:5432'] });
  rig.machine('db-1', machine({ labels: { app: 'web' } }));
  rig.machine('db-1', machine({ namespace: 'other' }));
  t.match(rig.backends(), { local: [] }, 'of its own namespace alone');
  rig.machine('db-1', machine());
  rig.machine('db-2', machine({ name: 'db-2', addresses: [parseIpAddress('192.0.2.20')] }));
  t.match(rig.backends(), { local: ['192.0.2.10:5432', '192.0.2.20:5432'] });
  rig.machine('db-1', undefined);
  rig.machine('db-2', undefined);
  t.match(rig.backends(), { local: [] });
});

test('ports of machines', async (t) => {
  const rig = modelRig();
  const ports = [
    { name: 'a', port: 80, targetPort: 8080 },
    { name: 'b', port: 81, targetPort: 'http' },
    { name: 'c', port: 53, protocol: 'UDP' },
  ];
  rig.set(service({ spec: { clusterIPs: ['10.96.0.1', 'fd00::1'], ports } }));
  t.same(rig.warnings(), [], 'names are fine for pods');
  rig.machine('db-1', machine({ healthy: new Set(['tcp:8080']) }));
  t.match(
    rig.backends(),
    { local: ['192.0.2.10:8080,53', '2001:db8::10:8080,53'] },
    'both families',
  );
  t.match(rig.warnings(), [/^field spec\.ports\.targetPort: "http" counts as no port on machines/]);
  t.same(
    rig.model.checksOf(machine()).map(({ check }) => check),
    ['tcp:8080'],
    'whether somebody listens cannot be seen of UDP',
  );
  const addresses = ['192.0.2.10', '192.0.2.11', '2001:db8::10'].map(parseIpAddress);
  rig.machine('db-1', machine({ addresses, healthy: new Set(['tcp:8080']) }));
  t.match(
    rig.backends(),
    { local: ['192.0.2.10:8080,53', '2001:db8::10:8080,53'] },
    'with several addresses of a family it is one backend all the same',
  );
  t.match(rig.endpoint('192.0.2.11'), { podName: 'db-1', hostIp: '192.0.2.11' }, 'at each of them');
  rig.machine('db-1', machine({ healthy: new Set() }));
  t.match(rig.backends(), { local: ['192.0.2.10:53', '2001:db8::10:53'] }, 'each port by itself');
  rig.machine('db-1', undefined);
  t.same(rig.warnings(), []);
});

test('where machines run is told as for pods', async (t) => {
  const rig = modelRig();
  rig.set(service({ spec: { internalTrafficPolicy: 'Local' } }));
  rig.machine('db-1', machine());
  t.same(rig.backends()?.places, ['192.0.2.10 db-1']);
});

test('what is checked on a machine follows the Services that select it', async (t) => {
  const rig = modelRig();
  const checks = () => rig.model.checksOf(machine()).map(({ check }) => check);
  const before = rig.model.checksRevision;
  t.same(checks(), []);
  rig.set(service({ annotations: { 'isthmus.io/health-check': 'http:8080/ok' } }));
  t.not(rig.model.checksRevision, before);
  t.same(checks(), ['http:8080/ok']);
  rig.machine('db-1', machine({ healthy: new Set(['http:8080/ok']) }));
  t.match(rig.backends(), { local: ['192.0.2.10:5432'] });
  rig.set(service({ annotations: { 'isthmus.io/health-check': 'tcp:99' } }));
  t.same([checks(), rig.backends()?.local], [['tcp:99'], []]);
  rig.set(service({ annotations: { 'isthmus.io/health-check': 'ping' } }));
  t.same(checks(), ['tcp:5432']);
  t.match(rig.warnings(), [/health-check: "ping" counts as tcp, expected tcp, tcp:<port> or http/]);
  rig.set(service({ annotations: { 'isthmus.io/healthcheck': 'tcp:99' } }));
  t.match(rig.warnings(), [/the name isthmus\.io\/health-check/]);
  rig.remove(service());
  t.same(checks(), []);
});

test('nothing of machines is published before it can be right', async (t) => {
  const rig = modelRig({ awaited: ['Pod', 'Namespace', 'Service', 'EndpointSlice'] });
  rig.machine('db-1', machine());
  rig.set(service());
  t.same([rig.endpoint('192.0.2.10'), rig.backends()], [undefined, undefined]);
  rig.complete('Namespace');
  t.not(rig.endpoint('192.0.2.10'), undefined);
  rig.complete('Pod', 'EndpointSlice');
  t.match(rig.backends(), { local: ['192.0.2.10:5432'] });
});

test('parseHealthCheck()', async (t) => {
  const cases: [string, ReturnType<typeof parseHealthCheck>][] = [
    ['tcp', { kind: 'target' }],
    ['tcp:5432', { kind: 'tcp', port: 5432 }],
    ['http:80', { kind: 'http', port: 80, path: '/' }],
    ['http:8080/healthz?full=1', { kind: 'http', port: 8080, path: '/healthz?full=1' }],
    ['tcp:0', undefined],
    ['tcp:65536', undefined],
    ['tcp:', undefined],
    ['http', undefined],
    ['http:/healthz', undefined],
    ['http:80healthz', undefined],
    ['http:80/a b', undefined],
    ['http:80/\r\nHost: x', undefined],
    [`http:80/${'x'.repeat(1024)}`, undefined],
    ['https:443/', undefined],
    ['TCP', undefined],
    ['', undefined],
  ];
  for (const [text, expected] of cases)
    t.same(parseHealthCheck(text), expected, JSON.stringify(text));
});

test('checksOfService() asks each check once for each port that machines have', async (t) => {
  const port = (targetPort: number | string | undefined, protocol: 'TCP' | 'UDP' = 'TCP') => ({
    name: '',
    protocol,
    port: 80,
    nodePort: undefined,
    targetPort,
    appProtocol: undefined,
  });
  const names = (...ports: ReturnType<typeof port>[]) =>
    checksOfService({ ports }, { kind: 'target' }).map(({ check }) => check);
  t.same(names(port(8080), port(undefined), port('http'), port(53, 'UDP')), ['tcp:8080', 'tcp:80']);
});

test('what is behind a machine is an endpoint at its host, with labels of its own, while the machine is', async (t) => {
  const rig = modelRig();
  rig.set(namespace({ team: 'x' }));
  const web = {
    name: 'web',
    addresses: ['172.18.0.2', 'fd18::2'].map(parseIpAddress),
    labels: { app: 'web' },
  };
  rig.machine('db-1', machine({ endpoints: [web] }));
  const record = rig.endpoint('172.18.0.2');
  t.match(record, { hostIp: '192.0.2.10', podName: 'db-1.web', namespace: 'demo' });
  t.match(encodeLabels(record?.labels ?? []), /k8s:app=web/);
  t.notMatch(encodeLabels(record?.labels ?? []), /k8s:app=db/);
  t.match(rig.endpoint('fd18::2'), { hostIp: '2001:db8::10' });
  t.match(rig.endpoint('192.0.2.10'), { hostIp: '192.0.2.10', podName: 'db-1' });
  const conflict = (name: string, address: string) =>
    rig.model.findMachineConflict(name, [parseIpAddress(address)])?.reason;
  t.match(conflict('db-2', '172.18.0.2'), /held by machine db-1\/web/);
  t.equal(conflict('db-1/web', '172.18.0.2'), undefined);
  t.match(conflict('db-1/other', '192.0.2.10'), /held by machine db-1$/);

  const only4 = { addresses: [parseIpAddress('192.0.2.10')] };
  rig.machine('db-1', machine({ ...only4, endpoints: [{ ...web, labels: { app: 'cache' } }] }));
  t.match(rig.endpoint('fd18::2'), { hostIp: '192.0.2.10' }, 'over the family that there is');
  t.match(encodeLabels(rig.endpoint('172.18.0.2')?.labels ?? []), /k8s:app=cache/);
  rig.set(namespace({ team: 'y' }));
  t.match(encodeLabels(rig.endpoint('172.18.0.2')?.labels ?? []), /team=y/);
  rig.machine('db-1', machine());
  t.equal(rig.endpoint('172.18.0.2'), undefined, 'taken away');
  rig.machine('db-1', machine({ endpoints: [web] }));
  rig.machine('db-1', undefined);
  t.equal(rig.endpoint('172.18.0.2'), undefined, 'gone with its machine');
});
