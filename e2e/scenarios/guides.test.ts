/**
 * The guides for clusters of Kubernetes, as somebody pastes them: every command of theirs, from their own text, with the real helm,
 * kubectl, `cilium` and our own programs, on real API servers. There are no nodes: what a release runs besides agents is started
 * by `release-runner.ts`. What is not run at all is in one list, with the reason.
 */
import { execFile } from 'node:child_process';
import { chmod, mkdir, readFile, symlink, writeFile } from 'node:fs/promises';
import { delimiter } from 'node:path';
import { type Test, test } from 'tap';
import { projectPath } from '../../mesh/runtime/project-path.ts';
import { etcdSkipReason } from '../../mesh/testing/etcd-server.ts';
import { openTempDir, type TempDir } from '../../mesh/testing/temp-dir.ts';
import { needHelm } from '../chart/helm.ts';
import { waitFor } from '../lab/wait-for.ts';
import { ciliumChart } from '../peers/cilium-chart.ts';
import { needKube } from '../peers/kube-programs.ts';
import { contextsOf } from '../peers/kubeconfig.ts';
import { needPeers } from '../peers/peer-binary.ts';
import { type ChartCluster, installCilium, openChartCluster } from './chart-cluster.ts';
import { shellBlocks } from './console-blocks.ts';
import { openReleaseRunner } from './release-runner.ts';

/** Every command of the guides that is not run, and why. */
const NOT_RUN: readonly { readonly command: RegExp; readonly reason: string }[] = [
  { command: /^(kind|docker) /, reason: 'needs Docker; the clusters are those of the test' },
  { command: /^kubectl .* exec daemonset\//, reason: 'needs nodes that run agents' },
  { command: /^kubectl .* run client /, reason: 'needs a node that runs the pod' },
  { command: /^clustermesh status .*--wait/, reason: 'waits for agents, which need nodes' },
];

const COMMAND_MS = 240_000;
/** Cilium's operator defines them, which does not run. */
const CILIUM_CRDS = ['ciliumnodes', 'ciliumidentities', 'ciliumendpoints', 'ciliumendpointslices'];
const helm = needHelm(process.env);
const kube = needKube(process.env);
const peers = needPeers(['cilium-1.20/clustermesh-apiserver', 'cilium-cli/cilium'], process.env);
const skip = helm.skip || kube.skip || peers.skip || etcdSkipReason(process.env);
const [ciliumApiserver = '', ciliumCli = ''] = peers.paths;

interface Guide {
  readonly page: string;
  /** Contexts, as the guide names them. */
  readonly names: readonly [string, string];
  /** Run with the long tests alone: what it installs and connects is done in other tests, too. */
  readonly isLong?: boolean;
  /** What must be there before the first command. */
  prepare?(t: Test, members: readonly ChartCluster[], addresses: readonly string[]): Promise<void>;
  /** What must be true after a section, by its heading. */
  readonly checks?: Readonly<Record<string, (t: Test, run: Run) => Promise<void>>>;
}

/** Runs commands as the guide's reader does; resolves to what they print. */
type Run = (script: string) => Promise<string>;

/** Folder, programs and kubeconfig of somebody who follows a guide. */
async function openShell(members: readonly ChartCluster[], dir: TempDir): Promise<Run> {
  const [bin, home, work] = [dir.file('bin'), dir.file('home'), dir.file('clone')];
  for (const folder of [bin, `${home}/.kube`, work]) await mkdir(folder, { recursive: true });
  const config = contextsOf(members.map(({ cluster }) => cluster));
  await writeFile(`${home}/.kube/config`, JSON.stringify(config), { mode: 0o600 });
  await symlink(helm.program, `${bin}/helm`);
  await symlink(kube.programs.kubectl, `${bin}/kubectl`);
  await symlink(ciliumCli, `${bin}/cilium`);
  const own = `#!/bin/sh\nexec '${process.execPath}' '${projectPath('dist/cli/main.js')}' "$@"\n`;
  await writeFile(`${bin}/clustermesh`, own);
  await chmod(`${bin}/clustermesh`, 0o755);
  await symlink(projectPath('helm'), `${work}/helm`);
  const env = { HOME: home, PATH: [bin, '/usr/bin', '/bin'].join(delimiter) };
  const options = { cwd: work, env, timeout: COMMAND_MS, maxBuffer: 64 * 1024 * 1024 };
  return (script) =>
    new Promise((resolve, reject) => {
      execFile(
        'bash',
        ['--norc', '-euo', 'pipefail', '-c', script],
        options,
        (error, stdout, stderr) => {
          if (error === null) return resolve(stdout);
          reject(new Error(`${script}\nended with ${error.code}:\n${stdout}${stderr}`));
        },
      );
    });
}

/** Runs a guide from its first command to its last. */
async function follow(t: Test, guide: Guide): Promise<void> {
  const dir = await openTempDir('guide');
  t.teardown(() => dir[Symbol.asyncDispose]());
  const members = await Promise.all(
    guide.names.map((name) =>
      openChartCluster(t, name, { helm: helm.program, dir, programs: kube.programs }),
    ),
  );
  // Addresses of this machine that nobody else uses.
  const net = 2 + Math.floor(Math.random() * 250);
  const addresses = members.map((_, index) => `127.${net}.0.${index + 1}`);
  await guide.prepare?.(t, members, addresses);
  const runners = await Promise.all(
    members.map(({ cluster }, index) =>
      openReleaseRunner(cluster, {
        address: addresses[index] ?? '',
        podAddress: `127.${net}.1.${index + 1}`,
        cilium: ciliumApiserver,
        env: process.env,
      }),
    ),
  );
  t.teardown(() => Promise.all(runners.map((runner) => runner[Symbol.asyncDispose]())));
  const chart = await ciliumChart('cilium-1.20');
  const run = await openShell(members, dir);
  const blocks = shellBlocks(await readFile(projectPath(`docs/${guide.page}.md`), 'utf8'));
  const checked = new Set<string>();
  let shell = '';
  for (const [index, { heading, commands }] of blocks.entries()) {
    const runs = commands.filter((command) => notRun(command) === undefined).join('\n');
    // Functions stay in a shell that is open.
    shell += `${commands.filter((command) => /^\w+\(\) \{ .* \}$/.test(command)).join('\n')}\n`;
    try {
      // Cilium's chart comes with its Go module instead of from its chart repository.
      await run(`${shell}${runs}`.replaceAll(' cilium/cilium ', ` ${chart} `));
      t.pass(`${heading}: ${commands.length} commands`);
    } catch (error) {
      const problems = runners.map((runner) => runner.problem()).join('\n');
      throw new Error(`${heading}: ${String(error)}\n${problems}`);
    }
    if (blocks[index + 1]?.heading === heading) continue;
    await guide.checks?.[heading]?.(t, run);
    checked.add(heading);
  }
  t.same(
    Object.keys(guide.checks ?? {}).filter((heading) => !checked.has(heading)),
    [],
    'every check was made',
  );
}

function notRun(command: string): string | undefined {
  return NOT_RUN.find((entry) => entry.command.test(command.trim()))?.reason;
}

/** Waits until a cluster reads its peer. */
async function untilReady(run: Run, context: string, peer: string): Promise<void> {
  let last = '';
  await waitFor(
    `${context} to read ${peer}`,
    async () => {
      // Its exit code is 1 while one is not ready.
      last = await run(`clustermesh peer list --context ${context} -o json || [ $? = 1 ]`);
      const views = JSON.parse(last) as {
        name: string;
        conditions: { type: string; status: boolean }[];
      }[];
      const conditions = views.find(({ name }) => name === peer)?.conditions ?? [];
      return conditions.some(({ type, status }) => type === 'Ready' && status);
    },
    { timeoutMs: COMMAND_MS, intervalMs: 500 },
  ).catch((cause: unknown) => {
    throw new Error(last, { cause });
  });
}

const GUIDES: readonly Guide[] = [
  {
    page: 'two-kind-clusters',
    names: ['kind-alpha', 'kind-beta'],
    async prepare(_t, members, addresses) {
      for (const [index, { name, cluster }] of members.entries()) {
        const node = `${name.replace('kind-', '')}-control-plane`;
        await cluster.ask('POST', '/api/v1/nodes', { body: { metadata: { name: node } } });
        await cluster.ask('PATCH', `/api/v1/nodes/${node}/status`, {
          body: { status: { addresses: [{ type: 'InternalIP', address: addresses[index] }] } },
          contentType: 'application/merge-patch+json',
        });
      }
    },
    checks: {
      '4. Connect': async (t, run) => {
        await untilReady(run, 'kind-alpha', 'beta');
        await untilReady(run, 'kind-beta', 'alpha');
        t.match(
          await run('kubectl --context kind-alpha get meshpeers -o name'),
          /meshpeer.*\/beta/,
        );
      },
      '6. Clean up': async (t, run) => {
        t.equal(await run('kubectl --context kind-alpha get meshpeers -o name'), '');
        t.equal(await run('kubectl --context kind-beta get meshpeers -o name'), '');
      },
    },
  },
  {
    page: 'two-cilium-clusters',
    isLong: true,
    names: ['alpha', 'beta'],
    async prepare(t, members) {
      for (const [index, member] of members.entries()) {
        await member.cluster.installCrds(CILIUM_CRDS);
        await installCilium(t, member, { id: index + 1, isMeshed: true });
      }
    },
    checks: {
      '3. Connect': async (t, run) => {
        await untilReady(run, 'alpha', 'beta');
        await untilReady(run, 'beta', 'alpha');
        const secret =
          'kubectl --context alpha --namespace kube-system get secret cilium-clustermesh';
        const config = await run(`${secret} -o jsonpath={.data.beta} | base64 -d`);
        t.match(
          config,
          'https://clustermesh-apiserver.kube-system.svc:2379',
          "for Cilium's agents",
        );
      },
      'Back again': async (t, run) => {
        const where = 'kubectl --context alpha --namespace kube-system get deployment';
        const image = '-o jsonpath={.spec.template.spec.containers[*].image}';
        t.match(
          await run(`${where} clustermesh-apiserver ${image}`),
          'cilium/clustermesh-apiserver',
        );
      },
    },
  },
  {
    page: 'cilium-and-isthmus',
    isLong: true,
    names: ['blue', 'green'],
    prepare: async (t, [blue]) => {
      await blue?.cluster.installCrds(CILIUM_CRDS);
      if (blue !== undefined) await installCilium(t, blue, { id: 1, isMeshed: false });
    },
    checks: {
      '3. Blue learns of green: values': async (t, run) => {
        const secret =
          'kubectl --context blue --namespace kube-system get secret cilium-kvstoremesh';
        const config = await run(`${secret} -o jsonpath={.data.green} | base64 -d`);
        t.match(config, 'https://green.mesh.cilium.io:2379');
      },
      '4. Green learns of blue: a MeshPeer': (_t, run) => untilReady(run, 'green', 'blue'),
      'Part again': async (t, run) => {
        t.equal(await run('kubectl --context green get meshpeers -o name'), '');
        const secret =
          'kubectl --context blue --namespace kube-system get secret cilium-kvstoremesh';
        t.notMatch(await run(`${secret} --ignore-not-found -o jsonpath={.data}`), 'green');
      },
    },
  },
];

for (const guide of GUIDES) {
  if (guide.isLong === true && process.env.ISTHMUS_LONG !== 'true') continue;
  test(`docs/${guide.page}.md`, { skip, timeout: 600_000 }, (t) => follow(t, guide));
}

test('what is not run is in the guides', async (t) => {
  const texts = await Promise.all(
    GUIDES.map(({ page }) => readFile(projectPath(`docs/${page}.md`), 'utf8')),
  );
  const commands = texts.flatMap((text) => shellBlocks(text).flatMap((block) => block.commands));
  t.ok(commands.length > 50, `${commands.length} commands`);
  for (const { command, reason } of NOT_RUN) {
    const count = commands.filter((line) => command.test(line.trim())).length;
    t.ok(count > 0, `${count} not run: ${reason}`);
  }
  const left = commands.filter((command) => notRun(command) !== undefined).length;
  t.ok(left < commands.length / 4, `${left} of ${commands.length} are not run`);
});
