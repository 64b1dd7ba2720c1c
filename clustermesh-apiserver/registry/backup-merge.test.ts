import { test } from 'tap';
import { parseClusterId } from '../../mesh/wire/ids.ts';
import { parseIpAddress } from '../../mesh/wire/ip.ts';
import { type MergeOptions, mergeBackup } from './backup-merge.ts';
import { decodeMachineRecord, encodeMachineRecord, type MachineRecord } from './machine-record.ts';
import { decodeToken, encodeToken, encodeTokenUse, type TokenRecord } from './token-record.ts';

const NOW = 1_800_000_000_000;
const HOUR = 3_600_000;
const TOKEN = 'isthmus/registry/tokens/0123456789abcdef0123';
const MACHINE = 'isthmus/registry/machines/vm1';
const IDENTITY = 'isthmus/registry/identities/k8s:app=web;';

const token = (change: Partial<TokenRecord> = {}): string =>
  encodeToken({
    id: '0123456789abcdef0123',
    hash: '0'.repeat(64),
    createdAt: NOW - HOUR,
    createdBy: 'admin-alpha',
    expiresAt: NOW + HOUR,
    uses: 2,
    usesLeft: 1,
    names: 'vm*',
    namespace: 'default',
    labels: {},
    addressRanges: [],
    revoked: undefined,
    ...change,
  });
const key = (hash: string) => ({ hash, expiresAt: NOW + HOUR });
const machine = (change: Partial<MachineRecord> = {}): string =>
  encodeMachineRecord({
    name: 'vm1',
    namespace: 'default',
    labels: { app: 'db' },
    addressRanges: [],
    publicKeyHash: 'a',
    keys: [key('a')],
    revokedKeys: [],
    tokenId: 't1',
    enrolledAt: NOW - HOUR,
    addresses: [parseIpAddress('192.0.2.7')],
    bootId: 'b1',
    agentVersion: '0.1.0',
    checks: new Map(),
    removedAt: undefined,
    ...change,
  });
const merge = (name: string, value: string, present?: string) => {
  const options: MergeOptions = {
    present,
    now: NOW,
    clusterId: parseClusterId(2, 255),
    maxConnectedClusters: 255,
  };
  return mergeBackup({ key: name, value }, options);
};
const tokenOf = (value: string, present?: string): TokenRecord | undefined => {
  const merged = merge(TOKEN, value, present);
  return merged.kind === 'write' ? decodeToken(merged.value) : undefined;
};
const machineOf = (value: string, present?: string): MachineRecord | undefined => {
  const merged = merge(MACHINE, value, present);
  return merged.kind === 'write' ? decodeMachineRecord(merged.value) : undefined;
};

test('a token that could have been used is void after a restore', async (t) => {
  t.match(merge(TOKEN, token()), { kind: 'write', voidsToken: true });
  t.same(tokenOf(token())?.revoked, { at: NOW, by: 'restore' });
  for (const over of [{ usesLeft: 0 }, { expiresAt: NOW - 1 }]) {
    t.match(merge(TOKEN, token(over)), { kind: 'write', voidsToken: false });
    t.equal(tokenOf(token(over))?.revoked, undefined);
  }
  const revoked = { at: NOW - 5, by: 'admin-alpha' };
  t.same(tokenOf(token({ revoked }))?.revoked, revoked);
});

test('of a token that is there, what either side has taken away is gone', async (t) => {
  const revoked = { at: NOW - 5, by: 'admin-alpha' };
  t.equal(merge(TOKEN, token(), token()).kind, 'present');
  t.equal(merge(TOKEN, token(), token({ revoked })).kind, 'present');
  t.same(tokenOf(token({ revoked }), token())?.revoked, revoked);
  t.equal(tokenOf(token({ usesLeft: 0 }), token({ usesLeft: 2 }))?.usesLeft, 0);
  t.equal(merge(TOKEN, token({ usesLeft: 2 }), token({ usesLeft: 0 })).kind, 'present');
});

test('a machine comes back as one that is away', async (t) => {
  const restored = machineOf(machine());
  t.match(restored, { name: 'vm1', labels: { app: 'db' }, keys: [key('a')] });
  t.same(restored?.addresses, [], 'whether its addresses still hold it says itself');
  t.equal(merge(MACHINE, machine({ labels: {} }), machine()).kind, 'present', 'labels are ours');
  t.equal(machineOf(machine({ removedAt: NOW - 1 }))?.removedAt, NOW - 1);
});

test('a machine that was removed is removed, whichever side knows', async (t) => {
  const removedAt = NOW - 1;
  t.equal(machineOf(machine({ removedAt }), machine())?.removedAt, removedAt);
  t.same(machineOf(machine({ removedAt }), machine())?.addresses, []);
  t.equal(merge(MACHINE, machine(), machine({ removedAt })).kind, 'present');
  // Enrolled anew since: the one of now stays, the one of then may not come back.
  const anew = machine({ publicKeyHash: 'b', keys: [key('b')] });
  const merged = machineOf(machine({ removedAt }), anew);
  t.match(merged, { publicKeyHash: 'b', removedAt: undefined, revokedKeys: [key('a')] });
  t.equal(merged?.addresses.length, 1);
  // What is there comes from an older backup: there the one of then is not removed yet.
  const later = machine({ publicKeyHash: 'b', keys: [key('b')], revokedKeys: [key('a')] });
  t.match(machineOf(later, machine()), { publicKeyHash: 'b', revokedKeys: [key('a')] });
  // Renewed since: the same machine.
  const renewed = machine({ publicKeyHash: 'c', keys: [key('a'), key('c')] });
  t.equal(machineOf(machine({ removedAt }), renewed)?.removedAt, removedAt);
  const gone = machine({ revokedKeys: [{ hash: 'z', expiresAt: NOW - 1 }] });
  t.equal(merge(MACHINE, gone, machine()).kind, 'present', 'of keys that ran out nothing is kept');
});

test('numbers of identities are those of this cluster, and never taken from anybody', async (t) => {
  t.match(merge(IDENTITY, '131400'), { kind: 'write', value: '131400' });
  t.equal(merge(IDENTITY, '131400', '131401').kind, 'present');
  for (const wrong of ['65900', '131072', '196608', '-1', '007', 'x', '']) {
    t.equal(merge(IDENTITY, wrong).kind, 'refused', wrong);
  }
});

test('what is no part of a backup is refused', async (t) => {
  const use = encodeTokenUse({ machine: 'vm1', keyHash: 'a', at: 1, from: '192.0.2.1' });
  t.equal(merge('isthmus/registry/token-uses/t/vm1', use).kind, 'write');
  t.equal(merge('isthmus/registry/token-uses/t/vm1', use, use).kind, 'present');
  const cases: readonly [string, string, string?][] = [
    ['isthmus/registry/token-uses/t/vm1', '{}'],
    [TOKEN, '{}'],
    ['isthmus/registry/tokens/another', token()],
    [TOKEN, token(), 'damaged'],
    [MACHINE, 'damaged'],
    ['isthmus/registry/machines/vm2', machine()],
    [MACHINE, machine(), 'damaged'],
    ['cilium/state/ip/v1/default/10.0.0.1', '{}'],
    ['isthmus/registry/nodes/n1', '{}'],
  ];
  for (const [name, value, present] of cases) {
    t.equal(merge(name, value, present).kind, 'refused', `${name} ${value}`);
  }
});
