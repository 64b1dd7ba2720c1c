/** The corpus of policies with expected verdicts: its files' format (`../testdata/corpus/README.md`), as values. */
import { parse } from 'yaml';
import {
  CLUSTER_LABEL,
  type Label,
  type Labels,
  NAMESPACE_LABEL,
  NAMESPACE_LABELS_PREFIX,
  SERVICE_ACCOUNT_LABEL,
  sortLabels,
} from '../../../mesh/wire/identity.ts';

/** Cluster of the corpus: two of them, each with policies of its own. */
export type CorpusCluster = 'alpha' | 'beta';
/** Labels or named ports by name. */
type Texts = Readonly<Record<string, string>>;

/** A pod. */
export interface CorpusEndpoint {
  readonly cluster: CorpusCluster;
  readonly namespace: string;
  readonly labels: Texts;
  readonly serviceAccount: string;
  /** Its named ports, as `TCP/8080`. */
  readonly ports: Texts;
  /** Labels of its identity, as Cilium makes them. */
  readonly identity: Labels;
}

/** A node. */
export interface CorpusNode {
  readonly cluster: CorpusCluster;
  readonly labels: Texts;
}

/** Who there is. */
export interface CorpusWorld {
  /** Labels of namespaces, in both clusters the same. */
  readonly namespaces: Readonly<Record<string, Texts>>;
  readonly endpoints: Readonly<Record<string, CorpusEndpoint>>;
  readonly nodes: Readonly<Record<string, CorpusNode>>;
  /** Addresses that belong to no cluster. */
  readonly outside: Texts;
}

/** A service of cluster alpha. */
export interface CorpusService {
  readonly name: string;
  readonly namespace: string;
  readonly labels: Texts;
  /** Names of endpoints or of addresses outside. */
  readonly backends: readonly string[];
}

/** A line of a table: the first packet of a flow and what becomes of it. */
export interface CorpusFlow {
  readonly from: string;
  readonly to: string;
  /** As it stands in the table, `tcp/8080`. */
  readonly flow: string;
  /** IANA number. */
  readonly protocol: number;
  /** Destination port, or type of the ICMP message. */
  readonly port: number;
  /** What the policies about `from` say. */
  readonly egress: 'allow' | 'deny';
  /** What the policies about `to` say. */
  readonly ingress: 'allow' | 'deny';
}

/** Policies, the world they act in, and what they do. */
export interface CorpusCase {
  readonly name: string;
  readonly page: string;
  readonly kernel: boolean;
  /** Manifests by the cluster that enforces them. */
  readonly policies: Readonly<Record<CorpusCluster, readonly unknown[]>>;
  readonly defaultLocalCluster: boolean;
  /** The shared world with what the case lays over it. */
  readonly world: CorpusWorld;
  readonly services: readonly CorpusService[];
  readonly refused: number;
  readonly flows: readonly CorpusFlow[];
}

/** Endpoints of the laboratory that runs the cases marked `kernel`. */
export const LAB_ENDPOINTS = [
  'server',
  'client',
  'other',
  'far-server',
  'far-client',
  'far-other',
] as const;

/** IANA numbers by the names of the tables. */
export const CORPUS_PROTOCOLS = { icmp: 1, tcp: 6, udp: 17, icmpv6: 58, sctp: 132 } as const;

/** A case as it stands in a file. */
export interface CaseManifest {
  readonly name?: string;
  readonly page?: string;
  readonly kernel?: boolean;
  readonly policies?: readonly unknown[];
  readonly betaPolicies?: readonly unknown[];
  readonly defaultLocalCluster?: boolean;
  readonly labels?: Readonly<Record<string, Readonly<Record<string, string | null>>>>;
  readonly namespaceLabels?: Readonly<Record<string, Readonly<Record<string, string | null>>>>;
  readonly ports?: Readonly<Record<string, Texts>>;
  readonly endpoints?: Readonly<Record<string, Partial<CorpusEndpoint>>>;
  readonly outside?: Texts;
  readonly services?: readonly (Omit<CorpusService, 'labels'> & { readonly labels?: Texts })[];
  readonly refused?: number;
  readonly expect?: string;
}

interface WorldManifest {
  readonly namespaces: Readonly<Record<string, Texts>>;
  readonly endpoints: Readonly<Record<string, Partial<CorpusEndpoint>>>;
  readonly nodes: Readonly<Record<string, CorpusNode>>;
  readonly outside: Texts;
}

const CASE_FIELDS = new Set([
  ...['name', 'page', 'kernel', 'policies', 'betaPolicies', 'defaultLocalCluster', 'labels'],
  ...['namespaceLabels', 'ports', 'endpoints', 'outside', 'services', 'refused', 'expect'],
]);

/** Parses `world.yaml`. Throws an Error for what it does not understand. */
export function parseWorld(text: string): CorpusWorld {
  const raw = parse(text) as WorldManifest;
  const { namespaces } = raw;
  return { ...raw, endpoints: mapValues(raw.endpoints, (each) => fullEndpoint(each, namespaces)) };
}

/** Parses a file of cases. Throws an Error that names the case and the line it does not understand. */
export function parseCorpus(text: string, world: CorpusWorld): CorpusCase[] {
  const { cases } = parse(text) as { cases: CaseManifest[] };
  return cases.map((raw) => {
    try {
      return readCase(raw, world);
    } catch (cause) {
      throw new Error(`cannot read case "${raw.name}"`, { cause });
    }
  });
}

/** Labels of the identity of an endpoint. Throws an Error for a name that is not there. */
export function identityLabels(world: CorpusWorld, name: string): Labels {
  const endpoint = world.endpoints[name];
  if (endpoint === undefined) throw new Error(`no endpoint ${name}`);
  return endpoint.identity;
}

function makeIdentity(
  endpoint: Omit<CorpusEndpoint, 'identity'>,
  namespaces: CorpusWorld['namespaces'],
): Labels {
  const labels: Record<string, string> = {
    ...endpoint.labels,
    [CLUSTER_LABEL]: endpoint.cluster,
    [NAMESPACE_LABEL]: endpoint.namespace,
    [SERVICE_ACCOUNT_LABEL]: endpoint.serviceAccount,
  };
  for (const [key, value] of Object.entries(namespaces[endpoint.namespace] ?? {})) {
    labels[`${NAMESPACE_LABELS_PREFIX}${key}`] = value;
  }
  labels[`${NAMESPACE_LABELS_PREFIX}kubernetes.io/metadata.name`] = endpoint.namespace;
  return sortLabels(
    Object.entries(labels).map(([key, value]): Label => ({ source: 'k8s', key, value })),
  );
}

/** A flow of a table, such as `tcp/8080`, as numbers. Throws an Error for what is none. */
export function parseFlow(flow: string): { protocol: number; port: number } {
  const [, name = '', number = ''] = /^([a-z0-9]+)\/(\d+)$/.exec(flow) ?? [];
  const protocol = Object.entries(CORPUS_PROTOCOLS).find(([known]) => known === name)?.[1];
  if (protocol === undefined) throw new Error(`flow ${flow} is none of tcp/80, icmp/8 and so on`);
  return { protocol, port: Number(number) };
}

/** Reads one case. Throws an Error for what it does not understand. */
export function readCase(raw: CaseManifest, shared: CorpusWorld): CorpusCase {
  for (const field of Object.keys(raw)) {
    if (!CASE_FIELDS.has(field)) throw new Error(`field ${field} is not known`);
  }
  const { name, page, policies, expect } = raw;
  if (!name || !page || !policies || !expect) {
    throw new Error('name, page, policies and expect are required');
  }
  const kernel = raw.kernel ?? false;
  const world = overlay(raw, shared);
  const flows = expect
    .split('\n')
    .map((line) => line.replace(/#.*/, '').trim())
    .filter((line) => line !== '')
    .map((line) => readFlow(line, world));
  if (flows.length === 0) throw new Error('the table is empty');
  if (kernel && (raw.endpoints || raw.outside)) throw new Error('the laboratory is fixed');
  return {
    name,
    page,
    kernel,
    policies: { alpha: policies, beta: raw.betaPolicies ?? [] },
    defaultLocalCluster: raw.defaultLocalCluster ?? true,
    world,
    services: (raw.services ?? []).map((service) => ({ labels: {}, ...service })),
    refused: raw.refused ?? 0,
    flows,
  };
}

function overlay(raw: CaseManifest, shared: CorpusWorld): CorpusWorld {
  const namespaces = { ...shared.namespaces };
  for (const name of Object.keys(raw.namespaceLabels ?? {})) {
    namespaces[name] = layOver(namespaces[name] ?? {}, raw.namespaceLabels?.[name]);
  }
  const all: Record<string, Partial<CorpusEndpoint>> = { ...shared.endpoints, ...raw.endpoints };
  for (const name of [...Object.keys(raw.labels ?? {}), ...Object.keys(raw.ports ?? {})]) {
    if (all[name] === undefined) throw new Error(`no endpoint ${name}`);
  }
  const endpoints = mapValues(all, (endpoint, name) =>
    fullEndpoint(
      {
        ...endpoint,
        labels: layOver(endpoint.labels ?? {}, raw.labels?.[name]),
        ports: raw.ports?.[name] ?? endpoint.ports ?? {},
      },
      namespaces,
    ),
  );
  return {
    namespaces,
    endpoints,
    nodes: shared.nodes,
    outside: { ...shared.outside, ...raw.outside },
  };
}

function layOver(labels: Texts, changes: Record<string, string | null> = {}): Texts {
  const result: Record<string, string> = { ...labels };
  for (const [key, value] of Object.entries(changes)) {
    if (value === null) delete result[key];
    else result[key] = value;
  }
  return result;
}

function fullEndpoint(
  raw: Partial<CorpusEndpoint>,
  namespaces: CorpusWorld['namespaces'],
): CorpusEndpoint {
  if (!raw.cluster || !raw.namespace) throw new Error('an endpoint needs cluster and namespace');
  const endpoint = {
    cluster: raw.cluster,
    namespace: raw.namespace,
    labels: raw.labels ?? {},
    serviceAccount: raw.serviceAccount ?? 'default',
    ports: raw.ports ?? {},
  };
  return { ...endpoint, identity: makeIdentity(endpoint, namespaces) };
}

function readFlow(line: string, world: CorpusWorld): CorpusFlow {
  const [from = '', to = '', flow = '', verdict = '', side = '', more] = line.split(/\s+/);
  const known = ['', 'egress', 'ingress', 'both'].includes(side);
  if (more !== undefined || !known || (verdict === 'deny') !== (side !== '')) {
    throw new Error(`line "${line}" is not <from> <to> <flow> allow | deny egress|ingress|both`);
  }
  if (verdict !== 'allow' && verdict !== 'deny') throw new Error(`no verdict in "${line}"`);
  for (const name of [from, to]) {
    if (!isParty(name, world)) throw new Error(`nobody is called ${name} in "${line}"`);
  }
  return {
    from,
    to,
    flow,
    ...parseFlow(flow),
    egress: side === 'egress' || side === 'both' ? 'deny' : 'allow',
    ingress: side === 'ingress' || side === 'both' ? 'deny' : 'allow',
  };
}

function isParty(name: string, world: CorpusWorld): boolean {
  if (name.startsWith('reserved:')) return true;
  return name in world.endpoints || name in world.nodes || name in world.outside;
}

function mapValues<A, B>(record: Readonly<Record<string, A>>, map: (value: A, name: string) => B) {
  return Object.fromEntries(
    Object.entries(record).map(([name, value]) => [name, map(value, name)]),
  );
}
