import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createServer } from 'node:http';
import { fileURLToPath } from 'node:url';
import { type Test, test } from 'tap';
import { openTempDir } from '../mesh/testing/temp-dir.ts';

const MAIN = fileURLToPath(new URL('./main.js', import.meta.url));

/** Two events as an agent tells them: the first line, and a refused call to a service. */
function linesOf(node: string): string {
  const nobody = { identity: undefined };
  const stamp = { time: '2025-11-21T16:48:00.123456Z', node };
  const start = { kind: 'start', ...stamp, traceLevel: 'none', history: 0 };
  const refused = {
    kind: 'service',
    ...stamp,
    reason: 'service-no-backend',
    reasonNumber: 158,
    direction: 'egress',
    protocol: 'TCP',
    service: 'demo/web',
    source: nobody,
    destination: { ...nobody, address: '10.96.0.1', port: 80 },
    cookie: '1',
    advice: 'nobody is there: start a server',
  };
  return `${[start, refused].map((event) => JSON.stringify(event)).join('\n')}\n`;
}

/** Something on a socket that answers each question with those events; what was asked for is kept. */
async function openAgent(t: Test, socketPath: string, node: string): Promise<string[]> {
  const asked: string[] = [];
  const server = createServer((request, response) => {
    asked.push(request.url ?? '');
    response.end(linesOf(node));
  });
  server.listen(socketPath);
  await once(server, 'listening');
  t.teardown(() => server.close());
  return asked;
}

async function run(...args: string[]) {
  const child = spawn(process.execPath, [MAIN, 'monitor', ...args], { stdio: 'pipe' });
  let stdout = '';
  let stderr = '';
  child.stdout.on('data', (part) => {
    stdout += part;
  });
  child.stderr.on('data', (part) => {
    stderr += part;
  });
  const [code] = await once(child, 'close');
  return { code, stdout, stderr };
}

test('clustermesh monitor: one agent and several, questions and exit codes', async (t) => {
  await using dir = await openTempDir('monitor');
  const [a, b, none] = [dir.file('a.sock'), dir.file('b.sock'), dir.file('none.sock')];
  const askedA = await openAgent(t, a, 'n1');
  await openAgent(t, b, 'n2');
  const [one, two, blocks, silent, wrong] = await Promise.all([
    run('--socket-path', a, '--drops', '--from', '10.0.0.0/8', 'demo/x', '--port', '80'),
    run('--socket-path', a, b),
    run('--socket-path', a, b, '-o', 'dict'),
    run('--socket-path', b, none),
    run('--socket-path', a, '--lab', 'x'),
  ]);
  const text =
    'service service-no-backend demo/web 10.96.0.1:80 TCP refused: nobody is there: start a server';
  t.same(one, { code: 0, stdout: `16:48:00.123456 ${text}\n`, stderr: '' });
  t.ok(
    askedA.includes('/v1/monitor?kind=drop&from=10.0.0.0%2F8&from=demo%2Fx&port=80'),
    askedA.join(' '),
  );
  t.same(
    { ...two, stdout: two.stdout.split('\n').sort() },
    {
      code: 0,
      stdout: ['', `16:48:00.123456 n1 ${text}`, `16:48:00.123456 n2 ${text}`],
      stderr: '',
    },
  );
  t.equal(blocks.code, 0);
  const nodes = blocks.stdout.split('\n\n').map((block) => /^NODE: +(\S+)$/m.exec(block)?.[1]);
  t.same(nodes.sort(), ['n1', 'n2', undefined], 'blocks of two agents stay whole');
  t.equal(silent.code, 3, 'one that does not answer is said at the end');
  t.match(silent.stderr, /cannot reach the agent on .*none\.sock/);
  t.match(silent.stdout, /n2 service/, 'what the other says is shown');
  t.match(wrong, { code: 2, stderr: /give --socket-path or --lab, not both/ });
});
