import { X509Certificate } from 'node:crypto';
import { connect as connectTcp } from 'node:net';
import { connect as connectTls } from 'node:tls';
import { Client, credentials, Metadata, type ServiceError, status } from '@grpc/grpc-js';
import { test } from 'tap';
import { makeMachineKeys } from './testing/enrollment-site.ts';
import { type FuzzedMethod, nodeRequest, openFuzzSite, peerRequest } from './testing/fuzz-site.ts';

const SEED = Number(process.env.ISTHMUS_SEED ?? Date.now() % 1_000_000);
const IS_LONG = process.env.ISTHMUS_LONG === 'true';
/** Of each way to enrol. */
const ROUNDS = IS_LONG ? 50_000 : 250;
const BATCH = 50;
const NOT_SERVED = [status.UNIMPLEMENTED, status.RESOURCE_EXHAUSTED, status.INTERNAL];

/** Numbers that a seed decides, so that a failure can be had again. */
function createRandom(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return (below) => {
    state = (state * 1_664_525 + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

test('whatever strangers send, nobody is enrolled and nothing breaks', {
  timeout: IS_LONG ? 3_600_000 : 300_000,
}, async (t) => {
  t.comment(`seed ${SEED}`);
  const random = createRandom(SEED);
  await using site = await openFuzzSite();
  let client = openClient(site.address.port);
  t.teardown(() => client.close());
  const send = (path: string, bytes: Buffer): Promise<ServiceError | Buffer> =>
    new Promise((resolve) => {
      const deadline = { deadline: Date.now() + 20_000 };
      client.makeUnaryRequest(path, asIs, asIs, bytes, new Metadata(), deadline, (error, answer) =>
        resolve(error ?? answer ?? Buffer.alloc(0)),
      );
    });
  /** Why a request was refused, in words; undefined: it was not. */
  const ask = async (method: FuzzedMethod, bytes: Buffer): Promise<string | undefined> => {
    const answer = await send(method.path, bytes);
    if (!Buffer.isBuffer(answer)) {
      const isTold = answer.details !== '' && !/has failed/.test(answer.details);
      return isTold && answer.code !== status.DEADLINE_EXCEEDED
        ? answer.details
        : `not in words: ${answer.message}`;
    }
    const { certificate, refused = '' } = method.read(answer);
    if (refused !== '') return refused;
    // Bytes that are no condition may differ, and everything else be right.
    const leaf = new X509Certificate(certificate ?? Buffer.alloc(0));
    const spki = leaf.publicKey.export({ type: 'spki', format: 'der' });
    t.equal(leaf.subject, `CN=${method.commonName}`, 'nobody else is enrolled');
    t.ok(spki.equals(method.keys.spki), 'nor another key');
    return undefined;
  };
  const NOT_IN_WORDS = /^not in words/;

  for (const method of site.methods) {
    const valid = method.request();

    await t.test(`${method.name}: a request that is damaged in any way`, async (t) => {
      const odd: string[] = [];
      let settled = 0;
      for (let round = 0; round < ROUNDS; round += BATCH) {
        const batch = Array.from({ length: BATCH }, () => damage(valid, random));
        for (const reason of await Promise.all(batch.map((bytes) => ask(method, bytes)))) {
          if (reason !== undefined && NOT_IN_WORDS.test(reason)) odd.push(reason);
        }
        // What a first part has taken for good, such as code and buffers, is taken once.
        if (round < ROUNDS / 5) settled = process.memoryUsage().rss;
      }
      t.same(odd, [], 'each is refused in words');
      const grownMb = (process.memoryUsage().rss - settled) / 2 ** 20;
      t.ok(grownMb < 100, `memory grew by ${Math.round(grownMb)} MiB`);
    });

    await t.test(`${method.name}: every prefix of a request`, async (t) => {
      const needed = valid.length - method.idleBytes;
      const ends = Array.from({ length: IS_LONG ? needed : 60 }, (_, end) =>
        IS_LONG ? end : random(needed),
      );
      const answers = await Promise.all(ends.map((end) => ask(method, valid.subarray(0, end))));
      t.notOk(answers.includes(undefined), 'none is served');
    });

    await t.test(`${method.name}: too much`, async (t) => {
      for (const bytes of [4097, 16_000, 20_000, 1_000_000, 20_000_000]) {
        const answer = await send(method.path, Buffer.concat([valid, Buffer.alloc(bytes)]));
        t.notOk(Buffer.isBuffer(answer), `${bytes} bytes more`);
      }
      client.close();
      client = openClient(site.address.port);
    });
  }

  await t.test('keys that are not held, names of others, tokens for others', async (t) => {
    const [machine, node, peer] = site.methods;
    if (machine === undefined || node === undefined || peer === undefined) throw new Error('three');
    const stranger = await makeMachineKeys();
    const weak = await makeMachineKeys(1024);
    const theirs = { peering: stranger, keys: stranger };
    const key = { public_key: stranger.spki };
    const noProof = { proof: Buffer.alloc(256) };
    const cases: readonly [FuzzedMethod, string, object, RegExp][] = [
      [machine, 'the key of somebody else', key, /proof/],
      [machine, 'no proof', noProof, /proof/],
      [machine, 'another name', { machine_name: 'db' }, /proof/],
      [machine, 'a name that is a path', { machine_name: '../n1' }, /proof/],
      [machine, 'a secret that is guessed', { token_secret: Buffer.alloc(32) }, /token/],
      [node, 'the key of somebody else', key, /proof/],
      [node, 'no proof', noProof, /proof/],
      [node, 'a token for others', nodeRequest('another.audience.token', stranger), /audience/],
      [node, 'a token that nobody gave', nodeRequest('a.b.c', stranger), /does not take the token/],
      [node, 'a token beside its proof', { service_account_token: 'a.b.c' }, /proof/],
      [node, 'a weak key', nodeRequest('node.agent.token', weak), /1024 bits/],
      [peer, 'the key of somebody else', key, /proof/],
      [peer, 'no proof', noProof, /proof/],
      [peer, 'no proof of the peering key', { peering_proof: Buffer.alloc(256) }, /proof/],
      [peer, 'another name', { cluster_name: 'gamma' }, /no peer "gamma"/],
      [
        peer,
        'the name of a peer, and a key of its own',
        peerRequest({ caller: 'beta', called: 'alpha' }, theirs),
        /no peer "beta" with this key/,
      ],
      [
        peer,
        'what was said to another cluster',
        peerRequest({ caller: 'beta', called: 'gamma' }, theirs),
        /"gamma" was called/,
      ],
    ];
    for (const [method, what, changes, words] of cases) {
      t.match(await ask(method, method.request(changes)), words, `${method.name}: ${what}`);
    }
    for (const method of site.methods) {
      for (const other of site.methods) {
        if (other === method) continue;
        const reason = await ask(method, other.request());
        t.ok(reason, `${method.name}: a request of ${other.name}`);
      }
    }
  });

  await t.test('what nobody serves', async (t) => {
    for (const path of [
      '/isthmus.registry.v1.Admin/CreateToken',
      '/isthmus.registry.v1.Registry/Session',
      '/isthmus.registry.v1.Registry/Renew',
      '/etcdserverpb.KV/Range',
      '/',
    ]) {
      const answer = await send(path, Buffer.alloc(10));
      t.notOk(Buffer.isBuffer(answer), path);
      if (!Buffer.isBuffer(answer)) t.ok(NOT_SERVED.includes(answer.code), answer.message);
    }
  });

  await t.test('no TLS, no HTTP/2, no end', async (t) => {
    const { port } = site.address;
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
    for (const method of site.methods) {
      t.equal(await ask(method, method.request()), undefined, `${method.name} is served meanwhile`);
      // Whoever repeats what was overheard has a certificate for a key that is not theirs.
      t.equal(await ask(method, method.request()), undefined, `${method.name} again`);
    }
  });

  const lines = site.refusals.map(({ from, reason }) => `${from} ${reason}`);
  t.ok(
    lines.every((line) => line.startsWith('127.0.0.1 ')),
    'each line says where from',
  );
  // Three ways to enrol, each with its own reasons.
  for (const line of new Set(lines)) {
    t.ok(lines.filter((one) => one === line).length <= 3, `${line} is logged once for each`);
  }
  const [listed] = await site.tokens.list(site.signal);
  t.match(listed, { state: 'used-up', record: { usesLeft: 0 }, uses: [{ machine: 'vm' }] });
  t.same(
    site.machines.report.map(({ record }) => record.name),
    ['vm'],
  );
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
