import { generateKeyPairSync, sign } from 'node:crypto';
import { connect as connectTcp } from 'node:net';
import { connect as connectTls } from 'node:tls';
import { Client, credentials, Metadata, type ServiceError, status } from '@grpc/grpc-js';
import { test } from 'tap';
import { createMemoryStore } from '../../mesh/kvstore/memory.ts';
import { systemClock } from '../../mesh/runtime/clock.ts';
import { createLogger } from '../../mesh/runtime/log.ts';
import { loadProtoFile } from '../../mesh/runtime/proto-file.ts';
import { openTempDir } from '../../mesh/testing/temp-dir.ts';
import { enrollProofInput } from '../../mesh/wire/key-proof.ts';
import { createCa, createEnrollmentCa, issueCertificate } from '../../pki/ca.ts';
import { writeSecret } from '../../pki/layout.ts';
import { serverLeaf } from '../../pki/names.ts';
import { openIssuingAuthority } from './certificate-authority.ts';
import { createEnrollment } from './enrollment.ts';
import { createEnrollmentLimits } from './enrollment-limits.ts';
import { listenEnrollment } from './enrollment-listener.ts';
import type { MachineOutcome } from './machine-book.ts';
import type { MachineEnrolment } from './machine-enrolment.ts';
import { createTokenBook } from './token-book.ts';

const SEED = Number(process.env.ISTHMUS_SEED ?? Date.now() % 1_000_000);
const ROUNDS = process.env.ISTHMUS_LONG === 'true' ? 100_000 : 600;
const NOT_SERVED = [status.UNIMPLEMENTED, status.RESOURCE_EXHAUSTED, status.INTERNAL];
const MANY = Number.MAX_SAFE_INTEGER;

/** Numbers that a seed decides, so that a failure can be had again. */
function createRandom(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return (below) => {
    state = (state * 1_664_525 + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

test('whatever strangers send, nobody is enrolled and nothing breaks', {
  timeout: 600_000,
}, async (t) => {
  t.comment(`seed ${SEED}`);
  const random = createRandom(SEED);
  const clock = systemClock;
  const logger = createLogger('test', { level: 'silent' });
  const stopping = new AbortController();
  t.teardown(() => stopping.abort());
  const { signal } = stopping;
  await using dir = await openTempDir('enrollment-fuzz');
  const ca = await createCa();
  const enrolling = await createEnrollmentCa(ca);
  const server = await writeSecret(dir.path, 'server', {
    ca: ca.root,
    pair: await issueCertificate(ca, serverLeaf('alpha')),
  });
  const intermediate = await writeSecret(dir.path, 'enrollment', {
    ca: ca.root,
    pair: { certificate: enrolling.chain.join(''), privateKey: enrolling.privateKey },
  });
  await using authority = await openIssuingAuthority(
    {
      certFile: intermediate.certificate,
      keyFile: intermediate.privateKey,
      ownCaFile: intermediate.ca,
    },
    { ttlMs: 3_600_000, clock, signal, logger },
  );
  await using store = createMemoryStore();
  const tokens = createTokenBook({ store, clock, logger });
  const enrolled: MachineEnrolment[] = [];
  // Limits of attempts are tested elsewhere; here every message is to be read.
  const limits = createEnrollmentLimits({ clock, burst: MANY, totalBurst: MANY });
  const enrollment = createEnrollment({
    tokens,
    machines: {
      get: () => undefined,
      judgeAddresses: () => undefined,
      async enrol(enrolment): Promise<MachineOutcome> {
        enrolled.push(enrolment);
        return {
          kind: 'taken',
          record: {
            ...enrolment,
            publicKeyHash: enrolment.key.hash,
            keys: [enrolment.key],
            revokedKeys: [],
            enrolledAt: clock.now(),
            addresses: [],
            bootId: '',
            checks: new Map(),
            removedAt: undefined,
          },
        };
      },
    },
    authority,
    limits,
    clock,
    logger,
  });
  await using listener = await listenEnrollment({
    address: { host: '127.0.0.1', port: 0 },
    files: { certFile: server.certificate, keyFile: server.privateKey, ownCaFile: server.ca },
    clusterName: 'alpha',
    enrollment,
    limits,
    socketLimits: { connectionsPerSource: 256, maxAgeMs: 600_000 },
    facts: () => ({
      clusterName: 'alpha',
      clusterId: 1,
      maxConnectedClusters: 255,
      etcdEndpoints: ['https://127.0.0.1:1'],
      registryEndpoints: ['127.0.0.1:1'],
      tunnelPort: 8472,
      podNetworks: [],
    }),
    clock,
    logger,
    signal,
  });

  const method = enrollMethod();
  const { record, secret } = await tokens.create(
    {
      names: 'vm',
      namespace: 'default',
      labels: {},
      addressRanges: [],
      ttlSeconds: 3600,
      uses: 1,
    },
    { by: 'admin-alpha', from: 'test' },
    signal,
  );
  const pair = generateKeyPairSync('rsa', { modulusLength: 2048 });
  const publicKey = pair.publicKey.export({ type: 'spki', format: 'der' });
  const input = enrollProofInput({ tokenId: record.id, machineName: 'vm', publicKey });
  const valid = method.requestSerialize({
    schema: 1,
    token_id: record.id,
    token_secret: secret,
    machine_name: 'vm',
    addresses: ['127.0.0.1'],
    public_key: publicKey,
    proof: sign('sha256', input, pair.privateKey),
    agent_version: 'test',
  });

  let client = openClient(listener.address.port);
  t.teardown(() => client.close());
  const send = (bytes: Buffer, path: string = method.path): Promise<ServiceError | Buffer> =>
    new Promise((resolve) => {
      const deadline = { deadline: Date.now() + 20_000 };
      client.makeUnaryRequest(path, asIs, asIs, bytes, new Metadata(), deadline, (error, answer) =>
        resolve(error ?? answer ?? Buffer.alloc(0)),
      );
    });

  await t.test('a request that is damaged in any way', async (t) => {
    const before = process.memoryUsage().rss;
    const odd: string[] = [];
    for (let round = 0; round < ROUNDS; round += 50) {
      const batch = Array.from({ length: 50 }, () => damage(valid, random));
      for (const answer of await Promise.all(batch.map((bytes) => send(bytes)))) {
        // Bytes of the version that the agent tells may differ, and everything else be right.
        if (Buffer.isBuffer(answer)) continue;
        const isTold = answer.details !== '' && !/has failed/.test(answer.details);
        if (!isTold || answer.code === status.DEADLINE_EXCEEDED) odd.push(answer.message);
      }
    }
    t.same(odd, [], 'each is refused in words');
    for (const machine of enrolled) {
      t.equal(machine.name, 'vm', 'nobody else is enrolled');
      t.equal(machine.tokenId, record.id);
    }
    const grownMb = (process.memoryUsage().rss - before) / 2 ** 20;
    t.ok(grownMb < 150, `memory grew by ${Math.round(grownMb)} MiB`);
  });

  await t.test('every prefix of a request', async (t) => {
    // The last field is the agent's version, which is no condition.
    const needed = valid.length - Buffer.from('..test').length;
    const ends = Array.from({ length: 120 }, () => random(needed));
    const answers = await Promise.all(ends.map((end) => send(valid.subarray(0, end))));
    t.same(answers.filter(Buffer.isBuffer), [], 'none is served');
  });

  await t.test('too much, and what nobody serves', async (t) => {
    for (const bytes of [4097, 16_000, 20_000, 1_000_000, 20_000_000]) {
      const answer = await send(Buffer.concat([valid, Buffer.alloc(bytes)]));
      t.notOk(Buffer.isBuffer(answer), `${bytes} bytes more`);
    }
    client.close();
    client = openClient(listener.address.port);
    for (const path of [
      '/isthmus.registry.v1.Admin/CreateToken',
      '/isthmus.registry.v1.Registry/Session',
      '/isthmus.registry.v1.Registry/Renew',
      '/etcdserverpb.KV/Range',
      '/',
    ]) {
      const answer = await send(valid, path);
      t.notOk(Buffer.isBuffer(answer), path);
      if (!Buffer.isBuffer(answer)) t.ok(NOT_SERVED.includes(answer.code), answer.message);
    }
  });

  await t.test('no TLS, no HTTP/2, no end', async (t) => {
    const { port } = listener.address;
    const sockets = Array.from({ length: 40 }, (_, index) => {
      const socket =
        index % 2 === 0
          ? connectTcp(port, '127.0.0.1')
          : connectTls({
              port,
              host: '127.0.0.1',
              ALPNProtocols: ['h2'],
              rejectUnauthorized: false,
            });
      socket.on('error', () => undefined);
      socket.write(Buffer.from(Array.from({ length: 1 + random(3000) }, () => random(256))));
      return socket;
    });
    t.teardown(() => {
      for (const socket of sockets) socket.destroy();
    });
    const answer = await send(valid);
    t.equal(Buffer.isBuffer(answer) ? '' : answer.message, '', 'others are served meanwhile');
  });

  t.equal(new Set(enrolled.map(({ key }) => key.hash)).size, 1, 'one key in all');
  const [listed] = await tokens.list(signal);
  t.match(listed, { state: 'used-up', record: { usesLeft: 0 }, uses: [{ machine: 'vm' }] });
});

function openClient(port: number): Client {
  return new Client(
    `127.0.0.1:${port}`,
    credentials.createSsl(null, null, null, { rejectUnauthorized: false }),
    { 'grpc.use_local_subchannel_pool': 1 },
  );
}

function asIs(bytes: Buffer): Buffer {
  return bytes;
}

function enrollMethod() {
  const service = loadProtoFile('mesh/wire/registry.proto')['isthmus.registry.v1.Enrollment'];
  const method = service === undefined || 'format' in service ? undefined : service.Enroll;
  if (method === undefined) throw new Error('registry.proto has no Enroll');
  return method;
}

/** Changes, cuts, doubles or replaces a part. */
function damage(bytes: Buffer, random: (below: number) => number): Buffer {
  const copy = Buffer.from(bytes);
  const noise = (length: number): Buffer => Buffer.from(Array.from({ length }, () => random(256)));
  const at = random(bytes.length);
  const length = random(bytes.length - at);
  switch (random(6)) {
    case 0:
      copy[at] = (copy[at] ?? 0) ^ (1 << random(8));
      return copy;
    case 1:
      return Buffer.concat([copy.subarray(0, at), copy.subarray(at + length)]);
    case 2:
      return Buffer.concat([copy, copy.subarray(at, at + length)]);
    case 3:
      noise(length).copy(copy, at);
      return copy;
    case 4:
      return noise(random(4096));
    default:
      return Buffer.concat([copy.subarray(0, at), noise(random(300)), copy.subarray(at)]);
  }
}
