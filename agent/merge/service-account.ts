/** Everything that a node can say of a Service: who offers it, where it is reached, and what becomes of each backend. */
import type { IpAddress } from '../../mesh/wire/ip.ts';
import type { LocalService } from '../../mesh/wire/local-service.ts';
import type { PortMap, Protocol } from '../../mesh/wire/service.ts';
import type { FrontendKey } from '../datapath/desired.ts';
import {
  type BackendState,
  judgeBackend,
  type OfferedBackend,
  placeOfBackend,
  type ServiceFacts,
  whyNotTranslated,
} from './backend-state.ts';

/** What only the reading of a peer knows. */
export interface PeerFacts {
  readonly name: string;
  /** Why its backends are not used as others are; empty: they are. */
  readonly useReason: string;
  /** Backends of the Service that do not count, since the cluster publishes nothing with their addresses. */
  readonly unknown: readonly IpAddress[];
  /** Why its record of the Service is not used, a sentence each. */
  readonly refused: readonly string[];
}

/** A backend for one port of the Service. */
export interface BackendAccount {
  readonly cluster: string;
  readonly address: IpAddress;
  /** Absent for a backend that does not count at all. */
  readonly port?: number;
  readonly protocol?: Protocol;
  /** Name of the Service's port; empty for one without. */
  readonly portName: string;
  readonly state: BackendState;
  /** Why; empty for one that is used without reserve. */
  readonly reason: string;
  /** Where it runs; empty where nobody says. */
  readonly node: string;
  readonly zone: string;
}

/** What a cluster has to do with a Service. */
export interface ClusterAccount {
  readonly cluster: string;
  readonly own: boolean;
  /** Whether it says that it has a Service of this name. */
  readonly offers: boolean;
  /** How many addresses of backends it offers, and how many of them get new connections here. */
  readonly backends: number;
  readonly used: number;
  /** What is odd about it, a sentence each. */
  readonly notes: readonly string[];
}

/** All that a node can say of a Service. */
export interface ServiceAccount {
  readonly namespace: string;
  readonly name: string;
  /** Whether the own cluster has it. Without it, nothing is translated. */
  readonly exists: boolean;
  /** Empty where it does not exist. */
  readonly type: LocalService['type'] | '';
  readonly global: boolean;
  readonly shared: boolean;
  readonly affinity: LocalService['affinity'];
  /** Why no address of it is translated on this node; empty: they are. */
  readonly notTranslated: string;
  readonly frontends: readonly (FrontendKey & {
    /** How many get new connections. */
    readonly backends: number;
    /** Service that has this address and port instead; absent: this one. */
    readonly heldBy?: string;
  })[];
  /** The own cluster first, then peers. */
  readonly clusters: readonly ClusterAccount[];
  readonly backends: readonly BackendAccount[];
}

/** Puts together what is known of `namespace/name`. `peers`: by cluster id, of every peer. */
export function accountOfService(
  name: string,
  facts: ServiceFacts,
  options: { readonly ownName: string; readonly peers: ReadonlyMap<number, PeerFacts> },
): ServiceAccount {
  const { local, node } = facts;
  const { ownName, peers } = options;
  const nameOf = (id: number): string =>
    id === node.clusterId ? ownName : (peers.get(id)?.name ?? `cluster id ${id}`);
  const slash = name.indexOf('/');
  const backends = [
    ...offeredBackends(facts).map((offered): BackendAccount => {
      const cluster = nameOf(offered.clusterId);
      const useReason = peers.get(offered.clusterId)?.useReason ?? '';
      const { address, portName, target } = offered;
      return {
        cluster,
        address,
        port: target.port,
        protocol: target.protocol,
        portName,
        ...judgeBackend(offered, facts, { cluster, useReason }),
        ...pick(placeOfBackend(offered, facts)),
      };
    }),
    ...[...peers.values()].flatMap(uncounted),
  ];
  return {
    namespace: name.slice(0, slash),
    name: name.slice(slash + 1),
    exists: local !== undefined,
    type: local?.type ?? '',
    global: local?.global ?? false,
    shared: local?.shared ?? false,
    affinity: local?.affinity ?? 'none',
    notTranslated: whyNotTranslated(facts),
    frontends: facts.frontends.map(({ row, heldBy }) => ({
      address: row.address,
      port: row.port,
      protocol: row.protocol,
      scope: row.scope,
      backends: row.backends.length,
      ...(heldBy === undefined ? {} : { heldBy }),
    })),
    clusters: [
      {
        cluster: ownName,
        own: true,
        offers: local !== undefined,
        ...counts(ownName, backends),
        notes: ownNotes(facts),
      },
      ...[...peers].map(([id, peer]) => ({
        cluster: peer.name,
        own: false,
        offers: facts.remotes.some(({ clusterId }) => clusterId === id),
        ...counts(peer.name, backends),
        notes: [...(peer.useReason === '' ? [] : [peer.useReason]), ...peer.refused],
      })),
    ],
    backends,
  };
}

function pick({ node, zone }: { readonly node: string; readonly zone: string }): {
  readonly node: string;
  readonly zone: string;
} {
  return { node, zone };
}

function uncounted({ name, unknown }: PeerFacts): BackendAccount[] {
  return unknown.map((address) => ({
    cluster: name,
    address,
    portName: '',
    state: 'unused',
    reason: `it does not count: cluster ${name} publishes no node or endpoint with this address`,
    node: '',
    zone: '',
  }));
}

function counts(
  cluster: string,
  backends: readonly BackendAccount[],
): { readonly backends: number; readonly used: number } {
  const own = backends.filter((backend) => backend.cluster === cluster);
  const addresses = (some: readonly BackendAccount[]): number =>
    new Set(some.map(({ address }) => address)).size;
  return { backends: addresses(own), used: addresses(own.filter(({ state }) => state === 'used')) };
}

/** Of a Service that exists: a backend that is not ready is told to nobody. */
function ownNotes({ local }: ServiceFacts): string[] {
  if (local === undefined || local.headless || local.type === 'ExternalName') return [];
  return local.backends.size > 0 ? [] : ['none of its backends is ready'];
}

function offeredBackends({ local, remotes, node, frontends }: ServiceFacts): OfferedBackend[] {
  const found: OfferedBackend[] = [];
  const add = (clusterId: number, backends: ReadonlyMap<IpAddress, PortMap>): void => {
    for (const [address, ports] of backends) {
      for (const [portName, target] of ports) found.push({ clusterId, address, portName, target });
    }
  };
  if (local !== undefined) {
    add(node.clusterId, local.backends);
    add(node.clusterId, local.draining);
  }
  for (const { clusterId, backends } of remotes) add(clusterId, backends);
  return [...found, ...rememberedBackends(local, { remotes, node, frontends })];
}

/** Backends that an earlier process knew, of clusters that have not spoken since. */
function rememberedBackends(
  local: LocalService | undefined,
  { remotes, node, frontends }: Pick<ServiceFacts, 'remotes' | 'node' | 'frontends'>,
): OfferedBackend[] {
  const heard = new Set([node.clusterId, ...remotes.map(({ clusterId }) => clusterId)]);
  const found = new Map<string, OfferedBackend>();
  for (const { row } of frontends) {
    for (const { address, port, protocol, clusterId } of row.backends) {
      if (heard.has(clusterId)) continue;
      const ofRow = local?.ports.find(
        (known) =>
          known.protocol === row.protocol && [known.port, known.nodePort].includes(row.port),
      );
      const portName = ofRow?.name ?? '';
      found.set(`${clusterId} ${address} ${portName} ${protocol}`, {
        clusterId,
        address,
        portName,
        target: { port, protocol },
      });
    }
  }
  return [...found.values()];
}
