/**
 * Two replicas of the controllers before a real API server: the one that leads is cut off in the middle of its work, the other goes on
 * (issue C). No slice is doubled or lost, and whoever was cut off writes nothing when it comes back.
 */
import { type Test, test } from 'tap';
import {
  DEFAULT_LEASE_TIMES,
  type LeaseTimes,
} from '../../clustermesh-apiserver/controllers/lease-record.ts';
import { until } from '../../mesh/remote/testing/until.ts';
import { systemClock } from '../../mesh/runtime/clock.ts';
import { openKubeFaultProxy } from '../peers/kube-faults.ts';
import { needKube } from '../peers/kube-programs.ts';
import {
  addressesOf,
  backendsOf,
  type ControllersRig,
  openControllersRig,
  type Replica,
  range,
  SHORT_LEASE,
} from './controllers-rig.ts';

const kube = needKube(process.env);
const SERVICES = range(0, 24).map((number) => `web-${number}`);
const BACKENDS = 120;

test(
  'the leader is cut off in the middle of its work',
  { skip: kube.skip, timeout: 120_000 },
  (t) => failOver(t, { times: SHORT_LEASE, boundMs: 12_000 }),
);

if (process.env.ISTHMUS_LONG === 'true') {
  test('the same with the times of a real cluster', { skip: kube.skip, timeout: 240_000 }, (t) =>
    failOver(t, { times: DEFAULT_LEASE_TIMES, boundMs: 20_000 }),
  );
}

async function failOver(
  t: Test,
  { times, boundMs }: { times: LeaseTimes; boundMs: number },
): Promise<void> {
  const rig = await openControllersRig(t, { name: 'failover', programs: kube.programs });
  const proxy = await openKubeFaultProxy(rig.cluster.endpoint);
  t.teardown(() => proxy[Symbol.asyncDispose]());
  const beta = await rig.addPeer('beta', 2);
  for (const [index, name] of SERVICES.entries()) {
    await beta.service(name, backendsOf(2, range(index * BACKENDS, (index + 1) * BACKENDS)));
    await putService(rig, name);
  }
  await beta.marked();
  await beta.configure();
  const kubeconfig = await rig.user.kubeconfigAt('proxied', proxy.endpoint);
  // Slow enough to be in the middle of something.
  const isWrite = ({ method, path }: { method: string; path: string }): boolean =>
    method === 'PATCH' && path.includes('/endpointslices/');
  proxy.setFault((seen) => (isWrite(seen) ? { kind: 'slow', delayMs: 30 } : undefined));
  const first = await rig.start('first', { kubeconfig, leaseTimes: times });
  await until('the first leads', () => isLeading(first), 30_000);
  const second = await rig.start('second', { leaseTimes: times });
  await until('it has written something', () => first.controllers.status.writes.written >= 10);
  // Answers are lost and requests hang: it learns nothing of what became of its writes.
  proxy.setFault(() => ({ kind: 'stall' }));
  proxy.stallOpen();
  const cutAt = systemClock.monotonic();
  const left = (await allSlices(rig)).size;
  t.ok(left < SERVICES.length * 2, `${left} slices of ${SERVICES.length * 2} are there`);

  await until('the second leads', () => isLeading(second), boundMs + 5_000);
  const tookMs = systemClock.monotonic() - cutAt;
  t.notOk(isLeading(first), 'the first has stopped before');
  t.ok(tookMs < boundMs, `it took over after ${Math.round(tookMs)} ms`);
  await until(
    'all is there',
    async () => (await allSlices(rig)).size === SERVICES.length * 2,
    30_000,
  );
  await checkAll(t, rig);

  const before = await allSlices(rig);
  const { written } = first.controllers.status.writes;
  proxy.setFault(undefined);
  proxy.cutOpen();
  await until('the first is back', () => first.controllers.status.leadership.problem === undefined);
  await systemClock.sleep(1_000);
  t.equal(first.controllers.status.leadership.state, 'waiting');
  t.equal(first.controllers.status.writes.written, written, 'nothing of before is written late');
  t.same(await allSlices(rig), before);

  await second.stop();
  // A lease that was given back is taken before it would have run out.
  await until('the first leads again, at once', () => isLeading(first), times.durationMs - 500);
  await beta.service('web-0', backendsOf(2, range(0, BACKENDS + 1)));
  await until(
    'it works',
    async () => addressesOf(await rig.slices('web-0')).length === BACKENDS + 1,
  );
  t.equal((await allSlices(rig)).size, SERVICES.length * 2);
}

function isLeading({ controllers }: Replica): boolean {
  return controllers.status.leadership.state === 'leading';
}

/** Resource versions of all slices by name. */
async function allSlices({ cluster }: ControllersRig): Promise<Map<string, string>> {
  const found = (await cluster.ask(
    'GET',
    '/apis/discovery.k8s.io/v1/namespaces/demo/endpointslices',
  )) as { items: { metadata: { name: string; resourceVersion: string } }[] };
  return new Map(
    found.items.map(({ metadata }) => [metadata.name, metadata.resourceVersion] as const),
  );
}

/** Every backend of every service is there once. */
async function checkAll(t: Test, rig: ControllersRig): Promise<void> {
  for (const [index, name] of SERVICES.entries()) {
    const wanted = Object.keys(backendsOf(2, range(index * BACKENDS, (index + 1) * BACKENDS)));
    t.same(addressesOf(await rig.slices(name)), wanted.sort(), name);
  }
}

async function putService({ cluster }: ControllersRig, name: string): Promise<void> {
  await cluster.ask('POST', '/api/v1/namespaces/demo/services', {
    body: {
      metadata: { name, annotations: { 'service.cilium.io/global': 'true' } },
      spec: { clusterIP: 'None', ports: [{ name: 'http', port: 80 }] },
    },
  });
}
