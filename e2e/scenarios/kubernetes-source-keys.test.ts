/**
 * What is published of a cluster through faults of its API server: the keys in etcd are right after each, and at no moment
 * less of them than there must be (issue C; promises 2 and 6).
 */
import { type Test, test } from 'tap';
import type { KubernetesProgress } from '../../clustermesh-apiserver/cluster-source.ts';
import {
  type PublishedCluster,
  publishCluster,
} from '../../clustermesh-apiserver/publish-cluster.ts';
import { openEtcd } from '../../mesh/kvstore/etcd.ts';
import type { KvStore } from '../../mesh/kvstore/kvstore.ts';
import { systemClock } from '../../mesh/runtime/clock.ts';
import { createLogger } from '../../mesh/runtime/log.ts';
import { openEtcdServer } from '../../mesh/testing/etcd-server.ts';
import { parseClusterId, parseClusterName } from '../../mesh/wire/ids.ts';
import { waitFor } from '../lab/wait-for.ts';
import { type KubeCluster, openKubeCluster } from '../peers/kube-cluster.ts';
import { crdFiles, crdPeers } from '../peers/kube-crds.ts';
import { type KubeFaultProxy, openKubeFaultProxy } from '../peers/kube-faults.ts';
import { needKube } from '../peers/kube-programs.ts';
import type { KubeUser } from '../peers/kube-user.ts';
import { needPeers } from '../peers/peer-binary.ts';

const kube = needKube(process.env);
const { skip } = needPeers(crdPeers, process.env);
const READ_ALL = [{ apiGroups: ['*'], resources: ['*'], verbs: ['get', 'list', 'watch'] }];
const STATE = 'cilium/state/';
/** Pods that are never touched: less than their keys must never be there. */
const STEADY = 5;

interface Rig {
  readonly cluster: KubeCluster;
  readonly proxy: KubeFaultProxy;
  readonly user: KubeUser;
  readonly store: KvStore;
  readonly published: PublishedCluster;
  /** How the reading is getting on. */
  look: () => KubernetesProgress | undefined;
  /** Numbers of the pods there are. */
  pods: number[];
}

test('keys are right after every fault of the API server', {
  skip: kube.skip || skip,
  timeout: 120_000,
}, async (t) => {
  const cluster = await openKubeCluster({ name: 'keys', programs: kube.programs });
  t.teardown(() => cluster[Symbol.asyncDispose]());
  await cluster.installCrds([
    'ciliumnodes',
    'ciliumidentities',
    'ciliumendpoints',
    'ciliumendpointslices',
    'ciliumnetworkpolicies',
    'ciliumclusterwidenetworkpolicies',
    'ciliumcidrgroups',
  ]);
  const proxy = await openKubeFaultProxy(cluster.endpoint);
  t.teardown(() => proxy[Symbol.asyncDispose]());
  const etcd = await openEtcdServer();
  t.teardown(() => etcd[Symbol.asyncDispose]());
  const store = await openEtcd({ endpoints: [etcd.endpoint] });
  t.teardown(() => store[Symbol.asyncDispose]());
  const user = await cluster.addUser('source', { rules: READ_ALL });
  await cluster.ask('POST', '/api/v1/namespaces', { body: { metadata: { name: 'demo' } } });
  const ending = new AbortController();
  let look: Rig['look'] = () => undefined;
  const published = await publishCluster(
    {
      kind: 'kubernetes',
      kubeconfig: await user.kubeconfigAt('proxied', proxy.endpoint),
      mode: 'auto',
      serviceExports: false,
      patience: { backoffMs: { min: 50, max: 500 }, silenceMs: 1500 },
    },
    {
      store,
      leaseTtlSeconds: 900,
      cluster: { name: parseClusterName('alpha'), id: parseClusterId(1, 255) },
      maxConnectedClusters: 255,
      clock: systemClock,
      logger: createLogger('keys', { level: 'silent' }),
      signal: ending.signal,
      replica: 'test',
      prepare: () => Promise.resolve(),
      onProgress: (now) => {
        look = now;
      },
    },
  );
  t.teardown(async () => {
    ending.abort();
    await published[Symbol.asyncDispose]();
  });
  t.equal(published.mode, 'cilium', 'found by its definitions');
  const rig: Rig = { cluster, proxy, user, store, published, look, pods: [] };
  for (let number = 1; number <= STEADY; number += 1) await addPod(rig, number);
  await keysAreRight(rig);
  await allFollowed(rig);
  const fewest = countFewest(t, store);
  for (const fault of FAULTS) {
    await t.test(fault.name, async (child) => {
      await fault.run(rig, child);
      proxy.setFault(undefined);
      await keysAreRight(rig);
      await allFollowed(rig);
      child.equal(fewest(), STEADY, 'no key was missing meanwhile');
    });
  }
});

const FAULTS: readonly {
  readonly name: string;
  readonly run: (rig: Rig, t: Test) => Promise<void>;
}[] = [
  {
    name: 'every answer is 500, then 429, while pods come and go',
    async run(rig) {
      for (const [index, status] of [500, 429].entries()) {
        rig.proxy.setFault(() => ({ kind: 'answer', status, retryAfterSeconds: 1 }));
        rig.proxy.cutOpen();
        await addPod(rig, 10 + index);
        if (index > 0) await removePod(rig, 9 + index);
      }
    },
  },
  {
    name: 'all watches are silent, while a pod goes and its address comes back with another',
    async run(rig) {
      rig.proxy.stallOpen();
      await removePod(rig, 11);
      await addPod(rig, 12);
    },
  },
  {
    name: 'every version has expired',
    async run(rig) {
      let left = 20;
      rig.proxy.setFault((seen) => {
        left -= 1;
        if (left < 0) return undefined;
        return seen.isWatch
          ? { kind: 'watch-error', status: 410 }
          : { kind: 'answer', status: 410 };
      });
      rig.proxy.cutOpen();
      await addPod(rig, 13);
    },
  },
  {
    name: 'permissions are taken, and given back',
    async run(rig) {
      await rig.user.revoke();
      rig.proxy.cutOpen();
      await removePod(rig, 12);
      await addPod(rig, 14);
      await rig.user.grant(READ_ALL);
    },
  },
  {
    name: 'the definitions of endpoints and identities are deleted, and made anew (promise 6)',
    async run(rig, t) {
      const names = ['ciliumendpoints', 'ciliumidentities'];
      const files = await crdFiles(names);
      await rig.cluster.kubectl(['delete', ...files.flatMap((file) => ['-f', file])]);
      await waitFor('both to be missed', () => {
        const progress = rig.look();
        return progress?.kind === 'reading' && progress.stale.length === 2;
      });
      t.same(rig.published.missing, [], 'what was complete once is not missing');
      await keysAreRight(rig);
      await rig.cluster.installCrds(names);
      const pods = rig.pods;
      rig.pods = [];
      for (const number of pods) await addPod(rig, number, { others: false });
      t.same(rig.pods, pods);
    },
  },
  {
    name: 'the API server restarts',
    async run(rig) {
      await rig.cluster.stop('SIGKILL');
      await rig.cluster.start();
      await addPod(rig, 15);
    },
  },
  {
    name: 'an older backup is restored',
    async run(rig) {
      const file = await rig.cluster.backUp();
      const before = [...rig.pods];
      await removePod(rig, 15);
      await addPod(rig, 16);
      await keysAreRight(rig);
      await rig.cluster.restore(file);
      rig.pods = before;
    },
  },
];

/** A pod with an identity, a node and a global Service of its own, as Cilium's agents and operator write them. */
async function addPod(
  rig: Rig,
  number: number,
  { others = true }: { readonly others?: boolean } = {},
): Promise<void> {
  const { cluster } = rig;
  const cilium = (kind: string, name: string, rest: object) => ({
    apiVersion: 'cilium.io/v2',
    kind,
    metadata: { name },
    ...rest,
  });
  const base = '/apis/cilium.io/v2';
  await cluster.ask('POST', `${base}/ciliumidentities`, {
    body: cilium('CiliumIdentity', String(identityOf(number)), {
      'security-labels': {
        'k8s:app': `app-${number}`,
        'k8s:io.kubernetes.pod.namespace': 'demo',
        'k8s:io.cilium.k8s.policy.cluster': 'alpha',
      },
    }),
  });
  // The API server cuts a status off that is not written on its own path, where a kind has one.
  const endpoint = cilium('CiliumEndpoint', `pod-${number}`, {
    status: {
      id: number,
      identity: { id: identityOf(number), labels: [] },
      networking: { addressing: [{ ipv4: addressOf(number) }], node: '192.0.2.1' },
    },
  });
  await cluster.ask('POST', `${base}/namespaces/demo/ciliumendpoints`, { body: endpoint });
  if (others) {
    await cluster.ask('POST', `${base}/ciliumnodes`, {
      body: cilium('CiliumNode', `node-${number}`, {
        spec: { addresses: [{ type: 'InternalIP', ip: `192.0.2.${number}` }] },
      }),
    });
    await cluster.ask('POST', '/api/v1/namespaces/demo/services', {
      body: {
        metadata: { name: `svc-${number}`, annotations: { 'service.cilium.io/global': 'true' } },
        spec: { ports: [{ port: 80 }] },
      },
    });
  }
  rig.pods.push(number);
}

async function removePod(rig: Rig, number: number): Promise<void> {
  const { cluster } = rig;
  for (const path of [
    `/apis/cilium.io/v2/namespaces/demo/ciliumendpoints/pod-${number}`,
    `/apis/cilium.io/v2/ciliumidentities/${identityOf(number)}`,
    `/apis/cilium.io/v2/ciliumnodes/node-${number}`,
    `/api/v1/namespaces/demo/services/svc-${number}`,
  ]) {
    await cluster.ask('DELETE', path);
  }
  rig.pods = rig.pods.filter((other) => other !== number);
}

const identityOf = (number: number): number => 65_536 + 256 + number;
const addressOf = (number: number): string => `10.1.0.${number}`;

function keysOf(number: number): string[] {
  return [
    `${STATE}identities/v1/id/${identityOf(number)}`,
    `${STATE}ip/v1/default/${addressOf(number)}`,
    `${STATE}nodes/v1/alpha/node-${number}`,
    `${STATE}services/v1/alpha/demo/svc-${number}`,
  ];
}

/** Waits until every kind is followed: what breaks then breaks watches, not lists. */
async function allFollowed({ look }: Rig): Promise<void> {
  await waitFor('every kind to be followed', () => {
    const progress = look();
    return progress?.kind === 'reading' && progress.kinds.every(({ state }) => state === 'synced');
  });
}

async function keysAreRight({ store, pods }: Rig): Promise<void> {
  const wanted = pods.flatMap(keysOf).sort().join('\n');
  let seen = '';
  await waitFor('the keys to be right', async () => {
    seen = (await store.keys(STATE)).keys.join('\n');
    return seen === wanted;
  }).catch((error: unknown) => {
    throw new Error(`wanted\n${wanted}\nbut there is\n${seen}`, { cause: error });
  });
}

/** Tells how many of the untouched pods' had all their keys, at the worst moment since it was last asked. */
function countFewest(t: Test, store: KvStore): () => number {
  const ending = new AbortController();
  const keys = new Set<string>();
  const whole = (): number => {
    let count = 0;
    for (let number = 1; number <= STEADY; number += 1) {
      if (keysOf(number).every((key) => keys.has(key))) count += 1;
    }
    return count;
  };
  let fewest = Number.POSITIVE_INFINITY;
  let listed = false;
  const watching = (async () => {
    for await (const event of store.watch({ prefix: STATE }, { signal: ending.signal })) {
      if (event.kind === 'put') keys.add(event.pair.key);
      else if (event.kind === 'delete') keys.delete(event.key);
      else if (event.kind === 'synced') listed = true;
      if (listed) fewest = Math.min(fewest, whole());
    }
  })();
  t.teardown(async () => {
    ending.abort();
    await watching.catch(() => undefined);
  });
  return () => {
    const least = fewest;
    fewest = whole();
    return least;
  };
}
