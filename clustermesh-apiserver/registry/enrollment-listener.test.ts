import { createHash, randomInt, X509Certificate } from 'node:crypto';
import { connect as connectPlain } from 'node:net';
import { connect as connectTls, type DetailedPeerCertificate } from 'node:tls';
import { type Test, test } from 'tap';
import { callUnary } from '../../mesh/runtime/grpc-call.ts';
import { anonymousClientCredentials } from '../../mesh/runtime/grpc-client.ts';
import { loadProtoFile } from '../../mesh/runtime/proto-file.ts';
import { etcdSkipReason } from '../../mesh/testing/etcd-server.ts';
import { parseIpAddress } from '../../mesh/wire/ip.ts';
import { createCa, issueCertificate } from '../../pki/ca.ts';
import { writePrivateFile, writeSecret } from '../../pki/layout.ts';
import { serverLeaf } from '../../pki/names.ts';
import type { Enrollment } from './enrollment.ts';
import { createEnrollmentLimits, type EnrollmentLimits } from './enrollment-limits.ts';
import { type EnrollmentListener, listenEnrollment } from './enrollment-listener.ts';
import { readEnrollmentRequest } from './enrollment-request.ts';
import type { SocketLimits } from './enrollment-sockets.ts';
import {
  type EnrollmentSite,
  enrollRequest,
  makeMachineKeys,
  openEnrollmentSite,
} from './testing/enrollment-site.ts';
import { connectStranger, type Stranger } from './testing/stranger.ts';

const skip = etcdSkipReason(process.env);
const signal = new AbortController().signal;
const WHAT = {
  proto: 'mesh/wire/registry.proto',
  service: 'isthmus.registry.v1.Enrollment',
  method: 'Enroll',
};

/** A listener at loopback for machines of 192.0.2.0/24: who calls from 127.0.0.7 is seen as 192.0.2.7. */
async function listenAt(
  t: Test,
  site: EnrollmentSite,
  more: {
    readonly limits?: EnrollmentLimits;
    readonly socketLimits?: SocketLimits;
    readonly real?: Enrollment;
  } = {},
): Promise<EnrollmentListener> {
  const { limits = site.limits, socketLimits = {}, real = site.enrollment } = more;
  const enrollment: Enrollment = {
    status: real.status,
    enrol: (call) =>
      real.enrol({
        ...call,
        from: parseIpAddress(call.from.replace('127.0.0.', '192.0.2.')),
      }),
  };
  const { server, clock, logger } = site;
  const listener = await listenEnrollment({
    address: { host: '127.0.0.1', port: 0 },
    files: { certFile: server.certificate, keyFile: server.privateKey, ownCaFile: server.ca },
    clusterName: 'alpha',
    enrollment,
    limits,
    socketLimits,
    facts: (to) => ({
      clusterName: 'alpha',
      clusterId: 1,
      maxConnectedClusters: 255,
      etcdEndpoints: [`https://${to}:2379`],
      registryEndpoints: [`${to}:2381`],
      tunnelPort: 8472,
      podNetworks: ['10.1.0.0/16'],
    }),
    clock,
    logger,
    signal,
  });
  t.teardown(() => listener[Symbol.asyncDispose]());
  return listener;
}

const METHOD = enrollMethod();

function enrollMethod() {
  const service = loadProtoFile(WHAT.proto)[WHAT.service];
  const method = service === undefined || 'format' in service ? undefined : service.Enroll;
  if (method === undefined) throw new Error('registry.proto defines Enroll');
  return method;
}

/** Encodes a request as gRPC would. */
function encode(request: object): Buffer {
  return METHOD.requestSerialize(request);
}

/** Decodes bytes as gRPC would; undefined when they are no message. */
function decode(bytes: Buffer): unknown {
  try {
    return METHOD.requestDeserialize(bytes);
  } catch {
    return undefined;
  }
}

/** Certificates that a server sends, the leaf first. */
function chainOf(port: number): Promise<X509Certificate[]> {
  return new Promise((resolve, reject) => {
    const socket = connectTls(
      { host: '127.0.0.1', port, rejectUnauthorized: false, ALPNProtocols: ['h2'] },
      () => {
        const chain: X509Certificate[] = [];
        let one: DetailedPeerCertificate = socket.getPeerCertificate(true);
        for (;;) {
          chain.push(new X509Certificate(one.raw));
          if (one.issuerCertificate === undefined || one.issuerCertificate === one) break;
          one = one.issuerCertificate;
        }
        socket.destroy();
        resolve(chain);
      },
    );
    socket.on('error', reject);
  });
}

function anchorHash(certificate: X509Certificate | undefined): Buffer {
  const spki = certificate?.publicKey.export({ type: 'spki', format: 'der' }) ?? '';
  return createHash('sha256').update(spki).digest();
}

async function until(what: string, holds: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = Date.now() + 20_000;
  while (!(await holds())) {
    if (Date.now() > deadline) throw new Error(`not within 20 s: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

test('the enrollment listener, over TLS and gRPC', { skip, timeout: 120_000 }, async (t) => {
  const site = await openEnrollmentSite();
  t.teardown(() => site[Symbol.asyncDispose]());
  const { clock } = site;
  const keys = await makeMachineKeys();
  const listener = await listenAt(t, site);
  const { port } = listener.address;
  const call = (request: object, to = port) =>
    callUnary(WHAT, request, {
      server: { host: '127.0.0.1', port: to },
      credentials: anonymousClientCredentials(site.ca.root, ['alpha.mesh.cilium.io']),
      tlsName: 'alpha.mesh.cilium.io',
      timeoutMs: 20_000,
      signal,
    });

  await t.test('a machine that knows the authority by its key alone comes in', async (t) => {
    const chain = await chainOf(port);
    t.same(anchorHash(chain.at(-1)), listener.anchor, 'the end of the chain is sent along');
    const token = await site.token({ names: 'vm1', labels: { app: 'db' } });
    const request = enrollRequest({ token, name: 'vm1', address: '192.0.2.1', keys });
    const answer = await call(request);
    t.match(answer, {
      cluster_name: 'alpha',
      cluster_id: 1,
      max_connected_clusters: 255,
      etcd_endpoints: ['https://127.0.0.1:2379'],
      registry_endpoints: ['127.0.0.1:2381'],
      server_name: 'alpha.mesh.cilium.io',
      tunnel_port: 8472,
      observed_address: '127.0.0.1',
      machine_name: 'vm1',
      namespace: 'default',
      labels: { app: 'db' },
      pod_networks: ['10.1.0.0/16'],
    });
    const { certificate } = answer as { certificate: Buffer };
    t.equal(new X509Certificate(certificate).subject, 'CN=machine-vm1');
    await t.rejects(call({ ...request, token_secret: Buffer.alloc(32) }), {
      code: 'refused',
      message: /the token is not known here.*clustermesh vm token create/s,
    });
  });

  await t.test('nothing else is answered here', async (t) => {
    using stranger = await connectStranger(port);
    for (const path of [
      '/isthmus.registry.v1.Registry/Session',
      '/isthmus.registry.v1.Registry/Renew',
      '/isthmus.registry.v1.Admin/CreateToken',
      '/etcdserverpb.KV/Range',
      '/',
    ]) {
      t.match(await stranger.send(Buffer.alloc(0), { path }), { status: 12 }, path);
    }
  });

  await t.test(
    'what is too large or no message is refused, and the next is answered',
    async (t) => {
      await clock.advance(600_000);
      const counted = site.enrollment.status.refused.malformed ?? 0;
      using stranger = await connectStranger(port, '127.0.0.2');
      const padded = (bytes: number) => encode({ schema: 1, agent_version: 'x'.repeat(bytes) });
      t.match(await stranger.send(padded(5000)), {
        status: 3,
        details: /no EnrollRequest of at most 4096 bytes/,
      });
      t.match(await stranger.send(padded(20_000)), { status: 8 }, 'not even read');
      t.match(await stranger.send(Buffer.from([0xff, 0xff, 0xff])), { status: 3 });
      await t.rejects(
        connectStranger(port, '127.0.0.3')
          .then(async (other) => {
            using lying = other;
            return lying.send(Buffer.alloc(10), { length: 0xffffffff });
          })
          .then((answer) => {
            if (answer.status !== 0) throw new Error('refused');
          }),
        'a length that is a lie',
      );
      t.match(await stranger.send(encode({})), { status: 3, details: /schema 0 is not known/ });
      t.equal((site.enrollment.status.refused.malformed ?? 0) - counted, 3);
    },
  );

  await t.test('thousands of broken messages change nothing', async (t) => {
    const seed = randomInt(2 ** 31);
    t.comment(`seed ${seed}`);
    const random = randomFrom(seed);
    const patient = createEnrollmentLimits({ clock, burst: 1e6, totalBurst: 1e6 });
    const { enrollment: real } = await site.openReplica(patient);
    const open = await listenAt(t, site, { limits: patient, real });
    const token = await site.token({ names: '*', uses: 10_000 });
    const good = encode(enrollRequest({ token, name: 'fuzz', address: '192.0.2.9', keys }));
    const change = (): Buffer => {
      const copy = Buffer.from(good);
      for (let count = 1 + random(4); count > 0; count -= 1)
        copy[random(copy.length)] = random(256);
      return copy;
    };
    const noise = (): Buffer => Buffer.from(Array.from({ length: random(300) }, () => random(256)));
    const many = (count: number, make: () => Buffer) => Array.from({ length: count }, make);
    // As cut at every place, with any of its bytes changed, and anything.
    const cut = Array.from(good.keys(), (length) => good.subarray(0, length));
    const readings = new Set<string>();
    for (const bytes of [...cut, ...many(5000, change), ...many(5000, noise)]) {
      readings.add(readEnrollmentRequest(decode(bytes)).kind);
    }
    t.same([...readings].sort(), ['malformed', 'request'], 'and nothing is thrown');
    const some = cut.filter((_, index) => index % 4 === 0);
    const all = [...some, ...many(500, change), ...many(200, noise)].filter(
      (one) => !one.equals(good),
    );
    const statuses = new Map<number, number>();
    await Promise.all(
      Array.from({ length: 8 }, async (_, lane) => {
        using stranger = await connectStranger(open.address.port, '127.0.0.9');
        for (let index = lane; index < all.length; index += 8) {
          const { status } = await stranger.send(all[index] ?? Buffer.alloc(0));
          statuses.set(status, (statuses.get(status) ?? 0) + 1);
        }
      }),
    );
    const known = [0, 3, 7, 8, 9, 16];
    t.same(
      [...statuses.keys()].filter((status) => !known.includes(status)),
      [],
      'no other status',
    );
    t.notOk(statuses.has(13), 'nothing failed inside');
    const enrolled = site.machines.report.filter(({ record }) => record.tokenId === token.id);
    for (const { record } of enrolled) t.match(record.name, /^[a-z0-9-]+$/);
  });

  await t.test('connections are bounded: in number, by source and in time', async (t) => {
    const bounded = await listenAt(t, site, {
      socketLimits: { connections: 6, connectionsPerSource: 3, maxAgeMs: 60_000 },
    });
    const to = bounded.address.port;
    const held: Stranger[] = [];
    for (const source of ['127.0.0.11', '127.0.0.11', '127.0.0.11', '127.0.0.12', '127.0.0.12']) {
      held.push(await connectStranger(to, source));
    }
    await t.rejects(connectStranger(to, '127.0.0.11'), 'a fourth of one source');
    held.push(await connectStranger(to, '127.0.0.13'));
    held.push(await connectStranger(to, '127.0.0.14'));
    await until('the oldest is pushed out', () => held[0]?.socket.destroyed === true);
    t.equal(bounded.connections, 6);
    t.same(
      held.slice(1).map(({ socket }) => socket.destroyed),
      [false, false, false, false, false, false],
    );
    await clock.advance(62_000);
    await until('all are too old', () => held.every(({ socket }) => socket.destroyed));
    await until('none is left', () => bounded.connections === 0);
  });

  await t.test('who does not speak the language is let go of', async (t) => {
    const talk = (bytes: string): Promise<string> =>
      new Promise((resolve, reject) => {
        const socket = connectPlain({ host: '127.0.0.1', port }, () => socket.end(bytes));
        let heard = '';
        socket.on('data', (part) => {
          heard += part.toString('latin1');
        });
        socket.on('close', () => resolve(heard));
        socket.on('error', reject);
      });
    t.notMatch(await talk('GET / HTTP/1.1\r\nHost: x\r\n\r\n'), /HTTP/);
    const plain = await new Promise<boolean>((resolve, reject) => {
      const socket = connectTls({ host: '127.0.0.1', port, rejectUnauthorized: false });
      socket.on('close', () => resolve(true));
      socket.on('error', reject);
      socket.resume();
    });
    t.ok(plain, 'TLS without HTTP/2');
  });

  await t.test('a source that goes on after many refusals gets no handshake', async (t) => {
    await clock.advance(600_000);
    const shut = createEnrollmentLimits({ clock });
    const open = await listenAt(t, site, { limits: shut });
    const source = parseIpAddress('127.0.0.20');
    (await connectStranger(open.address.port, source))[Symbol.dispose]();
    for (let index = 0; index < 40; index += 1) shut.punish(source);
    await t.rejects(connectStranger(open.address.port, source));
    (await connectStranger(open.address.port, '127.0.0.21'))[Symbol.dispose]();
    await clock.advance(600_000);
    (await connectStranger(open.address.port, source))[Symbol.dispose]();
  });

  await t.test('the certificate follows its files, and tokens the authority', async (t) => {
    const before = listener.anchor;
    const next = await createCa({ commonName: 'next CA of alpha' });
    const pair = await issueCertificate(next, serverLeaf('alpha'));
    const { server } = site;
    await writePrivateFile(server.certificate, 'broken');
    await clock.advance(3000);
    t.same(anchorHash((await chainOf(port)).at(-1)), before, 'broken files change nothing');
    // As in a rotation: both authorities in the bundle first.
    await writePrivateFile(server.ca, site.ca.root + next.root);
    await writeSecret(site.dir.path, 'server', { ca: site.ca.root + next.root, pair });
    await until('the new one is shown', async () => {
      await clock.advance(100);
      return !before.equals(listener.anchor);
    });
    t.same(anchorHash((await chainOf(port)).at(-1)), listener.anchor);
    t.same(listener.anchor, anchorHash(new X509Certificate(next.root)));
  });

  await t.test('it says what keeps it from listening', async (t) => {
    const stranger = await createCa();
    const own = await writeSecret(site.dir.path, 'stranger', {
      ca: stranger.root,
      pair: await issueCertificate(site.ca, serverLeaf('alpha')),
    });
    const options = {
      clusterName: 'alpha',
      enrollment: site.enrollment,
      limits: site.limits,
      facts: () => {
        throw new Error('nobody calls');
      },
      clock,
      logger: site.logger,
      signal,
    };
    const files = { certFile: own.certificate, keyFile: own.privateKey, ownCaFile: own.ca };
    await t.rejects(
      listenEnrollment({ ...options, files, address: { host: '127.0.0.1', port: 0 } }),
      { code: 'file', message: /ends at none of the cluster's own authorities/ },
    );
    const { certificate: certFile, privateKey: keyFile, ca: ownCaFile } = site.server;
    await t.rejects(
      listenEnrollment({
        ...options,
        files: { certFile, keyFile, ownCaFile },
        address: listener.address,
      }),
      { code: 'port-taken', message: /--enrollment-address/ },
    );
  });
});

/** Numbers below a bound that the seed decides (xorshift). */
function randomFrom(seed: number): (bound: number) => number {
  let state = seed | 1;
  return (bound) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % bound;
  };
}
