/** Whom the words of a question mean: pods, addresses, Services, or whoever has some labels. */
import { CLUSTER_LABEL, type Labels } from '../../mesh/wire/identity.ts';
import { RESERVED_IDENTITIES, reservedIdentity } from '../../mesh/wire/ids.ts';
import { type IpAddress, parseIpAddress } from '../../mesh/wire/ip.ts';
import type { FrontendEntry } from '../datapath/desired.ts';
import { TraceError } from './trace-error.ts';
import {
  type EndpointView,
  kindOfIdentity,
  labelsOfTexts,
  labelTexts,
  type PartyInfo,
  type PolicyView,
} from './trace-view.ts';

/** A side as somebody names it. */
export type PartyQuery =
  | { readonly kind: 'address'; readonly address: IpAddress }
  | { readonly kind: 'endpoint'; readonly endpointId: number }
  | { readonly kind: 'identity'; readonly identity: number }
  /** A pod or, if there is none of that name, a Service. No namespace: any. */
  | { readonly kind: 'name'; readonly namespace: string | undefined; readonly name: string }
  | { readonly kind: 'service'; readonly namespace: string; readonly name: string }
  | { readonly kind: 'labels'; readonly labels: readonly WantedLabel[] };

interface WantedLabel {
  /** Undefined: any. */
  readonly source: string | undefined;
  readonly key: string;
  readonly value: string;
}

/** A frontend of a Service with those who serve there. */
export interface FrontendInfo {
  readonly service: string;
  readonly address: IpAddress;
  readonly port: number;
  readonly protocol: string;
  readonly backends: readonly {
    readonly address: IpAddress;
    readonly port: number;
    readonly cluster: string;
  }[];
}

/** What an agent makes of a query. */
export interface Resolved {
  readonly parties: readonly PartyInfo[];
  /** How many more there are than `parties`, which are at most MAX_PARTIES. */
  readonly more: number;
  /** Frontends, where the query means a Service. */
  readonly frontends: readonly FrontendInfo[];
}

/** Most parties that a question is answered for: labels may fit thousands. */
export const MAX_PARTIES = 16;

const NOBODY: Resolved = { parties: [], more: 0, frontends: [] };
const NAME = /^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$/;

/**
 * Parses how a side is named: an address; `namespace/name` or `name` of a pod (or Service); `service/namespace/name`;
 * the number of an endpoint; `identity:NUMBER`; labels with commas, `[source:]key=value`; a reserved name such as
 * `world` or `reserved:host`. Throws TraceError `bad-question`.
 */
export function parseParty(text: string): PartyQuery {
  if (/^\d+$/.test(text)) return { kind: 'endpoint', endpointId: Number(text) };
  const identity = /^identity:(\d{1,8})$/.exec(text)?.[1];
  if (identity !== undefined) return { kind: 'identity', identity: Number(identity) };
  if (/^[\d.]+$/.test(text) || /^[0-9a-fA-F:]*:[0-9a-fA-F:.]*$/.test(text))
    return parseAddress(text);
  const reserved = text.startsWith('reserved:') ? text.slice('reserved:'.length) : text;
  if (Object.hasOwn(RESERVED_IDENTITIES, reserved)) {
    return { kind: 'labels', labels: [{ source: 'reserved', key: reserved, value: '' }] };
  }
  if (text.includes('=')) return { kind: 'labels', labels: text.split(',').map(parseLabel) };
  const parts = text.split('/');
  const name = parts.at(-1) ?? '';
  if (parts.every((part) => NAME.test(part))) {
    const [first = '', second = ''] = parts;
    if (parts.length === 3 && (first === 'service' || first === 'svc')) {
      return { kind: 'service', namespace: second, name };
    }
    if (parts.length === 2) return { kind: 'name', namespace: first, name };
    if (parts.length === 1) return { kind: 'name', namespace: undefined, name };
  }
  throw new TraceError(
    'bad-question',
    `cannot tell whom ${JSON.stringify(text)} means: expected an address, NAMESPACE/NAME of a pod, service/NAMESPACE/NAME, the number of an endpoint, identity:NUMBER, labels such as app=web,k8s:${CLUSTER_LABEL}=beta, or a reserved name such as world`,
  );
}

/** Looks for whom a query means in what one agent knows. Nobody: others may know. */
export function resolveParty(query: PartyQuery, view: PolicyView): Resolved {
  switch (query.kind) {
    case 'address':
      return resolveAddress(query.address, view);
    case 'endpoint':
      return only(
        view.endpoints.filter(({ endpointId }) => endpointId === query.endpointId),
        view,
      );
    case 'identity': {
      const labels = view.labelsOf(query.identity);
      return labels === undefined ? NOBODY : limited([identityInfo(query.identity, labels, view)]);
    }
    case 'name': {
      const pods = view.endpoints.filter(({ pod }) =>
        query.namespace === undefined
          ? pod.endsWith(`/${query.name}`)
          : pod === `${query.namespace}/${query.name}`,
      );
      if (pods.length > 0) return only(pods, view);
      return frontendsWhere(view, ({ service }) =>
        query.namespace === undefined
          ? service.endsWith(`/${query.name}`)
          : service === `${query.namespace}/${query.name}`,
      );
    }
    case 'service':
      return frontendsWhere(view, ({ service }) => service === `${query.namespace}/${query.name}`);
    case 'labels': {
      if (isHostQuery(query)) return resolveHost(view);
      const found: PartyInfo[] = [];
      for (const [identity, labels] of view.identities()) {
        if (query.labels.every((wanted) => hasLabel(labels, wanted))) {
          found.push(identityInfo(identity, labels, view));
        }
      }
      return limited(found);
    }
    default:
      return query satisfies never;
  }
}

/**
 * Somebody with exactly the labels of a query, where nobody has them yet: in the own cluster unless they say another,
 * in namespace `default` unless they say one.
 */
export function imagineParty(
  query: Extract<PartyQuery, { kind: 'labels' }>,
  cluster: string,
): PartyInfo {
  const labels: Labels = query.labels.map(({ source, key, value }) => ({
    source: source ?? 'k8s',
    key,
    value,
  }));
  const own = labels.find(({ key }) => key === CLUSTER_LABEL)?.value;
  const others = labelsOfTexts(own === undefined ? [`k8s:${CLUSTER_LABEL}=${cluster}`] : []);
  return {
    cluster: own ?? cluster,
    node: undefined,
    pod: undefined,
    address: undefined,
    kind: 'endpoint',
    identity: 0,
    labels: labelTexts([...labels, ...others]),
    nodeLabels: [],
    namedPorts: [],
  };
}

function parseAddress(text: string): PartyQuery {
  try {
    return { kind: 'address', address: parseIpAddress(text) };
  } catch (cause) {
    throw new TraceError('bad-question', cause instanceof Error ? cause.message : String(cause), {
      cause,
    });
  }
}

function parseLabel(text: string): WantedLabel {
  const equals = text.indexOf('=');
  const name = equals === -1 ? text : text.slice(0, equals);
  const colon = name.indexOf(':');
  const key = colon <= 0 ? name : name.slice(colon + 1);
  if (key === '') {
    throw new TraceError(
      'bad-question',
      `label ${JSON.stringify(text)}: expected [source:]key=value`,
    );
  }
  return {
    source: colon <= 0 ? undefined : name.slice(0, colon),
    key,
    value: equals === -1 ? '' : text.slice(equals + 1),
  };
}

/** Whether `host` is asked for: the host that the agent runs on. */
export function isHostQuery(query: PartyQuery): boolean {
  if (query.kind !== 'labels' || query.labels.length !== 1) return false;
  const [label] = query.labels;
  return label?.source === 'reserved' && label.key === 'host';
}

function resolveHost(view: PolicyView): Resolved {
  const [address] = view.nodeIps;
  return address === undefined ? NOBODY : resolveAddress(address, view);
}

function resolveAddress(address: IpAddress, view: PolicyView): Resolved {
  // A node is one of the mesh, also while policies make an endpoint of it.
  const endpoint = view.endpoints.find(
    ({ addresses, host }) => host !== 'node' && addresses.includes(address),
  );
  if (endpoint !== undefined) return limited([endpointInfo(endpoint, address, view)]);
  const services = frontendsWhere(view, (frontend) => frontend.address === address);
  if (services.frontends.length > 0) return services;
  const row = view.addressRow(address);
  const identity = row?.identity ?? reservedIdentity('world');
  const kind = kindOfIdentity(identity);
  const known = view.labelsOf(identity) ?? [];
  return limited([
    {
      cluster: kind === 'world' ? undefined : clusterOfRow(row?.clusterId, identity, view),
      node: view.nodeIps.includes(address) ? view.node : undefined,
      pod: undefined,
      address,
      kind,
      identity,
      labels: labelTexts(known),
      nodeLabels: kind === 'node' ? labelTexts(view.nodeLabelsOf(address)) : [],
      namedPorts: view.namedPortsOf(identity),
    },
  ]);
}

function clusterOfRow(
  clusterId: number | undefined,
  identity: number,
  view: PolicyView,
): string | undefined {
  const fromIdentity = view.clusterIdOf(identity);
  // A row of the node's own (0) belongs to the own cluster.
  const id = fromIdentity !== 0 ? fromIdentity : clusterId || view.clusterId;
  return view.clusterName(id);
}

function endpointInfo(
  endpoint: EndpointView,
  address: IpAddress | undefined,
  view: PolicyView,
): PartyInfo {
  return {
    cluster: view.cluster,
    node: view.node,
    pod: endpoint.pod === '' ? undefined : endpoint.pod,
    address: address ?? endpoint.addresses[0],
    kind: 'endpoint',
    identity: endpoint.identity,
    labels: labelTexts(endpoint.labels ?? []),
    nodeLabels: [],
    namedPorts: view.namedPortsOf(endpoint.identity),
  };
}

function identityInfo(identity: number, labels: Labels, view: PolicyView): PartyInfo {
  const kind = kindOfIdentity(identity);
  return {
    cluster: kind === 'world' ? undefined : view.clusterName(view.clusterIdOf(identity)),
    node: undefined,
    pod: undefined,
    address: undefined,
    kind,
    identity,
    labels: labelTexts(labels),
    nodeLabels: [],
    namedPorts: view.namedPortsOf(identity),
  };
}

function only(endpoints: readonly EndpointView[], view: PolicyView): Resolved {
  if (endpoints.some(({ host }) => host === 'node')) return resolveHost(view);
  return limited(endpoints.map((endpoint) => endpointInfo(endpoint, undefined, view)));
}

function limited(parties: readonly PartyInfo[]): Resolved {
  return {
    parties: parties.slice(0, MAX_PARTIES),
    more: Math.max(0, parties.length - MAX_PARTIES),
    frontends: [],
  };
}

function frontendsWhere(view: PolicyView, wanted: (frontend: FrontendEntry) => boolean): Resolved {
  const frontends: FrontendInfo[] = [];
  for (const frontend of view.frontends()) {
    if (frontend.scope !== 'internal' || !wanted(frontend)) continue;
    frontends.push({
      service: frontend.service,
      address: frontend.address,
      port: frontend.port,
      protocol: frontend.protocol,
      backends: frontend.backends.map(({ address, port, clusterId }) => ({
        address,
        port,
        cluster: view.clusterName(clusterId) ?? `id ${clusterId}`,
      })),
    });
  }
  return { ...NOBODY, frontends };
}

function hasLabel(labels: Labels, wanted: WantedLabel): boolean {
  return labels.some(
    ({ source, key, value }) =>
      key === wanted.key &&
      value === wanted.value &&
      (wanted.source === undefined || wanted.source === source),
  );
}
