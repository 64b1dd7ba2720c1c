import { randomUUID } from 'node:crypto';
import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Test, test } from 'tap';
import { openIssuingAuthority } from '../../clustermesh-apiserver/registry/certificate-authority.ts';
import { createEnrollmentLimits } from '../../clustermesh-apiserver/registry/enrollment-limits.ts';
import { listenEnrollment } from '../../clustermesh-apiserver/registry/enrollment-listener.ts';
import { createNodeBook } from '../../clustermesh-apiserver/registry/node-book.ts';
import {
  createNodeEnrollment,
  nodeEnrollmentMethod,
} from '../../clustermesh-apiserver/registry/node-enrollment.ts';
import { createPolicyBoard } from '../../clustermesh-apiserver/registry/policy-board.ts';
import { listenRegistry } from '../../clustermesh-apiserver/registry/registry.ts';
import { createMemoryStore } from '../../mesh/kvstore/memory.ts';
import { type Clock, systemClock } from '../../mesh/runtime/clock.ts';
import { createLogger } from '../../mesh/runtime/log.ts';
import { openTempDir } from '../../mesh/testing/temp-dir.ts';
import {
  parseClusterId,
  parseClusterName,
  parseMaxConnectedClusters,
} from '../../mesh/wire/ids.ts';
import { parseIpAddress } from '../../mesh/wire/ip.ts';
import { createCa, createEnrollmentCa, issueCertificate } from '../../pki/ca.ts';
import { writeEnrollmentCa, writeSecret } from '../../pki/layout.ts';
import { serverLeaf } from '../../pki/names.ts';
import { openNodeAgent } from './node-agent.ts';
import { readNodeState, writeNodeState } from './node-record.ts';

const logger = createLogger('test', { level: 'silent' });
const ALPHA = parseClusterName('alpha');
/** An agent's waits are short here: those of a minute are over in a second. */
const HASTY: Clock = {
  ...systemClock,
  sleep: (milliseconds, signal) => systemClock.sleep(milliseconds / 60, signal),
  monotonic: () => systemClock.monotonic() * 60,
};

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await systemClock.sleep(20);
}

/** A cluster that takes the node `n1`, whatever its token says; its registry can move to another port. */
async function openCluster(t: Test) {
  const dir = await openTempDir('node-agent');
  t.teardown(() => dir[Symbol.asyncDispose]());
  const clock = systemClock;
  const ending = new AbortController();
  const { signal } = ending;
  const ca = await createCa();
  const server = await writeSecret(dir.path, 'server', {
    ca: ca.root,
    pair: await issueCertificate(ca, serverLeaf('alpha')),
  });
  const signing = await writeEnrollmentCa(dir.path, await createEnrollmentCa(ca));
  const files = { certFile: server.certificate, keyFile: server.privateKey, ownCaFile: server.ca };
  const authority = await openIssuingAuthority(
    { certFile: signing.certificate, keyFile: signing.privateKey, ownCaFile: server.ca },
    { ttlMs: 3_600_000, clock, logger, signal },
  );
  const store = createMemoryStore();
  const node = { publish: () => undefined, findConflict: () => undefined };
  const openRegistry = () =>
    listenRegistry({
      address: { host: '127.0.0.1', port: 0 },
      files,
      clusterName: 'alpha',
      book: createNodeBook({ ...node, store, graceMs: 1000, clock, logger }),
      nodes: {
        judge: (_name, uid) => (uid === nodeUid ? undefined : 'former-node'),
        onChange: (callback) => {
          tellTrust = callback;
        },
      },
      policies: createPolicyBoard({ store, isHere: () => true, clock, logger }),
      signal,
      logger,
    });
  let nodeUid = randomUUID();
  let tellTrust = (): void => undefined;
  let registry = await openRegistry();
  const limits = createEnrollmentLimits({ clock });
  const enrollment = createNodeEnrollment({
    offer: {
      kind: 'offered',
      review: async () => ({ kind: 'node', node: 'n1', pod: 'agent' }),
      find: async () => ({ kind: 'there', uid: nodeUid }),
    },
    authority,
    ttlMs: 3_600_000,
    limits,
    clock,
    logger,
  });
  const listener = await listenEnrollment({
    address: { host: '127.0.0.1', port: 0 },
    files,
    clusterName: 'alpha',
    enrollment: {
      enrol: async () => ({ kind: 'refused', reason: 'not-offered', details: 'no machines' }),
      status: { enrolled: 0, repeated: 0, refused: {}, unusable: undefined },
    },
    methods: [
      {
        name: 'EnrollNode',
        answer: (call, serverName) =>
          nodeEnrollmentMethod(enrollment, {
            name: ALPHA,
            id: parseClusterId(1),
            max: parseMaxConnectedClusters(255),
            gatePort: 2379,
            registryPort: registry.address.port,
          }).answer(call, serverName),
      },
    ],
    limits,
    facts: () => {
      throw new Error('facts are for machines');
    },
    clock,
    logger,
    signal,
  });
  t.teardown(async () => {
    ending.abort();
    await registry[Symbol.asyncDispose]();
    await listener[Symbol.asyncDispose]();
    await authority[Symbol.asyncDispose]();
    await store[Symbol.asyncDispose]();
  });
  writeFileSync(dir.file('token'), 'head.body.signature');
  return {
    dir,
    enrollment,
    agent: {
      server: listener.address,
      tokenFile: dir.file('token'),
      trustedCaFile: server.ca,
      nodeName: 'n1',
      cluster: { name: ALPHA, id: 1 },
      agentVersion: 'test',
      stateDir: dir.file('state'),
      clock: HASTY,
      logger,
    },
    registryPort: () => registry.address.port,
    makeNodeAnew() {
      nodeUid = randomUUID();
      tellTrust();
    },
    async moveRegistry() {
      const former = registry;
      registry = await openRegistry();
      await former[Symbol.asyncDispose]();
    },
  };
}

/** Runs an agent's own part of enrolling with its session, until the test ends. */
function start(t: Test, options: Parameters<typeof openNodeAgent>[0]) {
  const node = openNodeAgent(options);
  const session = node.session({
    clusterName: ALPHA,
    nodeName: options.nodeName,
    agentVersion: 'test',
    facts: { addresses: [parseIpAddress('192.0.2.1')], podCidrs: [], bootId: '' },
    clock: HASTY,
    logger,
  });
  const ending = new AbortController();
  const running = node.run(async (signal) => {
    await Promise.all([session.run(signal), node.part.run(signal)]);
  }, ending.signal);
  const stop = async (): Promise<void> => {
    ending.abort();
    await running;
  };
  t.teardown(stop);
  return { node, session, stop };
}

test('a node whose registry is elsewhere asks again where it is', {
  timeout: 60_000,
}, async (t) => {
  const cluster = await openCluster(t);
  const { session, node } = start(t, cluster.agent);
  await until(() => session.state.kind === 'accepted');
  t.equal(node.waitingFor, undefined);
  const before = readNodeState(cluster.agent.stateDir);
  t.equal(before?.record.registry.port, cluster.registryPort());
  await cluster.moveRegistry();
  await until(() => session.state.kind === 'disconnected');
  await until(() => session.state.kind === 'accepted');
  const after = readNodeState(cluster.agent.stateDir);
  t.equal(after?.record.registry.port, cluster.registryPort());
  t.not(after?.certificates.certificate, before?.certificates.certificate);
  t.not(after?.certificates.key, before?.certificates.key, 'with another key');
  t.equal(cluster.enrollment.status.enrolled, 2);
});

test('a node whose Node was made anew enrols as that one, once', {
  timeout: 60_000,
}, async (t) => {
  const cluster = await openCluster(t);
  // Sixty times as slow as elsewhere: what happens in a moment does not wait for a look.
  const { session } = start(t, { ...cluster.agent, clock: systemClock });
  await until(() => session.state.kind === 'accepted');
  cluster.makeNodeAnew();
  await until(() => session.state.kind === 'disconnected');
  await until(() => session.state.kind === 'accepted');
  t.equal(cluster.enrollment.status.enrolled, 2);
  // Twice within a minute is no remedy: the certificate has only just come.
  cluster.makeNodeAnew();
  await until(() => /of a former Node n1/.test(session.describe()));
  t.equal(cluster.enrollment.status.enrolled, 2);
});

test('what is left of another node is not used', { timeout: 60_000 }, async (t) => {
  const cluster = await openCluster(t);
  const { stateDir } = cluster.agent;
  const first = start(t, cluster.agent);
  await until(() => first.session.state.kind === 'accepted');
  await first.stop();
  const state = readNodeState(stateDir);
  if (state === undefined) throw new Error('it has enrolled');
  writeFileSync(join(stateDir, 'clustermesh', 'beta'), '');

  const again = openNodeAgent(cluster.agent);
  t.equal(again.waitingFor, undefined, 'its own is taken up again');
  t.ok(existsSync(join(stateDir, 'clustermesh', 'beta')), 'with its peers');
  for (const [what, changes] of [
    ['another name', { name: 'n2' }],
    ['another cluster', { clusterName: parseClusterName('beta') }],
    ['another id', { clusterId: 2 }],
  ] as const) {
    writeNodeState(stateDir, { ...state, record: { ...state.record, ...changes } });
    const other = openNodeAgent(cluster.agent);
    t.match(other.waitingFor, /has not enrolled yet/, what);
    t.notOk(existsSync(join(stateDir, 'certs')), `${what}: no key is left`);
    t.notOk(existsSync(join(stateDir, 'clustermesh', 'beta')), `${what}: no peers are left`);
  }
  t.equal(cluster.enrollment.status.enrolled, 1);
});

test('a node says what is wrong with its files', { timeout: 60_000 }, async (t) => {
  const cluster = await openCluster(t);
  const { agent, dir } = cluster;
  const cases: readonly [string, Partial<typeof agent>, RegExp][] = [
    ['no token', { tokenFile: dir.file('none') }, /cannot read .*none of --enrollment-token-file/],
    [
      'an empty token',
      { tokenFile: dir.file('empty') },
      /empty of --enrollment-token-file is empty/,
    ],
    [
      'no CA',
      { trustedCaFile: dir.file('none') },
      /cannot read .* of --enrollment-trusted-ca-file/,
    ],
    ['a CA that is none', { trustedCaFile: dir.file('token') }, /cannot use .*token: .*PEM form/],
  ];
  writeFileSync(dir.file('empty'), '\n');
  for (const [what, changes, reason] of cases) {
    const running = start(t, { ...agent, ...changes });
    await until(() => running.node.part.problems().length > 0);
    t.match(running.node.part.problems(), [reason], what);
    t.match(running.session.describe(), reason, `${what}: in the session's words, too`);
    await running.stop();
  }
  t.equal(cluster.enrollment.status.enrolled, 0);
});
