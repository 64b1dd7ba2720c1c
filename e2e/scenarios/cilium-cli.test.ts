/**
 * Cilium's own command line, `cilium clustermesh`, between clusters of ours and of Cilium: on real API servers, with Cilium's own
 * chart and ours. There are no nodes: nothing that the charts install runs, and what a kubelet and a cloud would report is
 * written by the test. That part is defined only where ISTHMUS_CILIUM_CLI names the program, which this project does not build.
 */
import { writeFile } from 'node:fs/promises';
import { type Test, test } from 'tap';
import { openTempDir, type TempDir } from '../../mesh/testing/temp-dir.ts';
import {
  CHART,
  type HelmResult,
  LEAST,
  needHelm,
  objectOf,
  render,
  runHelm,
} from '../chart/helm.ts';
import { type CommandResult, execute } from '../lab/command.ts';
import { ciliumChart } from '../peers/cilium-chart.ts';
import { type KubeCluster, openKubeCluster } from '../peers/kube-cluster.ts';
import { needKube } from '../peers/kube-programs.ts';

/** Besides: how it finds a cluster, and by what it makes a peer trust it. */
const READ = [
  ['Deployment', 'clustermesh-apiserver'],
  ['Secret', 'clustermesh-apiserver-remote-cert'],
  ['Secret', 'cilium-ca'],
] as const;
/** It takes a chart below 1.20 for one that wants a list. */
const REFUSED = /at '\/clustermesh\/config\/clusters': got array, want object/;
const NAMESPACE = 'kube-system';
const TIMEOUT_MS = 300_000;
const helm = needHelm(process.env);
const kube = needKube(process.env);

interface Member {
  readonly name: string;
  readonly cluster: KubeCluster;
  /** Runs helm in the namespace of all that is installed. */
  helm(...args: readonly string[]): Promise<HelmResult>;
}

interface Rig {
  /** Runs `cilium clustermesh` for a cluster. */
  cilium(member: Member, ...args: readonly string[]): Promise<CommandResult>;
  readonly chart: string;
}

async function openMember(t: Test, name: string, dir: TempDir): Promise<Member> {
  const cluster = await openKubeCluster({ name, programs: kube.programs });
  t.teardown(() => cluster[Symbol.asyncDispose]());
  const context = { program: helm.program, home: dir.path, kubeconfig: cluster.adminKubeconfig };
  return {
    name,
    cluster,
    helm: (...args) => runHelm([...args, '--namespace', NAMESPACE], context),
  };
}

async function openRig(program: string, members: readonly Member[], dir: TempDir): Promise<Rig> {
  const config = {
    apiVersion: 'v1',
    kind: 'Config',
    contexts: members.map(({ name }) => ({ name, context: { cluster: name, user: name } })),
    clusters: members.map(({ name, cluster }) => ({
      name,
      cluster: { server: cluster.endpoint.url, 'certificate-authority': cluster.endpoint.caFile },
    })),
    users: members.map(({ name, cluster }) => ({ name, user: { token: cluster.adminToken } })),
  };
  await writeFile(dir.file('kubeconfig'), JSON.stringify(config), { mode: 0o600 });
  return {
    chart: await ciliumChart('cilium-1.20'),
    cilium: ({ name }, ...args) =>
      execute([program, 'clustermesh', ...args, '--context', name], {
        env: { KUBECONFIG: dir.file('kubeconfig'), HOME: dir.path },
        timeoutMs: TIMEOUT_MS,
      }),
  };
}

/** Installs Cilium, with or without its own clustermesh-apiserver. */
async function installCilium(
  t: Test,
  member: Member,
  options: { rig: Rig; id: number; isMeshed: boolean },
): Promise<void> {
  const { rig, id, isMeshed } = options;
  const values = {
    cluster: { name: member.name, id },
    clustermesh: {
      useAPIServer: isMeshed,
      config: { enabled: true },
      apiserver: { service: { type: 'LoadBalancer' }, tls: { auto: { method: 'helm' } } },
    },
  };
  const file = member.cluster.dir.file('cilium-values.json');
  await writeFile(file, JSON.stringify(values));
  const done = await member.helm('install', 'cilium', rig.chart, '--values', file);
  t.equal(done.code, 0, `helm install of Cilium in ${member.name}: ${done.stderr.slice(-500)}`);
}

async function installOurs(
  t: Test,
  member: Member,
  options: { release: string; mode: string; id: number },
): Promise<void> {
  const { release, mode, id } = options;
  const done = await member.helm(
    ...[
      'install',
      release,
      CHART,
      '--set',
      `mode=${mode},cluster.name=${member.name},cluster.id=${id}`,
    ],
    ...['--set', 'clustermesh.apiserver.service.type=LoadBalancer'],
    // A claim would outlive the release, with the release's name in it.
    ...['--set', 'clustermesh.apiserver.etcd.persistentVolume.enabled=false'],
  );
  t.equal(done.code, 0, `helm install of ours in ${member.name}: ${done.stderr.slice(-500)}`);
}

/** What a cloud and a kubelet would report. */
async function reportReady({ cluster }: Member, address: string): Promise<void> {
  const patch = async (kind: string, status: object): Promise<void> => {
    await cluster.kubectl([
      ...['patch', kind, 'clustermesh-apiserver', '-n', NAMESPACE, '--subresource=status'],
      ...['--type=merge', '-p', JSON.stringify({ status })],
    ]);
  };
  await patch('service', { loadBalancer: { ingress: [{ ip: address }] } });
  const counts = { replicas: 1, updatedReplicas: 1, readyReplicas: 1, availableReplicas: 1 };
  await patch('deployment', { observedGeneration: 1, ...counts });
}

/** Everything that a change by Helm could touch, with the versions of the objects. */
function everything({ cluster }: Member): Promise<string> {
  return cluster.kubectl([
    'get',
    'secrets,configmaps,services,deployments,daemonsets',
    '-A',
    '-o',
    'json',
  ]);
}

async function clustersOf(member: Member, release: string): Promise<unknown> {
  const { stdout } = await member.helm('get', 'values', release, '-o', 'json');
  return JSON.parse(stdout).clustermesh?.config?.clusters;
}

/** Decoded configuration of a peer, as Cilium's agents are given it; undefined: there is none. */
async function peerConfig({ cluster }: Member, peer: string): Promise<string | undefined> {
  const text = await cluster.kubectl([
    'get',
    'secret',
    'cilium-kvstoremesh',
    '-n',
    NAMESPACE,
    '--ignore-not-found',
    '-o',
    'json',
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
  await t.rejects(render({ ...LEAST['any-cni'], ...written }, context), REFUSED);
});

const program = process.env.ISTHMUS_CILIUM_CLI;
if (program !== undefined) {
  test("Cilium's command line", {
    skip: helm.skip || kube.skip,
    timeout: 2 * TIMEOUT_MS,
  }, async (t) => {
    await using dir = await openTempDir('cilium-cli');
    const alpha = await openMember(t, 'alpha', dir);
    const beta = await openMember(t, 'beta', dir);
    const rig = await openRig(program, [alpha, beta], dir);
    await installCilium(t, alpha, { rig, id: 1, isMeshed: true });
    await reportReady(alpha, '192.0.2.10');
    await installOurs(t, beta, { release: 'mesh', mode: 'any-cni', id: 2 });
    await reportReady(beta, '192.0.2.20');

    await t.test('status of a cluster of ours', async (t) => {
      const status = await rig.cilium(beta, 'status');
      t.equal(status.code, 0, status.stderr);
      for (const line of [
        'of type "LoadBalancer" found',
        '192.0.2.20:2379',
        'Deployment clustermesh-apiserver is ready',
      ]) {
        t.match(status.stdout, line);
      }
    });

    await t.test('under a name of our own nobody is changed', async (t) => {
      const before = [await everything(alpha), await everything(beta)];
      for (const mode of ['unicast', 'bidirectional']) {
        for (const [from, to] of [
          [alpha, beta],
          [beta, alpha],
        ] as const) {
          const refused = await rig.cilium(
            from,
            'connect',
            '--destination-context',
            to.name,
            '--connection-mode',
            mode,
            '--allow-mismatching-ca',
          );
          t.not(refused.code, 0, `${from.name} to ${to.name}, ${mode}`);
          t.match(`${refused.stdout}${refused.stderr}`, /Unable to find Helm release/);
        }
      }
      t.same([await everything(alpha), await everything(beta)], before, 'nothing changed');
    });
    t.equal((await beta.helm('uninstall', 'mesh')).code, 0);
    await installOurs(t, beta, { release: 'cilium', mode: 'any-cni', id: 2 });
    await reportReady(beta, '192.0.2.20');

    await t.test('unicast from Cilium, where our release is named as Cilium is', async (t) => {
      const before = await everything(beta);
      const without = await rig.cilium(
        alpha,
        'connect',
        '--destination-context',
        'beta',
        '--connection-mode',
        'unicast',
      );
      t.not(without.code, 0);
      t.match(without.stderr, 'certificates do not match', 'an authority of each is said');
      const connected = await rig.cilium(
        alpha,
        'connect',
        '--destination-context',
        'beta',
        '--connection-mode',
        'unicast',
        '--allow-mismatching-ca',
      );
      t.equal(connected.code, 0, `${connected.stdout}${connected.stderr}`);
      t.match(connected.stdout, 'Connected cluster alpha => beta!');
      const config = await peerConfig(alpha, 'beta');
      t.match(config, 'https://beta.mesh.cilium.io:2379');
      t.match(config, '192.0.2.20');
      t.equal(await everything(beta), before, 'nothing changed on our side');
      const left = await rig.cilium(
        alpha,
        'disconnect',
        '--destination-context',
        'beta',
        '--connection-mode',
        'unicast',
      );
      t.equal(left.code, 0, `${left.stdout}${left.stderr}`);
      t.equal(await peerConfig(alpha, 'beta'), undefined);
      t.equal(await everything(beta), before);
    });

    await t.test('bidirectional is refused by our chart', async (t) => {
      const before = { alpha: await everything(alpha), beta: await everything(beta) };
      const fromUs = await rig.cilium(
        beta,
        'connect',
        '--destination-context',
        'alpha',
        '--allow-mismatching-ca',
      );
      t.not(fromUs.code, 0);
      t.match(fromUs.stderr, REFUSED);
      t.equal(await everything(beta), before.beta);
      t.equal(await everything(alpha), before.alpha, 'from our side nothing is changed at all');
      const toUs = await rig.cilium(
        alpha,
        'connect',
        '--destination-context',
        'beta',
        '--allow-mismatching-ca',
      );
      t.not(toUs.code, 0);
      t.match(toUs.stderr, REFUSED);
      t.equal(await everything(beta), before.beta, 'nothing changed on our side');
      t.match(
        await clustersOf(alpha, 'cilium'),
        { beta: { ips: ['192.0.2.20'] } },
        'its own side it has written before',
      );
    });

    await t.test('mode cilium: both ways, as between two clusters of Cilium', async (t) => {
      const gamma = await openMember(t, 'gamma', dir);
      const both = await openRig(program, [alpha, gamma], dir);
      await installCilium(t, gamma, { rig: both, id: 3, isMeshed: false });
      await installOurs(t, gamma, { release: 'mesh', mode: 'cilium', id: 3 });
      await reportReady(gamma, '192.0.2.30');
      const connected = await both.cilium(
        gamma,
        'connect',
        '--destination-context',
        'alpha',
        '--allow-mismatching-ca',
      );
      t.equal(connected.code, 0, `${connected.stdout}${connected.stderr}`);
      t.match(connected.stdout, 'Connected cluster gamma <=> alpha!');
      t.match(await peerConfig(alpha, 'gamma'), '192.0.2.30');
      t.match(await clustersOf(gamma, 'cilium'), { alpha: { ips: ['192.0.2.10'] } });
      const again = await both.cilium(
        gamma,
        'connect',
        '--destination-context',
        'alpha',
        '--allow-mismatching-ca',
      );
      t.equal(again.code, 0, 'harmless to repeat');
      const status = await both.cilium(gamma, 'status');
      t.equal(status.code, 0, `${status.stdout}${status.stderr}`);
      const left = await both.cilium(gamma, 'disconnect', '--destination-context', 'alpha');
      t.equal(left.code, 0, `${left.stdout}${left.stderr}`);
      t.equal(await peerConfig(alpha, 'gamma'), undefined);
    });
  });
}
