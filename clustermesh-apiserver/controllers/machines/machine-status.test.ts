import { test } from 'tap';
import { parseIpAddress, parseIpPrefix } from '../../../mesh/wire/ip.ts';
import type { MachineReport } from '../../registry/machine-book.ts';
import { parseKubernetesObject } from '../kubernetes-object.ts';
import { type KnownMachine, machineStatus } from './machine-status.ts';
import { FINALIZER, MADE_HERE, readMeshMachine } from './mesh-machine.ts';

const NOW = Date.UTC(2026, 0, 2);
const HOUR_MS = 3_600_000;

function object(more: object = {}) {
  const metadata = { name: 'db', namespace: 'shop', uid: 'u', resourceVersion: '1', generation: 3 };
  return readMeshMachine(parseKubernetesObject({ metadata, ...more }));
}

function report(more: Partial<MachineReport> = {}): MachineReport {
  return {
    record: {
      name: 'db',
      namespace: 'shop',
      labels: { app: 'db' },
      addressRanges: [parseIpPrefix('192.0.2.0/24')],
      publicKeyHash: 'b',
      keys: [
        { hash: 'b', expiresAt: NOW + 2 * HOUR_MS },
        { hash: 'a', expiresAt: NOW + HOUR_MS },
      ],
      revokedKeys: [],
      tokenId: 't1',
      enrolledAt: NOW - 2 * HOUR_MS,
      addresses: [parseIpAddress('192.0.2.10')],
      bootId: 'boot',
      agentVersion: '0.1.0',
      checks: new Map(),
      removedAt: undefined,
    },
    state: 'connected',
    forMs: HOUR_MS,
    problems: [],
    failingChecks: new Map(),
    ...more,
  };
}

function known(more: Partial<MachineReport> = {}): KnownMachine {
  return { kind: 'known', report: report(more), labels: { kind: 'applied' } };
}

/** `Ready=False/Away` for each condition. */
function conditionsOf(status: Readonly<Record<string, unknown>>): string[] {
  const conditions = status.conditions as { type: string; status: string; reason: string }[];
  return conditions.map(({ type, status: is, reason }) => `${type}=${is}/${reason}`);
}

const STATES: readonly [what: string, KnownMachine, state: string, ready: string][] = [
  ['a machine with a session', known(), 'Connected', 'Ready=True/Connected'],
  ['one at another replica', known({ state: 'elsewhere' }), 'Connected', 'Ready=True/Connected'],
  ['one that was never there', known({ state: 'enrolled' }), 'Enrolled', 'Ready=False/NoSession'],
  ['one that is away', known({ state: 'gone' }), 'Away', 'Ready=False/Away'],
  ['one that was removed', known({ state: 'removed' }), 'Removed', 'Ready=False/Removed'],
  ['one that has a clone', known({ problems: ['cloned: x'] }), 'Connected', 'Ready=False/Problem'],
  ['a name of another namespace', { kind: 'elsewhere' }, 'NotEnrolled', 'Ready=False/NameTaken'],
  ['nobody', { kind: 'unknown' }, 'NotEnrolled', 'Ready=False/NotEnrolled'],
];

for (const [what, machine, state, ready] of STATES) {
  test(`machineStatus() of ${what}`, async (t) => {
    const status = machineStatus(object(), machine, { now: NOW });
    t.equal(status.state, state);
    t.equal(conditionsOf(status)[0], ready);
    t.equal(status.observedGeneration, 3);
  });
}

test('machineStatus() has the end of the newest certificate, and since when it is so', async (t) => {
  const status = machineStatus(object(), known(), { now: NOW });
  t.match(status, {
    since: '2026-01-01T23:00:00Z',
    certificateExpiresAt: '2026-01-02T02:00:00Z',
    enrolledAt: '2026-01-01T22:00:00Z',
    addresses: ['192.0.2.10'],
    addressRanges: ['192.0.2.0/24'],
    agentVersion: '0.1.0',
    tokenId: 't1',
  });
  const before = object({ status: { state: 'Connected', since: '2025-12-01T00:00:00Z' } });
  t.equal(machineStatus(before, known(), { now: NOW }).since, '2025-12-01T00:00:00Z', 'as before');
  t.equal(machineStatus(before, known({ state: 'gone' }), { now: NOW }).since, status.since);
});

test('machineStatus() tells of checks and labels', async (t) => {
  const standing = { healthy: false, reason: 'refused' };
  const checks = new Map([['tcp:5432', standing]]);
  const { record } = report();
  const failing = machineStatus(
    object(),
    {
      kind: 'known',
      report: report({ record: { ...record, checks }, failingChecks: checks }),
      labels: { kind: 'refused', reason: 'no label' },
    },
    { now: NOW },
  );
  t.strictSame(failing.checks, [{ check: 'tcp:5432', ...standing }]);
  t.strictSame(conditionsOf(failing).slice(1), [
    'LabelsApplied=False/Refused',
    'ChecksPassed=False/Failing',
  ]);
  const passed = new Map([['tcp:5432', { healthy: true, reason: '' }]]);
  const good = known({ record: { ...record, checks: passed } });
  t.equal(conditionsOf(machineStatus(object(), good, { now: NOW }))[2], 'ChecksPassed=True/Passed');
});

test('machineStatus() says the same again while nothing has changed', async (t) => {
  const clone = (seconds: number) =>
    known({ problems: [`cloned: another, ${seconds} s ago for the last time`] });
  const first = machineStatus(object(), clone(1), { now: NOW });
  const later = machineStatus(object({ status: first }), clone(9), { now: NOW + HOUR_MS });
  t.strictSame(later.conditions, first.conditions);
});

test('readMeshMachine() takes what people may have written', async (t) => {
  t.match(object(), { labels: undefined, finalizers: [], isOurs: false, state: '' });
  t.match(object({ spec: null, status: 'x' }), { labels: undefined, conditions: [] });
  t.strictSame(object({ spec: { labels: { app: 'db' } } }).labels, { app: 'db' });
  const metadata = {
    ...{ name: 'db', namespace: 'shop', uid: 'u', resourceVersion: '1' },
    ...{ labels: MADE_HERE, finalizers: [FINALIZER] },
  };
  t.match(object({ metadata }), { isOurs: true, finalizers: [FINALIZER], generation: 0 });
});
