/** A machine as its own firewall, from joining to leaving, with the real agent, command line and packets. */
import { stat, truncate } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { test } from 'tap';
import { callAgent } from '../../agent/api/client.ts';
import { FIREWALL_FILE } from '../../agent/host-firewall/firewall-file.ts';
import type { FirewallReport } from '../../agent/host-firewall/firewall-report.ts';
import type { CommandResult } from '../lab/command.ts';
import { addOutsider } from '../lab/outsider.ts';
import { labSkipReason } from '../lab/preflight.ts';
import { waitUntilMachineSettled } from '../lab/settled-lab.ts';
import { urlOf } from './mesh.ts';
import { call, openVmLab, PORT, policyFor, those, vmTopology } from './vm-lab.ts';

const skip = labSkipReason(process.env);
const CLI = fileURLToPath(new URL('../../cli/main.js', import.meta.url));
const SSH = 22;
/** A trial that a test lets run out. Long enough for a look at it on a machine that is busy. */
const SHORT_TRIAL_SECONDS = 10;

test('a machine that is its own firewall', { skip, timeout: 300_000 }, async (t) => {
  const topology = vmTopology();
  const [alpha] = topology.clusters;
  const [db] = topology.machines ?? [];
  await using lab = await openVmLab({
    ...topology,
    clusters: [alpha!],
    pods: topology.pods?.filter(({ name }) => name === 'client') ?? [],
    machines: [db!],
  });
  const machine = lab.machine('db');
  const { socketPath, stateDir } = machine.plan;
  const outsider = await addOutsider(lab);
  await outsider.startServer({ tcp: [PORT] });
  await machine.startServer({ tcp: [SSH] });
  const { manifests } = lab.apiserver('alpha');
  const addresses = [machine.ip(4), machine.ip(6)];

  const firewall = (...args: string[]): Promise<CommandResult> =>
    machine.exec([process.execPath, CLI, 'vm', 'firewall', ...args, '--socket-path', socketPath], {
      timeoutMs: 60_000,
    });
  const ask = async (body?: object): Promise<FirewallReport> => {
    const path = '/v1/firewall';
    const answer = await callAgent(
      socketPath,
      body === undefined ? { path } : { path, method: 'POST', body: JSON.stringify(body) },
    );
    return JSON.parse(answer.body);
  };
  /** Who of the four is answered: the outsider by the server's port and by that of ssh, the pod, and the machine outside. */
  const open = async (): Promise<readonly string[]> => {
    const curl = ['curl', '-sS', '-m', '1', '-o', '/dev/null'];
    const found = await Promise.all(
      addresses.flatMap((address, index) => [
        outsider.exec([...curl, urlOf(address, PORT)]).then(({ code }) => code === 0 && 'server'),
        outsider.exec([...curl, urlOf(address, SSH)]).then(({ code }) => code === 0 && 'ssh'),
        call(lab, 'client', urlOf(address, PORT)).then((said) => /^db /.test(said) && 'pod'),
        machine
          .exec([...curl, urlOf(outsider.addresses[index] ?? '', PORT)])
          .then(({ code }) => code === 0 && 'outside'),
      ]),
    );
    return ['server', 'ssh', 'pod', 'outside'].filter(
      (name) => found.filter((one) => one === name).length === addresses.length,
    );
  };
  const opens = async (expected: readonly string[], what: string): Promise<void> => {
    let found: readonly string[] = [];
    const look = async (): Promise<boolean> => {
      found = await open();
      return found.join() === expected.join();
    };
    await lab.waitFor(what, look, { timeoutMs: 40_000 }).catch(() => undefined);
    t.same(found, expected, what);
  };
  const everything = ['server', 'ssh', 'pod', 'outside'];
  const guarded = everything.filter((name) => name !== 'server');

  await manifests.write(policyFor('db', { ingress: [{ fromEndpoints: [those('client')] }] }));
  const host = async (): Promise<boolean> => (await ask()).host?.ingressEnforced === true;
  await lab.waitFor('the policy to hold', host);
  await opens(everything, 'in default mode the outsider is not judged');

  await t.test('on trial: policies judge everybody, ssh and what was open goes on', async (t) => {
    const during = outsider.exec(
      ['curl', '-sS', '--no-buffer', '-m', '60', urlOf(machine.ip(4), SSH, '/slow?seconds=4')],
      { timeoutMs: 90_000 },
    );
    const enabled = await firewall('enable', '--confirm-within', '300');
    t.equal(enabled.code, 0, enabled.stderr);
    t.match(enabled.stdout, /host policy: full, on trial, taken back in \d+ s unless confirmed/);
    t.match(enabled.stdout, /devices +eth0/);
    t.match(enabled.stdout, /ingress +what policies allow: .*shop\/db/);
    t.match(enabled.stdout, /egress TCP 172\.31\.0\.1:2379/, 'the gate of its cluster is open');
    t.match(enabled.stdout, /egress TCP 172\.31\.0\.1:2381/, 'and its registry');
    await opens(guarded, 'nobody else is let in');
    t.match((await during).stdout, /\nend\n$/, 'a session that was there goes on');
    t.match(await firewall('enable'), { code: 1, stderr: /being tried out already/ });
    t.ok(await machine.agent.count('policy-denied'), 'what is refused is counted');
    const disabled = await firewall('disable');
    t.match(disabled, { code: 0, stdout: /host policy: default/ });
    await opens(everything, 'at once');
  });

  await t.test('nobody confirms it: it is taken back, and said so', async (t) => {
    t.match(await ask({ action: 'enable', confirmWithinSeconds: 5 }), { mode: 'trial' });
    await lab.waitFor('the end of the trial', async () => (await ask()).mode === 'default');
    await opens(everything, 'open again');
    const status = await firewall('status');
    t.match(status, { code: 1, stdout: /problem: .*taken back: nobody confirmed it in time/ });
    t.match((await machine.agent.status()).notes.join('\n'), /was taken back/);
    t.match(await firewall('confirm'), { code: 1, stderr: /nothing is to be confirmed/ });
  });

  await t.test('the agent is killed on trial: the kernel needs nobody to end it', async (t) => {
    await ask({ action: 'enable', confirmWithinSeconds: SHORT_TRIAL_SECONDS });
    await machine.agent.kill();
    const url = urlOf(machine.ip(4), PORT);
    t.not((await outsider.exec(['curl', '-s', '-m', '1', url])).code, 0, 'until then it holds');
    await opens(everything, 'then it is over, without an agent');
    await machine.agent.start();
    await waitUntilMachineSettled(lab, 'db');
    t.match(await ask(), {
      mode: 'default',
      problems: [/the agent ended before anybody confirmed it/],
    });
  });

  await t.test('confirmed: it outlives the agent, and follows policies', async (t) => {
    await ask({ action: 'enable', confirmWithinSeconds: 300 });
    const confirmed = await firewall('confirm');
    t.match(confirmed, { code: 0, stdout: /host policy: full, confirmed 20/ });
    const file = join(stateDir, FIREWALL_FILE);
    t.equal((await stat(file)).mode & 0o777, 0o600);
    // Nothing that the machine says is answered but what the fixed list lets out.
    const [v4, v6] = outsider.addresses;
    await manifests.write(
      policyFor('db', {
        ingress: [{ fromEndpoints: [those('client')] }, { fromCIDR: [`${v4}/32`, `${v6}/128`] }],
        egress: [{ toEndpoints: [those('client')] }],
      }),
    );
    const changed = ['server', 'ssh', 'pod'];
    await opens(changed, 'by the new policy: the outsider in, nothing out');
    await machine.agent.kill();
    t.same(await open(), changed, 'while no agent is there');
    await machine.agent.start();
    await waitUntilMachineSettled(lab, 'db');
    t.match(await ask(), { mode: 'full', problems: [] }, 'it reaches its cluster all the same');

    await machine.agent.stop();
    await truncate(file, 20);
    await machine.agent.start();
    await waitUntilMachineSettled(lab, 'db');
    t.match(await ask(), { mode: 'default', problems: [/cannot use .*host-firewall\.json/] });
    await opens(everything, 'half a file is none');
  });

  await t.test('a node refuses to be one', async (t) => {
    const { first } = lab.cluster('alpha');
    const answer = await callAgent(first.socketPath, { path: '/v1/firewall' });
    t.match(answer, { status: 409, body: /is for machines/ });
  });

  await t.test('leaving: nothing of it is left', async (t) => {
    await ask({ action: 'enable', confirmWithinSeconds: 300 });
    t.match(await ask({ action: 'confirm' }), { mode: 'full' });
    await machine.agent.stop();
    const left = await machine.leave();
    t.equal(left.code, 0, left.stderr);
    await t.rejects(stat(stateDir), { code: 'ENOENT' });
    const found = await open();
    t.ok(found.includes('server') && found.includes('outside'), 'open as before it joined');
  });
});
