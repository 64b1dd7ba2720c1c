import fc from 'fast-check';
import { test } from 'tap';
import { parseClusterName } from '../../mesh/wire/ids.ts';
import { parseKubernetesObject } from './kubernetes-object.ts';
import type { EndpointGroup } from './slice-endpoints.ts';
import { type MeshSlice, makeMeshSlice, readMeshSlice, type SlicePort } from './slice-object.ts';
import { planSlices, type SlicePlan } from './slice-plan.ts';

const service = parseKubernetesObject({
  metadata: { name: 'web', namespace: 'shop', uid: 'u', resourceVersion: '1' },
});
const owner = { service, cluster: parseClusterName('beta'), isHeadless: false };
const HTTP: SlicePort = { name: 'http', protocol: 'TCP', port: 80 };
const ADMIN: SlicePort = { name: 'admin', protocol: 'TCP', port: 9000 };

function group(numbers: Iterable<number>, ports: readonly SlicePort[] = [HTTP]): EndpointGroup {
  const addresses = [...new Set(numbers)].map((number) => `10.2.0.${number}`);
  return {
    addressType: 'IPv4',
    ports,
    endpoints: new Map(
      addresses.map((address) => [address, { address, hostname: undefined }] as const),
    ),
  };
}

/** What stands in the API server after a plan was carried out. */
function carryOut(plan: SlicePlan, before: readonly MeshSlice[]): MeshSlice[] {
  const names = new Set(before.map(({ object }) => object.name));
  const free = (): string => {
    for (let number = 0; ; number += 1) {
      const name = `web-beta-${number}`;
      if (!names.has(name)) {
        names.add(name);
        return name;
      }
    }
  };
  return plan.writes.map(({ slice, ...content }) => {
    const name = slice?.object.name ?? free();
    const desired = makeMeshSlice(owner, { ...content, name });
    const metadata = { ...desired.metadata, uid: name, resourceVersion: '1' };
    return readMeshSlice(parseKubernetesObject({ ...desired, metadata }));
  });
}

/** How many slices a plan changes, makes or removes. */
function changes(plan: SlicePlan): number {
  const written = plan.writes.filter(({ slice, endpoints, ports }) => {
    const now = JSON.stringify([endpoints, ports]);
    return slice === undefined || JSON.stringify([slice.endpoints, slice.ports]) !== now;
  });
  return written.length + plan.removes.length;
}

function contentOf(slices: readonly MeshSlice[]): string[] {
  return slices
    .flatMap(({ endpoints, ports }) =>
      endpoints.map(({ address }) => `${address} ${JSON.stringify(ports)}`),
    )
    .sort();
}

const range = (from: number, to: number): number[] =>
  Array.from({ length: to - from }, (_, index) => from + index);

test('whatever stood there: each endpoint once, no slice too full, and a second plan changes nothing', (t) => {
  const numbers = fc.uniqueArray(fc.nat({ max: 60 }), { maxLength: 40 });
  fc.assert(
    fc.property(
      fc.array(fc.tuple(numbers, numbers), { minLength: 1, maxLength: 6 }),
      fc.integer({ min: 1, max: 12 }),
      (steps, max) => {
        let slices: MeshSlice[] = [];
        for (const [http, admin] of steps) {
          const groups = [group(http), group(admin, [ADMIN, HTTP])].filter(
            ({ endpoints }) => endpoints.size > 0,
          );
          const plan = planSlices(groups, slices, max);
          slices = carryOut(plan, slices);
          const wanted = groups
            .flatMap(({ endpoints, ports }) =>
              [...endpoints.keys()].map((address) => `${address} ${JSON.stringify(ports)}`),
            )
            .sort();
          if (JSON.stringify(contentOf(slices)) !== JSON.stringify(wanted)) return false;
          if (slices.some(({ endpoints }) => endpoints.length > max || endpoints.length === 0)) {
            return false;
          }
          if (changes(planSlices(groups, slices, max)) !== 0) return false;
        }
        return true;
      },
    ),
    { numRuns: 200 },
  );
  t.end();
});

test('one endpoint more or less touches one slice', (t) => {
  fc.assert(
    fc.property(
      fc.uniqueArray(fc.nat({ max: 250 }), { minLength: 1, maxLength: 120 }),
      fc.nat({ max: 250 }),
      (numbers, other) => {
        const before = carryOut(planSlices([group(numbers)], [], 10), []);
        const more = planSlices([group([...numbers, other])], before, 10);
        const [first, ...rest] = numbers;
        const less = planSlices(rest.length === 0 ? [] : [group(rest)], before, 10);
        // One moved: it leaves one slice and may come into the same.
        const moved = planSlices([group([...rest, first === other ? 251 : other])], before, 10);
        return changes(more) <= 1 && changes(less) === 1 && changes(moved) <= 2;
      },
    ),
  );
  t.end();
});

test('500 endpoints are five slices, and what is gone from the middle leaves the others alone', (t) => {
  const before = carryOut(planSlices([group(range(0, 500))], [], 100), []);
  t.same(
    before.map(({ endpoints }) => endpoints.length),
    [100, 100, 100, 100, 100],
  );
  const plan = planSlices([group(range(0, 500).filter((number) => number !== 250))], before, 100);
  t.equal(changes(plan), 1);
  const replaced = range(0, 500).map((number) => (number === 250 ? 1000 : number));
  t.equal(changes(planSlices([group(replaced)], before, 100)), 1, 'a place that is free is used');
  t.end();
});

test('other ports are written into the slices that are there', (t) => {
  const before = carryOut(planSlices([group(range(0, 5))], [], 100), []);
  const plan = planSlices([group(range(0, 5), [ADMIN])], before, 100);
  t.equal(plan.removes.length, 0, 'a slice is never away in between');
  t.equal(changes(plan), 1);
  t.end();
});

test('slices of a family or of ports that nothing has any more go', (t) => {
  const [slice] = carryOut(planSlices([group([1])], [], 100), []);
  if (slice === undefined) throw new Error('there is one');
  t.same(planSlices([], [slice], 100), { writes: [], removes: [slice] });
  const fqdn: MeshSlice = { ...slice, addressType: undefined };
  t.same(planSlices([group([1])], [fqdn], 100).removes, [fqdn]);
  t.end();
});

test('an endpoint that is in two slices stays in one', (t) => {
  const [one] = carryOut(planSlices([group([1, 2])], [], 100), []);
  if (one === undefined) throw new Error('there is one');
  const twin: MeshSlice = { ...one, object: { ...one.object, name: 'zzz' } };
  const plan = planSlices([group([1, 2])], [one, twin], 100);
  t.equal(plan.writes.length, 1);
  t.same(plan.removes, [twin]);
  t.end();
});
