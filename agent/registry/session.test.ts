import { readFile, writeFile } from 'node:fs/promises';
import { Server, ServerCredentials, type ServerDuplexStream } from '@grpc/grpc-js';
import { type Test, test } from 'tap';
import type { NodeFacts } from '../../clustermesh-apiserver/convert/node.ts';
import { createNodeBook } from '../../clustermesh-apiserver/registry/node-book.ts';
import { createPolicyBoard } from '../../clustermesh-apiserver/registry/policy-board.ts';
import { listenRegistry } from '../../clustermesh-apiserver/registry/registry.ts';
import { createMemoryStore } from '../../mesh/kvstore/memory.ts';
import { systemClock } from '../../mesh/runtime/clock.ts';
import { createLogger } from '../../mesh/runtime/log.ts';
import { loadProtoFile } from '../../mesh/runtime/proto-file.ts';
import { openTempDir } from '../../mesh/testing/temp-dir.ts';
import {
  type CertificateFiles,
  createTestAuthority,
} from '../../mesh/testing/test-certificates.ts';
import { parseClusterName } from '../../mesh/wire/ids.ts';
import { parseIpAddress, parseIpPrefix } from '../../mesh/wire/ip.ts';
import type { PolicyReport } from '../api/status.ts';
import { createNodeSession, type NodeSession } from './session.ts';

const logger = createLogger('test', { level: 'silent' });

/** A registry of cluster alpha with a CA, and the nodes that it publishes. */
async function openRegistry(t: Test, options: { graceMs?: number } = {}) {
  const dir = await openTempDir('registry');
  t.teardown(() => dir[Symbol.asyncDispose]());
  const authority = await createTestAuthority(dir);
  const stranger = await createTestAuthority(dir, 'stranger');
  const server = await authority.issue('server', { names: ['*.mesh.cilium.io'] });
  const revokedFile = dir.file('revoked.yaml');
  const published = new Map<string, NodeFacts>();
  const store = createMemoryStore();
  const ending = new AbortController();
  const book = createNodeBook({
    store,
    publish: (name, facts) => {
      if (facts === undefined) published.delete(name);
      else published.set(name, facts);
    },
    findConflict: (name, { addresses }) => {
      const holder = [...published].find(
        ([other, held]) => other !== name && held.addresses.some((ip) => addresses.includes(ip)),
      );
      return holder && { field: 'addresses', reason: `held by node ${holder[0]}` };
    },
    graceMs: options.graceMs ?? 60_000,
    clock: systemClock,
    logger,
  });
  const policies = createPolicyBoard({
    store,
    isHere: (node) => book.stateOf(node) !== undefined,
    clock: systemClock,
    logger,
  });
  const listen = (port: number) =>
    listenRegistry({
      address: { host: '127.0.0.1', port },
      files: {
        certFile: server.certFile,
        keyFile: server.keyFile,
        ownCaFile: authority.caFile,
        revokedFile,
      },
      clusterName: 'alpha',
      book,
      policies,
      signal: ending.signal,
      logger,
    });
  let registry = await listen(0);
  const { port } = registry.address;
  const running = Promise.all([book.run(ending.signal), policies.run(ending.signal)]);
  t.teardown(async () => {
    await registry[Symbol.asyncDispose]();
    ending.abort();
    await running;
  });

  /** Starts the session of a node; it ends with the test. */
  const join = (
    certificate: CertificateFiles,
    more: {
      node?: string;
      cluster?: string;
      addresses?: readonly string[];
      port?: number;
      policies?: () => readonly PolicyReport[] | undefined;
    } = {},
  ): NodeSession & { stop(): Promise<void> } => {
    const stopping = new AbortController();
    const session = createNodeSession({
      registry: { host: '127.0.0.1', port: more.port ?? port },
      readTls: async () => ({
        ca: await readFile(authority.caFile),
        cert: await readFile(certificate.certFile),
        key: await readFile(certificate.keyFile),
      }),
      clusterName: parseClusterName(more.cluster ?? 'alpha'),
      nodeName: more.node ?? 'n1',
      agentVersion: '0.1.0',
      facts: {
        addresses: (more.addresses ?? ['192.0.2.1']).map(parseIpAddress),
        podCidrs: [parseIpPrefix('10.1.0.0/24')],
        bootId: 'b1',
      },
      clock: systemClock,
      logger,
    });
    const { policies: told } = more;
    const ended = session.run(stopping.signal, told === undefined ? undefined : { policies: told });
    const stop = async (): Promise<void> => {
      stopping.abort();
      await ended;
    };
    t.teardown(stop);
    return {
      run: session.run,
      reconnect: session.reconnect,
      describe: session.describe,
      stop,
      get state() {
        return session.state;
      },
    };
  };
  return {
    authority,
    stranger,
    server,
    policies,
    published,
    store,
    book,
    revokedFile,
    join,
    stop: () => registry[Symbol.asyncDispose](),
    start: async () => {
      registry = await listen(port);
    },
  };
}

/** A registry of before policies were told of; resolves to its port. */
async function openOldRegistry(
  t: Test,
  files: CertificateFiles & { readonly seen: string[] },
): Promise<number> {
  const server = new Server();
  const service = loadProtoFile('mesh/wire/registry.proto')['isthmus.registry.v1.Registry'];
  if (service === undefined || 'format' in service) throw new Error('no such service');
  server.addService(service, {
    Session(call: ServerDuplexStream<{ kind: string; facts?: { sequence: number } }, object>) {
      call.on('data', ({ kind, facts }) => {
        files.seen.push(kind);
        call.write({ accepted: { sequence: facts?.sequence ?? 0 } });
      });
      call.on('error', () => undefined);
      call.on('end', () => call.end());
    },
  });
  const pair = {
    cert_chain: await readFile(files.certFile),
    private_key: await readFile(files.keyFile),
  };
  const credentials = ServerCredentials.createSsl(await readFile(files.caFile), [pair], true);
  const port = await new Promise<number>((resolve, reject) =>
    server.bindAsync('127.0.0.1:0', credentials, (error, bound) =>
      error === null ? resolve(bound) : reject(error),
    ),
  );
  t.teardown(() => server.forceShutdown());
  return port;
}

async function until(what: string, condition: () => boolean): Promise<void> {
  const deadline = systemClock.monotonic() + 15_000;
  while (!condition()) {
    if (systemClock.monotonic() > deadline) throw new Error(`waited 15 s in vain for ${what}`);
    await systemClock.sleep(10);
  }
}

test('a node is published by its session, and goes a grace time after it', async (t) => {
  const registry = await openRegistry(t, { graceMs: 1500 });
  const session = registry.join(await registry.authority.issue('node-n1'));
  await until('acceptance', () => session.state.kind === 'accepted');
  t.match(session.describe(), /^accepted since 20/);
  t.same(registry.published.get('n1'), {
    addresses: ['192.0.2.1'],
    podCidrs: ['10.1.0.0/24'],
    bootId: 'b1',
  });
  t.match(registry.book.report, [{ node: 'n1', state: 'connected' }]);
  await session.stop();
  await until('the end', () => registry.book.report[0]?.state === 'gone');
  t.ok(registry.published.has('n1'), 'still there');
  await until('the node gone', () => !registry.published.has('n1'));
});

test('a session comes back after the registry does, and the node stays meanwhile', async (t) => {
  const registry = await openRegistry(t);
  const session = registry.join(await registry.authority.issue('node-n1'));
  await until('acceptance', () => session.state.kind === 'accepted');
  await registry.stop();
  await until('the loss', () => session.state.kind === 'disconnected');
  t.ok(registry.published.has('n1'));
  await registry.start();
  await until('acceptance again', () => session.state.kind === 'accepted');
  t.match(registry.book.report, [{ node: 'n1', state: 'connected' }]);
});

test('how policies stand reaches the registry with the session, and again with the next one', async (t) => {
  const registry = await openRegistry(t);
  const policy = 'CiliumNetworkPolicy demo/web';
  let reports: readonly PolicyReport[] | undefined;
  const session = registry.join(await registry.authority.issue('node-n1'), {
    policies: () => reports,
  });
  await until('acceptance', () => session.state.kind === 'accepted');
  t.same(registry.policies.report, [], 'nothing is said before it is known');
  const problems = [{ path: 'spec.ingress[0]', message: 'no layer 7' }];
  const report = { policy, generation: 3, endpoints: [4, 5], entries: 12, lastError: undefined };
  reports = [{ ...report, state: 'partly-refused', problems }];
  await until('the report', () => registry.policies.get(policy)?.generation === 3);
  t.match(registry.policies.get(policy), {
    nodes: 1,
    endpoints: 2,
    entries: 12,
    problems: ['spec.ingress[0]: no layer 7'],
  });
  await registry.stop();
  reports = [{ ...report, generation: 4, state: 'enforced', problems: [] }];
  await registry.start();
  await until('what is new', () => registry.policies.get(policy)?.generation === 4);
  t.same(registry.policies.get(policy)?.problems, []);
  t.equal(session.state.kind, 'accepted', 'the node is there all the while');
});

test('a registry that does not ask for it is told nothing of policies', async (t) => {
  const registry = await openRegistry(t);
  const certificate = await registry.authority.issue('node-n1');
  const seen: string[] = [];
  const old = await openOldRegistry(t, { ...registry.server, seen });
  let looks = 0;
  const policies = (): readonly PolicyReport[] => {
    looks += 1;
    return [];
  };
  const session = registry.join(certificate, { port: old, policies });
  await until('acceptance', () => session.state.kind === 'accepted');
  await systemClock.sleep(2_500);
  t.same([...new Set(seen)], ['hello', 'facts']);
  t.equal(looks, 0, 'nor is anything looked at for it');
});

test('the node is the one of the certificate, whatever the agent says', async (t) => {
  const registry = await openRegistry(t);
  const cases: readonly [
    string,
    CertificateFiles,
    Parameters<typeof registry.join>[1],
    NodeSession['state']['kind'],
    RegExp,
  ][] = [
    [
      'another node',
      await registry.authority.issue('node-n2'),
      { node: 'n1' },
      'rejected',
      /hello\.node_name.*"n1" is not the node of the certificate, node-n2/,
    ],
    [
      'another cluster',
      await registry.authority.issue('node-n1'),
      { cluster: 'beta' },
      'rejected',
      /hello\.cluster_name: this is the registry of cluster alpha, not of "beta"/,
    ],
    ['a peer', await registry.authority.issue('remote-beta'), {}, 'disconnected', /not of a node/],
    [
      'a name that would leave its key',
      await registry.authority.issue('node-a\\/b'),
      {},
      'disconnected',
      /not of a node/,
    ],
    ['another CA', await registry.stranger.issue('node-n1'), {}, 'disconnected', /./],
  ];
  for (const [what, certificate, options, kind, words] of cases) {
    const session = registry.join(certificate, options);
    await until(`${what}: an answer`, () => session.state.kind !== 'connecting');
    t.equal(session.state.kind, kind, `${what}: ${session.describe()}`);
    t.match(session.describe(), words, what);
    await session.stop();
  }
  t.equal(registry.published.size, 0, 'nothing was published');
  t.equal((await registry.store.list('isthmus/')).pairs.length, 0);
});

test('what another node holds is rejected with field and reason', async (t) => {
  const registry = await openRegistry(t);
  const first = registry.join(await registry.authority.issue('node-n1'));
  await until('acceptance', () => first.state.kind === 'accepted');
  const second = registry.join(await registry.authority.issue('node-n2'), { node: 'n2' });
  await until('rejection', () => second.state.kind === 'rejected');
  t.same(second.state, { kind: 'rejected', field: 'addresses', reason: 'held by node n1' });
  const third = registry.join(await registry.authority.issue('node-n3'), {
    node: 'n3',
    addresses: ['127.0.0.1'],
  });
  await until('rejection', () => third.state.kind === 'rejected');
  t.match(third.describe(), /^rejected, addresses: 127\.0\.0\.1 is a loopback address/);
  t.same([...registry.published.keys()], ['n1']);
});

test("revocation cuts a node's session, and lets no other begin", async (t) => {
  const registry = await openRegistry(t);
  const certificate = await registry.authority.issue('node-n1');
  const session = registry.join(certificate);
  const other = registry.join(await registry.authority.issue('node-n2'), {
    node: 'n2',
    addresses: ['192.0.2.2'],
  });
  await until(
    'acceptance',
    () => session.state.kind === 'accepted' && other.state.kind === 'accepted',
  );
  await writeFile(registry.revokedFile, '- {commonName: node-n1}\n');
  await until('the cut', () => session.state.kind === 'disconnected');
  await systemClock.sleep(700);
  t.equal(session.state.kind, 'disconnected', session.describe());
  t.equal(other.state.kind, 'accepted', 'the other goes on');
});

test('listenRegistry() says which port is taken', async (t) => {
  const registry = await openRegistry(t);
  await t.rejects(registry.start(), {
    name: 'RegistryError',
    code: 'port-taken',
    message: /^cannot listen on 127\.0\.0\.1:\d+: the port is taken; .*--registry-address$/,
  });
});
