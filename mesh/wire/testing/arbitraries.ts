/** Random values of every kind, for tests of the codecs: all that the types allow, and more than Cilium ever writes. */
import fc from 'fast-check';
import { type ClusterConfig, decodeClusterConfig, encodeClusterConfig } from '../cluster-config.ts';
import { decodeMeshDigest, encodeMeshDigest, type MeshDigest } from '../digest.ts';
import { decodeLabels, encodeLabels, type Labels, sortLabels } from '../identity.ts';
import { decodeIdentityReference, encodeIdentityReference } from '../identity-reference.ts';
import { parseClusterName, parseNumericIdentity } from '../ids.ts';
import {
  type IpAddress,
  type IpPrefix,
  ipFamily,
  ipFromBytes,
  makePrefix,
  splitPrefix,
} from '../ip.ts';
import { decodeIpIdentity, encodeIpIdentity, type IpIdentity } from '../ip-identity.ts';
import { decodeLocalPolicy, encodeLocalPolicy, POLICY_KINDS } from '../local-policy.ts';
import {
  decodeLocalService,
  encodeLocalService,
  LB_ALGORITHMS,
  type LocalService,
  SERVICE_AFFINITIES,
  SERVICE_KINDS,
  TRAFFIC_POLICIES,
} from '../local-service.ts';
import { decodeNode, encodeNode, type Node } from '../node.ts';
import {
  decodePeerReport,
  encodePeerReport,
  PEER_REPORT_STATES,
  type PeerReport,
} from '../peer-report.ts';
import {
  type BackendZone,
  type ClusterService,
  decodeClusterService,
  encodeClusterService,
  type PortMap,
  PROTOCOLS,
} from '../service.ts';
import { decodeServiceExport, encodeServiceExport, type ServiceExport } from '../service-export.ts';
import { decodeMeshStamp, encodeMeshStamp } from '../stamp.ts';
import { decodeTimestamp, encodeTimestamp } from '../timestamp.ts';

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

const nodes: fc.Arbitrary<Node> = record<Node & { nodeIdentity: number | undefined }>({
  name: text.filter((value) => value !== ''),
  cluster: clusterNames,
  clusterId: fc.integer({ min: 0, max: 511 }),
  addresses: fc.option(
    fc.array(
      record({
        type: fc.oneof(
          fc.constantFrom('InternalIP', 'ExternalIP', 'CiliumInternalIP', 'Hostname'),
          text,
        ),
        ip: fc.option(ipAddresses),
      }),
      { maxLength: 4 },
    ),
  ),
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
  nodeIdentity: fc.option(fc.nat(2 ** 24), { nil: undefined }),
}).map(({ nodeIdentity, ...node }) => ({
  ...node,
  ...(nodeIdentity === undefined ? {} : { nodeIdentity }),
}));

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
  podUid: optionalText,
  isNew: fc.boolean(),
}).map(({ range, podUid, isNew, ...rest }) => {
  const { address } = splitPrefix(range);
  // Without a mask the value is one address; with one, the form differs only by what is new in it.
  const isNewForm = isNew && (!rest.isCidr || podUid !== undefined);
  return {
    ...rest,
    ...(isNewForm ? { newForm: { podUid } } : {}),
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
  labels: fc.option(dictionary),
  selector: fc.option(dictionary),
  includeExternal: fc.boolean(),
  shared: fc.boolean(),
  clusterId: fc.integer({ min: 0, max: 511 }),
});

const localServices: fc.Arbitrary<LocalService> = record({
  namespace: name,
  name,
  clusterIps: fc.array(ipAddresses, { maxLength: 2 }),
  ports: fc.array(
    fc.oneof(
      record({ name: text, protocol: fc.constantFrom(...PROTOCOLS), port }),
      record({
        name: text,
        protocol: fc.constantFrom(...PROTOCOLS),
        port,
        nodePort: fc.integer({ min: 1, max: 65_535 }),
      }),
    ),
    { maxLength: 3 },
  ),
  headless: fc.boolean(),
  global: fc.boolean(),
  shared: fc.boolean(),
  affinity: fc.constantFrom(...SERVICE_AFFINITIES),
  type: fc.constantFrom(...SERVICE_KINDS),
  externalIps: fc.array(ipAddresses, { maxLength: 2 }),
  loadBalancerIps: fc.array(ipAddresses, { maxLength: 2 }),
  hasSourceRanges: fc.boolean(),
  affinitySeconds: fc.integer({ min: 0, max: 86_400 }),
  internalTrafficPolicy: fc.constantFrom(...TRAFFIC_POLICIES),
  externalTrafficPolicy: fc.constantFrom(...TRAFFIC_POLICIES),
  trafficDistribution: fc.constantFrom(undefined, 'PreferClose', 'PreferSameNode'),
  algorithm: fc.constantFrom(undefined, ...LB_ALGORITHMS),
  backends: byIp(ports),
  draining: byIp(ports),
  places: byIp(
    record({
      node: fc.constantFrom('', 'a', 'b'),
      zone: fc.constantFrom('', 'za'),
      forZones: fc.subarray(['za', 'zb']),
      forNodes: fc.subarray(['a', 'b']),
    }),
  ),
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
const lineNumbers = fc.dictionary(mapName, fc.nat(), { maxKeys: 4, noNullPrototype: true });
const placedPolicies = fc
  .tuple(localPolicies, fc.option(record({ file: name, lines: lineNumbers })))
  .map(([policy, origin]) => (origin === null ? policy : { ...policy, origin }));

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

const seconds = fc.integer({ min: 0, max: 4_102_444_800 }).map((count) => count * 1000);
const optionalMap = fc
  .option(dictionary, { nil: undefined })
  .map((map) => (map === undefined || Object.keys(map).length === 0 ? undefined : map));

const serviceExports: fc.Arbitrary<ServiceExport> = record({
  cluster: clusterNames,
  name,
  namespace: name,
  annotations: optionalMap,
  labels: optionalMap,
  legacyCopies: fc.boolean(),
  exportedAt: seconds,
  ports: fc.option(
    fc.array(
      record({
        name: text,
        protocol: text,
        appProtocol: fc.option(text, { nil: undefined }),
        port,
      }),
      {
        maxLength: 3,
      },
    ),
  ),
  type: fc.constantFrom('ClusterSetIP' as const, 'Headless' as const),
  sessionAffinity: fc.constantFrom('None' as const, 'ClientIP' as const),
  sessionAffinityConfig: fc.option(
    record({
      clientIp: fc.option(
        record({ timeoutSeconds: fc.option(fc.nat(86_400), { nil: undefined }) }),
        { nil: undefined },
      ),
    }),
    { nil: undefined },
  ),
  ipFamilies: fc.option(fc.array(text, { minLength: 1, maxLength: 2 }), { nil: undefined }),
  internalTrafficPolicy: fc.constantFrom(undefined, 'Cluster' as const, 'Local' as const),
  trafficDistribution: fc.constantFrom(
    undefined,
    'PreferClose' as const,
    'PreferSameZone' as const,
    'PreferSameNode' as const,
  ),
}).map((value) => ({
  ...value,
  // Copies of nothing are not written.
  legacyCopies: value.legacyCopies && (value.labels ?? value.annotations) !== undefined,
}));

const digests: fc.Arbitrary<MeshDigest> = record({
  count: fc.nat(),
  sum: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }).map((sum) => sum.toString(16).padStart(16, '0')),
});

const peerReports: fc.Arbitrary<PeerReport> = record({
  state: fc.constantFrom(...PEER_REPORT_STATES),
  since: fc.maxSafeNat(),
  reason: text,
  heartbeatAt: fc.option(fc.maxSafeNat()),
  clockDifferenceMs: fc.option(fc.integer()),
});

/** A kind of value, and how it goes to text and back. */
export interface Codec {
  readonly name: string;
  /** A key that such a value stands under. */
  readonly key: string;
  readonly values: fc.Arbitrary<unknown>;
  readonly encode: (value: never) => string;
  readonly decode: (value: Buffer | string, key: string) => unknown;
}

/** Every kind of value that is text. */
export const codecs: readonly Codec[] = [
  {
    name: 'node',
    key: 'cilium/state/nodes/v1/alpha/n1',
    values: nodes,
    encode: encodeNode,
    decode: decodeNode,
  },
  {
    name: 'ip-identity',
    key: 'cilium/state/ip/v1/default/10.1.0.5',
    values: ipIdentities,
    encode: encodeIpIdentity,
    decode: decodeIpIdentity,
  },
  {
    name: 'identity',
    key: 'cilium/state/identities/v1/id/65793',
    values: labels,
    encode: encodeLabels,
    decode: decodeLabels,
  },
  {
    name: 'service',
    key: 'cilium/state/services/v1/alpha/demo/web',
    values: clusterServices,
    encode: encodeClusterService,
    decode: decodeClusterService,
  },
  {
    name: 'cluster-config',
    key: 'cilium/cluster-config/alpha',
    values: clusterConfigs,
    encode: encodeClusterConfig,
    decode: decodeClusterConfig,
  },
  {
    name: 'local-service',
    key: 'isthmus/local/services/demo/web',
    values: localServices,
    encode: encodeLocalService,
    decode: decodeLocalService,
  },
  {
    name: 'local-policy',
    key: 'isthmus/local/policies/NetworkPolicy/demo/a',
    values: placedPolicies,
    encode: encodeLocalPolicy,
    decode: decodeLocalPolicy,
  },
  {
    name: 'timestamp',
    key: 'cilium/.heartbeat',
    values: seconds,
    encode: encodeTimestamp,
    decode: decodeTimestamp,
  },
  {
    name: 'service-export',
    key: 'cilium/state/serviceexports/v1/alpha/demo/web',
    values: serviceExports,
    encode: encodeServiceExport,
    decode: decodeServiceExport,
  },
  {
    name: 'identity-reference',
    key: 'cilium/state/identities/v1/value/k8s:a=b;/192.0.2.1',
    values: fc.integer({ min: 1, max: 2 ** 24 - 1 }).map(parseNumericIdentity),
    encode: encodeIdentityReference,
    decode: decodeIdentityReference,
  },
  {
    name: 'mesh-digest',
    key: 'isthmus/mesh/digest/cilium/state/nodes/v1/alpha',
    values: digests,
    encode: encodeMeshDigest,
    decode: decodeMeshDigest,
  },
  {
    name: 'mesh-stamp',
    key: 'isthmus/mesh/stamp',
    values: record({ at: fc.maxSafeNat() }),
    encode: encodeMeshStamp,
    decode: decodeMeshStamp,
  },
  {
    name: 'mesh-peer',
    key: 'isthmus/mesh/peer/beta',
    values: peerReports,
    encode: encodePeerReport,
    decode: decodePeerReport,
  },
];
