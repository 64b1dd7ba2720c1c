import { execFileSync } from 'node:child_process';
import { closeSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { type Test, test } from 'tap';
import { parseIpAddress } from '../../mesh/wire/ip.ts';
import { CHOICE } from '../../mesh/wire/maps.ts';
import {
  lookupElement,
  mapInfo,
  mapsOfProgram,
  openPinned,
  pinnedProgramId,
  updateElement,
} from './bpf.ts';
import { kernelSkipReason } from './testing/bpffs.ts';
import { openSocketClient } from './testing/cgroup.ts';
import type { DatapathAnswer, DatapathProcessOptions } from './testing/datapath-process.ts';
import { type EchoConnection, openEchoConnection } from './testing/echo.ts';
import { openFirstLayoutMaps, socketKey } from './testing/first-layout.ts';
import {
  HOST_INTERFACE,
  openDatapathProcess,
  openTestNodes,
  type TestNode,
} from './testing/nodes.ts';
import { testPrefix } from './testing/program-run.ts';

const skip = kernelSkipReason();
const WORLD = 2;
const TCP = 6;
const UDP = 17;
/** Steps of an upgrade, in order; behind `retired` the next start has nothing left to replace. */
const ALL_STEPS = [
  'made',
  'filled',
  'ready',
  'overlay',
  'sockets',
  'endpoints',
  'replaced',
  'merged',
  'retired',
] as const;
const STEPS =
  process.env.ISTHMUS_LONG === 'true'
    ? ALL_STEPS
    : (['filled', 'ready', 'sockets', 'replaced', 'retired'] as const);

/** The overlay, two of the endpoint, eight of sockets. */
const HOOKS_OF_FIRST_LAYOUT = 11;

type OpenAnswer = Exclude<DatapathAnswer, { error: string }>;

function opened(answer: DatapathAnswer): OpenAnswer {
  if ('error' in answer) throw new Error(answer.error);
  return answer;
}

/** Starts an agent's process that kills itself at a step; true: it did. */
async function dieAt(
  node: TestNode,
  killAt: string,
  options: Partial<DatapathProcessOptions> = {},
): Promise<boolean> {
  const agent = await openDatapathProcess(node, { ...options, killAt }).catch(() => undefined);
  await agent?.[Symbol.asyncDispose]();
  if (agent !== undefined) opened(agent.opened);
  return agent === undefined;
}

/** A node of the first layout whose pod is connected to the other node, with a service and what its sockets chose. */
async function openOldNode(node: TestNode, other: TestNode) {
  await using old = await openDatapathProcess(node, { firstLayout: true });
  opened(old.opened);
  openRoutes(node, other);
  const maps = openFirstLayoutMaps(node.options.bpfRoot);
  maps.endpoint([parseIpAddress(node.podIp), parseIpAddress(node.podIp6)], {
    ...node.endpoint(),
    identity: node.identity,
  });
  maps.prefix(`192.0.2.${other.number}`, 32, WORLD);
  maps.prefix(`fd00::${other.number}`, 128, WORLD);
  const connections = [
    await openEchoConnection(
      { namespace: node.podNamespace, address: node.podIp },
      { namespace: other.namespace, address: `192.0.2.${other.number}` },
    ),
    await openEchoConnection(
      { namespace: node.podNamespace, address: node.podIp6 },
      { namespace: other.namespace, address: `fd00::${other.number}` },
    ),
  ];
  for (const { client, server } of connections) maps.flow(client, server);
  const [{ server }] = connections as [EchoConnection, EchoConnection];
  maps.service({ address: '10.96.0.1', port: 80, protocol: TCP }, [{ id: 7, ...server }]);
  maps.service({ address: '10.96.0.2', port: 53, protocol: UDP }, [
    { id: 8, address: '10.2.0.8', port: 53 },
    { id: 9, address: '10.2.0.9', port: 53 },
  ]);
  maps.choice(SOCKET, { slot: 2, backendId: 9 });
  maps.counter(DENIED_1, { packets: 5n, bytes: 500n });
  return { connections, server };
}

/** Number of policy-denied in the first layout. */
const DENIED_1 = 16;
const SOCKET = { cookie: 4711n, address: '10.96.0.2', port: 53 };

/** Every attached program uses the maps of one folder, which are all there. */
function checkWhole(t: Test, bpfRoot: string, when: string): void {
  const root = join(bpfRoot, 'isthmus');
  const folders = readdirSync(root)
    .filter((name) => name.startsWith('maps'))
    .map(
      (name) => new Set(readdirSync(join(root, name)).map((map) => idOf(join(root, name, map)))),
    );
  const links = readdirSync(join(root, 'links'));
  t.ok(links.length >= HOOKS_OF_FIRST_LAYOUT, `${when}: every hook has its link`);
  for (const link of links) {
    const used = mapsAt(join(root, 'links', link));
    t.ok(
      folders.some((ids) => used.every((id) => ids.has(id))),
      `${when}: ${link} uses the maps of one folder`,
    );
  }
}

function withPin<Value>(path: string, read: (fd: number) => Value): Value {
  const fd = openPinned(path);
  if (fd === undefined) throw new Error(`nothing is pinned at ${path}`);
  try {
    return read(fd);
  } finally {
    closeSync(fd);
  }
}

const idOf = (path: string): number => withPin(path, (fd) => mapInfo(fd).id);
/** Maps that a link's program shares with others; its own data sections are not pinned. */
const mapsAt = (path: string): number[] =>
  withPin(path, (fd) => mapsOfProgram(pinnedProgramId(fd))).filter((id) => !dataSections.has(id));
const dataSections = new Set<number>();

/** Ids of the maps of constants, which belong to one program and are in no folder. */
function noteDataSections(): void {
  const text = execFileSync('bpftool', ['-j', 'map', 'show'], {
    encoding: 'utf8',
    maxBuffer: 1 << 26,
  });
  const shown: { id: number; name?: string }[] = JSON.parse(text);
  for (const { id, name } of shown) if (name?.includes('.rodata')) dataSections.add(id);
}

test('promise 5: an upgrade that dies at every step harms nothing, and is finished', {
  skip,
}, async (t) => {
  await using lab = await openTestNodes();
  const [node, other] = lab.nodes;
  const { connections, server } = await openOldNode(node, other);
  await using _first = connections[0];
  await using _second = connections[1];
  await using client = openSocketClient(node.cgroup, { namespace: node.namespace });
  await using servers = openSocketClient(undefined, { namespace: other.namespace });
  const greeter = await servers.call({
    kind: 'listen',
    protocol: 'TCP',
    address: server.address,
    text: 'hello',
    name: 'greeter',
  });
  if ('error' in greeter || greeter.port === undefined) throw new Error('the server has no port');

  const check = async (when: string): Promise<void> => {
    noteDataSections();
    checkWhole(t, node.options.bpfRoot, when);
    for (const connection of connections) {
      t.ok(await connection.isAlive(), `${when}: ${connection.server.address} still answers`);
    }
    const answer = await client.call({ kind: 'tcp', address: '10.96.0.9', port: 80 });
    t.match(answer, { said: 'hello' }, `${when}: the service has its backend`);
  };
  openFirstLayoutMaps(node.options.bpfRoot).service(
    { address: '10.96.0.9', port: 80, protocol: TCP },
    [{ id: 20, address: server.address, port: greeter.port }],
  );
  await check('before');
  for (const step of STEPS) {
    t.ok(await dieAt(node, step), `dies at ${step}`);
    await check(`dead at ${step}`);
  }

  await using agent = await openDatapathProcess(node);
  const answer = opened(agent.opened);
  await check('finished');
  t.same(answer.pending, []);
  t.same(answer.lost, []);
  t.same(
    readdirSync(join(node.options.bpfRoot, 'isthmus')).sort(),
    ['links', 'maps'],
    'nothing is left beside the maps',
  );
  t.same(answer.ipcache.map(({ prefix, identity }) => [prefix, identity]).sort(), [
    ['192.0.2.2/32', WORLD],
    ['fd00::2/128', WORLD],
  ]);
  t.match(answer.endpoints, [{ endpointId: 7, hostInterface: 'pod.0', ingressEnforced: true }]);
  const dns = answer.services.find(({ address }) => address === '10.96.0.2');
  t.same(
    dns?.backends.map(({ address, port, clusterId }) => [address, port, clusterId]),
    [
      ['10.2.0.8', 53, 2],
      ['10.2.0.9', 53, 2],
    ],
  );
  t.match(dns, { protocol: 'UDP', scope: 'internal', algorithm: 'random', affinitySeconds: 0 });
  t.equal(answer.counters['policy-denied ingress'], 5, 'counters go on, under new numbers');
  const choice = Buffer.alloc(CHOICE.size);
  withPin(join(node.options.bpfRoot, 'isthmus/maps/mesh_choices'), (fd) =>
    lookupElement(fd, socketKey(SOCKET), choice),
  );
  t.not(choice.readUInt32LE(CHOICE.fields.serviceId), 0, 'a socket keeps its service');
  t.equal(choice.readUInt32LE(CHOICE.fields.backendId), 9, 'and its backend');
});

test('maps of another size are copied, and one that is too small is refused', {
  skip,
}, async (t) => {
  await using lab = await openTestNodes();
  const [node, other] = lab.nodes;
  const entries = [1, 2, 3, 4, 5].map((number) =>
    testPrefix(`10.9.${number}.0/24`, 0x20000 + number),
  );
  const first = await openDatapathProcess(node, { mapSizes: { mesh_ipcache4: 1000 } });
  await first.request({ ipcache: entries, endpoints: [node.endpoint()], attach: [HOST_INTERFACE] });
  await using connection = await openConnection(node, other);
  await first.kill();

  const map = join(node.options.bpfRoot, 'isthmus/maps/mesh_ipcache4');
  const before = idOf(map);
  const small = await openDatapathProcess(node, { mapSizes: { mesh_ipcache4: 4 } });
  t.match(small.opened, {
    code: 'bad-option',
    error:
      /cannot make map mesh_ipcache4 smaller, to 4 entries: it holds 5; give it at least as many/,
  });
  await small[Symbol.asyncDispose]();
  t.equal(idOf(map), before, 'what is there stays');
  t.ok(await connection.isAlive(), 'and works');

  await using second = await openDatapathProcess(node, {
    mapSizes: { mesh_ipcache4: 5, mesh_ct: 8192 },
  });
  t.same(
    opened(second.opened)
      .ipcache.map(({ prefix }) => prefix)
      .sort(),
    entries.map(({ prefix }) => prefix),
  );
  t.equal(withPin(map, mapInfo).maxEntries, 5);
  t.equal(withPin(join(map, '../mesh_ct'), mapInfo).maxEntries, 8192);
  t.ok(await connection.isAlive(), 'connections go on: what was tracked is still known');
  t.same(opened(await second.request({ look: [HOST_INTERFACE] })).detached, []);
});

test('promise 5: what this build cannot read is written anew before its programs run', {
  skip,
}, async (t) => {
  await using lab = await openTestNodes();
  const [node, other] = lab.nodes;
  const known = testPrefix('192.0.2.2/32', WORLD);
  const first = await openDatapathProcess(node);
  await first.request({ endpoints: [node.endpoint()], attach: [HOST_INTERFACE], ipcache: [known] });
  await using connection = await openConnection(node, other);
  await first.kill();
  // As a later release would have left it.
  setSchema(join(node.options.bpfRoot, 'isthmus/maps/mesh_schemas'), 'mesh_ipcache4', 99);
  const programs = (): number[] => linkPrograms(node.options.bpfRoot);
  const before = programs();

  const died = await openDatapathProcess(node);
  t.same(opened(died.opened).pending, ['mesh_ipcache4']);
  await died.request({ attach: [HOST_INTERFACE] });
  await died.kill();
  t.same(programs(), before, 'the old programs go on, also when the agent dies while it waits');

  await using second = await openDatapathProcess(node);
  const answer = opened(second.opened);
  t.same(answer.pending, ['mesh_ipcache4']);
  t.same(answer.ipcache, [], 'nothing is guessed');
  t.same(answer.endpoints.length, 1, 'the others are carried over');
  t.same(answer.detached, []);
  t.ok(await connection.isAlive(), 'connections go on');
  await second.request({ ipcache: [known] });
  t.same(programs(), before);
  const done = opened(await second.request({ finishUpgrade: true }));
  t.same(done.pending, []);
  t.notSame(programs(), before, 'then the new ones take over');
  t.same(done.ipcache.length, 1);
  t.ok(await connection.isAlive());
  t.same(readdirSync(join(node.options.bpfRoot, 'isthmus')).sort(), ['links', 'maps']);
});

/** The node forwards, and the other one knows the way back to its pod without a tunnel. */
function openRoutes(node: TestNode, other: TestNode): void {
  const forwarding = ['net.ipv4.ip_forward=1', 'net.ipv6.conf.all.forwarding=1'];
  execFileSync('ip', ['netns', 'exec', node.namespace, 'sysctl', '-qw', ...forwarding]);
  const back = ['-n', other.namespace, 'route', 'add'];
  execFileSync('ip', [...back, `${node.podIp}/32`, 'via', `192.0.2.${node.number}`]);
  execFileSync('ip', [...back, `${node.podIp6}/128`, 'via', `fd00::${node.number}`]);
}

/** The pod of a node, connected to the other node by that node's own address. */
async function openConnection(node: TestNode, other: TestNode): Promise<EchoConnection> {
  openRoutes(node, other);
  return openEchoConnection(
    { namespace: node.podNamespace, address: node.podIp },
    { namespace: other.namespace, address: `192.0.2.${other.number}` },
  );
}

function linkPrograms(bpfRoot: string): number[] {
  const links = join(bpfRoot, 'isthmus/links');
  return readdirSync(links).map((name) => withPin(join(links, name), pinnedProgramId));
}

function setSchema(path: string, name: string, schema: number): void {
  const key = Buffer.alloc(32);
  key.write(name);
  const value = Buffer.alloc(4);
  value.writeUInt32LE(schema);
  withPin(path, (fd) => updateElement(fd, key, value));
}
