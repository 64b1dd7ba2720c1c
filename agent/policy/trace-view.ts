/** What an agent knows that a trace needs, as plain data and questions: online from its tables, in tests from anywhere. */
import type { Label, Labels } from '../../mesh/wire/identity.ts';
import { localIdentityScope, RESERVED_IDENTITIES } from '../../mesh/wire/ids.ts';
import type { IpAddress } from '../../mesh/wire/ip.ts';
import type { PolicyOrigin } from '../../mesh/wire/local-policy.ts';
import type { FrontendEntry, IpcacheEntry, PolicyEntry } from '../datapath/desired.ts';
import type { SourcedRule } from './compile.ts';
import type { NamedPorts } from './peer-sets.ts';
import type { ParsedPolicy } from './rule.ts';
import type { Party, VerdictContext } from './sources-of-verdict.ts';
import type { GroupView, ServiceView } from './sources-of-verdict-context.ts';

/** An endpoint of the node. */
export interface EndpointView {
  readonly endpointId: number;
  /** `namespace/name`, empty when nobody said; `host` of the host itself. */
  readonly pod: string;
  /** It is the host: a node, whose labels are those of its record, or a machine, which policies select as a pod. */
  readonly host?: 'node' | 'machine' | undefined;
  readonly addresses: readonly IpAddress[];
  readonly identity: number;
  /** Undefined: the own cluster has not said them yet. */
  readonly labels: Labels | undefined;
  readonly ingressEnforced: boolean;
  readonly egressEnforced: boolean;
  /** What would be denied passes, and is told. */
  readonly audit: boolean;
  /** Rows that the kernel is to hold for it. */
  rows(): Iterable<PolicyEntry>;
  /** Rules that made a row. */
  rulesOf(row: PolicyEntry): readonly SourcedRule[];
}

/** One agent's view of the mesh. */
export interface PolicyView extends VerdictContext {
  readonly cluster: string;
  readonly clusterId: number;
  readonly node: string;
  readonly nodeIps: readonly IpAddress[];
  /** What would be denied passes and is told, on the whole node. */
  readonly auditMode: boolean;
  /** Undefined: no packets travel. */
  readonly routingMode: 'tunnel' | 'native' | undefined;
  readonly policies: readonly ParsedPolicy[];
  readonly endpoints: readonly EndpointView[];
  /** Rows of this node that each policy has a part in. */
  entriesOf(): ReadonlyMap<ParsedPolicy, number>;
  /** Where a policy was written, where that is known. */
  originOf(policy: ParsedPolicy): PolicyOrigin | undefined;
  clusterName(clusterId: number): string | undefined;
  /** Cluster that an identity belongs to; 0: none. */
  clusterIdOf(identity: number): number;
  /** Every identity with labels, of every cluster. */
  identities(): Iterable<readonly [number, Labels]>;
  labelsOf(identity: number): Labels | undefined;
  /** Row of the ipcache with the longest prefix that holds the address. */
  addressRow(address: IpAddress): IpcacheEntry | undefined;
  namedPortsOf(identity: number): NamedPorts;
  /** Labels of the node with this address. */
  nodeLabelsOf(address: IpAddress): Labels;
  /** Nodes of the mesh whose labels are known. */
  nodes(): Iterable<PartyInfo>;
  groups(): readonly GroupView[];
  /** Of the own cluster. */
  services(): Iterable<ServiceView>;
  /** Frontends that pods of the node call. */
  frontends(): Iterable<FrontendEntry>;
}

/** A side of a trace, as agents and people pass it on. */
export interface PartyInfo {
  /** Undefined: it belongs to no cluster. */
  readonly cluster: string | undefined;
  /** Node that it is on, where the agent that answered knows that. */
  readonly node: string | undefined;
  readonly pod: string | undefined;
  readonly address: IpAddress | undefined;
  readonly kind: Party['kind'];
  readonly identity: number;
  /** `source:key=value`. */
  readonly labels: readonly string[];
  readonly nodeLabels: readonly string[];
  readonly namedPorts: NamedPorts;
}

const NODE_KINDS: readonly number[] = [
  RESERVED_IDENTITIES.host,
  RESERVED_IDENTITIES['remote-node'],
  RESERVED_IDENTITIES['kube-apiserver'],
];
const WORLD_KINDS: readonly number[] = [
  RESERVED_IDENTITIES.unknown,
  RESERVED_IDENTITIES.world,
  RESERVED_IDENTITIES['world-ipv4'],
  RESERVED_IDENTITIES['world-ipv6'],
];

/** What kind of thing has an identity. */
export function kindOfIdentity(identity: number): Party['kind'] {
  if (WORLD_KINDS.includes(identity)) return 'world';
  if (NODE_KINDS.includes(identity)) return 'node';
  switch (localIdentityScope(identity)?.scope) {
    case 'node':
      return 'node';
    case 'cidr':
      return 'world';
    default:
      return 'endpoint';
  }
}

/** Labels as text, `source:key=value`, without `=` where there is no value. */
export function labelTexts(labels: Labels): string[] {
  return labels.map(({ source, key, value }) =>
    value === '' ? `${source}:${key}` : `${source}:${key}=${value}`,
  );
}

/** Labels from such text. Without a source: `k8s`. */
export function labelsOfTexts(texts: readonly string[]): Labels {
  return texts.map((text): Label => {
    const equals = text.indexOf('=');
    const name = equals === -1 ? text : text.slice(0, equals);
    const colon = name.indexOf(':');
    return {
      source: colon <= 0 ? 'k8s' : name.slice(0, colon),
      key: colon <= 0 ? name : name.slice(colon + 1),
      value: equals === -1 ? '' : text.slice(equals + 1),
    };
  });
}

/** A party as rules see it. */
export function partyOf(info: PartyInfo): Party {
  return {
    identity: info.identity,
    labels: labelsOfTexts(info.labels),
    kind: info.kind,
    address: info.address,
    nodeLabels: labelsOfTexts(info.nodeLabels),
    namedPorts: info.namedPorts,
  };
}
