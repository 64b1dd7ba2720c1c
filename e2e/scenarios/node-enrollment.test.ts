/**
 * Nodes of a cluster in Kubernetes enrol by the projected tokens of their agents: a real API server says whose they are, a whole
 * clustermesh-apiserver asks it with exactly the permissions of its manifests, and the agent's own part keeps its files.
 */
import { createPrivateKey, generateKeyPairSync, sign, X509Certificate } from 'node:crypto';
import { cpSync, existsSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Test, test } from 'tap';
import { type NodeAgent, openNodeAgent } from '../../agent/enrollment/node-agent.ts';
import { enrolNode, type NodeEnrolmentOptions } from '../../agent/enrollment/node-enrolment.ts';
import type { NodeSession } from '../../agent/registry/session.ts';
import { openEtcd } from '../../mesh/kvstore/etcd.ts';
import type { KvEvent, KvStore } from '../../mesh/kvstore/kvstore.ts';
import { connectionReader } from '../../mesh/remote/connection.ts';
import { systemClock } from '../../mesh/runtime/clock.ts';
import { createLogger } from '../../mesh/runtime/log.ts';
import { projectPath } from '../../mesh/runtime/project-path.ts';
import { openEtcdServer } from '../../mesh/testing/etcd-server.ts';
import { findFreePort } from '../../mesh/testing/free-port.ts';
import { openTempDir } from '../../mesh/testing/temp-dir.ts';
import { parseClusterName } from '../../mesh/wire/ids.ts';
import { parseIpAddress } from '../../mesh/wire/ip.ts';
import { createCa, createEnrollmentCa } from '../../pki/ca.ts';
import { secretFiles, writeEnrollmentCa } from '../../pki/layout.ts';
import { SECRET_NAMES } from '../../pki/names.ts';
import { waitFor } from '../lab/wait-for.ts';
import { type KubeCluster, openKubeCluster } from '../peers/kube-cluster.ts';
import { type KubeFaultProxy, openKubeFaultProxy } from '../peers/kube-faults.ts';
import { needKube } from '../peers/kube-programs.ts';
import { prepareOurApiserver } from '../peers/our-apiserver.ts';
import { makeTokenPod, requestToken, type TokenPod } from '../peers/projected-token.ts';

const kube = needKube(process.env);
const MANIFESTS = 'clustermesh-apiserver/kubernetes/manifests';
const NAMESPACE = 'isthmus-system';
const CLUSTER = { name: parseClusterName('alpha'), id: 1 };
const OWN_NODES = 'cilium/state/nodes/v1/';
const NODES = /\/api\/v1\/nodes\b/;
const logger = createLogger('test', { level: 'silent' });
const AGENT: TokenPod = {
  namespace: NAMESPACE,
  account: 'clustermesh-agent',
  name: 'agent-n1',
  node: 'n1',
};

test('nodes enrol by the tokens of their agents', {
  skip: kube.skip,
  timeout: 240_000,
}, async (t) => {
  const site = await openSite(t, { name: 'enrollment', nodeTtl: '15s' });
  const { cluster, proxy, ours, store, dir, signal, server, base, project, uid, startNode } = site;
  const stateDir = dir.file('state');
  const first = startNode(stateDir);
  await t.test('an agent that is there before its cluster waits, and says for what', async (t) => {
    await waitFor('it has tried', () => /cannot reach/.test(first.node.waitingFor ?? ''));
    t.match(first.node.waitingFor, /this node has not enrolled yet: .*127\.0\.0\.1/);
    t.same(first.node.part.problems(), [first.node.waitingFor]);
    t.match(first.session.describe(), /has not enrolled/);
    await ours.start();
    await waitFor('it has enrolled', () => first.node.waitingFor === undefined);
    await waitFor('its session is accepted', () => first.session.state.kind === 'accepted');
    const leaf = leafOf(stateDir);
    t.match(leaf.subject, /CN=node-n1$/);
    t.match(leaf.keyUsage, ['1.3.6.1.5.5.7.3.2'], 'good for a client alone');
  });

  await t.test('it reads its cluster and its peers by its own gate', async (t) => {
    await store.put('cilium/cache/nodes/v1/beta/beta/b1', 'x');
    await store.put('isthmus/mesh/peer/beta', '{}');
    const file = join(stateDir, 'clustermesh', 'beta');
    await waitFor('its peers are told', () => existsSync(file));
    t.equal(readFileSync(file, 'utf8'), readFileSync(join(stateDir, 'etcd.config'), 'utf8'));
    const connection = await connectionReader({ clock: systemClock })(file);
    await using gate = await connection.open(signal);
    const { pairs } = await gate.list('cilium/cache/nodes/v1/beta/', { signal });
    t.same(
      pairs.map(({ key }) => key),
      ['cilium/cache/nodes/v1/beta/beta/b1'],
    );
    await t.rejects(gate.list('isthmus/registry/', { signal }), 'and nothing beyond');
  });

  await t.test('tokens that are none of an agent on a node', (t) =>
    // From another address: who tries as often as this has to wait.
    refusals(t, {
      cluster,
      base: { ...base, server: { ...server, host: '::1' } },
      signal,
      dir: (name) => dir.file(name),
    }),
  );

  await t.test('an agent of another cluster, or told another node, finds out', async (t) => {
    await t.rejects(enrolNode({ ...base, nodeName: 'n2', signal }), {
      code: 'other',
      message: /runs on node n1, and it was told n2/,
    });
    const cluster = { ...CLUSTER, id: 2 };
    await t.rejects(enrolNode({ ...base, cluster, signal }), {
      code: 'other',
      message: /is of cluster alpha \(1\), and this agent of alpha \(2\)/,
    });
    const trustedCaFile = dir.file('stranger.crt');
    writeFileSync(trustedCaFile, (await createCa()).root);
    await t.rejects(
      enrolNode({ ...base, trustedCaFile, signal }),
      { code: 'untrusted' },
      'nothing is said to a server of another CA',
    );
  });

  await t.test('without the API server nobody enrols, and is told to try again', async (t) => {
    await withoutApi(proxy, async () => {
      await t.rejects(enrolNode({ ...base, signal }), {
        code: 'unreachable',
        retryable: true,
        message: /cannot ask the API server whose a token is \(.*try again/,
      });
      await first.stop();
      const again = startNode(stateDir);
      t.equal(again.node.waitingFor, undefined, 'who has a certificate goes on without');
      await waitFor('its session is accepted', () => again.session.state.kind === 'accepted');
      await again.stop();
    });
  });

  await t.test(
    'the certificate is renewed by the token of then, after a bad one (promise 18)',
    async (t) => {
      const last = startNode(stateDir);
      const before = leafOf(stateDir).serialNumber;
      const problem = (text: RegExp): boolean =>
        last.node.part.problems().some((known) => text.test(known));
      project('a.b.c');
      await waitFor('a renewal fails', () =>
        problem(/cannot be renewed: .*does not take the token/),
      );
      t.equal(last.session.state.kind, 'accepted', 'the session goes on meanwhile');
      project(await requestToken(cluster, AGENT, { uid }));
      await waitFor('it is renewed', () => leafOf(stateDir).serialNumber !== before);
      await waitFor('nothing is wrong', () => last.node.part.problems().length === 0);
      await waitFor('its session goes on', () => last.session.state.kind === 'accepted');
      await last.stop();
    },
  );
});

test('a node ends with its Node', { skip: kube.skip, timeout: 240_000 }, async (t) => {
  const site = await openSite(t, { name: 'node-trust', nodeTtl: '1h' });
  const { cluster, proxy, dir, signal, base, startNode } = site;
  await site.ours.start();
  const stateDir = dir.file('state');
  const running = startNode(stateDir);
  const { session } = running;
  await waitFor('it has a session', () => session.state.kind === 'accepted');
  const former = dir.file('former');
  cpSync(stateDir, former, { recursive: true, dereference: true });
  const config = join(former, 'etcd.config');
  writeFileSync(config, readFileSync(config, 'utf8').replaceAll(stateDir, former));
  await using gate = await openGate(config, signal);
  await gate.list(OWN_NODES, { signal });

  await t.test('while the API server is out of reach nobody ends', async (t) => {
    proxy.forget();
    proxy.setFault(() => ({ kind: 'cut' }));
    proxy.cutOpen();
    await waitFor('it is asked in vain', () => proxy.count(/nodes$/) >= 3);
    // Both listeners look each 5 s at whom they have.
    await systemClock.sleep(5500, signal);
    t.equal(session.state.kind, 'accepted');
    await gate.list(OWN_NODES, { signal });
    proxy.forget();
    proxy.setFault(undefined);
    const isBack = () => proxy.requests.some(({ path, isWatch }) => isWatch && NODES.test(path));
    await waitFor('its Nodes are followed again', isBack);
    t.equal(session.state.kind, 'accepted');
  });

  await t.test('within 10 s of the deletion it has no session, watch or renewal', async (t) => {
    const leaving = new AbortController();
    const watch = gate.watch({ prefix: OWN_NODES }, { signal: leaving.signal });
    const events = watch[Symbol.asyncIterator]();
    await untilTold(events, 'synced');
    const began = systemClock.monotonic();
    await cluster.ask('DELETE', '/api/v1/nodes/n1');
    await waitFor('its session has ended', () => session.state.kind !== 'accepted');
    await untilTold(events, 'disconnected');
    leaving.abort();
    const tookMs = systemClock.monotonic() - began;
    t.comment(`cut after ${Math.round(tookMs)} ms`);
    t.ok(tookMs < 10_000);
    await t.rejects(gate.list(OWN_NODES, { signal }), 'nothing is read');
    await t.rejects(enrolNode({ ...base, signal }), {
      code: 'refused',
      message: /there is no Node n1 in this cluster/,
    });
    await waitFor('the agent says why', () =>
      running.node.part.problems().some((text) => /there is no Node n1/.test(text)),
    );
    await running.stop();
  });

  await t.test(
    'the Node that takes its place enrols by itself, by a new certificate',
    async (t) => {
      await cluster.ask('POST', '/api/v1/nodes', { body: { metadata: { name: 'n1' } } });
      // Pods outlive a Node that is soon there again, and so do their tokens.
      const again = startNode(stateDir);
      await waitFor('it has a session', () => again.session.state.kind === 'accepted');
      t.not(leafOf(stateDir).serialNumber, leafOf(former).serialNumber);
      await using own = await openGate(join(stateDir, 'etcd.config'), signal);
      await own.list(OWN_NODES, { signal });
      await using late = await openGate(config, signal);
      await t.rejects(late.list(OWN_NODES, { signal }), 'that of before is no use');
      await again.stop();
    },
  );
});

async function openGate(config: string, signal: AbortSignal): Promise<KvStore> {
  const connection = await connectionReader({ clock: systemClock })(config);
  return connection.open(signal);
}

/** Follows a watch up to an event of a kind. */
async function untilTold(watch: AsyncIterator<KvEvent>, kind: KvEvent['kind']): Promise<void> {
  for (;;) {
    const { done, value } = await watch.next();
    if (done) throw new Error(`the watch has ended before it told ${kind}`);
    if (value.kind === kind) return;
  }
}

/** A cluster with two Nodes and our apiserver, which does not run yet, and the token of an agent on the first. */
async function openSite(t: Test, options: { readonly name: string; readonly nodeTtl: string }) {
  const { name, nodeTtl } = options;
  const cluster = await openKubeCluster({ name, programs: kube.programs });
  t.teardown(() => cluster[Symbol.asyncDispose]());
  const proxy = await openKubeFaultProxy(cluster.endpoint);
  t.teardown(() => proxy[Symbol.asyncDispose]());
  const etcd = await openEtcdServer();
  t.teardown(() => etcd[Symbol.asyncDispose]());
  const store = await openEtcd({ endpoints: [etcd.endpoint] });
  t.teardown(() => store[Symbol.asyncDispose]());
  const dir = await openTempDir('node-enrollment');
  t.teardown(() => dir[Symbol.asyncDispose]());
  for (const file of ['rbac-any-cni.yaml', 'rbac-enrollment.yaml']) {
    await cluster.kubectl(['apply', '-f', projectPath(`${MANIFESTS}/${file}`)]);
  }
  const user = await cluster.addUser('clustermesh-apiserver', { namespace: NAMESPACE });
  for (const node of ['n1', 'n2']) {
    await cluster.ask('POST', '/api/v1/nodes', { body: { metadata: { name: node } } });
  }

  const ending = new AbortController();
  const { signal } = ending;
  const server = { host: '127.0.0.1', port: await findFreePort() };
  const signing = secretFiles(dir.path, SECRET_NAMES.enrollment);
  const ours = await prepareOurApiserver({
    cluster: CLUSTER,
    etcdEndpoint: etcd.endpoint,
    source: [
      '--mode=any-cni',
      `--kubeconfig=${await user.kubeconfigAt('proxied', proxy.endpoint)}`,
      `--lease-namespace=${NAMESPACE}`,
      `--enrollment-address=[::]:${server.port}`,
      `--enrollment-ca-cert-file=${signing.certificate}`,
      `--enrollment-ca-key-file=${signing.privateKey}`,
      `--enrollment-service-account=${NAMESPACE}:clustermesh-agent`,
      `--node-certificate-ttl=${nodeTtl}`,
    ],
    dir,
    signal,
  });
  t.teardown(async () => {
    await ours[Symbol.asyncDispose]();
    ending.abort();
  });
  await writeEnrollmentCa(dir.path, await createEnrollmentCa(ours.ca));

  const caFile = dir.file('ca.crt');
  writeFileSync(caFile, ours.ca.root);
  const tokenFile = dir.file('token');
  const uid = await makeTokenPod(cluster, AGENT);
  const project = (token: string): void => {
    // As a kubelet does: replaced as a whole.
    writeFileSync(`${tokenFile}.new`, token);
    renameSync(`${tokenFile}.new`, tokenFile);
  };
  project(await requestToken(cluster, AGENT, { uid }));
  const base: Omit<NodeEnrolmentOptions, 'signal'> = {
    server,
    tokenFile,
    trustedCaFile: caFile,
    nodeName: 'n1',
    cluster: CLUSTER,
    agentVersion: 'test',
  };
  /** An agent's own part of enrolling, with its session. */
  const startNode = (stateDir: string): RunningNode => {
    const node = openNodeAgent({ ...base, stateDir, clock: systemClock, logger });
    const stopping = new AbortController();
    const session = node.session({
      clusterName: CLUSTER.name,
      nodeName: 'n1',
      agentVersion: 'test',
      facts: { addresses: [parseIpAddress('192.0.2.1')], podCidrs: [], bootId: 'b1' },
      clock: systemClock,
      logger,
    });
    const running = node.run(async (whole) => {
      await Promise.all([session.run(whole), node.part.run(whole)]);
    }, stopping.signal);
    const stop = async (): Promise<void> => {
      stopping.abort();
      await running;
    };
    t.teardown(stop);
    return { node, session, stop };
  };
  return { cluster, proxy, ours, store, dir, signal, server, base, project, uid, startNode };
}

interface RunningNode {
  readonly node: NodeAgent;
  readonly session: NodeSession;
  stop(): Promise<void>;
}

/** Every token that must not do, and the words for it. */
async function refusals(
  t: Test,
  options: {
    readonly cluster: KubeCluster;
    readonly base: Omit<NodeEnrolmentOptions, 'signal'>;
    readonly signal: AbortSignal;
    readonly dir: (name: string) => string;
  },
): Promise<void> {
  const { cluster, base, signal } = options;
  const tokenFile = options.dir('other-token');
  const refused = async (what: string, token: string, message: RegExp): Promise<void> => {
    writeFileSync(tokenFile, token);
    await t.rejects(enrolNode({ ...base, tokenFile, signal }), { code: 'refused', message }, what);
  };
  const good = readFileSync(base.tokenFile, 'utf8');
  const uid = await makeTokenPod(cluster, AGENT);
  await refused(
    'another audience',
    await requestToken(cluster, AGENT, { uid, audience: 'https://kubernetes.default.svc' }),
    /does not take the token .*audience/,
  );
  const other: TokenPod = { ...AGENT, account: 'default', name: 'web' };
  await refused(
    'another service account',
    await requestToken(cluster, other, { uid: await makeTokenPod(cluster, other) }),
    /is of system:serviceaccount:isthmus-system:default, expected .*:clustermesh-agent/,
  );
  const elsewhere: TokenPod = { ...AGENT, namespace: 'demo' };
  await refused(
    'the same name in another namespace',
    await requestToken(cluster, elsewhere, { uid: await makeTokenPod(cluster, elsewhere) }),
    /is of system:serviceaccount:demo:clustermesh-agent/,
  );
  await refused('bound to nothing', await requestToken(cluster, AGENT), /bound to no pod/);
  const waiting: TokenPod = { ...AGENT, name: 'agent-waiting', node: undefined };
  await refused(
    'of a pod on no node',
    await requestToken(cluster, waiting, { uid: await makeTokenPod(cluster, waiting) }),
    /does not say on which node pod agent-waiting is/,
  );
  const gone: TokenPod = { ...AGENT, name: 'agent-gone' };
  const ofGone = await requestToken(cluster, gone, { uid: await makeTokenPod(cluster, gone) });
  await cluster.ask('DELETE', `/api/v1/namespaces/${NAMESPACE}/pods/agent-gone`, {
    body: { gracePeriodSeconds: 0 },
  });
  await refused('of a pod that is gone', ofGone, /does not take the token/);
  const key = createPrivateKey(readFileSync(cluster.dir.file('service-account.key')));
  const now = Math.floor(Date.now() / 1000);
  await refused(
    'one that has expired',
    resign(good, key, { exp: now - 3600, iat: now - 7200, nbf: now - 7200 }),
    /does not take the token .*expired/,
  );
  const forger = generateKeyPairSync('ec', { namedCurve: 'prime256v1' }).privateKey;
  await refused('one that somebody else has signed', resign(good, forger, {}), /does not take/);
  await refused('no token', 'secret', /no token of a service account/);
}

/** A token with other claims, signed anew. */
function resign(token: string, key: ReturnType<typeof createPrivateKey>, claims: object): string {
  const [header = '', payload = ''] = token.split('.');
  const read: unknown = JSON.parse(Buffer.from(payload, 'base64url').toString());
  const body = Buffer.from(JSON.stringify(Object.assign({}, read, claims))).toString('base64url');
  const input = `${header}.${body}`;
  const signature = sign('sha256', Buffer.from(input), { key, dsaEncoding: 'ieee-p1363' });
  return `${input}.${signature.toString('base64url')}`;
}

async function withoutApi(proxy: KubeFaultProxy, run: () => Promise<void>): Promise<void> {
  proxy.setFault(({ path }) => (path.includes('tokenreviews') ? { kind: 'cut' } : undefined));
  try {
    await run();
  } finally {
    proxy.setFault(undefined);
  }
}

function leafOf(stateDir: string): X509Certificate {
  return new X509Certificate(readFileSync(join(stateDir, 'certs', 'tls.crt')));
}
