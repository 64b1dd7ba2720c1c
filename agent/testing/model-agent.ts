import type {
  Datapath,
  DatapathTable,
  FrontendEntry,
  IpcacheEntry,
  PolicyEntry,
} from '../datapath/desired.ts';
import { type ModelCluster, STABLE } from './model-cluster.ts';

/** A Service of the agent's own cluster, as far as the model goes. */
export interface ModelService {
  readonly clusterIp: string;
  readonly global: boolean;
  readonly affinity: 'none' | 'local' | 'remote';
  /** Addresses of its own backends; they listen on port 8080. */
  readonly backends: readonly string[];
}

/** What an agent is to hold, as sorted lines. */
export interface ModelTables {
  readonly ipcache: readonly string[];
  readonly services: readonly string[];
  readonly policy: readonly string[];
}

/** Rows of cluster alpha alone, as `publishAlpha` makes it. */
const OWN_ADDRESSES = [
  '192.0.2.1/32 1 - 0',
  '192.0.2.2/32 6 - 1',
  '10.1.0.5/32 65793 - 1',
  '10.1.1.5/32 65794 192.0.2.2 1',
];

/** Cluster alpha's only identity that the policy lets in. */
const OWN_CLIENT = 65_794;
const BETA = 2;

/**
 * Says what an agent of node n1 of cluster alpha must hold in the end, straight from what was published and by none of
 * the agent's code. `peer` is undefined while beta is no peer.
 */
export function expectedTables(
  peer: ModelCluster | undefined,
  services: ReadonlyMap<string, ModelService>,
): ModelTables {
  const ipcache = [...OWN_ADDRESSES];
  const policy = [OWN_CLIENT];
  const hosts = new Set(peer?.nodes.values());
  const known = new Set(hosts);
  for (const host of hosts) ipcache.push(`${host}/32 6 - ${BETA}`);
  for (const [ip, { host, local }] of peer?.ips ?? []) {
    // A pod counts only once the node it is on is known.
    if (!hosts.has(host)) continue;
    known.add(ip);
    ipcache.push(`${ip}/32 ${identityOf(local)} ${host} ${BETA}`);
  }
  for (const [local, app] of peer?.identities ?? []) {
    if (app === 'client') policy.push(identityOf(local));
  }
  const frontends: string[] = [];
  for (const [name, service] of services) {
    const remote = (service.global ? (peer?.services.get(name) ?? []) : [])
      .filter((ip) => known.has(ip))
      .map((ip) => `${ip}:9000@${BETA}`);
    const local = service.backends.map((ip) => `${ip}:8080@1`);
    const chosen = chooseBackends(service.affinity, local, remote);
    frontends.push(`${service.clusterIp} ${[...new Set(chosen)].sort().join(',')}`);
  }
  return {
    ipcache: ipcache.sort(),
    services: frontends.sort(),
    policy: policy.map((identity) => `1 ${identity} 6/8080`).sort(),
  };
}

function chooseBackends(
  affinity: ModelService['affinity'],
  local: readonly string[],
  remote: readonly string[],
): readonly string[] {
  if (affinity === 'local' && local.length > 0) return local;
  if (affinity === 'remote' && remote.length > 0) return remote;
  return [...local, ...remote];
}

function identityOf(local: number): number {
  return BETA * 65_536 + local;
}

/** What a datapath holds, in the form of `expectedTables`. */
export function heldTables(
  datapath: Pick<Datapath, 'ipcache' | 'services' | 'policy'>,
): ModelTables {
  return {
    ipcache: datapath.ipcache.rows().map(addressText).sort(),
    services: datapath.services.rows().map(frontendText).sort(),
    policy: datapath.policy.rows().map(policyText).sort(),
  };
}

function addressText(row: IpcacheEntry): string {
  return `${row.prefix} ${row.identity} ${row.tunnelEndpoint ?? '-'} ${row.clusterId}`;
}

function frontendText({ address, backends }: FrontendEntry): string {
  const texts = backends.map(
    (backend) => `${backend.address}:${backend.port}@${backend.clusterId}`,
  );
  return `${address} ${texts.sort().join(',')}`;
}

function policyText(row: Omit<PolicyEntry, 'verdict'>): string {
  return `${row.endpointId} ${row.identity} ${row.protocol}/${row.port}`;
}

/** A datapath that notes every moment at which something that never changed was taken away. */
export function guardStable<Kernel extends Datapath>(
  datapath: Kernel,
): { readonly datapath: Kernel; readonly violations: string[]; watch(isOn: boolean): void } {
  const violations: string[] = [];
  let isOn = false;
  const blame = (what: string): void => {
    if (isOn) violations.push(what);
  };
  const prefixes = new Set([`${STABLE.ip}/32`, `${STABLE.node.address}/32`]);
  const guarded = {
    ...datapath,
    ipcache: spyOn(datapath.ipcache, ({ deletes }) => {
      for (const { prefix } of deletes)
        if (prefixes.has(prefix)) blame(`address ${prefix} deleted`);
    }),
    policy: spyOn(datapath.policy, ({ deletes }) => {
      for (const { identity } of deletes) {
        if (identity === identityOf(STABLE.identity.local)) blame('policy of identity deleted');
      }
    }),
    services: spyOn(datapath.services, ({ upserts, deletes }) => {
      for (const { address } of deletes) {
        if (address === STABLE_CLUSTER_IP) blame(`frontend ${address} deleted`);
      }
      for (const { address, backends } of upserts) {
        if (address !== STABLE_CLUSTER_IP) continue;
        if (!backends.some((backend) => backend.address === STABLE.ip))
          blame(`frontend ${address} lost backend ${STABLE.ip}`);
      }
    }),
  };
  return {
    datapath: guarded,
    violations,
    watch(on) {
      isOn = on;
    },
  };
}

/** Cluster address of the service that stays. */
export const STABLE_CLUSTER_IP = '10.96.255.1';

function spyOn<Row extends Key, Key>(
  table: DatapathTable<Row, Key>,
  look: (changes: { upserts: readonly Row[]; deletes: readonly Key[] }) => void,
): DatapathTable<Row, Key> {
  return {
    name: table.name,
    keyOf: (row) => table.keyOf(row),
    rows: () => table.rows(),
    apply(changes) {
      look(changes);
      table.apply(changes);
    },
  };
}
