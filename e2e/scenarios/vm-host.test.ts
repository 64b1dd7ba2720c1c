/** What membership means to the host itself: an endpoint at each of its addresses, and nothing left of it afterwards. */
import { readdir, stat } from 'node:fs/promises';
import { test } from 'tap';
import { HOST_STATE_COMMAND } from '../lab/host-state.ts';
import type { Lab } from '../lab/lab.ts';
import type { LabMachine } from '../lab/machines.ts';
import { addOutsider } from '../lab/outsider.ts';
import { labSkipReason } from '../lab/preflight.ts';
import { urlOf } from './mesh.ts';
import { addressOf, call, openVmLab, PORT, policyFor, those, vmTopology } from './vm-lab.ts';

const skip = labSkipReason(process.env);
const SECOND = '172.31.1.50';
/** Whose calls and answers are looked at: a pod of the machine's cluster, and one of the other. */
const PODS = ['client', 'friend'] as const;
type Pod = (typeof PODS)[number];

function stateOf(machine: LabMachine): Promise<string> {
  return machine.exec(HOST_STATE_COMMAND).then(({ stdout }) => stdout);
}

/** Identity that a node's kernel has for an address. */
async function identityAt(lab: Lab, node: string, address: string): Promise<number | undefined> {
  const rows = await lab.agent(node).map('ipcache');
  const row = rows.find(({ prefix }) => prefix === `${address}/32`);
  return row === undefined ? undefined : Number(row.identity);
}

/** What a pod hears from the machine at an address, or the machine from a pod when it calls from that address. */
async function exchange(
  lab: Lab,
  { pod, address, isFromPod }: { pod: Pod; address: string; isFromPod: boolean },
): Promise<string> {
  if (isFromPod) return call(lab, pod, urlOf(address, PORT));
  const argv = ['curl', '-sS', '-m', '2', '--interface', address];
  const { stdout, stderr } = await lab
    .machine('db')
    .exec([...argv, urlOf(addressOf(lab, pod, 4), PORT)]);
  return stdout.trim() || stderr.trim();
}

test('a host that is a machine of a mesh, and then is none', {
  skip,
  timeout: 300_000,
}, async (t) => {
  const topology = vmTopology();
  const [db] = topology.machines ?? [];
  await using lab = await openVmLab({ ...topology, machines: [{ ...db!, joined: false }] });
  const machine = lab.machine('db');
  const outsider = await addOutsider(lab);
  await outsider.startServer({ tcp: [PORT] });
  await machine.exec(['ip', 'address', 'add', `${SECOND}/16`, 'dev', 'eth0']);
  const addresses = [machine.ip(4), SECOND];
  const ordinary = async (): Promise<readonly string[]> => {
    const out = await machine.exec(['curl', '-sS', '-m', '5', urlOf(outsider.addresses[0], PORT)]);
    const back = await outsider.exec(['curl', '-sS', '-m', '5', urlOf(machine.ip(4), PORT)]);
    return [out.stdout.trim(), back.stdout.trim()];
  };
  const before = { state: await stateOf(machine), traffic: await ordinary() };
  t.same(before.traffic, [`outsider ${machine.ip(4)}`, `db ${outsider.addresses[0]}`]);

  /** Who reaches whom at which of the machine's IPv4 addresses, as `client > 172.31.1.1`. */
  const pairs = async (): Promise<string[]> => {
    const tries = PODS.flatMap((pod) =>
      addresses.flatMap((address) =>
        [true, false].map((isFromPod) => ({ pod, address, isFromPod })),
      ),
    );
    const said = await Promise.all(tries.map((one) => exchange(lab, one)));
    return tries.flatMap(({ pod, address, isFromPod }, index) => {
      const seen = isFromPod ? `db ${addressOf(lab, pod, 4)}` : `${pod} ${address}`;
      const name = isFromPod ? `${pod} > ${address}` : `${address} > ${pod}`;
      return said[index] === seen ? [name] : [];
    });
  };
  const settled = async (expected: readonly string[]): Promise<readonly string[]> => {
    let found: readonly string[] = [];
    const look = async (): Promise<boolean> => {
      found = await pairs();
      return found.join() === expected.join();
    };
    await lab
      .waitFor('the pairs that are left', look, { timeoutMs: 30_000 })
      .catch(() => undefined);
    return found;
  };
  const allPairs = PODS.flatMap((pod) =>
    addresses.flatMap((address) => [`${pod} > ${address}`, `${address} > ${pod}`]),
  );
  const join = (): Promise<unknown> =>
    machine.join({ flags: [...addresses, machine.ip(6)].flatMap((ip) => ['--address', ip]) });

  await join();
  await t.test(
    'several addresses of a family: an endpoint at each, under one identity',
    async (t) => {
      for (const node of ['alpha-1', 'beta-1']) {
        const [first, second] = await lab.waitFor(`${node} to know both addresses`, async () => {
          const found = await Promise.all(addresses.map((one) => identityAt(lab, node, one)));
          return found.every((identity) => identity !== undefined) && found;
        });
        t.equal(first, second, node);
      }
      t.same(
        await settled(allPairs),
        allPairs,
        'each side sees the address that was called or used',
      );
      const backends = async (): Promise<unknown[]> => {
        const rows = await lab.agent('beta-1').map('services');
        const row = rows.find(({ address }) => address === lab.clusterIp('beta', 'db'));
        return (row?.backends ?? []) as unknown[];
      };
      await lab.waitFor('the machine as a backend', async () => (await backends()).length > 0);
      t.equal((await backends()).length, 1, 'one machine is one backend');
    },
  );

  for (const { what, object, refused } of [
    {
      what: 'who may call the machine',
      object: policyFor('db', { ingress: [{ fromEndpoints: [those('client')] }] }),
      refused: (pair: string) => pair.startsWith('friend >'),
    },
    {
      what: 'whom the machine may call',
      object: policyFor('db', { egress: [{ toEndpoints: [those('friend', 'beta')] }] }),
      refused: (pair: string) => pair.endsWith('> client'),
    },
    {
      what: 'a pod that the machine may not call',
      object: policyFor('client', { ingress: [{ fromEndpoints: [those('friend', 'beta')] }] }),
      refused: (pair: string) => pair.endsWith('> client'),
    },
    {
      what: 'a pod that may call nobody but the machine',
      object: policyFor('client', { egress: [{ toEndpoints: [those('db')] }] }),
      refused: () => false,
    },
  ]) {
    await t.test(`policy at each address: ${what}`, async (t) => {
      const { manifests } = lab.apiserver('alpha');
      const left = allPairs.filter((pair) => !refused(pair));
      await manifests.write(object);
      t.same(await settled(left), left);
      await manifests.remove(object);
      t.same(await settled(allPairs), allPairs, 'and open again');
    });
  }

  await t.test('leaving: nothing is left of it, and what it did besides goes on', async (t) => {
    const web = urlOf(lab.clusterIp('alpha', 'web'), 80);
    await lab.waitFor('an answer of a global service', async () =>
      (await call(lab, 'db', web)).startsWith('web-'),
    );
    const during = outsider.exec(
      ['curl', '-sS', '--no-buffer', '-m', '60', urlOf(machine.ip(4), PORT, '/slow?seconds=8')],
      { timeoutMs: 90_000 },
    );
    t.not(await stateOf(machine), before.state, 'so far there is something');
    await machine.agent.stop();
    const left = await machine.leave();
    t.equal(left.code, 0, left.stderr);
    t.match(left.stdout, /left: this machine was db of cluster alpha/);
    t.notMatch(left.stdout, /could not be told/);

    t.equal(await stateOf(machine), before.state, 'devices, routes, rules, settings, listeners');
    t.same(await readdir(machine.plan.bpfRoot).catch(() => []), [], 'programs, maps and links');
    await t.rejects(stat(machine.plan.stateDir), { code: 'ENOENT' }, 'keys and certificates');
    await t.rejects(stat(machine.plan.socketPath), { code: 'ENOENT' });
    t.notMatch(await call(lab, 'db', web), /^web-/, 'no service is translated any more');
    t.same(await ordinary(), before.traffic);
    const ended = await during;
    t.match(ended.stdout, /\nend\n$/, `a session that was there goes on: ${ended.stderr}`);
    for (const node of ['alpha-1', 'beta-1']) {
      await lab.waitFor(`${node} to know it no more`, async () => {
        const known = await Promise.all(addresses.map((one) => identityAt(lab, node, one)));
        return known.every((identity) => identity === undefined);
      });
    }

    const again = await machine.leave();
    t.match(again, { code: 0, stdout: /nothing to leave/ }, 'a second time is harmless');
    t.equal(await stateOf(machine), before.state);
  });

  await t.test('it may come back', async (t) => {
    const refused = await machine.tryJoin(await machine.createToken());
    t.match(refused, { code: 1, stderr: /has enrolled already, with another key.*vm remove db/s });
    t.match(await lab.administer('alpha', ['remove', 'db']), { code: 0 });
    await join();
    t.same(await settled(allPairs), allPairs);
  });
});
