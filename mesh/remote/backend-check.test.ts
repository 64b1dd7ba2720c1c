import fc from 'fast-check';
import { test } from 'tap';
import { parseClusterName } from '../wire/ids.ts';
import { type IpAddress, parseIpAddress } from '../wire/ip.ts';
import type { ClusterService } from '../wire/service.ts';
import { createBackendCheck } from './backend-check.ts';

function makeService(name: string, addresses: readonly IpAddress[]): ClusterService {
  return {
    cluster: parseClusterName('beta'),
    namespace: 'demo',
    name,
    frontends: new Map(),
    backends: new Map(addresses.map((ip) => [ip, new Map()])),
    hostnames: undefined,
    zones: undefined,
    labels: {},
    selector: {},
    includeExternal: true,
    shared: true,
    clusterId: 2,
  };
}

const POOL = Array.from({ length: 6 }, (_, index) => parseIpAddress(`10.2.0.${index + 1}`));

test('in the end each service has exactly the backends whose addresses are known', async () => {
  const step = fc.oneof(
    fc.record({ kind: fc.constant('address' as const), which: fc.nat(5), isKnown: fc.boolean() }),
    fc.record({
      kind: fc.constant('service' as const),
      name: fc.nat(2),
      which: fc.uniqueArray(fc.nat(5)),
    }),
    fc.record({ kind: fc.constant('gone' as const), name: fc.nat(2) }),
    fc.record({ kind: fc.constant('settle' as const) }),
  );
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      const known = new Set<IpAddress>();
      const check = createBackendCheck((address) => known.has(address));
      const seen = new Map<string, readonly IpAddress[]>();
      const model = new Map<string, readonly IpAddress[]>();
      const settle = (): void => {
        for (const { name, service } of check.takeChanged())
          seen.set(name, [...service.backends.keys()]);
      };
      for (const one of steps) {
        if (one.kind === 'address') {
          const address = POOL[one.which] ?? POOL[0]!;
          if (one.isKnown) known.add(address);
          else known.delete(address);
          check.touch(address);
        } else if (one.kind === 'service') {
          const addresses = one.which.map((index) => POOL[index]!);
          const service = makeService(`s${one.name}`, addresses);
          const counted = check.set(`s${one.name}`, service);
          if (addresses.every((address) => known.has(address)) && counted !== service) return false;
          seen.set(`s${one.name}`, [...counted.backends.keys()]);
          model.set(`s${one.name}`, addresses);
        } else if (one.kind === 'gone') {
          check.delete(`s${one.name}`);
          seen.delete(`s${one.name}`);
          model.delete(`s${one.name}`);
        } else settle();
      }
      settle();
      const missing = [...model.values()].flat().filter((address) => !known.has(address)).length;
      return (
        check.missing === missing &&
        [...model].every(
          ([name, addresses]) =>
            addresses.filter((address) => known.has(address)).join() === seen.get(name)?.join(),
        )
      );
    }),
    { numRuns: 500 },
  );
});

test('one address of a service of 10,000 backends costs one look at that service', async (t) => {
  const known = new Set<IpAddress>();
  const addresses = Array.from({ length: 10_000 }, (_, index) =>
    parseIpAddress(`10.2.${index >> 8}.${index & 255}`),
  );
  for (const address of addresses) known.add(address);
  const check = createBackendCheck((address) => known.has(address));
  for (let index = 0; index < 100; index += 1) check.set(`other${index}`, makeService('o', []));
  check.set('large', makeService('large', addresses));
  known.delete(addresses[5]!);
  const began = performance.now();
  check.touch(addresses[5]!);
  const [changed, ...others] = check.takeChanged();
  t.comment(`${(performance.now() - began).toFixed(2)} ms`);
  t.equal(changed?.service.backends.size, 9999);
  t.same(others, []);
  t.same(check.examples(), ['large 10.2.0.5']);
});
