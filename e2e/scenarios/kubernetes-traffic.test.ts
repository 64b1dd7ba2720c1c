/**
 * Two clusters with a real API server each: everything that is published comes from objects that the real kubectl has
 * written, and slices from the real kube-controller-manager. Annotations are changed while traffic flows.
 */
import { X509Certificate } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Test, test } from 'tap';
import {
  callService,
  killAgents,
  removeBackend,
  type Story,
  tryPolicy,
  waitUntilJoined,
} from '../demo/story.ts';
import type { Lab } from '../lab/lab.ts';
import { labSkipReason } from '../lab/preflight.ts';
import { needKube } from '../peers/kube-programs.ts';
import { curl, curlMany, exampleTopology, openMesh, urlOf } from './mesh.ts';

const skip = labSkipReason(process.env) || needKube(process.env).skip;

const BOTH = ['web-alpha', 'web-beta'];
const AFFINITY = 'service.cilium.io/affinity';
const SHARED = 'service.cilium.io/shared';
const GLOBAL = 'service.cilium.io/global';
const GLOBAL_NAMESPACE = 'clustermesh.cilium.io/global';

/** Changes annotations of the service in a cluster, as a user does; `name-` takes one away. */
function annotate(lab: Lab, cluster: string, ...changes: readonly string[]): Promise<string> {
  const where = ['service', 'web', '--namespace', 'shop', '--overwrite'];
  return lab.kubernetes(cluster).kubectl(['annotate', ...where, ...changes]);
}

/** Waits until the client in alpha is answered by exactly these pods, and by nobody else in many more requests. */
async function answeredBy(
  t: Test,
  lab: Lab,
  { why, pods }: { readonly why: string; readonly pods: readonly string[] },
): Promise<void> {
  const url = urlOf(lab.clusterIp('alpha', 'web'), 80);
  const look = (times: number): ReturnType<typeof curlMany> =>
    curlMany(lab, 'client', { url, times });
  const expected = [...pods].sort();
  let last: Awaited<ReturnType<typeof look>> | undefined;
  await lab
    .waitFor(
      why,
      async () => {
        last = await look(20);
        return String(Object.keys(last.byPod).sort()) === String(expected);
      },
      { timeoutMs: 10_000, intervalMs: 100 },
    )
    .catch(() => undefined);
  const { byPod, failed } = pods.length === 0 ? (last ?? (await look(20))) : await look(40);
  t.same(Object.keys(byPod).sort(), expected, why);
  if (pods.length > 0) t.equal(failed, 0, `${why}: nothing is lost`);
}

/** Requests of the client to the service, ten a second for as long as it is open; disposing ends them. */
interface SteadyTraffic extends AsyncDisposable {
  /** Ends it and resolves to how many were answered and how many were not. */
  end(): Promise<{ readonly answered: number; readonly lost: number }>;
}

function startTraffic(
  lab: Lab,
  from = 'client',
  url = urlOf(lab.clusterIp('alpha', 'web'), 80),
): SteadyTraffic {
  const request = `curl --silent --output /dev/null --max-time 5 --write-out '%{http_code}\\n' ${url}`;
  const script = `while :; do ${request}; sleep 0.1; done`;
  const running = lab.spawn(from, ['sh', '-c', script]);
  return {
    async end() {
      await running.stop();
      const codes = running.output().split('\n').filter(Boolean);
      const answered = codes.filter((code) => code === '200').length;
      return { answered, lost: codes.length - answered };
    },
    [Symbol.asyncDispose]: () => running[Symbol.asyncDispose](),
  };
}

test('traffic between two clusters by what kubectl has written', {
  skip,
  timeout: 240_000,
}, async (t) => {
  const example = await exampleTopology();
  const clusters = example.clusters.map((cluster) => ({
    ...cluster,
    objects: 'kubernetes' as const,
    // One of them as from the Helm chart, the other with files that were made before.
    nodesEnroll: cluster.name === 'alpha',
  }));
  await using lab = await openMesh({ ...example, clusters });

  await t.test('nodes have enrolled by tokens, and were told their peers', async (t) => {
    for (const { name, folder } of lab.cluster('alpha').nodes) {
      const state = join(folder, 'agent-state');
      const leaf = new X509Certificate(readFileSync(join(state, 'certs', 'tls.crt')));
      t.equal(leaf.subject, `CN=node-${name}`);
      t.same(readdirSync(join(state, 'clustermesh')), ['beta']);
      t.match((await lab.agent(name).status()).registry, { healthy: true });
    }
  });

  await t.test('pods reach each other', async (t) => {
    const remote = lab.pod('web-beta');
    for (const family of [4, 6] as const) {
      const { stdout } = await curl(lab, 'client', urlOf(remote.ip(family), 8080));
      t.equal(stdout, `web-beta ${lab.pod('client').ip(family)}\n`, `over IPv${family}`);
    }
  });

  await using steady = startTraffic(lab);
  await t.test(
    'annotations changed live do what they are documented to do (promise 7)',
    async (t) => {
      const by = (why: string, pods: readonly string[]): Promise<void> =>
        answeredBy(t, lab, { why, pods });
      await by('global, no affinity', BOTH);
      for (const [value, pods] of [
        ['local', ['web-alpha']],
        ['remote', ['web-beta']],
        ['none', BOTH],
        ['Local', ['web-alpha']],
        ['NONE', BOTH],
        ['remote', ['web-beta']],
        ['no-such-word', BOTH],
        ['local', ['web-alpha']],
        ['', BOTH],
      ] as const) {
        await annotate(lab, 'alpha', `${AFFINITY}=${value}`);
        await by(`affinity "${value}"`, pods);
      }
      await annotate(lab, 'beta', `${SHARED}=false`);
      await by('not shared by beta', ['web-alpha']);
      await annotate(lab, 'beta', `${SHARED}-`);
      await by('shared again', BOTH);
      await annotate(lab, 'alpha', `${GLOBAL}=false`);
      await by('not global in alpha', ['web-alpha']);
      await annotate(lab, 'alpha', `${GLOBAL}=true`);
      await by('global again', BOTH);
    },
  );

  await t.test('with affinity, the others serve when the preferred are not ready', async (t) => {
    const by = (why: string, pods: readonly string[]): Promise<void> =>
      answeredBy(t, lab, { why, pods });
    await annotate(lab, 'alpha', `${AFFINITY}=local`);
    await by('local', ['web-alpha']);
    await lab.setReady('web-alpha', false);
    await by('local, none ready here', ['web-beta']);
    await lab.setReady('web-alpha', true);
    await by('local, ready again', ['web-alpha']);
    await annotate(lab, 'alpha', `${AFFINITY}=remote`);
    await by('remote', ['web-beta']);
    await lab.setReady('web-beta', false);
    await by('remote, none ready there', ['web-alpha']);
    await lab.setReady('web-beta', true);
    await by('remote, ready again', ['web-beta']);
    await annotate(lab, 'alpha', `${AFFINITY}-`);
    await lab.setReady('web-alpha', false);
    await by('no affinity, none ready here', ['web-beta']);
    await lab.setReady('web-alpha', true);
    await by('no affinity, ready again', BOTH);
  });

  await t.test('no request was lost meanwhile (promise 7)', async (t) => {
    const { answered, lost } = await steady.end();
    t.equal(lost, 0);
    t.ok(answered > 20, `${answered} were answered`);
  });

  await t.test(
    'a namespace that is not global is whole in its own cluster, and nothing to the peer',
    (t) => hiddenNamespace(t, lab),
  );

  await t.test('a Service that is deleted is withdrawn, and comes back', async (t) => {
    const { kubectl, manifests } = lab.kubernetes('beta');
    const text = await kubectl(['get', 'service', 'web', '--namespace', 'shop', '-o', 'json']);
    await kubectl(['delete', 'service', 'web', '--namespace', 'shop']);
    await answeredBy(t, lab, { why: 'deleted in beta', pods: ['web-alpha'] });
    const { spec, ...service } = JSON.parse(text);
    const { annotations } = service.metadata;
    const metadata = { name: 'web', namespace: 'shop', annotations };
    await manifests.write({ apiVersion: 'v1', kind: 'Service', metadata, spec });
    await answeredBy(t, lab, { why: 'made again', pods: BOTH });
  });

  await t.test('what the demo shows is shown here, too', (t) => demoSteps(t, lab));
});

/** The demo's own steps, which throw when what they show does not happen: here their objects are in API servers. */
async function demoSteps(t: Test, lab: Lab): Promise<void> {
  const story: Story = { lab, rows: [], propagation: new Map() };
  await waitUntilJoined(story);
  await callService(story);
  await tryPolicy(story);
  await using steady = startTraffic(lab);
  await removeBackend(story);
  const { answered, lost } = await steady.end();
  t.equal(lost, 0, 'a pod that was deleted while it was ready was lost to no request');
  t.ok(answered > 0, `${answered} were answered`);
  t.same([...story.propagation.keys()].sort(), ['alpha-1', 'beta-1'], 'gone from both kernels');
  await killAgents(story);
  t.same(
    story.rows.map(({ what }) => what),
    [
      'call a global service by its ClusterIP',
      'the same over IPv6',
      'policy allows app=client of alpha',
      'policy refuses app=stranger, at its destination',
      'remove the backend in alpha',
      'kill -9 the agents of client and server',
    ],
  );
}

/** Pods of a namespace that hides itself: reached and judged by labels at home, unknown to the other cluster. */
async function hiddenNamespace(t: Test, lab: Lab): Promise<void> {
  const { kubectl, manifests } = lab.kubernetes('alpha');
  const namespace = 'inner';
  const switchTo = (global: string): Promise<string> =>
    kubectl(['annotate', 'namespace', namespace, '--overwrite', `${GLOBAL_NAMESPACE}=${global}`]);
  await kubectl(['create', 'namespace', namespace]);
  await switchTo('false');
  await manifests.write({
    apiVersion: 'networking.k8s.io/v1',
    kind: 'NetworkPolicy',
    metadata: { name: 'own-callers', namespace },
    spec: {
      podSelector: { matchLabels: { app: 'store' } },
      ingress: [{ from: [{ podSelector: { matchLabels: { app: 'caller' } } }] }],
    },
  });
  const [store, caller] = await Promise.all([
    lab.addPod({
      name: 'inner-store',
      node: 'alpha-2',
      namespace,
      labels: { app: 'store' },
      role: 'server',
      ports: [{ port: 8080 }],
    }),
    lab.addPod({ name: 'inner-caller', node: 'alpha-1', namespace, labels: { app: 'caller' } }),
  ]);
  const knows = async (node: string, ip: string): Promise<boolean> =>
    (await lab.agent(node).map('ipcache')).some(({ prefix }) =>
      String(prefix).startsWith(`${ip}/`),
    );
  const enforced = async (): Promise<boolean> => {
    const { endpoints } = await lab.agent('alpha-2').status();
    const found = endpoints.find(({ pod }) => pod === `${namespace}/${store.name}`);
    return found !== undefined && found.identity > 255 && found.ingressEnforced;
  };
  await lab.waitFor('both to be known at home, and the policy', async () => {
    const known = [await knows('alpha-1', store.ip()), await knows('alpha-2', caller.ip())];
    return !known.includes(false) && (await enforced());
  });
  for (const family of [4, 6] as const) {
    const url = urlOf(store.ip(family), 8080);
    t.equal(
      (await curl(lab, caller.name, url)).stdout,
      `${store.name} ${caller.ip(family)}\n`,
      `reached by who may, over IPv${family}`,
    );
  }
  const url = urlOf(store.ip(), 8080);
  t.equal((await curl(lab, 'client', url)).code, 28, 'and by nobody else: labels are known');
  const outside = urlOf(lab.pod('web-alpha').ip(), 8080);
  t.equal((await curl(lab, caller.name, outside)).stdout, `web-alpha ${caller.ip()}\n`);
  for (const pod of [store, caller]) {
    t.equal(await knows('beta-1', pod.ip()), false, `the peer does not know ${pod.name}`);
  }

  // Shown and hidden again while requests are under way: at home nobody notices.
  await using steady = startTraffic(lab, caller.name, url);
  for (const [global, isKnown] of [
    ['true', true],
    ['false', false],
  ] as const) {
    await switchTo(global);
    await lab.waitFor(
      `the peer to ${isKnown ? 'know' : 'forget'} it`,
      async () => (await knows('beta-1', store.ip())) === isKnown,
    );
  }
  t.equal((await curl(lab, 'client', url)).code, 28, 'the policy stands');
  await kubectl(['delete', 'networkpolicy', 'own-callers', '--namespace', namespace]);
  await lab.waitFor(
    'the policy to be gone',
    async () => (await curl(lab, 'client', url)).code === 0,
  );
  const { answered, lost } = await steady.end();
  t.equal(lost, 0, 'no request was lost meanwhile');
  t.ok(answered > 5, `${answered} were answered`);
}
