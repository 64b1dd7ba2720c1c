/** Containers behind a machine, on a bridge of its own, as endpoints by their addresses: real packets, both families, both ways. */
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { type Test, test } from 'tap';
import { type CommandResult, execute, ipBatch, run } from '../lab/command.ts';
import { startEcho } from '../lab/echo-process.ts';
import type { Lab } from '../lab/lab.ts';
import { labSkipReason } from '../lab/preflight.ts';
import { urlOf } from './mesh.ts';
import { addressOf, call, openVmLab, PORT, policyFor, those, vmTopology } from './vm-lab.ts';

const skip = labSkipReason(process.env);
const FAMILIES = [4, 6] as const;
/** A network that nobody else has, as container runtimes choose one. */
const ADDRESS = { 4: '172.18.0.2', 6: 'fd00:172:18::2' } as const;
const GATEWAY = { 4: '172.18.0.1', 6: 'fd00:172:18::1' } as const;

test('containers behind a machine', { skip, timeout: 300_000 }, async (t) => {
  await using lab = await openVmLab(vmTopology());
  const db = lab.machine('db');
  const app = await openContainer(t, lab);
  const endpoint = (...args: string[]): Promise<CommandResult> =>
    lab.administer('alpha', ['endpoint', ...args]);
  const addresses = ['--address', `${ADDRESS[4]},${ADDRESS[6]}`];
  /** Whether a place is answered by the container, over both families. */
  const reach = async (from: Parameters<typeof call>[1]): Promise<string[]> =>
    Promise.all(FAMILIES.map((family) => call(lab, from, urlOf(ADDRESS[family], PORT))));
  const until = (what: string, isSo: () => Promise<boolean>) => lab.waitFor(what, isSo);

  await t.test('whatever cannot be is refused, with the reason', async (t) => {
    const web = addressOf(lab, 'web-alpha', 4);
    const refused: readonly [string, string[], RegExp][] = [
      ['of a pod', ['set', 'db', 'x', '--address', web], /is held by pod shop\/web-alpha/],
      ['of a machine', ['set', 'db', 'x', '--address', db.ip()], /is held by machine db/],
      ['loopback', ['set', 'db', 'x', '--address', '127.0.0.1'], /is a loopback address/],
      ['no address', ['set', 'db', 'x'], /give its address/],
      ['no name', ['set', 'db', 'a.b', ...addresses], /is no name of an endpoint/],
      [
        'a forged label',
        ['set', 'db', 'x', ...addresses, '--labels', 'io.kubernetes.pod.namespace=y'],
        /is for the cluster to say/,
      ],
      ['no machine', ['set', 'nobody', 'x', ...addresses], /no machine is called "nobody"/],
      ['not there', ['remove', 'db', 'x'], /has no endpoint "x"/],
    ];
    for (const [what, args, reason] of refused) {
      const { code, stderr } = await endpoint(...args);
      t.not(code, 0, what);
      t.match(stderr, reason, what);
    }
    t.equal((await endpoint('list', 'db')).stdout, 'no endpoints\n');
    t.notOk(
      (await reach('client')).some((answer) => answer.startsWith('app ')),
      'nobody knows it',
    );
  });

  await t.test('pods and machines reach it, and it reaches them, as itself', async (t) => {
    const { code, stderr } = await endpoint(
      'set',
      'db',
      'app',
      ...addresses,
      '--labels',
      'app=app',
    );
    t.equal(code, 0, stderr);
    for (const from of ['client', 'friend', 'cache'] as const) {
      await until(`${from} is answered`, async () =>
        (await reach(from)).every((answer) => answer.startsWith('app ')),
      );
      for (const [index, answer] of (await reach(from)).entries()) {
        t.equal(answer, `app ${addressOf(lab, from, FAMILIES[index] ?? 4)}`, 'unmasked');
      }
    }
    for (const to of ['client', 'web-beta', 'cache'] as const) {
      for (const family of FAMILIES) {
        const url = urlOf(addressOf(lab, to, family), PORT);
        t.equal(await app.call(url), `${to} ${ADDRESS[family]}`, `to ${to} over IPv${family}`);
      }
    }
    const web = urlOf(lab.clusterIp('alpha', 'web'), 80);
    t.match(await app.call(web), /^web-(alpha|beta) /, 'a global Service by its address');
    for (const family of FAMILIES) {
      const bytes = urlOf(ADDRESS[family], PORT, '/bytes?count=1000000');
      const size = ['curl', '-sS', '-o', '/dev/null', '-w', '%{size_download}', '-m', '20', bytes];
      t.equal((await lab.exec('friend', size)).stdout, '1000000', 'full packets');
    }
    t.match(await endpoint('list', 'db'), { stdout: /^app +172\.18\.0\.2,\S+ +app=app$/m });
  });

  await t.test('its policy is its own, and others judge it by its own labels', async (t) => {
    const alpha = lab.apiserver('alpha').manifests;
    const beta = lab.apiserver('beta').manifests;
    const only = policyFor('app', { ingress: [{ fromEndpoints: [those('client')] }] });
    const known = policyFor('web', { ingress: [{ fromEndpoints: [those('app', 'alpha')] }] });
    const host = policyFor('db', { ingress: [{ fromEndpoints: [those('client')] }] });
    await alpha.write(only);
    await alpha.write(host);
    await beta.write(known);
    const isAnswered = async (from: Parameters<typeof call>[1]) =>
      (await reach(from)).map((answer) => answer.startsWith('app '));
    await until('friend is refused', async () => !(await isAnswered('friend')).includes(true));
    t.same(await isAnswered('client'), [true, true]);
    t.same(await isAnswered('cache'), [false, false]);
    for (const family of FAMILIES) {
      const web = urlOf(addressOf(lab, 'web-beta', family), PORT);
      await until(
        'its machine is refused',
        async () => !(await call(lab, 'db', web)).startsWith('web'),
      );
      t.match(await app.call(web), /^web-beta /, 'it has not the identity of its machine');
      const machine = urlOf(db.ip(family), PORT);
      await until(
        'the machine refuses it',
        async () => !(await app.call(machine)).startsWith('db '),
      );
    }
    await alpha.remove(only);
    await alpha.remove(host);
    await beta.remove(known);
    await until('friend is answered', async () => !(await isAnswered('friend')).includes(false));
  });

  await t.test('it outlives the agent, and goes when it is taken away', async (t) => {
    await db.agent.kill();
    t.match(await reach('friend'), [/^app /, /^app /], 'without an agent');
    await db.agent.start();
    t.match(await reach('friend'), [/^app /, /^app /]);
    t.equal((await endpoint('remove', 'db', 'app')).code, 0);
    await until('friend is not answered', async () =>
      (await reach('friend')).every((answer) => !answer.startsWith('app ')),
    );
    for (const family of FAMILIES) {
      await until('its machine is as before', async () =>
        (await app.call(urlOf(GATEWAY[family], PORT))).startsWith('db '),
      );
      t.equal(await app.ping(GATEWAY[family]), 0, 'its ordinary traffic goes on');
    }
    t.match((await db.agent.status()).endpoints, { length: 1 }, 'the host alone');
  });

  await t.test('it goes with its machine, and nothing is left on its interface', async (t) => {
    t.equal((await endpoint('set', 'db', 'again', ...addresses)).code, 0);
    await until('friend is answered', async () =>
      (await reach('friend')).every((answer) => answer.startsWith('app ')),
    );
    await db.agent.stop();
    t.match(await db.leave(), { code: 0 });
    const { bpfRoot } = db.plan;
    t.same(await readdir(bpfRoot).catch(() => []), [], 'programs, maps and links');
    for (const family of FAMILIES) {
      t.match(await app.call(urlOf(GATEWAY[family], PORT)), /^db /, 'it is as before');
    }
    await until('friend is not answered', async () =>
      (await reach('friend')).every((answer) => !answer.startsWith('app ')),
    );
  });
});

interface Container {
  /** One HTTP request from it; the answer's line, or why there is none. */
  call(url: string): Promise<string>;
  /** Exit code of one ping. */
  ping(address: string): Promise<number>;
}

/** A container on a bridge of machine `db`, with a server in it, as a container runtime makes it. It goes with the lab. */
async function openContainer(t: Test, lab: Lab): Promise<Container> {
  const { netns, cgroup, folder } = lab.machine('db').plan;
  const inside = `${netns}-app`;
  await ipBatch([`netns add ${inside}`], {});
  await ipBatch(
    [
      'link add br-app type bridge',
      `address add ${GATEWAY[4]}/24 dev br-app`,
      `address add ${GATEWAY[6]}/64 dev br-app nodad`,
      'link set br-app up',
      `link add app0 type veth peer name eth0 netns ${inside}`,
      'link set app0 master br-app up',
    ],
    { netns },
  );
  await run(['sysctl', '-q', '-w', 'net.ipv4.ip_forward=1', 'net.ipv6.conf.all.forwarding=1'], {
    netns,
  });
  await ipBatch(
    [
      'link set lo up',
      `address add ${ADDRESS[4]}/24 dev eth0`,
      `address add ${ADDRESS[6]}/64 dev eth0 nodad`,
      'link set eth0 up',
      `route add default via ${GATEWAY[4]}`,
      `route add ::/0 via ${GATEWAY[6]}`,
    ],
    { netns: inside },
  );
  const place = { netns: inside, cgroup: join(cgroup, 'system') };
  const where = { name: 'app', ...place, folder };
  const server = await startEcho(where, { tcp: [PORT] }, { persistent: false });
  t.teardown(() => server.stop());
  return {
    async call(url) {
      const argv = ['curl', '--silent', '--show-error', '--max-time', '2', url];
      const { code, stdout, stderr } = await execute(argv, place);
      return code === 0 ? stdout.trim() : stderr.trim();
    },
    async ping(address) {
      return (await execute(['ping', '-c', '1', '-W', '5', address], place)).code ?? 1;
    },
  };
}
