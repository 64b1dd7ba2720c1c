import { test } from 'tap';
import { systemClock } from '../../mesh/runtime/clock.ts';
import type { KubernetesObject } from '../lab/kubernetes-object.ts';
import type { Lab } from '../lab/lab.ts';
import { addOutsider } from '../lab/outsider.ts';
import { labSkipReason } from '../lab/preflight.ts';
import { urlOf } from './mesh.ts';
import {
  addressOf,
  allPairs,
  call,
  NAMESPACE,
  openVmLab,
  PORT,
  policyFor,
  reachable,
  those,
  vmTopology,
} from './vm-lab.ts';

const skip = labSkipReason(process.env);
/** On a quiet machine five seconds are the budget; `npm run bench -- vm-join` measures it. */
const FIRST_ANSWER_MS = 60_000;

/** Objects of each cluster, and the pairs with a machine that they leave. */
interface PolicyCase {
  readonly what: string;
  readonly objects: Readonly<Record<'alpha' | 'beta', readonly KubernetesObject[]>>;
  readonly refused: (from: string, to: string) => boolean;
}

const CASES: readonly PolicyCase[] = [
  {
    what: 'what may come to machines',
    objects: {
      alpha: [
        policyFor('db', {
          ingress: [{ fromEndpoints: [those('client'), those('cache', 'beta')] }],
        }),
      ],
      // As Kubernetes has it: of the own cluster, by labels of pods.
      beta: [
        {
          apiVersion: 'networking.k8s.io/v1',
          kind: 'NetworkPolicy',
          metadata: { name: 'cache', namespace: NAMESPACE },
          spec: {
            podSelector: { matchLabels: { app: 'cache' } },
            policyTypes: ['Ingress'],
            ingress: [{ from: [{ podSelector: { matchLabels: { app: 'friend' } } }] }],
          },
        },
      ],
    },
    refused: (from, to) =>
      (to === 'db' && !['client', 'cache'].includes(from)) || (to === 'cache' && from !== 'friend'),
  },
  {
    what: 'where machines may call',
    objects: {
      alpha: [policyFor('db', { egress: [{ toEndpoints: [those('web', 'beta')] }] })],
      beta: [policyFor('cache', { egress: [{ toEndpoints: [those('db', 'alpha')] }] })],
    },
    refused: (from, to) =>
      (from === 'db' && to !== 'web-beta') || (from === 'cache' && to !== 'db'),
  },
  {
    what: 'what machines may do with pods',
    objects: {
      alpha: [policyFor('client', { ingress: [{ fromEndpoints: [those('cache', 'beta')] }] })],
      beta: [policyFor('web', { egress: [{ toEndpoints: [those('db', 'alpha')] }] })],
    },
    refused: (from, to) =>
      (to === 'client' && from !== 'cache') || (from === 'web-beta' && to !== 'db'),
  },
  {
    what: 'denied by name, and everybody else let in',
    objects: {
      alpha: [
        policyFor('db', {
          ingress: [{ fromEntities: ['all'] }],
          ingressDeny: [{ fromEndpoints: [those('cache', 'beta'), those('client')] }],
        }),
      ],
      beta: [
        policyFor('cache', {
          egress: [{ toEntities: ['all'] }],
          egressDeny: [{ toEndpoints: [those('web'), those('client', 'alpha')] }],
        }),
      ],
    },
    refused: (from, to) =>
      (to === 'db' && ['cache', 'client'].includes(from)) ||
      (from === 'cache' && ['web-beta', 'client'].includes(to)),
  },
];

test('machines of two clusters', { skip, timeout: 300_000 }, async (t) => {
  const topology = vmTopology();
  const late = {
    name: 'late',
    cluster: 'alpha',
    namespace: NAMESPACE,
    labels: { app: 'late' },
    joined: false,
  };
  const twin = { ...late, name: 'twin', cluster: 'beta' };
  await using lab = await openVmLab({
    ...topology,
    machines: [...(topology.machines ?? []), late, twin],
  });
  const outsider = await addOutsider(lab);
  const db = lab.machine('db');
  // A copy of `cache` tries to be it from here on, all through the policies.
  const copy = lab.machine('twin');
  await copy.becomeCopyOf(lab.machine('cache'));
  await copy.agent.start();

  await t.test('pods and machines reach each other, over both families', async (t) => {
    t.same(await settledPairs(lab, allPairs()), { 4: allPairs(), 6: allPairs() });
  });

  await t.test('each sees the other by its own address', async (t) => {
    for (const family of [4, 6] as const) {
      const toDb = urlOf(addressOf(lab, 'db', family), PORT);
      t.equal(await call(lab, 'client', toDb), `db ${addressOf(lab, 'client', family)}`);
      t.equal(await call(lab, 'friend', toDb), `db ${addressOf(lab, 'friend', family)}`);
      t.equal(await call(lab, 'cache', toDb), `db ${addressOf(lab, 'cache', family)}`);
      const toWeb = urlOf(addressOf(lab, 'web-beta', family), PORT);
      t.equal(await call(lab, 'db', toWeb), `web-beta ${addressOf(lab, 'db', family)}`);
      const toClient = urlOf(addressOf(lab, 'client', family), PORT);
      t.equal(await call(lab, 'db', toClient), `client ${addressOf(lab, 'db', family)}`);
    }
  });

  await t.test('full packets and pings pass both ways', async (t) => {
    for (const family of [4, 6] as const) {
      for (const [from, to] of [
        ['client', 'db'],
        ['friend', 'db'],
        ['db', 'client'],
        ['db', 'web-beta'],
        ['db', 'cache'],
      ] as const) {
        const bytes = urlOf(addressOf(lab, to, family), PORT, '/bytes?count=1000000');
        const size = ['-o', '/dev/null', '-w', '%{size_download}'];
        const argv = ['curl', '-sS', '--max-time', '20', ...size, bytes];
        const ran = await (from === 'db' ? db.exec(argv) : lab.exec(from, argv));
        t.equal(ran.stdout, '1000000', `${from} > ${to} over IPv${family}: ${ran.stderr}`);
        const ping = ['ping', '-c', '1', '-W', '5', addressOf(lab, to, family)];
        const { code } = await (from === 'db' ? db.exec(ping) : lab.exec(from, ping));
        t.equal(code, 0, `ICMP ${from} > ${to} over IPv${family}`);
      }
    }
  });

  await t.test('a service of machines is called from everywhere', async (t) => {
    for (const family of [4, 6] as const) {
      for (const [from, cluster] of [
        ['client', 'alpha'],
        ['friend', 'beta'],
        ['cache', 'beta'],
      ] as const) {
        const url = urlOf(lab.clusterIp(cluster, 'db', family), 80);
        const answer = await lab.waitFor(`an answer of db to ${from}`, async () => {
          const said = await call(lab, from, url);
          return said.startsWith('db ') && said;
        });
        t.equal(answer, `db ${addressOf(lab, from, family)}`, `over IPv${family}`);
      }
    }
  });

  for (const { what, objects, refused } of CASES) {
    await t.test(`policy: ${what}`, async (t) => {
      const left = allPairs().filter((pair) => {
        const [from = '', to = ''] = pair.split(' > ');
        return !refused(from, to);
      });
      await setPolicies(lab, objects, 'write');
      t.same(await settledPairs(lab, left), { 4: left, 6: left });
      // Who is no part of the mesh is not judged, however strict the policies are.
      for (const address of db.addresses) {
        const ordinary = await outsider.exec(['curl', '-sS', '-m', '5', urlOf(address, PORT)]);
        t.match(ordinary.stdout, /^db (172\.31\.2\.1|fd00:31::2:1)\n$/, ordinary.stderr);
      }
      await setPolicies(lab, objects, 'remove');
      t.same(
        await settledPairs(lab, allPairs()),
        { 4: allPairs(), 6: allPairs() },
        'and open again',
      );
    });
  }

  await t.test('a copy of a machine is refused while that one lives, loudly', async (t) => {
    const refusal = await lab.waitFor('the copy to be refused', async () => {
      const { registry } = await copy.agent.status();
      return registry?.healthy === false && /cloned/.test(registry.text) && registry.text;
    });
    t.comment(refusal);
    t.match((await lab.administer('beta', ['list'])).stdout, /cloned/);
    t.equal((await lab.machine('cache').agent.status()).registry?.healthy, true);
    for (const node of ['alpha-1', 'beta-1']) {
      const prefixes = (await lab.agent(node).map('ipcache')).map(({ prefix }) => prefix);
      t.ok(prefixes.includes(`${lab.machine('cache').ip()}/32`), `${node} has the machine`);
      t.notOk(prefixes.includes(`${copy.ip()}/32`), `${node} has not its copy`);
    }
    t.match(await call(lab, 'client', urlOf(addressOf(lab, 'cache', 4), PORT)), /^cache /);
    await copy.agent.kill();
  });

  await t.test('ordinary traffic of a machine is as it was before it joined', async (t) => {
    const machine = lab.machine('late');
    await machine.startServer({ tcp: [22] });
    await outsider.startServer({ tcp: [PORT] });
    const [gateway4, gateway6] = outsider.addresses;
    await machine.exec(['ip', '-4', 'route', 'add', 'default', 'via', gateway4]);
    await machine.exec(['ip', '-6', 'route', 'add', 'default', 'via', gateway6]);
    const routes = async (): Promise<string> => {
      const show = 'ip -4 route show default; ip -6 route show default; ip rule; ip -6 rule';
      return (await machine.exec(['sh', '-c', show])).stdout;
    };
    const before = await routes();
    // As an operator's ssh: it began before the machine joined, and goes on over all of it.
    const long = machine.ip(4);
    const session = outsider.exec(
      ['curl', '-sS', '--no-buffer', '-m', '60', urlOf(long, 22, '/slow?seconds=6')],
      { timeoutMs: 90_000 },
    );

    const web = urlOf(lab.clusterIp('alpha', 'web'), 80);
    const token = await machine.createToken();
    const began = systemClock.monotonic();
    const { joinedMs, agentMs } = await machine.join({ token });
    const answer = await lab.waitFor('the first answer of a global service', async () => {
      const { code, stdout } = await machine.exec(['curl', '-sS', '-m', '1', web]);
      return code === 0 && stdout;
    });
    const firstMs = systemClock.monotonic() - began;
    t.match(answer, /^web-(alpha|beta) /);
    t.ok(firstMs < FIRST_ANSWER_MS, `first answer after ${Math.round(firstMs)} ms`);
    t.comment(
      `from the command: joined ${Math.round(joinedMs)} ms, agent ${Math.round(agentMs)} ms, first answer ${Math.round(firstMs)} ms`,
    );

    t.equal(await routes(), before, 'its default routes and rules');
    for (const [index, address] of machine.addresses.entries()) {
      const behind = outsider.beyond[index] ?? '';
      const out = await machine.exec(['curl', '-sS', '-m', '5', urlOf(behind, PORT)]);
      t.equal(out.stdout, `outsider ${address}\n`, `out by the default route: ${out.stderr}`);
      const from = outsider.addresses[index] ?? '';
      const back = await outsider.exec(['curl', '-sS', '-m', '5', urlOf(address, 22)]);
      t.equal(back.stdout, `late ${from}\n`, `in from elsewhere: ${back.stderr}`);
    }
    const ended = await session;
    t.equal(ended.code, 0, ended.stderr);
    t.match(ended.stdout, /\nend\n$/, 'the session that was there before goes on');
  });

  await t.test('a backend on a machine that fails its check is not used', async (t) => {
    const address = lab.clusterIp('beta', 'db');
    const backends = async (): Promise<unknown[]> => {
      const rows = await lab.agent('beta-1').map('services');
      const row = rows.find((one) => one.address === address && one.port === 80);
      return row === undefined ? [] : (row.backends as unknown[]);
    };
    t.equal((await backends()).length, 1, 'it is there');
    await db.stopServers();
    await lab.waitFor('the backend to be withdrawn', async () => (await backends()).length === 0);
    t.notMatch(await call(lab, 'friend', urlOf(address, 80)), /^db /);
    const { stdout } = await lab.administer('alpha', ['status', 'db']);
    t.match(stdout, /8080/, 'the check that fails is named');
    await db.startServer({ tcp: [PORT] });
    await lab.waitFor('the backend to be used again', async () =>
      (await call(lab, 'friend', urlOf(address, 80))).startsWith('db '),
    );
  });
});

/** Who reaches whom over each family, as soon as it is what is expected, or after a while. */
async function settledPairs(
  lab: Lab,
  expected: readonly string[],
): Promise<Readonly<Record<4 | 6, readonly string[]>>> {
  let found: Record<4 | 6, readonly string[]> = { 4: [], 6: [] };
  const look = async (): Promise<boolean> => {
    const [v4, v6] = await Promise.all([reachable(lab, 4), reachable(lab, 6)]);
    found = { 4: v4, 6: v6 };
    return [v4, v6].every((pairs) => pairs.join() === expected.join());
  };
  await lab.waitFor('the pairs that are left', look, { timeoutMs: 30_000 }).catch(() => undefined);
  return found;
}

async function setPolicies(
  lab: Lab,
  objects: PolicyCase['objects'],
  how: 'write' | 'remove',
): Promise<void> {
  for (const cluster of ['alpha', 'beta'] as const) {
    for (const object of objects[cluster]) await lab.apiserver(cluster).manifests[how](object);
  }
}
