import { test } from 'tap';
import { AFFINITY_KEY, AFFINITY_VALUE, MAGLEV_BLOCK_ENTRIES } from '../../mesh/wire/maps.ts';
import { updateBatch } from './batch.ts';
import type { Backend } from './desired.ts';
import { readMap } from './map.ts';
import { openServiceMaps } from './ops/services.ts';
import { readTranslations, type TranslatedSocket } from './ops/translations.ts';
import { kernelSkipReason } from './testing/bpffs.ts';
import type { SocketClient } from './testing/cgroup.ts';
import {
  mapped,
  openSocketRig,
  RIG_FRONTENDS,
  type RigFamily,
  type SocketRig,
  said,
} from './testing/socket-rig.ts';

const skip = kernelSkipReason();
const FAMILIES = ['four', 'six'] as const;
/** One way to call each frontend: IPv4, IPv6, and IPv4 through an IPv6 socket. */
const WAYS = [
  { family: 'four', address: RIG_FRONTENDS.four, type: 'udp4' },
  { family: 'six', address: RIG_FRONTENDS.six, type: 'udp6' },
  { family: 'four', address: mapped(RIG_FRONTENDS.four), type: 'udp6' },
] as const;

const backendName = ({ protocol, address, port }: Backend): string =>
  `${protocol} ${address} ${port}`;

/** An entry of mesh_affinity. */
interface Remembered {
  readonly serviceId: number;
  readonly kind: number;
  readonly backendId: number;
  readonly key: Uint8Array;
}

function readAffinity(rig: SocketRig): Remembered[] {
  const { fd, name } = rig.maps.get('mesh_affinity');
  const sizes = { keySize: AFFINITY_KEY.size, valueSize: AFFINITY_VALUE.size };
  const found: Remembered[] = [];
  readMap(fd, { name, ...sizes }, (keys, values, count) => {
    for (let index = 0; index < count; index += 1) {
      const at = index * AFFINITY_KEY.size;
      found.push({
        serviceId: keys.getUint32(at + AFFINITY_KEY.fields.serviceId, true),
        kind: keys.getUint8(at + AFFINITY_KEY.fields.clientKind),
        backendId: values.getUint32(
          index * AFFINITY_VALUE.size + AFFINITY_VALUE.fields.backendId,
          true,
        ),
        key: new Uint8Array(keys.buffer, at, AFFINITY_KEY.size).slice(),
      });
    }
  });
  return found;
}

/** Makes a client's last connection so long ago, in seconds since boot, and to that backend. */
function rewriteAffinity(
  rig: SocketRig,
  key: Uint8Array,
  last: { usedNs: bigint; backendId: number },
): void {
  const { fd } = rig.maps.get('mesh_affinity');
  const values = new Uint8Array(AFFINITY_VALUE.size);
  const view = new DataView(values.buffer);
  view.setBigUint64(AFFINITY_VALUE.fields.usedNs, last.usedNs, true);
  view.setUint32(AFFINITY_VALUE.fields.backendId, last.backendId, true);
  const sizes = { keySize: AFFINITY_KEY.size, valueSize: AFFINITY_VALUE.size };
  updateBatch({ fd, ...sizes }, { keys: key, values }, { count: 1 });
}

async function callTcp(client: SocketClient, address: string): Promise<string> {
  return said(await client.call({ kind: 'tcp', address, port: 80 }));
}

/** Names that answer so many calls, sorted. */
async function callMany(client: SocketClient, address: string, calls: number): Promise<string[]> {
  const names = new Set<string>();
  for (let call = 0; call < calls; call += 1) names.add(await callTcp(client, address));
  return [...names].sort();
}

function translations(rig: SocketRig): TranslatedSocket[] {
  return [...readTranslations(rig.maps.get('mesh_translations'))].flat();
}

test('socket hooks choose backends as Services ask', { skip }, async (t) => {
  await using rig = await openSocketRig();
  const servers = new Map<string, Backend>();
  for (const protocol of ['TCP', 'UDP'] as const) {
    for (const family of FAMILIES) {
      for (const name of ['a', 'b', 'c']) {
        servers.set(`${protocol} ${family} ${name}`, await rig.listen(protocol, family, name));
      }
    }
  }
  const serversOf = (protocol: 'TCP' | 'UDP', family: RigFamily, names = 'abc'): Backend[] =>
    [...names].map((name) => servers.get(`${protocol} ${family} ${name}`) ?? never(name));
  const kernel = openServiceMaps(rig.maps);
  const idOf = (backend: Backend): number =>
    kernel.backends.rows().find((row) => backendName(row.backend) === backendName(backend))?.id ??
    0;

  await t.test('a client with affinity comes back to its backend', async (t) => {
    for (const { family, address } of WAYS) {
      const backends = serversOf('TCP', family);
      rig.give('TCP', family, { backends, affinitySeconds: 60 });
      const [first] = await callMany(rig.pod, address, 1);
      t.strictSame(await callMany(rig.pod, address, 8), [first], address);
      rig.services.apply({ upserts: [], deletes: rig.services.rows() });
    }
  });

  await t.test('node and pod are one client each, whatever socket calls', async (t) => {
    for (const family of FAMILIES) {
      rig.give('TCP', family, { backends: serversOf('TCP', family), affinitySeconds: 60 });
      const address = RIG_FRONTENDS[family];
      const before = new Set(readAffinity(rig).map(({ key }) => key.join()));
      const fresh = (): Remembered[] =>
        readAffinity(rig).filter(({ key }) => !before.has(key.join()));
      await callMany(rig.node, address, 3);
      await callTcp(rig.node, mapped(address));
      t.equal(fresh().length, 1, 'host sockets');
      await callMany(rig.pod, address, 3);
      t.equal(fresh().length, 2, "and the pod's");
      t.ok(
        fresh().every(({ kind }) => kind === 1),
        'by their network namespaces',
      );
    }
  });

  await t.test('affinity ends with its time', async (t) => {
    const [a, b] = serversOf('TCP', 'four', 'ab');
    if (a === undefined || b === undefined) return;
    rig.give('TCP', 'four', { backends: [a, b], affinitySeconds: 60, port: 81 });
    const call = async (): Promise<string> =>
      said(await rig.pod.call({ kind: 'tcp', address: RIG_FRONTENDS.four, port: 81 }));
    await call();
    const service = kernel.slots.rows().find((row) => row.slot === 0 && row.frontend.port === 81);
    const entry = readAffinity(rig).find(({ serviceId }) => serviceId === service?.serviceId);
    if (entry === undefined) throw new Error('the client was not remembered');
    const now = process.hrtime.bigint();
    for (const [name, backend] of [
      ['a', a],
      ['b', b],
    ] as const) {
      rewriteAffinity(rig, entry.key, { usedNs: now - 50_000_000_000n, backendId: idOf(backend) });
      t.equal(await call(), name, 'ten seconds are left');
      t.equal(await call(), name, 'and it was used again');
    }
    const names = new Set<string>();
    for (let again = 0; again < 40; again += 1) {
      rewriteAffinity(rig, entry.key, { usedNs: now - 61_000_000_000n, backendId: idOf(b) });
      names.add(await call());
    }
    t.strictSame([...names].sort(), ['a', 'b'], 'a new choice (one alone in 1 of 5e11 runs)');
  });

  await t.test('affinity leaves a backend that drains or is gone', async (t) => {
    for (const family of FAMILIES) {
      const [a, b] = serversOf('TCP', family, 'ab');
      if (a === undefined || b === undefined) return;
      const address = RIG_FRONTENDS[family];
      rig.give('TCP', family, { backends: [a], affinitySeconds: 60 });
      t.equal(await callTcp(rig.pod, address), 'a');
      rig.give('TCP', family, { backends: [b], draining: [a], affinitySeconds: 60 });
      t.equal(await callTcp(rig.pod, address), 'b', 'a client moves on, as with kube-proxy');
      rig.give('TCP', family, { backends: [a], affinitySeconds: 60 });
      t.equal(await callTcp(rig.pod, address), 'a');
    }
  });

  await t.test('Maglev: the table decides, and all backends are in it', async (t) => {
    for (const { family, address } of WAYS) {
      const backends = serversOf('TCP', family);
      rig.give('TCP', family, { backends, algorithm: 'maglev' });
      const row = kernel.slots
        .rows()
        .find(({ slot, maglevSize }) => slot === 0 && maglevSize === 251);
      const blocks = new Map(
        kernel.blocks
          .rows()
          .filter(({ serviceId }) => serviceId === row?.serviceId)
          .map(({ block, backendIds }) => [block, backendIds]),
      );
      t.strictSame(await callMany(rig.pod, address, 30), ['a', 'b', 'c']);
      await rig.pod.call({ kind: 'tcp', address, port: 80, hold: 'maglev' });
      const [socket] = translations(rig).filter(({ backend }) =>
        backends.some((known) => backendName(known) === backend),
      );
      if (socket === undefined) throw new Error('the socket is not recorded');
      const entry = hashCookie(socket.cookie) % 251;
      const id = blocks.get(Math.floor(entry / MAGLEV_BLOCK_ENTRIES))?.[
        entry % MAGLEV_BLOCK_ENTRIES
      ];
      const expected = backends.find((backend) => idOf(backend) === id);
      t.equal(socket.backend, expected && backendName(expected), address);
      await rig.pod.call({ kind: 'close', socket: 'maglev' });
      rig.services.apply({ upserts: [], deletes: rig.services.rows() });
    }
  });

  await t.test('only rows for this node are taken, only TCP and UDP', async (t) => {
    for (const family of FAMILIES) {
      const [a, b] = serversOf('TCP', family, 'ab');
      if (a === undefined || b === undefined) return;
      const address = RIG_FRONTENDS[family];
      rig.give('TCP', family, { backends: [a], isExternal: true });
      rig.give('TCP', family, { backends: [b], isExternal: true, scope: 'external' });
      t.strictSame(await callMany(rig.pod, address, 10), ['a'], 'the row for outside is not');
      t.strictSame(await callMany(rig.node, address, 10), ['a']);
      rig.services.apply({ upserts: [], deletes: rig.services.rows() });
      // A row of another protocol at the address of a server: its own clients are not sent elsewhere.
      const sctp = { ...b, protocol: 'SCTP' as const };
      const { address: own, port } = a;
      rig.give('TCP', family, { backends: [sctp], protocol: 'SCTP', address: own, port });
      t.equal(
        said(await rig.pod.call({ kind: 'tcp', address: own, port })),
        'a',
        'SCTP is not TCP',
      );
      rig.services.apply({ upserts: [], deletes: rig.services.rows() });
    }
  });

  await t.test('UDP without connect: a draining backend keeps its sockets', async (t) => {
    for (const [index, { family, address, type }] of WAYS.entries()) {
      const [a, b] = serversOf('UDP', family, 'ab');
      if (a === undefined || b === undefined) return;
      const socket = `drain ${index}`;
      const call = async (name: string): Promise<string> =>
        said(await rig.pod.call({ kind: 'udp', socket: name, type, address, port: 80 }));
      rig.give('UDP', family, { backends: [a] });
      t.equal(await call(socket), 'a', address);
      rig.give('UDP', family, { backends: [b], draining: [a] });
      t.equal(await call(socket), 'a', 'it keeps what it has');
      t.equal(await call(`${socket} new`), 'b', 'and gets nothing new');
      rig.give('UDP', family, { backends: [b] });
      t.equal(await call(socket), 'b', 'gone: another one with the next datagram');
      for (const name of [socket, `${socket} new`]) {
        await rig.pod.call({ kind: 'close', socket: name });
      }
    }
  });

  await t.test('UDP: an unconnected socket is not moved by what others lose', async (t) => {
    const [a, b, c] = serversOf('UDP', 'four');
    if (a === undefined || b === undefined || c === undefined) return;
    const call = async (): Promise<string> =>
      said(
        await rig.pod.call({
          kind: 'udp',
          socket: 'stay',
          type: 'udp4',
          address: RIG_FRONTENDS.four,
          port: 80,
        }),
      );
    // The last slot moves into the first one's place: the backend in it is the same.
    rig.give('UDP', 'four', { backends: [c] });
    t.equal(await call(), 'c');
    rig.give('UDP', 'four', { backends: [a, b, c] });
    rig.give('UDP', 'four', { backends: [b, c] });
    rig.give('UDP', 'four', { backends: [c, a] });
    for (let again = 0; again < 10; again += 1) t.equal(await call(), 'c');
    await rig.pod.call({ kind: 'close', socket: 'stay' });
  });

  await t.test('the other side is the frontend, whatever becomes of its backends', async (t) => {
    for (const { family, address, type } of WAYS) {
      const [tcp, otherTcp] = serversOf('TCP', family, 'ab');
      const [udp, otherUdp] = serversOf('UDP', family, 'ab');
      if (!tcp || !otherTcp || !udp || !otherUdp) return;
      rig.give('TCP', family, { backends: [tcp] });
      rig.give('UDP', family, { backends: [udp] });
      await rig.pod.call({ kind: 'tcp', address, port: 80, hold: 'tcp' });
      const datagram = { kind: 'udp', type, address, port: 80 } as const;
      await rig.pod.call({ ...datagram, socket: 'connected', connected: true });
      await rig.pod.call({ ...datagram, socket: 'late', text: 'wait' });
      rig.give('TCP', family, { backends: [otherTcp] });
      rig.give('UDP', family, { backends: [otherUdp] });
      t.strictSame(
        await rig.pod.call({ kind: 'peer', socket: 'tcp' }),
        { address, port: 80, said: 'peer' },
        `${address}: a TCP connection`,
      );
      t.match(
        await rig.pod.call({ kind: 'peer', socket: 'connected' }),
        { address, port: 80 },
        'a connected UDP socket',
      );
      const answer = rig.pod.call({ kind: 'receive', socket: 'late' });
      await rig.answer(family, 'a');
      t.strictSame(await answer, { address, port: 80, said: 'a' }, 'an answer that comes late');
      rig.services.apply({ upserts: [], deletes: rig.services.rows() });
      t.match(
        await rig.pod.call({ kind: 'peer', socket: 'connected' }),
        { address, port: 80 },
        'also when the Service is gone',
      );
      for (const socket of ['tcp', 'connected', 'late']) {
        await rig.pod.call({ kind: 'close', socket });
      }
    }
  });

  await t.test('a socket that is closed leaves nothing behind', async (t) => {
    for (const { family, address, type } of WAYS) {
      rig.give('TCP', family, { backends: serversOf('TCP', family, 'a') });
      rig.give('UDP', family, { backends: serversOf('UDP', family, 'a') });
      const before = new Set(translations(rig).map(({ cookie }) => cookie));
      const fresh = (): string[] =>
        translations(rig)
          .filter(({ cookie }) => !before.has(cookie))
          .map(({ frontend }) => frontend)
          .sort();
      await rig.pod.call({ kind: 'tcp', address, port: 80, hold: 'short' });
      await rig.pod.call({ kind: 'udp', socket: 'u', type, connected: true, address, port: 80 });
      t.equal(fresh().length, 2, address);
      await rig.pod.call({ kind: 'close', socket: 'short' });
      await rig.pod.call({ kind: 'close', socket: 'u' });
      t.strictSame(fresh(), []);
      rig.services.apply({ upserts: [], deletes: rig.services.rows() });
    }
  });
});

/** As hash_cookie() of bpf/lib/services.h. */
function hashCookie(cookie: bigint): number {
  const low = Number(cookie & 0xffffffffn);
  const high = Number(cookie >> 32n);
  return mix(hashWord(hashWord(0, low), high));
}

function hashWord(hash: number, word: number): number {
  return (mix((hash ^ word) >>> 0) + 0x9e3779b9) >>> 0;
}

function mix(value: number): number {
  let mixed = Math.imul(value ^ (value >>> 16), 0x85ebca6b);
  mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2ae35);
  return (mixed ^ (mixed >>> 16)) >>> 0;
}

function never(name: string): never {
  throw new Error(`there is no server ${name}`);
}
