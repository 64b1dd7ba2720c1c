import { test } from 'tap';
import { createMemoryStore } from '../../mesh/kvstore/memory.ts';
import { createLogger } from '../../mesh/runtime/log.ts';
import { createManualClock } from '../../mesh/testing/manual-clock.ts';
import { parseIpAddress } from '../../mesh/wire/ip.ts';
import type { Machine } from '../convert/machine.ts';
import { createMachineBook } from './machine-book.ts';
import { decodeMachineRecord, MACHINES_PREFIX } from './machine-record.ts';

const signal = new AbortController().signal;
const POD = parseIpAddress('10.1.0.5');

/** Machines `db` and `web` that have a session each, and what is published of them. */
async function openRig() {
  const store = createMemoryStore();
  const clock = createManualClock();
  const published = new Map<string, Machine | undefined>();
  const book = createMachineBook({
    store,
    publish: (name, machine) => published.set(name, machine),
    findConflict: (_name, addresses) =>
      addresses.includes(POD) ? { field: 'addresses', reason: 'is held by a pod' } : undefined,
    ownAddresses: () => [parseIpAddress('192.0.2.250')],
    checksOf: () => [],
    graceMs: 60_000,
    clock,
    logger: createLogger('test', { level: 'silent' }),
  });
  await book.load(signal);
  for (const [name, address] of [
    ['db', '192.0.2.10'],
    ['web', '192.0.2.20'],
  ] as const) {
    await book.enrol(
      {
        name,
        namespace: 'shop',
        labels: { app: name },
        addressRanges: [],
        addresses: [address],
        key: { hash: `key-of-${name}`, expiresAt: 86_400_000 },
        tokenId: 't1',
        agentVersion: '1',
      },
      signal,
    );
    const greeting = { instanceId: `boot-${name}`, runId: `run-${name}`, agentVersion: '1' };
    const opening = book.open(name, greeting, () => undefined);
    if (opening.kind !== 'open') throw new Error(opening.reason);
    await opening.session.offer({ sequence: 1, addresses: [address], boot_id: 'b' }, signal);
  }
  return { store, book, published };
}

const app = { name: 'app', addresses: ['172.18.0.2'], labels: { app: 'app' } };

test('endpoints behind a machine are published with it, and kept', async (t) => {
  const { book, published, store } = await openRig();
  t.match(await book.setEndpoint('db', app, signal), { kind: 'taken' });
  t.match(published.get('db')?.endpoints, [app]);
  const kept = await store.get(`${MACHINES_PREFIX}db`);
  t.match(decodeMachineRecord(String(kept?.value)).endpoints, [app], 'over restarts');
  t.match(await book.setEndpoint('db', { ...app, labels: {} }, signal), { kind: 'taken' });
  t.same(published.get('db')?.endpoints, [{ ...app, labels: {} }], 'in place of the one before');
  t.match(await book.setEndpoint('db', { ...app, name: 'b' }, signal), {
    kind: 'refused',
    reason: '172.18.0.2 is held by machine db/app',
  });
  t.match(await book.removeEndpoint('db', 'app', signal), { kind: 'taken' });
  t.same(published.get('db')?.endpoints ?? [], []);
  await book.setEndpoint('db', app, signal);
  await book.remove('db', signal);
  t.match(await book.setEndpoint('web', app, signal), { kind: 'taken' }, 'free again');
});

test('an endpoint that cannot be is refused, and what there was stays', async (t) => {
  const { book, published } = await openRig();
  await book.setEndpoint('db', app, signal);
  const many = Object.fromEntries(Array.from({ length: 17 }, (_, index) => [`l${index}`, '']));
  const refused: readonly [string, unknown, RegExp][] = [
    ['nothing', undefined, /none is given/],
    ['no name', { ...app, name: '' }, /is no name of an endpoint/],
    ['a path for a name', { ...app, name: '../x' }, /is no name of an endpoint/],
    ['no address', { ...app, addresses: [] }, /0 are given, expected 1 to 4/],
    ['no address at all', { ...app, addresses: ['x'] }, /x/],
    ['link-local', { ...app, addresses: ['fe80::1'] }, /is a link-local address/],
    ['of a pod', { ...app, addresses: [POD] }, /held by a pod/],
    ['of the machine', { ...app, addresses: ['192.0.2.10'] }, /held by machine db$/],
    ['of another machine', { ...app, addresses: ['192.0.2.20'] }, /held by machine web$/],
    ['of the apiserver', { ...app, addresses: ['192.0.2.250'] }, /cluster's own apiserver/],
    [
      'a forged label',
      { ...app, labels: { 'io.cilium.k8s.policy.cluster': 'x' } },
      /cluster to say/,
    ],
    ['too many labels', { ...app, labels: many }, /at most 16, not 17/],
  ];
  for (const [what, endpoint, reason] of refused) {
    t.match(await book.setEndpoint('db', endpoint, signal), { kind: 'refused', reason }, what);
  }
  t.match(await book.setEndpoint('web', app, signal), {
    reason: '172.18.0.2 is held by machine db/app',
  });
  const free = { name: 'app', addresses: ['172.18.3.1'] };
  t.match(await book.setEndpoint('nobody', free, signal), { reason: /nobody is not known/ });
  t.match(await book.removeEndpoint('db', 'x', signal), { reason: /has no endpoint "x"/ });
  for (let index = 0; index < 99; index += 1) {
    const one = { name: `n${index}`, addresses: [`172.18.1.${index + 1}`] };
    await book.setEndpoint('db', one, signal);
  }
  const more = { name: 'more', addresses: ['172.18.2.1'] };
  t.match(await book.setEndpoint('db', more, signal), { reason: /has 100 endpoints/ });
  t.equal(published.get('db')?.endpoints?.length, 100);
});
