import { createSocket } from 'node:dgram';
import { Resolver as Client } from 'node:dns/promises';
import { connect } from 'node:net';
import { decode, encode } from 'dns-packet';
import { test } from 'tap';
import { systemClock } from '../../mesh/runtime/clock.ts';
import { createLogger } from '../../mesh/runtime/log.ts';
import { parseClusterId, parseClusterName } from '../../mesh/wire/ids.ts';
import { parseIpAddress } from '../../mesh/wire/ip.ts';
import { type LocalService, PLAIN_TRAFFIC } from '../../mesh/wire/local-service.ts';
import { createNameBook, withNameBook } from './name-book.ts';
import { createNameService } from './name-service.ts';
import { listenResolver } from './resolver.ts';

const OWN = { name: parseClusterName('alpha'), id: parseClusterId(1, 255), own: true };
const domains = { cluster: 'cluster.local', set: 'clusterset.local' };
const address = { host: '127.0.0.1', port: 0 };

function bookWith(count: number) {
  const names = createNameBook();
  const ports = new Map([['', { protocol: 'TCP', port: 80 } as const]]);
  const service: LocalService = {
    ...PLAIN_TRAFFIC,
    namespace: 'demo',
    name: 'many',
    clusterIps: [],
    ports: [{ name: '', protocol: 'TCP', port: 80 }],
    headless: true,
    global: false,
    shared: false,
    affinity: 'none',
    backends: new Map(
      Array.from({ length: count }, (_, index) => [parseIpAddress(`10.1.0.${index}`), ports]),
    ),
  };
  const passed: string[] = [];
  const sink = withNameBook(
    {
      apply: (_, change) => passed.push(change.kind),
      synced: (_, kind) => passed.push(kind),
      removed: () => passed.push('removed'),
    },
    names,
  );
  sink.apply(OWN, { kind: 'local-service', name: 'demo/many', value: service }, undefined);
  sink.synced(OWN, 'local-services');
  return { names, passed };
}

test('an ordinary resolver is answered, by TCP where UDP is too small', async (t) => {
  const { names, passed } = bookWith(100);
  t.same(passed, ['local-service', 'local-services'], 'all is passed on');
  await using resolver = await listenResolver({ address, names, domains });
  const client = new Client({ timeout: 10_000, tries: 2 });
  client.setServers([`127.0.0.1:${resolver.address.port}`]);
  const found = await client.resolve4('many.demo.svc.cluster.local');
  t.equal(found.length, 100);
  await t.rejects(client.resolve4('nobody.demo.svc.cluster.local'), { code: 'ENOTFOUND' });
  await t.rejects(client.resolve6('many.demo.svc.cluster.local'), { code: 'ENODATA' });
  await t.rejects(client.resolve4('example.org'), { code: 'EREFUSED' });
  t.ok(resolver.statistics.answered >= 4);
});

test('one who sends nonsense, or nothing, holds nobody up', async (t) => {
  const { names } = bookWith(2);
  await using resolver = await listenResolver({ address, names, domains });
  const { port } = resolver.address;
  const question = encode({
    type: 'query',
    id: 3,
    questions: [{ name: 'many.demo.svc.cluster.local', type: 'A' }],
  });
  const ended = (bytes: Buffer): Promise<void> =>
    new Promise((resolve, reject) => {
      const socket = connect(port, '127.0.0.1', () => socket.write(bytes));
      socket.resume();
      socket.once('close', () => resolve());
      socket.once('error', reject);
    });
  await ended(Buffer.from([0xff, 0xff, 1]));
  await ended(Buffer.from([0, 3, 1, 2, 3]));
  const silent = connect(port, '127.0.0.1');
  t.teardown(() => silent.destroy());
  // In two parts, two questions at once.
  const framed = Buffer.concat([Buffer.from([0, question.length]), question]);
  const both = Buffer.concat([framed, framed]);
  const answers = await new Promise<Buffer>((resolve, reject) => {
    const socket = connect(port, '127.0.0.1', () => {
      socket.write(both.subarray(0, 1));
      setImmediate(() => socket.write(both.subarray(1)));
    });
    let got: Buffer = Buffer.alloc(0);
    socket.on('data', (data) => {
      got = Buffer.concat([got, data]);
      const first = got.length < 2 ? 0 : got.readUInt16BE(0) + 2;
      if (first > 0 && got.length >= 2 * first) {
        socket.destroy();
        resolve(got);
      }
    });
    socket.once('error', reject);
  });
  t.equal(decode(answers.subarray(2, 2 + answers.readUInt16BE(0))).answers?.length, 2);
  t.equal(resolver.statistics.ignored, 1);
});

test('a port that is taken is waited for', async (t) => {
  const { names } = bookWith(1);
  const holder = createSocket('udp4');
  await new Promise<void>((resolve) => holder.bind(0, '127.0.0.1', () => resolve()));
  const { port } = holder.address();
  const service = createNameService({
    address: { host: '127.0.0.1', port },
    domains,
    names,
    clock: systemClock,
    logger: createLogger('test', { level: 'silent' }),
  });
  const ending = new AbortController();
  const running = service.run(ending.signal);
  t.teardown(async () => {
    ending.abort();
    await running;
  });
  while (service.problems().length === 0) await systemClock.sleep(10);
  t.match(service.problems(), [
    /cannot answer names on 127\.0\.0\.1 port \d+: .*EADDRINUSE.*--dns-address/,
  ]);
  await new Promise<void>((resolve) => holder.close(() => resolve()));
  while (service.problems().length > 0) await systemClock.sleep(10);
  const client = new Client();
  client.setServers([`127.0.0.1:${port}`]);
  t.same(await client.resolve4('many.demo.svc.cluster.local'), ['10.1.0.0']);
});
