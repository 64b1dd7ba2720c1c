import { test } from 'tap';
import type { MeshKind } from '../../mesh/remote/cluster-sink.ts';
import { parseClusterName } from '../../mesh/wire/ids.ts';
import { createCompleteness } from './completeness.ts';

const KINDS: MeshKind[] = ['nodes', 'ips'];
const beta = parseClusterName('beta');
const gamma = parseClusterName('gamma');

test('a cluster is outstanding until it has synced every kind asked for', async (t) => {
  const record = createCompleteness(1);
  record.setPeers(new Map([[beta, 2]]));
  t.ok(record.isOutstanding(2, KINDS));
  record.synced(2, 'nodes');
  t.ok(record.isOutstanding(2, KINDS));
  record.synced(2, 'ips');
  t.notOk(record.isOutstanding(2, KINDS));
});

test('before the peers are known, anything could be wanted', async (t) => {
  const record = createCompleteness(1);
  t.ok(record.isOutstanding(2, KINDS));
  record.setPeers(new Map());
  t.notOk(record.isOutstanding(2, KINDS), 'nobody is called that');
});

test('a peer whose id is not known yet could be any cluster that no other peer is', async (t) => {
  const record = createCompleteness(1);
  record.setPeers(
    new Map([
      [beta, 2],
      [gamma, undefined],
    ]),
  );
  for (const kind of KINDS) record.synced(2, kind);
  t.notOk(record.isOutstanding(2, KINDS));
  t.ok(record.isOutstanding(3, KINDS));
  record.setPeers(
    new Map([
      [beta, 2],
      [gamma, 4],
    ]),
  );
  t.notOk(record.isOutstanding(3, KINDS));
  t.ok(record.isOutstanding(4, KINDS));
});

test('one peer that never completes holds up nobody else', async (t) => {
  const record = createCompleteness(1);
  record.setPeers(
    new Map([
      [beta, 2],
      [gamma, 3],
    ]),
  );
  for (const kind of KINDS) record.synced(3, kind);
  t.ok(record.isOutstanding(2, KINDS));
  t.notOk(record.isOutstanding(3, KINDS));
});

test('rows of this node wait for the own cluster, which needs no file', async (t) => {
  const record = createCompleteness(1);
  record.setPeers(new Map());
  t.ok(record.isOutstanding(0, KINDS));
  t.ok(record.isOutstanding(1, KINDS));
  for (const kind of KINDS) record.synced(1, kind);
  t.notOk(record.isOutstanding(0, KINDS));
});

test('a cluster that left has to sync anew', async (t) => {
  const record = createCompleteness(1);
  record.setPeers(new Map([[beta, 2]]));
  for (const kind of KINDS) record.synced(2, kind);
  record.removed(2);
  t.ok(record.isOutstanding(2, KINDS));
});
