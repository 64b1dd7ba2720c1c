/** What an agent knows, as traces and simulations ask for it. */
import {
  clusterIdOfIdentity,
  localIdentityScope,
  type MaxConnectedClusters,
  MINIMUM_ALLOCATED_IDENTITY,
  parseNumericIdentity,
} from '../../mesh/wire/ids.ts';
import { type IpAddress, ipFamily, makePrefix } from '../../mesh/wire/ip.ts';
import type { DatapathUpkeep, IpcacheEntry } from '../datapath/desired.ts';
import type { EndpointRecord } from '../endpoints/record.ts';
import type { NodeContext } from '../merge/addresses.ts';
import type { EnforcementMode } from '../policy/enforcement-mode.ts';
import { createVerdictContext } from '../policy/sources-of-verdict-context.ts';
import { labelTexts, type PartyInfo, type PolicyView } from '../policy/trace-view.ts';
import type { Engine } from '../state/engine.ts';
import type { NodePlace, PolicyNodes } from './policy-nodes.ts';

/** What a view is made of. */
export interface ViewSources {
  readonly node: NodeContext;
  readonly max: MaxConnectedClusters;
  readonly mode: EnforcementMode;
  /** What would be denied passes and is told, on the whole node. */
  readonly auditMode: boolean;
  /** A pod's own node always reaches it. */
  readonly allowLocalhost: boolean;
  readonly engine: Pick<Engine, 'policyView' | 'policyEntries' | 'addressRow' | 'frontends'>;
  readonly records: () => readonly EndpointRecord[];
  /** Names of clusters by their ids. */
  readonly clusters: () => ReadonlyMap<number, string>;
  readonly nodes: PolicyNodes;
  readonly upkeep: Pick<DatapathUpkeep, 'report'> | undefined;
}

/** Makes the view of this moment. It reads the tables when it is asked, so it must not be kept. */
export function createPolicyView(sources: ViewSources): PolicyView {
  const { node, engine, max } = sources;
  const known = engine.policyView;
  const names = sources.clusters();
  const pods = new Map(
    sources
      .records()
      .map(({ endpointId, podNamespace, podName }) => [
        endpointId,
        podName === '' ? '' : `${podNamespace}/${podName}`,
      ]),
  );
  const addressRow = (address: IpAddress): IpcacheEntry | undefined => {
    for (let length = ipFamily(address) === 4 ? 32 : 128; length >= 0; length -= 1) {
      const row = engine.addressRow(makePrefix(address, length));
      if (row !== undefined) return row;
    }
    return undefined;
  };
  const nodeLabels = (place: NodePlace | undefined): string[] =>
    place === undefined ? [] : labelTexts(known.nodeLabelsOf(place.clusterId, place.name) ?? []);
  const nodeInfo = (place: NodePlace): PartyInfo => {
    const [address] = place.addresses;
    const row = address === undefined ? undefined : addressRow(address);
    const isOwn = place.cluster === node.clusterName && place.name === node.nodeName;
    return {
      cluster: place.cluster,
      node: isOwn ? place.name : undefined,
      pod: undefined,
      address,
      kind: 'node',
      identity: row?.identity ?? 0,
      labels: labelTexts(known.peers.labelsOf(row?.identity ?? 0) ?? []),
      nodeLabels: nodeLabels(place),
      namedPorts: [],
    };
  };

  return {
    ...createVerdictContext({
      mode: sources.mode,
      allowLocalhost: sources.allowLocalhost,
      groups: known.groups,
      services: () => known.peers.services(),
      identityOf: (address) => addressRow(address)?.identity,
    }),
    cluster: node.clusterName,
    clusterId: node.clusterId,
    node: node.nodeName,
    nodeIps: node.nodeIps,
    auditMode: sources.auditMode,
    routingMode: sources.upkeep?.report().routingMode,
    policies: known.policies(),
    endpoints: known.endpoints().map((endpoint) => ({
      endpointId: endpoint.endpointId,
      pod: endpoint.host === undefined ? (pods.get(endpoint.endpointId) ?? '') : 'host',
      host: endpoint.host,
      addresses: endpoint.addresses,
      identity: endpoint.identity,
      labels: endpoint.labels,
      ingressEnforced: endpoint.ingressEnforced,
      egressEnforced: endpoint.egressEnforced,
      audit: endpoint.audit,
      rows: () => known.rowsOf(endpoint.endpointId),
      rulesOf: known.rulesOf,
    })),
    entriesOf: () => engine.policyEntries(),
    originOf: known.originOf,
    clusterName: (clusterId) =>
      clusterId === node.clusterId ? node.clusterName : names.get(clusterId),
    clusterIdOf(identity) {
      const isLocal = localIdentityScope(identity) !== undefined;
      if (identity < MINIMUM_ALLOCATED_IDENTITY || isLocal) return 0;
      return clusterIdOfIdentity(parseNumericIdentity(identity), max);
    },
    identities: () => known.peers.identities(),
    labelsOf: (identity) => known.peers.labelsOf(identity),
    addressRow,
    namedPortsOf: (identity) => known.peers.namedPortsOf(identity) ?? [],
    nodeLabelsOf: (address) => {
      const place = sources.nodes.of(address);
      return place === undefined ? [] : (known.nodeLabelsOf(place.clusterId, place.name) ?? []);
    },
    nodes: () => [...sources.nodes.all()].map(nodeInfo),
    groups: () => [...known.groups()],
    services: () => known.peers.services(),
    frontends: () => engine.frontends(),
  };
}
