/**
 * Cilium's own command line, `cilium clustermesh`, between clusters of ours and of Cilium: on real API servers, with Cilium's own
 * chart and ours. There are no nodes: nothing that the charts install runs, and what a kubelet and a cloud would report is
 * written by the test.
 *
 * `connect` reads the same of both clusters in every mode (ConfigMap `cilium-config`, Service, Secrets, Helm release), then
 * upgrades its own cluster's release, and only then the other one's (`ConnectWithHelm` in
 * `cilium-cli/clustermesh/clustermesh.go`). So nothing that a cluster of ours shows could let `--connection-mode unicast` pass
 * and stop the bidirectional one before it has changed Cilium's side: either both are refused at the look, or none. Ours are:
 * the chart takes no release of the name that the command line looks for.
 */
import { writeFile } from 'node:fs/promises';
import { type Test, test } from 'tap';
import { openTempDir, type TempDir } from '../../mesh/testing/temp-dir.ts';
import { CHART, LEAST, needHelm, objectOf, render, runHelm, valueFlags } from '../chart/helm.ts';
import { type CommandResult, execute } from '../lab/command.ts';
import { needKube } from '../peers/kube-programs.ts';
import { contextsOf } from '../peers/kubeconfig.ts';
import { needPeers } from '../peers/peer-binary.ts';
import {
  type ChartCluster,
  everything,
  installCilium,
  installOurs,
  openChartCluster,
  reportReady,
} from './chart-cluster.ts';

/** By these, besides, it finds a cluster and makes a peer trust it. */
const READ = [
  ['Deployment', 'clustermesh-apiserver'],
  ['Secret', 'clustermesh-apiserver-remote-cert'],
  ['Secret', 'cilium-ca'],
] as const;
/** It takes a chart below 1.20 for one that wants a list. */
const LIST_REFUSED = /at '\/clustermesh\/config\/clusters': got array, want object/;
const NO_RELEASE = /Unable to find Helm release/;
const TIMEOUT_MS = 300_000;
const helm = needHelm(process.env);
const kube = needKube(process.env);
const cli = needPeers(['cilium-cli/cilium'], process.env);
const skip = helm.skip || kube.skip || cli.skip;

/** Runs `cilium clustermesh` for a cluster. */
type Cilium = (member: ChartCluster, ...args: readonly string[]) => Promise<CommandResult>;

function openMember(t: Test, name: string, dir: TempDir): Promise<ChartCluster> {
  return openChartCluster(t, name, { helm: helm.program, dir, programs: kube.programs });
}

async function ciliumFor(members: readonly ChartCluster[], dir: TempDir): Promise<Cilium> {
  const kubeconfig = dir.file('kubeconfig');
  const config = contextsOf(members.map(({ cluster }) => cluster));
  await writeFile(kubeconfig, JSON.stringify(config), { mode: 0o600 });
  const [program = ''] = cli.paths;
  return ({ name }, ...args) =>
    execute([program, 'clustermesh', ...args, '--context', name], {
      env: { KUBECONFIG: kubeconfig, HOME: dir.path },
      timeoutMs: TIMEOUT_MS,
    });
}

function said({ stdout, stderr }: CommandResult): string {
  return `${stdout}${stderr}`;
}

async function clustersOf(member: ChartCluster, release: string): Promise<unknown> {
  const { stdout } = await member.helm('get', 'values', release, '-o', 'json');
  return JSON.parse(stdout).clustermesh?.config?.clusters;
}

/** Decoded configuration of a peer, as Cilium's kvstoremesh is given it; undefined: there is none. */
async function peerConfig({ cluster }: ChartCluster, peer: string): Promise<string | undefined> {
  const text = await cluster.kubectl([
    ...['get', 'secret', 'cilium-kvstoremesh', '-n', 'kube-system'],
    ...['--ignore-not-found', '-o', 'json'],
  ]);
  const value: unknown = text.trim() === '' ? undefined : JSON.parse(text).data?.[peer];
  return typeof value === 'string' ? Buffer.from(value, 'base64').toString() : undefined;
}

test("our chart has what Cilium's command line reads, and refuses what it would write", {
  skip: helm.skip,
}, async (t) => {
  await using dir = await openTempDir('cilium-cli');
  const context = { program: helm.program, home: dir.path };
  const objects = await render(LEAST['any-cni'], context);
  t.match(objectOf(objects, 'ConfigMap', 'cilium-config').data, {
    'cluster-name': 'alpha',
    'cluster-id': '1',
    'identity-allocation-mode': 'crd',
    'max-connected-clusters': '255',
  });
  t.match(objectOf(objects, 'Service', 'clustermesh-apiserver').spec.ports[0], { port: 2379 });
  for (const [kind, name] of READ) t.ok(objectOf(objects, kind, name), `${kind} ${name}`);
  const written = {
    'clustermesh.config.clusters': [{ name: 'beta', ips: ['192.0.2.1'], port: 2379 }],
  };
  await t.rejects(render({ ...LEAST['any-cni'], ...written }, context), LIST_REFUSED);
});

test('no release of ours has the name by which it looks for one of Cilium', {
  skip: helm.skip,
}, async (t) => {
  await using dir = await openTempDir('cilium-cli');
  const context = { program: helm.program, home: dir.path };
  const template = (release: string, mode: 'any-cni' | 'cilium'): ReturnType<typeof runHelm> =>
    runHelm(['template', release, CHART, ...valueFlags(LEAST[mode])], context);
  const refused = await template('cilium', 'any-cni');
  t.not(refused.code, 0);
  t.match(refused.stderr, /the release is named "cilium".* such as clustermesh/s);
  t.equal((await template('cilium', 'cilium')).code, 0, 'beside Cilium there is one already');
});

test("Cilium's command line", { skip, timeout: 2 * TIMEOUT_MS }, async (t) => {
  await using dir = await openTempDir('cilium-cli');
  const [alpha, beta] = await Promise.all([
    openMember(t, 'alpha', dir),
    openMember(t, 'beta', dir),
  ]);
  const cilium = await ciliumFor([alpha, beta], dir);
  await Promise.all([
    installCilium(t, alpha, { id: 1, isMeshed: true }),
    installOurs(t, beta, { id: 2, mode: 'any-cni' }),
  ]);
  await reportReady(alpha, '192.0.2.10');
  await reportReady(beta, '192.0.2.20');

  await t.test('status of a cluster of ours', async (t) => {
    const status = await cilium(beta, 'status');
    t.equal(status.code, 0, status.stderr);
    for (const line of [
      'of type "LoadBalancer" found',
      '192.0.2.20:2379',
      'Deployment clustermesh-apiserver is ready',
    ]) {
      t.match(status.stdout, line);
    }
  });

  await t.test('every change is refused, and nothing is changed on either side', async (t) => {
    const before = [await everything(alpha), await everything(beta)];
    for (const [verb, mode, from, to] of [
      ['connect', 'bidirectional', alpha, beta],
      ['connect', 'bidirectional', beta, alpha],
      ['connect', 'unicast', alpha, beta],
      ['connect', 'mesh', alpha, beta],
      ['disconnect', 'bidirectional', alpha, beta],
    ] as const) {
      const refused = await cilium(
        from,
        ...[verb, '--destination-context', to.name, '--connection-mode', mode],
        ...(verb === 'connect' ? ['--allow-mismatching-ca'] : []),
      );
      t.not(refused.code, 0, `${verb} ${from.name} to ${to.name}, ${mode}`);
      t.match(said(refused), NO_RELEASE);
    }
    t.same([await everything(alpha), await everything(beta)], before, 'nothing changed');
  });

  await t.test('mode cilium: both ways, as between two clusters of Cilium', async (t) => {
    t.equal((await beta.helm('uninstall', 'clustermesh')).code, 0);
    // The authority stays when a release goes; a cluster that Cilium runs has Cilium's.
    await beta.cluster.kubectl(['delete', 'secret', 'cilium-ca', '-n', 'kube-system']);
    await installCilium(t, beta, { id: 2, isMeshed: false });
    await installOurs(t, beta, { id: 2, mode: 'cilium' });
    await reportReady(beta, '192.0.2.30');
    const connect = ['connect', '--destination-context', 'alpha', '--allow-mismatching-ca'];
    const connected = await cilium(beta, ...connect);
    t.equal(connected.code, 0, said(connected));
    t.match(connected.stdout, 'Connected cluster beta <=> alpha!');
    t.match(await peerConfig(alpha, 'beta'), '192.0.2.30');
    t.match(await clustersOf(beta, 'cilium'), { alpha: { ips: ['192.0.2.10'] } });
    t.equal((await cilium(beta, ...connect)).code, 0, 'harmless to repeat');
    const status = await cilium(beta, 'status');
    t.equal(status.code, 0, said(status));
    const left = await cilium(beta, 'disconnect', '--destination-context', 'alpha');
    t.equal(left.code, 0, said(left));
    t.equal(await peerConfig(alpha, 'beta'), undefined);
  });
});

// What is left of the way that the name closes: somebody gives both releases another name, and says it to the command line.
if (process.env.ISTHMUS_LONG === 'true') {
  test('releases of one name that is not cilium', { skip, timeout: 2 * TIMEOUT_MS }, async (t) => {
    await using dir = await openTempDir('cilium-cli');
    const [alpha, beta] = await Promise.all([
      openMember(t, 'alpha', dir),
      openMember(t, 'beta', dir),
    ]);
    const cilium = await ciliumFor([alpha, beta], dir);
    await installCilium(t, alpha, { id: 1, isMeshed: true, release: 'net' });
    await installOurs(t, beta, { id: 2, mode: 'any-cni', release: 'net' });
    await reportReady(alpha, '192.0.2.10');
    await reportReady(beta, '192.0.2.20');
    const named = ['--helm-release-name', 'net'];
    const unicast = ['--destination-context', 'beta', '--connection-mode', 'unicast', ...named];

    await t.test('unicast from Cilium: it reads us, and we are not touched', async (t) => {
      const before = await everything(beta);
      const without = await cilium(alpha, 'connect', ...unicast);
      t.not(without.code, 0);
      t.match(without.stderr, 'certificates do not match', 'an authority of each is said');
      const connected = await cilium(alpha, 'connect', ...unicast, '--allow-mismatching-ca');
      t.equal(connected.code, 0, said(connected));
      t.match(connected.stdout, 'Connected cluster alpha => beta!');
      const config = await peerConfig(alpha, 'beta');
      t.match(config, 'https://beta.mesh.cilium.io:2379');
      t.match(config, '192.0.2.20');
      const left = await cilium(alpha, 'disconnect', ...unicast);
      t.equal(left.code, 0, said(left));
      t.equal(await peerConfig(alpha, 'beta'), undefined);
      t.equal(await everything(beta), before);
    });

    await t.test('bidirectional is refused by our chart', async (t) => {
      const before = { alpha: await everything(alpha), beta: await everything(beta) };
      const connect = ['connect', ...named, '--allow-mismatching-ca', '--destination-context'];
      const fromUs = await cilium(beta, ...connect, 'alpha');
      t.not(fromUs.code, 0);
      t.match(fromUs.stderr, LIST_REFUSED);
      t.equal(await everything(beta), before.beta);
      t.equal(await everything(alpha), before.alpha, 'from our side nothing is changed at all');
      const toUs = await cilium(alpha, ...connect, 'beta');
      t.not(toUs.code, 0);
      t.match(toUs.stderr, LIST_REFUSED);
      t.equal(await everything(beta), before.beta, 'nothing changed on our side');
      t.match(
        await clustersOf(alpha, 'net'),
        { beta: { ips: ['192.0.2.20'] } },
        'its own side it has changed before, as by unicast',
      );
    });
  });
}
