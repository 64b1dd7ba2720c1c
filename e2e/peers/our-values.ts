/** Random values of every kind as we write them, each one a cluster's own to publish. */
import fc from 'fast-check';
import { encodeClusterConfig } from '../../mesh/wire/cluster-config.ts';
import { CLUSTER_LABEL, encodeLabels, sortLabels } from '../../mesh/wire/identity.ts';
import {
  type ClusterId,
  type ClusterName,
  type MaxConnectedClusters,
  makeIdentity,
  parseClusterId,
  parseClusterName,
  reservedIdentity,
} from '../../mesh/wire/ids.ts';
import {
  type IpAddress,
  ipFamily,
  ipFromBytes,
  makePrefix,
  splitPrefix,
} from '../../mesh/wire/ip.ts';
import { encodeIpIdentity } from '../../mesh/wire/ip-identity.ts';
import {
  CANARY_PREFIXES,
  clusterConfigKey,
  HEARTBEAT_KEY,
  identityKey,
  keyTextOfPrefix,
  nodeKey,
  serviceKey,
  syncedKey,
} from '../../mesh/wire/keys.ts';
import { encodeNode } from '../../mesh/wire/node.ts';
import { type BackendZone, encodeClusterService, PROTOCOLS } from '../../mesh/wire/service.ts';
import { encodeServiceExport } from '../../mesh/wire/service-export.ts';
import { encodeTimestamp } from '../../mesh/wire/timestamp.ts';
import type { PeerPair } from './kvtool.ts';

/** Text with all that JSON and Go treat specially. */
const text = fc.string({ unit: 'grapheme', maxLength: 12 });
const word = fc.stringMatching(/^[a-z0-9]([-a-z0-9]{0,10}[a-z0-9])?$/);
const port = fc.integer({ min: 0, max: 65535 });
const dictionary = fc.dictionary(fc.oneof(word, fc.nat(99).map(String)), text, {
  maxKeys: 4,
  noNullPrototype: true,
});
const address: fc.Arbitrary<IpAddress> = fc
  .oneof(
    fc
      .tuple(
        fc.constantFrom(10, 100, 172, 192),
        fc.uint8Array({ minLength: 3, maxLength: 3, max: 254 }),
      )
      .map(([first, rest]) => Uint8Array.of(first, ...rest)),
    fc.uint8Array({ minLength: 15, maxLength: 15 }).map((rest) => Uint8Array.of(0xfd, ...rest)),
    fc.nat(99).map((last) => Uint8Array.of(0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, last)),
  )
  .map(ipFromBytes);
const network = fc
  .tuple(address, fc.integer({ min: 8, max: 128 }))
  .map(([ip, length]) => makePrefix(ip, ipFamily(ip) === 4 ? 8 + (length % 25) : length));
const protocol = fc.constantFrom(...PROTOCOLS);
const seconds = fc.integer({ min: 0, max: 4_000_000_000 }).map((value) => value * 1000);

/** Pairs of a random cluster of a mesh of that many. */
export function ourPairs(max: MaxConnectedClusters): fc.Arbitrary<PeerPair> {
  const whose = fc.record({
    id: fc.integer({ min: 1, max }).map((id) => parseClusterId(id, max)),
    cluster: word.filter((name) => name !== 'default').map(parseClusterName),
    max: fc.constant(max),
  });
  const made = fc.oneof(nodes, ips, identities, services, serviceExports, configs, stamps);
  return fc.tuple(whose, made).map(([owner, make]) => {
    const { key, value } = make(owner);
    return { key, value: Buffer.from(value), cluster: owner.cluster, clusterId: owner.id };
  });
}

interface Owner {
  readonly id: ClusterId;
  readonly cluster: ClusterName;
  readonly max: MaxConnectedClusters;
}

/** A value that becomes a cluster's own; drawing it does not depend on the cluster. */
type Made = fc.Arbitrary<(owner: Owner) => { readonly key: string; readonly value: string }>;

const type = fc.constantFrom('InternalIP', 'ExternalIP', 'CiliumInternalIP');
const nodes: Made = fc
  .record({
    name: word,
    addresses: fc.array(fc.record({ type, ip: address }), { maxLength: 4 }),
    ipv4AllocCidr: fc.option(network),
    ipv6AllocCidr: fc.option(network),
    ipv4SecondaryAllocCidrs: fc.option(fc.array(network, { maxLength: 3 })),
    ipv6SecondaryAllocCidrs: fc.option(fc.array(network, { maxLength: 3 })),
    ipv4HealthIp: fc.option(address),
    ipv6HealthIp: fc.option(address),
    ipv4IngressIp: fc.option(address),
    ipv6IngressIp: fc.option(address),
    source: fc.constantFrom('custom-resource', 'kvstore', 'local'),
    encryptionKey: fc.integer({ min: 0, max: 255 }),
    labels: fc.option(dictionary),
    annotations: fc.option(dictionary),
    wireguardPubKey: text,
    bootId: text,
  })
  .map((node) => ({ cluster, id }) => ({
    key: nodeKey(cluster, node.name),
    value: encodeNode({ ...node, cluster, clusterId: id }),
  }));

const local = fc.nat(2 ** 15 - 1);
const ips: Made = fc
  .record({
    range: network,
    isCidr: fc.boolean(),
    hostIp: fc.option(address),
    identity: fc.oneof(local, fc.constant('remote-node' as const)),
    encryptionKey: fc.integer({ min: 0, max: 255 }),
    metadata: text,
    namespace: optional(word),
    podName: optional(word),
    serviceAccount: optional(word),
    namedPorts: optional(
      fc.array(fc.record({ name: word, port, protocol }), { minLength: 1, maxLength: 3 }),
    ),
  })
  .map(({ range, isCidr, identity, ...rest }) => ({ id, max }) => {
    const whole = makePrefix(splitPrefix(range).address, ipFamily(range) === 4 ? 32 : 128);
    const prefix = isCidr ? range : whole;
    const number =
      identity === 'remote-node' ? reservedIdentity(identity) : makeIdentity(id, identity, max);
    return {
      key: `${CANARY_PREFIXES.ips}/default/${keyTextOfPrefix(prefix, isCidr)}`,
      value: encodeIpIdentity({ ...rest, prefix, isCidr, identity: number }),
    };
  });

const label = fc.record({
  source: fc.constantFrom('k8s', 'container', 'any'),
  key: fc.stringMatching(/^[a-z][-a-z0-9./]{0,20}$/).filter((key) => key !== CLUSTER_LABEL),
  value: fc.stringMatching(/^[-A-Za-z0-9._=:$]{0,20}$/),
});
const identities: Made = fc
  .tuple(local, fc.uniqueArray(label, { maxLength: 5, selector: ({ key }) => key }))
  .map(([number, labels]) => ({ cluster, id, max }) => ({
    key: identityKey(makeIdentity(id, number, max)),
    value: encodeLabels(
      sortLabels([{ source: 'k8s', key: CLUSTER_LABEL, value: cluster }, ...labels]),
    ),
  }));

const ports = fc
  .array(fc.tuple(word, fc.record({ protocol, port })), { maxLength: 3 })
  .map((entries) => new Map(entries));
const zone: fc.Arbitrary<BackendZone> = fc.record({
  zone: word,
  forZones: fc.option(fc.array(fc.record({ name: word }), { maxLength: 2 })),
});
const services: Made = fc
  .record({
    namespace: word,
    name: word,
    frontends: byAddress(ports),
    backends: byAddress(ports),
    hostnames: byAddress(word).map(filled),
    zones: byAddress(zone).map(filled),
    labels: dictionary,
    selector: dictionary,
    includeExternal: fc.boolean(),
    shared: fc.boolean(),
  })
  .map((service) => ({ cluster, id }) => ({
    key: serviceKey(cluster, service.namespace, service.name),
    value: encodeClusterService({ ...service, cluster, clusterId: id }),
  }));

const serviceExports: Made = fc
  .record({
    namespace: word,
    name: word,
    annotations: optional(dictionary.filter(isFilled)),
    labels: optional(dictionary.filter(isFilled)),
    legacyCopies: fc.constant(true),
    exportedAt: seconds,
    ports: fc.array(fc.record({ name: word, protocol, appProtocol: optional(word), port }), {
      maxLength: 3,
    }),
    type: fc.constantFrom('ClusterSetIP' as const, 'Headless' as const),
    sessionAffinity: fc.constantFrom('None' as const, 'ClientIP' as const),
    sessionAffinityConfig: optional(
      fc.record({ clientIp: optional(fc.record({ timeoutSeconds: optional(port) })) }),
    ),
    ipFamilies: optional(fc.constantFrom(['IPv4'], ['IPv6'], ['IPv4', 'IPv6'])),
    internalTrafficPolicy: optional(fc.constantFrom('Cluster' as const, 'Local' as const)),
    trafficDistribution: optional(fc.constant('PreferClose' as const)),
  })
  .map((made) => ({ cluster }) => ({
    key: `${CANARY_PREFIXES.serviceexports}/${cluster}/${made.namespace}/${made.name}`,
    value: encodeServiceExport({ ...made, cluster }),
  }));

const configs: Made = fc
  .record({
    syncedCanaries: fc.boolean(),
    cached: fc.boolean(),
    serviceExportsEnabled: optional(fc.boolean()),
    endpointSlicesExportMode: fc.constant(undefined),
  })
  .map((capabilities) => ({ cluster, id, max }) => ({
    key: clusterConfigKey(cluster),
    value: encodeClusterConfig({
      id,
      capabilities: { ...capabilities, maxConnectedClusters: max },
    }),
  }));

const stamps: Made = fc
  .tuple(fc.constantFrom(undefined, ...Object.values(CANARY_PREFIXES)), seconds)
  .map(([prefix, at]) => ({ cluster }) => ({
    key: prefix === undefined ? HEARTBEAT_KEY : syncedKey(cluster, prefix),
    value: encodeTimestamp(at),
  }));

function byAddress<T>(value: fc.Arbitrary<T>): fc.Arbitrary<ReadonlyMap<IpAddress, T>> {
  return fc.array(fc.tuple(address, value), { maxLength: 4 }).map((entries) => new Map(entries));
}

function optional<T>(value: fc.Arbitrary<T>): fc.Arbitrary<T | undefined> {
  return fc.option(value, { nil: undefined });
}

/** What is left out on the wire when it is empty. */
function filled<T>(map: ReadonlyMap<IpAddress, T>): ReadonlyMap<IpAddress, T> | undefined {
  return map.size === 0 ? undefined : map;
}

function isFilled(map: Readonly<Record<string, string>>): boolean {
  return Object.keys(map).length > 0;
}
