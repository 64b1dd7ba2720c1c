/**
 * The API server and what is before it misbehave: what is known of the cluster is right after each fault, and never passes
 * through empty (issue C; promises 2, 6 and 18).
 */
import { type Test, test } from 'tap';
import { waitFor } from '../lab/wait-for.ts';
import { type KubeCluster, openKubeCluster } from '../peers/kube-cluster.ts';
import { type KubeFaultProxy, openKubeFaultProxy, type SeenRequest } from '../peers/kube-faults.ts';
import { needKube } from '../peers/kube-programs.ts';
import type { KubeUser } from '../peers/kube-user.ts';
import { type FollowedCluster, followCluster } from './followed-cluster.ts';

const kube = needKube(process.env);
const READ_ALL = [{ apiGroups: ['*'], resources: ['*'], verbs: ['get', 'list', 'watch'] }];

test('a cluster is followed through every fault', {
  skip: kube.skip,
  timeout: 120_000,
}, async (t) => {
  const cluster = await openKubeCluster({ name: 'faults', programs: kube.programs });
  t.teardown(() => cluster[Symbol.asyncDispose]());
  const proxy = await openKubeFaultProxy(cluster.endpoint);
  t.teardown(() => proxy[Symbol.asyncDispose]());
  const user = await cluster.addUser('source', { rules: READ_ALL });
  const kubeconfig = await user.kubeconfigAt('proxied', proxy.endpoint);
  await cluster.ask('POST', '/api/v1/namespaces', { body: { metadata: { name: 'demo' } } });
  for (const name of ['a', 'b', 'c']) await putService(cluster, name);
  const followed = await followCluster(kubeconfig, { mode: 'any-cni', limit: 2, silenceMs: 1500 });
  t.teardown(() => followed[Symbol.asyncDispose]());
  const rig: Rig = { cluster, proxy, user, followed, shown: ['kubernetes', 'a', 'b', 'c'] };
  await followed.becomes('Service', 'synced');
  await showsServices(rig);
  for (const fault of FAULTS) {
    await t.test(fault.name, async (child) => {
      followed.fewest('Service');
      await fault.run(rig, child);
      proxy.setFault(undefined);
      await showsServices(rig);
      await followed.becomes('Service', 'synced');
      child.ok(followed.fewest('Service') >= 3, 'it never looked empty');
    });
  }
});

interface Rig {
  readonly cluster: KubeCluster;
  readonly proxy: KubeFaultProxy;
  readonly user: KubeUser;
  readonly followed: FollowedCluster;
  /** Services there are. */
  shown: string[];
}

interface Fault {
  readonly name: string;
  readonly run: (rig: Rig, t: Test) => Promise<void>;
}

const isServices = ({ path }: SeenRequest): boolean => path.startsWith('/api/v1/services');

const FAULTS: readonly Fault[] = [
  {
    name: 'a cut watch: what went and came meanwhile is known after it',
    async run(rig) {
      const { proxy } = rig;
      proxy.setFault((seen) => (isServices(seen) ? { kind: 'answer', status: 503 } : undefined));
      proxy.cutOpen(isServices);
      await rig.followed.becomes('Service', 'failing');
      await remove(rig, 'a');
      await add(rig, 'd');
    },
  },
  {
    name: 'a watch that is silent though its connection stands is opened anew',
    async run(rig, t) {
      const lists = listsOf(rig);
      t.ok(rig.proxy.stallOpen((seen) => isServices(seen) && seen.isWatch) > 0);
      await remove(rig, 'b');
      await add(rig, 'e');
      await showsServices(rig);
      t.ok((serviceReport(rig)?.silences ?? 0) > 0, 'the silence was noticed');
      t.equal(listsOf(rig), lists, 'without another list');
    },
  },
  {
    name: 'a fresh look tells all that the API server has by now, whatever the watches are doing',
    async run(rig, t) {
      rig.proxy.stallOpen();
      await remove(rig, 'e');
      await add(rig, 'l');
      await rig.followed.looks.ask(AbortSignal.timeout(10_000));
      t.same(rig.followed.names('Service'), wantedNames(rig));
    },
  },
  {
    name: 'lists that stall are given up, and watches that never tell anything are replaced by lists',
    async run(rig, t) {
      const { followed, proxy } = rig;
      const before = listsOf(rig);
      proxy.setFault((seen) => (isServices(seen) && seen.isWatch ? { kind: 'stall' } : undefined));
      proxy.cutOpen(isServices);
      await waitFor('the list after the cut', () => listsOf(rig) > before);
      await followed.becomes('Service', 'synced');
      const lists = listsOf(rig);
      await add(rig, 'f');
      await showsServices(rig);
      await waitFor('another list', () => listsOf(rig) > lists);
      t.ok(serviceReport(rig)?.silences, 'after watches that were silent');
    },
  },
  {
    name: 'expired versions, in a watch and in the middle of a list',
    async run(rig) {
      const { proxy } = rig;
      let expired = 0;
      proxy.setFault((seen) => {
        if (!isServices(seen)) return undefined;
        if (seen.isWatch && expired < 2) {
          expired += 1;
          return { kind: 'watch-error', status: 410 };
        }
        if (seen.path.includes('continue=') && expired < 5) {
          expired += 1;
          return { kind: 'answer', status: 410 };
        }
        return undefined;
      });
      proxy.cutOpen(isServices);
      await remove(rig, 'c');
      await add(rig, 'g');
    },
  },
  {
    name: 'the API server asks to be left alone, and is',
    async run(rig, t) {
      const { proxy, followed } = rig;
      proxy.setFault((seen) =>
        isServices(seen) ? { kind: 'answer', status: 429, retryAfterSeconds: 2 } : undefined,
      );
      proxy.forget();
      proxy.cutOpen(isServices);
      await followed.becomes('Service', 'failing');
      await remove(rig, 'd');
      await new Promise((resolve) => setTimeout(resolve, 1500));
      t.ok(proxy.count(/^\/api\/v1\/services$/) <= 2, 'no more than the first try and another');
    },
  },
  {
    name: 'an API server that answers slowly',
    async run(rig) {
      rig.proxy.setFault(() => ({ kind: 'slow', delayMs: 300 }));
      rig.proxy.cutOpen();
      await add(rig, 'h');
    },
  },
  {
    name: 'answers cut in the middle of a page',
    async run(rig) {
      let cuts = 0;
      rig.proxy.setFault((seen) => {
        if (!isServices(seen) || cuts === 4) return undefined;
        cuts += 1;
        return { kind: 'cut', afterBytes: 400 };
      });
      rig.proxy.cutOpen(isServices);
      await remove(rig, 'l');
      await add(rig, 'i');
    },
  },
  {
    name: 'a permission is taken and given back',
    async run({ user, proxy, followed }, t) {
      await user.revoke();
      proxy.cutOpen();
      await followed.becomes('Service', 'forbidden');
      const stale = followed.board.stale.find((line) => line.startsWith('Service')) ?? '';
      t.match(
        stale,
        /may not list services; bind the ClusterRole isthmus-source-any-cni: kubectl create clusterrolebinding .*--serviceaccount=test-users:source/,
      );
      t.notOk(
        followed.board.missing.some((line) => line.startsWith('Service')),
        'what was complete once is not missing',
      );
      await user.grant(READ_ALL);
    },
  },
  {
    name: 'the token is replaced, and the old one is refused',
    async run(rig) {
      await rig.user.rotateToken({ revokeOld: true });
      rig.proxy.cutOpen();
      await add(rig, 'j');
    },
  },
];

function serviceReport({ followed }: Rig) {
  return followed.board.kinds.find(({ kind }) => kind === 'Service');
}

function listsOf(rig: Rig): number {
  return serviceReport(rig)?.lists ?? 0;
}

function wantedNames({ shown }: Rig): string[] {
  return shown
    .map((name) => (name === 'kubernetes' ? 'default/kubernetes' : `demo/${name}`))
    .sort();
}

async function showsServices(rig: Rig): Promise<void> {
  await rig.followed.shows('Service', wantedNames(rig));
}

async function add(rig: Rig, name: string): Promise<void> {
  await putService(rig.cluster, name);
  rig.shown.push(name);
}

async function remove(rig: Rig, name: string): Promise<void> {
  await rig.cluster.ask('DELETE', `/api/v1/namespaces/demo/services/${name}`);
  rig.shown = rig.shown.filter((other) => other !== name);
}

async function putService(cluster: KubeCluster, name: string): Promise<void> {
  await cluster.ask('POST', '/api/v1/namespaces/demo/services', {
    body: { metadata: { name }, spec: { ports: [{ port: 80 }] } },
  });
}
