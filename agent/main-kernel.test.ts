import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type Test, test } from 'tap';
import { until } from '../mesh/remote/testing/until.ts';
import { openTempDir, type TempDir } from '../mesh/testing/temp-dir.ts';
import { callAgent, fetchStatus } from './api/client.ts';
import { kernelSkipReason } from './datapath/testing/bpffs.ts';
import { HOST_INTERFACE, openTestNodes, type TestNode } from './datapath/testing/nodes.ts';

const MAIN = fileURLToPath(new URL('./main.js', import.meta.url));
const skip = kernelSkipReason();

/** Arguments that start a command in a node's network namespace, but for it in the test's own. */
function inNode(node: TestNode, args: readonly string[]): [string, string[]] {
  return ['nsenter', [`--net=/run/netns/${node.namespace}`, process.execPath, MAIN, ...args]];
}

function agentArgs(node: TestNode, dir: TempDir): string[] {
  const { options } = node;
  return [
    'run',
    '--cluster-name=alpha',
    '--cluster-id=1',
    '--node-name=n1',
    ...options.nodeIps.map((ip) => `--node-ip=${ip}`),
    `--etcd-config=${dir.file('own.yaml')}`,
    `--bpf-root=${options.bpfRoot}`,
    `--cgroup-root=${options.cgroupRoot}`,
    `--object-dir=${options.objectDir}`,
    `--state-dir=${dir.file('state')}`,
    `--socket-path=${dir.file('agent.sock')}`,
    `--cni-conf-dir=${dir.file('net.d')}`,
    `--cni-bin-dir=${dir.file('bin')}`,
    '--log-level=error',
  ];
}

async function startAgent(t: Test, node: TestNode, dir: TempDir): Promise<ChildProcess> {
  const child = spawn(...inNode(node, agentArgs(node, dir)), {
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  t.teardown(async () => {
    if (child.exitCode === null && child.signalCode === null) {
      child.kill('SIGKILL');
      await once(child, 'exit');
    }
  });
  await until('the agent answers', async () => {
    if (child.exitCode !== null) throw new Error(`the agent ended with ${child.exitCode}`);
    return (
      (await callAgent(dir.file('agent.sock'), { path: '/healthz' }).catch(() => undefined)) !==
      undefined
    );
  });
  return child;
}

async function end(child: ChildProcess, signal: NodeJS.Signals): Promise<number | null> {
  const ended = once(child, 'exit');
  child.kill(signal);
  await ended;
  return child.exitCode;
}

/** What of a node an agent could leave something in. */
function snapshot(node: TestNode, dir: TempDir): Record<string, string> {
  const inNamespace = (...args: string[]): string =>
    spawnSync('nsenter', [`--net=/run/netns/${node.namespace}`, ...args], { encoding: 'utf8' })
      .stdout;
  const files = (folder: string): string =>
    existsSync(folder)
      ? readdirSync(folder, { recursive: true, withFileTypes: true })
          .filter((entry) => !entry.isDirectory())
          .map((entry) => join(entry.parentPath, entry.name))
          .sort()
          // Whatever the spacing.
          .map((path) => `${path} ${readFileSync(path, 'utf8').replace(/\s+/g, '')}`)
          .join('\n')
      : '';
  // The kernel gives these once it has looked whether somebody else has them.
  const withoutLinkLocal = (text: string): string =>
    text
      .split('\n')
      .filter((line) => !line.includes('fe80::'))
      .join('\n');
  const links = spawnSync('bpftool', ['-j', 'link', 'show'], { encoding: 'utf8' }).stdout;
  const cgroupId = String(statSync(node.options.cgroupRoot).ino);
  return {
    devices: inNamespace('ip', '-o', 'link', 'show').replace(/ (?:state|qlen) \S+/g, ''),
    routes: withoutLinkLocal(inNamespace('ip', 'route', 'show', 'table', 'all')),
    routes6: withoutLinkLocal(inNamespace('ip', '-6', 'route', 'show', 'table', 'all')),
    rules: inNamespace('ip', 'rule', 'show') + inNamespace('ip', '-6', 'rule', 'show'),
    addresses: withoutLinkLocal(
      inNamespace('ip', '-o', 'address', 'show').replace(/ valid_lft.*/g, ''),
    ),
    qdiscs: inNamespace('tc', 'qdisc', 'show'),
    cgroupPrograms: String(links.includes(`"cgroup_id":${cgroupId},`)),
    pins: String(existsSync(join(node.options.bpfRoot, 'isthmus'))),
    state: files(dir.file('state')),
    stateFolder: String(existsSync(dir.file('state'))),
    socket: String(existsSync(dir.file('agent.sock'))),
    cni: files(dir.file('net.d')) + files(dir.file('bin')),
  };
}

test('an agent on a real kernel: pods, kill -9, SIGTERM, a second agent, cleanup', {
  skip,
}, async (t) => {
  await using nodes = await openTestNodes();
  await using dir = await openTempDir('kernel');
  const [node] = nodes.nodes;
  const socket = dir.file('agent.sock');
  const pins = join(node.options.bpfRoot, 'isthmus');
  // An own cluster that cannot be reached must not keep pods from being made.
  writeFileSync(dir.file('own.yaml'), 'endpoints:\n- http://127.0.0.1:9\n');
  mkdirSync(dir.file('net.d'));
  const conf = dir.file('net.d', '10-net.conflist');
  writeFileSync(conf, '{"cniVersion":"1.0.0","name":"net","plugins":[{"type":"ptp"}]}');
  const untouched = snapshot(node, dir);
  const cni = (command: string) =>
    callAgent(socket, {
      path: '/v1/cni',
      method: 'POST',
      body: JSON.stringify({
        command,
        containerId: 'c1',
        netns: `/run/netns/${node.podNamespace}`,
        ifName: 'eth0',
        args: 'K8S_POD_NAMESPACE=demo;K8S_POD_NAME=web',
        path: '',
        config: {
          cniVersion: '1.0.0',
          name: 'lab',
          prevResult: { ips: [{ address: `${node.podIp}/32` }, { address: `${node.podIp6}/128` }] },
        },
      }),
    });
  const row = async (): Promise<unknown> => {
    const dump: unknown = JSON.parse(
      (await callAgent(socket, { path: '/v1/maps/endpoints' })).body,
    );
    return dump;
  };

  const cleanupArgs = [
    'cleanup',
    `--socket-path=${socket}`,
    `--bpf-root=${node.options.bpfRoot}`,
    `--state-dir=${dir.file('state')}`,
    `--cni-conf-dir=${dir.file('net.d')}`,
    `--cni-bin-dir=${dir.file('bin')}`,
  ];
  for (const begun of [dir.file('state'), pins]) {
    const early = spawn(...inNode(node, agentArgs(node, dir)), {
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    let said = '';
    early.stderr?.on('data', (chunk: Buffer) => {
      said += chunk.toString();
    });
    await until(`an agent that made ${begun}`, () => existsSync(begun));
    const code = await end(early, 'SIGTERM');
    // Null: it had not begun to listen to signals.
    t.ok(code === 0 || code === null, `ended while it was starting: ${code}`);
    t.equal(said, '', 'quietly');
  }

  const first = await startAgent(t, node, dir);
  await until('the CNI plugin is chained', () =>
    readFileSync(conf, 'utf8').includes(`"socketPath": "${socket}"`),
  );
  t.match(await cni('ADD'), { status: 200 });
  t.same(await cni('CHECK'), { status: 200, body: '' });
  const { ifindex, mac } = node.endpoint();
  const expected = {
    rows: [
      {
        endpointId: 1,
        addresses: [node.podIp, node.podIp6],
        ifindex,
        mac,
        hostInterface: HOST_INTERFACE,
        identity: 5,
        ingressEnforced: true,
      },
    ],
  };
  t.match(await row(), expected);
  t.ok(readdirSync(join(pins, 'links')).some((name) => name.startsWith('endpoint-')));

  const second = spawnSync(...inNode(node, agentArgs(node, dir)), { encoding: 'utf8' });
  t.equal(second.status, 1);
  t.match(
    second.stderr,
    new RegExp(
      `^clustermesh-agent: another agent runs here: process ${first.pid} holds .*: stop it first`,
    ),
  );

  await end(first, 'SIGKILL');
  t.ok(existsSync(join(pins, 'maps')), 'maps stay when the agent is killed');
  const third = await startAgent(t, node, dir);
  t.match(await row(), expected, 'and the next agent takes them up');
  t.match((await fetchStatus(socket)).endpoints, [{ endpointId: 1, pod: 'demo/web' }]);

  t.match(spawnSync(...inNode(node, cleanupArgs), { encoding: 'utf8' }), {
    status: 1,
    stderr: /an agent answers on .*: stop it first/,
  });
  t.equal(await end(third, 'SIGTERM'), 0);
  t.ok(existsSync(join(pins, 'maps')), 'maps stay when the agent is stopped');
  t.notOk(existsSync(socket));

  const fourth = await startAgent(t, node, dir);
  t.match(await cni('DEL'), { status: 200 });
  t.match(await row(), { rows: [] });
  t.notOk(readdirSync(join(pins, 'links')).some((name) => name.startsWith('endpoint-')));
  await end(fourth, 'SIGTERM');

  t.notSame(snapshot(node, dir), untouched);
  const cleaned = spawnSync(...inNode(node, cleanupArgs), { encoding: 'utf8' });
  t.equal(cleaned.status, 0, cleaned.stderr);
  t.same(snapshot(node, dir), untouched, 'the machine is as it was');
  const again = spawnSync(...inNode(node, ['uninstall', ...cleanupArgs.slice(1)]));
  t.equal(again.status, 0, 'under its old name, and where there is nothing to do');
  t.same(snapshot(node, dir), untouched);
});
