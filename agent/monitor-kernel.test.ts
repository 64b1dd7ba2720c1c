import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { type Test, test } from 'tap';
import { until } from '../mesh/remote/testing/until.ts';
import { openTempDir } from '../mesh/testing/temp-dir.ts';
import { kernelSkipReason } from './datapath/testing/bpffs.ts';
import { openTestNodes, runIn } from './datapath/testing/nodes.ts';
import type { MonitorEvent, PacketEvent } from './monitor/event.ts';
import { AGENT_MAIN, openNodeProcess } from './testing/node-process.ts';

const skip = kernelSkipReason();
const CLI_MAIN = fileURLToPath(new URL('../cli/main.js', import.meta.url));

/** A program that prints lines. */
function run(t: Test, main: string, args: readonly string[]) {
  const child = spawn(process.execPath, [main, ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
  const lines: string[] = [];
  let errors = '';
  createInterface({ input: child.stdout }).on('line', (line) => lines.push(line));
  child.stderr.on('data', (part) => {
    errors += part;
  });
  const closed = once(child, 'close').then(([code]): number => code);
  t.teardown(async () => {
    child.kill('SIGKILL');
    await closed;
  });
  return { child, lines, closed, errors: () => errors };
}

const ping = (to: string, ...more: string[]): string[] => [
  'ping',
  '-c',
  '1',
  '-W',
  '1',
  ...more,
  to,
];

test('real drops and packets that go on, through the socket and the command line', {
  skip,
}, async (t) => {
  await using nodes = await openTestNodes();
  await using dir = await openTempDir('monitor');
  const [node, other] = nodes.nodes;
  await using agent = await openNodeProcess(node, dir, ['--monitor-history=100']);
  t.match(await agent.cni('ADD'), { status: 200 });
  const socket = `--socket-path=${agent.socketPath}`;
  // What comes from the other node through the underlay is forwarded to the pod, whose identity nobody has said.
  const forward = ['net.ipv4.ip_forward=1', 'net.ipv6.conf.all.forwarding=1'];
  t.match(await runIn(node.namespace, ['sysctl', '-qw', ...forward]), { code: 0 });
  for (const [pod, via] of [
    [node.podIp, '192.0.2.1'],
    [node.podIp6, 'fd00::1'],
  ] as const) {
    t.match(await runIn(other.namespace, ['ip', 'route', 'add', pod, 'via', via]), { code: 0 });
  }

  const cli = run(t, CLI_MAIN, ['monitor', '--drops', '-o', 'json', socket]);
  await until('it listens', () => cli.lines.length > 0 || cli.child.exitCode !== null);
  t.match(JSON.parse(cli.lines[0] ?? cli.errors()), { kind: 'start', node: 'n1', history: 100 });
  await runIn(node.podNamespace, ['ip', 'address', 'add', '10.9.9.9/32', 'dev', 'eth0']);
  await Promise.all([
    runIn(other.namespace, ping(node.podIp)),
    runIn(other.namespace, ping(node.podIp6)),
    runIn(node.podNamespace, ping('192.0.2.1', '-I', '10.9.9.9')),
  ]);
  const heard = (): MonitorEvent[] => cli.lines.map((line) => JSON.parse(line));
  const find = (reason: string, network: string): PacketEvent | undefined => {
    const isIt = (event: MonitorEvent): event is PacketEvent =>
      event.kind === 'drop' && event.reason === reason && event.network === network;
    return heard().find(isIt);
  };
  await until('all three are told', () =>
    [
      find('policy-denied', 'IPv4'),
      find('policy-denied', 'IPv6'),
      find('invalid-source', 'IPv4'),
    ].every((event) => event !== undefined),
  );
  const pod = { id: 1, pod: 'demo/web' };
  t.match(find('policy-denied', 'IPv4'), {
    reasonNumber: 133,
    direction: 'ingress',
    endpoint: pod,
    source: { address: '192.0.2.2', identity: 2, reserved: 'world' },
    destination: { address: node.podIp, identity: 5, reserved: 'init', pod: 'demo/web' },
    protocol: 'ICMPv4',
    icmp: { name: 'echo request' },
    interface: 'pod.0',
    length: 98,
    packet: /^[0-9a-f]{196}$/,
  });
  t.match(find('policy-denied', 'IPv6'), {
    source: { address: 'fd00::2', identity: 2 },
    destination: { address: node.podIp6 },
    icmp: { type: 128 },
  });
  t.match(find('invalid-source', 'IPv4'), {
    direction: 'egress',
    endpoint: pod,
    source: { address: '10.9.9.9', identity: undefined },
  });
  const [told] = heard().slice(1);
  const age = Date.now() - Date.parse(told !== undefined ? told.time : '');
  t.ok(age >= 0 && age < 60_000, `the time is right: ${age} ms ago`);
  cli.child.kill('SIGINT');
  t.equal(await cli.closed, 0, 'to be interrupted is fine');

  // All at once: what takes time is their start.
  const last = run(t, AGENT_MAIN, ['monitor', '--last=100', '--from=192.0.2.2', socket]);
  const level = run(t, AGENT_MAIN, ['trace-level', 'medium', socket]);
  const wrong = run(t, CLI_MAIN, ['monitor', '--port=http', socket]);
  const nobody = run(t, CLI_MAIN, ['monitor', `--socket-path=${dir.file('no.sock')}`]);
  t.equal(await last.closed, 0);
  t.match(last.lines[0], /drop {4}policy-denied ingress endpoint 1 \S+ \(world\) -> /);
  t.match(last.lines[0], /: no policy row allows it, and a policy selects the endpoint: expected/);
  t.equal(await level.closed, 0);
  t.same(level.lines, ['medium']);
  t.equal(await wrong.closed, 2);
  t.match(wrong.errors(), /port http: expected a number from 0 to 65535/);
  t.equal(await nobody.closed, 3);
  t.match(nobody.errors(), /cannot reach the agent on .*no\.sock/);

  const trace = run(t, AGENT_MAIN, [
    'monitor',
    '--trace',
    `--from=${node.podIp}`,
    '-o',
    'json',
    socket,
  ]);
  await until('it listens', () => trace.lines.length > 0);
  t.equal((await runIn(node.podNamespace, ping('192.0.2.1', '-I', node.podIp))).code, 0);
  await until('it is traced', () => trace.lines.length > 1);
  t.match(JSON.parse(trace.lines[1] ?? ''), {
    kind: 'trace',
    reason: 'passed-to-stack',
    state: 'new',
    destination: { address: '192.0.2.1' },
  });

  await agent[Symbol.asyncDispose]();
  t.equal(await trace.closed, 3, 'an agent that ends cannot be reached any more');
});
