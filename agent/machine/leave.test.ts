import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { test } from 'tap';
import { openTempDir } from '../../mesh/testing/temp-dir.ts';
import { kernelSkipReason, openTestBpffs } from '../datapath/testing/bpffs.ts';
import { joinCluster } from './join.ts';
import { leaveCluster } from './leave.ts';
import { readMachineRecord } from './machine-record.ts';
import { openMachineCluster, testSurroundings } from './testing/machine-cluster.ts';

test('a machine that leaves is forgotten at once, and leaves nothing', {
  skip: kernelSkipReason(),
  timeout: 120_000,
}, async (t) => {
  const cluster = await openMachineCluster(t);
  await using bpffs = await openTestBpffs('leave');
  await using state = await openTempDir('machine');
  const { signal } = new AbortController();
  const stateDir = state.file('state');
  const socketPath = state.file('agent.sock');
  const agentFlags = [
    `--bpf-root=${bpffs.path}`,
    '--cgroup-root=/sys/fs/cgroup',
    '--tunnel-device=istest_leave',
    `--socket-path=${socketPath}`,
  ];
  const token = await cluster.token({ names: 'vm1' });
  const join = () =>
    joinCluster({
      server: cluster.server,
      token,
      name: 'vm1',
      addresses: [],
      stateDir,
      agentFlags,
      agentVersion: '0.1.0',
      onFinding: () => undefined,
      onStep: () => undefined,
      surroundings: testSurroundings(),
      signal,
    });
  const steps: string[] = [];
  const leave = (flags: readonly string[] = []) =>
    leaveCluster({ stateDir, agentFlags: flags, onStep: (text) => steps.push(text), signal });
  await join();

  // An agent that is there is not pulled the ground from under.
  const agent = createServer((socket) => socket.destroy());
  await new Promise<void>((resolve) => agent.listen(socketPath, resolve));
  await t.rejects(leave(), {
    code: 'other',
    message: /an agent still answers on .*agent\.sock: stop it/,
  });
  t.ok(readMachineRecord(stateDir));
  await new Promise((resolve) => agent.close(resolve));

  const book = { addresses: ['192.0.2.10'] };
  t.equal(cluster.book.get('vm1')?.state, 'enrolled');
  writeFileSync(`${stateDir}/notes.txt`, 'mine');
  const left = await leave();
  t.match(left, {
    record: { name: 'vm1', ...book },
    untold: undefined,
    left: [`${stateDir}/notes.txt`],
  });
  t.match(steps, [
    'telling cluster alpha',
    'removing programs, maps and the tunnel',
    `removing ${stateDir}`,
  ]);
  t.same(readdirSync(stateDir), ['notes.txt']);
  t.equal(cluster.published.has('vm1'), false, 'although its session has only just ended');

  execFileSync('rm', [`${stateDir}/notes.txt`]);
  t.match(await leave(agentFlags), { record: undefined, untold: undefined, left: [] });
  t.notOk(existsSync(stateDir));
});
