import { isDeepStrictEqual } from 'node:util';
import type { KvStore } from '../../mesh/kvstore/kvstore.ts';
import { createMemoryStore } from '../../mesh/kvstore/memory.ts';
import { until } from '../../mesh/remote/testing/until.ts';
import { parseIpAddress } from '../../mesh/wire/ip.ts';
import type { Datapath } from '../datapath/desired.ts';
import { createMemoryDatapath } from '../state/memory-datapath.ts';
import {
  expectedTables,
  guardStable,
  heldTables,
  type ModelService,
  STABLE_CLUSTER_IP,
} from './model-agent.ts';
import { createModelCluster, type ModelStep, STABLE } from './model-cluster.ts';
import { openNodeRig } from './node-rig.ts';
import { publishAlpha, SERVER } from './two-clusters.ts';

/** The peer's store, and what may happen to it and to the way there. */
export interface ModelStore {
  /** Never cut off. */
  readonly writer: KvStore;
  /** A connection of the agent's. */
  connect(): Promise<KvStore>;
  cut(): void;
  restore(): void;
  compact(): Promise<void>;
  /** Comes back empty, as another cluster. */
  wipe(): Promise<void>;
}

/** A store in memory. */
export function openMemoryModelStore(): ModelStore {
  const store = createMemoryStore();
  return {
    writer: store.connect({ alwaysConnected: true }),
    connect: async () => store.connect(),
    cut: () => store.faults.disconnect(),
    restore: () => store.faults.reconnect(),
    compact: async () => store.faults.compact(),
    wipe: async () => store.faults.wipe(),
  };
}

/**
 * Lives through a history: one agent, its own cluster, one peer. Throws at the first moment at which the agent's tables
 * do not become what the model says, or something that never changed was taken away. `teardown` is called with what is
 * to be undone at the end.
 */
export async function runModel(
  steps: readonly ModelStep[],
  options: {
    readonly store?: ModelStore;
    readonly datapath?: Datapath;
    readonly deadlineMs?: number;
    readonly teardown: (undo: () => Promise<void>) => void;
  },
): Promise<void> {
  const { store = openMemoryModelStore(), deadlineMs = 15_000 } = options;
  const guard = guardStable(options.datapath ?? createMemoryDatapath());
  const rig = await openNodeRig({ teardown: options.teardown }, { datapath: guard.datapath });
  const peer = createModelCluster(store.writer);
  const services = new Map<string, ModelService>();
  let isPeer = true;

  const setService = async (name: string, service: ModelService | undefined): Promise<void> => {
    if (service === undefined) {
      services.delete(name);
      return rig.alpha.removeLocalService(name);
    }
    services.set(name, service);
    await rig.alpha.localService(name, {
      ...service,
      clusterIps: [parseIpAddress(service.clusterIp)],
      backends: new Map(
        service.backends.map((ip) => [
          parseIpAddress(ip),
          new Map([['http', { protocol: 'TCP', port: 8080 }]]),
        ]),
      ),
    });
  };

  const settle = async (): Promise<void> => {
    store.restore();
    const expected = expectedTables(isPeer ? peer : undefined, services);
    let held = heldTables(guard.datapath);
    await until(
      'the tables are as the model says',
      () => {
        held = heldTables(guard.datapath);
        return isDeepStrictEqual(held, expected);
      },
      deadlineMs,
    ).catch(async (cause) => {
      const { clusters } = await rig.status();
      const difference = JSON.stringify({ held, expected, clusters }, null, 1);
      throw new Error(`the agent does not hold what was published: ${difference}`, { cause });
    });
    if (guard.violations.length > 0) {
      throw new Error(`taken away, and it never changed: ${guard.violations.join('; ')}`);
    }
    guard.watch(isPeer);
  };

  const live = async (step: ModelStep): Promise<void> => {
    switch (step.kind) {
      case 'cut':
        return store.cut();
      case 'restore':
        return store.restore();
      case 'compact':
        return store.compact();
      case 'wipe':
        await store.wipe();
        return peer.publish(step.a);
      case 'restart-agent':
        return rig.start();
      case 'peer-gone':
        if (!isPeer) return;
        isPeer = false;
        guard.watch(false);
        return rig.removePeer('beta');
      case 'peer-back':
        if (isPeer) return;
        isPeer = true;
        return rig.addPeer(peer.cluster, () => store.connect());
      case 'local-service': {
        const name = `w${step.a % 4}`;
        const affinity = (['none', 'local', 'remote'] as const)[step.b % 3] ?? 'none';
        const gone = step.c % 8 === 0;
        return setService(
          name,
          gone
            ? undefined
            : {
                clusterIp: `10.96.0.${10 + (step.a % 4)}`,
                global: step.c % 4 !== 1,
                affinity,
                backends: step.c % 2 === 0 ? ['10.1.0.5'] : [],
              },
        );
      }
      case 'look':
        return settle();
      default:
        return peer.change(step);
    }
  };

  await publishAlpha(rig.alpha);
  await rig.alpha.removeLocalService('web');
  await rig.alpha.policy('clients', {
    endpointSelector: SERVER,
    ingress: [
      {
        fromEndpoints: [
          {
            matchLabels: { app: 'client' },
            matchExpressions: [{ key: 'io.cilium.k8s.policy.cluster', operator: 'Exists' }],
          },
        ],
        toPorts: [{ ports: [{ port: '8080', protocol: 'TCP' }] }],
      },
    ],
  });
  await setService(STABLE.service, {
    clusterIp: STABLE_CLUSTER_IP,
    global: true,
    affinity: 'none',
    backends: [],
  });
  await rig.alpha.marked();
  await peer.publish(1);
  await rig.addPeer(peer.cluster, () => store.connect());
  await rig.start();
  await rig.addPod('a', '10.1.0.5');
  await settle();
  for (const step of steps) await live(step);
  await settle();
}
