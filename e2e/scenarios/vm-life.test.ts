import { rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'tap';
import { systemClock } from '../../mesh/runtime/clock.ts';
import type { Lab } from '../lab/lab.ts';
import { machineAddresses } from '../lab/machine-plan.ts';
import { labSkipReason } from '../lab/preflight.ts';
import { waitUntilMachineSettled } from '../lab/settled-lab.ts';
import { urlOf } from './mesh.ts';
import { addressOf, asAdministrator, call, openVmLab, PORT, vmTopology } from './vm-lab.ts';

const skip = labSkipReason(process.env);
/** The five minutes in a long run, longer than the grace time of a session. */
const DOWN_MS = process.env.ISTHMUS_LONG === 'true' ? 300_000 : 5000;

/** Whether a node's kernel knows an address, and as whom. */
async function identityAt(lab: Lab, node: string, address: string): Promise<number | undefined> {
  const rows = await lab.agent(node).map('ipcache');
  const row = rows.find(({ prefix }) => prefix === `${address}/32` || prefix === `${address}/128`);
  return row === undefined ? undefined : Number(row.identity);
}

/** Calls as long as `during` takes; resolves to what was not answered as it should. */
async function callWhile(
  lab: Lab,
  calls: readonly { readonly from: 'client' | 'friend' | 'db'; readonly url: string }[],
  during: () => Promise<void>,
): Promise<string[]> {
  const failed: string[] = [];
  const done = new AbortController();
  const calling = calls.map(async ({ from, url }) => {
    while (!done.signal.aborted) {
      const answer = await call(lab, from, url);
      if (!/^(db|web-alpha|web-beta|client) /.test(answer)) failed.push(`${from}: ${answer}`);
      await systemClock.sleep(100);
    }
  });
  try {
    await during();
  } finally {
    done.abort();
    await Promise.all(calling);
  }
  return failed;
}

test('the life of a machine', { skip, timeout: 480_000 + 2 * DOWN_MS }, async (t) => {
  const topology = vmTopology();
  const [db] = topology.machines ?? [];
  await using lab = await openVmLab({ ...topology, machines: [db!] });
  const machine = lab.machine('db');
  const toDb = (): string => urlOf(addressOf(lab, 'db', 4), PORT);
  const fromDb = urlOf(addressOf(lab, 'client', 4), PORT);
  const identity = await identityAt(lab, 'beta-1', machine.ip());
  const status = async (): Promise<string> => {
    // Its exit code is 1 while the machine is away.
    const { stdout, stderr } = await lab.administer('alpha', ['status', 'db']);
    return `${stdout}${stderr}`;
  };

  await t.test('its agent is killed and started again: traffic goes on', async (t) => {
    const calls = [
      { from: 'client', url: toDb() },
      { from: 'friend', url: toDb() },
      { from: 'db', url: fromDb },
    ] as const;
    const failed = await callWhile(lab, calls, async () => {
      await machine.agent.kill();
      await machine.agent.start();
      await waitUntilMachineSettled(lab, 'db');
      await machine.agent.restart();
      await waitUntilMachineSettled(lab, 'db');
    });
    t.same(failed, []);
    t.equal(await identityAt(lab, 'beta-1', machine.ip()), identity, 'one identity all along');
  });

  await t.test('its cluster has no apiserver for a while: nothing is taken away', async (t) => {
    const calls = [
      { from: 'friend', url: toDb() },
      { from: 'db', url: fromDb },
    ] as const;
    const failed = await callWhile(lab, calls, async () => {
      await lab.apiserver('alpha').kill();
      await systemClock.sleep(DOWN_MS);
      t.equal(await identityAt(lab, 'beta-1', machine.ip()), identity, 'while it is away');
      await lab.apiserver('alpha').start();
      await waitUntilMachineSettled(lab, 'db');
    });
    t.same(failed, []);
    t.equal(await identityAt(lab, 'beta-1', machine.ip()), identity, 'when it is back');
    await lab.waitFor('its session', async () => /state +connected/.test(await status()));
  });

  await t.test('it moves to another address', async (t) => {
    const old = machine.addresses;
    const next = machineAddresses('dual', '1.77', '1:77');
    await machine.moveTo(next);
    for (const node of ['alpha-1', 'beta-1']) {
      await lab.waitFor(`${node} to know the new address and not the old one`, async () => {
        const [now, before] = [
          await identityAt(lab, node, next[0] ?? ''),
          await identityAt(lab, node, old[0] ?? ''),
        ];
        return now === identity && before === undefined;
      });
    }
    for (const family of [4, 6] as const) {
      const url = urlOf(addressOf(lab, 'db', family), PORT);
      const answer = await lab.waitFor(`an answer over IPv${family}`, async () => {
        const said = await call(lab, 'friend', url);
        return said.startsWith('db ') && said;
      });
      t.equal(answer, `db ${addressOf(lab, 'friend', family)}`);
      const own = await call(lab, 'db', urlOf(addressOf(lab, 'client', family), PORT));
      t.equal(own, `client ${addressOf(lab, 'db', family)}`);
    }
  });

  await t.test('it is removed: cut off, withdrawn, its certificate worth nothing', async (t) => {
    const began = systemClock.monotonic();
    await lab.waitFor('the removal to be written', async () => {
      const { code, stderr } = await lab.administer('alpha', ['remove', 'db']);
      if (code !== 0) throw new Error(stderr);
      return true;
    });
    for (const node of ['alpha-1', 'beta-1']) {
      await lab.waitFor(
        `${node} to know it no more`,
        async () => (await identityAt(lab, node, machine.ip())) === undefined,
      );
    }
    t.comment(`withdrawn everywhere after ${Math.round(systemClock.monotonic() - began)} ms`);
    const refused = await lab.waitFor('its session to be refused', async () => {
      const { registry } = await machine.agent.status();
      return registry?.healthy === false && registry.text;
    });
    t.match(refused, /removed|revoked/);
    // With a new token it may come anew under the same name.
    await machine.agent.stop();
    const left = await machine.leave();
    t.equal(left.code, 0, left.stderr);
    await machine.join();
    await lab.waitFor('it to be known again', async () => {
      return (await identityAt(lab, 'beta-1', machine.ip())) !== undefined;
    });
    const url = urlOf(addressOf(lab, 'db', 4), PORT);
    await lab.waitFor('an answer of it', async () =>
      (await call(lab, 'friend', url)).startsWith('db '),
    );
  });

  const dataFolder = join(lab.cluster('alpha').folder, 'data');

  await t.test(
    "etcd's data is wiped under a running apiserver: nothing is taken away",
    async (t) => {
      // Tokens are in etcd alone: with them goes the proof that it was wiped.
      await machine.createToken(['--name=other']);
      const before = await identityAt(lab, 'beta-1', machine.ip());
      const calls = [
        { from: 'friend', url: toDb() },
        { from: 'db', url: fromDb },
      ] as const;
      const failed = await callWhile(lab, calls, async () => {
        await rm(dataFolder, { recursive: true });
        await lab.apiserver('alpha').killEtcd();
        await lab.waitFor('the tokens to be gone', async () => {
          const { code, stdout } = await lab.administer('alpha', ['token', 'list']);
          return code === 0 && !stdout.includes('other');
        });
        await lab.waitFor('its session', async () => /state +connected/.test(await status()));
        await waitUntilMachineSettled(lab, 'db');
        await machine.agent.restart();
        await waitUntilMachineSettled(lab, 'db');
      });
      t.same(failed, []);
      t.equal(await identityAt(lab, 'beta-1', machine.ip()), before, 'as who it was');
      const again = await lab.waitFor('its session anew', async () => {
        const { registry } = await machine.agent.status();
        return registry?.healthy && registry.text;
      });
      t.match(again, /^accepted/);
    },
  );

  await t.test(
    'apiserver and etcd are gone: without a backup it is refused, with one it is back',
    async (t) => {
      const passphrase = join(lab.plan.folder, 'passphrase');
      const backup = join(lab.plan.folder, 'alpha.backup');
      await writeFile(passphrase, 'correct horse battery staple\n', { mode: 0o600 });
      const sealed = ['--passphrase-file', passphrase];
      t.match(await asAdministrator(lab, 'alpha', ['backup', backup, ...sealed]), { code: 0 });

      await lab.apiserver('alpha').kill();
      await rm(dataFolder, { recursive: true });
      await lab.apiserver('alpha').start();
      const refused = await lab.waitFor('its session to be refused', async () => {
        const { registry } = await machine.agent.status();
        return registry?.healthy === false && /not known/.test(registry.text) && registry.text;
      });
      t.match(refused, /machine db is not known: .*etcd has lost.*new token, or restore a backup/);
      t.match((await lab.administer('alpha', ['list'])).stdout, /^(?!.*db)/, 'nobody knows it');

      const restored = await asAdministrator(lab, 'alpha', ['restore', backup, ...sealed]);
      t.equal(restored.code, 0, restored.stderr);
      // Nobody touches the machine: its certificate is as good as before.
      await lab.waitFor('its session', async () => /state +connected/.test(await status()), {
        timeoutMs: 60_000,
      });
      await waitUntilMachineSettled(lab, 'db');
      for (const from of ['client', 'friend'] as const) {
        const answer = await lab.waitFor(`an answer to ${from}`, async () => {
          const said = await call(lab, from, toDb());
          return said.startsWith('db ') && said;
        });
        t.equal(answer, `db ${addressOf(lab, from, 4)}`);
      }
      await lab.waitFor('an answer of a pod', async () =>
        (await call(lab, 'db', fromDb)).startsWith('client '),
      );
    },
  );
});
