/** Clusters with a real API server each and our apiserver beside it, peered, with the Multi-Cluster Services API on. */
import { mkdir } from 'node:fs/promises';
import type { Test } from 'tap';
import { projectPath } from '../../mesh/runtime/project-path.ts';
import { openEtcdServer } from '../../mesh/testing/etcd-server.ts';
import { openTempDir } from '../../mesh/testing/temp-dir.ts';
import { issueCertificate } from '../../pki/ca.ts';
import { writePeer } from '../../pki/layout.ts';
import { remoteLeaf } from '../../pki/names.ts';
import { waitFor } from '../lab/wait-for.ts';
import { DEFAULT_CONTROLLERS, type KubeCluster, openKubeCluster } from '../peers/kube-cluster.ts';
import type { KubePrograms } from '../peers/kube-programs.ts';
import { type OurApiserver, prepareOurApiserver } from '../peers/our-apiserver.ts';

const MCS = '/apis/multicluster.x-k8s.io/v1beta1';
/** What an apiserver may do in mode any-cni that makes imports: what it does beyond fails here. */
const RBAC = [
  'rbac-any-cni.yaml',
  'rbac-controllers.yaml',
  'rbac-service-exports.yaml',
  'rbac-mcs.yaml',
] as const;
const NAMESPACE = 'isthmus-system';

/** Fields of a Service, a ServiceExport and the pods behind it; `name` is `hello` everywhere. */
export interface TestService {
  readonly spec?: object;
  readonly exported?: object | false;
  /** Names of ready pods, each with an address of each family. Default: none. */
  readonly pods?: readonly string[];
}

/** An object as the API server gives it. */
export type Json = Readonly<Record<string, unknown>>;

/** A cluster of the rig. */
export interface McsCluster {
  readonly name: string;
  readonly kube: KubeCluster;
  readonly apiserver: OurApiserver;
  /** Makes a namespace, its Service `hello`, pods and export. */
  deploy(namespace: string, service: TestService): Promise<void>;
  exportHello(namespace: string, spec?: object): Promise<void>;
  unexport(namespace: string): Promise<void>;
  /** The ServiceImport `hello`; undefined: there is none. */
  importOf(namespace: string): Promise<Import | undefined>;
  /** Conditions of the ServiceExport as `status reason` by type. */
  conditions(namespace: string): Promise<Readonly<Record<string, string>>>;
  /** EndpointSlices that bear the API's labels. */
  mcsSlices(namespace: string): Promise<readonly Slice[]>;
}

/** A ServiceImport as far as tests look at it. */
export interface Import {
  readonly metadata: {
    readonly uid: string;
    readonly labels?: Readonly<Record<string, string>>;
    readonly annotations: Readonly<Record<string, string>>;
  };
  readonly spec: Json & {
    readonly ips?: readonly string[];
    readonly ipFamilies?: readonly string[];
    readonly ports: readonly { name?: string; port: number; protocol: string }[];
  };
  readonly status?: {
    readonly clusters?: readonly { readonly cluster: string }[];
    readonly conditions?: readonly { type: string; status: string; reason: string }[];
    readonly endpointSliceObjects?: string;
  };
}

/** An EndpointSlice as far as tests look at it. */
export interface Slice {
  readonly metadata: {
    readonly name: string;
    readonly labels: Readonly<Record<string, string>>;
  };
  readonly addressType: string;
  readonly endpoints: readonly { addresses: readonly string[]; hostname?: string }[] | null;
  readonly ports: readonly { name?: string; port: number }[] | null;
}

/** The Service of the conformance suite: two protocols of one port, affinity, and as many families as there are. */
export const HELLO_SPEC = {
  selector: { app: 'hello' },
  ports: [
    { name: 'tcp', port: 42, protocol: 'TCP' },
    { name: 'udp', port: 42, protocol: 'UDP' },
  ],
  sessionAffinity: 'ClientIP',
  sessionAffinityConfig: { clientIP: { timeoutSeconds: 10 } },
  ipFamilyPolicy: 'PreferDualStack',
} as const;

/** Starts the clusters `alpha` and `beta`, both dual stack, each the other's peer; everything ends with the test. */
export async function openMcsRig(
  t: Test,
  programs: KubePrograms,
  /** Of kube-controller-manager, besides those that every test cluster has. */
  controllers: readonly string[] = [],
): Promise<{ readonly alpha: McsCluster; readonly beta: McsCluster }> {
  const [alpha, beta] = await Promise.all([
    openCluster(t, { name: 'alpha', id: 1, programs, controllers }),
    openCluster(t, { name: 'beta', id: 2, programs, controllers }),
  ]);
  for (const [one, other] of [
    [alpha, beta],
    [beta, alpha],
  ] as const) {
    await other.apiserver.trust(one.name, one.apiserver.ca);
    await writePeer(one.peersDir, other.name, {
      endpoints: [`https://127.0.0.1:${other.apiserver.gatePort}`],
      ca: other.apiserver.ca.root,
      client: await issueCertificate(one.apiserver.ca, remoteLeaf()),
    });
  }
  await Promise.all([alpha.apiserver.start(), beta.apiserver.start()]);
  for (const { kube } of [alpha, beta]) {
    // Our own definitions, put there by the controllers.
    await waitFor('the definitions', async () => (await kube.send('GET', MCS)).status === 200, {
      intervalMs: 100,
      timeoutMs: 30_000,
    });
  }
  return { alpha, beta };
}

/** Path of one of the manifests that we deliver. */
export function manifest(file: string): string {
  return projectPath(`clustermesh-apiserver/kubernetes/manifests/${file}`);
}

async function openCluster(
  t: Test,
  options: {
    readonly name: string;
    readonly id: number;
    readonly programs: KubePrograms;
    readonly controllers: readonly string[];
  },
): Promise<McsCluster & { readonly peersDir: string }> {
  const { name, id, programs } = options;
  const dir = await openTempDir(`mcs-${name}`);
  t.teardown(() => dir[Symbol.asyncDispose]());
  const kube = await openKubeCluster({
    name,
    programs,
    controllers: [...DEFAULT_CONTROLLERS, ...options.controllers],
    serviceCidrs: [`10.${95 + id}.0.0/16`, `fd00:${95 + id}::/112`],
  });
  t.teardown(() => kube[Symbol.asyncDispose]());
  await kube.kubectl(['apply', ...RBAC.map((file) => `--filename=${manifest(file)}`)]);
  const user = await kube.addUser('clustermesh-apiserver', { namespace: NAMESPACE });
  const etcd = await openEtcdServer();
  t.teardown(() => etcd[Symbol.asyncDispose]());
  const peersDir = dir.file('peers');
  await mkdir(peersDir);
  const ending = new AbortController();
  t.teardown(() => ending.abort());
  const apiserver = await prepareOurApiserver({
    cluster: { name, id },
    etcdEndpoint: etcd.endpoint,
    source: [
      '--mode=any-cni',
      `--kubeconfig=${user.kubeconfig}`,
      `--clustermesh-config=${peersDir}`,
      '--clustermesh-enable-mcs-api',
      '--clustermesh-enable-endpoint-sync',
      '--clustermesh-endpoint-updates-batch-period=50ms',
      '--clustermesh-mcs-api-endpoint-slices=all',
      `--lease-namespace=${NAMESPACE}`,
      '--leader-election-retry-period=300ms',
      '--leader-election-renew-deadline=2s',
      '--leader-election-lease-duration=3s',
    ],
    dir,
    signal: ending.signal,
  });
  t.teardown(() => apiserver[Symbol.asyncDispose]());
  await kube.ask('POST', '/api/v1/nodes', {
    body: {
      metadata: { name: 'n1' },
      spec: { podCIDRs: [`10.${id}.0.0/16`, `fd00:10:${id}::/64`], podCIDR: `10.${id}.0.0/16` },
    },
  });
  await kube.ask('PATCH', '/api/v1/nodes/n1/status', {
    body: { status: { addresses: [{ type: 'InternalIP', address: `192.0.2.${id}` }] } },
    contentType: 'application/merge-patch+json',
  });
  let pods = 0;
  const addPod = async (namespace: string, pod: string): Promise<void> => {
    pods += 1;
    const path = `/api/v1/namespaces/${namespace}/pods`;
    await kube.ask('POST', path, {
      body: {
        metadata: { name: pod, labels: { app: 'hello' } },
        spec: {
          nodeName: 'n1',
          hostname: pod,
          subdomain: 'hello',
          automountServiceAccountToken: false,
          containers: [{ name: 'hello', image: 'hello' }],
        },
      },
    });
    const podIPs = [{ ip: `10.${id}.0.${pods}` }, { ip: `fd00:10:${id}::${pods.toString(16)}` }];
    await kube.ask('PATCH', `${path}/${pod}/status`, {
      body: {
        status: {
          phase: 'Running',
          podIP: podIPs[0]?.ip,
          podIPs,
          conditions: [{ type: 'Ready', status: 'True' }],
        },
      },
      contentType: 'application/merge-patch+json',
    });
  };
  const exportsPath = (namespace: string) => `${MCS}/namespaces/${namespace}/serviceexports`;
  const exportHello = async (namespace: string, spec: object = {}): Promise<void> => {
    await kube.ask('POST', exportsPath(namespace), {
      body: {
        apiVersion: 'multicluster.x-k8s.io/v1beta1',
        kind: 'ServiceExport',
        metadata: { name: 'hello', labels: { own: 'x' }, annotations: { own: 'x' } },
        spec,
      },
    });
  };
  const find = async <T>(path: string): Promise<T | undefined> => {
    const { status, body } = await kube.send('GET', path);
    if (status !== 200 && status !== 404) throw new Error(`GET ${path}: ${status}`);
    return status === 200 ? (body as T) : undefined;
  };

  return {
    name,
    kube,
    apiserver,
    peersDir,
    async deploy(namespace, service) {
      const body = { metadata: { name: namespace } };
      await kube.ask('POST', '/api/v1/namespaces', { body });
      // Pods may be made when the controllers have made the namespace's own account.
      if (service.pods !== undefined) {
        await waitFor(
          'the service account',
          () => find(`/api/v1/namespaces/${namespace}/serviceaccounts/default`),
          { intervalMs: 50 },
        );
      }
      await kube.ask('POST', `/api/v1/namespaces/${namespace}/services`, {
        body: {
          metadata: { name: 'hello', labels: { own: 'x' }, annotations: { own: 'x' } },
          spec: service.spec ?? HELLO_SPEC,
        },
      });
      for (const pod of service.pods ?? []) await addPod(namespace, pod);
      if (service.exported !== false) await exportHello(namespace, service.exported);
    },
    exportHello,
    async unexport(namespace) {
      await kube.ask('DELETE', `${exportsPath(namespace)}/hello`);
    },
    importOf: (namespace) => find<Import>(`${MCS}/namespaces/${namespace}/serviceimports/hello`),
    async conditions(namespace) {
      const found = await find<Import>(`${exportsPath(namespace)}/hello`);
      const conditions = found?.status?.conditions ?? [];
      return Object.fromEntries(
        conditions.map(({ type, status, reason }) => [type, `${status} ${reason}`]),
      );
    },
    async mcsSlices(namespace) {
      const selector = encodeURIComponent(
        'multicluster.kubernetes.io/service-name=hello,multicluster.kubernetes.io/source-cluster',
      );
      const list = (await kube.ask(
        'GET',
        `/apis/discovery.k8s.io/v1/namespaces/${namespace}/endpointslices?labelSelector=${selector}`,
      )) as { items: Slice[] };
      return list.items;
    },
  };
}
