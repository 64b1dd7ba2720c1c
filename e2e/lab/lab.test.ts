import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { test } from 'tap';
import { findCgroupRoot } from '../../agent/datapath/cgroup-root.ts';
import { systemClock } from '../../mesh/runtime/clock.ts';
import { findLab } from './find-lab.ts';
import { openLab } from './lab.ts';
import { claimLab, labNames } from './lab-state.ts';
import { LABS_FOLDER, labCgroup } from './plan.ts';
import { labSkipReason } from './preflight.ts';
import { namespacesOf, sweepLabs, tearDownLab } from './teardown.ts';
import { type PodInput, parseTopology } from './topology.ts';
import { waitFor } from './wait-for.ts';

const skip = labSkipReason(process.env);
const CRASHER = fileURLToPath(new URL('./testing/lab-process.js', import.meta.url));

// Other runs of these tests may be on the machine.
const unique = (prefix: string): string => `${prefix}${process.pid}`;

const topology = parseTopology({
  clusters: [
    {
      name: 'solo',
      id: 3,
      podCidrs: ['10.3.0.0/16', 'fd00:10:3::/48'],
      serviceCidrs: ['10.103.0.0/16'],
      nodes: ['solo-1'],
    },
  ],
  pods: [
    {
      name: 'server',
      node: 'solo-1',
      role: 'server',
      ports: [{ port: 8080 }, { port: 53, protocol: 'UDP' }],
    },
  ],
});

/** What a lab has left on the machine; empty when nothing. */
function remains(name: string): string[] {
  const mounts = readFileSync('/proc/self/mounts', 'utf8').split('\n');
  const cgroup = labCgroup(name, findCgroupRoot());
  return [
    ...namespacesOf(name),
    ...mounts.filter((line) => line.includes(`${LABS_FOLDER}/${name}/`)),
    ...[cgroup, join(LABS_FOLDER, name)].filter(existsSync),
    ...readdirSync('/proc').filter((pid) => commandLine(pid).includes(`${LABS_FOLDER}/${name}/`)),
  ];
}

function commandLine(pid: string): string {
  try {
    return /^\d+$/.test(pid) ? readFileSync(`/proc/${pid}/cmdline`, 'utf8') : '';
  } catch {
    // It has just ended.
    return '';
  }
}

test('a lab makes pods by the real plugins, and leaves nothing behind', { skip }, async (t) => {
  let name = '';
  {
    await using lab = await openLab(topology);
    name = lab.name;
    const server = lab.pod('server');
    t.equal(server.ip(4), '10.3.1.2');
    t.equal(server.ip(6), 'fd00:10:3:1::2');
    for (const host of ['10.3.1.2', '[fd00:10:3:1::2]']) {
      const answer = await lab.execOnNode('solo-1', [
        'curl',
        '-sS',
        '--max-time',
        '3',
        `http://${host}:8080/`,
      ]);
      t.equal(answer.stdout, host.includes('[') ? 'server fd00:10:3:1::1\n' : 'server 10.3.1.1\n');
    }
    await lab.checkPod('server');
    const twice: PodInput = {
      name: 'second',
      node: 'solo-1',
      role: 'server',
      ports: [{ port: 8080 }],
    };
    const second = await lab.addPod(twice);
    t.equal(second.ip(), '10.3.1.3');
    t.equal((await lab.agent('solo-1').status()).endpoints.length, 2);
    await lab.removePod('second');
    t.equal((await lab.agent('solo-1').status()).endpoints.length, 1);
    t.notOk(existsSync(`/run/netns/${second.netns}`));
    t.equal((await lab.addPod({ name: 'third', node: 'solo-1' })).ips.length, 2);
    t.throws(() => lab.pod('second'), { code: 'unknown-name' });
    const url = `http://${(await lab.addPod(twice)).ip()}:8080`;
    const { stdout } = await lab.execOnNode('solo-1', ['curl', '-sS', '--max-time', '3', url]);
    t.equal(stdout, 'second 10.3.1.1\n', 'one that comes again listens when it is there');
    await lab.removePod('second');
    await lab.agent('solo-1').kill();
    await t.rejects(lab.addPod({ name: 'fourth', node: 'solo-1' }), {
      code: 'cni',
      message: /clustermesh-cni refused ADD .*cannot reach clustermesh-agent .*, CNI code 11/,
    });
    await lab.removePod('third');
    await lab.agent('solo-1').start();
    t.equal(
      (await lab.agent('solo-1').status()).endpoints.length,
      1,
      'it sees what went meanwhile',
    );
    await lab.addPod({ name: 'fourth', node: 'solo-1' });
    t.equal((await lab.agent('solo-1').status()).endpoints.length, 2);
    t.equal((await lab.exec('fourth', ['sh', '-c', 'exit 7'])).code, 7);
    t.equal((await lab.exec('fourth', ['sleep', '9'], { timeoutMs: 50 })).code, 124);
  }
  t.same(remains(name), []);
});

test('a lab whose process was killed is swept away by the next one', { skip }, async (t) => {
  const child = startCrasher();
  const name = await firstLine(child);
  t.not(remains(name).length, 0);
  t.notOk((await sweepLabs()).includes(name), 'a lab with a living owner stays');
  child.kill('SIGKILL');
  await new Promise((resolve) => child.once('close', resolve));
  t.ok((await findLab(name)).state === 'abandoned');
  t.ok((await sweepLabs()).includes(name));
  t.same(remains(name), []);
});

test('a lab that fails half way, or is aborted, leaves nothing', { skip }, async (t) => {
  const stopping = new AbortController();
  const opening = openLab(topology, {
    name: unique('ab'),
    signal: stopping.signal,
    onStep: (step) => {
      if (step.startsWith('pods')) stopping.abort(new Error('enough'));
    },
  });
  await t.rejects(opening, /enough/);
  t.same(remains(unique('ab')), []);
});

test('a lab name is given once, and tearing down twice is harmless', { skip }, async (t) => {
  await claimLab({ name: unique('cl'), persistent: true, topology, pods: {} });
  t.teardown(() => tearDownLab(unique('cl')));
  await t.rejects(openLab(topology, { name: unique('cl') }), { code: 'busy' });
  t.ok((await labNames()).includes(unique('cl')));
  await Promise.all([tearDownLab(unique('cl')), tearDownLab(unique('cl'))]);
  await tearDownLab(unique('cl'));
  t.same(remains(unique('cl')), []);
});

test('a lab with an API server cannot be left running', { skip }, async (t) => {
  const clusters = topology.clusters.map((cluster) => ({
    ...cluster,
    objects: 'kubernetes' as const,
  }));
  const opening = openLab({ ...topology, clusters }, { name: unique('kp'), persistent: true });
  await t.rejects(opening, { code: 'topology', message: /API servers end with their maker/ });
  t.same(remains(unique('kp')), []);
});

test('waitFor() tells what did not come, and why', async (t) => {
  const never = waitFor('the moon', () => Promise.reject(new Error('clouds')), {
    timeoutMs: 30,
    intervalMs: 5,
    clock: systemClock,
  });
  await t.rejects(never, { code: 'timeout', message: 'waited 30 ms for the moon: clouds' });
});

function startCrasher(): ChildProcess {
  return spawn(process.execPath, [CRASHER, JSON.stringify(topology)], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
}

function firstLine(child: ChildProcess): Promise<string> {
  return new Promise((resolve, reject) => {
    child.stdout?.once('data', (chunk: Buffer) => resolve(chunk.toString().trim()));
    child.once('close', () => reject(new Error('the process ended')));
  });
}
