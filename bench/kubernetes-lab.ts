/** A Kubernetes API server full of a generated cluster, and those who publish it: ourselves and Cilium, one at a time. */
import type { KubernetesObject } from '../e2e/lab/kubernetes-object.ts';
import { startCiliumApiserver } from '../e2e/peers/cilium-apiserver.ts';
import { type GeneratedCluster, generateCluster } from '../e2e/peers/generated-cluster.ts';
import { type KubeCluster, openKubeCluster } from '../e2e/peers/kube-cluster.ts';
import { prepareOurApiserver } from '../e2e/peers/our-apiserver.ts';
import { findPeer } from '../e2e/peers/peer-binary.ts';
import { openEtcd } from '../mesh/kvstore/etcd.ts';
import type { KvStore } from '../mesh/kvstore/kvstore.ts';
import { systemClock } from '../mesh/runtime/clock.ts';
import { openEtcdServer } from '../mesh/testing/etcd-server.ts';
import { findFreePort } from '../mesh/testing/free-port.ts';
import { openTempDir } from '../mesh/testing/temp-dir.ts';
import { storeObjects } from './kube-storage.ts';
import { type ProcessUse, processUse } from './mesh-lab.ts';

/** Version of Cilium that is measured beside us. */
export const CILIUM = 'cilium-1.20';
/** Cluster that is published. */
export const PLACE = { cluster: 'alpha', clusterId: 1 };

const OWN = { name: PLACE.cluster, id: PLACE.clusterId };
const CRDS = [
  'ciliumnodes',
  'ciliumidentities',
  'ciliumendpoints',
  'ciliumendpointslices',
  'mcs-api',
];

/** Who publishes, and from which objects: Cilium's, or Kubernetes' own Pods and Nodes. */
export type Publisher = 'isthmus' | 'isthmus-any-cni' | 'cilium';

/** How much of everything, see `generateCluster`. */
export interface KubernetesSizes {
  readonly nodes: number;
  readonly namespaces: number;
  readonly identities: number;
  readonly pods: number;
  readonly services: number;
  /** All Services' together. */
  readonly endpoints: number;
}

/** A publisher that runs, with the etcd that it fills. Disposing ends both. */
export interface RunningPublisher extends AsyncDisposable {
  /** When its process was started, by the monotonic clock. */
  readonly startedAt: number;
  readonly store: KvStore;
  use(): ProcessUse;
  /** Throws with its last lines when it has ended by itself. */
  check(): void;
  /** How many changed keys have waited at most so many seconds until etcd had them, by bound. Undefined: it does not say. */
  queueTimes?(): Promise<ReadonlyMap<number, number>>;
}

/** The API server, filled. */
export interface KubernetesLab extends AsyncDisposable {
  /** Of the API server, see `storeObjects`. */
  readonly storage: KvStore;
  readonly generated: GeneratedCluster;
  readonly cluster: KubeCluster;
  readonly cilium: ReturnType<typeof findPeer>;
  /** CPU seconds of kube-apiserver so far. */
  apiserverCpu(): number;
  start(publisher: Publisher, nodeFlags: readonly string[]): Promise<RunningPublisher>;
}

/** Starts the API server and writes the cluster: in Cilium's objects, and with `pods` as Pods, too. */
export async function openKubernetesLab(
  sizes: KubernetesSizes,
  options: {
    readonly pods: boolean;
    readonly signal: AbortSignal;
    readonly say: (text: string) => void;
  },
): Promise<KubernetesLab> {
  const cluster = await openKubeCluster({
    name: 'bench',
    serviceCidrs: ['10.96.0.0/12'],
    apiserverArgs: [
      // The namespace of a benchmark has no default route, from which it would take its address.
      '--advertise-address=192.0.2.250',
      '--max-requests-inflight=3000',
      '--max-mutating-requests-inflight=1000',
    ],
  });
  try {
    return await fillLab(cluster, sizes, options);
  } catch (error) {
    await cluster[Symbol.asyncDispose]();
    throw error;
  }
}

async function fillLab(
  cluster: KubeCluster,
  sizes: KubernetesSizes,
  options: Parameters<typeof openKubernetesLab>[1],
): Promise<KubernetesLab> {
  const { signal, say } = options;
  await cluster.installCrds(CRDS);
  const plan = {
    ...PLACE,
    seed: 1,
    sizes: { ...sizes, endpoints: Math.round(sizes.endpoints / sizes.services) },
    plain: true,
  };
  const generated = generateCluster({ ...plan, style: 'cilium-endpoints' });
  const more = options.pods
    ? generateCluster({ ...plan, style: 'pods' })
        .objects()
        .filter(({ kind }) => kind === 'Pod')
    : [];
  const objects = [...generated.objects(), ...more].map(allocated);
  say(`writing ${objects.length} objects into the API server's storage`);
  const began = systemClock.monotonic();
  const storage = await openEtcd({ endpoints: [cluster.etcd.endpoint] });
  await storeObjects(storage, objects, signal).catch(async (error: unknown) => {
    await storage[Symbol.asyncDispose]();
    throw error;
  });
  say(`written in ${Math.round((systemClock.monotonic() - began) / 1000)} s`);
  const cilium = findPeer(`${CILIUM}/clustermesh-apiserver`);
  return {
    storage,
    generated,
    cluster,
    cilium,
    apiserverCpu: () => processUse(cluster.apiserver.pid).cpuSeconds,
    start: (publisher, nodeFlags) =>
      startPublisher(publisher, {
        kubeconfig: cluster.adminKubeconfig,
        binary: cilium.kind === 'found' ? cilium.path : '',
        nodeFlags,
        signal,
      }),
    async [Symbol.asyncDispose]() {
      await storage[Symbol.asyncDispose]();
      await cluster[Symbol.asyncDispose]();
    },
  };
}

/** Cluster addresses are taken in turn, since nobody allocates them in the storage. */
function allocated(object: KubernetesObject, index: number): KubernetesObject {
  if (object.kind !== 'Service') return object;
  const ip = `10.${100 + ((index >> 16) & 7)}.${(index >> 8) & 255}.${index & 255}`;
  const spec = {
    type: 'ClusterIP',
    sessionAffinity: 'None',
    clusterIP: ip,
    clusterIPs: [ip],
    ipFamilies: ['IPv4'],
    ipFamilyPolicy: 'SingleStack',
    internalTrafficPolicy: 'Cluster',
    ...Object(object.spec),
  };
  return { ...object, spec };
}

async function startPublisher(
  publisher: Publisher,
  options: {
    readonly kubeconfig: string;
    readonly binary: string;
    readonly nodeFlags: readonly string[];
    readonly signal: AbortSignal;
  },
): Promise<RunningPublisher> {
  const { kubeconfig, binary, nodeFlags, signal } = options;
  const dir = await openTempDir(`bench-${publisher}`);
  const server = await openEtcdServer({ args: ['--quota-backend-bytes=8589934592'] });
  const store = await openEtcd({ endpoints: [server.endpoint] });
  const common = { cluster: OWN, etcdEndpoint: server.endpoint, dir, signal };
  const running = { store, startedAt: systemClock.monotonic() };
  const end = async (process: AsyncDisposable): Promise<void> => {
    for (const one of [process, store, server, dir]) await one[Symbol.asyncDispose]();
  };
  if (publisher === 'cilium') {
    const process = await startCiliumApiserver(binary, {
      ...common,
      kubeconfig,
      serviceExports: false,
    });
    return {
      ...running,
      use: () => processUse(process.pid),
      check: process.check,
      [Symbol.asyncDispose]: () => end(process),
    };
  }
  const mode = publisher === 'isthmus' ? 'cilium' : 'any-cni';
  const metrics = `127.0.0.1:${await findFreePort()}`;
  const ours = await prepareOurApiserver({
    ...common,
    source: [`--mode=${mode}`, `--kubeconfig=${kubeconfig}`, `--metrics-address=${metrics}`],
    nodeFlags,
  });
  const startedAt = systemClock.monotonic();
  ours.launch();
  return {
    ...running,
    startedAt,
    use: () => processUse(ours.pid),
    check: ours.check,
    queueTimes: async () => queueTimesOf(await (await fetch(`http://${metrics}/metrics`)).text()),
    [Symbol.asyncDispose]: () => end(ours),
  };
}

const QUEUE_BUCKET = /^isthmus_publisher_queue_seconds_bucket\{le="([^"]+)"\} (\d+)$/gm;

function queueTimesOf(metrics: string): ReadonlyMap<number, number> {
  return new Map(
    [...metrics.matchAll(QUEUE_BUCKET)].map(([, bound, count]) => [
      bound === '+Inf' ? Number.POSITIVE_INFINITY : Number(bound),
      Number(count),
    ]),
  );
}
