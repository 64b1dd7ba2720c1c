import { type Answer, type DecodedPacket, decode, encode, type RecordType } from 'dns-packet';
import { type Test, test } from 'tap';
import type { ClusterRef } from '../../mesh/remote/cluster-sink.ts';
import { parseClusterId, parseClusterName } from '../../mesh/wire/ids.ts';
import { type IpAddress, parseIpAddress } from '../../mesh/wire/ip.ts';
import { type LocalService, PLAIN_TRAFFIC } from '../../mesh/wire/local-service.ts';
import type { ClusterService, PortMap } from '../../mesh/wire/service.ts';
import { createRandom, mutate } from '../../mesh/wire/testing/mutate.ts';
import { answerMessage } from './answer.ts';
import { createNameBook, type NameBook } from './name-book.ts';

const ALPHA: ClusterRef = {
  name: parseClusterName('alpha'),
  id: parseClusterId(1, 255),
  own: true,
};
const BETA: ClusterRef = { name: parseClusterName('beta'), id: parseClusterId(2, 255), own: false };
const DOMAINS = { cluster: 'cluster.local', set: 'clusterset.local' };
const HTTP: PortMap = new Map([['http', { protocol: 'TCP', port: 8080 }]]);

function localService(name: string, changes: Partial<LocalService> = {}): LocalService {
  return {
    ...PLAIN_TRAFFIC,
    namespace: 'demo',
    name,
    clusterIps: [parseIpAddress('10.96.0.10'), parseIpAddress('fd00:96::10')],
    ports: [{ name: 'http', protocol: 'TCP', port: 80 }],
    headless: false,
    global: false,
    shared: false,
    affinity: 'none',
    backends: new Map(),
    ...changes,
  };
}

function backends(...addresses: string[]): ReadonlyMap<IpAddress, PortMap> {
  return new Map(addresses.map((address) => [parseIpAddress(address), HTTP]));
}

function remoteService(name: string, addresses: string[], shared = true): ClusterService {
  return {
    cluster: BETA.name,
    namespace: 'demo',
    name,
    frontends: new Map(),
    backends: backends(...addresses),
    hostnames: undefined,
    zones: undefined,
    labels: {},
    selector: {},
    includeExternal: true,
    shared,
    clusterId: BETA.id,
  };
}

/** A book that knows some Services of two clusters. */
function filledBook(): NameBook {
  const book = createNameBook();
  const locals = [
    localService('web'),
    localService('shop', { global: true, shared: true }),
    localService('db', {
      headless: true,
      clusterIps: [],
      backends: backends('10.1.0.5', 'fd00:1::5'),
    }),
    localService('elsewhere', { type: 'ExternalName', clusterIps: [] }),
    localService('derived-0123456789', {
      global: true,
      clusterIps: [parseIpAddress('10.96.0.77')],
      labels: { 'multicluster.kubernetes.io/service-name': 'imported' },
    }),
    localService('derived-headless01', {
      global: true,
      headless: true,
      clusterIps: [],
      backends: backends('10.1.0.9'),
      labels: { 'multicluster.kubernetes.io/service-name': 'store' },
    }),
  ];
  for (const value of locals) {
    book.apply(ALPHA, { kind: 'local-service', name: `demo/${value.name}`, value }, undefined);
  }
  const value = remoteService('derived-headless01', ['10.2.0.9']);
  book.apply(BETA, { kind: 'service', name: 'demo/derived-headless01', value }, undefined);
  book.synced(ALPHA, 'local-services');
  return book;
}

const RCODES = ['NOERROR', 'FORMERR', 'SERVFAIL', 'NXDOMAIN', 'NOTIMP', 'REFUSED'];

interface Reply {
  readonly rcode: string | undefined;
  readonly data: readonly unknown[];
  readonly hasSoa: boolean;
  readonly packet: DecodedPacket;
}

function ask(
  book: NameBook,
  name: string,
  type: RecordType | 'ANY' = 'A',
  more: { readonly transport?: 'udp' | 'tcp'; readonly additionals?: Answer[] } = {},
): Reply {
  const { transport = 'udp', additionals = [] } = more;
  const questions = [{ name, type: type as RecordType }];
  const message = encode({ id: 7, type: 'query', flags: 1 << 8, questions, additionals });
  const bytes = answerMessage(message, { names: book, domains: DOMAINS, transport });
  const packet = decode(bytes ?? Buffer.alloc(0));
  return {
    rcode: RCODES[(bytes?.[3] ?? 0) & 0xf],
    data: (packet.answers ?? []).map((answer) => ('data' in answer ? answer.data : undefined)),
    hasSoa: (packet.authorities ?? []).some((record) => record.type === 'SOA'),
    packet,
  };
}

test('services are answered by their cluster addresses', (t) => {
  const book = filledBook();
  const web = ask(book, 'web.demo.svc.cluster.local');
  t.same([web.rcode, web.data, web.hasSoa], ['NOERROR', ['10.96.0.10'], false]);
  t.match(web.packet, { id: 7, flag_aa: true });
  t.match(web.packet.answers?.[0], { ttl: 5, name: 'web.demo.svc.cluster.local' });
  t.same(ask(book, 'web.demo.svc.cluster.local', 'AAAA').data, ['fd00:96::10']);
  t.same(ask(book, 'WEB.Demo.svc.CLUSTER.local.', 'A').data, ['10.96.0.10'], 'case means nothing');
  t.same(ask(book, 'web.demo.svc.cluster.local', 'ANY').data.length, 2);
  t.same(ask(book, '_http._tcp.web.demo.svc.cluster.local', 'SRV').data, [
    { priority: 0, weight: 100, port: 80, target: 'web.demo.svc.cluster.local' },
  ]);
  t.end();
});

test('headless services are answered by their backends', (t) => {
  const book = filledBook();
  t.same(ask(book, 'db.demo.svc.cluster.local').data, ['10.1.0.5']);
  t.same(ask(book, 'db.demo.svc.cluster.local', 'AAAA').data, ['fd00:1::5']);
  const [v4, v6] = ask(book, '_http._tcp.db.demo.svc.cluster.local', 'SRV').data;
  t.match(v4, { port: 8080, target: '10-1-0-5.db.demo.svc.cluster.local' });
  t.match(v6, { port: 8080, target: 'fd00-1--5.db.demo.svc.cluster.local' });
  t.same(ask(book, '10-1-0-5.db.demo.svc.cluster.local').data, ['10.1.0.5']);
  t.same(ask(book, 'fd00-1--5.db.demo.svc.cluster.local', 'AAAA').data, ['fd00:1::5']);
  t.equal(ask(book, '10-1-0-6.db.demo.svc.cluster.local').rcode, 'NXDOMAIN');
  t.end();
});

test('services of the set of clusters are those imported, and global ones', (t) => {
  const book = filledBook();
  t.same(ask(book, 'imported.demo.svc.clusterset.local').data, ['10.96.0.77']);
  t.same(ask(book, 'shop.demo.svc.clusterset.local').data, ['10.96.0.10']);
  t.equal(
    ask(book, 'web.demo.svc.clusterset.local').rcode,
    'NXDOMAIN',
    'it is of one cluster alone',
  );
  t.same(ask(book, 'store.demo.svc.clusterset.local').data, ['10.1.0.9', '10.2.0.9']);
  const targets = ask(book, '_http._tcp.store.demo.svc.clusterset.local', 'SRV').data;
  t.match(targets[1], { target: '10-2-0-9.beta.store.demo.svc.clusterset.local' });
  t.same(ask(book, '10-2-0-9.beta.store.demo.svc.clusterset.local').data, ['10.2.0.9']);
  t.equal(ask(book, '10-2-0-9.alpha.store.demo.svc.clusterset.local').rcode, 'NXDOMAIN');
  // A cluster that leaves, or shares no more, takes its backends along.
  const unshared = remoteService('derived-headless01', ['10.2.0.9'], false);
  book.apply(
    BETA,
    { kind: 'service', name: 'demo/derived-headless01', value: unshared },
    undefined,
  );
  t.same(ask(book, 'store.demo.svc.clusterset.local').data, ['10.1.0.9']);
  book.apply(
    ALPHA,
    { kind: 'local-service', name: 'demo/derived-0123456789', value: undefined },
    undefined,
  );
  t.equal(ask(book, 'imported.demo.svc.clusterset.local').rcode, 'NXDOMAIN');
  t.end();
});

test('what is not there, what has no such record and what is not ours are three answers', (t) => {
  const book = filledBook();
  const cases: readonly [string, RecordType, string, boolean][] = [
    ['nobody.demo.svc.cluster.local', 'A', 'NXDOMAIN', true],
    ['web.nowhere.svc.cluster.local', 'A', 'NXDOMAIN', true],
    ['_http._udp.web.demo.svc.cluster.local', 'SRV', 'NXDOMAIN', true],
    ['x.y.web.demo.svc.cluster.local', 'A', 'NXDOMAIN', true],
    ['web.demo.pod.cluster.local', 'A', 'NXDOMAIN', true],
    ['web.demo.svc.cluster.local', 'MX', 'NOERROR', true],
    ['_http._tcp.web.demo.svc.cluster.local', 'A', 'NOERROR', true],
    ['demo.svc.cluster.local', 'A', 'NOERROR', true],
    ['svc.cluster.local', 'A', 'NOERROR', true],
    ['cluster.local', 'A', 'NOERROR', true],
    ['example.org', 'A', 'REFUSED', false],
    ['mycluster.local', 'A', 'REFUSED', false],
    ['local', 'A', 'REFUSED', false],
    ['elsewhere.demo.svc.cluster.local', 'A', 'SERVFAIL', false],
  ];
  for (const [name, type, rcode, hasSoa] of cases) {
    const reply = ask(book, name, type);
    t.same([reply.rcode, reply.data, reply.hasSoa], [rcode, [], hasSoa], `${name} ${type}`);
  }
  t.match(ask(book, 'cluster.local', 'SOA').data, [{ minimum: 5 }]);
  t.end();
});

test('before the own cluster was read nothing is said not to exist', (t) => {
  const book = createNameBook();
  t.equal(ask(book, 'web.demo.svc.cluster.local').rcode, 'SERVFAIL');
  t.equal(ask(book, 'example.org').rcode, 'REFUSED');
  book.synced(BETA, 'services');
  t.equal(ask(book, 'web.demo.svc.cluster.local').rcode, 'SERVFAIL');
  book.synced(ALPHA, 'local-services');
  t.equal(ask(book, 'web.demo.svc.cluster.local').rcode, 'NXDOMAIN');
  t.end();
});

test('an answer that is too long for UDP says so, and has an end by TCP', (t) => {
  const book = filledBook();
  const addresses = Array.from({ length: 3000 }, (_, index) => `10.9.${index >> 8}.${index & 255}`);
  const value = localService('many', {
    headless: true,
    clusterIps: [],
    backends: backends(...addresses),
  });
  book.apply(ALPHA, { kind: 'local-service', name: 'demo/many', value }, undefined);
  const name = 'many.demo.svc.cluster.local';
  const short = ask(book, name);
  t.match([short.packet.flag_tc, short.data], [true, []]);
  const long = ask(book, name, 'A', { transport: 'tcp' });
  t.match([long.packet.flag_tc, long.data.length], [false, 200]);
  const opt: Answer = {
    type: 'OPT',
    name: '.',
    udpPayloadSize: 65_535,
    extendedRcode: 0,
    ednsVersion: 0,
    flags: 0,
    flag_do: false,
    options: [],
  };
  const message = encode({
    type: 'query',
    id: 1,
    questions: [{ name, type: 'A' }],
    additionals: [opt],
  });
  const bytes = answerMessage(message, { names: book, domains: DOMAINS, transport: 'udp' });
  t.ok(bytes !== undefined && bytes.length <= 1232);
  t.equal(ask(book, name, 'A', { additionals: [opt] }).packet.additionals?.[0]?.type, 'OPT');
  t.end();
});

test('messages that are no questions', (t) => {
  const options = { names: filledBook(), domains: DOMAINS, transport: 'udp' } as const;
  const question = { name: 'web.demo.svc.cluster.local', type: 'A' } as const;
  const rcodeOf = (message: Buffer): number | undefined => {
    const bytes = answerMessage(message, options);
    return bytes === undefined ? undefined : (bytes[3] ?? 0) & 0xf;
  };
  t.equal(rcodeOf(Buffer.alloc(0)), undefined);
  t.equal(rcodeOf(Buffer.alloc(11)), undefined);
  t.equal(
    rcodeOf(encode({ type: 'response', id: 1, questions: [question] })),
    undefined,
    'no loops',
  );
  t.equal(rcodeOf(encode({ type: 'query', id: 1, flags: 2 << 11, questions: [question] })), 4);
  t.equal(rcodeOf(encode({ type: 'query', id: 1, questions: [] })), 1);
  t.equal(rcodeOf(encode({ type: 'query', id: 1, questions: [question, question] })), 1);
  t.equal(rcodeOf(encode({ type: 'query', id: 1, questions: [{ ...question, class: 'CH' }] })), 5);
  const whole = encode({ type: 'query', id: 1, questions: [question] });
  for (let length = 12; length < whole.length; length += 1)
    t.equal(rcodeOf(whole.subarray(0, length)), 1);
  t.end();
});

test('whatever bytes come, the answer is one or none', (t) => {
  const rounds = process.env.ISTHMUS_LONG === 'true' ? 500_000 : 5000;
  const seed = Number(process.env.ISTHMUS_SEED ?? Date.now() % 1_000_000);
  t.comment(`seed ${seed}`);
  const random = createRandom(seed);
  const seeds = seedMessages();
  const options = { names: filledBook(), domains: DOMAINS } as const;
  let answered = 0;
  for (let round = 0; round < rounds; round += 1) {
    const message = mutate(random.pick(seeds), seeds, random);
    const transport = random.below(2) === 0 ? 'udp' : 'tcp';
    checkAnswer(t, message, answerMessage(message, { ...options, transport }), transport);
    if (message.length >= 12 && ((message[2] ?? 0) & 0x80) === 0) answered += 1;
  }
  t.ok(answered > rounds / 10, `${answered} of ${rounds} were answered`);
  t.end();
});

function seedMessages(): Buffer[] {
  const names = [
    'web.demo.svc.cluster.local',
    '_http._tcp.db.demo.svc.cluster.local',
    'store.demo.svc.clusterset.local',
    'example.org',
  ];
  const types = ['A', 'AAAA', 'SRV', 'ANY', 'TXT'] as RecordType[];
  return names.flatMap((name) =>
    types.map((type) => encode({ type: 'query', id: 1, questions: [{ name, type }] })),
  );
}

/** What is the same of every answer: whose question it is, that it is one, and that it is no longer than it may be. */
function checkAnswer(
  t: Test,
  message: Buffer,
  bytes: Buffer | undefined,
  transport: 'udp' | 'tcp',
): void {
  const isQuestion = message.length >= 12 && ((message[2] ?? 0) & 0x80) === 0;
  const isRight =
    bytes === undefined
      ? !isQuestion
      : isQuestion &&
        bytes.readUInt16BE(0) === message.readUInt16BE(0) &&
        ((bytes[2] ?? 0) & 0x80) !== 0 &&
        bytes.length <= (transport === 'udp' ? 1232 : 65_535);
  if (!isRight) t.fail(`answer to ${message.toString('hex')}: ${bytes?.toString('hex')}`);
}
