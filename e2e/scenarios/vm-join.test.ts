import { mkdir, readdir, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { test } from 'tap';
import { run } from '../lab/command.ts';
import type { LabMachine } from '../lab/machines.ts';
import { labSkipReason } from '../lab/preflight.ts';
import { openSettledLab, waitUntilMachineSettled } from '../lab/settled-lab.ts';
import { parseTopology } from '../lab/topology.ts';
import { urlOf } from './mesh.ts';
import { NAMESPACE, vmTopology } from './vm-lab.ts';

const skip = labSkipReason(process.env);
const SHIFTED_CLOCK = fileURLToPath(new URL('../lab/shifted-clock/main.js', import.meta.url));
const RESOLVE = fileURLToPath(new URL('../lab/resolve/main.js', import.meta.url));
const STUB = '127.0.0.55:53';
const TEN_MINUTES = 600;
const GRACE_SECONDS = 3;
const WRONG_LATER =
  process.env.ISTHMUS_LONG === 'true' ? [TEN_MINUTES, -TEN_MINUTES] : [-TEN_MINUTES];

/** Flags of Node that run a program with its clock off. */
function clockOff(seconds: number): string[] {
  return [process.execPath, SHIFTED_CLOCK, String(seconds)];
}

/** Every file and folder below one, with its mode. */
async function modesBelow(
  folder: string,
): Promise<{ path: string; mode: number; isFolder: boolean }[]> {
  const entries = await readdir(folder, { withFileTypes: true, recursive: true });
  return Promise.all(
    entries
      .filter((entry) => !entry.isSymbolicLink() && !entry.isSocket())
      .map(async (entry) => {
        const path = join(entry.parentPath, entry.name);
        return { path, mode: (await stat(path)).mode & 0o777, isFolder: entry.isDirectory() };
      }),
  );
}

async function resolveOn(machine: LabMachine, name: string, type = 'A'): Promise<string[]> {
  const ran = await machine.exec([process.execPath, RESOLVE, STUB, type, name]);
  return ran.code === 0 ? ran.stdout.split('\n').filter(Boolean).sort() : [];
}

test('joining, with everything that can be in its way', { skip, timeout: 300_000 }, async (t) => {
  const { clusters, pods = [], services } = vmTopology();
  const machine = (name: string) => ({
    name,
    cluster: 'alpha',
    namespace: NAMESPACE,
    labels: { app: name },
    joined: false,
  });
  const topology = parseTopology({
    clusters: clusters.slice(0, 1),
    pods: pods.filter(({ node }) => node === 'alpha-1'),
    machines: ['first', 'full', 'wrong-time'].map(machine),
    services,
  });
  await using lab = await openSettledLab(topology, {
    apiserverFlags: [`--vm-session-grace=${GRACE_SECONDS}s`],
  });
  const first = lab.machine('first');

  await t.test('a token is good for what it says, and once', async (t) => {
    const token = await first.createToken();
    const other = lab.machine('full');
    const forOther = await other.tryJoin(token);
    t.equal(forOther.code, 1, 'another name');
    t.match(forOther.stderr, /first/, 'the name that it is for is told');
    const [id] = token.split('.').slice(1);
    const forged = await first.tryJoin(token.replace(/\.[^.]+(\.[^.]+)$/, `.${'A'.repeat(43)}$1`));
    t.equal(forged.code, 1, 'a wrong secret');
    t.match(forged.stderr, /token/);

    const joined = await first.tryJoin(token);
    t.equal(joined.code, 0, joined.stderr);
    t.notMatch(`${joined.stdout}${joined.stderr}`, token, 'the token is not repeated');
    const agent = first.takeAgent();
    await agent.start();
    await waitUntilMachineSettled(lab, 'first');
    const listed = await lab.administer('alpha', ['token', 'list']);
    t.match(listed.stdout, new RegExp(`${id}.*used`));

    const again = await first.tryJoin(token);
    t.equal(again.code, 0, `a second run is harmless: ${again.stderr}`);
    t.ok(agent.isRunning());
    await rm(other.plan.stateDir, { recursive: true, force: true });
    const stolen = await other.tryJoin(token, { flags: ['--name', 'first'] });
    t.equal(stolen.code, 1, 'used up, by another key');
  });

  await t.test('what joining leaves is for root alone', async (t) => {
    const found = await modesBelow(first.plan.stateDir);
    t.ok(found.length > 5);
    for (const { path, mode, isFolder } of found) {
      t.equal(mode.toString(8), isFolder ? '700' : '600', path);
    }
  });

  await t.test('services by name, from programs of the machine', async (t) => {
    const ips = [4, 6].map((family) => lab.clusterIp('alpha', 'web', family as 4 | 6));
    const name = `web.${NAMESPACE}.svc.cluster.local`;
    await lab.waitFor('the name of the service', async () =>
      (await resolveOn(first, name)).includes(ips[0] ?? ''),
    );
    t.same(await resolveOn(first, name), [ips[0]]);
    t.same(await resolveOn(first, name, 'AAAA'), [ips[1]]);
    t.same(await resolveOn(first, `nothing.${NAMESPACE}.svc.cluster.local`), []);
    const [v4 = ''] = await resolveOn(first, name);
    const { stdout } = await first.exec(['curl', '-sS', '-m', '5', urlOf(v4, 80)]);
    t.equal(stdout, `web-alpha ${first.ip()}\n`);
  });

  await t.test('its clock is ten minutes off', async (t) => {
    const late = lab.machine('wrong-time');
    const token = await late.createToken();
    for (const seconds of [TEN_MINUTES, -TEN_MINUTES]) {
      const refused = await late.tryJoin(token, { front: clockOff(seconds) });
      t.equal(refused.code, 1, `${seconds} s`);
      t.match(refused.stderr, /clock/);
      t.match(refused.stderr, /(599|600|601) s (ahead|behind)/, 'by how much');
    }
    await late.join({ token });
    await waitUntilMachineSettled(lab, 'wrong-time');
    // A clock that is set wrong later harms nothing: what is waited for is counted, not read from it.
    for (const seconds of WRONG_LATER) {
      await late.agent.stop();
      const agent = late.takeAgent(clockOff(seconds));
      await agent.start();
      await waitUntilMachineSettled(lab, 'wrong-time');
      const url = urlOf(lab.clusterIp('alpha', 'web'), 80);
      const { stdout, stderr } = await late.exec(['curl', '-sS', '-m', '5', url]);
      t.equal(stdout, `web-alpha ${late.ip()}\n`, `${seconds} s: ${stderr}`);
      const session = await lab.waitFor('its session', async () => {
        const { registry } = await agent.status();
        return registry?.healthy && registry.text;
      });
      t.match(session, /^accepted/);
    }
  });

  await t.test('its disk is full', async (t) => {
    const full = lab.machine('full');
    const token = await full.createToken();
    const { stateDir } = full.plan;
    await mkdir(stateDir, { recursive: true, mode: 0o700 });
    // Lies below the lab's folder, and is unmounted with it.
    await run(['mount', '-t', 'tmpfs', '-o', 'size=64m,mode=700', 'tmpfs', stateDir]);
    const ballast = join(stateDir, 'ballast');
    await writeFile(ballast, Buffer.alloc(64 * 1024 * 1024)).catch(() => undefined);
    const refused = await full.tryJoin(token);
    t.equal(refused.code, 1);
    t.match(refused.stderr, /0 MiB are free|the disk is full/);
    t.match(refused.stderr, stateDir, 'where is told');
    await rm(ballast);
    await full.join({ token });
    await waitUntilMachineSettled(lab, 'full');
    const { stdout } = await lab.exec('client', ['ping', '-c', '1', '-W', '5', full.ip()]);
    t.match(stdout, /1 received/, 'with room it works, and with the same token');
  });

  await t.test('away for longer than the grace time it is withdrawn, and comes back', async (t) => {
    const identity = async (): Promise<unknown> => {
      const rows = await lab.agent('alpha-1').map('ipcache');
      return rows.find(({ prefix }) => prefix === `${first.ip()}/32`)?.identity;
    };
    const before = await identity();
    await first.agent.kill();
    await lab.waitFor('the node to know it no more', async () => (await identity()) === undefined);
    const gone = await lab.administer('alpha', ['status', 'first']);
    t.match(gone, { code: 1, stdout: /state +gone/ });
    await first.agent.start();
    await lab.waitFor('the node to know it again', async () => (await identity()) !== undefined);
    t.equal(await identity(), before, 'as who it was');
  });
});
