import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { createServer, type Socket } from 'node:net';
import { test } from 'tap';
import { projectPath } from '../../mesh/runtime/project-path.ts';
import { openTempDir } from '../../mesh/testing/temp-dir.ts';

const PLUGIN = projectPath('dist/bin/clustermesh-cni');
const RESULT = { cniVersion: '1.0.0', ips: [{ address: '10.1.1.2/24' }] };
const CONFIG = { cniVersion: '1.1.0', name: 'net', type: 'clustermesh-cni', prevResult: RESULT };
const ENVIRONMENT = {
  CNI_COMMAND: 'ADD',
  CNI_CONTAINERID: 'c0ffee',
  CNI_NETNS: '/run/netns/x',
  CNI_IFNAME: 'eth0',
  CNI_ARGS: 'K8S_POD_NAME="quoted\\"\t',
  CNI_PATH: '/usr/lib/cni',
};
const skip =
  existsSync(PLUGIN) || process.env.CI === 'true' ? false : `needs ${PLUGIN}: npm run build`;

interface PluginRun {
  readonly code: number | null;
  readonly stdout: string;
}

function runPlugin(env: Record<string, string>, input: string): Promise<PluginRun> {
  return new Promise((resolve, reject) => {
    const child = spawn(PLUGIN, [], { env: { ...ENVIRONMENT, ...env } });
    let stdout = '';
    child.stdout.on('data', (chunk: Buffer) => {
      stdout += chunk.toString();
    });
    child.stdin.on('error', () => undefined);
    child.on('error', reject);
    child.on('close', (code) => resolve({ code, stdout }));
    child.stdin.end(input);
  });
}

function failureOf({ code, stdout }: PluginRun): Record<string, unknown> {
  if (code !== 1) throw new Error(`exit code ${code}, expected 1: ${stdout}`);
  return JSON.parse(stdout) as Record<string, unknown>;
}

interface Agent extends AsyncDisposable {
  readonly socketPath: string;
  readonly requests: string[];
}

/** Answers every connection with the same bytes, once a whole request has come; `undefined` hangs up. */
async function openAgent(answer: string | undefined): Promise<Agent> {
  const dir = await openTempDir('cni');
  const socketPath = dir.file('agent.sock');
  const requests: string[] = [];
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    let received = '';
    socket.on('data', (chunk) => {
      received += chunk.toString();
      const [head = '', body = ''] = received.split('\r\n\r\n');
      const length = Number(/content-length: (\d+)/i.exec(head)?.[1]);
      if (Buffer.byteLength(body) < length) return;
      requests.push(received);
      if (answer === undefined) socket.destroy();
      else socket.end(answer);
    });
  });
  await new Promise<void>((resolve) => server.listen(socketPath, resolve));
  return {
    socketPath,
    requests,
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy();
      await new Promise<void>((resolve) => server.close(() => resolve()));
      await dir[Symbol.asyncDispose]();
    },
  };
}

function httpAnswer(status: number, body: string): string {
  return `HTTP/1.1 ${status} Any\r\nContent-Type: application/json\r\n\r\n${body}`;
}

test('clustermesh-cni tells its versions without an agent', { skip }, async (t) => {
  for (const input of ['', '{"cniVersion":"0.4.0"}', '{"cniVersion":"9.9.9"}']) {
    const { code, stdout } = await runPlugin({ CNI_COMMAND: 'VERSION' }, input);
    t.equal(code, 0);
    t.match(JSON.parse(stdout), {
      cniVersion: input.includes('0.4.0') ? '0.4.0' : '1.1.0',
      supportedVersions: ['0.3.1', '0.4.0', '1.0.0', '1.1.0'],
    });
  }
});

test('clustermesh-cni passes the request and prints the answer', { skip }, async (t) => {
  await using agent = await openAgent(httpAnswer(200, JSON.stringify(RESULT)));
  const config = { ...CONFIG, socketPath: agent.socketPath };
  const { code, stdout } = await runPlugin({}, JSON.stringify(config));
  t.equal(code, 0);
  t.same(JSON.parse(stdout), RESULT);
  const [request = ''] = agent.requests;
  t.match(request, /^POST \/v1\/cni HTTP\/1\.\d\r\n/);
  t.same(JSON.parse(request.split('\r\n\r\n')[1]!), {
    command: 'ADD',
    containerId: 'c0ffee',
    netns: '/run/netns/x',
    ifName: 'eth0',
    args: ENVIRONMENT.CNI_ARGS,
    path: '/usr/lib/cni',
    config,
  });
});

test('clustermesh-cni passes a long configuration whole', { skip }, async (t) => {
  await using agent = await openAgent(httpAnswer(200, ''));
  const config = { ...CONFIG, socketPath: agent.socketPath, filler: 'x'.repeat(700_000) };
  t.equal((await runPlugin({ CNI_COMMAND: 'DEL' }, JSON.stringify(config))).code, 0);
  t.ok(agent.requests[0]?.endsWith(`${JSON.stringify(config)}}`));
});

test("clustermesh-cni prints the agent's own error with exit code 1", { skip }, async (t) => {
  const error = { cniVersion: '1.1.0', code: 7, msg: 'no', details: 'because' };
  await using agent = await openAgent(httpAnswer(400, JSON.stringify(error)));
  const config = JSON.stringify({ ...CONFIG, socketPath: agent.socketPath });
  t.same(failureOf(await runPlugin({}, config)), error);
});

for (const [what, answer] of Object.entries({
  'text instead of JSON': httpAnswer(200, 'fine'),
  'no result': httpAnswer(200, ''),
  'an error page': httpAnswer(500, '<html>'),
  'another protocol': 'SSH-2.0-OpenSSH_9.2\r\n\r\n',
})) {
  test(`clustermesh-cni fails when the answer to ADD is ${what}`, { skip }, async (t) => {
    await using agent = await openAgent(answer);
    const config = JSON.stringify({ ...CONFIG, socketPath: agent.socketPath });
    t.equal(failureOf(await runPlugin({}, config)).code, 100);
  });
}

test('clustermesh-cni without an agent', { skip }, async (t) => {
  const input = JSON.stringify({ ...CONFIG, socketPath: '/nowhere/agent.sock' });
  for (const [command, expected] of [
    ['ADD', 11],
    ['CHECK', 11],
    ['STATUS', 50],
  ] as const) {
    const failure = failureOf(await runPlugin({ CNI_COMMAND: command }, input));
    t.equal(failure.code, expected, command);
    t.match(failure.details, /\/nowhere\/agent\.sock.*start clustermesh-agent/);
  }
  for (const command of ['DEL', 'GC']) {
    t.same(await runPlugin({ CNI_COMMAND: command }, input), { code: 0, stdout: '' }, command);
  }
});

test('clustermesh-cni when the agent dies in the middle', { skip }, async (t) => {
  await using agent = await openAgent(undefined);
  const config = { ...CONFIG, socketPath: agent.socketPath };
  t.equal(failureOf(await runPlugin({}, JSON.stringify(config))).code, 11);
  const open = await runPlugin({}, JSON.stringify({ ...config, whenAgentDown: 'open' }));
  t.equal(open.code, 0);
  t.same(JSON.parse(open.stdout), RESULT, 'the pod goes without the mesh');
});

test('clustermesh-cni refuses what it cannot use', { skip }, async (t) => {
  const cases: [string, Record<string, string>, unknown, number][] = [
    ['no command', { CNI_COMMAND: '' }, CONFIG, 4],
    ['an unknown command', { CNI_COMMAND: 'UPDATE' }, CONFIG, 4],
    [
      'a text that is cut within a character',
      { CNI_COMMAND: `${'x'.repeat(9)}${'é'.repeat(600)}` },
      CONFIG,
      4,
    ],
    ['no container', { CNI_CONTAINERID: '' }, CONFIG, 4],
    ['a container named as a path', { CNI_CONTAINERID: '../x' }, CONFIG, 4],
    ['no namespace', { CNI_NETNS: '' }, CONFIG, 4],
    ['a long interface name', { CNI_IFNAME: 'a234567890123456' }, CONFIG, 4],
    ['an interface with a slash', { CNI_IFNAME: 'a/b' }, CONFIG, 4],
    ['no version', {}, { ...CONFIG, cniVersion: undefined }, 1],
    ['an old version', {}, { ...CONFIG, cniVersion: '0.2.0' }, 1],
    ['CHECK in 0.3.1', { CNI_COMMAND: 'CHECK' }, { ...CONFIG, cniVersion: '0.3.1' }, 1],
    ['GC in 1.0.0', { CNI_COMMAND: 'GC' }, { ...CONFIG, cniVersion: '1.0.0' }, 1],
    ['no result before it', {}, { ...CONFIG, prevResult: undefined }, 7],
    ['a relative socket', {}, { ...CONFIG, socketPath: 'agent.sock' }, 7],
    ['a long socket path', {}, { ...CONFIG, socketPath: `/${'x'.repeat(107)}` }, 7],
    ['an unknown policy', {}, { ...CONFIG, whenAgentDown: 'ignore' }, 7],
    ['a list', {}, [], 6],
  ];
  for (const [what, env, config, code] of cases) {
    const failure = failureOf(await runPlugin(env, JSON.stringify(config)));
    t.equal(failure.code, code, `${what}: ${failure.msg}, ${failure.details}`);
  }
});

test('clustermesh-cni refuses every part of a configuration', { skip }, async (t) => {
  const whole = JSON.stringify({
    cniVersion: '1.1.0',
    a: [1, -2.5e-3, true, null, 'é\\u00e9"'],
    b: { c: {} },
  });
  const runs: Promise<unknown>[] = [];
  for (let length = 0; length < whole.length; length += 1) {
    runs.push(
      runPlugin({ CNI_COMMAND: 'VERSION' }, whole.slice(0, length)).then((result) => {
        if (length > 0) t.equal(failureOf(result).code, 6, whole.slice(0, length));
      }),
    );
    if (runs.length === 8) await Promise.all(runs.splice(0));
  }
  await Promise.all(runs);
  t.equal((await runPlugin({ CNI_COMMAND: 'VERSION' }, whole)).code, 0);
  for (const bad of [
    '{"a":01}',
    '{"a":"\n"}',
    '{"a":"\\x"}',
    '{"a":1,}',
    '{"a"}',
    '{}{}',
    '{"a":tru}',
  ]) {
    t.equal(failureOf(await runPlugin({ CNI_COMMAND: 'VERSION' }, bad)).code, 6, bad);
  }
  const deep = `{"a":${'['.repeat(100_000)}${']'.repeat(100_000)}}`;
  t.equal(failureOf(await runPlugin({ CNI_COMMAND: 'VERSION' }, deep)).code, 6);
  const long = `{"a":"${'x'.repeat(1_100_000)}"}`;
  t.equal(failureOf(await runPlugin({ CNI_COMMAND: 'VERSION' }, long)).code, 5);
});
