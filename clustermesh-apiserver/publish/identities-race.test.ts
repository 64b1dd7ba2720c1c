import fc from 'fast-check';
import { type Test, test } from 'tap';
import type { KvStore } from '../../mesh/kvstore/kvstore.ts';
import { createMemoryStore } from '../../mesh/kvstore/memory.ts';
import { etcdSkipReason } from '../../mesh/testing/etcd-server.ts';
import { encodeLabels, labelsFromRecord } from '../../mesh/wire/identity.ts';
import { parseClusterId, parseClusterName } from '../../mesh/wire/ids.ts';
import {
  eventually,
  openEtcdUnderTest,
  openMemoryUnderTest,
  openPublishingRig,
} from '../testing/publishing-rig.ts';
import { createIdentityAllocator } from './identities.ts';
import { ALLOCATIONS_PREFIX } from './identity-places.ts';

const IDS = 'cilium/state/identities/v1/id/';
const FIRST = 511 * 32_768 + 256;
const signal = new AbortController().signal;
const PUBLIC = { isLocal: false, signal };
const labels = (app: string) => labelsFromRecord({ app, 'io.cilium.k8s.policy.cluster': 'alpha' });
const text = (app: string): string => encodeLabels(labels(app));

function allocatorOn(store: KvStore, random: () => number) {
  return createIdentityAllocator({
    store,
    cluster: parseClusterName('alpha'),
    clusterId: parseClusterId(511, 511),
    maxConnectedClusters: 511,
    random,
  });
}

/** What holds of a store whatever happened: each number has one set of labels, and both directions say the same. */
async function checkStore(store: KvStore): Promise<Map<string, string>> {
  const [ids, allocations] = [await store.list(IDS), await store.list(ALLOCATIONS_PREFIX)];
  const numbers = new Map<string, string>();
  for (const { key, value } of allocations.pairs) {
    const found = key.slice(ALLOCATIONS_PREFIX.length);
    const number = value.toString();
    if (numbers.has(number)) throw new Error(`${number} is of ${numbers.get(number)} and ${found}`);
    numbers.set(number, found);
  }
  for (const { key, value } of ids.pairs) {
    const number = key.slice(IDS.length);
    if (numbers.get(number) !== value.toString()) throw new Error(`${number} has no allocation`);
  }
  return numbers;
}

type Step = { readonly who: number; readonly app: string; readonly collect: boolean };
const steps: fc.Arbitrary<Step[]> = fc.array(
  fc.record({
    who: fc.integer({ min: 0, max: 2 }),
    app: fc.constantFrom('a', 'b', 'c', 'd', 'e'),
    collect: fc.boolean(),
  }),
  { maxLength: 25 },
);

test('racing allocators on a store in memory: same labels, same number, however their calls interleave', async (t) => {
  const property = fc.asyncProperty(steps, fc.scheduler(), async (plan, scheduler) => {
    const base = createMemoryStore();
    // All begin near the same number, so that they meet.
    const allocators = [0, 1, 2].map((index) => {
      const store = base.connect();
      const { transact, get } = store;
      store.transact = scheduler.scheduleFunction(transact);
      store.get = scheduler.scheduleFunction(get);
      return allocatorOn(store, () => 0.25 + index / 1e6);
    });
    for (const allocator of allocators) await allocator.load(signal);
    const given: (readonly [string, number])[] = [];
    const run = async ({ who, app, collect }: Step): Promise<void> => {
      const allocator = allocators[who];
      if (allocator === undefined) return;
      given.push([app, await allocator.allocate(labels(app), PUBLIC)]);
      // Only what nobody has may be collected: everything that was ever given is in use here.
      const inUse = new Set(plan.map((step) => text(step.app)));
      if (collect) await allocator.collectGarbage(inUse, { signal });
    };
    const running = Promise.all(plan.map(run));
    await scheduler.waitFor(running);
    const numbers = await checkStore(base);
    for (const [app, number] of given) {
      if (numbers.get(String(number)) !== text(app)) {
        throw new Error(`${app} was given ${number}, which is of ${numbers.get(String(number))}`);
      }
    }
  });
  const details = await fc.check(property, { numRuns: 100 });
  t.notOk(details.failed, `seed ${details.seed}: ${String(details.errorInstance ?? '')}`);
});

test('whatever stands in etcd before, nobody gets a number of others, and it is cleared up', async (t) => {
  const noise = fc.oneof(
    fc.string({ maxLength: 12 }),
    fc.integer({ min: FIRST - 3, max: FIRST + 12 }).map(String),
    fc.constantFrom('', '0', '-1', '007', '1e9', '99999999999999999999', text('a'), text('b')),
  );
  const entry = fc.record({ isId: fc.boolean(), name: noise, value: noise });
  const property = fc.asyncProperty(fc.array(entry, { maxLength: 20 }), async (entries) => {
    const store = createMemoryStore();
    for (const { isId, name, value } of entries) {
      if (name !== '') await store.put((isId ? IDS : ALLOCATIONS_PREFIX) + name, value);
    }
    const allocator = allocatorOn(store, () => 0);
    await allocator.load(signal);
    const apps = ['a', 'b', 'c'];
    const numbers = await Promise.all(apps.map((app) => allocator.allocate(labels(app), PUBLIC)));
    if (new Set(numbers).size !== 3) throw new Error(`not distinct: ${numbers.join()}`);
    for (const [index, number] of numbers.entries()) {
      const published = (await store.get(IDS + number))?.value.toString();
      if (published !== text(apps[index] ?? '')) throw new Error(`${number} is ${published}`);
    }
    // Orphans go at the second look.
    const inUse = new Set(apps.map(text));
    await allocator.collectGarbage(inUse, { signal });
    await allocator.collectGarbage(inUse, { signal });
    if ((await checkStore(store)).size !== 3) throw new Error('leftovers stay');
    if ((await store.list(IDS)).pairs.length !== 3) throw new Error('numbers stay');
  });
  const details = await fc.check(property, { numRuns: 300 });
  const example = JSON.stringify(details.counterexample);
  t.notOk(
    details.failed,
    `seed ${details.seed}: ${example} ${String(details.errorInstance ?? '')}`,
  );
});

test('nothing is collected by one that does not lead any more', async (t) => {
  const store = createMemoryStore();
  const allocator = allocatorOn(store, () => 0);
  await allocator.load(signal);
  await allocator.allocate(labels('a'), PUBLIC);
  await store.put('lock', 'mine');
  const modRevision = (await store.get('lock'))?.modRevision ?? 0n;
  await store.put('lock', 'theirs');
  const fence = { key: 'lock', modRevision };
  t.equal(await allocator.collectGarbage(new Set(), { fence, signal }), 0);
  t.equal((await checkStore(store)).size, 1);
});

test('a number that stands without an allocation goes to whoever has its labels', async (t) => {
  const store = createMemoryStore();
  await store.put(`${IDS}${FIRST + 77}`, text('web'));
  const allocator = allocatorOn(store, () => 0);
  await allocator.load(signal);
  t.equal(await allocator.allocate(labels('web'), PUBLIC), FIRST + 77);
  t.equal((await checkStore(store)).size, 1);
});

const pods = (count: number): string =>
  Array.from(
    { length: count },
    (_, index) => `apiVersion: v1
kind: Pod
metadata: {name: p${index}, namespace: demo, labels: {app: a${index}}}
status: {podIP: 10.${1 + (index >> 16)}.${(index >> 8) & 255}.${index & 255}, hostIP: 192.0.2.1}
`,
  ).join('---\n');

async function publishMany(t: Test, count: number): Promise<void> {
  const rig = await openPublishingRig(t, await openEtcdUnderTest(t));
  for (let file = 0; file < 10; file += 1) {
    const from = (file * count) / 10;
    const all = pods(count)
      .split('---\n')
      .slice(from, from + count / 10);
    await rig.write(`f${file}.yaml`, all.join('---\n'));
  }
  const began = performance.now();
  const before = process.cpuUsage();
  const published = await rig.start();
  await published.ready;
  const { user, system } = process.cpuUsage(before);
  const seconds = (user + system) / 1e6;
  const wallSeconds = (performance.now() - began) / 1000;
  t.comment(
    `${count} sets of labels: ${seconds.toFixed(1)} s of CPU in ${wallSeconds.toFixed(1)} s`,
  );
  t.equal((await rig.read('cilium/state/ip/')).size, count);
  t.equal((await rig.read(IDS)).size, count);
  t.equal(published.publisher.status.identities, count);
  // Of processor time: what else runs on the machine is no matter of ours.
  t.ok(seconds < 20, `${seconds.toFixed(1)} s of CPU`);
}

test(
  '10,000 distinct sets of labels are published within 20 s',
  {
    skip: etcdSkipReason(process.env),
    timeout: 120_000,
  },
  (t) => publishMany(t, 10_000),
);

test('a cluster without numbers says which labels are left out, harms no other, and goes on when there are some', async (t) => {
  const rig = await openPublishingRig(t, openMemoryUnderTest());
  const puts: Promise<void>[] = [];
  const [first, last] = [65_536 + 256, 2 * 65_536 - 1];
  for (let id = first; id < last - 1; id += 100) {
    const ops = Array.from({ length: Math.min(100, last - 1 - id) }, (_, index) => ({
      kind: 'put' as const,
      key: `${IDS}${id + index}`,
      value: `k8s:taken=${id + index};`,
    }));
    puts.push(rig.reader.transact({ compare: [], then: ops }).then(() => undefined));
    if (puts.length % 20 === 0) await Promise.all(puts);
  }
  await Promise.all(puts);
  await rig.write('a.yaml', pods(4));
  const published = await rig.start({ identityGraceMs: 3_000 });
  await published.ready;
  const { status } = published.publisher;
  t.match(status, { ready: true, endpoints: 4, endpointsWithoutIdentity: 2 });
  t.equal(status.labelsWithoutIdentity.length, 2);
  t.match(status.labelsWithoutIdentity[0], /k8s:app=a\d;/);
  t.equal((await rig.read('cilium/state/ip/')).size, 2, 'the others are published');
  // The orphans that took the range are cleared up after the grace time.
  await eventually('all four', async () => (await rig.read('cilium/state/ip/')).size === 4);
  t.match(published.publisher.status, { endpointsWithoutIdentity: 0, labelsWithoutIdentity: [] });
});
