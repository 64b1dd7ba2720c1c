/**
 * The Multi-Cluster Services API by packets: two clusters with a real API server each, names by the real CoreDNS asked from
 * inside pods, connections between pods. The numbers are those of the upstream conformance list.
 */
import { type Test, test } from 'tap';
import type { Lab } from '../lab/lab.ts';
import { type NameServer, startNameServer } from '../lab/name-server.ts';
import { labSkipReason } from '../lab/preflight.ts';
import { parseTopology } from '../lab/topology.ts';
import { corednsPeer } from '../peers/coredns.ts';
import { needKube } from '../peers/kube-programs.ts';
import { needPeers } from '../peers/peer-binary.ts';
import { curl, curlMany, openMesh, urlOf } from './mesh.ts';

const skip =
  labSkipReason(process.env) ||
  needKube(process.env).skip ||
  needPeers([corednsPeer], process.env).skip;

const NAMESPACE = 'shop';
const BOTH = ['server-alpha', 'server-beta'];

const cluster = (name: string, id: number) => ({
  name,
  id,
  podCidrs: [`10.${id}.0.0/16`, `fd00:10:${id}::/48`],
  serviceCidrs: [`10.${100 + id}.0.0/16`, `fd00:${100 + id}::/112`],
  nodes: [`${name}-1`],
  objects: 'kubernetes' as const,
  mcs: true,
});
const pod = (role: 'client' | 'server', of: string) => ({
  name: `${role}-${of}`,
  node: `${of}-1`,
  namespace: NAMESPACE,
  labels: { app: role },
  role,
  ports: role === 'server' ? [{ name: 'http', port: 8080 }] : [],
});
/** One service for each case, all with the same pods behind them; `ports` by name. */
const service = (name: string, clusters: readonly string[], ports: Record<string, number>) => ({
  name,
  namespace: NAMESPACE,
  clusters: [...clusters],
  selector: { app: 'server' },
  ports: Object.entries(ports).map(([port, number]) => ({
    name: port,
    port: number,
    targetPort: 8080,
  })),
});

const TOPOLOGY = parseTopology({
  clusters: [cluster('alpha', 1), cluster('beta', 2)],
  pods: ['alpha', 'beta'].flatMap((name) => [pod('client', name), pod('server', name)]),
  services: [
    service('secret', ['beta'], { http: 80 }),
    service('remote', ['beta'], { http: 80 }),
    service('partly', ['alpha', 'beta'], { http: 80 }),
    service('both', ['alpha', 'beta'], { http: 80 }),
  ],
});

/** Services that differ between the clusters, which a topology's cannot. */
const OTHERS = {
  alpha: [
    { name: 'clash', ports: { http: 80 } },
    { name: 'split', ports: { one: 81 } },
    { name: 'headless', ports: { http: 8080 } },
  ],
  beta: [
    { name: 'clash', ports: { http: 90 } },
    { name: 'split', ports: { two: 82 } },
    { name: 'headless', ports: { http: 8080 } },
  ],
} as const;

async function deploy(lab: Lab, of: 'alpha' | 'beta', exported: readonly string[]): Promise<void> {
  const { manifests } = lab.kubernetes(of);
  const services = OTHERS[of].map(({ name, ports }) => ({
    apiVersion: 'v1',
    kind: 'Service',
    metadata: { name, namespace: NAMESPACE },
    spec: {
      selector: { app: 'server' },
      ipFamilyPolicy: 'PreferDualStack',
      ...(name === 'headless' ? { clusterIP: 'None' } : {}),
      ports: Object.entries(ports).map(([port, number]) => ({
        name: port,
        port: number,
        targetPort: 8080,
      })),
    },
  }));
  const exports = exported.map((name) => ({
    apiVersion: 'multicluster.x-k8s.io/v1beta1',
    kind: 'ServiceExport',
    metadata: { name, namespace: NAMESPACE },
  }));
  await manifests.writeAll([...services, ...exports]);
}

const nameOf = (name: string, zone = 'clusterset'): string =>
  `${name}.${NAMESPACE}.svc.${zone}.local`;

/** A pod of a cluster that asks the cluster's own name server. */
interface Caller {
  readonly lab: Lab;
  readonly names: NameServer;
  readonly pod: string;
}

/** Addresses of a name, waiting for `count` of them. */
async function addressesOf(
  { lab, names, pod: from }: Caller,
  name: string,
  options: { readonly count?: number; readonly type?: 'A' | 'AAAA' } = {},
): Promise<readonly string[]> {
  const { count = 1, type = 'A' } = options;
  let last: readonly string[] = [];
  await lab
    .waitFor(`${count} addresses of ${name}`, async () => {
      last = await names.resolve(from, name, type);
      return last.length === count;
    })
    .catch((cause: unknown) => {
      throw new Error(`${name} has ${last.join(', ') || 'no address'}`, { cause });
    });
  return last;
}

/** Waits until requests to an address are answered by these pods; then many more are, by nobody else, and none is lost. */
async function answeredBy(
  t: Test,
  { lab, pod: from }: Caller,
  expected: { readonly url: string; readonly pods: readonly string[]; readonly why: string },
): Promise<void> {
  const { url, pods, why } = expected;
  await lab
    .waitFor(why, async () => {
      const { byPod } = await curlMany(lab, from, { url, times: 10 });
      return String(Object.keys(byPod).sort()) === String(pods);
    })
    .catch(() => undefined);
  const { byPod, failed } = await curlMany(lab, from, { url, times: 40 });
  t.same(Object.keys(byPod).sort(), pods, why);
  t.equal(failed, 0, `${why}: nothing is lost`);
}

test('multi-cluster services by packets', { skip, timeout: 180_000 }, async (t) => {
  await using lab = await openMesh(TOPOLOGY);
  const exported = ['partly', 'both', 'clash', 'split', 'headless'];
  // Of conflicting ports the oldest export's count: alpha is first.
  await deploy(
    lab,
    'alpha',
    exported.filter((name) => name !== 'partly'),
  );
  // Ages are told in seconds.
  const second = Math.floor(Date.now() / 1000);
  await lab.waitFor('the next second', () => Math.floor(Date.now() / 1000) > second);
  await deploy(lab, 'beta', ['remote', ...exported]);
  await using namesOfAlpha = await startNameServer(lab, 'alpha');
  await using namesOfBeta = await startNameServer(lab, 'beta');
  const alpha: Caller = { lab, names: namesOfAlpha, pod: 'client-alpha' };
  const beta: Caller = { lab, names: namesOfBeta, pod: 'client-beta' };

  await t.test('24: an exported Service is reached by its name, over both families', async (t) => {
    for (const type of ['A', 'AAAA'] as const) {
      const [ip = ''] = await addressesOf(alpha, nameOf('remote'), { type });
      const why = `a Service of beta from alpha by ${type}`;
      await answeredBy(t, alpha, { url: urlOf(ip, 80), pods: ['server-beta'], why });
    }
    const [ip = ''] = await addressesOf(beta, nameOf('remote'));
    const why = 'and from the cluster that exports it';
    await answeredBy(t, beta, { url: urlOf(ip, 80), pods: ['server-beta'], why });
  });

  await t.test('18: a Service of both clusters is one, from each of them', async (t) => {
    for (const caller of [alpha, beta]) {
      const [ip = ''] = await addressesOf(caller, nameOf('both'));
      await answeredBy(t, caller, { url: urlOf(ip, 80), pods: BOTH, why: `from ${caller.pod}` });
    }
  });

  await t.test('25, 20: of a Service in two clusters the exported one alone', async (t) => {
    const [ip = ''] = await addressesOf(alpha, nameOf('partly'));
    const why = 'its name in the cluster set is for who exports it';
    await answeredBy(t, alpha, { url: urlOf(ip, 80), pods: ['server-beta'], why });
    const [local = ''] = await addressesOf(alpha, nameOf('partly', 'cluster'));
    const stays = 'its name in the cluster stays what it was';
    await answeredBy(t, alpha, { url: urlOf(local, 80), pods: ['server-alpha'], why: stays });
  });

  await t.test('26: of two numbers for one port the older counts', async (t) => {
    for (const caller of [alpha, beta]) {
      const [ip = ''] = await addressesOf(caller, nameOf('clash'));
      const why = `who has that number is reached from ${caller.pod}`;
      await answeredBy(t, caller, { url: urlOf(ip, 80), pods: ['server-alpha'], why });
      t.not((await curl(lab, caller.pod, urlOf(ip, 90))).code, 0, 'the other number is none');
    }
  });

  await t.test('27: ports of different names are each routed to who has them', async (t) => {
    for (const caller of [alpha, beta]) {
      const [ip = ''] = await addressesOf(caller, nameOf('split'));
      for (const [port, server] of [
        [81, 'server-alpha'],
        [82, 'server-beta'],
      ] as const) {
        const why = `port ${port} from ${caller.pod}`;
        await answeredBy(t, caller, { url: urlOf(ip, port), pods: [server], why });
      }
    }
  });

  await t.test('21: a headless name is its pods in both clusters, each reached', async (t) => {
    for (const caller of [alpha, beta]) {
      const found = await addressesOf(caller, nameOf('headless'), { count: 2 });
      t.same(found, BOTH.map((name) => lab.pod(name).ip()).sort());
      for (const ip of found) {
        const answer = (await curl(lab, caller.pod, urlOf(ip, 8080))).stdout;
        const server = BOTH.find((name) => String(lab.pod(name).ip()) === ip);
        t.equal(answer, `${server} ${lab.pod(caller.pod).ip()}\n`);
      }
    }
  });

  await t.test('1: what is not exported has no name and no address elsewhere', async (t) => {
    t.same(await namesOfAlpha.resolve('client-alpha', nameOf('secret')), []);
    t.same(await namesOfAlpha.resolve('client-alpha', nameOf('secret', 'cluster')), []);
    const ip = lab.clusterIp('beta', 'secret');
    t.not((await curl(lab, 'client-alpha', urlOf(ip, 80))).code, 0, 'nor is its address reached');
    const own = await curl(lab, 'client-beta', urlOf(ip, 80));
    t.match(own.stdout, /^server-beta /, 'as it is in its own cluster');
  });

  await t.test('2, 3: when it is not exported any more, it is reached no more', async (t) => {
    const [ip = ''] = await addressesOf(alpha, nameOf('remote'));
    const { kubectl } = lab.kubernetes('beta');
    const resource = 'serviceexports.multicluster.x-k8s.io';
    await kubectl(['delete', resource, 'remote', '--namespace', NAMESPACE]);
    await addressesOf(alpha, nameOf('remote'), { count: 0 });
    await lab.waitFor(
      'its address to be nobody',
      async () => (await curl(lab, 'client-alpha', urlOf(ip, 80))).code !== 0,
    );
    t.pass('it is gone');
  });
});
