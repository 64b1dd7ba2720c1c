import { test } from 'tap';
import { localIdentity, parseNumericIdentity } from '../../mesh/wire/ids.ts';
import { parseIpAddress, parseIpPrefix } from '../../mesh/wire/ip.ts';
import type { IpcacheEntry } from '../datapath/desired.ts';
import { createAddressGate, GATE_MS } from './address-gate.ts';

const PREFIX = parseIpPrefix('10.2.0.7/32');
const [A, B, C] = [0x20101, 0x20102, 0x20103];
const row = (identity: number, fields: Partial<IpcacheEntry> = {}): IpcacheEntry => ({
  prefix: PREFIX,
  identity: parseNumericIdentity(identity),
  tunnelEndpoint: parseIpAddress('192.0.2.2'),
  clusterId: 2,
  ...fields,
});

test('createAddressGate() keeps a former identity until the new one is known', (t) => {
  const known = new Set([A]);
  const gate = createAddressGate((identity) => known.has(identity));
  const elsewhere = { tunnelEndpoint: parseIpAddress('192.0.2.3') };
  t.equal(gate.isOpenTo(row(A)), true);
  t.equal(gate.isOpenTo(row(6)), true, 'a node');
  t.equal(gate.isOpenTo(row(B)), false);
  t.strictSame(gate.pass(row(A), undefined, 0), row(A), 'the first one');
  t.strictSame(gate.pass(row(B), row(A), 0), row(A));
  t.equal(gate.isOpenTo(row(A)), false, 'somebody waits there, and waits no more then');
  t.strictSame(gate.pass(row(B, elsewhere), row(A), 1), row(A, elsewhere), 'wherever it is');
  t.strictSame(gate.takeDue(1), []);
  gate.open(C);
  t.strictSame(gate.takeDue(1), [], 'another one is known');
  known.add(B);
  gate.open(B);
  t.strictSame(gate.takeDue(1), [PREFIX]);
  t.strictSame(gate.pass(row(B), row(A), 1), row(B));
  t.equal(gate.nextAt(), undefined);
  t.end();
});

test('createAddressGate() waits for a while, and not for what tells nothing', (t) => {
  const gate = createAddressGate((identity) => identity === A);
  gate.pass(row(B), row(A), 5);
  t.strictSame(gate.pass(row(B), row(A), 100), row(A), 'asked again');
  t.equal(gate.nextAt(), 5 + GATE_MS);
  t.strictSame(gate.takeDue(5 + GATE_MS), [PREFIX]);
  t.strictSame(gate.pass(row(B), row(A), 5 + GATE_MS), row(B), 'long enough');
  t.strictSame(gate.pass(row(B), undefined, 0), row(B), 'nobody had it');
  t.strictSame(gate.pass(row(B), row(A, { clusterId: 3 }), 0), row(B), 'another cluster had it');
  t.strictSame(gate.pass(row(6), row(A), 0), row(6), 'a node has it');
  t.strictSame(gate.pass(row(B), row(6), 0), row(B), 'a node had it');
  const own = { ...row(A), identity: localIdentity('cidr', 1) };
  t.strictSame(gate.pass(own, row(A), 0), own, 'identities of this node');
  t.equal(gate.nextAt(), undefined);
  gate.pass(row(B), row(A), 0);
  gate.forget(PREFIX);
  t.strictSame(gate.takeDue(GATE_MS), [], 'nobody has it any more');
  t.end();
});
