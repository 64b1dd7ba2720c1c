/** Controllers before a real API server, with peers whose services are in real etcds. */
import { rename, rm, writeFile } from 'node:fs/promises';
import type { Test } from 'tap';
import {
  type Controllers,
  type ControllersOptions,
  createControllers,
} from '../../clustermesh-apiserver/controllers/run.ts';
import { openKubernetes } from '../../clustermesh-apiserver/kubernetes/api.ts';
import { openEtcd } from '../../mesh/kvstore/etcd.ts';
import type { KvStore } from '../../mesh/kvstore/kvstore.ts';
import { connectionReader } from '../../mesh/remote/connection.ts';
import {
  type PublishedCluster,
  publishCluster,
} from '../../mesh/remote/testing/published-cluster.ts';
import { systemClock } from '../../mesh/runtime/clock.ts';
import { createLogger, type LogLevel } from '../../mesh/runtime/log.ts';
import { type EtcdServer, openEtcdServer } from '../../mesh/testing/etcd-server.ts';
import { openTempDir } from '../../mesh/testing/temp-dir.ts';
import { parseClusterId, parseClusterName } from '../../mesh/wire/ids.ts';
import { type KubeCluster, openKubeCluster } from '../peers/kube-cluster.ts';
import type { KubePrograms } from '../peers/kube-programs.ts';
import type { KubeRule, KubeUser } from '../peers/kube-user.ts';

/** Everything that the controllers of this cluster may do, and nothing else: what they do beyond fails here. */
export const CONTROLLER_RULES: readonly KubeRule[] = [
  { apiGroups: [''], resources: ['services', 'namespaces', 'nodes'], verbs: ['list', 'watch'] },
  {
    apiGroups: ['discovery.k8s.io'],
    resources: ['endpointslices'],
    verbs: ['get', 'list', 'watch', 'create', 'patch', 'delete'],
  },
  {
    apiGroups: ['coordination.k8s.io'],
    resources: ['leases'],
    verbs: ['get', 'create', 'update'],
  },
  { apiGroups: ['events.k8s.io'], resources: ['events'], verbs: ['get', 'create', 'patch'] },
];

/** Times of an election that a test can wait for: a vanished leader is replaced in about 6 s. */
export const SHORT_LEASE = { durationMs: 5000, renewDeadlineMs: 3000, retryMs: 500 };

/** A peer with an etcd of its own. */
export interface EtcdPeer extends PublishedCluster<KvStore> {
  readonly server: EtcdServer;
  configure(): Promise<void>;
  unconfigure(): Promise<void>;
}

/** A replica of the controllers. */
export interface Replica {
  readonly controllers: Controllers;
  /** Ends it in order; it gives the Lease back. */
  stop(): Promise<void>;
}

/** A cluster with namespace `demo`, a user that may do what controllers do, and peers. */
export interface ControllersRig {
  readonly cluster: KubeCluster;
  readonly user: KubeUser;
  /** Directory of the peers' files. */
  readonly directory: string;
  /** Starts a peer with a node, and nothing else, that is not configured yet. */
  addPeer(name: string, id: number): Promise<EtcdPeer>;
  start(
    replica: string,
    options?: Partial<ControllersOptions> & { readonly kubeconfig?: string },
  ): Promise<Replica>;
  /** Slices of a Service as the API server has them, by name. */
  slices(service: string): Promise<Slice[]>;
}

/** An EndpointSlice, as far as tests look at it. */
export interface Slice {
  readonly metadata: {
    readonly name: string;
    readonly uid: string;
    readonly resourceVersion: string;
    readonly labels: Readonly<Record<string, string>>;
    readonly ownerReferences?: readonly { readonly name: string; readonly uid: string }[];
  };
  readonly addressType: string;
  readonly ports: readonly { readonly name: string; readonly port: number }[] | null;
  readonly endpoints:
    | readonly {
        readonly addresses: readonly string[];
        readonly nodeName?: string;
        readonly hostname?: string;
      }[]
    | null;
}

/** Starts the cluster; everything ends with the test. */
export async function openControllersRig(
  t: Test,
  options: {
    readonly name: string;
    readonly programs: KubePrograms;
    /** Of the controllers. Default: they log nothing. */
    readonly logLevel?: LogLevel;
  },
): Promise<ControllersRig> {
  const cluster = await openKubeCluster({
    ...options,
    serviceCidrs: ['10.96.0.0/16', 'fd00:96::/112'],
  });
  t.teardown(() => cluster[Symbol.asyncDispose]());
  const directory = await openTempDir('controllers-peers');
  t.teardown(() => directory[Symbol.asyncDispose]());
  await cluster.ask('POST', '/api/v1/namespaces', { body: { metadata: { name: 'demo' } } });
  const user = await cluster.addUser('controllers', { rules: CONTROLLER_RULES });
  const { logLevel: level = 'silent' } = options;

  return {
    cluster,
    user,
    directory: directory.path,
    async addPeer(name, id) {
      const server = await openEtcdServer();
      t.teardown(() => server[Symbol.asyncDispose]());
      const store = await openEtcd({ endpoints: [server.endpoint], callTimeoutMs: 5000 });
      t.teardown(() => store[Symbol.asyncDispose]());
      const peer = publishCluster(name, id, store);
      await peer.config();
      await peer.node('n1', `198.51.100.${id}`);
      return {
        ...peer,
        server,
        async configure() {
          await writeFile(directory.file(`.${name}`), `endpoints:\n- ${server.endpoint}\n`);
          await rename(directory.file(`.${name}`), directory.file(name));
        },
        unconfigure: () => rm(directory.file(name)),
      };
    },
    async start(replica, { kubeconfig = user.kubeconfig, ...changes } = {}) {
      const api = await openKubernetes({ kubeconfig, clock: systemClock });
      const controllers = createControllers({
        api,
        cluster: { name: parseClusterName('alpha'), id: parseClusterId(1), max: 255 },
        directory: directory.path,
        readConnection: connectionReader({ clock: systemClock }),
        rescanMs: 100,
        nodeKind: 'Node',
        replica,
        leaseNamespace: 'demo',
        leaseTimes: SHORT_LEASE,
        namespacesAreGlobal: true,
        endpointSliceSync: { batchMs: 100 },
        clock: systemClock,
        logger: createLogger(replica, { level }),
        ...changes,
      });
      const stopping = new AbortController();
      const running = controllers.run(stopping.signal);
      // A failure is told when it is stopped.
      running.catch(() => undefined);
      let stopped: Promise<void> | undefined;
      const stop = (): Promise<void> => {
        stopped ??= (async () => {
          stopping.abort();
          await running.finally(() => api[Symbol.asyncDispose]());
        })();
        return stopped;
      };
      t.teardown(stop);
      return { controllers, stop };
    },
    async slices(service) {
      const selector = encodeURIComponent(`kubernetes.io/service-name=${service}`);
      const found = (await cluster.ask(
        'GET',
        `/apis/discovery.k8s.io/v1/namespaces/demo/endpointslices?labelSelector=${selector}`,
      )) as { items: Slice[] };
      return found.items.sort((a, b) => (a.metadata.name < b.metadata.name ? -1 : 1));
    },
  };
}

/** Addresses of all endpoints of slices, sorted; one that is in two slices is there twice. */
export function addressesOf(slices: readonly Slice[]): string[] {
  return slices
    .flatMap(({ endpoints }) => (endpoints ?? []).flatMap(({ addresses }) => addresses))
    .sort();
}

/** Backends of a service at `10.<id>.<n >> 8>.<n & 255>`, port 8080. */
export function backendsOf(id: number, numbers: Iterable<number>): Record<string, number> {
  return Object.fromEntries(
    [...numbers].map((number) => [`10.${id}.${number >> 8}.${number & 255}`, 8080]),
  );
}

/** Whole numbers from `from` to before `to`. */
export function range(from: number, to: number): number[] {
  return Array.from({ length: to - from }, (_, index) => from + index);
}
