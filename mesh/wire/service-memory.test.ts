import fc from 'fast-check';
import { test } from 'tap';
import { parseClusterName } from './ids.ts';
import { parseIpAddress } from './ip.ts';
import {
  type ClusterService,
  decodeClusterService,
  decodeWholeService,
  encodeClusterService,
  type PortMap,
} from './service.ts';
import { WireError } from './wire-error.ts';

const PORTS: readonly PortMap[] = [
  new Map([['http', { protocol: 'TCP', port: 8080 }]]),
  new Map([['http', { protocol: 'TCP', port: 8081 }]]),
  new Map([
    ['http', { protocol: 'TCP', port: 8080 }],
    ['dns', { protocol: 'UDP', port: 53 }],
  ]),
];

function service(backends: ReadonlyMap<number, number>, changes: Partial<ClusterService> = {}) {
  return encodeClusterService({
    cluster: parseClusterName('beta'),
    namespace: 'demo',
    name: 'web',
    frontends: new Map([[parseIpAddress('10.97.0.1'), PORTS[0] ?? new Map()]]),
    backends: new Map(
      [...backends].map(([index, ports]) => [
        parseIpAddress(`10.2.${index >> 8}.${index & 255}`),
        PORTS[ports] ?? new Map(),
      ]),
    ),
    hostnames: undefined,
    zones: new Map([[parseIpAddress('10.2.0.1'), { zone: 'za', forZones: [{ name: 'za' }] }]]),
    labels: { app: 'web' },
    selector: {},
    includeExternal: true,
    shared: true,
    clusterId: 2,
    ...changes,
  });
}

/** What a decoder makes of a value, in a form that does not depend on the order of maps. */
function outcome(decode: () => ClusterService): string {
  try {
    return encodeClusterService(decode());
  } catch (error) {
    if (!(error instanceof WireError)) throw error;
    return `${error.code} ${error.message}`;
  }
}

const MANY = new Map(Array.from({ length: 600 }, (_, index) => [index * 3, 0]));
const edits = fc.array(fc.record({ index: fc.nat(1900), ports: fc.integer({ min: -1, max: 2 }) }), {
  minLength: 1,
  maxLength: 4,
});

test('a large service that changes bit by bit is decoded as if it were seen for the first time', async (t) => {
  const wrong: string[] = [];
  let round = 0;
  fc.assert(
    fc.property(fc.array(edits, { minLength: 1, maxLength: 6 }), (history) => {
      round += 1;
      const key = `k${round}`;
      const backends = new Map(MANY);
      decodeClusterService(Buffer.from(service(backends)), key);
      for (const step of history) {
        for (const { index, ports } of step) {
          if (ports < 0) backends.delete(index);
          else backends.set(index, ports);
        }
        const value = Buffer.from(service(backends));
        const found = outcome(() => decodeClusterService(value, key));
        if (found !== outcome(() => decodeWholeService(value, key)))
          wrong.push(found.slice(0, 300));
      }
    }),
    { numRuns: 40 },
  );
  t.same(wrong, []);
});

test('a changed, cut or added byte anywhere gives the same as the whole decoder', async (t) => {
  const text = service(MANY);
  const good = Buffer.from(text);
  const wrong: string[] = [];
  const look = (value: Buffer): void => {
    decodeClusterService(good, 'k');
    const found = outcome(() => decodeClusterService(value, 'k'));
    if (found !== outcome(() => decodeWholeService(value, 'k'))) wrong.push(found.slice(0, 300));
  };
  for (let at = 0; at < good.length; at += 1409) {
    for (const piece of ['', '}', '{', '"', ',', '\\', '5', '}},"', ',"10.2.0.0":{}']) {
      look(Buffer.concat([good.subarray(0, at), Buffer.from(piece), good.subarray(at + 1)]));
      look(Buffer.concat([good.subarray(0, at), Buffer.from(piece), good.subarray(at)]));
    }
  }
  t.same(wrong, []);
});

const others: readonly [string, Partial<ClusterService>][] = [
  ['the labels', { labels: { app: 'other' } }],
  ['whether it is shared', { shared: false }],
  ['the zones', { zones: undefined }],
  ['the frontends', { frontends: new Map() }],
];
for (const [name, changes] of others) {
  test(`a change of ${name} is seen, with a change of a backend and without`, async (t) => {
    for (const backends of [MANY, new Map(MANY).set(901, 1)]) {
      decodeClusterService(Buffer.from(service(MANY)), 'k');
      const value = Buffer.from(service(backends, changes));
      t.equal(
        outcome(() => decodeClusterService(value, 'k')),
        outcome(() => decodeWholeService(value, 'k')),
      );
    }
  });
}

test('names that look like the end of a backend do not mislead', async (t) => {
  const evil = (name: string, port: number): Buffer =>
    Buffer.from(
      service(MANY)
        .replace('"10.2.3.153":{"http"', `"10.2.3.153":{${JSON.stringify(name)}`)
        .replace('"Port":8080}},"10.2.3.156"', `"Port":${port}}},"10.2.3.156"`),
    );
  for (const name of ['}},"', '}},', 'x}},\\', '":{"', '}}}']) {
    decodeClusterService(evil(name, 1), 'k');
    t.not(evil(name, 1).toString(), service(MANY));
    t.equal(
      outcome(() => decodeClusterService(evil(name, 2), 'k')),
      outcome(() => decodeWholeService(evil(name, 2), 'k')),
      name,
    );
  }
});
