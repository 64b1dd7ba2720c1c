import { spawn } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { createServer, type Socket } from 'node:net';
import { test } from 'tap';
import { projectPath } from '../../mesh/runtime/project-path.ts';
import { openTempDir } from '../../mesh/testing/temp-dir.ts';
import { addRequest, openNodeRig } from '../testing/node-rig.ts';

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

/**
 * Answers every connection with the same bytes, once a whole request has come; `undefined` hangs up. The first `deaf`
 * ones are hung up on, too.
 */
async function openAgent(
  answer: string | undefined,
  options: { readonly socketPath?: string; readonly deaf?: number } = {},
): Promise<Agent> {
  const dir = await openTempDir('cni');
  const { socketPath = dir.file('agent.sock'), deaf = 0 } = options;
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
      if (answer === undefined || requests.length <= deaf) socket.destroy();
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

test('clustermesh-cni passes the request and prints the result before it', { skip }, async (t) => {
  await using agent = await openAgent(httpAnswer(200, ''));
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

test('clustermesh-cni passes the result before it through to the byte, in every version', {
  skip,
}, async (t) => {
  await using agent = await openAgent(httpAnswer(200, '{"cniVersion":"1.1.0","ips":[]}'));
  for (const version of ['0.3.1', '0.4.0', '1.0.0', '1.1.0']) {
    const result = `{ "cniVersion":"${version}" , "ips":[{"address":"10.1.1.2/24"}],\n\t"10":1,"2":12345678901234567890.5e3, "x":"\\u00e9\\/é", "dns":{}, "dns":{"search":[]} }`;
    const input = `{"cniVersion":"${version}","name":"n","type":"clustermesh-cni","socketPath":"${agent.socketPath}","prevResult":${result}}`;
    t.same(await runPlugin({}, input), { code: 0, stdout: `${result}\n` }, version);
  }
});

for (const [what, answer] of Object.entries({
  'text instead of JSON': httpAnswer(200, 'fine'),
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
  const config = { ...CONFIG, socketPath: '/nowhere/agent.sock', agentDownTimeout: '50ms' };
  const input = JSON.stringify(config);
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
  const open = JSON.stringify({ ...config, agentDown: 'open' });
  t.same(
    await runPlugin({ CNI_COMMAND: 'STATUS' }, open),
    { code: 0, stdout: '' },
    'with open, pods can be started',
  );
});

test('clustermesh-cni waits for an agent that is being started, and no longer than it is told', {
  skip,
}, async (t) => {
  await using dir = await openTempDir('cni-wait');
  const socketPath = dir.file('agent.sock');
  const config = { ...CONFIG, socketPath, agentDownTimeout: '300ms' };
  const begin = performance.now();
  t.equal(failureOf(await runPlugin({}, JSON.stringify(config))).code, 11);
  t.ok(performance.now() - begin >= 300, 'it has waited');
  const waiting = runPlugin({}, JSON.stringify({ ...config, agentDownTimeout: '1m' }));
  // Neither one that hangs up, as in the middle of its end, is the agent.
  await using agent = await openAgent(httpAnswer(200, ''), { socketPath, deaf: 2 });
  const { code, stdout } = await waiting;
  t.equal(code, 0);
  t.same(JSON.parse(stdout), RESULT);
  t.equal(agent.requests.length, 3);
});

test('clustermesh-cni opens a pod without an agent, and leaves word of it', { skip }, async (t) => {
  await using dir = await openTempDir('cni-open');
  const config = {
    ...CONFIG,
    socketPath: dir.file('run', 'agent.sock'),
    agentDown: 'open',
  };
  const input = JSON.stringify(config);
  const folder = dir.file('run', 'agent.sock.opened');
  for (let round = 0; round < 2; round += 1) {
    const { code, stdout } = await runPlugin({}, input);
    t.equal(code, 0);
    t.same(JSON.parse(stdout), RESULT, 'the pod goes without the mesh');
    t.same(readdirSync(folder), ['c0ffee:eth0'], 'and no draft is left');
  }
  t.same(JSON.parse(readFileSync(`${folder}/c0ffee:eth0`, 'utf8')), {
    command: 'ADD',
    containerId: 'c0ffee',
    netns: '/run/netns/x',
    ifName: 'eth0',
    args: ENVIRONMENT.CNI_ARGS,
    path: '/usr/lib/cni',
    config,
  });
  t.same(await runPlugin({ CNI_COMMAND: 'DEL' }, input), { code: 0, stdout: '' });
  t.same(readdirSync(folder), [], 'a pod that has gone is not left word of');
  const unwritable = JSON.stringify({ ...config, socketPath: '/proc/none/agent.sock' });
  t.equal((await runPlugin({}, unwritable)).code, 0, 'open is open, also when no word can be left');
});

test('clustermesh-cni asks an agent that began to listen while the word was written', {
  skip,
}, async (t) => {
  await using agent = await openAgent(httpAnswer(200, ''), { deaf: 1 });
  const config = { ...CONFIG, socketPath: agent.socketPath, agentDown: 'open' };
  t.equal((await runPlugin({}, JSON.stringify(config))).code, 0);
  t.equal(agent.requests.length, 2);
  t.same(readdirSync(`${agent.socketPath}.opened`), []);
});

test('clustermesh-cni when the agent dies in the middle', { skip }, async (t) => {
  await using agent = await openAgent(undefined);
  const config = { ...CONFIG, socketPath: agent.socketPath, agentDownTimeout: '150ms' };
  t.equal(failureOf(await runPlugin({}, JSON.stringify(config))).code, 11);
  t.ok(agent.requests.length >= 2, 'it has tried again');
  const open = await runPlugin({}, JSON.stringify({ ...config, agentDown: 'open' }));
  t.same(JSON.parse(open.stdout), RESULT, 'the pod goes without the mesh');
});

test('a hundred pods at a time all get their endpoint, each its own', { skip }, async (t) => {
  const rig = await openNodeRig(t);
  await rig.start();
  const numbers = Array.from({ length: 100 }, (_, index) => index + 1);
  for (const number of numbers) {
    rig.veths.set(`/run/netns/p${number}`, {
      hostInterface: `veth${number}`,
      ifindex: 1000 + number,
      mac: '02:00:00:00:00:01',
    });
  }
  const results = await Promise.all(
    numbers.map((number) => {
      const request = addRequest(`p${number}`, `10.1.0.${number}`);
      const config = { ...(request.config as object), socketPath: rig.socketPath };
      const env = { CNI_CONTAINERID: `p${number}`, CNI_NETNS: `/run/netns/p${number}` };
      return runPlugin(env, JSON.stringify(config));
    }),
  );
  t.same([...new Set(results.map(({ code }) => code))], [0]);
  const rows = rig.datapath.endpoints.rows();
  t.equal(rows.length, 100);
  t.equal(new Set(rows.map(({ endpointId }) => endpointId)).size, 100);
  t.ok(rows.every(({ ifindex, addresses }) => addresses[0] === `10.1.0.${ifindex - 1000}`));
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
    ['an unknown policy', {}, { ...CONFIG, agentDown: 'ignore' }, 7],
    ['a policy that is no text', {}, { ...CONFIG, agentDown: true }, 7],
    ['a time without a unit', {}, { ...CONFIG, agentDownTimeout: '30' }, 7],
    ['a time that is no text', {}, { ...CONFIG, agentDownTimeout: 30 }, 7],
    ['a negative time', {}, { ...CONFIG, agentDownTimeout: '-1s' }, 7],
    ['a time that is too long', {}, { ...CONFIG, agentDownTimeout: '11m' }, 7],
    ['a time that is far too long', {}, { ...CONFIG, agentDownTimeout: '99999999999999' }, 7],
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
