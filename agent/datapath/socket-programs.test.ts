import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { mkdirSync } from 'node:fs';
import { type AddressInfo, createServer } from 'node:net';
import { join } from 'node:path';
import { test } from 'tap';
import { type IpAddress, parseIpAddress } from '../../mesh/wire/ip.ts';
import { readCounters } from './counters.ts';
import type { Backend, FrontendEntry } from './desired.ts';
import { attachSockets } from './hooks.ts';
import { loadObjects } from './object.ts';
import { openServicesTable } from './ops/services.ts';
import { kernelSkipReason, OBJECT_DIR, openTestBpffs } from './testing/bpffs.ts';
import { openSocketClient, openTestCgroup } from './testing/cgroup.ts';

const skip = kernelSkipReason();
const FRONTEND4 = parseIpAddress('172.31.255.1');
const FRONTEND6 = parseIpAddress('fd00:ffff::1');
const EMPTY4 = parseIpAddress('172.31.255.2');
const EMPTY6 = parseIpAddress('fd00:ffff::2');
const LOOPBACK4 = parseIpAddress('127.0.0.1');
const LOOPBACK6 = parseIpAddress('::1');

/** A server that says its name. */
interface NamedServer extends AsyncDisposable {
  readonly backend: Backend;
}

async function listenTcp(address: IpAddress, name: string): Promise<NamedServer> {
  const server = createServer((socket) => {
    socket.on('error', () => undefined);
    socket.end(name);
  });
  server.listen(0, address);
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  return {
    backend: { address, port, protocol: 'TCP', clusterId: 1 },
    async [Symbol.asyncDispose]() {
      server.close();
      await once(server, 'close');
    },
  };
}

async function listenUdp(address: IpAddress, name: string): Promise<NamedServer> {
  const socket = createSocket(address.includes(':') ? 'udp6' : 'udp4');
  socket.on('message', (_, from) => socket.send(name, from.port, from.address));
  socket.bind(0, address);
  await once(socket, 'listening');
  const { port } = socket.address();
  return {
    backend: { address, port, protocol: 'UDP', clusterId: 1 },
    async [Symbol.asyncDispose]() {
      socket.close();
      await once(socket, 'close');
    },
  };
}

function frontend(
  address: IpAddress,
  protocol: 'TCP' | 'UDP',
  backends: readonly Backend[],
): FrontendEntry {
  return {
    address,
    port: 80,
    protocol,
    scope: 'internal',
    isExternal: false,
    backends,
    draining: [],
    affinitySeconds: 0,
    algorithm: 'random',
    service: 'test/service',
  };
}

async function openSocketRun() {
  const bpffs = await openTestBpffs('sockets');
  const cgroup = openTestCgroup();
  const objects = loadObjects([join(OBJECT_DIR, 'mesh_socket.bpf.o')], {
    pinFolder: join(bpffs.path, 'maps'),
    mapSizes: { mesh_translations: 1024, mesh_choices: 1024 },
  });
  const links = join(bpffs.path, 'links');
  mkdirSync(links);
  attachSockets(objects, cgroup.path, links);
  const client = openSocketClient(cgroup);
  return {
    client,
    objects,
    services: openServicesTable(objects.maps),
    async [Symbol.asyncDispose]() {
      await client[Symbol.asyncDispose]();
      objects[Symbol.dispose]();
      await bpffs[Symbol.asyncDispose]();
      await cgroup[Symbol.asyncDispose]();
    },
  };
}

test('connect4 and connect6: TCP', { skip }, async (t) => {
  await using run = await openSocketRun();
  await using four = await listenTcp(LOOPBACK4, 'four');
  await using six = await listenTcp(LOOPBACK6, 'six');
  run.services.apply({
    upserts: [
      frontend(FRONTEND4, 'TCP', [four.backend]),
      frontend(FRONTEND6, 'TCP', [six.backend]),
      frontend(EMPTY4, 'TCP', []),
      frontend(EMPTY6, 'TCP', []),
    ],
    deletes: [],
  });
  const call = (address: string, port = 80) => run.client.call({ kind: 'tcp', address, port });

  t.same(
    await call(FRONTEND4),
    { address: FRONTEND4, port: 80, said: 'four' },
    'IPv4, peer name too',
  );
  t.same(await call(FRONTEND6), { address: FRONTEND6, port: 80, said: 'six' }, 'IPv6');
  t.same(
    await call(`::ffff:${FRONTEND4}`),
    { address: `::ffff:${FRONTEND4}`, port: 80, said: 'four' },
    'IPv4 through an IPv6 socket',
  );
  t.same(
    await call(LOOPBACK4, four.backend.port),
    { address: LOOPBACK4, port: four.backend.port, said: 'four' },
    'an address that is no service',
  );
  t.same(await call(EMPTY4), { error: 'ECONNREFUSED' }, 'no backends, IPv4');
  t.same(await call(EMPTY6), { error: 'ECONNREFUSED' }, 'no backends, IPv6');

  const counters = readCounters(run.objects.maps.get('mesh_metrics'));
  const packets = (reason: string) =>
    counters.find((counter) => counter.reason === reason)?.packets;
  t.equal(packets('service-translated'), 3n);
  t.equal(packets('service-no-backend'), 2n);
});

test('connect4: backends are chosen, added and removed', { skip }, async (t) => {
  await using run = await openSocketRun();
  await using a = await listenTcp(LOOPBACK4, 'a');
  await using b = await listenTcp(LOOPBACK4, 'b');
  const seen = async (): Promise<string[]> => {
    const names = new Set<string>();
    for (let call = 0; call < 40; call += 1) {
      const answer = await run.client.call({ kind: 'tcp', address: FRONTEND4, port: 80 });
      names.add('said' in answer ? answer.said : answer.error);
    }
    return [...names].sort();
  };
  const give = (backends: Backend[]): void =>
    run.services.apply({ upserts: [frontend(FRONTEND4, 'TCP', backends)], deletes: [] });

  give([a.backend, b.backend]);
  t.same(await seen(), ['a', 'b'], 'both answer (one alone would in 1 of 5e11 runs)');
  give([b.backend]);
  t.same(await seen(), ['b']);
  give([]);
  t.same(await seen(), ['ECONNREFUSED']);
  give([a.backend]);
  t.same(await seen(), ['a']);
});

test('sendmsg and recvmsg: UDP without connect', { skip }, async (t) => {
  await using run = await openSocketRun();
  await using four = await listenUdp(LOOPBACK4, 'four');
  await using six = await listenUdp(LOOPBACK6, 'six');
  run.services.apply({
    upserts: [
      frontend(FRONTEND4, 'UDP', [four.backend]),
      frontend(FRONTEND6, 'UDP', [six.backend]),
      frontend(EMPTY4, 'UDP', []),
    ],
    deletes: [],
  });
  const call = (type: 'udp4' | 'udp6', address: string) =>
    run.client.call({ kind: 'udp', socket: type, type, address, port: 80 });

  t.same(
    await call('udp4', FRONTEND4),
    { address: FRONTEND4, port: 80, said: 'four' },
    'the answer seems to come from the frontend',
  );
  t.same(await call('udp6', FRONTEND6), { address: FRONTEND6, port: 80, said: 'six' });
  t.same(
    await call('udp6', `::ffff:${FRONTEND4}`),
    { address: `::ffff:${FRONTEND4}`, port: 80, said: 'four' },
    'IPv4 through an IPv6 socket',
  );
  t.same(await call('udp4', EMPTY4), { error: 'ECONNREFUSED' }, 'no backends');
  t.same(
    await run.client.call({
      kind: 'udp',
      socket: 'connected',
      type: 'udp4',
      connected: true,
      address: FRONTEND4,
      port: 80,
    }),
    { address: FRONTEND4, port: 80, said: 'four' },
    'a connected UDP socket',
  );
});

test('sendmsg: one socket keeps its backend while the frontend has it', { skip }, async (t) => {
  await using run = await openSocketRun();
  await using a = await listenUdp(LOOPBACK4, 'a');
  await using b = await listenUdp(LOOPBACK4, 'b');
  await using c = await listenUdp(LOOPBACK4, 'c');
  await using successor = await listenUdp(LOOPBACK4, 'd');
  const byName = new Map([a, b, c].map(({ backend }, index) => ['abc'[index] ?? '', backend]));
  const all = [...byName.values()];
  // Another frontend keeps them all, so that a backend which this one loses still exists.
  run.services.apply({
    upserts: [frontend(FRONTEND4, 'UDP', all), frontend(EMPTY4, 'UDP', all)],
    deletes: [],
  });
  const call = async (socket: string): Promise<string> => {
    const request = { kind: 'udp', socket, type: 'udp4', address: FRONTEND4, port: 80 } as const;
    const answer = await run.client.call(request);
    return 'said' in answer ? answer.said : answer.error;
  };
  const first = await call('s');
  for (let again = 0; again < 20; again += 1) t.equal(await call('s'), first);

  // The successor gets the slot of the one that goes.
  byName.delete(first);
  byName.set('d', successor.backend);
  run.services.apply({
    upserts: [frontend(FRONTEND4, 'UDP', [...byName.values()])],
    deletes: [],
  });
  const second = await call('s');
  t.ok(byName.has(second), 'its backend is gone: another one');
  for (let again = 0; again < 20; again += 1) t.equal(await call('s'), second);
});
