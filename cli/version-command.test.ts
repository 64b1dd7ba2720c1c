import { execFile } from 'node:child_process';
import { createServer } from 'node:http';
import { promisify } from 'node:util';
import { test } from 'tap';
import { viewMesh } from '../mesh/diagnosis/mesh-view.ts';
import { packageVersion } from '../mesh/runtime/package-version.ts';
import { projectPath } from '../mesh/runtime/project-path.ts';
import { openTempDir } from '../mesh/testing/temp-dir.ts';
import { decodeMeshStatus, encodeMeshStatus } from '../mesh/wire/mesh-status.ts';
import { runCli } from './testing/cli-run.ts';
import { clusterVersions, renderVersions } from './version-command.ts';

const OWN = packageVersion();

test('every program tells its version', async (t) => {
  for (const [name, ...argv] of [
    ['clustermesh', process.execPath, projectPath('dist/cli/main.js')],
    ['clustermesh-agent', process.execPath, projectPath('dist/agent/main.js')],
    ['clustermesh-apiserver', process.execPath, projectPath('dist/clustermesh-apiserver/main.js')],
    ['clustermesh-cni', projectPath('dist/bin/clustermesh-cni')],
  ]) {
    const [program = '', ...args] = argv;
    const { stdout } = await promisify(execFile)(program, [...args, '--version']);
    t.equal(stdout, `${name} ${OWN}\n`);
  }
});

test('clustermesh version on a machine', async (t) => {
  const alone = await runCli(['version', '--client', '-o', 'json']);
  t.same(JSON.parse(alone.stdout), { client: OWN, agents: [], problems: [] });

  await using dir = await openTempDir('version');
  const nowhere = dir.file('nowhere.sock');
  const failed = await runCli(['version', '--socket-path', nowhere]);
  t.equal(failed.code, 3, 'an agent that is named has to be there');
  t.match(failed.stdout, `command  ${OWN}\n`, 'and what is known is told');
  t.match(failed.stderr, nowhere);

  const sockets: string[] = [];
  for (const [node, version] of [
    ['n1', OWN],
    ['n2', '0.0.9'],
  ]) {
    const server = createServer((_, response) => response.end(JSON.stringify({ node, version })));
    sockets.push(dir.file(`${node}.sock`));
    await new Promise<void>((resolve) => server.listen(sockets.at(-1), resolve));
    t.teardown(() => server.close());
  }
  const found = await runCli(['version', '--socket-path', ...sockets]);
  t.equal(found.code, 0);
  t.match(found.stdout, /^agents +0\.0\.9 +n2$/m);
  t.match(found.stdout, new RegExp(`^agents +${OWN} +n1$`, 'm'));
  t.match(found.stdout, /version-skew: node n2: the agent is 0\.0\.9, this command /);
});

test('clustermesh version of a cluster', (t) => {
  const view = viewMesh(
    decodeMeshStatus(
      encodeMeshStatus({
        schema: 1,
        cluster: { name: 'alpha', id: 1 },
        version: '1.0.0',
        replica: 'r1',
        at: 0,
        mode: 'any-cni',
        apiserver: { ready: true, missing: [], notes: [], leads: true, kinds: [] },
        etcd: { reachable: true, alarms: [], error: '' },
        certificates: [],
        mirrors: true,
        peers: [],
        findings: [],
        agents: [{ kind: 'node', name: 'n1', session: 'never', forMs: 0 }],
      }),
    ),
  );
  t.match(clusterVersions('1.0.0', view), {
    client: '1.0.0',
    server: { cluster: 'alpha', replica: 'r1', version: '1.0.0' },
    agents: [],
    problems: [],
  });
  const other = clusterVersions('0.9.0', view);
  t.match(other.problems, [{ id: 'version-skew', severity: 'warning' }]);
  const text = renderVersions(other, false);
  t.match(text, /^apiserver +1\.0\.0 +r1 of cluster alpha$/m);
  t.match(text, /the apiserver is 1\.0\.0, this command 0\.9\.0/);
  t.end();
});
