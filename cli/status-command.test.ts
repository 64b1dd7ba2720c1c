import { Command } from 'commander';
import { test } from 'tap';
import { viewMesh } from '../mesh/diagnosis/mesh-view.ts';
import { decodeMeshStatus, encodeMeshStatus, type MeshStatus } from '../mesh/wire/mesh-status.ts';
import type { CliContext } from './cli-context.ts';
import { statusCommand } from './status-command.ts';
import { meshOutput, renderMesh } from './status-mesh.ts';
import { troubleshootCommand } from './troubleshoot-command.ts';

const NOW = Date.parse('2030-01-01T00:00:00Z');

function context(): CliContext & { readonly printed: string[] } {
  const printed: string[] = [];
  return {
    printed,
    input: (async function* () {})(),
    print: (text) => void printed.push(text),
    say: () => undefined,
    output: () => {
      throw new Error('much text is not expected');
    },
    setExitCode: () => undefined,
    setProblem: () => undefined,
    signal: new AbortController().signal,
    hasColours: false,
    isWatched: false,
  };
}

function call(name: 'status' | 'troubleshoot', ...args: string[]): Promise<unknown> {
  const made = name === 'status' ? statusCommand(context()) : troubleshootCommand(context());
  return new Command()
    .addCommand(made.exitOverride())
    .parseAsync([name, ...args], { from: 'user' });
}

const NOBODY = '--socket-path=/nowhere/agent.sock';

test('status and troubleshoot refuse to look from two places', async (t) => {
  for (const name of ['status', 'troubleshoot'] as const) {
    await t.rejects(call(name, NOBODY, '--context=alpha'), {
      code: 'usage',
      message: /say once where to look from/,
    });
  }
  await t.rejects(call('status', NOBODY, '--wait'), { code: 'usage', message: /whole mesh/ });
  await t.rejects(call('status', NOBODY, '-o', 'yaml'), { code: 'usage', message: /-o json/ });
  await t.rejects(call('troubleshoot', '--file=/nowhere'), {
    code: 'usage',
    message: /name of the peer/,
  });
});

test('agents that are named are asked, whatever cluster the environment names', async (t) => {
  const before = process.env.ISTHMUS_REGISTRY;
  process.env.ISTHMUS_REGISTRY = '192.0.2.1:2381';
  t.teardown(() => {
    if (before === undefined) delete process.env.ISTHMUS_REGISTRY;
    else process.env.ISTHMUS_REGISTRY = before;
  });
  for (const name of ['status', 'troubleshoot'] as const) {
    await t.rejects(call(name, NOBODY), { code: 'unreachable', message: /\/nowhere\/agent\.sock/ });
  }
});

test('troubleshoot --file looks from where it stands', async (t) => {
  const printed = context();
  const program = new Command().addCommand(troubleshootCommand(printed));
  await program.parseAsync(['troubleshoot', 'beta', '--file', '/nowhere/beta'], { from: 'user' });
  t.match(
    printed.printed.join(''),
    /^beta, seen from this machine\n {2}config +failed .*\n(.*\n)*error own-certificate-missing: peer beta: .*\/nowhere\/beta.*\n {2}run: {2}ls -l \/nowhere\/beta\n(.*\n)*verdict: cluster beta does not work because .*\(own-certificate-missing\)\n$/,
  );
});

const STATUS: MeshStatus = {
  schema: 1,
  cluster: { name: 'alpha', id: 1 },
  version: '1.0.0',
  replica: 'r1',
  at: NOW,
  mode: 'any-cni',
  apiserver: { ready: true, missing: [], notes: [], leads: true, kinds: [] },
  etcd: { reachable: true, alarms: [], error: '' },
  certificates: [],
  mirrors: true,
  peers: [
    {
      name: 'beta',
      own: false,
      clusterId: 2,
      state: 'failed',
      since: NOW - 61_000,
      reason: 'no \u001b[31mroute',
      notes: [],
      counts: { nodes: 3, ips: 40, services: 5 },
      lagMs: { p50: 1.5, p99: 20 },
      heldBack: {},
      refused: 0,
      certificateExpiresAt: NOW + 172_800_000,
    },
  ],
  findings: [],
  agents: [{ kind: 'node', name: 'n1', session: 'never', forMs: 0 }],
};

test('a mesh is told as text that nobody else can write into, and as a value', (t) => {
  const view = viewMesh(decodeMeshStatus(encodeMeshStatus(STATUS)));
  const text = renderMesh(view, { hasColours: false });
  t.notOk(text.includes('\u001b'), 'what another cluster says cannot move the cursor');
  t.match(
    text,
    /^cluster alpha \(id 1\), any-cni, apiserver r1 1\.0\.0: not ready\nClusterMesh: 0\/1 remote clusters ready\n/,
  );
  t.match(text, /\nbeta +2 +failed +61s +0\/1 +3 +40 +5 +1\.5\/20 ms +ends in 2d0h\n/);
  t.match(text, /\nnode n1 +never +0s +-/);
  t.match(
    text,
    /\nerror peer-failed: peer beta: no {2}\[31mroute\n {2}run: {2}clustermesh troubleshoot beta\n {2}read: docs\/troubleshooting\.md#peer-failed\n/,
  );
  const coloured = renderMesh(view, { hasColours: true });
  t.ok(coloured.includes('\u001b[31m✘ error\u001b[0m'));
  t.match(meshOutput(view), {
    ready: false,
    at: '2030-01-01T00:00:00.000Z',
    peers: [{ name: 'beta', readers: [{ from: 'apiserver', state: 'failed' }] }],
    problems: [{ id: 'peer-failed' }, { id: 'agent-missing', subject: 'node n1' }],
  });
  t.end();
});
