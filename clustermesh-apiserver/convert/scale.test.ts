/** Work is proportional to the change, however large the cluster (promise 14). */
import { test } from 'tap';
import { keysOf } from '../publish/record-keys.ts';
import {
  type ClusterObject,
  type ClusterObjectKind,
  type EndpointSliceObject,
  type PodObject,
  parseObject,
  type ServiceObject,
} from '../sources/objects.ts';
import { createClusterModel } from './cluster-model.ts';
import { kindsOf } from './published-sets.ts';
import { createServiceInputs } from './service-inputs.ts';
import { CLUSTER3 } from './testing/model-rig.ts';

const podOf = (index: number, app: string): PodObject => {
  const object = parseObject({
    kind: 'Pod',
    metadata: { name: `p${index}`, namespace: 'demo', labels: { app, tier: 'web' } },
    status: { podIP: `10.${index >> 16}.${(index >> 8) & 255}.${index & 255}` },
  });
  if (object.kind !== 'Pod') throw new Error(object.kind);
  return object;
};
const serviceOf = (name: string, selector: Record<string, string>): ServiceObject => {
  const object = parseObject({
    kind: 'Service',
    metadata: {
      name,
      namespace: 'demo',
      annotations: { 'service.cilium.io/global': 'true' },
    },
    spec: { clusterIP: '10.96.0.1', selector, ports: [{ name: 'http', port: 80 }] },
  });
  if (object.kind !== 'Service') throw new Error(object.kind);
  return object;
};
const sliceOf = (service: string, addresses: readonly string[]): EndpointSliceObject => {
  const object = parseObject({
    kind: 'EndpointSlice',
    metadata: {
      name: `${service}-x`,
      namespace: 'demo',
      labels: { 'kubernetes.io/service-name': service },
    },
    addressType: 'IPv4',
    endpoints: addresses.map((address) => ({
      addresses: [address],
      zone: 'za',
      conditions: { ready: true, serving: true },
    })),
    ports: [{ name: 'http', port: 8080 }],
  });
  if (object.kind !== 'EndpointSlice') throw new Error(object.kind);
  return object;
};

/** The same object, and how often one of its fields is read. */
function counted<T extends object, K extends keyof T>(object: T, field: K): [T, () => number] {
  let reads = 0;
  const value = object[field];
  const copy = Object.defineProperty({ ...object }, field, {
    enumerable: true,
    get: () => {
      reads += 1;
      return value;
    },
  });
  return [copy, () => reads];
}

test('a Service with slices does not look at pods', async (t) => {
  const inputs = createServiceInputs();
  const service = serviceOf('web', { app: 'a' });
  inputs.takeService(service, true);
  inputs.takeSlice(sliceOf('web', ['10.0.0.1']), true);
  const reads: (() => number)[] = [];
  for (let index = 0; index < 100; index += 1) {
    const [pod, count] = counted(podOf(index, 'a'), 'labels');
    inputs.takePod(pod, true);
    reads.push(count);
  }
  const total = () => reads.reduce((sum, count) => sum + count(), 0);
  const before = total();
  for (let round = 0; round < 10; round += 1) {
    t.same(inputs.takeSlice(sliceOf('web', [`10.0.0.${round}`]), true), ['demo/web']);
    t.same(inputs.podsOf(service), []);
  }
  t.equal(total(), before);
});

test('a pod looks at those Services alone that may select it', async (t) => {
  const inputs = createServiceInputs();
  const reads: (() => number)[] = [];
  for (let index = 0; index < 1_000; index += 1) {
    const [service, count] = counted(serviceOf(`s${index}`, { app: `a${index}` }), 'selector');
    inputs.takeService(service, true);
    reads.push(count);
  }
  const total = () => reads.reduce((sum, count) => sum + count(), 0);
  const before = total();
  t.same(inputs.takePod(podOf(1, 'a7'), true), ['demo/s7']);
  t.ok(total() - before <= 4, `${total() - before} selectors were read`);
  t.same([...inputs.takePod(podOf(1, 'a8'), true)].sort(), ['demo/s7', 'demo/s8']);
});

test('a Service without slices looks at those pods alone that its rarest label has', async (t) => {
  const inputs = createServiceInputs();
  const counts: (() => number)[] = [];
  for (let index = 0; index < 1_000; index += 1) {
    const [pod, count] = counted(podOf(index, `a${index % 100}`), 'labels');
    inputs.takePod(pod, true);
    counts.push(count);
  }
  const service = serviceOf('web', { tier: 'web', app: 'a3' });
  inputs.takeService(service, true);
  t.equal(inputs.podsOf(service).length, 10);
  const total = () => counts.reduce((sum, count) => sum + count(), 0);
  const before = total();
  t.equal(inputs.podsOf(service).length, 10);
  t.ok(total() - before <= 20, `labels were read ${total() - before} times`);
});

test('pods come and go from the backends of a Service without slices', async (t) => {
  const inputs = createServiceInputs();
  const service = serviceOf('web', { app: 'a' });
  const names = () => inputs.podsOf(service).map(({ name }) => name);
  inputs.takeService(service, true);
  t.same(names(), []);
  t.same(inputs.takePod(podOf(1, 'a'), true), ['demo/web']);
  t.same(names(), ['p1']);
  t.same(inputs.takePod(podOf(2, 'b'), true), []);
  t.same(inputs.takePod(podOf(2, 'a'), true), ['demo/web']);
  t.same(names(), ['p1', 'p2']);
  t.same(inputs.takePod(podOf(1, 'b'), true), ['demo/web']);
  t.same(names(), ['p2']);
  t.same(inputs.takePod(podOf(2, 'a'), false), ['demo/web']);
  t.same(names(), []);
  t.same(inputs.takePod(podOf(1, 'b'), false), []);
  const slice = sliceOf('web', ['10.0.0.1']);
  inputs.takeSlice(slice, true);
  t.same(inputs.takePod(podOf(3, 'a'), true), [], 'its slices say what is behind it');
  t.same(names(), []);
  t.same(inputs.takeSlice(slice, false), ['demo/web']);
  t.same(names(), ['p3']);
});

/** Objects of a cluster: a tenth of the size that the budgets are about, or all of it. */
function* clusterOf(size: number): Generator<ClusterObject> {
  const services = 5_000 * size;
  for (let index = 0; index < 5_000 * size; index += 1) {
    yield parseObject({
      kind: 'Node',
      metadata: { name: `n${index}` },
      spec: { podCIDR: `10.${index >> 8}.${index & 255}.0/24` },
    });
  }
  for (let index = 0; index < 50_000 * size; index += 1) yield podOf(index, `a${index % services}`);
  for (let index = 0; index < services; index += 1) {
    yield serviceOf(`s${index}`, { app: `a${index}` });
    const addresses = Array.from({ length: 20 }, (_, at) => {
      const number = index * 20 + at;
      return `10.${number >> 16}.${(number >> 8) & 255}.${number & 255}`;
    });
    yield sliceOf(`s${index}`, addresses);
  }
}

function convertAll(size: number): { records: number; cpuSeconds: number } {
  const kinds = kindsOf('any-cni');
  const model = createClusterModel(CLUSTER3, { awaited: kinds });
  const objects = [...clusterOf(size)];
  const began = process.cpuUsage();
  let records = 0;
  const publish = (): void => {
    for (const change of model.records()) {
      records += 1;
      if (change.kind === 'endpoint' || change.kind === 'warnings') continue;
      keysOf(change, CLUSTER3.name);
    }
  };
  for (let from = 0; from < objects.length; from += 500) {
    model.take(objects.slice(from, from + 500).map((object) => ({ object, exists: true })));
    publish();
  }
  for (const kind of kinds satisfies readonly ClusterObjectKind[]) {
    model.complete([kind]);
    publish();
  }
  const { user, system } = process.cpuUsage(began);
  return { records, cpuSeconds: (user + system) / 1e6 };
}

test('500 nodes, 5,000 pods, 500 services and 10,000 endpoints are each converted once', async (t) => {
  const { records, cpuSeconds } = convertAll(0.1);
  t.equal(records, 500 + 5_000 + 500);
  t.ok(cpuSeconds < 3, `${cpuSeconds} s`);
});

if (process.env.ISTHMUS_LONG === 'true') {
  test('ten times that takes a few seconds', { timeout: 300_000 }, async (t) => {
    const { records, cpuSeconds } = convertAll(1);
    t.comment(`${cpuSeconds.toFixed(1)} s of CPU`);
    t.equal(records, 5_000 + 50_000 + 5_000);
    t.ok(cpuSeconds < 15, `${cpuSeconds} s`);
  });
}
