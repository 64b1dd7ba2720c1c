/** A case of the corpus as the agent of one of its clusters knows it: identities, addresses, policies, rows. */

import { stringify } from 'yaml';
import { CLUSTER_LABEL, type Labels, labelsFromRecord } from '../../../mesh/wire/identity.ts';
import { parseClusterName, parseMapIdentity, reservedIdentity } from '../../../mesh/wire/ids.ts';
import {
  type IpAddress,
  type IpPrefix,
  ipFamily,
  makePrefix,
  parseIpAddress,
} from '../../../mesh/wire/ip.ts';
import { protocolNumber } from '../../../mesh/wire/maps.ts';
import type { FrontendEntry } from '../../datapath/desired.ts';
import { parseCidrGroup } from '../cidr-group.ts';
import { compileEndpoint } from '../compile.ts';
import { createEndpointRows } from '../endpoint-rows.ts';
import { codeOfRow } from '../map-entries.ts';
import { parsePolicy } from '../parse.ts';
import { createPeerSets, type NamedPorts } from '../peer-sets.ts';
import { numberPrefix } from '../prefix-set.ts';
import type { ServiceView } from '../sources-of-verdict-context.ts';
import { createVerdictContext } from '../sources-of-verdict-context.ts';
import type { EndpointView, PartyInfo, PolicyView } from '../trace-view.ts';
import { readManifests } from '../validate-manifest.ts';
import {
  type CorpusCase,
  type CorpusCluster,
  type CorpusEndpoint,
  identityLabels,
} from './corpus.ts';

const CLUSTER_IDS = { alpha: 1, beta: 2 } as const;

/** Addresses of an endpoint, a node or something outside, by its name; IPv4 first. */
export function addressesOf({ world }: Pick<CorpusCase, 'world'>, name: string): IpAddress[] {
  const outside = world.outside[name];
  if (outside !== undefined) return [parseIpAddress(outside)];
  const endpoint = Object.keys(world.endpoints).indexOf(name);
  if (endpoint >= 0) {
    const cluster = CLUSTER_IDS[world.endpoints[name]?.cluster ?? 'alpha'];
    return [`10.${cluster}.0.${endpoint + 5}`, `fd00:${cluster}::${endpoint + 5}`].map(
      parseIpAddress,
    );
  }
  return [parseIpAddress(`192.0.2.${Object.keys(world.nodes).indexOf(name) + 1}`)];
}

/** Identity of an endpoint, by its name. */
export function identityOf({ world }: Pick<CorpusCase, 'world'>, name: string): number {
  const number = Object.keys(world.endpoints).indexOf(name);
  return (CLUSTER_IDS[world.endpoints[name]?.cluster ?? 'alpha'] << 16) + 256 + number;
}

/** Makes the view of a cluster's only agent. Policies stand in the file `policies.yaml`, one document each. */
export function corpusView(
  corpusCase: Pick<CorpusCase, 'world' | 'policies' | 'defaultLocalCluster' | 'services'>,
  cluster: CorpusCluster,
  { allowLocalhost }: { readonly allowLocalhost: boolean } = { allowLocalhost: true },
): PolicyView {
  const { world } = corpusCase;
  const names = Object.keys(world.endpoints);
  const text = corpusCase.policies[cluster].map((manifest) => stringify(manifest)).join('---\n');
  const manifests = readManifests({ name: 'policies.yaml', text }).policies;
  const options = {
    clusterName: parseClusterName(cluster),
    defaultLocalCluster: corpusCase.defaultLocalCluster,
  };
  const origins = new Map(
    manifests.map((manifest) => [parsePolicy(manifest, options), manifest.origin]),
  );
  const policies = [...origins.keys()].filter(({ kind }) => kind !== 'CiliumCIDRGroup');
  const groups = manifests.filter(({ kind }) => kind === 'CiliumCIDRGroup').map(parseCidrGroup);
  const byAddress = new Map<IpAddress, number>(
    names.flatMap((name) =>
      addressesOf(corpusCase, name).map(
        (address) => [address, identityOf(corpusCase, name)] as const,
      ),
    ),
  );
  const ownNode = `${cluster}-1`;
  for (const name of Object.keys(world.nodes)) {
    const identity = reservedIdentity(name === ownNode ? 'host' : 'remote-node');
    for (const address of addressesOf(corpusCase, name)) byAddress.set(address, identity);
  }
  const services: ServiceView[] = corpusCase.services.map(
    ({ name, namespace, labels, backends }) => ({
      name,
      namespace,
      labels: labelsFromRecord({ ...labels }),
      addresses: backends.flatMap((backend) => addressesOf(corpusCase, backend)),
    }),
  );

  const peers = createPeerSets({
    holderOf: (prefix: IpPrefix) => byAddress.get(parseIpAddress(prefix.replace(/\/.*/, ''))),
  });
  const labels = new Map<number, Labels>();
  for (const name of names) {
    const identity = identityOf(corpusCase, name);
    labels.set(identity, identityLabels(world, name));
    peers.setIdentity(identity, identityLabels(world, name));
    const ports = namedPorts(world.endpoints[name]);
    if (ports.length > 0) peers.setNamedPorts(identity, ports);
  }
  for (const group of groups) peers.setCidrGroup(group.name, group);
  for (const service of services) peers.setService(`${service.namespace}/${service.name}`, service);
  for (const name of Object.keys(world.nodes)) {
    peers.nodes.setNode(name, nodeLabels(corpusCase, name), { isOwn: name === ownNode });
  }
  const nodeIdentities = new Map<string, number>();
  const refresh = (): void => {
    peers.refresh(0);
    for (const [name, identity] of peers.nodes.takeChanges()) {
      nodeIdentities.set(name, identity ?? reservedIdentity('remote-node'));
    }
  };
  refresh();

  const endpoints = names.flatMap((name, index): EndpointView[] => {
    const endpoint = world.endpoints[name];
    if (endpoint?.cluster !== cluster) return [];
    const own = identityLabels(world, name);
    const rows = createEndpointRows(compileEndpoint({ kind: 'pods', labels: own }, policies), {
      peers,
      namedPorts: namedPorts(endpoint),
    });
    // What has identities once all rows are asked for is known to all.
    const settled = (): typeof rows => {
      refresh();
      rows.refresh();
      return rows;
    };
    return [
      {
        endpointId: index + 1,
        pod: `${endpoint.namespace}/${name}`,
        addresses: addressesOf(corpusCase, name),
        identity: identityOf(corpusCase, name),
        labels: own,
        ingressEnforced: rows.policy.ingress.enforced,
        egressEnforced: rows.policy.egress.enforced,
        audit: false,
        rows: () => settled().entries(index + 1),
        rulesOf: (row) => {
          const { direction, identity } = row;
          return settled().rulesOf(direction, identity, codeOfRow(row));
        },
      },
    ];
  });
  const cidrIdentity = (address: IpAddress): number | undefined => {
    const { family, bits } = numberPrefix(makePrefix(address, ipFamily(address) === 4 ? 32 : 128));
    const width = family === 4 ? 32 : 128;
    return [...peers.cidrs.all()]
      .map(({ key, identity }) => ({ ...numberPrefix(key as IpPrefix), identity }))
      .filter(
        (prefix) =>
          prefix.family === family &&
          bits >> BigInt(width - prefix.length) === prefix.bits >> BigInt(width - prefix.length),
      )
      .sort((a, b) => b.length - a.length)[0]?.identity;
  };
  const nodeInfo = (name: string): PartyInfo => ({
    cluster: world.nodes[name]?.cluster,
    node: name,
    pod: undefined,
    address: addressesOf(corpusCase, name)[0],
    kind: 'node',
    identity: reservedIdentity(name === ownNode ? 'host' : 'remote-node'),
    labels: [],
    nodeLabels: nodeLabels(corpusCase, name).map(
      ({ source, key, value }) => `${source}:${key}=${value}`,
    ),
    namedPorts: [],
  });
  const context = createVerdictContext({
    mode: 'default',
    allowLocalhost,
    groups: () => groups,
    services: () => services,
    identityOf: (address) => byAddress.get(address),
  });

  return {
    ...context,
    cluster,
    clusterId: CLUSTER_IDS[cluster],
    node: ownNode,
    nodeIps: addressesOf(corpusCase, ownNode),
    auditMode: false,
    routingMode: 'tunnel',
    policies,
    endpoints,
    entriesOf: () => new Map(),
    originOf: (policy) => origins.get(policy),
    clusterName: (id) => Object.entries(CLUSTER_IDS).find(([, known]) => known === id)?.[0],
    clusterIdOf: (identity) => (identity >= 256 && identity < 1 << 24 ? identity >> 16 : 0),
    identities: () => labels,
    labelsOf: (identity) => labels.get(identity) ?? peers.labelsOf(identity),
    addressRow(address) {
      const node = Object.keys(world.nodes).find((name) =>
        addressesOf(corpusCase, name).includes(address),
      );
      const identity =
        nodeIdentities.get(node ?? '') ?? byAddress.get(address) ?? cidrIdentity(address);
      if (identity === undefined) return undefined;
      const owner = names.find((name) => addressesOf(corpusCase, name).includes(address));
      const isFar = owner !== undefined && world.endpoints[owner]?.cluster !== cluster;
      return {
        prefix: makePrefix(address, ipFamily(address) === 4 ? 32 : 128),
        identity: parseMapIdentity(identity),
        tunnelEndpoint: isFar ? parseIpAddress('192.0.2.99') : undefined,
        clusterId: 0,
      };
    },
    namedPortsOf: (identity) => {
      const name = names.find((each) => identityOf(corpusCase, each) === identity);
      return name === undefined ? [] : namedPorts(world.endpoints[name]);
    },
    nodeLabelsOf: (address) => {
      const name = Object.keys(world.nodes).find((node) =>
        addressesOf(corpusCase, node).includes(address),
      );
      return name === undefined ? [] : nodeLabels(corpusCase, name);
    },
    nodes: () => Object.keys(world.nodes).map(nodeInfo),
    groups: () => groups,
    services: () => services,
    frontends: () => frontendsOf(corpusCase),
  };
}

/** Each Service at 10.96.0.N, port 80 of TCP, its backends at 8080. */
function frontendsOf(corpusCase: Pick<CorpusCase, 'world' | 'services'>): FrontendEntry[] {
  return corpusCase.services.map(({ namespace, name, backends }, index) => ({
    address: parseIpAddress(`10.96.0.${index + 1}`),
    port: 80,
    protocol: 'TCP',
    scope: 'internal',
    isExternal: false,
    backends: backends.map((backend) => ({
      address: addressesOf(corpusCase, backend)[0] ?? parseIpAddress('0.0.0.0'),
      port: 8080,
      protocol: 'TCP',
      clusterId: CLUSTER_IDS[corpusCase.world.endpoints[backend]?.cluster ?? 'alpha'],
    })),
    draining: [],
    affinitySeconds: 0,
    algorithm: 'random',
    service: `${namespace}/${name}`,
  }));
}

function nodeLabels({ world }: Pick<CorpusCase, 'world'>, name: string): Labels {
  const node = world.nodes[name];
  return [
    ...labelsFromRecord({ ...node?.labels }, 'node'),
    { source: 'k8s', key: CLUSTER_LABEL, value: node?.cluster ?? '' },
  ];
}

function namedPorts(endpoint: CorpusEndpoint | undefined): NamedPorts {
  return Object.entries(endpoint?.ports ?? {}).map(([name, text]) => {
    const [protocol = '', port] = text.split('/');
    return {
      name,
      protocol: protocolNumber(protocol as Parameters<typeof protocolNumber>[0]),
      port: Number(port),
    };
  });
}
