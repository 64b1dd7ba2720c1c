import type { KvStore } from '../../mesh/kvstore/kvstore.ts';
import {
  type PublishedCluster,
  publishCluster,
} from '../../mesh/remote/testing/published-cluster.ts';
import { parseIpAddress } from '../../mesh/wire/ip.ts';
import { ipKey, nodeKey, serviceKey } from '../../mesh/wire/keys.ts';

/** How many of a thing there can be. Few, so that histories meet the same key again and again. */
const POOL = { nodes: 6, addresses: 8, ips: 16, identities: 6, services: 4 } as const;

/** A backend's port, everywhere the same: ports have tests of their own. */
const BACKEND_PORT = 9000;

/** One random choice: what to do, and numbers that say with which. Any number is valid. */
export interface ModelStep {
  readonly kind: ModelStepKind;
  readonly a: number;
  readonly b: number;
  readonly c: number;
}

export const CHANGE_KINDS = [
  'node',
  'node-gone',
  'ip',
  'ip-gone',
  'identity',
  'identity-gone',
  'service',
  'service-gone',
  'nonsense',
] as const;

export const FAULT_KINDS = [
  'cut',
  'restore',
  'compact',
  'wipe',
  'restart-agent',
  'peer-gone',
  'peer-back',
  'local-service',
  'look',
] as const;

export type ModelStepKind = (typeof CHANGE_KINDS)[number] | (typeof FAULT_KINDS)[number];

/** A peer's data as it should be read, kept in step with what is written to its store. */
export interface ModelCluster {
  readonly cluster: PublishedCluster<KvStore>;
  /** Addresses of nodes, by name. */
  readonly nodes: ReadonlyMap<string, string>;
  /** Node address and local identity number, by address. */
  readonly ips: ReadonlyMap<string, { readonly host: string; readonly local: number }>;
  /** Value of label `app`, by local identity number. */
  readonly identities: ReadonlyMap<number, string>;
  /** Backend addresses, by name. */
  readonly services: ReadonlyMap<string, readonly string[]>;
  /** Makes one change. */
  change(step: ModelStep): Promise<void>;
  /** Writes everything into an empty store, in an order made from `seed`, the markers last. */
  publish(seed: number): Promise<void>;
}

/** What no step ever touches: whatever happens, an agent that has seen it must go on having it. */
export const STABLE = {
  node: { name: 'stable', address: '198.51.100.250' },
  identity: { local: 300, app: 'client' },
  ip: '10.2.255.1',
  service: 'stable',
} as const;

/** Makes cluster beta (2) in an empty store, with what stays. */
export function createModelCluster(store: KvStore): ModelCluster {
  const cluster = publishCluster('beta', 2, store);
  const nodes = new Map<string, string>([[STABLE.node.name, STABLE.node.address]]);
  const ips = new Map<string, { readonly host: string; readonly local: number }>([
    [STABLE.ip, { host: STABLE.node.address, local: STABLE.identity.local }],
  ]);
  const identities = new Map<number, string>([[STABLE.identity.local, STABLE.identity.app]]);
  const services = new Map<string, readonly string[]>([[STABLE.service, [STABLE.ip]]]);

  const putService = (name: string): Promise<void> =>
    cluster.service(
      name,
      Object.fromEntries((services.get(name) ?? []).map((ip) => [ip, BACKEND_PORT])),
    );

  const setNode = async (name: string, address: string): Promise<void> => {
    nodes.set(name, address);
    await cluster.node(name, address);
  };

  const dropNode = async (name: string): Promise<void> => {
    nodes.delete(name);
    await cluster.removeNode(name);
  };

  const change = async ({ kind, a, b, c }: ModelStep): Promise<void> => {
    switch (kind) {
      case 'node':
        return setNode(`n${a % POOL.nodes}`, `198.51.100.${1 + (b % POOL.addresses)}`);
      case 'node-gone':
        return dropNode(`n${a % POOL.nodes}`);
      case 'ip': {
        // Sometimes on a node that is not there, or not there yet.
        const host = b % 4 === 0 ? STABLE.node.address : `198.51.100.${1 + (b % POOL.addresses)}`;
        const ip = `10.2.0.${1 + (a % POOL.ips)}`;
        const entry = { host, local: 400 + (c % POOL.identities) };
        ips.set(ip, entry);
        return cluster.ip(ip, entry);
      }
      case 'ip-gone': {
        const ip = `10.2.0.${1 + (a % POOL.ips)}`;
        ips.delete(ip);
        return cluster.removeIp(ip);
      }
      case 'identity': {
        const local = 400 + (a % POOL.identities);
        const app = b % 2 === 0 ? 'client' : 'other';
        identities.set(local, app);
        await cluster.identity(local, { app });
        return;
      }
      case 'identity-gone': {
        const local = 400 + (a % POOL.identities);
        identities.delete(local);
        return cluster.removeIdentity(local);
      }
      case 'service': {
        const name = `w${a % POOL.services}`;
        const count = b % 4;
        const first = c % POOL.ips;
        const backends = Array.from(
          { length: count },
          (_, index) => `10.2.0.${1 + ((first + index) % POOL.ips)}`,
        );
        services.set(name, backends);
        return putService(name);
      }
      case 'service-gone': {
        const name = `w${a % POOL.services}`;
        services.delete(name);
        return cluster.removeService(name);
      }
      case 'nonsense':
        return putNonsense(cluster, a);
      default:
        throw new Error(`${kind} is no change of a cluster`);
    }
  };

  const publish = async (seed: number): Promise<void> => {
    const writes = [
      ...[...nodes].map(
        ([name, address]) =>
          () =>
            cluster.node(name, address),
      ),
      ...[...ips].map(
        ([ip, entry]) =>
          () =>
            cluster.ip(ip, entry),
      ),
      ...[...identities].map(
        ([local, app]) =>
          () =>
            cluster.identity(local, { app }),
      ),
      ...[...services.keys()].map((name) => () => putService(name)),
    ];
    await cluster.config();
    // Any order: here that of multiples of a number that shares no factor with the length.
    const stride = strideFor(writes.length, seed);
    for (let index = 0; index < writes.length; index += 1) {
      await writes[(index * stride) % writes.length]?.();
    }
    await cluster.marked();
  };

  return { cluster, nodes, ips, identities, services, change, publish };
}

/** What a broken or hostile publisher might write. None of it may have any effect. */
async function putNonsense(
  { store, name }: PublishedCluster<KvStore>,
  which: number,
): Promise<void> {
  const address = (text: string, host: string, id: number): Promise<void> =>
    store.put(
      ipKey(parseIpAddress(text)),
      JSON.stringify({ IP: text, Mask: null, HostIP: host, ID: id, Key: 0, Metadata: '' }),
    );
  const cases = [
    () => store.put(nodeKey(name, 'broken'), '{"Name":"broken"'),
    () => store.put(nodeKey(name, 'liar'), '{"Name":"liar","Cluster":"gamma","ClusterID":3}'),
    // An identity of cluster 7, the address of a pod of the own cluster, loopback.
    () => address('10.2.9.1', STABLE.node.address, 7 * 65_536 + 300),
    () => address('10.1.1.5', STABLE.node.address, 2 * 65_536 + 300),
    () => address('127.0.0.1', STABLE.node.address, 2 * 65_536 + 300),
    () => store.put(serviceKey(name, 'demo', 'w9'), '[]'),
    () => store.put(serviceKey(name, 'demo', 'w8'), Buffer.from([0xff, 0xfe, 0x00])),
    () => store.put('cilium/state/identities/v1/id/131500', 'k8s:app=client;'),
  ];
  await cases[which % cases.length]?.();
}

function strideFor(length: number, seed: number): number {
  for (let stride = 1 + (seed % Math.max(1, length)); ; stride += 1) {
    if (gcd(stride, length) === 1) return stride;
  }
}

function gcd(a: number, b: number): number {
  return b === 0 ? a : gcd(b, a % b);
}
