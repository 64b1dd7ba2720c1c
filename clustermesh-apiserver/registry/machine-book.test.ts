import { test } from 'tap';
import { createMemoryStore, type MemoryStore } from '../../mesh/kvstore/memory.ts';
import { createLogger } from '../../mesh/runtime/log.ts';
import { createManualClock } from '../../mesh/testing/manual-clock.ts';
import { parseIpAddress, parseIpPrefix } from '../../mesh/wire/ip.ts';
import type { HealthCheck } from '../convert/health-check.ts';
import type { Machine } from '../convert/machine.ts';
import { createMachineBook, type MachineBook } from './machine-book.ts';
import type { MachineEnrolment } from './machine-enrolment.ts';
import { decodeMachineRecord, MACHINES_PREFIX } from './machine-record.ts';
import type { MachineGreeting } from './machine-visits.ts';

const signal = new AbortController().signal;
const DAY_MS = 86_400_000;

/** A book with a grace time of 60 s over a store, and what it publishes. */
function rig(store: MemoryStore = createMemoryStore()) {
  const clock = createManualClock();
  const published = new Map<string, Machine>();
  const checks: HealthCheck[] = [];
  const book = createMachineBook({
    store,
    clock,
    graceMs: 60_000,
    logger: createLogger('test', { level: 'silent' }),
    publish: (name, machine) => {
      if (machine === undefined) published.delete(name);
      else published.set(name, machine);
    },
    findConflict: (name, addresses) => {
      for (const [other, machine] of published) {
        const taken = addresses.find((address) => machine.addresses.includes(address));
        if (other !== name && taken !== undefined)
          return { field: 'addresses', reason: `${taken} is held by machine ${other}` };
      }
      return undefined;
    },
    ownAddresses: () => [parseIpAddress('192.0.2.1')],
    checksOf: () => checks,
  });
  return { store, clock, book, published, checks, names: () => [...published.keys()].sort() };
}

const enrolment = (name: string, more: Partial<MachineEnrolment> = {}): MachineEnrolment => ({
  name,
  namespace: 'default',
  labels: { app: 'db' },
  addressRanges: [parseIpPrefix('192.0.2.0/24')],
  addresses: ['192.0.2.10'],
  key: { hash: `key-of-${name}`, expiresAt: DAY_MS },
  tokenId: 't1',
  agentVersion: '1',
  ...more,
});
const greeting = (boot: string, run = `run-${boot}`): MachineGreeting => ({
  instanceId: boot,
  runId: run,
  agentVersion: '2',
});
const facts = (...addresses: string[]) => ({ sequence: 1, addresses, boot_id: 'b' });

/** Enrols a machine and opens its session. */
async function join(book: MachineBook, name: string, address: string) {
  const outcome = await book.enrol(enrolment(name, { addresses: [address] }), signal);
  if (outcome.kind !== 'taken') throw new Error(outcome.reason);
  const ended: string[] = [];
  const opening = book.open(name, greeting(`boot-${name}`), (reason) => ended.push(reason));
  if (opening.kind !== 'open') throw new Error(opening.reason);
  const refusal = await opening.session.offer(facts(address), signal);
  return { session: opening.session, refusal, ended };
}

test('a machine is published from its facts on, for the grace time after its session, and stays enrolled', async (t) => {
  const { book, clock, names, published, store } = rig();
  const stopping = new AbortController();
  const running = book.run(stopping.signal);
  t.equal((await book.enrol(enrolment('db'), signal)).kind, 'taken');
  t.same([names(), book.get('db')?.state], [[], 'enrolled'], 'it has said nothing yet');
  const { session, refusal } = await join(book, 'db', '192.0.2.10');
  t.equal(refusal, undefined);
  t.match(published.get('db'), { addresses: ['192.0.2.10'], labels: { app: 'db' } });
  t.match(book.get('db'), { state: 'connected', record: { agentVersion: '2', bootId: 'boot-db' } });
  await clock.advance(600_000);
  t.same(names(), ['db'], 'for as long as it is connected');
  session.close();
  await clock.advance(59_000);
  t.match([names(), book.get('db')?.state], [['db'], 'gone']);
  await clock.advance(3_000);
  t.same(names(), []);
  const kept = await store.get(`${MACHINES_PREFIX}db`);
  const record = decodeMachineRecord(String(kept?.value));
  t.match(record, { addresses: [], labels: { app: 'db' }, tokenId: 't1' });
  const again = book.open('db', greeting('boot-2'), () => undefined);
  t.equal(
    again.kind === 'open' && (await again.session.offer(facts('192.0.2.11'), signal)),
    undefined,
  );
  t.same(published.get('db')?.addresses, ['192.0.2.11'], 'moved to another address');
  stopping.abort();
  await running;
});

test('what a machine claims is judged', async (t) => {
  const { book, names } = rig();
  const { session } = await join(book, 'one', '192.0.2.10');
  const cases: [string, object, object][] = [
    ['another machine holds it', facts('192.0.2.20'), { reason: /held by machine two/ }],
    [
      'outside of its token',
      facts('198.51.100.1'),
      { reason: /outside of what .* 192\.0\.2\.0\/24/ },
    ],
    ["the apiserver's own", facts('192.0.2.1'), { reason: /own apiserver/ }],
    ['loopback', facts('127.0.0.1'), { reason: /loopback/ }],
    ['multicast', facts('224.0.0.5'), { reason: /multicast/ }],
    ['link-local', facts('fe80::1'), { reason: /link-local/ }],
    ['no address', facts('db.example'), { field: 'addresses' }],
    ['no text', { addresses: [7] }, { field: 'addresses.0' }],
    [
      'containers',
      { ...facts('192.0.2.10'), container_cidrs: ['10.0.0.0/24'] },
      { field: 'container_cidrs' },
    ],
    ['a long boot id', { ...facts('192.0.2.10'), boot_id: 'x'.repeat(129) }, { field: 'boot_id' }],
  ];
  await join(book, 'two', '192.0.2.20');
  for (const [what, message, expected] of cases) {
    t.match(await session.offer(message, signal), expected, what);
  }
  t.same(book.get('one')?.record.addresses, ['192.0.2.10'], 'what it said before still counts');
  t.match(book.get('one')?.problems, [/^rejected: boot_id/]);
  t.equal(await session.offer(facts('192.0.2.10', '192.0.2.12'), signal), undefined);
  t.same(book.get('one')?.problems, []);
  t.equal(await session.offer(facts(), signal), undefined, 'it leaves');
  t.same(names(), ['two']);
});

test('two machines that claim an address at the same time do not both get it', async (t) => {
  const { book } = rig();
  for (const name of ['one', 'two']) await book.enrol(enrolment(name), signal);
  const answers = await Promise.all(
    ['one', 'two'].map((name) => {
      const opening = book.open(name, greeting(name), () => undefined);
      return opening.kind === 'open'
        ? opening.session.offer(facts('192.0.2.10'), signal)
        : 'refused';
    }),
  );
  t.match(answers, [undefined, { reason: /held by machine one/ }]);
});

test('who may enrol', async (t) => {
  const { book } = rig();
  t.match(await book.enrol(enrolment('Db'), signal), { kind: 'refused', field: 'machine_name' });
  t.match(await book.enrol(enrolment('x'.repeat(64)), signal), { kind: 'refused' });
  const outside = enrolment('db', { addresses: ['198.51.100.1'] });
  t.match(await book.enrol(outside, signal), { kind: 'refused', field: 'addresses' });
  t.equal((await book.enrol(enrolment('db'), signal)).kind, 'taken');
  t.equal((await book.enrol(enrolment('db'), signal)).kind, 'taken', 'a lost answer');
  const stranger = enrolment('db', { key: { hash: 'other', expiresAt: DAY_MS } });
  t.match(await book.enrol(stranger, signal), { kind: 'refused', reason: /vm remove db/ });
});

test('a machine that was removed is cut, believed no more, and its name can be had anew', async (t) => {
  const { book, names, clock } = rig();
  const heard: string[] = [];
  book.trust.onChange(() => heard.push('trust'));
  const judge = (key: string): string | undefined => book.trust.judge('machine-db', () => key);
  t.equal(judge('key-of-db'), 'unknown-machine', 'before it enrols');
  const { session, ended } = await join(book, 'db', '192.0.2.10');
  await book.renew('db', { hash: 'second', expiresAt: DAY_MS }, signal);
  t.same([judge('key-of-db'), judge('second'), heard.splice(0)], [undefined, undefined, ['trust']]);
  t.equal((await book.remove('db', signal)).kind, 'taken');
  t.match([names(), book.get('db')?.state, judge('second')], [[], 'removed', 'revoked']);
  t.match(ended, [/was removed/]);
  t.same(heard, ['trust']);
  t.match(await session.offer(facts('192.0.2.10'), signal), { reason: /another session|removed/ });
  t.match(
    book.open('db', greeting('b'), () => undefined),
    { kind: 'refused', reason: /removed/ },
  );
  t.match(await book.label('db', { set: {}, remove: [] }, signal), { kind: 'refused' });
  t.match(await book.remove('nobody', signal), { kind: 'refused', reason: /not known/ });

  const fresh = enrolment('db', {
    key: { hash: 'third', expiresAt: DAY_MS },
    labels: { app: 'x' },
  });
  t.equal((await book.enrol(fresh, signal)).kind, 'taken');
  t.same(
    [judge('key-of-db'), judge('second'), judge('third')],
    ['revoked', 'revoked', undefined],
    'who had the name before is not who has it now',
  );
  t.same(book.get('db')?.record.labels, { app: 'x' });

  await book.remove('db', signal);
  const stopping = new AbortController();
  const running = book.run(stopping.signal);
  await clock.advance(5_000);
  t.equal(book.get('db')?.state, 'removed', 'kept in mind');
  stopping.abort();
  await running;
});

test('labels are the cluster’s to change', async (t) => {
  const { book, published } = rig();
  await join(book, 'db', '192.0.2.10');
  const outcome = await book.label('db', { set: { tier: 'gold' }, remove: ['app'] }, signal);
  t.equal(outcome.kind, 'taken');
  t.same(published.get('db')?.labels, { tier: 'gold' });
});

test('a clone is refused loudly, a machine that crashed and came back is not', async (t) => {
  const { book, clock } = rig();
  const { session, ended } = await join(book, 'db', '192.0.2.10');
  const other = (): { kind: string; reason?: string } =>
    book.open('db', greeting('boot-other'), () => undefined);
  t.match(other(), { kind: 'wait', reason: /another boot/ });
  await clock.advance(10_000);
  t.match(other(), { kind: 'wait' });
  t.same(book.get('db')?.problems, [], 'it may be the same machine after a crash');
  await clock.advance(11_000);
  t.match(other(), { kind: 'refused', reason: /^cloned: another machine is alive as db/ });
  t.match(book.get('db')?.problems, [/^cloned: another machine \(boot boot-other\)/]);
  t.same([ended, book.get('db')?.state], [[], 'connected'], 'the one that was first stays');
  await clock.advance(700_000);
  t.same(book.get('db')?.problems, []);

  t.match(
    book.open('db', greeting('boot-3'), () => undefined),
    { kind: 'wait' },
  );
  session.close();
  t.equal(book.open('db', greeting('boot-3'), () => undefined).kind, 'open', 'the first was dead');
});

test('the same boot, or the same process, replaces its own session', async (t) => {
  const { book } = rig();
  const { session, ended } = await join(book, 'db', '192.0.2.10');
  t.equal(book.open('db', greeting('boot-db', 'other-run'), () => undefined).kind, 'open');
  t.match(ended, [/another session/]);
  t.equal(book.open('db', greeting('other-boot', 'other-run'), () => undefined).kind, 'open');
  session.close();
  t.equal(book.get('db')?.state, 'connected', 'the end of the one before means nothing');
});

test('checks that a machine reports', async (t) => {
  const { book, published, checks } = rig();
  const { session } = await join(book, 'db', '192.0.2.10');
  const check = (name: string): HealthCheck => ({
    check: name,
    kind: 'tcp',
    port: 1,
    path: '',
    periodMs: 1,
    timeoutMs: 1,
    failures: 1,
  });
  checks.push(check('tcp:1'), check('tcp:2'));
  const healthy = (): string[] => [...(published.get('db')?.healthy ?? [])];
  const result = (name: string, isHealthy: boolean) => ({
    check: name,
    healthy: isHealthy,
    reason: isHealthy ? '' : 'refused',
  });
  await session.takeHealth({ results: [result('tcp:1', true), result('tcp:9', true)] }, signal);
  t.same(healthy(), ['tcp:1'], 'what nobody asked for counts for nothing');
  await session.takeHealth({ results: [result('tcp:2', true)] }, signal);
  t.same(healthy(), ['tcp:1', 'tcp:2'], 'what was said before still counts');
  await session.takeHealth({ results: [result('tcp:1', false)] }, signal);
  t.same(healthy(), ['tcp:2']);
  t.same(
    [...(book.get('db')?.failingChecks ?? [])],
    [['tcp:1', { healthy: false, reason: 'refused' }]],
  );
  await session.takeHealth({ results: 'all fine' }, signal);
  t.same(healthy(), ['tcp:2'], 'what cannot be read changes nothing');
});

test('after a restart a machine has the grace time to come back, whatever the clock says', async (t) => {
  const { store, book } = rig();
  await join(book, 'db', '192.0.2.10');
  const next = rig(store);
  await next.book.load(signal);
  t.same(next.names(), ['db']);
  const stopping = new AbortController();
  const running = next.book.run(stopping.signal);
  await next.clock.advance(59_000);
  t.same(next.names(), ['db']);
  t.equal(next.book.open('db', greeting('boot-db'), () => undefined).kind, 'open');
  await next.clock.advance(120_000);
  t.same(next.names(), ['db']);
  stopping.abort();
  await running;
});

test('a machine whose registry died before anybody else saw its session goes after the grace time', async (t) => {
  const { store, book } = rig();
  await join(book, 'db', '192.0.2.10');
  const other = rig(store);
  await other.book.enrol(enrolment('db'), signal);
  t.match([other.names(), other.book.get('db')?.record.bootId], [['db'], 'boot-db']);
  const stopping = new AbortController();
  const running = other.book.run(stopping.signal);
  await other.clock.advance(70_000);
  t.same(other.names(), []);
  stopping.abort();
  await running;
});

test('a machine that nothing is known of is refused with the reason', async (t) => {
  const { book } = rig();
  t.match(
    book.open('db', greeting('b'), () => undefined),
    {
      kind: 'refused',
      reason: /enrol it with a new token, or restore a backup/,
    },
  );
  t.match(await book.renew('db', { hash: 'k', expiresAt: 1 }, signal), { kind: 'refused' });
});

test('a record that cannot be read is left alone', async (t) => {
  const { book, store, names } = rig();
  await store.put(`${MACHINES_PREFIX}db`, '{"schema":9}');
  await book.load(signal);
  t.same(names(), []);
  await t.rejects(book.enrol(enrolment('db'), signal), { code: 'invalid' });
  t.equal(String((await store.get(`${MACHINES_PREFIX}db`))?.value), '{"schema":9}');
});
