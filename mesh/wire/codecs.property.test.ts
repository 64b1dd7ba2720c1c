import { isDeepStrictEqual } from 'node:util';
import fc from 'fast-check';
import { test } from 'tap';
import { type ClusterConfig, decodeClusterConfig, encodeClusterConfig } from './cluster-config.ts';
import { decodeLabels, encodeLabels, type Labels, sortLabels } from './identity.ts';
import { parseClusterName, parseNumericIdentity } from './ids.ts';
import { type IpAddress, type IpPrefix, ipFamily, ipFromBytes, makePrefix } from './ip.ts';
import { decodeIpIdentity, encodeIpIdentity, type IpIdentity } from './ip-identity.ts';
import { decodeLocalPolicy, encodeLocalPolicy, POLICY_KINDS } from './local-policy.ts';
import {
  decodeLocalService,
  encodeLocalService,
  type LocalService,
  SERVICE_AFFINITIES,
} from './local-service.ts';
import { decodeNode, encodeNode, NODE_ADDRESS_TYPES, type Node } from './node.ts';
import {
  type BackendZone,
  type ClusterService,
  decodeClusterService,
  encodeClusterService,
  type PortMap,
  PROTOCOLS,
} from './service.ts';
import { decodeTimestamp, encodeTimestamp } from './timestamp.ts';
import { WireError } from './wire-error.ts';

const KEY = 'cilium/state/some/key';

/** Decoders make plain objects, so these are plain as well. */
const record = <T>(model: { [K in keyof T]: fc.Arbitrary<T[K]> }): fc.Arbitrary<T> =>
  fc.record(model, { noNullPrototype: true }) as fc.Arbitrary<T>;

/** Text with everything that JSON and Go treat specially. */
const text = fc.string({ unit: 'grapheme', maxLength: 12 });
const name = fc.stringMatching(/^[a-z0-9]([-a-z0-9]{0,10}[a-z0-9])?$/);
const port = fc.integer({ min: 0, max: 65535 });
/** Names that look like array indices have an order of their own in JavaScript. */
const mapName = fc.oneof({ weight: 3, arbitrary: text }, fc.nat(99).map(String));
const dictionary = fc.dictionary(mapName, text, { maxKeys: 4, noNullPrototype: true });

/** Addresses of both families. */
const ipAddresses: fc.Arbitrary<IpAddress> = fc
  .oneof(
    fc.uint8Array({ minLength: 4, maxLength: 4 }),
    fc.uint8Array({ minLength: 16, maxLength: 16 }),
  )
  .map(ipFromBytes);

const ipPrefixes: fc.Arbitrary<IpPrefix> = fc
  .tuple(ipAddresses, fc.integer({ min: 0, max: 128 }))
  .map(([address, length]) => makePrefix(address, ipFamily(address) === 4 ? length % 33 : length));

const clusterNames = name.filter((candidate) => candidate !== 'default').map(parseClusterName);

/** Labels as identities carry them, with values that hold the separators that values may hold. */
const labels: fc.Arbitrary<Labels> = fc
  .uniqueArray(
    record({
      source: fc.constantFrom('k8s', 'container', 'reserved', 'any'),
      key: fc.stringMatching(/^[a-z][-a-z0-9./:]{0,20}$/),
      value: fc.stringMatching(/^[-A-Za-z0-9._=:$]{0,20}$/),
    }),
    { minLength: 1, maxLength: 6, selector: (label) => label.key },
  )
  .map(sortLabels);

const nodes: fc.Arbitrary<Node> = record({
  name: text.filter((value) => value !== ''),
  cluster: clusterNames,
  clusterId: fc.integer({ min: 0, max: 511 }),
  addresses: fc.array(record({ type: fc.constantFrom(...NODE_ADDRESS_TYPES), ip: ipAddresses }), {
    maxLength: 4,
  }),
  ipv4AllocCidr: fc.option(ipPrefixes),
  ipv6AllocCidr: fc.option(ipPrefixes),
  ipv4SecondaryAllocCidrs: fc.option(fc.array(ipPrefixes, { maxLength: 3 })),
  ipv6SecondaryAllocCidrs: fc.option(fc.array(ipPrefixes, { maxLength: 3 })),
  ipv4HealthIp: fc.option(ipAddresses),
  ipv6HealthIp: fc.option(ipAddresses),
  ipv4IngressIp: fc.option(ipAddresses),
  ipv6IngressIp: fc.option(ipAddresses),
  source: text,
  encryptionKey: fc.integer({ min: 0, max: 255 }),
  labels: fc.option(dictionary),
  annotations: fc.option(dictionary),
  wireguardPubKey: text,
  bootId: text,
});

const optionalText = fc.option(
  text.filter((value) => value !== ''),
  { nil: undefined },
);

const ipIdentities: fc.Arbitrary<IpIdentity> = record({
  range: ipPrefixes,
  isCidr: fc.boolean(),
  hostIp: fc.option(ipAddresses),
  identity: fc.integer({ min: 0, max: 2 ** 24 - 1 }).map(parseNumericIdentity),
  encryptionKey: fc.integer({ min: 0, max: 255 }),
  metadata: text,
  namespace: optionalText,
  podName: optionalText,
  serviceAccount: optionalText,
  namedPorts: fc.option(
    fc.array(record({ name: text, port, protocol: text }), { minLength: 1, maxLength: 3 }),
    {
      nil: undefined,
    },
  ),
}).map(({ range, ...rest }) => {
  const address = range.slice(0, range.indexOf('/')) as IpAddress;
  // Without a mask the value is one address.
  return {
    ...rest,
    prefix: rest.isCidr ? range : makePrefix(address, ipFamily(range) === 4 ? 32 : 128),
  };
});

const ports: fc.Arbitrary<PortMap> = fc
  .array(fc.tuple(mapName, record({ protocol: fc.constantFrom(...PROTOCOLS), port })), {
    maxLength: 3,
  })
  .map((entries) => new Map(entries));
const byIp = <T>(value: fc.Arbitrary<T>): fc.Arbitrary<ReadonlyMap<IpAddress, T>> =>
  fc.array(fc.tuple(ipAddresses, value), { maxLength: 4 }).map((entries) => new Map(entries));
const optionalByIp = <T>(
  value: fc.Arbitrary<T>,
): fc.Arbitrary<ReadonlyMap<IpAddress, T> | undefined> =>
  byIp(value).map((map) => (map.size === 0 ? undefined : map));
const zones: fc.Arbitrary<BackendZone> = record({
  zone: text,
  forZones: fc.option(fc.array(record({ name: text }), { maxLength: 2 })),
});

const clusterServices: fc.Arbitrary<ClusterService> = record({
  cluster: clusterNames,
  namespace: name,
  name,
  frontends: byIp(ports),
  backends: byIp(ports),
  hostnames: optionalByIp(text),
  zones: optionalByIp(zones),
  labels: dictionary,
  selector: dictionary,
  includeExternal: fc.boolean(),
  shared: fc.boolean(),
  clusterId: fc.integer({ min: 0, max: 511 }),
});

const localServices: fc.Arbitrary<LocalService> = record({
  namespace: name,
  name,
  clusterIps: fc.array(ipAddresses, { maxLength: 2 }),
  ports: fc.array(record({ name: text, protocol: fc.constantFrom(...PROTOCOLS), port }), {
    maxLength: 3,
  }),
  headless: fc.boolean(),
  global: fc.boolean(),
  shared: fc.boolean(),
  affinity: fc.constantFrom(...SERVICE_AFFINITIES),
  backends: byIp(ports),
});

const localPolicies = record({
  kind: fc.constantFrom(...POLICY_KINDS),
  namespace: name,
  name,
  generation: fc.nat(),
  manifest: fc
    .dictionary(text, fc.jsonValue({ noUnicodeString: false }))
    .map((value) => JSON.parse(JSON.stringify(value))),
});

const clusterConfigs: fc.Arbitrary<ClusterConfig> = record({
  id: fc.integer({ min: 0, max: 511 }),
  capabilities: record({
    syncedCanaries: fc.boolean(),
    cached: fc.boolean(),
    maxConnectedClusters: fc.constantFrom(undefined, 255 as const, 511 as const),
    serviceExportsEnabled: fc.constantFrom(undefined, true, false),
    endpointSlicesExportMode: optionalText,
  }),
});

interface Codec {
  readonly name: string;
  readonly values: fc.Arbitrary<unknown>;
  readonly encode: (value: never) => string;
  readonly decode: (value: Buffer | string, key: string) => unknown;
}

const codecs: readonly Codec[] = [
  { name: 'node', values: nodes, encode: encodeNode, decode: decodeNode },
  { name: 'ip-identity', values: ipIdentities, encode: encodeIpIdentity, decode: decodeIpIdentity },
  { name: 'identity', values: labels, encode: encodeLabels, decode: decodeLabels },
  {
    name: 'service',
    values: clusterServices,
    encode: encodeClusterService,
    decode: decodeClusterService,
  },
  {
    name: 'cluster-config',
    values: clusterConfigs,
    encode: encodeClusterConfig,
    decode: decodeClusterConfig,
  },
  {
    name: 'local-service',
    values: localServices,
    encode: encodeLocalService,
    decode: decodeLocalService,
  },
  {
    name: 'local-policy',
    values: localPolicies,
    encode: encodeLocalPolicy,
    decode: decodeLocalPolicy,
  },
  {
    name: 'timestamp',
    values: fc.integer({ min: 0, max: 4_102_444_800 }).map((seconds) => seconds * 1000),
    encode: encodeTimestamp,
    decode: decodeTimestamp,
  },
];

/** Runs a decoder on what may be anything: a value, or a WireError that names the key. Anything else fails. */
function decodesOrRefuses(codec: Codec, value: Buffer | string): boolean {
  try {
    codec.decode(value, KEY);
    return true;
  } catch (error) {
    return error instanceof WireError && error.key === KEY && error.message.includes(KEY);
  }
}

for (const codec of codecs) {
  test(`${codec.name}: what is encoded decodes to the same`, async (t) => {
    fc.assert(
      fc.property(codec.values, (value) => {
        const encoded = codec.encode(value as never);
        const decoded = codec.decode(encoded, KEY);
        return isDeepStrictEqual(decoded, value) && codec.encode(decoded as never) === encoded;
      }),
      { numRuns: 200 },
    );
    t.pass();
  });

  test(`${codec.name}: every prefix of a value is decoded or refused`, async (t) => {
    fc.assert(
      fc.property(codec.values, (value) => {
        const encoded = codec.encode(value as never);
        return [...encoded].every((_, length) => decodesOrRefuses(codec, encoded.slice(0, length)));
      }),
      { numRuns: 20 },
    );
    t.pass();
  });

  test(`${codec.name}: a value with one character changed is decoded or refused`, async (t) => {
    fc.assert(
      fc.property(
        codec.values,
        fc.nat(),
        fc.string({ unit: 'grapheme', minLength: 1, maxLength: 1 }),
        (value, at, character) => {
          const encoded = codec.encode(value as never);
          const place = encoded.length === 0 ? 0 : at % encoded.length;
          return decodesOrRefuses(
            codec,
            encoded.slice(0, place) + character + encoded.slice(place + 1),
          );
        },
      ),
      { numRuns: 500 },
    );
    t.pass();
  });

  test(`${codec.name}: a value with bytes overwritten is decoded or refused`, async (t) => {
    fc.assert(
      fc.property(
        codec.values,
        fc.nat(),
        fc.uint8Array({ minLength: 1, maxLength: 4 }),
        (value, at, bytes) => {
          const encoded = Buffer.from(codec.encode(value as never));
          const place = at % Math.max(1, encoded.length);
          encoded.set(bytes.subarray(0, encoded.length - place), place);
          return decodesOrRefuses(codec, encoded);
        },
      ),
      { numRuns: 300 },
    );
    t.pass();
  });

  test(`${codec.name}: any JSON is decoded or refused`, async (t) => {
    fc.assert(
      fc.property(fc.json(), (json) => decodesOrRefuses(codec, json)),
      { numRuns: 500 },
    );
    t.pass();
  });
}

test('a value of one kind with any field replaced by any JSON is decoded or refused', async (t) => {
  const structured = codecs.filter(({ name }) => name !== 'identity' && name !== 'timestamp');
  fc.assert(
    fc.property(
      fc.constantFrom(...structured),
      fc.infiniteStream(fc.jsonValue()),
      fc.nat(),
      (codec, junk, seed) => {
        const [sample] = fc.sample(codec.values, { numRuns: 1, seed });
        const object: Record<string, unknown> = JSON.parse(codec.encode(sample as never));
        return Object.keys(object).every((field) =>
          decodesOrRefuses(codec, JSON.stringify({ ...object, [field]: junk.next().value })),
        );
      },
    ),
    { numRuns: 300 },
  );
  t.pass();
});

test('lists nested deeper than the stack are refused like any other value', async (t) => {
  const deep = '['.repeat(400_000) + ']'.repeat(400_000);
  for (const codec of codecs) {
    if (codec.name === 'identity' || codec.name === 'timestamp') continue;
    const [sample] = fc.sample(codec.values, 1);
    const object: Record<string, unknown> = JSON.parse(codec.encode(sample as never));
    for (const field of Object.keys(object)) {
      const value = JSON.stringify({ ...object, [field]: '@' }).replace('"@"', deep);
      t.ok(decodesOrRefuses(codec, value), `${codec.name}: ${field}`);
    }
  }
});
