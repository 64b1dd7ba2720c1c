import { sign, X509Certificate } from 'node:crypto';
import { type Test, test } from 'tap';
import { callUnary } from '../../mesh/runtime/grpc-call.ts';
import { anonymousClientCredentials } from '../../mesh/runtime/grpc-client.ts';
import { createLogger } from '../../mesh/runtime/log.ts';
import { createManualClock } from '../../mesh/testing/manual-clock.ts';
import { openTempDir } from '../../mesh/testing/temp-dir.ts';
import {
  parseClusterId,
  parseClusterName,
  parseMaxConnectedClusters,
} from '../../mesh/wire/ids.ts';
import { enrollNodeProofInput } from '../../mesh/wire/key-proof.ts';
import { createCa, createEnrollmentCa, issueCertificate } from '../../pki/ca.ts';
import { writeEnrollmentCa, writeSecret } from '../../pki/layout.ts';
import { serverLeaf } from '../../pki/names.ts';
import { nodeUidOf } from '../gate/node-uid.ts';
import type { KubernetesApi, KubernetesRequest } from '../kubernetes/api.ts';
import { KubernetesError } from '../kubernetes/kubernetes-error.ts';
import { openIssuingAuthority } from './certificate-authority.ts';
import { createEnrollmentLimits } from './enrollment-limits.ts';
import { listenEnrollment } from './enrollment-listener.ts';
import { createNodeEnrollment, type NodeOffer, nodeEnrollmentMethod } from './node-enrollment.ts';
import { nodeOffer } from './node-enrollment-offer.ts';
import { createNodeTokenReview, judgeReview, type TokenVerdict } from './node-enrollment-review.ts';
import type { NodeFinding } from './node-trust.ts';
import { callFrom, type MachineKeys, makeMachineKeys } from './testing/enrollment-site.ts';

const ACCOUNT = { namespace: 'kube-system', name: 'clustermesh-agent' };
const TOKEN = 'head.body.signature';
const HOUR_MS = 3_600_000;
const THERE: NodeFinding = { kind: 'there', uid: '6a0b8b9e-2d53-4c79-9f5e-1f3d0c9a7b11' };
const logger = createLogger('test', { level: 'silent' });

/** A review as an API server answers it for the token of an agent's pod. */
function reviewed(changes: object = {}, extra: object = {}): object {
  return {
    status: {
      authenticated: true,
      audiences: ['isthmus-registry'],
      user: {
        username: 'system:serviceaccount:kube-system:clustermesh-agent',
        extra: {
          'authentication.kubernetes.io/pod-name': ['agent-x'],
          'authentication.kubernetes.io/node-name': ['worker-1.example.com'],
          ...extra,
        },
      },
      ...changes,
    },
  };
}

/** An EnrollNodeRequest as an agent makes it; `more` replaces fields after the proof was made. */
function request(keys: MachineKeys, more: object = {}): object {
  const input = enrollNodeProofInput({ serviceAccountToken: TOKEN, publicKey: keys.spki });
  return {
    schema: 1,
    service_account_token: TOKEN,
    public_key: keys.spki,
    proof: sign('sha256', input, keys.privateKey),
    agent_version: 'test',
    ...more,
  };
}

/** An enrollment with a real authority; `verdict` is what the API server would say. */
async function openSite(
  t: Test,
  verdict: () => TokenVerdict,
  { offer, finding = () => THERE }: { offer?: NodeOffer; finding?: () => NodeFinding } = {},
) {
  const dir = await openTempDir('node-enrollment');
  t.teardown(() => dir[Symbol.asyncDispose]());
  const clock = createManualClock({ now: Date.now() });
  const stopping = new AbortController();
  const { signal } = stopping;
  const ca = await createCa();
  const server = await writeSecret(dir.path, 'server', {
    ca: ca.root,
    pair: await issueCertificate(ca, serverLeaf('alpha')),
  });
  const signing = await writeEnrollmentCa(dir.path, await createEnrollmentCa(ca));
  const authority = await openIssuingAuthority(
    { certFile: signing.certificate, keyFile: signing.privateKey, ownCaFile: server.ca },
    { ttlMs: HOUR_MS, clock, logger, signal },
  );
  const reviews: string[] = [];
  const limits = createEnrollmentLimits({ clock });
  const enrollment = createNodeEnrollment({
    offer: offer ?? {
      kind: 'offered',
      review: async (token) => {
        reviews.push(token);
        return verdict();
      },
      find: async () => finding(),
    },
    authority,
    ttlMs: 2 * HOUR_MS,
    limits,
    clock,
    logger,
  });
  t.teardown(async () => {
    stopping.abort();
    await authority[Symbol.asyncDispose]();
  });
  return { enrollment, limits, clock, ca, server, reviews, signal };
}

test('judgeReview() believes what the API server says, and no less will do', (t) => {
  t.same(judgeReview(reviewed(), ACCOUNT), {
    kind: 'node',
    node: 'worker-1.example.com',
    pod: 'agent-x',
  });
  const refused: readonly [string, object, RegExp][] = [
    ['not taken', reviewed({ authenticated: false, error: 'it expired' }), /take .*\(it expired\)/],
    ['no reason', reviewed({ authenticated: false }), /does not take the token: it has expired/],
    ['no audience', reviewed({ audiences: undefined }), /not for the audience isthmus-registry/],
    ['another audience', reviewed({ audiences: ['vault'] }), /not for the audience/],
    ['no user', reviewed({ user: undefined }), /token is of , expected/],
    [
      'another account',
      reviewed({ user: { username: 'system:serviceaccount:kube-system:default' } }),
      /is of system:serviceaccount:kube-system:default, expected .*:clustermesh-agent/,
    ],
    ['a person', reviewed({ user: { username: 'admin' } }), /is of admin/],
    ['no pod', reviewed({}, { 'authentication.kubernetes.io/pod-name': [] }), /bound to no pod/],
    [
      'no node',
      reviewed({}, { 'authentication.kubernetes.io/node-name': [] }),
      /on which node pod agent-x is.*1\.30/,
    ],
    [
      'no name of a node',
      reviewed({}, { 'authentication.kubernetes.io/node-name': ['a/../b'] }),
      /cannot be the name of a node/,
    ],
  ];
  for (const [what, body, reason] of refused) {
    t.match(judgeReview(body, ACCOUNT), { kind: 'refused', reason }, what);
  }
  for (const body of [undefined, 'yes', {}, { status: { authenticated: 'yes' } }]) {
    t.match(judgeReview(body, ACCOUNT), { kind: 'unavailable' }, JSON.stringify(body));
  }
  t.end();
});

test('createNodeTokenReview() asks for the audience, and says who has to mend what', async (t) => {
  const asked: KubernetesRequest[] = [];
  let answer: () => unknown = () => reviewed();
  const api: Pick<KubernetesApi, 'request'> = {
    async request(given) {
      asked.push(given);
      return { status: 201, body: answer() };
    },
  };
  const review = createNodeTokenReview({ api, serviceAccount: ACCOUNT, logger });
  const { signal } = new AbortController();
  t.match(await review(TOKEN, signal), { kind: 'node' });
  t.match(asked[0], {
    method: 'POST',
    path: '/apis/authentication.k8s.io/v1/tokenreviews',
    body: { kind: 'TokenReview', spec: { token: TOKEN, audiences: ['isthmus-registry'] } },
  });
  for (const [code, reason] of [
    ['forbidden', /right to create tokenreviews/],
    ['unauthorized', /credentials are not taken/],
    ['unavailable', /\(unavailable\): try again/],
    ['timeout', /\(timeout\): try again/],
  ] as const) {
    answer = () => {
      throw new KubernetesError(code, 'POST https://192.0.2.1:6443 failed');
    };
    const verdict = await review(TOKEN, signal);
    t.match(verdict, { kind: 'unavailable', reason });
    t.notMatch(verdict, { reason: /192\.0\.2\.1/ }, 'strangers are not told where it is');
  }
  answer = () => {
    throw new Error('a fault of ours');
  };
  await t.rejects(review(TOKEN, signal), { message: 'a fault of ours' });
});

test('a node is given a certificate of the name that the API server says', async (t) => {
  let verdict: TokenVerdict = { kind: 'node', node: 'worker-1', pod: 'agent-x' };
  let finding: NodeFinding = THERE;
  const { enrollment, reviews, clock } = await openSite(t, () => verdict, {
    finding: () => finding,
  });
  const keys = await makeMachineKeys();
  const call = (message: object) => enrollment.enrol(callFrom('192.0.2.1', message));
  const outcome = await call(request(keys));
  if (outcome.kind !== 'enrolled') throw new Error(outcome.details);
  const leaf = new X509Certificate(outcome.certificate);
  t.equal(outcome.node, 'worker-1');
  t.match(leaf.subject, /CN=node-worker-1$/);
  t.match(THERE, { uid: nodeUidOf(leaf) ?? '' }, 'it names the Node it is for');
  t.ok(leaf.publicKey.export({ type: 'spki', format: 'der' }).equals(keys.spki));
  const lifeMs = Date.parse(leaf.validTo) - clock.now();
  t.ok(Math.abs(lifeMs - 2 * HOUR_MS) <= 1000, 'for as long as nodes are believed');

  finding = { kind: 'gone' };
  t.match(await call(request(keys)), {
    kind: 'refused',
    reason: 'bad-token',
    details: /no Node worker-1/,
  });
  finding = { kind: 'unknown', error: new KubernetesError('forbidden', 'GET https://192.0.2.1') };
  t.match(await call(request(keys)), {
    kind: 'refused',
    reason: 'unavailable',
    details: /may not ask .* whether a Node is there: .* right to list nodes$/,
  });
  finding = THERE;

  const before = reviews.length;
  const other = await makeMachineKeys();
  for (const [what, message, reason] of [
    ['another schema', request(keys, { schema: 2 }), 'malformed'],
    ['no token', request(keys, { service_account_token: '' }), 'malformed'],
    [
      'a token that is too long',
      request(keys, { service_account_token: 'x'.repeat(4000) }),
      'malformed',
    ],
    [
      'another token than the proof is for',
      request(keys, { service_account_token: 'a.b.c' }),
      'bad-key',
    ],
    ['a key that is not held', request(keys, { public_key: other.spki }), 'bad-key'],
    ['no key', request(keys, { public_key: Buffer.from('x') }), 'bad-key'],
  ] as const) {
    t.match(await call(message), { kind: 'refused', reason }, what);
  }
  t.equal(reviews.length, before, 'the API server is not asked for these');
  verdict = { kind: 'unavailable', reason: 'later' };
  t.match(await call(request(keys)), { kind: 'refused', reason: 'unavailable', details: 'later' });
  verdict = { kind: 'refused', reason: 'no' };
  t.match(await call(request(keys)), { kind: 'refused', reason: 'bad-token', details: 'no' });
  for (let attempt = 0; attempt < 2; attempt += 1) await call(request(keys));
  const asked = reviews.length;
  t.match(await call(request(keys)), { kind: 'refused', reason: 'rate-limited' });
  t.equal(reviews.length, asked, 'who is refused again and again is not asked for any more');
  t.match(enrollment.status, { enrolled: 1, refused: { 'bad-token': 4, unavailable: 2 } });
});

test('nodes enrol where somebody can say whose their tokens are', async (t) => {
  const api = {} as KubernetesApi;
  const nodes = { find: async () => THERE };
  const options = { account: { namespace: undefined, name: 'a' }, logger };
  t.match(nodeOffer({ mode: 'any-cni', kubernetes: { api, nodes } }, options), { kind: 'offered' });
  const { enrollment } = await openSite(t, () => ({ kind: 'unavailable', reason: '' }), {
    offer: nodeOffer({ mode: 'any-cni', kubernetes: undefined }, options),
  });
  const keys = await makeMachineKeys();
  t.match(await enrollment.enrol(callFrom('192.0.2.1', request(keys))), {
    kind: 'refused',
    reason: 'not-offered',
    details: /without Kubernetes.*clustermesh pki/,
  });
  t.match(nodeOffer({ mode: 'cilium', kubernetes: { api, nodes } }, options), {
    reason: /Cilium runs/,
  });
});

test('the listener serves EnrollNode, and no more of it than fits', async (t) => {
  const verdict: TokenVerdict = { kind: 'node', node: 'worker-1', pod: 'agent-x' };
  const { enrollment, limits, clock, ca, server, reviews, signal } = await openSite(
    t,
    () => verdict,
  );
  const listener = await listenEnrollment({
    address: { host: '127.0.0.1', port: 0 },
    files: { certFile: server.certificate, keyFile: server.privateKey, ownCaFile: server.ca },
    clusterName: 'alpha',
    enrollment: {
      enrol: async () => ({ kind: 'refused', reason: 'not-offered', details: 'no machines' }),
      status: { enrolled: 0, repeated: 0, refused: {}, unusable: undefined },
    },
    methods: [
      nodeEnrollmentMethod(enrollment, {
        name: parseClusterName('alpha'),
        id: parseClusterId(1),
        max: parseMaxConnectedClusters(255),
        gatePort: 2379,
        registryPort: 2381,
      }),
    ],
    limits,
    facts: () => {
      throw new Error('facts are for machines');
    },
    clock,
    logger,
    signal,
  });
  t.teardown(() => listener[Symbol.asyncDispose]());
  const name = 'alpha.mesh.cilium.io';
  const call = (message: object, method = 'EnrollNode') =>
    callUnary(
      { proto: 'mesh/wire/registry.proto', service: 'isthmus.registry.v1.Enrollment', method },
      message,
      {
        server: listener.address,
        credentials: anonymousClientCredentials(ca.root, [name]),
        tlsName: name,
        timeoutMs: 20_000,
        signal: new AbortController().signal,
      },
    );
  const keys = await makeMachineKeys();
  t.match(await call(request(keys)), {
    cluster_name: 'alpha',
    cluster_id: 1,
    max_connected_clusters: 255,
    gate_port: 2379,
    registry_port: 2381,
    server_name: name,
    node_name: 'worker-1',
  });
  const token = `${'x'.repeat(1000)}.${'y'.repeat(1500)}.${'z'.repeat(500)}`;
  const input = enrollNodeProofInput({ serviceAccountToken: token, publicKey: keys.spki });
  const proof = sign('sha256', input, keys.privateKey);
  await t.resolves(call(request(keys, { service_account_token: token, proof })), 'a long token');
  const long = request(keys, { agent_version: 'x'.repeat(4000) });
  await t.rejects(call(long), { message: /at most 4096 bytes/ });
  t.equal(reviews.length, 2);
  await t.rejects(call({ schema: 1 }, 'Enroll'), { message: /no machines/ });
});
